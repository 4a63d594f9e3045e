"""The kernels of a GPU against their plain twins in fp64. Without a GPU, Triton's interpreter runs its own.

Shapes: T tokens · C columns of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from sartor.ops import forest_attention, gpu, pointwise
from sartor.ops.forest_attention import Plain
from sartor.ops.pointwise import Pointwise

from .conftest import ONE_ROUNDING, Made, relative
from .test_pointwise import CASES, Results, close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(bool(gpu.refusal(torch.bfloat16)), reason=gpu.refusal(torch.bfloat16))


def triton_kernels() -> Pointwise:
    from sartor.ops.gpu.pointwise import Triton

    return Triton()


@pytest.fixture
def looked_at_anew() -> Iterator[None]:
    gpu.problem.cache_clear()
    yield
    gpu.problem.cache_clear()


@pytest.mark.usefixtures("looked_at_anew")
@pytest.mark.parametrize("capability", [(8, 0), (6, 1)], ids=["no compiler", "an old card"])
def test_a_gpu_on_which_triton_does_not_start_goes_without(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @property
        def active(self) -> None:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: SimpleNamespace(driver=Broken()))
    old, broken = "this GPU is older than those that Triton compiles for", "Failed to find C compiler."
    assert gpu.refusal(torch.bfloat16) == (old if capability < (7, 0) else f"triton does not start: {broken}")


@needs_triton
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("count", [1, 17])
@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
def test_a_kernel_gives_its_twins_numbers_in_strided_rows(
    case: Callable[[Pointwise, Made, int], Results], count: int, element: torch.dtype
) -> None:
    ours, twin = Made(element, count, exact=False, device=DEVICE), Made(element, count, exact=True)
    found, wanted = case(triton_kernels(), ours, count), case(pointwise.Plain(), twin, count)
    for name in wanted:
        cut = element == torch.bfloat16 and DEVICE == "cpu"  # the interpreter cuts off what a GPU rounds
        right = relative(found[name], wanted[name]) < ONE_ROUNDING if cut else close(found[name].cpu(), wanted[name])
        assert right, name
    assert ours.untouched, "it wrote beside its rows"


@needs_triton
def test_a_row_may_be_wider_than_a_program_and_of_any_width() -> None:
    made = Made(torch.float32, 3, exact=False, device=DEVICE)
    stream_TD, update_TD, both_T2F = made.wide(3, 2500), made.rows(2500), made.rows(2600, room=0)
    out_TD, out_TF, logits_NV = made.unset_wide(3, 2500), made.unset(1300), made.rows(9001, room=0)
    triton_kernels().add(stream_TD, update_TD, out_TD)
    assert torch.equal(out_TD, stream_TD + update_TD)
    triton_kernels().gated("silu", both_T2F, out_TF)
    wanted_TF, targets_N = torch.empty_like(out_TF), torch.tensor([0, 4096, 9000], device=DEVICE)
    pointwise.Plain().gated("silu", both_T2F, wanted_TF)
    torch.testing.assert_close(out_TF, wanted_TF)
    slopes_NV, found_N, wanted_N = logits_NV.clone(), made.unset_wide(3), made.unset_wide(3)
    triton_kernels().loss_tile(slopes_NV, targets_N, found_N)
    pointwise.Plain().loss_tile(logits_NV, targets_N, wanted_N)
    torch.testing.assert_close(found_N, wanted_N)
    torch.testing.assert_close(slopes_NV, logits_NV)


def test_a_gpu_takes_its_kernels_for_short_types_only() -> None:
    assert isinstance(pointwise.pointwise(torch.float32, 64, device="cuda"), pointwise.Plain)
    assert isinstance(forest_attention.attention(torch.float32, 64, "cuda"), Plain)
    assert isinstance(forest_attention.attention(torch.bfloat16, 12, "cuda"), Plain)
    assert type(forest_attention.attention(torch.bfloat16, 64, "cuda")).__name__ == "Trees"
    assert "not in float32" in gpu.refusal(torch.float32)
