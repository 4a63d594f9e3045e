"""WARP: its count, which words get a verbaliser, and what of a base it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sartor.adapters import warp
from sartor.adapters.warp import Config
from sartor.data.pack import pack, segment

IDS = torch.tensor([[1, 5, 9, 200]])
CONFIG = Config(tokens=3, verbalisers=2)


def attached(folder: Path) -> Any:
    model = warp.attach(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), CONFIG)
    rows = [segment("one", [7, 8, 300, 2], [0.0, 0.0, 1.0, 1.0]), segment("two", [7, 8, 40, 2], [0.0, 0.0, 1.0, 1.0])]
    rows.append(segment("three", [7, 8, 300, 2], [0.0, 0.0, 1.0, 1.0]))
    warp.calibrate(model, CONFIG, pack(rows, micro_tokens=64))
    return model.eval()


def logits(model: Any, **asked: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**asked or {"input_ids": IDS}).logits


def test_the_count_of_the_paper(trained_by: Callable[..., int]) -> None:
    """(K + C) D + C; of 20 prompts and 3 classes at width 1024 that is 23,555, "≤ 25 K"."""
    assert trained_by("warp", tokens=20, verbalisers=3) == 23 * 3072 + 3
    assert 23 * 1024 + 3 == 23_555


def test_the_words_that_answers_have_most_often_get_verbalisers(tiny_folder: Path) -> None:
    model = attached(tiny_folder)
    rows = warp.live_rows(model, CONFIG)
    assert rows.tokens_C.tolist() == [2, 300]
    assert torch.equal(rows.rows_CD, model.get_base_model().get_output_embeddings().weight[[2, 300]])
    assert not rows.bias_C.any()


def test_a_run_that_goes_on_has_the_same_words(tiny_folder: Path) -> None:
    """Whatever other batches say."""
    begun, resumed = attached(tiny_folder), attached(tiny_folder)
    warp.calibrate(resumed, CONFIG, pack([segment("other", [7, 90, 91], [0.0, 1.0, 1.0])], micro_tokens=64))
    assert warp.live_rows(resumed, CONFIG).tokens_C.tolist() == [90, 91]
    warp.HOOKS.restore(resumed, CONFIG, {key: item.clone() for key, item in warp.HOOKS.state(begun, CONFIG).items()})
    assert warp.live_rows(resumed, CONFIG).tokens_C.tolist() == [2, 300]


def test_switched_off_it_is_the_base_bit_by_bit(tiny_folder: Path) -> None:
    model = attached(tiny_folder)
    model.prompt_encoder["default"].rows_CD.data.add_(1.0)
    with model.disable_adapter():
        found = logits(model)
    assert torch.equal(found, logits(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)))


def test_its_changes_are_all_that_it_does(tiny_folder: Path, tmp_path: Path) -> None:
    model = attached(tiny_folder)
    for item in model.parameters():
        item.data.add_(0.1 * torch.randn_like(item) * item.requires_grad)
    warp.export(model, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    found = warp.changes(base, tmp_path)
    ((rows,),) = found.modules.values()
    assert list(found.modules) == ["lm_head"]
    text = base.get_input_embeddings()(IDS)
    begun = torch.cat([found.beginning.embeddings_PD[None], text], dim=1)
    with torch.no_grad():
        hidden = base.base_model(inputs_embeds=begun).last_hidden_state
        wanted = base.lm_head(hidden)
        wanted[..., rows.tokens_C] = hidden @ rows.rows_CD.t() + rows.bias_C
    assert torch.allclose(logits(model), wanted, atol=1e-5)
    assert not torch.allclose(wanted[..., rows.tokens_C], base.lm_head(hidden)[..., rows.tokens_C], atol=1e-2)
