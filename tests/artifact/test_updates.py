"""Changes as weights of the base, and as low-rank updates: what comes out computes the same, or is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sartor.adapters.changes import Bottleneck, Changes, LowRank, Prompt, Scale, Shift, Weight
from sartor.artifact.updates import KEPT, low_rank, merged
from sartor.errors import Refused

IDS = torch.tensor([[1, 5, 9, 200, 300]])
Q, DOWN, NORM = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.0.input_layernorm"


@pytest.fixture
def base(tiny_folder: Path) -> Any:
    torch.manual_seed(2)
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


def part(base: Any, name: str) -> Any:
    return base.get_submodule(name)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def hooked(base: Any, changes: Changes) -> torch.Tensor:
    """What the changes mean, by hooks: nothing of the weights is touched."""
    handles = []
    for name, each in changes.modules.items():
        for change in each:
            handles.append(
                part(base, name).register_forward_hook(lambda _, args, y, change=change: said(change, args, y))
            )
    try:
        return logits(base)
    finally:
        for handle in handles:
            handle.remove()


def said(change: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
    if isinstance(change, LowRank):
        return y + args[0] @ change.down_RK.t() @ change.up_NR.t()
    if isinstance(change, Scale):
        return y * change.output_N
    assert isinstance(change, Shift)
    return y + change.bias_N


def low(base: Any, name: str, rank: int) -> LowRank:
    outputs, inputs = part(base, name).weight.shape
    return LowRank(torch.randn(rank, inputs) * 0.1, torch.randn(outputs, rank) * 0.1)


def test_merged_weights_compute_what_the_changes_say(base: Any) -> None:
    width = part(base, Q).weight.shape[0]
    changes = Changes({Q: (low(base, Q, 3), Scale(output_N=1 + 0.1 * torch.randn(width))), DOWN: (low(base, DOWN, 2),)})
    expected = hooked(base, changes)
    assert torch.allclose(logits(merged(base, changes)), expected, atol=1e-5)


def test_a_norm_and_a_whole_weight(base: Any) -> None:
    twin = copy.deepcopy(base)
    changes = Changes({NORM: (Weight(part(base, NORM).weight + 0.5),), Q: (Weight(part(base, Q).weight * 1.5),)})
    with torch.no_grad():
        part(twin, NORM).weight.add_(0.5)
        part(twin, Q).weight.mul_(1.5)
    assert torch.equal(logits(merged(base, changes)), logits(twin))


def test_biases_where_the_base_had_none(base: Any, tmp_path: Path) -> None:
    changes = Changes({name: (Shift(torch.randn(part(base, name).weight.shape[0])),) for name in (Q, DOWN)})
    expected = hooked(base, changes)
    model = merged(base, changes)
    assert torch.allclose(logits(model), expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, atol=1e-5)


def test_low_rank_updates_stay_exact_and_get_one_rank(base: Any) -> None:
    changes = Changes({Q: (low(base, Q, 3), low(base, Q, 2)), DOWN: (low(base, DOWN, 1),)})
    updates, lost = low_rank(base, changes, most=64)
    assert lost == 0.0
    assert {len(update.down_RK) for update in updates.values()} == {5}
    expected = hooked(base, changes)
    again = Changes({name: (update,) for name, update in updates.items()})
    assert torch.allclose(hooked(base, again), expected, atol=1e-5)


def test_a_whole_update_is_cut_to_the_rank_that_holds_it(base: Any) -> None:
    update = low(base, Q, 4)
    weight = part(base, Q).weight + update.up_NR @ update.down_RK
    updates, lost = low_rank(base, Changes({Q: (Weight(weight),)}), most=64)
    assert len(updates[Q].down_RK) <= 4
    assert lost <= 1 - KEPT
    full = torch.randn_like(part(base, Q).weight)
    updates, lost = low_rank(base, Changes({Q: (Weight(part(base, Q).weight + full),)}), most=2)
    values = torch.linalg.svdvals(full).square()
    assert lost == pytest.approx(float(values[2:].sum() / values.sum()), rel=1e-4)
    assert len(updates[Q].down_RK) == 2


def test_a_low_rank_update_beyond_the_highest_rank_is_cut(base: Any) -> None:
    wide, narrow = low(base, Q, 6), low(base, DOWN, 2)
    updates, lost = low_rank(base, Changes({Q: (wide,), DOWN: (narrow,)}), most=3)
    assert {len(update.down_RK) for update in updates.values()} == {3}
    whole = wide.up_NR @ wide.down_RK
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    torch.testing.assert_close(updates[Q].up_NR @ updates[Q].down_RK, (left[:, :3] * values[:3]) @ right[:3])
    assert lost == pytest.approx(float(values[3:].square().sum() / values.square().sum()), rel=1e-4)
    torch.testing.assert_close(updates[DOWN].up_NR @ updates[DOWN].down_RK, narrow.up_NR @ narrow.down_RK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(alone="it has a network of its own"), "a network of its own"),
        (Changes(beginning=Prompt(torch.zeros(2, 8))), "virtual tokens"),
    ],
)
def test_what_has_no_weights_to_go_to_is_refused(base: Any, changes: Changes, message: str) -> None:
    for convert in (lambda: merged(base, changes), lambda: low_rank(base, changes, 8)):
        with pytest.raises(Refused, match=message):
            convert()


def test_a_bottleneck_is_refused(base: Any) -> None:
    size = part(base, DOWN).weight.shape[0]
    change = Bottleneck(torch.zeros(2, size), torch.zeros(2), torch.zeros(size, 2), torch.zeros(size), "gelu")
    for convert in (merged, lambda base, changes: low_rank(base, changes, 8)):
        with pytest.raises(Refused, match="cannot hold Bottleneck"):
            convert(base, Changes({DOWN: (change,)}))


def test_lora_is_refused_what_is_no_weight_of_a_linear_layer(base: Any) -> None:
    with pytest.raises(Refused, match="no linear layer"):
        low_rank(base, Changes({NORM: (Weight(part(base, NORM).weight),)}), 8)
    with pytest.raises(Refused, match="a bias"):
        low_rank(base, Changes({Q: (Shift(torch.zeros(part(base, Q).weight.shape[0])),)}), 8)


def test_half_of_a_tie_is_refused(base: Any) -> None:
    base.lm_head.weight = base.model.embed_tokens.weight
    changes = Changes({"lm_head": (Weight(base.lm_head.weight + 1),)})
    with pytest.raises(Refused, match="one weight"):
        merged(base, changes)
