"""By torch, for encoders and encoder-decoders: padded batches through transformers' own code.

A flat batch is cut into forwards of segments of like length, each padded to its longest. What an objective that needs
whole steps gets is one batch, whose forwards share one backward. The base's own dropout is off, as its random numbers
would make the result depend on how a step is cut; an adapter's is on where it was asked for.

Shape suffixes: S segments · B rows · N supervised positions · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sartor.adapters import family_of
from sartor.backends import forms, placement
from sartor.backends.ranks import Alone
from sartor.backends.torch import configure
from sartor.backends.updates import Updates
from sartor.data.pad import alike, halves, whole
from sartor.ops import consistency
from sartor.plan import Adam, Plan
from sartor.types import FIRST_LABEL, Batch, Sums, TokenStats


class PaddedBackend:
    """See `protocol.Backend`."""

    warnings: tuple[str, ...] = ()

    def __init__(self, plan: Plan, examples: Sequence[Batch] = ()) -> None:
        configure(plan)
        ranks = Alone()
        self._device = placement.device_of(ranks.place)
        self._form = plan.model.form
        family = family_of(plan.adapter.name)
        self._family, config = family, family.Config(**plan.adapter.settings)
        self._model = attached(plan, family, config).to(self._device)
        self._coupled = family.HOOKS.couple(config) > 0
        family.HOOKS.calibrate(self._model, config, examples)
        self._updates = Updates(self._model, family, config, plan, ranks, self._device)

    def forward_backward(self, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool = True) -> Sums:
        embeds = "embeddings" in objective.NEEDS
        pieces = [batch] if embeds else alike(batch)
        stats = self._embedded if embeds else self._labelled if self._form == "classifier" else self._answered
        forward = partial(self._updates.forward_backward, stats)
        return reduce(add, [forward(piece, objective, config, weight, grad=grad) for piece in pieces])

    def step(self, adam: Adam) -> float:
        norm = self._updates.step(adam)
        self._updates.refresh()
        return norm

    def sum(self, value: float) -> float:
        return value

    def save(self, folder: Path) -> None:
        self._updates.save(folder)

    def load(self, folder: Path) -> None:
        self._updates.load(folder)
        self._updates.refresh()

    def export(self, folder: Path) -> None:
        self._family.export(self._model, folder)

    def _labelled(self, batch: Batch) -> TokenStats:
        """The log-probability of each text's label, which the last token of the text predicts."""
        places_N = np.flatnonzero(batch.weights_T)
        segments_N = self._segments(batch, places_N)

        def run() -> torch.Tensor:
            return forms.label_logprobs(self._model, whole(batch), self._device)[segments_N]

        return self._told(batch, run, batch.targets_T[places_N] - FIRST_LABEL)

    def _answered(self, batch: Batch) -> TokenStats:
        """The log-probability of each token of the answers, given those before it."""
        sources, answers = halves(batch)
        places_N = np.flatnonzero(batch.weights_T)
        segments_N = self._segments(batch, places_N)
        begins_S = batch.offsets_S1[:-1] + np.array([len(source) for source in sources])
        within_N = torch.from_numpy(places_N).to(self._device) - torch.from_numpy(begins_S).to(self._device)[segments_N]

        def run() -> torch.Tensor:
            logits_SLV = forms.answer_logits(self._model, sources, answers, self._device)
            return torch.log_softmax(logits_SLV[segments_N, within_N].float(), dim=-1)

        return self._told(batch, run, batch.targets_T[places_N])

    def _embedded(self, batch: Batch) -> TokenStats:
        """Questions and answers as vectors, of those segments that have both."""
        pairs = [(first, second) for first, second in zip(*halves(batch), strict=True) if len(second)]
        texts = [first for first, _ in pairs] + [second for _, second in pairs]
        vectors = forms.embeddings(self._model, texts, self._device)
        nothing_N = torch.zeros(0, device=self._device)
        return TokenStats(nothing_N, nothing_N, nothing_N.long(), vectors.view(2, len(pairs), -1))

    def _told(self, batch: Batch, run: Callable[[], torch.Tensor], targets_N: np.ndarray) -> TokenStats:
        """`run` gives the log-probabilities (N, V): once, or in training twice where two passes are coupled."""
        logprobs_NV = run()
        coupled = self._coupled and torch.is_grad_enabled()
        places_N = np.flatnonzero(batch.weights_T)
        targets = torch.from_numpy(targets_N).to(self._device)
        return TokenStats(
            logprobs_N=logprobs_NV.gather(1, targets[:, None])[:, 0],
            weights_N=torch.from_numpy(batch.weights_T[places_N]).to(self._device),
            segments_N=self._segments(batch, places_N),
            apart_N=consistency.between(logprobs_NV, run()) if coupled else None,
        )

    def _segments(self, batch: Batch, places_N: np.ndarray) -> torch.Tensor:
        """The segment of each position."""
        return torch.from_numpy(np.searchsorted(batch.offsets_S1[1:], places_N, side="right")).to(self._device)


def attached(plan: Plan, family: Any, config: Any) -> Any:
    """The base of a plan with its tuning method, seeded; only what the method adds is in training mode."""
    torch.manual_seed(plan.seed)
    model = forms.open_model(plan.model.path, plan.model.form, plan.model.labels, vars(torch)[plan.model.dtype])
    placement.own(model)
    base = set(model.modules())
    made = family.attach(model, config)
    made.train()
    for part in base:
        part.training = False
    return made


def open_backend(plan: Plan, examples: Sequence[Batch] = ()) -> PaddedBackend:
    """Weights, adapter and optimizer of a plan, in place."""
    return PaddedBackend(plan, examples)
