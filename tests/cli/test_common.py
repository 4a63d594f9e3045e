"""What is served of a run: its artifact, what was converted for other engines, and what is told of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sartor import durable
from sartor.cli import common
from sartor.errors import Refused
from sartor.store import Run


def wrote(folder: Path, weights: str) -> str:
    """A sealed folder; its digest."""
    with durable.atomic_dir(folder) as staging:
        (staging / "adapter_model.safetensors").write_text(weights)
    return durable.digest(folder)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A trained, packaged and converted run."""
    monkeypatch.setattr(common.talk, "file", None)
    found = Run(tmp_path / "runs" / "rows-1a")
    trained = wrote(found.path("adapter"), "first")
    wrote(found.path("artifact"), "first")
    wrote(found.path("converted-lora"), "as lora")
    durable.write_json(found.path("converted-lora.json"), {"trained": trained})
    durable.write_json(found.path("proof.json"), {"verdict": "reject"})
    return found


def test_engines_of_every_method_get_the_artifact_and_others_what_was_converted(run: Run, capsys: Any) -> None:
    for engine in ("sartor", "peft"):
        assert common.servable(run, engine) == run.path("artifact")
    assert capsys.readouterr().err == ""
    assert common.servable(run, "vllm") == run.path("converted-lora")
    assert capsys.readouterr().err == "rows-1a is served as converted-lora\n"


@pytest.mark.parametrize(("engine", "served"), [("peft", "adapter"), ("vllm", "converted-lora")])
def test_what_is_not_packaged_is_said(run: Run, capsys: Any, engine: str, served: str) -> None:
    durable.remove_dir(run.path("artifact"))
    assert common.servable(run, engine) == run.path(served)
    assert "rows-1a is not packaged (verdict: reject)" in capsys.readouterr().err


def test_an_earlier_training_is_told_and_its_conversion_left_aside(run: Run, capsys: Any) -> None:
    wrote(run.path("adapter"), "second")
    assert common.servable(run, "sartor") == run.path("artifact")
    assert "rows-1a was trained again after it was packaged" in capsys.readouterr().err
    assert common.servable(run, "vllm") == run.path("artifact")
    assert "converted-lora of rows-1a is of an earlier training" in capsys.readouterr().err
    durable.write_json(run.path("converted-lora.json"), {"trained": durable.digest(run.path("adapter"))})
    assert common.servable(run, "vllm") == run.path("converted-lora")
    assert "is not packaged (verdict: reject)" in capsys.readouterr().err, "the artifact is of another training"


def test_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nothing to serve yet"):
        common.servable(Run(tmp_path), "vllm")


def test_a_folder_of_an_artifact_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sartor.json").write_text("{}")
    assert common.runs_named([str(tmp_path)], common.DEFAULT) == [tmp_path]
    assert common.servable(tmp_path, "vllm") == tmp_path
