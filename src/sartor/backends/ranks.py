"""Several processes that train one policy: which of them this is, its part of each step, and who writes.

A rank computes some of the micro-batches of a step; gradients, losses and counts are summed. What is in a step, and in
which order, never depends on the number of ranks. `Alone` is the one rank of an ordinary process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sartor.errors import UserError
from sartor.types import Batch

if TYPE_CHECKING:
    import torch

    from sartor.backends.placement import Policy
    from sartor.store import Restorable, Run

#: The share of a rank's memory that a replicated base may take; the rest is for activations.
LARGEST_BASE = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Which of `size` processes this is; `local_rank` of `local_size` counts those of this machine only."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def here() -> Place:
    """The place that torchrun gave to this process; one of one in any other process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # RANK alone may be left over from a scheduler
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))


def refuse_many(backend: str, num_ranks: int) -> None:
    """Say early that a backend computes in one process.

    Raises:
        UserError: it does, and there are several.
    """
    if backend == "padded" and num_ranks > 1:
        raise UserError("encoders and encoder-decoders train in one process", hint="leave out --ranks")


def share(batches: Sequence[Batch], place: Place) -> list[Batch]:
    """The micro-batches of a step that a rank computes: every rank as many, so that collectives meet.

    What does not come out even is cut between segments. A rank for which there is no segment left computes one token
    of weight zero.
    """
    whole = len(batches) - len(batches) % place.size
    left = batches[whole:]
    pieces = [piece for number, batch in enumerate(left) for piece in cut(batch, _nth(number, len(left), place.size))]
    dealt = [*batches[:whole], *pieces, *[idle()] * (-len(pieces) % place.size)]
    return dealt[place.rank :: place.size]


def cut(batch: Batch, parts: int) -> list[Batch]:
    """A batch as at most so many batches of about as many tokens each, in order, cut between segments."""
    starts, total = batch.offsets_S1[:-1], batch.num_tokens
    owner_S = np.minimum((starts + np.diff(batch.offsets_S1) / 2) * parts // total, parts - 1)
    bounds = [0, *(np.flatnonzero(np.diff(owner_S)) + 1).tolist(), len(starts)]
    return [_segments(batch, first, last) for first, last in pairwise(bounds)]


def _nth(number: int, count: int, size: int) -> int:
    """How many of `size` pieces fall to one of `count` batches."""
    return size // count + (number < size % count)


def _segments(batch: Batch, first: int, last: int) -> Batch:
    """Segments `first` up to `last` (exclusive) of a batch."""
    start, end = int(batch.offsets_S1[first]), int(batch.offsets_S1[last])
    return replace(
        batch,
        tokens_T=batch.tokens_T[start:end],
        positions_T=batch.positions_T[start:end],
        targets_T=batch.targets_T[start:end],
        weights_T=batch.weights_T[start:end],
        offsets_S1=batch.offsets_S1[first : last + 1] - batch.offsets_S1[first],
        rows=batch.rows[first:last],
    )


def idle() -> Batch:
    """A batch that stands for nothing: one token, not trained, of the row "", which is none."""
    zero = np.zeros(1, dtype=np.int64)
    return Batch(
        tokens_T=zero,
        positions_T=zero,
        targets_T=zero,
        weights_T=np.zeros(1, dtype=np.float32),
        offsets_S1=np.array([0, 1], dtype=np.int32),
        rows=("",),
    )


def fits_each(base_bytes: float, rank_bytes: float) -> bool:
    """Whether a whole base leaves each rank enough of its memory; where it does not, all shard it."""
    return base_bytes <= LARGEST_BASE * rank_bytes


class Ranks(Protocol):
    """What a backend asks of the processes beside it. Every call but `part` must be made by all ranks, in one order."""

    @property
    def place(self) -> Place: ...

    def settle(self, policy: Policy, *, trains: str) -> bool:
        """Bring a policy to this rank's device; whether all its weights are whole here. `trains`: adapter | model."""
        ...

    def sum(self, value: float) -> float:
        """The sum over all ranks."""
        ...

    def reduce(self, gradients: Sequence[torch.Tensor]) -> None:
        """Replace each gradient by its sum over all ranks, where sharding did not do that already."""
        ...

    def join(self, words: Sequence[str]) -> list[str]:
        """The words of all ranks, in the order of the ranks."""
        ...

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The CPU tensors of all ranks, all of one shape, in the order of the ranks."""
        ...

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """The whole of a tensor of which each rank may hold a part."""
        ...

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The part of a whole tensor that a rank holds of `like`: the mirror of `whole`."""
        ...


class Alone:
    """One process: nothing to sum, nothing to share."""

    place = Place()

    def settle(self, policy: Policy, *, trains: str) -> bool:
        from sartor.backends.placement import device_of

        policy.to(device_of(self.place))
        return True

    def sum(self, value: float) -> float:
        return value

    def reduce(self, gradients: Sequence[torch.Tensor]) -> None:
        pass

    def join(self, words: Sequence[str]) -> list[str]:
        return list(words)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor]

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return whole


class Keeper(Protocol):
    """What the loop asks of a run on disk."""

    def restore(self, parts: Sequence[Restorable], decided: str) -> int: ...

    def save(self, step: int, parts: Sequence[Restorable], decided: str) -> Path: ...

    def export(self, *writers: Callable[[Path], None]) -> Path: ...


def keeper(run: Run, place: Place, total: Callable[[float], float]) -> Keeper:
    """Who keeps the files of a run that `place` works on: the run itself, or one that lets only rank 0 write.

    `total` sums a number over all ranks.
    """
    return run if place.size == 1 else SharedRun(run, place, total)


@dataclass(frozen=True)
class SharedRun:
    """A run on which several ranks work, in one file system: rank 0 writes.

    The others do the same work, because gathering takes all of them, into a folder that is thrown away.
    """

    run: Run
    place: Place
    total: Callable[[float], float]

    def restore(self, parts: Sequence[Restorable], decided: str) -> int:
        """Rank 0 chooses, and removes what cannot be used; then the others load the same one."""
        step = self.run.restore(parts, decided) if self.place.rank == 0 else 0
        step = int(self.total(step))
        if self.place.rank and step:
            for part in parts:
                part.load(self.run.checkpoints()[0])
        return step

    def save(self, step: int, parts: Sequence[Restorable], decided: str) -> Path:
        if self.place.rank == 0:
            return self.run.save(step, parts, decided)
        return _thrown_away([part.save for part in parts])

    def export(self, *writers: Callable[[Path], None]) -> Path:
        if self.place.rank == 0:
            return self.run.export(*writers)
        return _thrown_away(writers)


def _thrown_away(writers: Sequence[Callable[[Path], None]]) -> Path:
    with tempfile.TemporaryDirectory(prefix="sartor-") as name:
        for write in writers:
            write(Path(name))
        return Path(name)
