"""Contrastive learning of embeddings: each question finds its own answer among those of its step (InfoNCE).

van den Oord et al. 2018 (arXiv 1807.03748), eq. 4, with the cosine over a temperature as the score and the answers of
the other pairs as negatives, as in Karpukhin et al. 2020 (arXiv 2004.04906), §3.2. The examples of a step are each
other's negatives, so here a step is one batch: cutting it would change the mathematics (`NEEDS` says "whole_steps").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sartor.data.pad import halves
from sartor.types import Batch, Frozen, TokenStats

if TYPE_CHECKING:
    import torch

SUMMARY = "contrastive: embeddings in which each question is nearest to its own answer"
EXAMPLE = frozenset({"chat"})
NEEDS: frozenset[str] = frozenset({"embeddings", "whole_steps"})
ONLINE = False


class Config(Frozen):
    """How sharply near and far are told apart."""

    temperature: float = Field(0.05, gt=0, le=1, description="Cosines are divided by it: lower looks at the nearest.")


def weight(batch: Batch) -> float:
    """Pairs."""
    return float(len(_answers(batch)))


def loss(config: Config, stats: TokenStats, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The sum over pairs of -log softmax(cos(question, answers) / temperature) at the own answer.

    An answer that stands in the batch several times is no negative of its own questions.
    """
    if stats.embeddings_2SD is None:
        raise ValueError("no embeddings were given")
    questions_SD, answers_SD = stats.embeddings_2SD
    scores_SS = questions_SD @ answers_SD.t() / config.temperature
    own_S = scores_SS.diagonal()
    names = {answer: number for number, answer in enumerate(_answers(batch))}
    names_S = own_S.new_tensor([names[answer] for answer in _answers(batch)])
    same_SS = (names_S[:, None] == names_S[None]).fill_diagonal_(False)
    return (scores_SS.masked_fill(same_SS, float("-inf")).logsumexp(dim=1) - own_S).sum(), {}


def _answers(batch: Batch) -> list[tuple[int, ...]]:
    """The tokens of each pair's answer."""
    return [tuple(second.tolist()) for second in halves(batch)[1] if len(second)]
