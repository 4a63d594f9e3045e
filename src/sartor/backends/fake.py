"""A policy of 4,096 numbers that learns which token follows which: for tests of the loop, of saving and of resuming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sartor.errors import NumericsError
from sartor.plan import Adam, Plan
from sartor.types import Batch, Sums, TokenStats

VOCAB = 64
STATE = "trainer.safetensors"


class FakeBackend:
    """See `protocol.Backend`. log p(target | token) = log softmax(table[token]) with ids taken modulo 64."""

    warnings: tuple[str, ...] = ()

    def __init__(self, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self._table_VV = torch.nn.Parameter(torch.randn(VOCAB, VOCAB) * 0.1)
        self._velocity_VV = torch.zeros(VOCAB, VOCAB)
        self._rows: list[str] = []

    def forward_backward(self, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool = True) -> Sums:
        supervised_N = torch.from_numpy(batch.weights_T != 0).nonzero()[:, 0]
        tokens_N = torch.from_numpy(batch.tokens_T)[supervised_N] % VOCAB
        targets_N = torch.from_numpy(batch.targets_T)[supervised_N] % VOCAB
        stats = TokenStats(
            logprobs_N=torch.log_softmax(self._table_VV[tokens_N], dim=-1).gather(1, targets_N[:, None])[:, 0],
            weights_N=torch.from_numpy(batch.weights_T)[supervised_N],
            segments_N=torch.bucketize(supervised_N, torch.from_numpy(batch.offsets_S1[1:]).long(), right=True),
        )
        loss, metrics = objective.loss(config, stats, batch)
        if grad:
            (loss / weight).backward()
            self._rows += batch.rows
        return Sums(float(loss.detach()), batch.num_tokens, batch.num_supervised, metrics)

    def step(self, adam: Adam) -> float:
        gradient_VV = self._table_VV.grad
        if gradient_VV is None:
            raise NumericsError("a step without a gradient", hint="call forward_backward first")
        rows, self._rows, self._table_VV.grad = self._rows, [], None
        norm = float(gradient_VV.norm())
        if not torch.isfinite(gradient_VV).all():
            raise NumericsError(f"the gradient is not finite; rows: {', '.join(rows)}", hint="look at these rows")
        with torch.no_grad():
            self._velocity_VV.mul_(adam.beta1).add_(gradient_VV)
            self._table_VV.sub_(self._velocity_VV, alpha=adam.learning_rate)
        return norm

    def sum(self, value: float) -> float:
        return value

    def save(self, folder: Path) -> None:
        save_file({"table": self._table_VV.detach(), "velocity": self._velocity_VV}, folder / STATE)

    def load(self, folder: Path) -> None:
        tensors = load_file(folder / STATE)
        with torch.no_grad():
            self._table_VV.copy_(tensors["table"])
        self._velocity_VV = tensors["velocity"]

    def export(self, folder: Path) -> None:
        save_file({"table": self._table_VV.detach()}, folder / "adapter_model.safetensors")


def open_backend(plan: Plan, examples: Sequence[Batch] = ()) -> FakeBackend:
    return FakeBackend(plan)
