"""The choice of the next token, row by row: what a row gets depends on its logits, its seed and its place alone.

Shapes: B rows · V vocabulary · C candidates.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sartor.generate.protocol import Sampling
from sartor.ops.decode import best_of

NUCLEUS = 512  # candidates looked at first: sorting the whole vocabulary costs more than the rest of the choice


@dataclass(frozen=True, slots=True)
class Ask:
    """How a row wants its token chosen, and the how many-eth of its answer it is."""

    sampling: Sampling
    place: int


def choose(logits_BV: torch.Tensor, asks: Sequence[Ask]) -> list[int]:
    """Greedy at temperature 0; otherwise from the smallest set of tokens that holds `top_p` of the probability."""
    chosen = best_of(logits_BV)
    for row, ask in enumerate(asks):
        if ask.sampling.temperature > 0:
            chosen[row] = _draw(logits_BV[row], ask)
    return chosen


def _draw(logits_V: torch.Tensor, ask: Ask) -> int:
    # In fp64 and from the largest down: a tiny temperature leaves that one, and nothing overflows.
    below_V = logits_V.double() - logits_V.max()
    probabilities_V = torch.softmax(below_V / ask.sampling.temperature, dim=-1)
    # A generator for each token, seeded by seed and place: no state to keep, and a row may be interrupted.
    luck = random.Random(f"{ask.sampling.seed} {ask.place}").random()  # noqa: S311 - a seeded draw, not a secret
    if ask.sampling.top_p >= 1:
        return _at(probabilities_V, luck)
    for count in (min(NUCLEUS, len(probabilities_V)), len(probabilities_V)):
        best_C, ids_C = probabilities_V.topk(count)
        before_C = best_C.cumsum(dim=0) - best_C
        if before_C[-1] >= ask.sampling.top_p or count == len(probabilities_V):
            break
    return int(ids_C[_at(best_C.masked_fill(before_C >= ask.sampling.top_p, 0.0), luck)])


def _at(weights_C: torch.Tensor, luck: float) -> int:
    """The candidate at a share `luck` in [0, 1) of the summed weight."""
    sums_C = weights_C.cumsum(dim=0)
    return min(int(torch.searchsorted(sums_C, luck * sums_C[-1], right=True)), len(weights_C) - 1)
