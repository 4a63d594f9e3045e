"""Encoders and encoder-decoders from recipe to answer: every stage, the folder in plain libraries, the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor import durable, stages
from sartor.backends import estimate
from sartor.data.prepare import examples_of
from sartor.errors import MachineError, RecipeError
from sartor.generate.protocol import Sampling
from sartor.hardware import look
from sartor.objectives.contrastive import weight
from sartor.plan import Plan
from sartor.planner_padded import decide_padded
from sartor.proof import Proof
from sartor.recipe import load
from sartor.serve.desk import Desk, open_desk
from sartor.stages import Bench, run_until
from sartor.store import open_run, read_json
from sartor.types import Message

from .padded_bases import rows, write_bert, write_project, write_t5

CLASSIFIER = """
task: choice
tune: {steps: 25, batch_size: 8, learning_rate: 2e-2, save_every: 25, adapter: ADAPTER}
prove: {items: 10}
"""
RETRIEVAL = """
task: {metric: {name: retrieval, measure: reciprocal}}
tune: {objective: contrastive, steps: 15, learning_rate: 3e-3, save_every: 15, adapter: full}
prove: {items: 10}
"""
SEQ2SEQ = """
task: exact
tune: {steps: 60, batch_size: 8, learning_rate: 2e-2, save_every: 60, adapter: {name: full, top_layers: 2}}
prove: {items: 10}
"""


def run(folder: Path, base: Path, recipe: str, data: list[dict[str, str]]) -> tuple[Bench, Proof]:
    path = write_project(folder, base, recipe, data)
    bench = Bench(open_run(path, load(path)), anyway=True)
    list(run_until(bench, "package"))
    found = Proof.model_validate(read_json(bench.run.path("proof.json")))
    assert found.forgetting is None
    assert bench.plan.backend == "padded"
    assert durable.verify(bench.run.path("artifact")) == ""
    return bench, found


def answer(desk: Desk, name: str, text: str) -> str:
    """What is served under a name."""
    model = desk.find(name)
    ids = model.renderer.prompt((Message(role="user", content=text),))
    sampling = Sampling(8, model.renderer.stop_ids)
    tokens = model.turns.engine.stream([ids], sampling, model.adapter)
    return model.renderer.decode([token.id for token in tokens if token.finish != "stop"])


@pytest.mark.parametrize("adapter", ["full", "lora", "{name: pissa, r: 4}", "{name: olora, r: 4}"])
def test_a_classifier(tmp_path: Path, adapter: str) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    data = rows(90)
    bench, proof = run(tmp_path, write_bert(base), CLASSIFIER.replace("ADAPTER", adapter), data)
    assert [arm.name for arm in proof.arms] == ["majority", "nearest", "tuned"]
    assert proof.arm("tuned").score > proof.arm("majority").score
    assert "forgetting does not apply" in proof.sentence or proof.verdict not in ("ship", "regression")
    assert bench.plan.model.labels == ("billing", "damage", "delivery")
    folder = bench.run.path("artifact")
    desk = open_desk([folder])
    served = [answer(desk, bench.run.id, row["prompt"]) for row in data[:6]]
    desk.close()
    assert served == plain_answers(folder, base, adapter, [row["prompt"] for row in data[:6]])


def plain_answers(folder: Path, base: Path, adapter: str, texts: list[str]) -> list[str]:
    """By transformers and PEFT alone."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = read_json(folder / "sartor.json")["labels"]
    if adapter == "full":
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert [model.config.id2label[number] for number in range(3)] == labels
    else:
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model.eval()
    with torch.no_grad():
        return [labels[model(**tokenizer(text, return_tensors="pt")).logits.argmax().item()] for text in texts]


def pairs(count: int) -> list[dict[str, str]]:
    """Texts, and the same backwards."""
    return [{"prompt": row["prompt"], "completion": " ".join(reversed(row["prompt"].split()))} for row in rows(count)]


def test_an_embedder(tmp_path: Path) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    bench, proof = run(tmp_path, write_bert(base), RETRIEVAL, pairs(90))
    assert [arm.name for arm in proof.arms] == ["zero_shot", "tuned"]
    assert 0 < proof.arm("tuned").score <= 1
    assert bench.plan.micro_tokens == bench.plan.batch_size * bench.plan.max_length, "a step is one batch"


def test_an_embedders_dev_pairs_are_compared_with_as_many_as_in_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    recipe = RETRIEVAL.replace("steps: 15,", "steps: 15, batch_size: 4,")
    path = write_project(tmp_path, write_bert(base), recipe, pairs(90))
    bench = Bench(open_run(path, load(path)))
    sizes: list[int] = []
    monkeypatch.setattr(stages, "train", lambda plan, run, steps, dev, finishing: sizes.extend(map(weight, dev)) or [])
    list(run_until(bench, "train", without=("baseline",)))
    assert sum(sizes) == len(examples_of(bench.run, "dev")) > 4
    assert max(sizes) == 4


def test_an_encoder_decoder(tmp_path: Path) -> None:
    base = tmp_path / "t5"
    base.mkdir()
    data = [{"prompt": row["prompt"], "completion": f"{row['completion']} please"} for row in rows(90)]
    bench, proof = run(tmp_path, write_t5(base), SEQ2SEQ, data)
    assert proof.arm("tuned").score > proof.arm("zero_shot").score == 0
    desk = open_desk([bench.run.path("artifact")])
    found = {answer(desk, bench.run.id, row["prompt"]) for row in data[:9]}
    desk.close()
    assert found <= {"billing please", "damage please", "delivery please"}


def planned(folder: Path, adapter: str, **changes: Any) -> Plan:
    """The plan for a tiny encoder that chooses labels, with other sizes where `changes` has some."""
    base = folder / "bert"
    base.mkdir(exist_ok=True)
    path = write_project(folder, write_bert(base), CLASSIFIER.replace("ADAPTER", adapter), rows(90))
    bench = Bench(open_run(path, load(path)))
    list(run_until(bench, "check"))
    return decide_padded(
        bench.recipe,
        bench.base,
        bench.shape.model_copy(update=changes),
        look(folder).model_copy(update={"flops": 1e12, "has_bf16": False}),
        form="classifier",
        train=bench.tokenised("train"),
        test=bench.tokenised("test"),
        data="d",
    )


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "p_tuning", "p_tuning_v2", "warp"])
def test_virtual_tokens_before_an_encoder_are_refused_by_name(tmp_path: Path, method: str) -> None:
    with pytest.raises(RecipeError, match=f"`tune.adapter`: {method} stands before a text") as caught:
        planned(tmp_path, method)
    assert "lora" in caught.value.hint


def test_a_setting_that_makes_another_method_is_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="another method than lora") as caught:
        planned(tmp_path, "{name: lora, use_dora: true}")
    assert "dora" in caught.value.hint


@pytest.mark.parametrize(("method", "adapter"), [("lora", False), ("full", True)])
def test_what_does_not_fit_is_refused_with_what_would_help(tmp_path: Path, method: str, adapter: bool) -> None:
    """A batch goes through in parts, so a smaller one changes nothing here; nor does an adapter instead of one."""
    with pytest.raises(MachineError, match="training needs") as caught:
        planned(tmp_path, method, num_layers=10**9)
    assert ("an adapter" in caught.value.hint) == adapter
    assert "batch_size" not in caught.value.hint
    assert "`data.max_length`, or a smaller base" in caught.value.hint


def test_time_is_that_of_the_micro_batch_that_is_chosen(tmp_path: Path) -> None:
    """A step fits into one forward of 1,024 tokens; one forward for each example would cost as many calls again."""
    plan = planned(tmp_path, "lora", num_layers=200)
    assert plan.micro_tokens > 8 * plan.max_length
    calls = plan.steps * 200 * estimate.CPU.layer_seconds
    assert calls < plan.estimate.seconds < 2 * calls
    assert (plan.estimate.fullest, plan.estimate.layers) == (plan.micro_tokens, "transformers")
    assert "transformers' run here" in plan.reasons["estimate"]


def test_what_does_not_fit_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    write_bert(base)
    path = write_project(tmp_path, base, "task: perplexity\n", rows(30))
    with pytest.raises(RecipeError, match="not for a classifier") as caught:
        list(run_until(Bench(open_run(path, load(path))), "check"))
    assert "choice" in caught.value.hint
    free = [{"prompt": row["prompt"], "completion": f"answer {number}"} for number, row in enumerate(rows(60))]
    path = write_project(tmp_path, base, "task: exact\n", free)
    bench = Bench(open_run(path, load(path)))
    list(run_until(bench, "check"))
    assert [problem.code for problem in bench.check.problems if problem.severity == "error"] == ["no_labels"]
    assert json.dumps(bench.check.model_dump(mode="json", by_alias=True))
