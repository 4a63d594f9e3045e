"""The choice of a token: greedy, drawn by seed, and from the nucleus only."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sartor.generate.batch.choose import NUCLEUS, Ask, choose
from sartor.generate.protocol import Sampling


def ask(temperature: float, *, top_p: float = 1.0, seed: int = 0, place: int = 0) -> Ask:
    return Ask(Sampling(9, frozenset(), temperature=temperature, top_p=top_p, seed=seed), place)


def drawn(logits: torch.Tensor, temperature: float, top_p: float = 1.0, count: int = 4000) -> Counter[int]:
    return Counter(choose(logits[None], [ask(temperature, top_p=top_p, seed=seed)])[0] for seed in range(count))


def test_greedy_and_drawn_rows_in_one_batch() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    best = logits.argmax(dim=-1).tolist()
    chosen = choose(logits, [ask(0), ask(1.0, seed=3), ask(0)])
    assert [chosen[0], chosen[2]] == [best[0], best[2]]
    assert choose(logits[1:2], [ask(1.0, seed=3)]) == [chosen[1]]


def test_draws_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    counts = drawn(logits, 1.0)
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    sharper = drawn(logits, 0.5)
    assert sharper[0] / 4000 == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.03)


@pytest.mark.parametrize(("top_p", "allowed"), [(0.5, {0}), (0.51, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_the_nucleus_is_the_smallest_that_holds_top_p(top_p: float, allowed: set[int]) -> None:
    assert set(drawn(torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])), 1.0, top_p, 500)) == allowed


def test_a_nucleus_larger_than_the_first_look() -> None:
    flat = torch.zeros(4 * NUCLEUS)
    tokens = drawn(flat, 1.0, 0.9, 300)
    assert len(tokens) > 200 and max(tokens) > NUCLEUS


def test_seed_and_place_decide() -> None:
    logits = torch.zeros(1, 1000)
    first = choose(logits, [ask(1.0, seed=1)])
    assert choose(logits, [ask(1.0, seed=1)]) == first
    assert choose(logits, [ask(1.0, seed=1, place=1)]) != first != choose(logits, [ask(1.0, seed=2)])


def test_the_smallest_temperature_is_as_good_as_none() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * 20
    assert choose(logits, [ask(1e-300), ask(1e-45, top_p=0.9)]) == logits.argmax(dim=-1).tolist()
