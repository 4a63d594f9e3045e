"""OFT: rotations are rotations, blocks fit their layers, counts, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sartor.adapters import family_of

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


def test_counts(tmp_path: Path, smollm2_folder: Path) -> None:
    check_counts(tmp_path, "oft")
    check_count(smollm2_folder, "oft")


def test_the_published_count(tmp_path: Path) -> None:
    """PEFT's 32 blocks of a layer with 3072 inputs are 96 wide."""
    check_count(save_config(tmp_path, **LLAMA_3B), "oft", 8_171_520, block=96, targets=("q_proj", "v_proj"))


@pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`")
@pytest.mark.parametrize("block", [2, 5, 7, 24, 50, 1000])
def test_a_block_that_does_not_divide_a_layer_gives_way_to_the_nearest(tmp_path: Path, block: int) -> None:
    folder = save_config(tmp_path, hidden_size=576, intermediate_size=1536, head_dim=144, num_hidden_layers=1)
    check_count(folder, "oft", block=block, targets=("q_proj", "down_proj"))


@pytest.mark.parametrize("exact", [True, False])
def test_each_block_is_a_rotation(tiny_folder: Path, exact: bool) -> None:
    """Exactly where it is solved for; the series leaves out what is of the fifth order in Q."""
    model = wake(family_of("oft").attach(load(tiny_folder), config_of("oft", block=8, exact=exact)), 0.02)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    rotation = layer.get_delta_weight("default")
    error = float((rotation @ rotation.T - torch.eye(32)).abs().max())
    assert error < (1e-6 if exact else 1e-4)
    assert not torch.allclose(rotation, torch.eye(32), atol=1e-2)
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), (x @ rotation) @ layer.base_layer.weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_gradients(tiny_folder: Path, tmp_path: Path, make_plan, exact: bool) -> None:
    check_gradients(tiny_folder, tmp_path, make_plan, "oft", exact=exact)


def test_changes(tiny_folder: Path, tmp_path: Path) -> None:
    assert len(check_changes(tiny_folder, tmp_path, "oft").modules) == 14
