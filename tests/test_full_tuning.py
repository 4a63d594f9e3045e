"""Full tuning from the recipe to an answer: every stage handles a whole model in place of an adapter."""

from __future__ import annotations

import json
from pathlib import Path

from sartor import durable
from sartor.generate.protocol import Sampling
from sartor.hub import find, shape
from sartor.proof import Proof
from sartor.recipe import ModelSpec, load
from sartor.serve.desk import open_desk
from sartor.stages import Bench, run_until
from sartor.store import open_run, read_json
from sartor.types import Message

ANSWER = "The sum is odd."


def bench_of(folder: Path, base: Path, method: str) -> Bench:
    """A run that is to learn one answer, in a folder of its own."""
    rows = [{"prompt": f"Add {number} and {number + 3}.", "completion": ANSWER} for number in range(80)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "sartor.yaml"
    recipe.write_text(
        f"model: {base}\ndata: sums.jsonl\ntask: exact\n"
        f"tune: {{steps: 40, batch_size: 8, learning_rate: 1e-2, save_every: 40, adapter: {method}}}\n"
        "prove: {items: 10, arms: [zero_shot, tuned], max_forgetting: 1e6}\n"
    )
    return Bench(open_run(recipe, load(recipe)), anyway=True)


def test_from_the_recipe_to_an_answer(tmp_path: Path, tiny_folder: Path) -> None:
    bench = bench_of(tmp_path, tiny_folder, "full")
    run = bench.run
    events = list(run_until(bench, "package"))
    assert [event.stage for event in events if event.type == "entered"][-1] == "package"
    assert {event.type for event in run_until(Bench(run, anyway=True), "package")} == {"skipped"}, "all is done"

    assert bench.plan.family == "full"
    assert bench.plan.num_trainable == shape(tiny_folder).num_parameters
    assert not run.path("adapter").exists()
    assert durable.verify(run.result) == "" == durable.verify(run.path("artifact"))
    found = Proof.model_validate(read_json(run.path("proof.json")))
    assert (found.arm("zero_shot").score, found.arm("tuned").score) == (0.0, 1.0)
    assert found.forgetting is not None
    assert found.forgetting.change > 0, "the base is the one that tuning began with"

    for folder in (run.path("artifact"), run.path("model")):
        assert answers(folder, run.id) == ANSWER
    again = find(ModelSpec(name=str(run.path("model"))))
    assert shape(again.folder) == shape(tiny_folder), "it can be tuned further"


def answers(folder: Path, name: str) -> str:
    """What is served under the name of the run."""
    desk = open_desk([folder])
    model = next(model for model in desk.models if model.name == name)
    ids = model.renderer.prompt((Message(role="user", content="Add 7 and 10."),))
    tokens = model.turns.engine.stream([ids], Sampling(20, model.renderer.stop_ids), model.adapter)
    text = model.renderer.decode([token.id for token in tokens if token.finish != "stop"])
    desk.close()
    return text
