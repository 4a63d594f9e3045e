"""Layers with packed weights: those of torch to the bit, with nothing kept between forward and backward.

Shapes: T tokens · K inputs · N outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import Unsupported
from sartor.ops import cross_entropy
from sartor.ops.joint_linear import JointLinear
from sartor.ops.lora_linear import AugmentedLoraLinear, prepare
from sartor.ops.quantised import pack
from sartor.ops.quantised_linear import QuantisedEmbedding, QuantisedLinear, computes_in
from sartor.ops.workspace import Buffers

from .conftest import ELEMENTS, Parts, relative

SIZES = {"gate": (64, 96), "up": (64, 32)}


def packed_layer(
    num_inputs: int = 64,
    num_outputs: int = 96,
    *,
    bias: bool = False,
    dtype: torch.dtype = torch.float32,
    room: Buffers | None = None,
    tile: int = 0,
) -> QuantisedLinear:
    weight = torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(num_outputs))
    made = nn.Parameter(torch.randn(num_outputs).to(dtype), requires_grad=False) if bias else None
    return QuantisedLinear(pack(weight, "nf4"), made, dtype, room or Buffers(0), tile)


def plain_of(layer: QuantisedLinear) -> nn.Linear:
    """The layer of torch with the same numbers."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=layer.computes_in)
    plain.weight = nn.Parameter(layer.weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    return plain


def through(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer gives, and the gradient of its input."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    slopes = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    (gradient,) = torch.autograd.grad(y, leaf, slopes)
    return y.detach(), gradient


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_it_is_the_plain_layer_to_the_bit(dtype: torch.dtype, bias: bool) -> None:
    layer, x = packed_layer(bias=bias, dtype=dtype), torch.randn(2, 5, 64).to(dtype)
    for found, wanted in zip(through(layer, x), through(plain_of(layer), x), strict=True):
        assert torch.equal(found, wanted)


def test_a_trained_bias_has_its_gradient() -> None:
    layer = packed_layer(bias=True)
    layer.bias.requires_grad_()
    plain, x = plain_of(layer), torch.randn(3, 4, 64)
    for one in (layer, plain):
        one(x).square().sum().backward()
    assert layer.bias.grad is not None
    assert torch.allclose(layer.bias.grad, plain.bias.grad, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_in_tiles_is_the_whole_one(bias: bool) -> None:
    tiled, x = packed_layer(bias=bias, tile=40), torch.randn(5, 64)
    (y, gradient), (y_whole, gradient_whole) = through(tiled, x), through(plain_of(tiled), x)
    assert relative(y, y_whole) < 1e-6
    assert relative(gradient, gradient_whole) < 1e-6
    assert tiled.room.num_bytes == 40 * 64 * 4


def test_nothing_is_kept_for_the_backward_but_a_buffer_that_all_share() -> None:
    room = Buffers(0)
    layers = [packed_layer(64, 64, room=room) for _ in range(3)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda item: saved.append(item.nbytes) or item, lambda item: item):
        x = torch.randn(2, 64, requires_grad=True)
        y = x
        for layer in layers:
            y = layer(y)
    y.sum().backward()
    assert not saved
    assert room.num_bytes == 64 * 64 * 4


def test_the_weight_is_a_copy() -> None:
    layer = packed_layer()
    before = layer.weight
    layer.weight.zero_()
    assert torch.equal(layer.weight, before)
    with pytest.raises(KeyError, match="weight"):
        layer.weight = nn.Parameter(before)
    assert computes_in(layer) is torch.float32
    assert not list(layer.parameters())


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_an_embedding_makes_the_rows_that_are_looked_up(dtype: torch.dtype) -> None:
    packed = pack(torch.randn(50, 64), "int8")
    layer = QuantisedEmbedding(packed, dtype)
    ids = torch.tensor([[3, 49, 3], [0, 1, 2]])
    assert torch.equal(layer(ids), F.embedding(ids, layer.weight))
    scaled = QuantisedEmbedding(packed, dtype, torch.tensor(8.0))
    assert torch.equal(scaled(ids), layer(ids) * torch.tensor(8.0).to(dtype))


# ---- with adapters ---------------------------------------------------------------------------------------------------


def adapted(packed: bool, *, bias: bool = False) -> dict[str, AugmentedLoraLinear]:
    """Layers with awake adapters on packed weights, or on plain ones with the same numbers."""
    from peft import LoraConfig, get_peft_model

    room = Buffers(0)
    torch.manual_seed(2)
    made = {name: packed_layer(*size, bias=bias, room=room) for name, size in SIZES.items()}
    layers = {name: layer if packed else plain_of(layer) for name, layer in made.items()}
    parts = Parts({**layers, "norm": nn.RMSNorm(4)})  # PEFT looks for a parameter, which every model has
    config = LoraConfig(r=3, lora_alpha=6, target_modules=list(SIZES))
    config._register_custom_module({nn.Linear: AugmentedLoraLinear})
    get_peft_model(parts, config)
    draw = torch.Generator().manual_seed(5)
    for name, weight in parts.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=draw) * 0.3
    return {name: parts.get_submodule(name) for name in SIZES}  # type: ignore[misc]


def gradients(layers: dict[str, AugmentedLoraLinear], y: torch.Tensor, x: torch.Tensor) -> Iterator[torch.Tensor]:
    weights = [weight for layer in layers.values() for name, weight in layer.named_parameters() if "lora_" in name]
    slopes = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    yield from torch.autograd.grad(y, [x, *weights], slopes)


@pytest.mark.parametrize("prepared", [False, True])
def test_lora_on_packed_weights_is_lora_on_their_numbers_to_the_bit(prepared: bool) -> None:
    results = []
    for packed in (True, False):
        layers = adapted(packed)
        for layer in layers.values():
            if prepared:
                prepare(layer)
        x = torch.randn(7, 64, generator=torch.Generator().manual_seed(9)).requires_grad_()
        y = torch.cat([layer(x) for layer in layers.values()], dim=1)
        results.append([y.detach(), *gradients(layers, y, x)])
    assert all(torch.equal(found, wanted) for found, wanted in zip(*results, strict=True))


@pytest.mark.parametrize("bias", [False, True])
def test_a_joint_product_of_packed_weights_is_that_of_their_numbers_to_the_bit(bias: bool) -> None:
    results = []
    for packed in (True, False):
        joint = JointLinear(list(adapted(packed, bias=bias).values()), torch.float32)
        x_TKR, dx_TKR = torch.zeros(7, joint.width), torch.zeros(7, joint.width)
        x_TKR[:, :64] = torch.randn(7, 64, generator=torch.Generator().manual_seed(9))
        y_TN = torch.empty(7, joint.num_outputs)
        joint.product(x_TKR, y_TN)
        assert len(joint.masters) == 4
        masters = joint.back(y_TN, x_TKR, dx_TKR)
        results.append([y_TN, dx_TKR, *masters, *joint.back(y_TN, x_TKR, dx_TKR, of_input=False)])
    assert all(torch.equal(found, wanted) for found, wanted in zip(*results, strict=True))


def test_what_is_mixed_is_refused() -> None:
    layers = [packed_layer(), plain_of(packed_layer())]
    with pytest.raises(Unsupported, match="only some are quantised"):
        JointLinear(layers, torch.float32)


def test_merging_is_refused() -> None:
    with pytest.raises(Unsupported, match="merging into quantised weights"):
        adapted(True)["gate"].merge()


@pytest.mark.parametrize("tile", [0, 40])
def test_the_loss_of_a_packed_head(tile: int) -> None:
    head = packed_layer(64, 208, tile=tile)
    hidden_ND = torch.randn(9, 64, generator=torch.Generator().manual_seed(9))
    targets_N = torch.arange(9) * 5
    results = []
    for one in (head, head.weight):
        leaf = hidden_ND.clone().requires_grad_()
        logprobs_N = cross_entropy.supervised_logprobs(leaf, one, targets_N, 4)
        logprobs_N.sum().backward()
        own = (torch.tensor([2, 8]), torch.randn(2, 64, generator=torch.Generator().manual_seed(1)), torch.zeros(2))
        replaced_N = cross_entropy.replaced_logprobs(hidden_ND, one, *own, targets_N, 4)
        results.append((logprobs_N.detach(), leaf.grad, replaced_N))
    for found, wanted in zip(*results, strict=True):
        assert relative(found, wanted) < 1e-6
