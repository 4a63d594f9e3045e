"""QLoRA from the recipe to an answer: what was trained on packed weights is proved and served on the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sartor.base import load_base
from sartor.convert import convert
from sartor.errors import ModelError
from sartor.generate.sartor import open_engine
from sartor.proof import Proof
from sartor.serve.desk import open_desk
from sartor.stages import run_until
from sartor.store import read_json

from .test_full_tuning import ANSWER, answers, bench_of


def test_from_the_recipe_to_an_answer(tmp_path: Path, tiny_folder: Path) -> None:
    bench = bench_of(tmp_path, tiny_folder, "qlora")
    run = bench.run
    list(run_until(bench, "package"))

    assert bench.plan.model.quantize == "nf4"
    assert "qlora trains on a base in four bits" in bench.plan.reasons["model.quantize"]
    found = Proof.model_validate(read_json(run.path("proof.json")))
    assert (found.arm("zero_shot").score, found.arm("tuned").score) == (0.0, 1.0)
    artifact = run.path("artifact")
    assert read_json(artifact / "sartor.json")["base"]["quantize"] == "nf4"
    assert read_json(artifact / "adapter_config.json")["base_model_name_or_path"] == str(tiny_folder)
    assert answers(artifact, run.id) == ANSWER
    with pytest.raises(ModelError, match="held in nf4 when this was trained"):
        open_desk([artifact], "vllm")

    list(convert(bench, "model"))
    assert answers(run.path("converted-model"), run.id) == ANSWER, "merged into the numbers, in an engine of any kind"


def test_an_engine_answers_with_the_numbers(tiny_folder: Path) -> None:
    ids = [5, 99, 1234, 7, 40]
    model = load_base(tiny_folder, torch.float32, "nf4", attention="eager", packed=True).eval()
    with torch.no_grad():
        logits = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    wanted = float(logits[torch.arange(4), torch.tensor(ids[1:])].sum())
    for quantize, same in (("nf4", True), ("none", False)):
        engine = open_engine(tiny_folder, {}, dtype="float32", quantize=quantize)  # type: ignore[arg-type]
        assert (abs(engine.logprobs([ids], None)[0] - wanted) < 1e-3) == same
