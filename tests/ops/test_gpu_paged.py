"""The paged cache of a GPU against its plain twin. Without a GPU, Triton's interpreter runs the kernel."""

from __future__ import annotations

import pytest
import torch

from sartor.ops import gpu
from sartor.ops.decode import NEVER, Flat, Pages, PlainPages, Span, best_of, open_pages

from .test_decode import play

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHORT = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16  # the interpreter multiplies no bf16
needs_triton = pytest.mark.skipif(bool(gpu.refusal(torch.bfloat16)), reason=gpu.refusal(torch.bfloat16))


def triton_pages(num_pages: int) -> Pages:
    from sartor.ops.gpu.paged import TritonPages

    return TritonPages(num_pages)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, SHORT], ids=str)
@pytest.mark.parametrize("sizes", [(4, 2, 16), (9, 3, 64), (8, 1, 80)], ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(NEVER, 0.0), (20, 0.0), (NEVER, 2.0)])
def test_the_kernel_gives_what_the_twin_gives(
    dtype: torch.dtype, sizes: tuple[int, int, int], window: int, softcap: float
) -> None:
    exact = dtype == torch.float32
    for plain, fast in play([PlainPages(40), triton_pages(40)], sizes, dtype, window, softcap, device=DEVICE):
        torch.testing.assert_close(fast, plain, rtol=1e-5 if exact else 0.03, atol=1e-5 if exact else 0.015)


@needs_triton
def test_what_a_page_held_before_does_not_matter() -> None:
    pages, bad = triton_pages(40), torch.full((16, 2, 16), torch.nan, device=DEVICE)
    for page in range(40):
        pages.write(0, bad, bad, Flat.of([Span(16, 0, [page])], DEVICE))
    for (mixed,) in play([pages], (4, 2, 16), torch.float32, device=DEVICE):
        assert torch.isfinite(mixed).all()


@needs_triton
def test_a_page_is_copied_in_all_layers() -> None:
    pages, values = triton_pages(4), torch.randn(16, 2, 16, device=DEVICE)
    for layer in (0, 1):
        pages.write(layer, values, values, Flat.of([Span(16, 0, [1])], DEVICE))
    pages.copy(1, 3)
    query, last = torch.randn(1, 2, 16, device=DEVICE), (Flat.of([Span(1, 15, [page])], DEVICE) for page in (1, 3))
    first, second = (pages.attend(1, query, flat, scale=1.0, window=NEVER, softcap=0.0) for flat in last)
    assert torch.equal(first, second)


def test_a_gpu_has_a_kernel_for_short_types_only() -> None:
    assert isinstance(open_pages(4, torch.float32, 16, "cuda"), PlainPages)
    if not gpu.refusal(torch.bfloat16):
        assert type(open_pages(4, torch.bfloat16, 24, "cuda")).__name__ == "TritonPages"
    assert best_of(torch.tensor([[0.0, 2.0, 2.0]], device=DEVICE)) == [1]
