"""Attention over a paged cache: the native code against its plain twin, and the twin against torch's own attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import Unsupported
from sartor.ops.decode import (
    CPU,
    NEVER,
    Flat,
    Group,
    NativePages,
    Paged,
    Pages,
    PlainPages,
    Span,
    best_of,
    open_pages,
    paged_attention,
)

SHARED = [5, 9]  # two sequences begin with these pages, 32 tokens
TABLES = ([*SHARED, 11, 12, 13], [*SHARED, 1, 2], [20, 21, 22, 23], [*SHARED, 30, 31])


def steps(device: torch.device = CPU) -> list[Flat]:
    """The shared pages, then prompts of several lengths behind them, then two steps of answers of all."""
    longer, short, own, one = TABLES
    spans = (
        [Span(32, 0, SHARED)],
        [Span(18, 32, longer), Span(8, 32, short), Span(1, 32, one), Span(35, 0, own)],
        [Span(1, 50, longer), Span(1, 40, short), Span(1, 33, one), Span(1, 35, own)],
        [Span(1, 51, longer), Span(3, 41, short), Span(5, 34, one), Span(7, 36, own)],
    )
    return [Flat.of(each, device) for each in spans]


def play(
    caches: list[Pages],
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    window: int = NEVER,
    softcap: float = 0.0,
    device: torch.device = CPU,
) -> list[list[torch.Tensor]]:
    """What each cache gives at each of the steps, for the same random numbers."""
    heads, groups, size = sizes
    generator = torch.Generator().manual_seed(3)
    found = []
    for flat in steps(device):
        query, key, value = (
            torch.randn(flat.starts[-1], count, size, generator=generator).to(device, dtype)
            for count in (heads, groups, groups)
        )
        mixed = []
        for pages in caches:
            pages.write(0, key, value, flat)
            mixed.append(pages.attend(0, query, flat, scale=size**-0.5, window=window, softcap=softcap))
        found.append(mixed)
    return found


def test_neighbours_that_begin_alike_form_a_group() -> None:
    assert steps()[0].groups == (Group(0, 1, 0),)
    assert steps()[2].groups == (Group(0, 3, 2), Group(3, 4, 0))
    # A page that this very forward fills is not read for others at once: it is theirs by their own tables.
    assert Flat.of([Span(32, 0, SHARED), Span(1, 32, TABLES[0])]).groups == (Group(0, 1, 0), Group(1, 2, 0))


def test_a_group_is_not_spoilt_by_one_that_shares_little() -> None:
    long = list(range(8))
    flat = Flat.of([Span(1, 128, [*long, 9]), Span(1, 128, [*long, 10]), Span(1, 128, [0, *range(20, 28)])])
    assert flat.groups == (Group(0, 2, 8), Group(2, 3, 0))


def test_tokens_stand_where_their_tables_say() -> None:
    flat = Flat.of([Span(3, 15, [4, 7]), Span(2, 0, [1])])
    assert flat.positions_T.tolist() == [15, 16, 17, 0, 1]
    assert flat.slots_T.tolist() == [4 * 16 + 15, 7 * 16, 7 * 16 + 1, 16, 17]


@pytest.mark.parametrize("groups", [1, 3])
def test_the_plain_twin_is_torchs_attention(groups: int) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(45, count, 8, generator=generator) for count in (3, groups, groups))
    wanted = F.scaled_dot_product_attention(
        *(part.transpose(0, 1)[None] for part in (query, key, value)), is_causal=True, enable_gqa=True
    )[0].transpose(0, 1)
    pages = PlainPages(8)
    made = []
    for before, length in ((0, 20), (20, 24), (44, 1)):
        flat = Flat.of([Span(length, before, [3, 6, 1])])
        part = slice(before, before + length)
        pages.write(0, key[part], value[part], flat)
        made.append(pages.attend(0, query[part], flat, scale=8**-0.5, window=NEVER, softcap=0.0))
    torch.testing.assert_close(torch.cat(made), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(4, 2, 16), (9, 3, 64), (8, 1, 80)], ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(NEVER, 0.0), (20, 0.0), (NEVER, 2.0)])
def test_native_gives_what_the_twin_gives(
    dtype: torch.dtype, sizes: tuple[int, int, int], window: int, softcap: float
) -> None:
    caches: list[Pages] = [PlainPages(40), open_pages(40, dtype, sizes[2])]
    assert isinstance(caches[1], NativePages)
    exact = dtype == torch.float32
    for plain, fast in play(caches, sizes, dtype, window, softcap):
        torch.testing.assert_close(fast, plain, rtol=1e-5 if exact else 0.02, atol=1e-5 if exact else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
def test_however_many_threads_write(num_threads: int, dtype: torch.dtype) -> None:
    """The tokens are shared out where pages begin: none is written, or cleared, by two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for one, other in play([PlainPages(40), open_pages(40, dtype, 64)], (9, 3, 64), dtype):
            torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("plainer_processor")
def test_native_gives_what_the_twin_gives_on_plainer_processors() -> None:
    for sizes, window in (((4, 2, 16), NEVER), ((9, 3, 64), 20), ((8, 1, 80), NEVER)):
        test_native_gives_what_the_twin_gives(torch.float32, sizes, window, 0.0)


def test_what_a_page_held_before_does_not_matter() -> None:
    """Slots behind the last token have a weight of zero; not-a-number times zero must not get through."""
    for pages in (PlainPages(40), open_pages(40, torch.float32, 16)):
        bad = torch.full((16, 2, 16), torch.nan)
        for page in range(40):
            pages.write(0, bad, bad, Flat.of([Span(16, 0, [page])]))
        for (mixed,) in play([pages], (4, 2, 16), torch.float32):
            assert torch.isfinite(mixed).all()


def test_a_head_that_fills_no_vector_takes_the_plain_twin() -> None:
    assert isinstance(open_pages(4, torch.float32, 24), PlainPages)
    assert isinstance(open_pages(4, torch.float64, 16), PlainPages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_best_is_the_first_largest(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 1003, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[1, 17] = logits[1, 1001] = 9.0
    logits[2, 1002] = 9.0
    assert best_of(logits) == [int((row == row.max()).nonzero()[0]) for row in logits]
    assert best_of(logits)[1:3] == [17, 1002]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"attention_mask": torch.zeros(1)}, "an attention mask"),
        ({"dropout": 0.1}, "dropout"),
        ({"s_aux": torch.zeros(1)}, "sinks"),
        ({"query_1HTD": torch.zeros(2, 2, 1, 16)}, "2 rows"),
        ({"paged": None}, "without a layout"),
        ({"value_1GTD": torch.zeros(1, 2, 1, 32)}, "keys of 16 beside values of 32"),
    ],
)
def test_what_is_not_implemented_is_refused(changes: dict[str, object], what: str) -> None:
    module = nn.Module()
    part = torch.zeros(1, 2, 1, 16)
    asked: dict[str, object] = {
        "query_1HTD": part,
        "value_1GTD": part,
        "attention_mask": None,
        "paged": Paged(PlainPages(1), Flat.of([Span(1, 0, [0])])),
        **changes,
    }
    with pytest.raises(Unsupported, match=what):
        paged_attention(module, key_1GTD=part, **asked)  # type: ignore[arg-type]
