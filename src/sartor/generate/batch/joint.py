"""Linear layers that read the same input as one product, whatever adapters the tokens have.

Shapes: T tokens · K inputs · N outputs of the layers of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sartor.adapters.changes import Change
from sartor.errors import Unsupported
from sartor.generate.batch.products import Own, Product, product_of
from sartor.generate.batch.runs import Run, Runs

#: Changes by module and then by adapter: the adapter's place is its number.
ByModule = Mapping[str, Mapping[int, Sequence[Change]]]


class JointLinears:
    """Linear layers with the same input. The first that is called computes all; each result is handed out once."""

    def __init__(self, layers: Mapping[str, nn.Linear], changes: ByModule, runs: Runs) -> None:
        self._runs = runs
        self._seen: torch.Tensor | None = None
        self._made: dict[int, torch.Tensor] = {}
        self._sizes = [layer.out_features for layer in layers.values()]
        weight = next(iter(layers.values())).weight
        #: Of the size, type and place of what the layers read.
        self.like_K = weight.new_empty(weight.shape[1])
        biases = [layer.bias.detach() for layer in layers.values() if layer.bias is not None]
        self._product = product_of(
            torch.cat([layer.weight.detach() for layer in layers.values()]), torch.cat(biases) if biases else None
        )
        numbers = sorted({number for name in layers for number in changes.get(name, {})})
        self._own = {
            number: Own(layers, {name: changes[name].get(number, ()) for name in layers if name in changes})
            for number in numbers
        }

    def take(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """The output of the layer at a place of the group."""
        if x is not self._seen or place not in self._made:
            self._seen, self._made = x, dict(enumerate(torch.split(self.whole(x), self._sizes, dim=-1)))
        y = self._made.pop(place)
        if not self._made:
            self._seen = None
        return y

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs of all layers side by side."""
        runs = self._runs.of(self._own)
        return self._mixed(x.flatten(0, -2), runs).view(*x.shape[:-1], -1) if runs else self._product(x)

    @property
    def num_outputs(self) -> int:
        """Of all layers."""
        return sum(self._sizes)

    def _mixed(self, x_TK: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """The outputs of all layers side by side, of tokens with and without adapters."""
        if len(x_TK) != self._runs.num_tokens:
            raise Unsupported(
                f"a layer with an adapter sees {len(x_TK)} tokens of {self._runs.num_tokens}: it chooses among them",
                hint="sample with the engine `peft`",
            )
        read_TK = self._scaled(x_TK, runs)
        low = [run for run in runs if self._own[run.adapter].has_low_ranks]
        rounds = x_TK.dtype != torch.float32  # then what is small comes first (`products.py`)
        made_TN = x_TK.new_zeros(len(x_TK), self.num_outputs) if low and rounds else self._multiply(read_TK, runs)
        for run in low:
            self._own[run.adapter].add_low_ranks(read_TK[run.rows], made_TN[run.rows])
        if low and rounds:
            made_TN = self._multiply(read_TK, runs, made_TN)
        for run in runs:
            for columns, step in self._own[run.adapter].after:
                step(x_TK[run.rows], made_TN[run.rows, columns])
        return made_TN

    def _scaled(self, x_TK: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """What the layer reads, where adapters scale it."""
        scaled_TK = x_TK
        for run in runs:
            scale_K = self._own[run.adapter].input_K
            if scale_K is not None:
                scaled_TK = x_TK.clone() if scaled_TK is x_TK else scaled_TK
                scaled_TK[run.rows] *= scale_K
        return scaled_TK

    def _multiply(self, x_TK: torch.Tensor, runs: Sequence[Run], plus_TN: torch.Tensor | None = None) -> torch.Tensor:
        """One product of all tokens with the base's weights, but of those with weights of their own."""
        parts: list[tuple[slice, Product]] = []
        place = 0
        for run in runs:
            product = self._own[run.adapter].product
            if product is not None:
                parts += [(slice(place, run.rows.start), self._product), (run.rows, product)]
                place = run.rows.stop
        parts.append((slice(place, len(x_TK)), self._product))
        made = [
            product(x_TK[rows]) if plus_TN is None else product.plus(x_TK[rows], plus_TN[rows])
            for rows, product in parts
            if rows.start < rows.stop
        ]
        return torch.cat(made) if len(made) > 1 else made[0]


class Part(nn.Module):
    """Stands where one of the group's layers stood."""

    def __init__(self, together: JointLinears, place: int) -> None:
        super().__init__()
        self.together = together
        self._place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.together.take(self._place, x)
