"""Memory that the blocks reuse: scratch of one block at a time, and what a forward leaves for its backward.

A training step would otherwise ask the system for a gigabyte and give it back, page by page. Every buffer grows to its
largest size and stays. What is saved belongs to a `Round`, one forward with its backward: a second forward before the
first one's backward gets buffers of its own, so nothing is ever overwritten that is still needed.
"""

from __future__ import annotations

import math

import torch

Key = tuple[str, int]
CPU = torch.device("cpu")


class Buffers:
    """Named buffers. A view of the shape asked for, tokens first, with whatever stood there before.

    Each is made large enough for `num_rows` tokens, whatever the first shape asked for is. A buffer that has to grow
    leaves a hole behind; on a CPU memory that was never written costs nothing, and on a GPU micro-batches are full.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._buffers: dict[Key, torch.Tensor] = {}

    def take(
        self, name: str, layer: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = CPU
    ) -> torch.Tensor:
        """The buffer of this name and layer, until it is asked for again."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, layer))
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype or buffer.device != device:
            self._buffers.pop((name, layer), None)  # the old one is given back before the new one is made
            whole = max(size, size // max(1, shape[0]) * self._num_rows)
            self._buffers[name, layer] = buffer = torch.empty(whole, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())


class Workspace:
    """Scratch, and the rounds: one for each forward whose backward is still to come."""

    def __init__(self, num_rows: int = 0, device: torch.device = CPU) -> None:
        self._num_rows, self._device = num_rows, device
        self._scratch = Buffers(num_rows)
        self._free: list[Buffers] = []

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A buffer until the next block asks for one of the same name."""
        return self._scratch.take(name, 0, shape, dtype, self._device)

    def begin(self) -> Round:
        """Buffers for one forward, which nobody else has until its `end`."""
        return Round(self, self._free.pop() if self._free else Buffers(self._num_rows), self._device)

    def _give_back(self, buffers: Buffers) -> None:
        self._free.append(buffers)


class Round:
    """What one forward saves. `end` after its backward: the buffers then serve the next one."""

    def __init__(self, workspace: Workspace, buffers: Buffers, device: torch.device) -> None:
        self._workspace, self._buffers, self._device = workspace, buffers, device

    def save(self, name: str, layer: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory for what a layer's backward will read."""
        return self._buffers.take(name, layer, shape, dtype, self._device)

    def end(self) -> None:
        self._workspace._give_back(self._buffers)
