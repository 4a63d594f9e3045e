"""The planner: what is asked for wins, what is left out is decided, and every value says why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sartor import hub
from sartor.asked import ASKED
from sartor.backends import estimate
from sartor.catalogue import CATALOGUE
from sartor.chat import Renderer
from sartor.data.prepare import Tokenised
from sartor.errors import MachineError, RecipeError
from sartor.explain import planned_job
from sartor.hardware import Hardware
from sartor.hub import Base, Shape
from sartor.jobs import settled_method, way_of
from sartor.names import resolve
from sartor.plan import Plan
from sartor.planner import FP32_MICRO_TOKENS, MICRO_TOKENS, USABLE_MEMORY, decide, plan_proof
from sartor.recipe import Named, Recipe
from sartor.sizing import packing, shape_of, smallest
from sartor.store import STAGES
from sartor.types import Chat, Message, Source, Text

from .conversations import TINY, tiny
from .engines import tokenised
from .plans import chat

GIB = 2**30
BASE = Base(name="smollm2-135m-instruct", path="/models/smollm2", revision="gguf", digest="d")
SMOLLM2 = Shape(
    num_layers=30,
    hidden=576,
    inner=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49152,
    tied=True,
    context=8192,
)
MACHINE = Hardware(
    processor="a fake one",
    num_cores=2,
    memory_bytes=16 * GIB,
    free_memory_bytes=12 * GIB,
    free_disk_bytes=100 * GIB,
    has_bf16=True,
    flops=1e11,
)
#: What the plan takes over as a fact: nothing was decided there.
MODEL_FACTS = ("name", "path", "revision", "digest", "template", "context", "form", "labels")
FACTS = {"schema_", "data", "advice", *(f"model.{key}" for key in MODEL_FACTS)}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(tiny(TINY))


@pytest.fixture(scope="module")
def train(renderer: Renderer) -> list[Tokenised]:
    return tokenised(renderer, [chat(f"question {line}", f"answer {line}", line=line) for line in range(1, 121)])


@pytest.fixture(scope="module")
def test_items(renderer: Renderer) -> list[Tokenised]:
    return tokenised(renderer, [chat(f"test {line}", f"answer {line}", line=500 + line) for line in range(30)])


def recipe(**sections: Any) -> Recipe:
    values = {"model": "smollm2-135m-instruct", "data": "train.jsonl", "task": "exact"}
    return Recipe.model_validate({**values, **sections})


@pytest.fixture(scope="module")
def plan_of(train: list[Tokenised], test_items: list[Tokenised]) -> Any:
    def made(
        *,
        hardware: Hardware = MACHINE,
        shape: Shape = SMOLLM2,
        train: Sequence[Tokenised] = train,
        test: Sequence[Tokenised] = test_items,
        dev: Sequence[Tokenised] = (),
        devices: int = 1,
        **sections: Any,
    ) -> Plan:
        parts = {"train": train, "test": test, "dev": dev}
        return decide(recipe(**sections), BASE, shape, hardware, data="e", devices=devices, **parts)

    return made


def dig(tree: Any, path: str) -> Any:
    for key in path.split("."):
        assert key in tree, path
        tree = tree[key]
    return tree


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict) or not tree:
        return [prefix]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}".strip("."))]


def explained(plan: Plan, leaf: str) -> bool:
    parts = leaf.split(".")
    return any(".".join(parts[:length]) in plan.reasons for length in range(1, len(parts) + 1))


def test_dev_rows_are_planned_for(plan_of: Any, renderer: Renderer) -> None:
    """One that is longer than all that trains: it is evaluated, so it must fit."""
    (long,) = tokenised(renderer, [chat("why " * 2_500, "because", line=900)])
    without, plan = plan_of(), plan_of(dev=[long])
    assert plan.max_length == long.length > without.max_length
    assert plan.estimate.fullest >= long.length > without.estimate.fullest
    assert plan.estimate.memory["evaluate"].total > without.estimate.memory["evaluate"].total
    assert plan.estimate.stages["train"] > without.estimate.stages["train"]


# ---- reasons ---------------------------------------------------------------------------------------------------------

SECTIONS: list[dict[str, Any]] = [
    {},
    {"tune": {"steps": 7}},
    {"tune": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-4, "save_every": 3}},
    {"task": {"metric": "choice", "goal": 0.8}, "prove": {"items": 20, "arms": ["zero_shot", "tuned"]}},
]


@pytest.mark.parametrize("sections", SECTIONS)
def test_every_decided_value_has_a_reason_and_every_reason_its_value(plan_of: Any, sections: dict[str, Any]) -> None:
    plan = plan_of(**sections)
    values = plan.model_dump(mode="json", exclude={"reasons"})
    assert {leaf for leaf in leaves(values) if not explained(plan, leaf)} == FACTS
    for path, reason in plan.reasons.items():
        dig(values, path)
        assert len(reason) > 3
        assert "None" not in reason


ASKS: list[tuple[str, dict[str, Any], Any]] = [
    ("learning_rate", {"tune": {"learning_rate": 3e-5}}, 3e-5),
    ("batch_size", {"tune": {"batch_size": 3}}, 3),
    ("steps", {"tune": {"steps": 11}}, 11),
    ("epochs", {"tune": {"epochs": 1.5}}, 1.5),
    ("save_every", {"tune": {"save_every": 9}}, 9),
    ("optimizer", {"tune": {"optimizer": "adamw_8bit"}}, "adamw_8bit"),
    ("proof.arms", {"prove": {"arms": ["tuned", "zero_shot"]}}, ["tuned", "zero_shot"]),
    ("proof.items", {"prove": {"items": 20}}, 20),
    ("proof.max_new_tokens", {"prove": {"max_new_tokens": 5}}, 5),
    ("proof.goal", {"task": {"metric": "exact", "goal": 0.75}}, 0.75),
    ("proof.metric", {"task": "f1"}, {"name": "f1", "settings": {}}),
]


@pytest.mark.parametrize(("path", "sections", "value"), ASKS)
def test_what_the_recipe_asks_for_wins(plan_of: Any, path: str, sections: dict[str, Any], value: Any) -> None:
    plan = plan_of(**sections)
    assert dig(plan.model_dump(mode="json"), path) == value
    assert plan.reasons[path].startswith(ASKED)
    assert path == "proof.metric" or plan_of().reasons[path] != ASKED


def test_what_has_a_value_in_every_recipe_is_taken_from_it(plan_of: Any) -> None:
    asked = {"seed": 99, "adapter": {"name": "lora", "r": 4, "targets": ["q_proj"]}}
    plan = plan_of(tune=asked, prove={"max_forgetting": 0.3}, model={"name": "m", "template": {"x": 1}})
    assert (plan.seed, plan.proof.seed, plan.proof.max_forgetting, plan.model.template) == (99, 99, 0.3, {"x": 1})
    own = resolve("adapters", "lora").Config(r=4, targets=("q_proj",))
    assert plan.adapter.settings == own.model_dump(mode="json")
    assert plan.num_trainable == 30 * 4 * (576 + 576)


def test_more_items_than_there_are_cannot_be_answered(plan_of: Any) -> None:
    plan = plan_of(prove={"items": 500})
    assert plan.proof.items == 30
    assert plan.reasons["proof.items"] == "500 are asked for in the recipe; no more are held out"
    assert plan_of(prove={"items": 30}).reasons["proof.items"] == ASKED


# ---- what does not exist ---------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"prove": {"arms": ["zero_shto", "tuned"]}}, "'zero_shto'", "did you mean 'zero_shot'"),
    ({"prove": {"arms": ["zero_shot", "tuned", "zero_shot"]}}, "'zero_shot' twice", "once"),
    ({"prove": {"arms": ["tuned"]}}, "no untuned arm", "few_shot, zero_shot"),
    ({"task": "exatc"}, "unknown metric 'exatc'", "did you mean 'exact'"),
    ({"task": {"metric": {"name": "exact", "fold_cas": True}}}, "task.metric.fold_cas", "nown: "),
    ({"tune": {"adapter": "lroa"}}, "unknown tuning method 'lroa'", "did you mean 'lora'"),
    ({"tune": {"adapter": {"name": "lora", "dropuot": 0.1}}}, "tune.adapter.dropuot", "did you mean 'dropout'"),
    ({"tune": {"adapter": {"name": "lora", "r": 0}}}, "`tune.adapter.r` is 0", "correct `r`"),
    ({"tune": {"adapter": {"name": "lora", "targets": ["q_porj"]}}}, "'q_porj'", "did you mean 'q_proj'"),
    ({"tune": {"objective": "stf"}}, "unknown objective 'stf'", "did you mean 'sft'"),
    ({"tune": {"objective": {"name": "sft", "beta": 1}}}, "tune.objective.beta", "nown: "),
    ({"tune": {"steps": 5, "epochs": 1}}, "both `tune.steps` and `tune.epochs`", "keep one"),
]


@pytest.mark.parametrize(("sections", "message", "hint"), WRONG)
def test_what_does_not_exist_is_named_with_what_does(
    plan_of: Any, sections: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(**sections)
    assert message in str(caught.value)
    assert hint in caught.value.hint


# ---- decisions -------------------------------------------------------------------------------------------------------


def test_steps_follow_from_epochs_and_epochs_from_steps(plan_of: Any) -> None:
    assert (plan_of(tune={"epochs": 2, "batch_size": 8}).steps, plan_of().epochs) == (30, 5.0)
    asked = plan_of(tune={"steps": 30, "batch_size": 8})
    assert asked.epochs == pytest.approx(2.0)
    assert "30 steps of 8 over 120 examples" in asked.reasons["epochs"]


@pytest.mark.parametrize(
    ("count", "epochs", "batch_size"),
    [(50, 5.0, 8), (299, 5.0, 8), (300, 3.0, 8), (4_000, 3.0, 16), (20_001, 1.0, 32)],
)
def test_the_more_data_the_fewer_passes(
    plan_of: Any, train: list[Tokenised], count: int, epochs: float, batch_size: int
) -> None:
    plan = plan_of(train=(train * 200)[:count])
    assert (plan.epochs, plan.batch_size) == (epochs, batch_size)
    assert f"{count:,}" in plan.reasons["steps"]


def test_a_micro_batch_holds_the_longest_example(plan_of: Any, renderer: Renderer, train: list[Tokenised]) -> None:
    assert plan_of().micro_tokens == MICRO_TOKENS
    (giant,) = tokenised(renderer, [chat("far " * 1000, "away")])
    plan = plan_of(train=[*train, giant])
    assert plan.micro_tokens == plan.max_length == giant.length > MICRO_TOKENS
    assert str(giant.length) in plan.reasons["micro_tokens"]


def test_without_bf16_products_the_plan_is_in_fp32(plan_of: Any) -> None:
    slow = plan_of(hardware=MACHINE.model_copy(update={"has_bf16": False}))
    assert (slow.model.dtype, plan_of().model.dtype) == ("float32", "bfloat16")
    assert "no bf16" in slow.reasons["model.dtype"]
    assert (slow.micro_tokens, plan_of().micro_tokens) == (FP32_MICRO_TOKENS, MICRO_TOKENS)
    assert slow.estimate.peak_bytes > plan_of().estimate.peak_bytes


def machine_with(num_bytes: float) -> Hardware:
    """A machine of which `num_bytes` can be used."""
    return MACHINE.model_copy(update={"memory_bytes": int(num_bytes / USABLE_MEMORY) + 1})


def test_with_less_memory_the_micro_batch_shrinks_first_then_layers_are_computed_again(plan_of: Any) -> None:
    whole = plan_of()
    assert (whole.micro_tokens, whole.recompute, whole.tile) == (MICRO_TOKENS, "none", 512)
    found, room, smaller = [], 2 * GIB, whole
    while True:
        try:
            plan = plan_of(hardware=machine_with(room))
        except MachineError:
            break
        assert plan.estimate.peak_bytes <= room
        found.append((plan.micro_tokens, plan.recompute, plan.tile))
        smaller = smaller if smaller.micro_tokens < MICRO_TOKENS else plan
        room -= 24 * 2**20
    ways = list(dict.fromkeys(found))
    assert ways[:2] == [(MICRO_TOKENS, "none", 512), (MICRO_TOKENS // 2, "none", 512)]
    assert [way[1] for way in found] == sorted((way[1] for way in found), key=["none", "mlp", "layer"].index)
    assert {"mlp", "layer"} & {way[1] for way in found}
    assert "would not fit" in smaller.reasons["micro_tokens"]
    assert "GiB" in smaller.reasons["recompute"]


def test_qlora_has_a_base_in_four_bits(plan_of: Any) -> None:
    lora, qlora = plan_of(), plan_of(tune={"adapter": "qlora"})
    assert (lora.model.quantize, qlora.model.quantize) == ("none", "nf4")
    assert qlora.reasons["model.quantize"].startswith("qlora trains on a base in four bits: 80 MiB of weights instead")
    assert qlora.estimate.memory["train"].weights < 0.35 * lora.estimate.memory["train"].weights
    assert qlora.digest != lora.digest
    with pytest.raises(RecipeError, match="qlora is a method for a base in four bits"):
        plan_of(tune={"adapter": "qlora"}, model={"name": "smollm2-135m-instruct", "quantize": "none"})


def test_a_cpu_says_what_becomes_of_paged_moments(plan_of: Any) -> None:
    plan = plan_of(tune={"optimizer": "paged_adamw_8bit"})
    assert plan.optimizer == "paged_adamw_8bit"
    assert "on a CPU the moments just stay in memory" in plan.reasons["optimizer"]


def test_what_cannot_fit_is_refused_with_both_numbers(plan_of: Any) -> None:
    with pytest.raises(MachineError) as caught:
        plan_of(hardware=machine_with(GIB // 2))
    assert re.match(r"training needs at least (0\.[6-9]|1\.\d) GiB", str(caught.value))
    assert "this machine has 0.6 GiB" in str(caught.value)
    assert "more memory is needed" in caught.value.hint, "the smallest model is the one that was asked for"


def test_a_refusal_names_the_nearest_that_fits(plan_of: Any, renderer: Renderer, train: list[Tokenised]) -> None:
    large = shape_of(next(card for card in CATALOGUE if card.name == "qwen3-0.6b"))
    with pytest.raises(MachineError) as caught:
        plan_of(shape=large, hardware=machine_with(1.2 * GIB))
    assert "set `model` to smollm2-135m-instruct" in caught.value.hint
    medium = tokenised(renderer, [chat("near " * 40, "by", line=line) for line in range(40)])
    giants = tokenised(renderer, [chat("far " * 6000, "away", line=1000 + line) for line in range(3)])
    too_little = estimate.peak(estimate.memory(smallest(job_on(SMOLLM2, giants)), estimate.CPU)) - 100 * 2**20
    with pytest.raises(MachineError) as caught:
        plan_of(train=[*medium, *giants], hardware=machine_with(too_little))
    assert f"set `data.max_length` to {medium[0].length} with" in caught.value.hint
    assert "which drops 3 of 43 examples" in caught.value.hint
    with pytest.raises(MachineError) as caught:
        plan_of(tune={"adapter": {"name": "lora", "r": 1024}}, hardware=machine_with(2.2 * GIB))
    assert "set `tune.adapter.r` to 256" in caught.value.hint or "set `tune.adapter.r` to 128" in caught.value.hint
    with pytest.raises(MachineError) as caught:
        plan_of(tune={"adapter": "full"}, hardware=machine_with(2 * GIB))
    assert "set `tune.adapter` to lora" in caught.value.hint


def job_on(shape: Shape, examples: Sequence[Tokenised]) -> estimate.Job:
    longest = max(item.length for item in examples)
    return estimate.Job(
        shape=shape, item_bytes=2, num_trainable=4_884_480, micro_tokens=longest, longest=longest, low_rank=7 * 16
    )


def test_the_estimate_covers_the_whole_run(plan_of: Any) -> None:
    found = plan_of().estimate
    assert tuple(found.stages) == tuple(STAGES)
    assert all(seconds > 0 for seconds in found.stages.values())
    assert found.run_seconds == sum(found.stages.values())
    assert found.stages["train"] > found.seconds, "opening the model, evaluating and saving take time too"
    assert set(found.memory) == {"load", "train", "evaluate", "save", "resume", "generate"}
    assert found.peak_bytes == max(found.memory[phase].total for phase in estimate.TRAINING)


def test_it_advises(plan_of: Any, train: list[Tokenised]) -> None:
    advice = plan_of().advice
    assert any("LoRA needs about" in line for line in advice)
    assert plan_of(train=train[:20]).advice[0].startswith("20 training examples: prompting first")


GPU = MACHINE.model_copy(
    update={
        "device": "cuda",
        "device_name": "a fake GPU",
        "device_memory_bytes": 80 * 10**9,
        "memory_bytes": 128 * GIB,
        "flops": 6e14,
    }
)
OLD = GPU.model_copy(update={"has_bf16": False})
CARDS = {entry.name: entry for entry in CATALOGUE}
EIGHT, SEVENTY = shape_of(CARDS["llama-3.1-8b-instruct"]), shape_of(CARDS["llama-3.3-70b-instruct"])


def test_a_gpu_is_planned_by_its_own_memory_and_speed(plan_of: Any, renderer: Renderer, train: list[Tokenised]) -> None:
    rows = tokenised(renderer, [chat("far " * (50 + line), "away", line=line) for line in range(120)])
    by_gpu = plan_of(shape=EIGHT, hardware=GPU, train=rows)
    by_cpu = plan_of(shape=EIGHT, hardware=GPU.model_copy(update={"device": "cpu", "flops": 1e11}), train=rows)
    assert (by_gpu.model.dtype, by_gpu.recompute) == ("bfloat16", "none")
    assert by_gpu.micro_tokens > by_cpu.micro_tokens
    assert 16e9 < by_gpu.estimate.peak_bytes < 80e9
    assert by_gpu.estimate.memory["train"].runtime == estimate.CUDA.runtime_bytes
    assert by_gpu.estimate.seconds < by_cpu.estimate.seconds
    assert "cuda: a fake GPU, 74.5 GiB" in by_gpu.reasons["backend"]
    assert "assumption" in by_gpu.reasons["estimate"]
    assert by_gpu.digest != by_cpu.digest
    assert plan_of(hardware=OLD).model.dtype == "float32"
    with pytest.raises(MachineError, match=r"a fake GPU has 7\.5 GiB"):
        plan_of(shape=EIGHT, hardware=GPU.model_copy(update={"device_memory_bytes": 8 * 10**9}))


def test_a_base_that_only_several_gpus_hold_is_planned_for_as_many_ranks(plan_of: Any) -> None:
    with pytest.raises(MachineError, match="a fake GPU has 74"):
        plan_of(shape=SEVENTY, hardware=GPU)
    with pytest.raises(MachineError, match="each a fake GPU has 74"):
        plan_of(shape=SEVENTY, hardware=GPU, devices=2)
    plan = plan_of(shape=SEVENTY, hardware=GPU, devices=8)
    assert (plan.devices, plan.estimate.shards) == (8, 8)
    assert plan.estimate.peak_bytes < GPU.device_memory_bytes
    assert "8 processes, the weights cut over them (FSDP)" in plan.reasons["backend"]
    job = planned_job(plan, SEVENTY)
    assert estimate.peak(estimate.memory(job, estimate.CUDA_HERE)) == plan.estimate.peak_bytes
    whole = plan_of(shape=EIGHT, hardware=GPU, devices=8)
    assert (whole.estimate.shards, whole.estimate.layers) == (1, "hand-written")
    assert whole.estimate.seconds < plan_of(shape=EIGHT, hardware=GPU).estimate.seconds


def test_what_leaves_frozen_layers_is_kept_on_a_cpu(plan_of: Any, train: list[Tokenised]) -> None:
    asked = {"adapter": {"name": "lora", "top_layers": 4}}
    kept = plan_of(tune=asked).estimate.memory["train"].kept
    assert kept == sum(item.num_tokens for item in train) * 576 * 4
    assert plan_of().estimate.memory["train"].kept == 0
    assert plan_of(tune=asked, hardware=GPU).estimate.memory["train"].kept == 0


@pytest.mark.parametrize("why", ["dropout", "no compiler", "fp32 on a GPU"])
def test_what_our_layers_cannot_do_is_planned_in_those_of_transformers(
    plan_of: Any, monkeypatch: pytest.MonkeyPatch, renderer: Renderer, why: str
) -> None:
    """They keep more, share no beginnings, and keep nothing of frozen layers from epoch to epoch."""
    rows = [chat(f"question {line}", "yes", line=line, system="far away " * 40) for line in range(60)]
    asked = {"train": tokenised(renderer, rows), "hardware": MACHINE if why != "fp32 on a GPU" else OLD}
    lora = {"name": "lora", "top_layers": 4}
    ours = plan_of(**asked | {"hardware": MACHINE}, tune={"adapter": lora})
    if why == "no compiler":
        monkeypatch.setattr("sartor.ops.native.refusal", lambda name, element: "there is none")
    plain = plan_of(**asked, tune={"adapter": lora | ({"dropout": 0.1} if why == "dropout" else {})})
    assert (ours.estimate.layers, plain.estimate.layers) == ("hand-written", "transformers")
    assert plain.estimate.memory["train"].kept == 0 < ours.estimate.memory["train"].kept
    if why == "fp32 on a GPU":
        return
    per_token = [made.estimate.memory["train"].activations / made.estimate.fullest for made in (ours, plain)]
    assert per_token[0] < per_token[1]
    assert plain.estimate.seconds > 1.5 * ours.estimate.seconds, "the system prompt is computed for every row"
    assert "of our own layers: transformers' run here" in plain.reasons["estimate"]


def test_a_base_that_others_packed_is_planned_in_layers_of_transformers(
    plan_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sartor.quantisation.stored_quantisation", lambda folder: "gptq")
    plan = plan_of(tune={"adapter": {"name": "lora", "top_layers": 4}})
    assert (plan.model.quantize, plan.estimate.layers) == ("gptq", "transformers")
    assert plan.estimate.memory["train"].kept == 0


def test_virtual_tokens_are_in_the_plan(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a micro-batch's text once, where our layers share it; else, and where they are few, before each row."""

    def fullest(num_tokens: int) -> int:
        plan = plan_of(tune={"adapter": {"name": "prompt_tuning", "tokens": num_tokens}, "batch_size": 8})
        assert (plan.micro_tokens, plan.max_length) == (MICRO_TOKENS, plan_of().max_length)
        return plan.estimate.fullest

    text = plan_of(tune={"batch_size": 8}).estimate.fullest
    assert (fullest(8), fullest(200), fullest(400)) == (text + 8 * 8, text + 200, text + 400)
    monkeypatch.setattr("sartor.ops.native.refusal", lambda name, element: "there is none")
    assert fullest(400) - fullest(200) == 8 * 200
    prefix = plan_of(tune={"adapter": {"name": "prefix_tuning", "tokens": 200}, "batch_size": 8})
    assert prefix.estimate.fullest == fullest(1) - 8, "keys and values are no tokens of a forward"


def test_little_memory_leaves_room_for_virtual_tokens(plan_of: Any) -> None:
    asked = {"adapter": {"name": "prompt_tuning", "tokens": 400}}
    room = plan_of(tune=asked).estimate.memory["load"].total + 300 * 2**20
    plan = plan_of(tune=asked, hardware=machine_with(room))
    assert plan.max_length <= plan.micro_tokens < MICRO_TOKENS
    assert plan.estimate.peak_bytes <= room


def test_a_base_that_can_be_trained_and_not_answer_is_planned_and_said_to_be(plan_of: Any) -> None:
    """`sartor train` needs no answers: a base in four bits may be trained where its numbers have no room."""
    asked = {"shape": EIGHT, "hardware": GPU.model_copy(update={"device_memory_bytes": 15 * 10**9})}
    plan = plan_of(**asked, tune={"adapter": "qlora"})
    assert plan.advice[0].startswith("No proof here: answering needs at least 16.1 GiB on one device")
    assert "`sartor train` trains without answers" in plan.advice[0]
    assert not any("No proof" in line for line in plan_of(shape=EIGHT, hardware=GPU, tune={"adapter": "qlora"}).advice)


def test_a_smaller_base_is_sized_with_what_the_method_reads_there(train: list[Tokenised]) -> None:
    asked = Named(name="lora", settings={"dropout": 0.1})
    method = settled_method(asked, EIGHT)
    job = method.given(replace(job_on(EIGHT, train), micro_tokens=300))
    assert way_of(job, method, train).job_of(SMOLLM2) == settled_method(asked, SMOLLM2).given(
        replace(job, shape=SMOLLM2)
    )
    assert way_of(job, method, train).job_of(SMOLLM2).reads == 5 * 576 + 576 + 1536


def test_a_share_of_the_layers_is_planned_as_so_many(plan_of: Any) -> None:
    """A quarter of thirty, rounded up, is eight."""
    share, number = (
        plan_of(tune={"adapter": "top_layers"}),
        plan_of(tune={"adapter": {"name": "full", "top_layers": 8}}),
    )
    assert share.num_trainable == number.num_trainable
    assert share.estimate.memory["train"] == number.estimate.memory["train"]


def test_threads_are_the_cores_of_the_machine(plan_of: Any) -> None:
    assert plan_of(hardware=MACHINE.model_copy(update={"num_cores": 7})).num_threads == 7


@pytest.mark.parametrize(("factor", "rate"), [(1, 5e-4), (3, 3e-4), (10, 2e-4)])
def test_the_smaller_the_base_the_higher_the_rate(plan_of: Any, factor: int, rate: float) -> None:
    shape = SMOLLM2.model_copy(update={"hidden": 576 * factor, "inner": 1536 * factor})
    big = MACHINE.model_copy(update={"memory_bytes": 400 * GIB})
    assert plan_of(shape=shape, hardware=big).learning_rate == rate


def test_the_rate_of_full_tuning_is_not_explained_by_adapters(plan_of: Any) -> None:
    adapter, full = (plan_of(tune={"adapter": name}).reasons["learning_rate"] for name in ("lora", "full"))
    assert adapter.startswith("an adapter on a model of 135 M parameters")
    assert full.startswith("the weights of a model of 135 M parameters")
    assert "full wants 0.1 times what lora does" in full


def test_saving_takes_no_more_than_a_tenth_of_the_time(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = MACHINE.model_copy(update={"flops": 1e8})
    assert plan_of(hardware=slow).reasons["save_every"].startswith("about every 60 s")
    monkeypatch.setattr("sartor.backends.estimate.save_seconds", lambda *_: 96.0)
    assert plan_of(hardware=slow).reasons["save_every"].startswith("about every 960 s")


def test_the_plan_is_the_same_again_but_for_the_speed_of_the_machine(plan_of: Any) -> None:
    assert plan_of() == plan_of()
    slower, faster = (plan_of(hardware=MACHINE.model_copy(update={"flops": flops})) for flops in (1e8, 1e13))
    assert slower.save_every < faster.save_every
    assert slower.digest == faster.digest
    assert faster.estimate.seconds < plan_of().estimate.seconds


# ---- the estimate ----------------------------------------------------------------------------------------------------


def test_the_sizes_of_smollm2(smollm2_folder: Path) -> None:
    assert hub.shape(smollm2_folder) == SMOLLM2
    assert SMOLLM2.num_linear == 106_168_320
    assert SMOLLM2.num_parameters == 134_515_008


def test_seconds_and_tokens_by_hand(plan_of: Any, train: list[Tokenised]) -> None:
    plan = plan_of(tune={"epochs": 2, "batch_size": 8})
    tokens = sum(item.num_tokens for item in train)
    assert plan.num_trainable == 4_884_480
    assert plan.estimate.tokens == 2 * tokens
    job = replace(job_on(SMOLLM2, train), micro_tokens=plan.micro_tokens)
    computed = packing([item.segments for item in train], job, 8, steps=plan.steps, seed=17).computed
    assert computed < 1, "all prompts begin with the template's first words"
    per_token = estimate.training_flops(
        job,
        supervised_share=sum(item.num_supervised for item in train) / tokens / computed,
        mean_length=sum(item.num_tokens**2 for item in train) / tokens * (2 - computed),
    )
    per_token += 7 * 30 * 576 * 2 * estimate.CPU.attention_edge
    rest = estimate.CPU.pointwise_seconds * 30 * (576 + 1536)
    calls = plan.steps * (30 * estimate.CPU.layer_seconds + 4_884_480 * estimate.CPU.step_seconds)
    seconds = 2 * computed * tokens * (per_token / (1e11 * estimate.CPU.efficiency) + rest) + calls
    assert plan.estimate.seconds == pytest.approx(seconds, abs=0.06)
    assert "100 GFLOP/s measured here" in plan.reasons["estimate"]


# ---- the proof -------------------------------------------------------------------------------------------------------


def test_the_proof_is_planned_alike_before_and_within_the_plan(
    plan_of: Any, train: list[Tokenised], test_items: list[Tokenised]
) -> None:
    """`baseline` plans the proof on its own, before there is a plan: both must decide the same."""
    for sections in SECTIONS:
        alone = plan_proof(recipe(**sections), train, test_items)
        assert plan_of(**sections).proof == alone


def test_no_answer_is_cut(plan_of: Any, renderer: Renderer, test_items: list[Tokenised]) -> None:
    (long,) = tokenised(renderer, [chat("q", "far " * 50)])
    for part in ({"train": [long]}, {"test": [*test_items, long]}):
        proof = plan_of(**part).proof
        assert proof.max_new_tokens == long.num_supervised + 8
    assert str(long.num_supervised) in plan_of(train=[long]).reasons["proof.max_new_tokens"]


def test_choice_learns_its_options_from_train_alone(plan_of: Any, renderer: Renderer) -> None:
    train = tokenised(renderer, [chat(f"q {line}", ["spam", "ham"][line % 3 == 0], line=line) for line in range(60)])
    test = tokenised(renderer, [chat(f"t {line}", "eggs", line=99 + line) for line in range(20)])
    plan = plan_of(train=train, test=test, task="choice")
    assert plan.proof.metric.settings == {"options": ("spam", "ham")}
    assert "2 labels" in plan.reasons["proof.metric"]
    asked = plan_of(train=train, test=test, task={"metric": {"name": "choice", "options": ["a", "b"]}})
    assert asked.proof.metric.settings == {"options": ["a", "b"]}
    assert asked.reasons["proof.metric"] == ASKED


def test_choice_without_labels_has_no_options(plan_of: Any) -> None:
    assert plan_of(task="choice").proof.metric.settings == {"options": ()}


# ---- rows that train nothing -----------------------------------------------------------------------------------------


def test_rows_that_train_nothing_do_not_crash_the_plan(
    plan_of: Any, renderer: Renderer, train: list[Tokenised], test_items: list[Tokenised]
) -> None:
    """The check refuses them, but a stage's inputs are looked at before the stage runs."""
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b", weight=0))
    (nothing,) = tokenised(renderer, [Chat(source=Source(file="t", line=1), messages=turns)])
    assert nothing.segments == ()
    plan = plan_of(train=[nothing, *train], test=[nothing, *test_items])
    assert plan.estimate.tokens == pytest.approx(
        sum(item.num_tokens for item in train) * plan.steps * plan.batch_size / 121, abs=1
    )
    assert plan_proof(recipe(), [nothing], [nothing]).max_new_tokens > 0


def test_running_text_is_planned_too(plan_of: Any, renderer: Renderer) -> None:
    texts = [Text(source=Source(file="book.txt", line=line), text=f"It rains {line}.") for line in range(60)]
    plan = plan_of(train=tokenised(renderer, texts), test=tokenised(renderer, texts[:20]), task="perplexity")
    assert plan.proof.metric.name == "perplexity"
    assert re.match(r"20 are held out", plan.reasons["proof.items"])
