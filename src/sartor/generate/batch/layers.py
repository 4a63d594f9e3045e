"""A loaded model's layers made ready for sampling: fewer and larger products, every adapter at hand, fewer calls.

Linear layers that read the same input become one product, whatever adapters the tokens have (`joint.py`); norms and
gates become one call (`faster.py`); what adapters make of other modules comes after those (`rewrite.py`). On a CPU the
weights are laid out once, and the modules' own let go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from sartor.adapters.changes import Change, Changes
from sartor.errors import ModelError
from sartor.generate.batch.faster import faster_gate, faster_norm
from sartor.generate.batch.joint import ByModule, JointLinears, Part
from sartor.generate.batch.products import scales_input
from sartor.generate.batch.rewrite import Rewrite
from sartor.generate.batch.runs import Choice
from sartor.hardware import return_freed_memory
from sartor.hub import TOGETHER


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
        name: Rewrite(name, modules[name], own, choice.wanted if name == head else choice.tokens, faster_norm)
        for name, own in changes.items()
        if type(modules[name]) is not nn.Linear
    }
    parents = {name: module for name, module in modules.items() if type(module) is not nn.Linear}
    del modules  # it would hold each weight a second time until the last is laid out
    for prefix, parent in parents.items():
        if _replace_children(prefix, parent, changes, choice, head):
            return_freed_memory()
    for name, module in parents.items():
        faster = module if any(other.startswith(f"{name}.") for other in rewrites) else faster_gate(module)
        if faster is not module:
            model.set_submodule(name, faster)
    for name, rewrite in rewrites.items():
        model.get_submodule(name).register_forward_hook(rewrite, with_kwargs=True)
    return choice


def _replace_children(prefix: str, parent: nn.Module, changes: ByModule, choice: Choice, head: str) -> bool:
    """Put joint linear layers and faster norms in the places of a module's own; whether there were linear layers."""
    children = {f"{prefix}.{name}".strip("."): child for name, child in parent.named_children()}
    linear = {name: child for name, child in children.items() if type(child) is nn.Linear}
    for group in _groups(linear, changes):
        layers = {name: linear[name] for name in group}
        together = JointLinears(layers, changes, choice.wanted if group == (head,) else choice.tokens)
        for place, name in enumerate(group):
            parent.register_module(name.rpartition(".")[2], Part(together, place))
    for name, child in children.items():
        faster = faster_norm(child)
        if faster is not child:
            parent.register_module(name.rpartition(".")[2], faster)
    return bool(linear)


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
