"""Optimizers by name: what they do to a weight, what is kept of them, and masters of short weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sartor.backends import optimizer
from sartor.backends.estimate import EIGHT_BIT
from sartor.errors import RecipeError, UserError
from sartor.plan import Adam

ADAM = Adam(learning_rate=1e-2)
HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
#: What can be made here: the 8-bit optimizers are tried where their package is installed (they run on the CPU as well).
MADE = [name for name in optimizer.NAMES if name not in EIGHT_BIT or HAS_BITSANDBYTES]


def made_of(name: str, weight: nn.Parameter) -> torch.optim.Optimizer:
    return optimizer.make(name, optimizer.groups({"weight": weight}, {}), ADAM)


def advance(made: torch.optim.Optimizer, weight: nn.Parameter, count: int, *, first: int = 0) -> None:
    for group in made.param_groups:
        group["lr"] = ADAM.learning_rate
    for number in range(first, first + count):
        weight.grad = torch.full_like(weight, 0.5 + 0.1 * number)
        made.step()


@pytest.mark.parametrize("name", MADE)
def test_it_goes_downhill(name: str) -> None:
    weight = nn.Parameter(torch.ones(64, 128))
    advance(made_of(name, weight), weight, 3)
    assert bool((weight < 1).all())


@pytest.mark.parametrize("name", MADE)
def test_its_state_comes_back_bit_by_bit(name: str) -> None:
    straight, resumed = nn.Parameter(torch.ones(64, 128)), nn.Parameter(torch.ones(64, 128))
    one, other = made_of(name, straight), made_of(name, resumed)
    advance(one, straight, 3)
    state = {key: value.clone() for key, value in optimizer.state_of(one, straight).items()}
    with torch.no_grad():
        resumed.copy_(straight)
    advance(one, straight, 2, first=3)
    advance(other, nn.Parameter(torch.ones(1)), 0)
    optimizer.restore(other, resumed, state)
    advance(other, resumed, 2, first=3)
    assert torch.equal(straight, resumed)


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("name", list(EIGHT_BIT))
def test_eight_bit_moments_go_to_disk_and_are_made_as_new_in_their_own_memory(name: str, tmp_path: Path) -> None:
    """Large enough that they have tables of values, which all weights share."""
    weights = {part: nn.Parameter(torch.ones(64, 128)) for part in ("one", "other")}
    made = optimizer.make(name, optimizer.groups(weights, {}), ADAM)
    assert all(optimizer.state_of(made, weight) == {} for weight in weights.values())
    for weight in weights.values():
        advance(made, weight, 1)
        weight.grad = None
    kept = {
        f"{key}.{part}": value
        for part, weight in weights.items()
        for key, value in optimizer.state_of(made, weight).items()
    }
    save_file(kept, tmp_path / "state.safetensors")
    one, moments = weights["one"], made.state[weights["one"]]["state1"]
    optimizer.restore(made, one, {})
    assert optimizer.state_of(made, one) == {}
    with torch.no_grad():
        one.fill_(1.0)
    advance(made, one, 1)
    assert made.state[one]["state1"] is moments
    again = optimizer.state_of(made, one)
    assert all(torch.equal(again[key], kept[f"{key}.one"]) for key in again)


def test_an_empty_state_makes_it_as_new() -> None:
    weight = nn.Parameter(torch.ones(4))
    made = made_of("adamw", weight)
    assert optimizer.state_of(made, weight) == {}
    advance(made, weight, 2)
    assert set(optimizer.state_of(made, weight)) == {"step", "exp_avg", "exp_avg_sq"}
    optimizer.restore(made, weight, {})
    assert optimizer.state_of(made, weight) == {}


def test_a_count_of_steps_stays_a_number() -> None:
    weight = nn.Parameter(torch.ones(4))
    made = made_of("adamw", weight)
    optimizer.restore(made, weight, {"step": torch.tensor(7), "exp_avg": torch.zeros(4)})
    assert made.state[weight]["step"] == 7
    assert isinstance(made.state[weight]["step"], int)
    assert optimizer.state_of(made, weight)["step"].dtype == torch.int64


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="unknown optimizer 'adamv'") as caught:
        made_of("adamv", nn.Parameter(torch.ones(1)))
    assert "did you mean 'adamw'?" in caught.value.hint


@pytest.mark.parametrize("name", sorted(EIGHT_BIT))
def test_what_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match="needs bitsandbytes") as caught:
        made_of(name, nn.Parameter(torch.ones(1)))
    assert "sartor[gpu]" in caught.value.hint


def test_small_updates_are_kept_in_the_master_of_a_short_weight() -> None:
    weights = {"short": nn.Parameter(torch.ones(8, dtype=torch.bfloat16)), "long": nn.Parameter(torch.ones(8))}
    masters = optimizer.masters_of(weights)
    assert masters["long"] is weights["long"]
    assert masters["short"].dtype == torch.float32
    made = optimizer.make("sgd", optimizer.groups(masters, {}), ADAM)
    for group in made.param_groups:
        group["lr"] = 1e-3
    for _ in range(10):
        for _ in range(2):  # two micro-batches
            sum(item.float().sum() for item in weights.values()).backward()
        assert weights["short"].grad is None
        made.step()
        made.zero_grad()
        optimizer.refresh(weights, masters)
    assert masters["short"].tolist() == pytest.approx([0.98] * 8, rel=1e-6)
    assert weights["long"].tolist() == pytest.approx([0.98] * 8, rel=1e-6)
    assert weights["short"].float().tolist() == pytest.approx([0.98] * 8, rel=4e-3)
    assert float(weights["short"].detach()[0]) < 1


def test_each_weight_has_a_rate_of_its_own() -> None:
    first, second, third = (nn.Parameter(torch.ones(4)) for _ in range(3))
    groups = optimizer.groups({"first": first, "second": second, "third": third}, {"second": 16.0})
    assert [(group["rate"], len(group["params"])) for group in groups] == [(1.0, 2), (16.0, 1)]
    assert groups[1]["params"][0] is second


def test_a_rate_of_a_weight_that_is_not_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="a rate for other, which is not trained"):
        optimizer.groups({"weight": nn.Parameter(torch.ones(1))}, {"other": 2.0})
