"""Our own matrix product against torch's in fp64: every size round a tile, a block and a panel, and every layout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sartor import hardware
from sartor.ops import native, product
from sartor.ops.product import LaidOut, Native, Plain, lay_out, multiply, multiply_few, products

from .conftest import forget_kernels

ROWS, INNER, COLUMNS = (0, 1, 5, 6, 13, 48, 97, 301), (0, 1, 15, 33, 640, 700), (16, 48, 64, 112)
WIDER = 1600  # columns: more than a panel


@pytest.fixture
def kernel() -> Native:
    assert not native.refusal("product", "float32")
    return Native()


def numbers(rows: int, columns: int, *, turned: bool = False, room: int = 0) -> torch.Tensor:
    """A matrix, as the transpose of another one, or with room after each row that is not to be read."""
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    made = torch.randn(*((columns, rows + room) if turned else (rows, columns + room)), generator=generator)
    whole = made.t() if turned else made
    return whole[:rows, :columns]


def error(kernel: Native | Plain, a: torch.Tensor, b: torch.Tensor) -> float:
    """Multiply, among numbers that are to stay as they are: how far off it is."""
    around = torch.full((len(a), b.shape[1] + 24), 7.0)
    out = around[:, 8:-16]
    kernel.multiply(a, b, out)
    assert (around[:, :8] == 7).all()
    assert (around[:, -16:] == 7).all()
    return off(out, a, b)


def off(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest error of an element, as a share of the sum of what its products are without their signs."""
    size = (a.double().abs() @ b.double().abs()).clamp(min=1e-30)
    return float(((out.double() - a.double() @ b.double()).abs() / size).max()) if out.numel() else 0.0


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("inner", INNER)
def test_it_is_the_product(kernel: Native, rows: int, inner: int) -> None:
    for columns in COLUMNS:
        for a_turned in (False, True):
            for b_turned in (False, True):
                a = numbers(rows, inner, turned=a_turned, room=3)
                b = numbers(inner, columns, turned=b_turned, room=5)
                assert error(kernel, a, b) < 1e-6, (columns, a_turned, b_turned)


@pytest.mark.parametrize("turned", [False, True])
def test_wide_and_ragged_ones_too(kernel: Native, turned: bool) -> None:
    for columns in (WIDER, WIDER + 7, 3):
        assert error(kernel, numbers(97, 70), numbers(70, columns, turned=turned)) < 1e-6


@pytest.mark.usefixtures("plainer_processor")
def test_shorter_vectors_give_the_same() -> None:
    for turned in (False, True):
        assert error(Native(), numbers(50, 70, turned=turned), numbers(70, 112, turned=turned)) < 1e-6


def test_a_row_is_the_same_whatever_stands_beside_it(kernel: Native) -> None:
    a, b = numbers(301, 700), numbers(700, 112)
    whole, part = torch.empty(301, 112), torch.empty(37, 112)
    kernel.multiply(a, b, whole)
    kernel.multiply(a[100:137], b, part)
    assert torch.equal(whole[100:137], part)


def test_the_number_of_threads_changes_nothing(kernel: Native) -> None:
    a, b, found = numbers(97, 700), numbers(700, 112), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(torch.empty(97, 112))
        kernel.multiply(a, b, found[-1])
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_several_at_once_do_not_meet(kernel: Native) -> None:
    pairs = [(numbers(97, 640 + number), numbers(640 + number, 112)) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(lambda pair: error(kernel, *pair), pairs * 4)) < 1e-6


@pytest.mark.parametrize("inner", INNER[1:])
def test_a_weight_that_is_laid_out_gives_the_same(inner: int) -> None:
    for columns in (*COLUMNS, WIDER):
        weight = numbers(columns, inner)
        laid = LaidOut(weight)
        for rows in ROWS:
            for a in (numbers(rows, inner, room=3), numbers(rows, inner, turned=True)):
                assert off(laid.times(a), a, weight.t()) < 1e-6, (columns, rows)
                around = torch.full((rows, columns + 24), 7.0)
                laid.add_to(around[:, 8:-16], a)
                torch.testing.assert_close(around[:, 8:-16], 7 + laid.times(a), rtol=1e-5, atol=1e-5)
                assert (around[:, :8] == 7).all() and (around[:, -16:] == 7).all()


@pytest.mark.usefixtures("plainer_processor")
def test_shorter_vectors_lay_out_as_well() -> None:
    for turned in (False, True):
        weight, a = numbers(112, 700, turned=turned), numbers(50, 700)
        assert off(LaidOut(weight).times(a), a, weight.t()) < 1e-6


def test_a_row_is_the_same_beside_others_and_by_any_number_of_threads() -> None:
    """So what is sampled does not depend on the batch."""
    a, laid, found = numbers(301, 700), LaidOut(numbers(112, 700)), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(laid.times(a))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    for rows in (slice(0, 1), slice(100, 137), slice(295, 301)):
        assert torch.equal(laid.times(a[rows]), found[0][rows])


@pytest.mark.usefixtures("amd")
def test_what_is_laid_out_is_what_ours_multiplies() -> None:
    assert lay_out(torch.randn(48, 64)) is not None
    for weight in (torch.randn(47, 64), torch.randn(48, 0), torch.randn(48, 64, dtype=torch.bfloat16)):
        assert lay_out(weight) is None


@pytest.mark.usefixtures("amd")
def test_ours_is_for_fp32_on_amd_and_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    there = not native.refusal("product", "float32")
    assert isinstance(products(torch.float32), Native) == there
    for dtype, device, many in (
        (torch.bfloat16, "cpu", True),
        (torch.float32, "cuda", True),
        (torch.float32, "cpu", False),
    ):
        assert isinstance(products(dtype, device, many=many), Plain)
    monkeypatch.setattr(hardware, "is_amd", lambda: False)
    forget_kernels()
    assert isinstance(products(torch.float32), Plain)


@pytest.mark.usefixtures("amd", "without_native")
def test_without_a_compiler_torch_multiplies() -> None:
    assert isinstance(products(torch.float32), Plain)


@pytest.mark.usefixtures("amd")
@pytest.mark.parametrize("rows", [product.FEWEST_ROWS - 1, product.FEWEST_ROWS])
def test_multiply_fills_what_it_is_given(rows: int) -> None:
    a, b, out = numbers(rows, 64), numbers(64, 48), torch.empty(rows, 48)
    assert multiply(a, b, out) is out
    assert torch.allclose(out, a @ b, atol=1e-4)
    wide = torch.empty(rows, 48, dtype=torch.float64)
    assert torch.equal(multiply(a.double(), b.double(), wide), a.double() @ b.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_of_few_is_one(dtype: torch.dtype) -> None:
    few, many = numbers(301, 16, room=48).to(dtype), numbers(301, 112, room=16).to(dtype)
    assert off(multiply_few(few, many), few.t(), many) < 1e-6
