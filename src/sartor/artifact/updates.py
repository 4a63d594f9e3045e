"""An adapter's changes as other weights of the base, or as one low-rank update of each linear layer.

Shapes: K inputs · N outputs · R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sartor.adapters.changes import Change, Changes, LowRank, Scale, Shift, Weight
from sartor.errors import Refused

if TYPE_CHECKING:
    import torch

ENGINE = "serve it as it is, by Sartor's engine"
#: The share of an update's squared size that its low rank must keep; below, a higher rank is taken while there is one.
KEPT = 0.999


def merged(base: Any, changes: Changes) -> Any:
    """The base with the changes in its own weights: the same object, or one of its class with biases where it had none.

    Raises:
        Refused: its layers cannot give what the adapter gives.
    """
    import torch

    _require_modules(changes)
    if any(isinstance(change, Shift) for each in changes.modules.values() for change in each):
        base = _with_biases(base, changes)
    _refuse_half_a_tie(base, changes)
    parts = dict(base.named_modules())
    with torch.no_grad():
        for name, each in changes.modules.items():
            weight, bias = _after(parts[name], each)
            parts[name].weight.copy_(weight)
            if bias is not None:
                parts[name].bias.copy_(bias)
    return base


def low_rank(base: Any, changes: Changes, most: int) -> tuple[dict[str, LowRank], float]:
    """Each linear layer's update as a low-rank one of one rank, and the share of all their squared size that is lost.

    Updates of no more than `most` ranks stay exact; others are cut to their largest singular values: as few as keep
    `KEPT` of the size, and no more than `most`.

    Raises:
        Refused: the adapter changes more than the weights of linear layers.
    """
    import torch
    from torch import nn

    _require_modules(changes)
    parts = dict(base.named_modules())
    for name, each in changes.modules.items():
        if not isinstance(parts[name], nn.Linear) or any(isinstance(change, Shift) for change in each):
            what = "a bias" if isinstance(parts[name], nn.Linear) else "no linear layer"
            raise Refused(f"LoRA cannot give what it does to {name}: {what}", hint=f"convert to a model; or {ENGINE}")
    found, lost, size = {}, 0.0, 0.0
    with torch.no_grad():
        for name, each in changes.modules.items():
            if all(isinstance(change, LowRank) for change in each):
                joined = _joined([change for change in each if isinstance(change, LowRank)])
                if len(joined.down_RK) <= most:
                    found[name] = joined
                    continue
                found[name], part, whole = _cut_joined(joined, most)
            else:
                weight, bias = _after(parts[name], each)
                if bias is not None and not torch.equal(bias, parts[name].bias):
                    raise Refused(f"LoRA cannot give another bias of {name}", hint=f"convert to a model; or {ENGINE}")
                found[name], part, whole = _cut((weight - parts[name].weight).float(), most)
            lost, size = lost + part, size + whole
    return _of_one_rank(found), lost / size if size else 0.0


def _after(part: Any, changes: Sequence[Change]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a module after its changes, one after the other, in fp32."""
    weight = part.weight.detach().float()
    bias = part.bias.detach().float() if "bias" in part._parameters and part.bias is not None else None
    for change in changes:
        if isinstance(change, LowRank):
            weight = weight + change.up_NR.float() @ change.down_RK.float()
        elif isinstance(change, Weight):
            weight = change.weight.float()
            bias = bias if change.bias_N is None else change.bias_N.float()
        elif isinstance(change, Scale):
            weight = weight if change.input_K is None else weight * change.input_K.float()
            if change.output_N is not None:
                weight = weight * change.output_N.float()[:, None]
                bias = bias if bias is None else bias * change.output_N.float()
        elif isinstance(change, Shift):
            bias = change.bias_N.float() if bias is None else bias + change.bias_N.float()
        else:
            raise Refused(f"the base's weights cannot hold {type(change).__name__}", hint=ENGINE)
    return weight, bias


def _require_modules(changes: Changes) -> None:
    """Refuse what is not in modules of the base, or in none that can be merged."""
    if changes.alone or changes.beginning is not None:
        why = changes.alone or "virtual tokens stand before the text"
        raise Refused(f"this adapter cannot be converted: {why}", hint=ENGINE)


def _with_biases(base: Any, changes: Changes) -> Any:
    """A model of the same class and weights whose layers have biases, zero where there were none.

    Raises:
        Refused: its family knows no such biases.
    """
    parts = dict(base.named_modules())
    bare = [name for name in changes.modules if "bias" not in dict(parts[name].named_parameters(recurse=False))]
    if not bare:
        return base
    config = copy.deepcopy(base.config)
    switches = {"attention_bias", "mlp_bias"} & config.to_dict().keys()
    for switch in switches:
        config.update({switch: True})
    twin = type(base)(config).to(base.dtype)
    there = dict(twin.named_modules())
    if missing := [name for name in bare if "bias" not in dict(there[name].named_parameters(recurse=False))]:
        raise Refused(f"{type(base).__name__} has no place for a bias in {missing[0]}", hint=ENGINE)
    twin.load_state_dict({**{name: 0 * value for name, value in twin.state_dict().items()}, **base.state_dict()})
    twin.generation_config = base.generation_config
    return twin.eval()


def _refuse_half_a_tie(base: Any, changes: Changes) -> None:
    """Embedding and head that are one weight must change together."""
    tied = {
        name
        for name, part in base.named_modules()
        if part in (base.get_input_embeddings(), base.get_output_embeddings())
    }
    one = base.get_input_embeddings().weight is base.get_output_embeddings().weight
    if one and len(tied & changes.modules.keys()) == 1:
        raise Refused("embedding and head are one weight, and only one of them is changed", hint=ENGINE)


def _joined(updates: Sequence[LowRank]) -> LowRank:
    """Several updates of a layer as one, of the sum of their ranks."""
    import torch

    down_RK = torch.cat([update.down_RK for update in updates])
    return LowRank(down_RK, torch.cat([update.up_NR for update in updates], dim=1))


def _cut_joined(update: LowRank, most: int) -> tuple[LowRank, float, float]:
    """`_cut` of a low-rank update, between the bases of its two factors: the whole one has far more numbers."""
    import torch

    (basis_NR, left_RR), (basis_KR, right_RR) = torch.linalg.qr(update.up_NR), torch.linalg.qr(update.down_RK.t())
    kept, lost, whole = _cut(left_RR @ right_RR.t(), most)
    return LowRank(kept.down_RK @ basis_KR.t(), basis_NR @ kept.up_NR), lost, whole


def _cut(delta_NK: torch.Tensor, most: int) -> tuple[LowRank, float, float]:
    """The largest singular values of an update; the squared size that is lost, and the whole of it."""
    import torch

    left, values, right = torch.linalg.svd(delta_NK, full_matrices=False)
    squares = values.double().square()
    whole = float(squares.sum())
    rank = min(most, int((squares.cumsum(0) < KEPT * whole).sum()) + 1)
    roots = values[:rank].sqrt()
    kept = LowRank(roots[:, None] * right[:rank], left[:, :rank] * roots)
    return kept, float(squares[rank:].sum()), whole


def _of_one_rank(updates: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The same updates, filled up with zeros to the highest rank: servers keep one size for all layers."""
    from torch.nn.functional import pad

    rank = max((len(update.down_RK) for update in updates.values()), default=1)
    return {
        name: LowRank(
            pad(update.down_RK, (0, 0, 0, rank - len(update.down_RK))),
            pad(update.up_NR, (0, rank - len(update.down_RK))),
        )
        for name, update in updates.items()
    }
