"""Converting on disk: the folder loads in plain PEFT and transformers, computes what the adapter did, and is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sartor import durable
from sartor.adapters import family_of
from sartor.convert import Conversion, changes_of, convert, written
from sartor.errors import Refused
from sartor.proof import Item
from sartor.store import Run, read_json

from .plans import plan

IDS = torch.tensor([[1, 5, 9, 200, 300]])
LINEAGE = {
    "schema": 1,
    "name": "run",
    "method": "lora",
    "base": {"name": "tiny", "path": "/b", "revision": "local", "digest": "d"},
    "template": {},
    "renderer": "r",
    "stop_ids": [2],
    **dict.fromkeys(("recipe", "data", "plan", "sartor", "python"), "x"),
    "libraries": {},
}


def fresh(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def trained(tiny_folder: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A LoRA that says something, with its lineage; and its logits."""
    family = family_of("lora")
    torch.manual_seed(4)
    model = family.attach(fresh(tiny_folder), family.Config(r=4))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    family.export(model, tmp_path / "adapter")
    durable.write_json(tmp_path / "adapter" / "sartor.json", LINEAGE)
    return tmp_path / "adapter", logits(model)


def test_as_lora(trained: tuple[Path, torch.Tensor], tiny_folder: Path, tmp_path: Path) -> None:
    folder, expected = trained
    rank, lost = written(fresh(tiny_folder), folder, tmp_path / "out", "lora")
    assert (rank, lost) == (4, 0.0)
    assert torch.allclose(logits(PeftModel.from_pretrained(fresh(tiny_folder), tmp_path / "out")), expected, atol=1e-4)
    assert read_json(tmp_path / "out" / "sartor.json")["holds"] == "adapter"
    assert durable.verify(tmp_path / "out") == ""


def test_as_a_model(trained: tuple[Path, torch.Tensor], tiny_folder: Path, tmp_path: Path) -> None:
    folder, expected = trained
    assert written(fresh(tiny_folder), folder, tmp_path / "out", "model") == (0, 0.0)
    assert torch.allclose(logits(fresh(tmp_path / "out")), expected, atol=1e-4)
    assert read_json(tmp_path / "out" / "sartor.json")["holds"] == "model"


def test_a_merged_model_in_the_number_format_that_is_asked_for(
    trained: tuple[Path, torch.Tensor], tiny_folder: Path, tmp_path: Path
) -> None:
    written(fresh(tiny_folder), trained[0], tmp_path / "out", "model", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_a_whole_model_is_not_converted(tiny_folder: Path) -> None:
    with pytest.raises(Refused, match="holds a whole model"):
        changes_of(fresh(tiny_folder), tiny_folder)


def test_only_decoders_are_converted(tmp_path: Path) -> None:
    bench: Any = SimpleNamespace(form="seq2seq", run=Run(tmp_path / "rows-1"))
    with pytest.raises(Refused, match="rows-1 is a seq2seq") as caught:
        next(convert(bench, "lora"))
    assert "only decoders" in caught.value.hint


def test_a_proof_without_the_tuned_arm_is_refused_before_the_base_is_loaded(tmp_path: Path) -> None:
    run = Run(tmp_path / "rows-1")
    item = Item(
        item="r:1", arm="zero_shot", input=(), target="a", output="a", score=1.0, detail="", finish="stop",
        prompt_tokens=1, output_tokens=1, seconds=0.0,
    )  # fmt: skip
    durable.append(run.path("items.jsonl"), item.model_dump_json())
    bench: Any = SimpleNamespace(form="decoder", run=run, plan=plan())
    with pytest.raises(Refused, match="the proof of rows-1 has no tuned arm") as caught:
        next(convert(bench, "lora"))
    assert "`prove.arms`" in caught.value.hint


def test_the_sentence_says_what_it_cost() -> None:
    facts = {"form": "lora", "method": "loha", "folder": "converted-lora", "rank": 8, "lost": 0.01, "before": 0.5}
    said = Conversion(**facts, trained="d", after=0.48, difference=-0.02, low=-0.05, high=0.01, n=100).sentence
    assert said.startswith("loha as lora of rank 8, which holds 99.00% of the update: 50.0% before, 48.0% after on 100")
    assert "-2.0 points" in said
