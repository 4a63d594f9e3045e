"""LoKr and KronA: the Kronecker product itself, how layers are split, counts, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lokr.layer import factorization

from sartor.adapters import family_of
from sartor.adapters.changes import Weight

from ..adapting import (  # noqa: TID252 - the tests are no package that could be imported by name
    LLAMA_3B,
    check_changes,
    check_count,
    check_counts,
    check_gradients,
    config_of,
    load,
    save_config,
    wake,
)

split = family_of("lokr")._split


@pytest.mark.parametrize("factor", [0, 1, 3, 4, 8, 300])
def test_sizes_are_split_as_peft_splits_them(factor: int) -> None:
    for size in (*range(1, 200), 576, 896, 1536, 3072, 4864, 8192, 11_008, 14_336, 7919):
        assert split(size, factor) == factorization(size, factor or -1)


@pytest.mark.parametrize("method", ["lokr", "krona"])
def test_counts(tmp_path: Path, smollm2_folder: Path, method: str) -> None:
    check_counts(tmp_path, method)
    check_count(tmp_path / "biased", method, factor=8, r=2)
    check_count(smollm2_folder, method)


def test_the_published_count(tmp_path: Path) -> None:
    settings = {"r": 32, "factor": 4, "targets": ("q_proj", "v_proj")}
    check_count(save_config(tmp_path, **LLAMA_3B), "lokr", 2_294_656, **settings)


def test_krona_trains_about_the_fewest_numbers_that_two_factors_can_have(smollm2_folder: Path) -> None:
    """A square layer of side d gets 2 d; others at most 4 % more than two factors of equal size would."""
    assert split(576, 0) == (24, 24)
    for inputs, outputs in ((576, 576), (576, 1536), (576, 192)):
        (a2, b2), (a1, b1) = split(inputs, 0), split(outputs, 0)
        assert a1 * a2 + b1 * b2 <= 1.13 * 2 * (inputs * outputs) ** 0.5
    check_count(smollm2_folder, "krona", 30 * 2 * 576, targets=("o_proj",))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_update_is_the_kronecker_product(tiny_folder: Path, scale: float) -> None:
    model = family_of("krona").attach(load(tiny_folder), config_of("krona", scale=scale))
    layer = model.get_base_model().model.layers[0].self_attn.v_proj
    a, b = layer.lokr_w1["default"], layer.lokr_w2["default"]
    assert not a.any()
    assert b.any()
    wake(model)
    assert torch.equal(layer.get_delta_weight("default"), torch.kron(a, b) * scale)
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), x @ (layer.base_layer.weight + scale * torch.kron(a, b)).T)


def test_the_larger_factor_of_lokr_has_a_low_rank(tiny_folder: Path) -> None:
    model = family_of("lokr").attach(load(tiny_folder), config_of("lokr", r=2))
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    assert layer.lokr_w1["default"].shape == (4, 4)
    assert layer.lokr_w2_a["default"].shape == (16, 2)
    assert layer.lokr_w2_b["default"].shape == (2, 8)


@pytest.mark.parametrize("method", ["lokr", "krona"])
def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan, method: str) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, method)


def test_changes(tiny_folder: Path, tmp_path: Path) -> None:
    changes = check_changes(tiny_folder, tmp_path, "krona")
    assert {name.rpartition(".")[2] for name in changes.modules} == {"q_proj", "v_proj"}
    assert all(isinstance(change, Weight) for each in changes.modules.values() for change in each)
