"""Products: the same numbers with another summand, low ranks of several layers, and weights of an adapter's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sartor import hardware
from sartor.adapters.changes import LowRank, Scale, Shift, Weight
from sartor.errors import ModelError
from sartor.generate.batch.products import (
    OneDnn,
    OurLow,
    Ours,
    Own,
    Product,
    Torch,
    TorchLow,
    product_of,
    scales_input,
)
from sartor.ops.product import products


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [product_of, Torch])
def test_a_product_plus_something_is_rounded_once(make: Callable[..., Product], dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, other = (torch.randn(*size).to(dtype) for size in ((50, 64), (32, 64), (50, 32)))
    bias_N = torch.randn(32).to(dtype) if bias else None
    product = make(weight, bias_N)
    exact = x.float() @ weight.float().t() + (0.0 if bias_N is None else bias_N.float())
    assert (product(x).float() - exact).norm() < (0.01 if dtype == torch.bfloat16 else 1e-6) * exact.norm()
    summed, twice = product.plus(x, other).float(), (product(x) + other).float()
    exact = exact + other.float()
    assert (summed - exact).norm() <= (twice - exact).norm() + 1e-6 * exact.norm()


@pytest.mark.parametrize("amd", [False, True])
def test_whose_kernel_multiplies_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch, amd: bool) -> None:
    monkeypatch.setattr(hardware, "is_amd", lambda: amd)
    products.cache_clear()
    x, bias_N = torch.randn(2, 3, 64), torch.randn(48)
    others = OneDnn if torch.backends.mkldnn.is_available() else Torch  # type: ignore[no-untyped-call]
    for num_outputs, wanted in ((48, Ours if amd else others), (47, others)):
        weight = torch.randn(num_outputs, 64)
        product = product_of(weight, bias_N[:num_outputs])
        assert type(product) is wanted
        torch.testing.assert_close(product(x), nn.functional.linear(x, weight, bias_N[:num_outputs]))
        assert product(x[:, :0]).shape == (2, 0, num_outputs)
    products.cache_clear()


@pytest.mark.parametrize(("widths", "ours"), [((4, 6), False), ((32, 16), True)])
def test_low_ranks_of_several_layers_are_added_side_by_side(
    widths: tuple[int, int], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks together are no multiple of what the kernel takes: it is given zeros."""
    monkeypatch.setattr(hardware, "is_amd", lambda: True)
    products.cache_clear()
    torch.manual_seed(0)
    layers = {name: nn.Linear(8, width) for name, width in zip(("one", "two"), widths, strict=True)}
    sizes = ((2, widths[0]), (3, widths[1]), (1, widths[1]))
    first, second, third = (LowRank(torch.randn(r, 8), torch.randn(n, r)) for r, n in sizes)
    own = Own(layers, {"one": (first,), "two": (second, third)})
    assert type(own._low) is (OurLow if ours else TorchLow)
    around = torch.ones(7, sum(widths) + 3)
    x, made = torch.randn(9, 12)[2:7, :8], around[1:6, : sum(widths)]
    own.add_low_ranks(x, made)
    wanted = [each.up_NR @ each.down_RK for each in (first, second, third)]
    torch.testing.assert_close(made, 1 + torch.cat((x @ wanted[0].t(), x @ (wanted[1] + wanted[2]).t()), dim=1))
    assert (around[0] == 1).all() and (around[6] == 1).all() and (around[:, sum(widths) :] == 1).all()
    assert own.has_low_ranks and own.product is None and own.after == []
    products.cache_clear()


def test_other_weights_of_one_layer_leave_the_others_theirs() -> None:
    torch.manual_seed(0)
    layers = {"one": nn.Linear(8, 4, bias=False), "two": nn.Linear(8, 6, bias=False)}
    change, x = Weight(torch.randn(6, 8), torch.randn(6)), torch.randn(5, 8)
    product = Own(layers, {"two": (change,)}).product
    assert product is not None
    wanted = torch.cat((layers["one"](x), nn.functional.linear(x, change.weight, change.bias_N)), dim=1)
    torch.testing.assert_close(product(x), wanted)


def test_what_scales_its_input_is_no_part_of_a_group() -> None:
    assert scales_input((Shift(torch.ones(2)), Scale(input_K=torch.ones(2))))
    assert not scales_input((Scale(output_N=torch.ones(2)),))


def test_a_layer_of_another_size_is_named() -> None:
    with pytest.raises(
        ModelError, match="changes one as a layer of 9 inputs and 4 outputs, and this model's has 8 and 4"
    ):
        Own({"one": nn.Linear(8, 4)}, {"one": (Weight(torch.zeros(4, 9)),)})
