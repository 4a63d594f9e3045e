"""From losses to other weights, and the state of that on disk: what all backends by torch share.

Shape suffixes: S segments · N supervised positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sartor.backends import optimizer, placement
from sartor.backends.ranks import Ranks
from sartor.errors import NumericsError
from sartor.plan import Adam, Plan
from sartor.types import Batch, Sums, TokenStats

#: A backend's forward: what an objective is told of a batch.
StatsOf = Callable[[Batch], TokenStats]

STATE = "trainer.safetensors"
STEP, METHOD = "step", "method:"  # in it: how many updates there were, and what the tuning method keeps


class Updates:
    """The fp32 masters of a model's trained weights, their optimizer, and what the tuning method does at each step.

    Attributes:
        masters: what the optimizer moves, by the names of the weights.
    """

    def __init__(
        self, model: torch.nn.Module, family: Any, config: Any, plan: Plan, ranks: Ranks, device: torch.device
    ) -> None:
        self._model, self._family, self._config = model, family, config
        self._ranks, self._device = ranks, device
        self._step, self._num_steps = 0, plan.steps
        self._weights = {name: item for name, item in model.named_parameters() if item.requires_grad}
        self.masters = optimizer.masters_of(self._weights)
        groups = optimizer.groups(self.masters, family.HOOKS.rates(model, config))
        self._optimizer = optimizer.make(plan.optimizer, groups, plan.adam(0))
        self._pending: list[tuple[tuple[str, ...], torch.Tensor]] = []

    def forward_backward(
        self, stats_of: StatsOf, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool
    ) -> Sums:
        """See `protocol.Backend.forward_backward`; `stats_of` is the backend's forward."""
        with torch.set_grad_enabled(grad), placement.made_on(self._device), mode(self._model, training=grad):
            stats = stats_of(batch)
            loss, metrics = objective.loss(config, stats, batch)
            total = loss
            if stats.apart_N is not None:
                apart = (stats.apart_N * stats.weights_N.abs()).sum()
                total = loss + self._family.HOOKS.couple(self._config) * apart
                metrics = {**metrics, "consistency": float(apart.detach())}
            if grad:
                (total / weight).backward()
        if grad:
            lost_N = stats.logprobs_N.detach() * stats.weights_N
            per_segment_S = lost_N.new_zeros(len(batch.rows)).index_add_(0, stats.segments_N, lost_N)
            self._pending.append((batch.rows, per_segment_S))
        num_tokens = batch.num_tokens if any(batch.rows) else 0  # an idle rank's token is of no row
        return Sums(
            loss=float(loss.detach()), num_tokens=num_tokens, num_supervised=batch.num_supervised, metrics=metrics
        )

    def step(self, adam: Adam) -> float:
        """See `protocol.Backend.step`; the weights that are computed with follow by `refresh`."""
        gradients = [item.grad for item in self.masters.values() if item.grad is not None]
        self._ranks.reduce(gradients)
        penalty = self._family.HOOKS.penalty(self._model, self._config)
        if penalty is not None:
            penalty.backward()  # of weights alone, so once a step and equal on all ranks
        norm = self._ranks.whole(torch.nn.utils.get_total_norm(gradients))
        self._refuse_non_finite(norm)
        if adam.clip > 0 and norm > adam.clip:
            torch._foreach_mul_(gradients, adam.clip / norm)
        for group in self._optimizer.param_groups:
            group["lr"] = adam.learning_rate * group["rate"]
            group["weight_decay"] = adam.weight_decay
        self._optimizer.step()
        self._step += 1
        self._family.HOOKS.after_step(self._model, self._config, self._step, self._num_steps)
        self.clear()
        return float(norm)

    def clear(self) -> None:
        """Forget the gradients and the rows they came from."""
        self._optimizer.zero_grad(set_to_none=True)
        self._pending.clear()

    def refresh(self) -> None:
        """Round the masters into the weights."""
        optimizer.refresh(self._weights, self.masters)

    def save(self, folder: Path) -> None:
        """The same file from any number of ranks, but for the random state of each: all gather, rank 0 writes."""
        tensors = {}
        for name, item in self.masters.items():
            tensors[f"weight.{name}"] = self.on_disk(item.detach())
            for key, value in optimizer.state_of(self._optimizer, item).items():
                tensors[f"{key}.{name}"] = self.on_disk(value)
        state = self._family.HOOKS.state(self._model, self._config)
        tensors |= {f"{METHOD}{name}": value.detach().cpu().contiguous() for name, value in state.items()}
        tensors[STEP] = torch.tensor(self._step)
        for name, own in placement.random_state(self._device).items():
            tensors[name] = torch.stack(self._ranks.gather(own))
        if self._ranks.place.rank == 0:
            save_file(tensors, folder / STATE)

    def load(self, folder: Path) -> None:
        """The mirror of `save`; the weights follow by `refresh`."""
        tensors = load_file(folder / STATE)
        state = {key.removeprefix(METHOD): tensors.pop(key) for key in list(tensors) if key.startswith(METHOD)}
        self._family.HOOKS.restore(self._model, self._config, state)
        states: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            states.setdefault(name, {})[part] = value
        for name, item in self.masters.items():
            own = states[name]
            with torch.no_grad():
                item.copy_(self._ranks.part(own.pop("weight"), item))
            parts = {key: self._ranks.part(value, item) for key, value in own.items()}
            optimizer.restore(self._optimizer, item, parts)
        self._step = int(tensors[STEP])
        placement.set_random_state(tensors, self._ranks.place.rank)

    def on_disk(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as it goes to disk: whole, on the CPU. All ranks gather it; only rank 0, which writes, keeps it."""
        whole = self._ranks.whole(tensor)
        return whole.cpu().contiguous() if self._ranks.place.rank == 0 else whole.new_empty(0)

    def _refuse_non_finite(self, norm: torch.Tensor) -> None:
        bad = [
            row
            for rows, sums_S in self._pending
            for row, value in zip(rows, sums_S.tolist(), strict=True)
            if value != value or abs(value) == float("inf")
        ]
        num_bad = self._ranks.sum(len(bad))
        if not num_bad and torch.isfinite(norm):
            return
        found = bad if num_bad else [row for members, _ in self._pending for row in members]
        rows = [row for row in dict.fromkeys(self._ranks.join(found)) if row]
        self.clear()
        what = "the loss" if num_bad else "the gradient"
        raise NumericsError(
            f"{what} is not finite; rows of this step: {', '.join(rows[:8])}" + (" …" if len(rows) > 8 else ""),
            hint="look at these rows; if they are sound, lower tune.learning_rate. The weights were not touched",
        )


@contextmanager
def mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Where nothing is learned, nothing is dropped either; what was in training mode is so again afterwards."""
    learning = [] if training else [part for part in model.modules() if part.training]
    for part in learning:
        part.training = False
    try:
        yield
    finally:
        for part in learning:
            part.training = True
