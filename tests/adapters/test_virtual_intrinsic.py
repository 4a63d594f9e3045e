"""Prompts as points of a small space: the paper's auto-encoder, and the decoders that prompts are made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from sartor.adapters import prompt_tuning
from sartor.adapters.virtual.intrinsic import without_corpus
from sartor.errors import RecipeError
from sartor.ops.prompt_space import Autoencoder, fit


def test_the_papers_autoencoder_has_as_many_parameters() -> None:
    """BART-base, 100 tokens of 768, 250 dimensions: 78,452,218, "about 78 M"."""
    with torch.device("meta"):
        coder = Autoencoder(100 * 768, 250)
    assert sum(item.numel() for item in coder.parameters()) == 78_452_218


def test_a_fitted_autoencoder_gives_prompts_back() -> None:
    """Twenty prompts on a plane of eight numbers need two dimensions."""
    draw = torch.Generator().manual_seed(1)
    plane = torch.randn(2, 8, generator=draw)
    prompts_BPD = (torch.randn(20, 2, generator=draw) @ plane).view(20, 2, 4)
    coder = fit(prompts_BPD, 2, steps=120, rate=1e-2)
    wanted = prompts_BPD.flatten(1)
    assert float((coder(wanted) - wanted).square().mean() / wanted.square().mean()) < 0.05
    assert not any(item.requires_grad for item in coder.parameters())


def test_a_random_decoder_is_orthogonal_and_moves_numbers_as_coordinates_do() -> None:
    prompt = without_corpus(torch.randn(5, 8), 4)
    columns = prompt.decoder.weight
    assert torch.allclose(columns.t() @ columns, torch.eye(4) * 40 / 4, atol=1e-4)
    assert float(columns.square().sum(dim=1).mean()) == pytest.approx(1.0)
    assert [name for name, item in prompt.named_parameters() if item.requires_grad] == ["point_I"]


def test_a_decoder_from_a_file(tiny_folder: Path, tmp_path: Path) -> None:
    coder = fit(torch.randn(4, 3, 32), 2, steps=2)
    file = tmp_path / "decoder.safetensors"
    save_file(coder.decoder.state_dict(), file)
    settings = {"tokens": 3, "intrinsic": True, "dimensions": 2}
    config = prompt_tuning.Config(**settings, decoder=str(file))
    model = prompt_tuning.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), config)
    point_I = model.prompt_encoder["default"].point_I
    found = prompt_tuning.HOOKS.beginning(model, config).embeddings_PD
    assert torch.equal(found, coder.decoder(point_I).view(3, 32))
    for wrong, what in ((tmp_path / "none", "cannot be read"), (file, "no decoder to 4 tokens of 32")):
        asked = prompt_tuning.Config(**{**settings, "tokens": 4}, decoder=str(wrong))
        with pytest.raises(RecipeError, match=what):
            prompt_tuning.attach(AutoModelForCausalLM.from_pretrained(tiny_folder), asked)
