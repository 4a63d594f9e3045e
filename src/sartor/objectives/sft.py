"""Supervised fine-tuning: the negative log-likelihood of the supervised tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sartor.types import Batch, Frozen, TokenStats

if TYPE_CHECKING:
    import torch

SUMMARY = "supervised fine-tuning: learn to give the answers shown"
EXAMPLE = frozenset({"chat", "text"})
NEEDS: frozenset[str] = frozenset()
ONLINE = False


class Config(Frozen):
    """No settings."""


def weight(batch: Batch) -> float:
    """Supervised tokens, each counted by its weight."""
    return float(batch.weights_T.sum())


def loss(config: Config, stats: TokenStats, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted sum of -log p over supervised positions (nats), and no further metrics."""
    return -(stats.weights_N * stats.logprobs_N).sum(), {}
