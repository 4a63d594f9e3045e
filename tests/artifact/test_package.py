"""Packaging: only what is proved leaves the house, whole, with all that it needs to be served right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sartor import durable
from sartor.artifact.lineage import Lineage, lineage
from sartor.artifact.package import SPEECH, add_speech, package
from sartor.errors import MachineError, Refused
from sartor.plan import Choice, Plan
from sartor.proof import Proof
from sartor.store import Run

from ..plans import plan  # noqa: TID252 - the tests are no package that could be imported by name
from ..proofs import proof  # noqa: TID252

WHOLE = plan(adapter=Choice(name="full"), family="full")
FACTS = lineage("tickets-1a2b", plan(), recipe="r", renderer="f", stop_ids=frozenset({2, 0, 7}))


def base_folder(folder: Path, *, generation: Any = None) -> Path:
    """A base model's folder: its speech, its weights and something that is no business of the adapter."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text(f"the base's {name}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def trained_run(folder: Path) -> Run:
    """A run whose adapter is exported and whose proof is written."""
    run = Run(folder / "runs" / "tickets-1a2b")
    base = base_folder(folder / "base", generation={"eos_token_id": 2, "temperature": 0.2})
    run.export(
        lambda staging: durable.write_json(staging / "adapter_config.json", {"r": 4}),
        lambda staging: durable.atomic_write(staging / "adapter_model.safetensors", b"numbers"),
        lambda staging: add_speech(base, staging, FACTS),
    )
    durable.write_json(run.path("proof.json"), proof().model_dump(mode="json", by_alias=True))
    return run


def whole_run(folder: Path) -> Run:
    """A run that tuned the whole model, which it keeps in `model/`."""
    run = Run(folder / "runs" / "tickets-1a2b")
    base = base_folder(folder / "base", generation={"eos_token_id": 2})
    durable.write_json(run.path("plan.json"), WHOLE.model_dump(mode="json", by_alias=True))
    run.export(
        lambda staging: durable.write_json(staging / "config.json", {}),
        lambda staging: durable.write_json(staging / "generation_config.json", {"use_cache": True}),
        lambda staging: durable.atomic_write(staging / "model.safetensors", b"tuned numbers"),
        lambda staging: add_speech(
            base, staging, lineage(run.id, WHOLE, recipe="r", renderer="f", stop_ids=frozenset({7}))
        ),
    )
    durable.write_json(run.path("proof.json"), proof().model_dump(mode="json", by_alias=True))
    return run


def pack(run: Run, found: Proof | None = None, *, anyway: bool = False, made: Plan | None = None) -> Path:
    return package(run, made or plan(), found or proof(), anyway=anyway)


def test_what_is_proved_is_packaged_whole(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    artifact = pack(run)
    assert artifact == run.path("artifact")
    names = {path.name for path in artifact.iterdir()}
    speech = {name for name in SPEECH if name != "special_tokens_map.json"}  # the base has none
    assert names == speech | {
        *("adapter_config.json", "adapter_model.safetensors", "sartor.json"),
        *("proof.json", "README.md", durable.MANIFEST),
    }
    assert durable.verify(artifact) == ""
    assert (artifact / "adapter_model.safetensors").read_bytes() == b"numbers"
    assert json.loads((artifact / "proof.json").read_text())["verdict"] == "ship"
    assert "tickets-1a2b" in (artifact / "README.md").read_text()


def test_a_whole_model_is_packaged_with_its_own_weights(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    assert not run.path("adapter").exists()
    artifact = pack(run, made=WHOLE)
    names = {path.name for path in artifact.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "sartor.json"} <= names
    assert durable.verify(artifact) == ""
    assert (artifact / "model.safetensors").read_bytes() == b"tuned numbers"
    assert json.loads((artifact / "generation_config.json").read_text())["eos_token_id"] == [7]
    assert json.loads((artifact / "sartor.json").read_text())["holds"] == "model"


def test_a_damaged_model_is_not_packaged(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    run.path("model/model.safetensors").write_bytes(b"tuned numbfrs")
    with pytest.raises(MachineError, match="not packaged") as caught:
        pack(run, made=WHOLE)
    assert "the run's model/ and train again" in caught.value.hint


def test_packaging_again_replaces_the_artifact(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    (pack(run) / "stray.txt").write_text("by hand")
    assert "stray.txt" not in {path.name for path in pack(run).iterdir()}
    assert durable.verify(run.path("artifact")) == ""


@pytest.mark.parametrize("verdict", ["keep_prompting", "more_data", "regression", "untuned"])
def test_anything_but_ship_is_refused_unless_asked_for(tmp_path: Path, verdict: Any) -> None:
    run = trained_run(tmp_path)
    found = proof(verdict=verdict, sentence="It does not help.")
    with pytest.raises(Refused, match=f"the verdict is `{verdict}`: It does not help") as caught:
        pack(run, found)
    assert caught.value.exit_code == 1
    assert "--anyway" in caught.value.hint
    assert not run.path("artifact").exists()
    artifact = pack(run, found, anyway=True)
    assert f"**{verdict}**" in (artifact / "README.md").read_text(), "the card does not hide it"


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_a_damaged_adapter_is_not_packaged(tmp_path: Path, damage: str) -> None:
    run = trained_run(tmp_path)
    weights = run.path("adapter") / "adapter_model.safetensors"
    if damage == "changed":
        weights.write_bytes(b"numbfrs")
    else:
        (weights if damage == "missing" else run.path("adapter") / durable.MANIFEST).unlink()
    for anyway in (False, True):
        with pytest.raises(MachineError, match="not packaged") as caught:
            pack(run, anyway=anyway)
        assert "train again" in caught.value.hint
    assert not run.path("artifact").exists()


def test_only_what_was_exported_leaves_the_house(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    (run.path("adapter") / "my notes.txt").write_text("private")
    (run.path("adapter") / ".cache").mkdir()
    assert {path.name for path in pack(run).iterdir()} & {"my notes.txt", ".cache"} == set()


# ---- speech ----------------------------------------------------------------------------------------------------------


def test_speech_travels_and_weights_do_not(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    add_speech(base_folder(tmp_path / "base"), target, FACTS)
    assert {path.name for path in target.iterdir()} == {
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("generation_config.json", "sartor.json"),
    }
    assert (target / "chat_template.jinja").read_text() == "the base's chat_template.jinja"


@pytest.mark.parametrize("generation", [None, {}, {"eos_token_id": 2}, {"eos_token_id": [2, 5], "top_k": 20}])
def test_every_stop_token_is_in_the_generation_config(tmp_path: Path, generation: Any) -> None:
    """What ends a turn in training ends it in plain transformers too, which stops at these and no others."""
    target = tmp_path / "adapter"
    target.mkdir()
    add_speech(base_folder(tmp_path / "base", generation=generation), target, FACTS)
    settings = json.loads((target / "generation_config.json").read_text())
    assert settings == {**(generation or {}), "eos_token_id": [0, 2, 7]}


def test_the_lineage_travels(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    add_speech(base_folder(tmp_path / "base"), target, FACTS)
    assert Lineage.model_validate_json((target / "sartor.json").read_text()) == FACTS


def test_the_real_base_has_all_the_speech_it_needs(tmp_path: Path, smollm2_folder: Path) -> None:
    from sartor.chat import open_renderer

    target = tmp_path / "adapter"
    target.mkdir()
    add_speech(smollm2_folder, target, FACTS)
    before, after = open_renderer(smollm2_folder), open_renderer(target)
    assert after.fingerprint == before.fingerprint
    assert after.stop_ids == before.stop_ids | {0, 2, 7}
