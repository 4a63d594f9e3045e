"""Explain: every key of the recipe has words, and says what was asked and decided here."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from sartor import planner_padded
from sartor.backends import estimate
from sartor.backends.estimate import CPU, CUDA, Calibration
from sartor.catalogue import CATALOGUE
from sartor.errors import UserError
from sartor.explain import _size, explain, plan_document
from sartor.hub import Shape
from sartor.jobs import settled_method
from sartor.plan import Choice, Estimate, Memory, Plan
from sartor.recipe import Named, Recipe, fields
from sartor.sizing import Room, shape_of
from sartor.types import Form

from .plans import plan

(CARD,) = (one for one in CATALOGUE if one.name == "smollm2-135m-instruct")
KEYS = [path for path, *_ in fields()]
RECIPE = Recipe.model_validate(
    {
        "model": "smollm2-135m-instruct",
        "data": "tickets.jsonl",
        "task": {"metric": "exact", "goal": 0.8},
        "tune": {"adapter": {"name": "lora", "r": 4}, "learning_rate": 0.5},
    }
)


def decided() -> Plan:
    reasons = {
        "batch_size": "40 examples",
        "proof.batch_size": "beyond 32 rows no faster",
        "learning_rate": "asked for in the recipe",
        "proof.items": "20 are held out",
        "adapter": "as the recipe says",
        "proof.metric": "asked for in the recipe",
    }
    return plan(reasons=reasons)


def line(text: str, label: str) -> str:
    """What stands behind a label."""
    (found,) = (line.removeprefix(f"  {label}").strip() for line in text.splitlines() if line.startswith(f"  {label} "))
    return found


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained(key: str) -> None:
    for recipe, made in ((None, None), (RECIPE, None), (RECIPE, decided())):
        text = explain(key, recipe, made)
        assert text.splitlines()[0] == key
        assert len(line(text, "what")) > 15
        assert len(line(text, "when")) > 10
        assert line(text, "default")
        assert "settings=" not in text, "no Python in what people read"
        assert "None" not in text


def test_what_was_asked_and_decided() -> None:
    text = explain("tune.learning_rate", RECIPE, decided())
    assert line(text, "default") == "decided by the plan"
    assert line(text, "asked") == "0.5"
    assert line(text, "decided") == "0.5: asked for in the recipe"
    assert line(explain("tune.epochs", RECIPE, None), "asked") == "nothing"
    assert line(explain("data.test", None, None), "default") == "none", "no plan ever brings a test file"
    assert line(explain("task.goal", RECIPE, None), "asked") == "0.8"


def test_settings_are_shown_with_their_name() -> None:
    text = explain("tune.adapter", RECIPE, decided())
    assert line(text, "default") == "lora"
    assert line(text, "asked") == "lora {'r': 4}"
    assert line(text, "decided") == "lora: as the recipe says"
    assert line(explain("task.metric", RECIPE, decided()), "decided") == "exact: asked for in the recipe"
    assert line(explain("task.metric", RECIPE, None), "default") == "required"


def test_a_key_is_not_given_the_decision_of_its_namesake() -> None:
    text = explain("tune.batch_size", RECIPE, decided())
    assert line(text, "decided") == "2: 40 examples"
    assert "32" not in text
    assert line(explain("prove.items", RECIPE, decided()), "decided") == "20: 20 are held out"


def test_a_section_explains_all_of_its_keys() -> None:
    text = explain("prove", None, None)
    assert [key for key in KEYS if f"\n{key}\n" in f"\n{text}\n"] == [key for key in KEYS if key.startswith("prove.")]
    assert explain("", None, None).count("  what ") == len(KEYS)


@pytest.mark.parametrize(("key", "near"), [("tune.lerning_rate", "tune.learning_rate"), ("data.trian", "data.train")])
def test_an_unknown_key_is_answered_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UserError, match=f"no recipe key '{key}'") as caught:
        explain(key, None, None)
    assert f"did you mean '{near}'" in caught.value.hint


def test_the_beginning_of_a_word_is_no_section() -> None:
    with pytest.raises(UserError):
        explain("tun", None, None)


# ---- the arithmetic --------------------------------------------------------------------------------------------------


def reckoned(memory: dict[str, Memory], **changes: Any) -> Estimate:
    return Estimate(peak_bytes=1, seconds=60, tokens=9, memory=memory, stages={"train": 99, "prove": 1}, **changes)


def sized(**changes: Any) -> Plan:
    """A plan for SmolLM2 with the memory that it would take."""
    job = estimate.Job(
        shape=shape_of(CARD), item_bytes=4, num_trainable=4_884_480, micro_tokens=1024, longest=300, low_rank=112
    )
    values = {
        "adapter": Choice(name="lora", settings={"r": 16}),
        "optimizer": "adamw",
        "num_trainable": 4_884_480,
        "micro_tokens": 1024,
        "max_length": 300,
        "estimate": reckoned(estimate.memory(job, CPU)),
        "advice": ("LoRA.",),
    }
    return plan(**{**values, **changes})


def document(*, arithmetic: bool) -> tuple[Any, str]:
    return plan_document(sized(), shape_of(CARD), arithmetic=arithmetic)


def test_the_arithmetic_puts_numbers_in_and_adds_up() -> None:
    made, text = document(arithmetic=True)
    items = {line["item"]: line for line in made["arithmetic"]}
    assert items["base weights"]["arithmetic"] == "134.5 M parameters × 4 bytes (fp32)"
    assert items["gradients"]["arithmetic"] == "4.88 M trained × 4 bytes (fp32)"
    assert items["optimizer, two moments"]["arithmetic"] == "4.88 M trained × 8 bytes (Adam: two in fp32)"
    saved = items["activations saved for the backward"]
    factors = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", saved["arithmetic"])]
    assert factors[:2] == [1024, 30]
    assert saved["num_bytes"] == math.prod(factors)
    parts = [line["num_bytes"] for line in made["arithmetic"] if line["item"].startswith("  ")]
    assert sum(parts) * 1024 * 30 == saved["num_bytes"]
    whole = sum(line["num_bytes"] for line in made["arithmetic"] if not line["item"].startswith("  "))
    assert whole == sized().estimate.memory["train"].total
    assert f"{whole / 2**30:,.2f} GiB" in text
    assert "512 positions × 49,152 words × 4 bytes" in text


def product(arithmetic: str) -> float:
    """What a line comes to: its numbers multiplied, divided and added up, whatever they are of."""
    bare = re.sub(r"\(.*?\)|[a-z]+[0-9]+|in \w+ bits", "", arithmetic).partition(":")[0]
    total = 0.0
    for term in bare.split(" + "):
        value = 1.0
        for sign, number, unit in re.findall(r"([×÷]?) ?([\d,]*\.?\d+)( M)?", term):
            factor = float(number.replace(",", "")) * (1e6 if unit else 1)
            value = value / factor if sign == "÷" else value * factor
        total += value
    return total


def checked(made: Plan, shape: Shape, memory: Memory) -> dict[str, str]:
    """The arithmetic of each item by its name, after each line was multiplied out and all were added up."""
    lines = [
        line
        for line in plan_document(made, shape, arithmetic=True)[0]["arithmetic"]
        if not line["item"].startswith(" ")
    ]
    for line in lines:
        if line["arithmetic"] != "measured":
            assert product(line["arithmetic"]) == pytest.approx(line["num_bytes"], rel=2e-3), line
    assert sum(line["num_bytes"] for line in lines) == memory.total
    return {line["item"]: line["arithmetic"] for line in lines}


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"dropout": 0.1}),
    ("lora", {"top_layers": 4}),
    ("qlora", {}),
    ("dora", {}),
    ("lst", {}),
    ("prefix_tuning", {}),
    ("full", {}),
    ("top_layers", {}),
]


@pytest.mark.parametrize(("item_bytes", "calibration"), [(4, CPU), (2, CPU), (2, CUDA)])
@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_each_line_multiplies_out(name: str, settings: Any, item_bytes: int, calibration: Calibration) -> None:
    """For methods of each kind: in our layers and in transformers', on packed weights, with frozen layers kept."""
    method = settled_method(Named(name=name, settings=settings), shape_of(CARD))
    bare = estimate.Job(
        shape=shape_of(CARD),
        item_bytes=item_bytes,
        num_trainable=0,
        micro_tokens=1000,
        longest=300,
        kept_tokens=5000 if method.depth else 0,
        quantize="nf4" if name == "qlora" else "none",
    )
    job = method.given(bare)
    made = sized(
        adapter=method.adapter,
        num_trainable=method.num_trainable,
        estimate=reckoned(estimate.memory(job, calibration), fullest=1000, layers=job.computed_by),
        model=plan().model.model_copy(
            update={"dtype": {2: "bfloat16", 4: "float32"}[item_bytes], "quantize": job.quantize}
        ),
    )
    lines = checked(made, job.shape, estimate.memory(job, calibration)["train"])
    copies = {True: "× 4 copies", False: "× 2 copies"}[calibration is CPU]
    assert lines.get("working copies of the adapter", copies).endswith(copies)


@pytest.mark.parametrize(
    ("changes", "calibration", "fullest"),
    [
        ({"micro_tokens": 16, "tile": 16}, CPU, "load"),
        ({"micro_tokens": 16, "tile": 16, "quantize": "nf4"}, CPU, "load"),
        ({"micro_tokens": 16, "tile": 16, "quantize": "gptq"}, CPU.model_copy(update={"num_products": 0}), "load"),
        ({"micro_tokens": 16, "tile": 16, "num_trainable": 300_000_000}, CPU, "save"),
        ({}, CPU, "save"),
        ({"layers": "transformers"}, CPU, "train"),
    ],
)
def test_the_fullest_phase_is_itemised_too(changes: Any, calibration: Calibration, fullest: str) -> None:
    """Its items add up to the estimate, which training's do not where another phase is fuller."""
    from sartor.explain import _document, _memory_lines, _sums

    bare = estimate.Job(
        shape=shape_of(CARD), item_bytes=2, num_trainable=100_000, micro_tokens=1024, longest=16, low_rank=112
    )
    job = replace(bare, **changes)
    phases = estimate.memory(job, calibration)
    sums = _sums(job, phases, "decoder")
    whole = [line for line in sums[fullest] if not line.item.startswith(" ")]
    assert sum(line.num_bytes for line in whole) == estimate.peak(phases)
    for line in whole:
        if line.arithmetic != "measured":
            assert product(line.arithmetic) == pytest.approx(line.num_bytes, rel=2e-3), line
    assert list(_document(sums)["fullest"]) == ([] if fullest == "train" else [fullest])
    *above, others = _memory_lines(sums, phases)
    assert (f"{fullest} {_size(phases[fullest].total)} (the fullest)" in others) == (fullest != "train")
    assert above[-1].endswith(_size(phases[fullest].total))


def test_the_lines_of_several_devices_multiply_out() -> None:
    """An adapter is whole on each, and a layer of the base is gathered at a time."""
    from sartor.explain import _arithmetic

    (found,) = (one for one in CATALOGUE if one.name == "llama-3.3-70b-instruct")
    job = estimate.Job(
        shape=shape_of(found), item_bytes=2, num_trainable=10**8, micro_tokens=900, longest=9, devices=8, shards=8
    )
    for one in (job, replace(job, full=True, num_trainable=job.shape.num_parameters)):
        lines = _arithmetic(one, estimate.memory(one, CUDA)["train"], "decoder")
        for line in lines:
            if line.arithmetic not in ("", "measured"):
                assert product(line.arithmetic) == pytest.approx(line.num_bytes, rel=2e-3), line
        (masters,) = (line.arithmetic for line in lines if line.item.endswith("fp32 masters"))
        assert masters.endswith("÷ 8 devices × 4 bytes (fp32)") == one.full


@pytest.mark.parametrize(("form", "kind"), [("classifier", "encoder"), ("seq2seq", "encoder_decoder")])
def test_a_padded_plan_is_explained_by_its_own_formulas(form: Form, kind: Any) -> None:
    """Layers that no decoder has are no mistake."""
    shape = shape_of(CARD).model_copy(update={"kind": kind, "counted": 60_000_000})
    job = estimate.Job(
        shape=shape, item_bytes=4, num_trainable=300_000, micro_tokens=640, longest=80, layers="transformers"
    )
    memory = planner_padded.memory(job, form, Room(10**12, CPU))
    made = sized(
        adapter=Choice(name="lora", settings={"targets": ["q", "v"]}),
        num_trainable=300_000,
        micro_tokens=640,
        max_length=80,
        estimate=reckoned(memory, layers="transformers"),
        model=plan().model.model_copy(update={"form": form}),
    )
    lines = checked(made, shape, memory["train"])
    assert "a rough guess" in lines["activations saved for the backward"]
    assert "a token and layer" not in plan_document(made, shape, arithmetic=True)[1]


def test_without_it_there_is_time_and_advice() -> None:
    made, text = document(arithmetic=False)
    assert made == sized().model_dump(mode="json", by_alias=True)
    assert text == "the whole run: 2 min (train 2 min, prove 1 s)\nLoRA."


def test_columns_stand_below_each_other() -> None:
    lines = document(arithmetic=True)[1].splitlines()
    rows = [line for line in lines if " × " in line]
    assert len({re.search(r"\d (MiB|GiB)  ", line).end() for line in rows}) == 1  # type: ignore[union-attr]
    assert max(map(len, lines)) < 180


def test_a_plan_without_itemised_memory_has_no_arithmetic() -> None:
    bare = sized(estimate=Estimate(peak_bytes=1, seconds=1, tokens=1))
    assert plan_document(bare, shape_of(CARD), arithmetic=True)[0]["arithmetic"] == []
