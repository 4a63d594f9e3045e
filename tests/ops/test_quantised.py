"""Packed weights: bitsandbytes' bits, the published errors and sizes, and kernels that give what their twins give.

Shapes: N rows · K columns.
"""

from __future__ import annotations

from statistics import NormalDist

import bitsandbytes.functional as bnb
import pytest
import torch

from sartor.ops import quantised
from sartor.ops.quantised import BLOCK, BOOKS, FourBits, Kind, Packed, PackedEight, PackedFour, pack, places_of

from .conftest import ELEMENTS, relative

KINDS: tuple[Kind, ...] = ("nf4", "fp4", "int8")
OFFSET = 0.9677083  # of the quantiles of NF4: (1 - 1 / 32 + 1 - 1 / 30) / 2


@pytest.fixture(scope="module")
def normal() -> torch.Tensor:
    return torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))


def numbers(packed: Packed, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return packed.whole(dtype)


# ---- the formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_codebooks_are_those_of_bitsandbytes(kind: FourBits) -> None:
    theirs = bnb.get_4bit_type(kind, device="cpu")
    assert (torch.tensor(BOOKS[kind]) - theirs).abs().max() < 1e-6
    assert torch.equal(quantised._scale_book(torch.device("cpu")), bnb.create_dynamic_map())


def test_nf4_is_made_of_quantiles_of_the_normal_distribution() -> None:
    def quantiles(count: int) -> list[float]:
        shares = torch.linspace(OFFSET, 0.5, count, dtype=torch.float64)[:-1].tolist()
        return [NormalDist().inv_cdf(share) for share in shares]

    found = sorted([*quantiles(9), 0.0, *(-value for value in quantiles(8))])
    assert max(abs(a / found[-1] - b) for a, b in zip(found, BOOKS["nf4"], strict=True)) < 1e-6


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bits_are_those_of_bitsandbytes(kind: FourBits, normal: torch.Tensor) -> None:
    ours = pack(normal, kind)
    assert isinstance(ours, PackedFour)
    theirs, state = bnb.quantize_4bit(normal, blocksize=BLOCK, compress_statistics=True, quant_type=kind)
    assert torch.equal(ours.codes_NP.flatten(), theirs.flatten())
    assert torch.equal(ours.groups_G, state.state2.absmax)
    assert torch.equal(ours.offset, state.offset)
    apart = ours.scales_NB.flatten().int() - state.absmax.int()
    assert apart.abs().max() <= 1  # where a scale lies between two numbers, to the last bit
    assert apart.count_nonzero() < 0.005 * apart.numel()


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_kernel_for_gpus_gives_the_same_numbers(kind: FourBits, dtype: torch.dtype, normal: torch.Tensor) -> None:
    packed = pack(normal, kind)
    assert isinstance(packed, PackedFour)
    assert torch.equal(packed.by_bitsandbytes(dtype), numbers(packed, dtype))


@pytest.mark.parametrize(("kind", "bits"), [("nf4", 4.127), ("fp4", 4.127), ("int8", 8.25)])
def test_bits_of_a_number(kind: Kind, bits: float, normal: torch.Tensor) -> None:
    assert pack(normal, kind).num_bytes * 8 / normal.numel() == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "mean", "share"), [("nf4", 0.0729, 0.0920), ("fp4", 0.0966, 0.1219), ("int8", 0.0051, 0.0060)]
)
def test_errors_of_a_normal_distribution(kind: Kind, mean: float, share: float, normal: torch.Tensor) -> None:
    error = numbers(pack(normal, kind)) - normal
    assert error.abs().mean() == pytest.approx(mean, rel=0.01)
    assert error.norm() / normal.norm() == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize(("size", "mean"), [(64, 0.0728), (128, 0.0769), (4096, 0.0928)])
def test_larger_blocks_lose_more(size: int, mean: float, normal: torch.Tensor) -> None:
    blocks, book = normal.view(-1, size), torch.tensor(BOOKS["nf4"])
    largest = blocks.abs().amax(dim=1)
    codes = quantised._nearest(quantised._fractions(blocks, largest), book)
    assert (book[codes.int()] * largest[:, None] - blocks).abs().mean() == pytest.approx(mean, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_of_zeros(kind: Kind) -> None:
    weight = torch.randn(3, 2 * BLOCK)
    weight[1] = 0
    assert not numbers(pack(weight, kind))[1].any()
    assert not numbers(pack(torch.zeros(2, BLOCK), kind)).any()


def test_eight_bits_lose_no_more_than_half_a_step() -> None:
    weight = torch.randn(64, 200) * torch.logspace(-6, 3, 64)[:, None]
    packed = pack(weight, "int8")
    assert isinstance(packed, PackedEight)
    steps = packed.steps_NB.float().repeat_interleave(BLOCK, dim=1)[:, :200]
    assert ((numbers(packed) - weight).abs() <= 0.75 * steps).all()  # a quarter more at the largest: a bf16 is rounded


# ---- kernels and their twins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 7, 16, 33, 64, 65, 100, 192])
@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_their_twins(kind: Kind, dtype: torch.dtype, width: int) -> None:
    assert quantised._kernels(dtype) is not None
    packed = pack(torch.randn(19, width, generator=torch.Generator().manual_seed(width)), kind)
    wide = torch.full((11, width + 5), 7.0, dtype=dtype)
    packed.make(wide[:, :width], first=4)
    assert torch.equal(wide[:, :width], packed.plain(slice(4, 15)).to(dtype))
    assert (wide[:, width:] == 7.0).all()
    rows = torch.tensor([18, 0, 3, 3])
    assert torch.equal(packed.pick(rows, dtype), packed.plain(rows).to(dtype))


@pytest.mark.parametrize(
    "rows", [torch.arange(12)[::3], torch.tensor([7, 0, 3], dtype=torch.int32)], ids=["strided", "int32"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_rows_may_lie_in_memory_in_any_way(kind: Kind, rows: torch.Tensor) -> None:
    packed = pack(torch.randn(12, 70, generator=torch.Generator().manual_seed(0)), kind)
    assert torch.equal(packed.pick(rows, torch.float32), packed.plain(rows.long()))


@pytest.mark.parametrize("row", [-1, 12, 1 << 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_there_is_not_is_refused(kind: Kind, row: int) -> None:
    packed = pack(torch.randn(12, 70), kind)
    with pytest.raises(IndexError, match=f"index {row} is out of range: there are 12"):
        packed.pick(torch.tensor([3, row]), torch.float32)
    assert packed.pick(torch.tensor([], dtype=torch.int64), torch.float32).shape == (0, 70)


@pytest.mark.usefixtures("plainer_processor")
def test_kernels_are_their_twins_on_plainer_processors() -> None:
    for kind in KINDS:
        for width in (7, 16, 33, 100):
            test_kernels_are_their_twins(kind, torch.float32, width)


@pytest.mark.usefixtures("without_native")
@pytest.mark.parametrize("kind", KINDS)
def test_without_kernels(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantised._kernels(torch.float32) is None
    packed = pack(torch.randn(5, 70), kind)
    assert torch.equal(packed.make(torch.empty(2, 70), 1), packed.plain(slice(1, 3)))
    assert torch.equal(packed.pick(torch.tensor([4, 1]), torch.float32), packed.plain(torch.tensor([4, 1])))
    monkeypatch.setattr(quantised, "PIECE", 2 * 70)  # two rows at once
    assert torch.equal(packed.make(torch.empty(4, 70), 1), packed.plain(slice(1, 5)))


def test_models_in_fp64_take_the_twins() -> None:
    packed = pack(torch.randn(4, 64), "nf4")
    assert torch.equal(numbers(packed, torch.float64), packed.plain(slice(0, 4)).double())


def test_places_are_those_of_a_search() -> None:
    book = torch.tensor(BOOKS["nf4"])
    edges = (book[1:] + book[:-1]) / 2
    values = torch.cat((torch.linspace(-1, 1, 1001), edges, torch.nextafter(edges, torch.ones(15))))
    assert torch.equal(places_of(values, edges), torch.bucketize(values, edges).to(torch.uint8))


def test_what_is_packed_is_no_part_of_a_checkpoint() -> None:
    assert not pack(torch.randn(4, 64), "nf4").state_dict()
    weight = torch.randn(4, 64)
    assert torch.equal(numbers(pack(weight.bfloat16(), "nf4")), numbers(pack(weight.bfloat16().float(), "nf4")))
    assert relative(numbers(pack(weight, "nf4")), weight) < 0.15
