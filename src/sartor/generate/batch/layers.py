"""A loaded model's layers made ready for sampling: fewer and larger products, every adapter at hand, norms in one call.

Linear layers that read the same input become one product, whatever adapters the tokens have (`products.py`); what
adapters make of other modules comes after those (`rewrite.py`). On a CPU the weights are laid out once, and the
modules' own let go.

Shapes: T tokens · K inputs · N outputs of the layers of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.adapters.changes import Change, Changes
from sartor.errors import ModelError, Unsupported
from sartor.generate.batch.products import Own, Product, product_of, scales_input
from sartor.generate.batch.rewrite import Rewrite
from sartor.generate.batch.runs import Choice, Run, Runs
from sartor.hub import TOGETHER

#: Changes by module and then by adapter: the adapter's place is its number.
ByModule = Mapping[str, Mapping[int, Sequence[Change]]]


class JointLinears:
    """Linear layers with the same input. The first that is called computes all; each result is handed out once."""

    def __init__(self, layers: Mapping[str, nn.Linear], changes: ByModule, runs: Runs) -> None:
        self._runs = runs
        self._seen: torch.Tensor | None = None
        self._made: dict[int, torch.Tensor] = {}
        self._sizes = [layer.out_features for layer in layers.values()]
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
            self._seen, self._made = x, dict(enumerate(self._compute(x)))
        y = self._made.pop(place)
        if not self._made:
            self._seen = None
        return y

    def _compute(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        runs = self._runs.of(self._own)
        y = self._mixed(x.flatten(0, -2), runs).view(*x.shape[:-1], -1) if runs else self._product(x)
        return torch.split(y, self._sizes, dim=-1) if len(self._sizes) > 1 else (y,)

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
        made_TN = x_TK.new_zeros(len(x_TK), sum(self._sizes)) if low and rounds else self._multiply(read_TK, runs)
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
        self._together = together
        self._place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._together.take(self._place, x)


class Norm(nn.Module):
    """RMSNorm as one call of torch's."""

    def __init__(self, weight_D: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self._weight_D = weight_D
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self._weight_D.shape, self._weight_D, self._epsilon)


def prepare(model: nn.Module, adapters: Sequence[Changes], *, head: str = "") -> Choice:
    """Replace the layers of a model of our own. What each token's adapter is goes into the choice before a forward.

    Args:
        model: as it was loaded.
        adapters: what each makes of the model, in the order of their numbers.
        head: the name of the module that sees wanted tokens alone.

    Raises:
        ModelError: an adapter changes a module that this model does not have, or has in another size.
    """
    choice = Choice()
    changes = _by_module(adapters)
    modules = dict(model.named_modules())
    missing = sorted(changes.keys() - modules.keys())
    if missing:
        raise ModelError(
            f"an adapter changes {missing[0]}, which this model does not have",
            hint="the adapter belongs to another base model",
        )
    rewrites = {
        name: Rewrite(name, modules[name], own, choice.wanted if name == head else choice.tokens, _faster)
        for name, own in changes.items()
        if type(modules[name]) is not nn.Linear
    }
    for prefix, parent in modules.items():
        children = {f"{prefix}.{name}".strip("."): child for name, child in parent.named_children()}
        linear = {name: child for name, child in children.items() if type(child) is nn.Linear}
        for group in _groups(linear, changes):
            layers = {name: linear[name] for name in group}
            together = JointLinears(layers, changes, choice.wanted if group == (head,) else choice.tokens)
            for place, name in enumerate(group):
                parent.register_module(name.rpartition(".")[2], Part(together, place))
        for name, child in children.items():
            faster = _faster(child)
            if faster is not child:
                parent.register_module(name.rpartition(".")[2], faster)
    for name, rewrite in rewrites.items():
        model.get_submodule(name).register_forward_hook(rewrite, with_kwargs=True)
    return choice


def _by_module(adapters: Sequence[Changes]) -> ByModule:
    changes: dict[str, dict[int, Sequence[Change]]] = {}
    for number, adapter in enumerate(adapters):
        for name, own in adapter.modules.items():
            changes.setdefault(name, {})[number] = own
    return changes


def _groups(linear: Mapping[str, nn.Linear], changes: ByModule) -> list[tuple[str, ...]]:
    """The linear layers of a module, those with the same input together."""
    groups = []
    for kinds in TOGETHER:
        names = tuple(name for kind in kinds for name in linear if name.rpartition(".")[2] == kind)
        same = len(names) == len(kinds) and len({linear[name].bias is None for name in names}) == 1
        if same and not any(scales_input(own) for name in names for own in changes.get(name, {}).values()):
            groups.append(names)
    taken = {name for names in groups for name in names}
    return [*groups, *((name,) for name in linear if name not in taken)]


def _faster(module: nn.Module) -> nn.Module:
    """A norm that gives what this module gives, if it is an RMSNorm of a kind we know (it is tried on numbers).

    Otherwise the module itself.
    """
    if not type(module).__name__.endswith("RMSNorm"):
        return module
    weights = [weight for name, weight in module.named_parameters() if name == "weight"]
    facts: dict[str, Any] = vars(module)
    epsilon = facts.get("variance_epsilon", facts.get("eps"))
    if not weights or not isinstance(epsilon, float):
        return module
    weight_D = weights[0].detach()
    x = torch.randn(4, len(weight_D), generator=torch.Generator().manual_seed(0)).to(weight_D)
    with torch.no_grad():
        wanted = module(x)
        for scale_D in (weight_D, (1.0 + weight_D.float()).to(weight_D.dtype)):
            norm = Norm(scale_D, epsilon)
            if torch.allclose(norm(x), wanted, rtol=0.02 if weight_D.dtype == torch.bfloat16 else 1e-5, atol=1e-6):
                return norm
    return module
