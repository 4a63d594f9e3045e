"""Sizing: what is tried first, what is always true of the choice, and the ways out when nothing fits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.backends import estimate
from sartor.backends.estimate import CPU, CUDA, MOMENTS, Job
from sartor.catalogue import CATALOGUE, card
from sartor.data.pack import Segment, segment
from sartor.sizing import (
    FEWEST_TOKENS,
    USABLE,
    Room,
    Way,
    choose,
    held,
    micro_sizes,
    nearest,
    packing,
    shape_of,
    sharded,
    smallest,
    spread,
)

GIB = 2**30


def job_of(name: str, *, rank: int = 16, longest: int = 300) -> Job:
    found = card(name)
    assert found is not None
    shape = shape_of(found)
    trainable = rank * shape.num_layers * sum(sum(sizes) for sizes in shape.linear_sizes().values())
    return Job(
        shape=shape, item_bytes=2, num_trainable=trainable, micro_tokens=longest, longest=longest, low_rank=7 * rank
    )


SMALL = job_of("smollm2-135m-instruct")


def peak(job: Job) -> int:
    return estimate.peak(estimate.memory(job, CPU))


def way(rank: int = 16, lengths: tuple[int, ...] = (100, 200, 300)) -> Way:
    return Way(
        rank=rank,
        lengths=lengths,
        job_of=lambda shape: replace(SMALL, shape=shape, num_trainable=shape.num_parameters // 30),
        with_lora=SMALL,
    )


def test_the_sizes_of_a_micro_batch_halve_down_to_the_longest_example() -> None:
    assert micro_sizes(1024, 300) == (1024, 512, 300)
    assert micro_sizes(1024, 100) == (1024, 512, 256, 128)
    assert micro_sizes(1024, 1024) == (1024,)
    assert micro_sizes(100, 40) == (100,)


@given(most=st.integers(1, 70_000), longest=st.integers(1, 70_000))
def test_the_longest_example_always_fits(most: int, longest: int) -> None:
    sizes = micro_sizes(most, longest)
    assert sizes[0] >= min(most, max(longest, FEWEST_TOKENS))
    assert all(size >= longest for size in sizes)
    assert list(sizes) == sorted(set(sizes), reverse=True)


def test_nothing_is_computed_again_where_it_fits() -> None:
    chosen = choose(SMALL, Room(16 * GIB, CPU), most=1024)
    assert chosen is not None
    assert (chosen.micro_tokens, chosen.recompute, chosen.tile) == (1024, "none", 512)


@given(share=st.floats(0.3, 1.1))
def test_what_is_chosen_fits_and_less_memory_never_gives_a_larger_batch(share: float) -> None:
    most = replace(SMALL, micro_tokens=4096)
    room = Room(int(peak(most) * share), CPU)
    chosen = choose(SMALL, room, most=4096)
    if chosen is None:
        assert not room.holds(smallest(SMALL))
        return
    assert peak(chosen) <= room.num_bytes
    wider = choose(SMALL, Room(room.num_bytes * 2, CPU), most=4096)
    assert wider is not None
    assert wider.recompute == "none" or wider.recompute == chosen.recompute


def test_a_way_must_fit_as_the_data_fills_it_too() -> None:
    """Virtual tokens before each of many rows make two thirds more of every micro-batch."""
    room = Room(peak(replace(SMALL, micro_tokens=1024)), CPU)
    assert choose(SMALL, room, most=1024) == replace(SMALL, micro_tokens=1024)
    chosen = choose(SMALL, room, most=1024, filled=lambda way: replace(way, micro_tokens=way.micro_tokens * 5 // 3))
    assert chosen is not None and chosen.micro_tokens == 512


def test_the_longest_example_of_dev_makes_room_for_itself() -> None:
    long = SimpleNamespace(length=700)
    examples = [[segment("row", range(200), [1.0] * 200)]]
    found = packing(examples, replace(SMALL, micro_tokens=300), 4, steps=3, seed=1, beside=[long])  # type: ignore[list-item]
    assert found.tokens == 700
    assert found.computed == packing(examples, replace(SMALL, micro_tokens=300), 4, steps=3, seed=1).computed


def test_there_is_no_way_below_the_smallest() -> None:
    least = peak(smallest(SMALL))
    assert choose(SMALL, Room(least, CPU), most=1024) is not None
    assert choose(SMALL, Room(least - 1, CPU), most=1024) is None


def test_four_bits_are_named_where_they_fit_and_the_method_can_have_them() -> None:
    eight = job_of("llama-3.1-8b-instruct")
    room = Room(peak(smallest(replace(eight, quantize="nf4"))), CPU)
    assert nearest(eight, room, replace(way(), quantisable=True))[0] == "set `model.quantize` to nf4"
    assert not any("quantize" in line for line in nearest(eight, room, way()))
    assert not any(
        "quantize" in sentence for sentence in nearest(eight, Room(GIB, CPU), replace(way(), quantisable=True))
    )


def test_moments_in_eight_bits_are_named_where_they_fit() -> None:
    full = replace(SMALL, full=True, num_trainable=SMALL.shape.num_parameters, low_rank=0)
    eight = replace(full, moment_bytes=MOMENTS["adamw_8bit"])
    assert "set `tune.optimizer` to adamw_8bit" in nearest(full, Room(peak(smallest(eight)), CPU), way())
    assert not any("optimizer" in line for line in nearest(eight, Room(GIB // 2, CPU), way()))


def test_a_rank_that_fits_is_named() -> None:
    large = job_of("smollm2-135m-instruct", rank=1024)
    room = Room(peak(smallest(job_of("smollm2-135m-instruct", rank=256))), CPU)
    assert nearest(large, room, way(rank=1024))[0] == "set `tune.adapter.r` to 256"


def test_a_length_that_fits_is_named_with_what_it_drops() -> None:
    long = replace(SMALL, longest=30_000)
    room = Room(peak(smallest(replace(SMALL, longest=2_000))), CPU)
    found = nearest(long, room, way(rank=1, lengths=(100, 1_500, 2_000, 2_001, 30_000)))
    assert found == ["set `data.max_length` to 2000 with `data.too_long: drop`, which drops 2 of 5 examples"]


def test_the_largest_model_that_fits_is_named() -> None:
    eight = job_of("llama-3.1-8b-instruct")
    assert "set `model` to qwen3-4b (4,022 M parameters)" in nearest(eight, Room(13 * GIB, CUDA), way())
    tiny = nearest(SMALL, Room(GIB // 4, CPU), way())
    assert tiny == []


def test_an_adapter_is_offered_where_the_whole_model_does_not_fit() -> None:
    full = replace(SMALL, full=True, num_trainable=SMALL.shape.num_parameters, low_rank=0)
    room = Room(peak(smallest(SMALL)), CPU)
    assert nearest(full, room, way(rank=0))[0] == "set `tune.adapter` to lora"


@pytest.mark.parametrize("entry", [card for card in CATALOGUE if card.kind == "decoder"], ids=lambda entry: entry.name)
def test_the_shape_of_a_card_has_its_parameters(entry: object) -> None:
    shape = shape_of(entry)  # type: ignore[arg-type]
    assert shape.num_parameters / 1e6 == pytest.approx(entry.parameters, rel=0.004)  # type: ignore[attr-defined]


def example(name: str, *tokens: int) -> list[Segment]:
    return [segment(name, tokens, [0.0] * (len(tokens) // 2) + [1.0] * (len(tokens) - len(tokens) // 2))]


APART = [example(f"row {row}", *range(row * 1000, row * 1000 + 101)) for row in range(8)]
ALIKE = [example(f"row {row}", *range(90), *range(row * 1000, row * 1000 + 11)) for row in range(8)]


def packed(examples: list[list[Segment]], micro_tokens: int, **changes: object) -> tuple[int, int, float]:
    job = replace(SMALL, micro_tokens=micro_tokens, **changes)  # type: ignore[arg-type]
    return packing(examples, job, 4, steps=6, seed=1)


def test_the_fullest_micro_batch_counts_what_is_computed() -> None:
    assert packed(APART, 1000)[:2] == (400, 204)
    assert packed(APART, 250)[:2] == (200, 102)
    tokens, supervised, _ = packed(ALIKE, 1000)
    assert tokens < 400, "the same beginning is computed once"
    assert supervised == 204


def test_the_share_of_the_tokens_that_is_computed() -> None:
    assert packed(APART, 1000)[2] == 1
    assert packed(ALIKE, 1000)[2] == pytest.approx((89 + 4 * 11) / 400, abs=0.001), "what is common once"
    assert packed(ALIKE, 1000, layers="transformers") == (400, 204, 1.0), "they compute it again and again"


def test_virtual_tokens_are_computed_too() -> None:
    """Once where they are a beginning in common, before each row where they are too few or nothing is shared."""
    for job, added in (
        ({"virtual": 40}, 40),
        ({"virtual": 5}, 4 * 5),
        ({"virtual": 40, "layers": "transformers"}, 4 * 40),
    ):
        assert packed(APART, 1000 + job["virtual"], **job)[0] == 400 + added  # type: ignore[operator]


def test_a_micro_batch_holds_virtual_tokens_beside_the_longest_example() -> None:
    assert smallest(replace(SMALL, virtual=500)).micro_tokens == SMALL.longest + 500
    assert replace(SMALL, virtual=500, micro_tokens=900).text_tokens == 400


def test_layers_that_share_nothing_get_batches_cut_to_size() -> None:
    """What was packed for shared beginnings has more tokens than a micro-batch."""
    assert packed(ALIKE, 260, layers="transformers")[0] <= 260
    assert packed(ALIKE, 260, kernels=False) == packed(ALIKE, 260, layers="transformers")


def test_transformers_computes_whole_layers_again() -> None:
    own = replace(SMALL, layers="transformers")
    room = Room(peak(replace(smallest(own), micro_tokens=512)), CPU)
    chosen = choose(own, room, most=1024)
    assert chosen is not None
    assert (chosen.recompute, choose(SMALL, room, most=1024).recompute) == ("layer", "mlp")  # type: ignore[union-attr]


def test_a_base_that_is_trained_is_shared_by_all_devices() -> None:
    room, two = Room(10**12, CUDA), replace(SMALL, devices=2)
    full = replace(two, full=True, num_trainable=SMALL.shape.num_parameters, low_rank=0)
    shards = {job.full: job.shards for job in (spread(two, room, most=1024), spread(full, room, most=1024)) if job}
    assert shards == {False: 1, True: 2}
    assert (two.computed_by, sharded(two).computed_by) == ("hand-written", "transformers")


def test_a_base_too_large_for_each_device_is_shared_as_the_ranks_decide() -> None:
    """By its size alone, whether or not it would fit: computing again changes nothing about it."""
    eight = replace(job_of("llama-3.1-8b-instruct"), devices=4)
    size = estimate.base_bytes(eight.shape, "none", eight.item_bytes)
    assert [held(eight, num_bytes).shards for num_bytes in (2 * size - 2, 2 * size)] == [4, 1]
    assert held(replace(eight, quantize="nf4"), size).shards == 1, "packed weights are never cut"
    room = Room(int(2.01 * size * USABLE), CUDA)
    found = [spread(replace(eight, longest=longest), room, most=60_000) for longest in (2000, 8000, 20_000)]
    assert [job and (job.shards, job.recompute) for job in found] == [(1, "none"), (1, "layer"), None]
