"""Opening artifacts: one base, the right base, the renderer of training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sartor import durable, hub
from sartor.errors import MachineError, ModelError, UserError
from sartor.recipe import ModelSpec
from sartor.serve.desk import Desk, check_files, desk_from, open_desk, read_lineages
from sartor.serve.errors import ApiError


@pytest.fixture
def base(tmp_path: Path) -> hub.Base:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return hub.find(ModelSpec(name=str(folder))).model_copy(update={"name": "smol"})


def package(folder: Path, name: str, base: hub.Base, **changes: Any) -> Path:
    """An artifact folder, sealed as `sartor package` seals it."""
    lineage = {"name": name, "base": base.model_dump(), "template": {}, "renderer": "fingerprint-1", **changes}
    folder.mkdir()
    durable.write_json(folder / "sartor.json", lineage)
    durable.seal(folder)
    return folder


@pytest.fixture
def opened(scripted: Any, byte_renderer: Any) -> Any:
    """`desk_from` with fakes; the calls to the engine's file are kept."""
    calls: list[tuple[Path, dict[str, Path]]] = []

    def open_engine(path: Path, adapters: Mapping[str, Path]) -> Any:
        calls.append((path, dict(adapters)))
        return scripted(adapters=tuple(adapters))

    def desk(*artifacts: Path, fingerprint: str = "fingerprint-1") -> tuple[Desk, Any]:
        lineages = read_lineages(artifacts)
        check_files(lineages)
        return desk_from(lineages, open_engine, lambda folder, template_kwargs=(): byte_renderer(fingerprint)), calls

    return desk


def test_base_and_adapters_by_name(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    folders = [package(tmp_path / name, name, base) for name in ("tickets-1a", "mails-2b")]
    desk, calls = opened(*folders)
    assert [(model.name, model.adapter, model.parent) for model in desk.models] == [
        ("smol", None, None),
        ("tickets-1a", "tickets-1a", "smol"),
        ("mails-2b", "mails-2b", "smol"),
    ]
    assert calls == [(base.folder, {"tickets-1a": folders[0], "mails-2b": folders[1]})]
    assert len({model.turns for model in desk.models}) == 1
    assert desk.find("smol").fingerprint == "fp_fingerprint-"
    with pytest.raises(ApiError) as missing:
        desk.find("tickets")
    assert missing.value.status == 404


def test_adapters_that_speak_by_the_same_files_share_one_renderer(
    tmp_path: Path, base: hub.Base, scripted: Any, byte_renderer: Any
) -> None:
    folders = {name: package(tmp_path / name, name, base) for name in ("one", "two", "other")}
    for name, folder in folders.items():
        (folder / "manifest.json").unlink()
        (folder / "chat_template.jinja").write_text("{{ 1 }}" if name == "other" else "{{ 0 }}")
    opened: list[Path] = []

    def open_renderer(folder: Path, *, template_kwargs: Any = ()) -> Any:
        opened.append(folder)
        return byte_renderer("fingerprint-1")

    lineages = read_lineages(list(folders.values()))
    desk = desk_from(lineages, lambda base, adapters: scripted(adapters=tuple(adapters)), open_renderer)
    assert opened == [folders["one"], folders["other"], base.folder]
    assert desk.find("one").renderer is desk.find("two").renderer
    assert desk.find("one").renderer is not desk.find("other").renderer


def test_a_whole_model_is_served_alone_from_its_own_folder(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    folder = package(tmp_path / "tickets-1a", "tickets-1a", base, holds="model")
    (base.folder / "model.safetensors").unlink()  # nothing of the base is needed any more
    desk, calls = opened(folder)
    assert [(model.name, model.adapter, model.parent) for model in desk.models] == [("tickets-1a", None, "smol")]
    assert calls == [(folder, {})]
    with pytest.raises(ModelError, match="trained with another template or tokenizer"):
        opened(folder, fingerprint="fingerprint-2")


@pytest.mark.parametrize("holds", ["model", "adapter"])
def test_a_whole_model_is_no_base_for_others(tmp_path: Path, base: hub.Base, opened: Any, holds: str) -> None:
    one = package(tmp_path / "one", "one", base, holds="model")
    two = package(tmp_path / "two", "two", base, holds=holds)
    for folders in ((one, two), (two, one)):
        with pytest.raises(UserError, match=r"tuned as a whole, and no base for (one|two): one server has one base"):
            opened(*folders)


def test_nothing_to_serve(opened: Any) -> None:
    with pytest.raises(UserError, match="nothing to serve"):
        opened()


def test_two_bases_are_refused(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    one = package(tmp_path / "one", "one", base)
    two = package(tmp_path / "two", "two", base.model_copy(update={"name": "big", "digest": "0" * 64}))
    with pytest.raises(UserError, match="two was tuned from big, and one from smol") as refused:
        opened(one, two)
    assert "server for each base" in refused.value.hint


@pytest.mark.parametrize("name", ["one", "smol"])
def test_two_of_one_name_are_refused(tmp_path: Path, base: hub.Base, opened: Any, name: str) -> None:
    folders = [package(tmp_path / "one", "one", base), package(tmp_path / "other", name, base)]
    with pytest.raises(UserError, match=f"two served models are called '{name}'"):
        opened(*folders)


def test_another_template_or_tokenizer_is_refused(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    with pytest.raises(ModelError, match="trained with another template or tokenizer"):
        opened(package(tmp_path / "one", "one", base), fingerprint="fingerprint-2")


def test_another_base_in_its_place_is_refused(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    folder = package(tmp_path / "one", "one", base)
    (base.folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="is not the one that one was tuned on"):
        opened(folder)


def test_a_base_that_is_gone_is_named(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    folder = package(tmp_path / "one", "one", base.model_copy(update={"path": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match="the base model of one is not at") as missing:
        opened(folder)
    assert "sartor models --path smol" in missing.value.hint


def test_a_damaged_artifact_is_refused(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    folder = package(tmp_path / "one", "one", base)
    text = (folder / "sartor.json").read_text()
    (folder / "sartor.json").write_text(text.replace("one", "two"))
    with pytest.raises(MachineError, match="does not match its checksum"):
        opened(folder)


@pytest.mark.parametrize("written", [{"name": "one"}, {"name": "one", "base": "smol", "renderer": "x"}, {"base": {}}])
def test_an_incomplete_lineage_is_refused(tmp_path: Path, opened: Any, written: dict[str, Any]) -> None:
    (tmp_path / "sartor.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match="lacks"):
        opened(tmp_path)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no sartor\.json"):
        open_desk([tmp_path])


@pytest.mark.parametrize("holds", ["adapter", "model"])
def test_an_engine_that_cannot_open_the_files_says_so_before_anything_is_read(
    tmp_path: Path, base: hub.Base, holds: str
) -> None:
    folder = package(tmp_path / "tickets", "tickets", base, holds=holds)
    (base.folder / "model.safetensors").write_bytes(b"other weights")  # would be found out only later
    with pytest.raises(ModelError, match="holds no GGUF file") as refused:
        open_desk([folder], "llamacpp")
    assert str(folder if holds == "model" else base.folder) in refused.value.message
    assert "leave `--engine` out" in refused.value.hint


@pytest.mark.parametrize("form", ["decoder", "classifier"])
def test_an_artifact_is_read_once(tmp_path: Path, base: hub.Base, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    read: list[Path] = []
    verify = durable.verify

    def counted(folder: Path) -> str:
        read.append(folder)
        return verify(folder)

    monkeypatch.setattr(durable, "verify", counted)
    folders = [package(tmp_path / name, name, base, form=form, labels=["a"]) for name in ("one", "two")]
    with pytest.raises(UserError, match=r"holds no GGUF file|engine of decoders"):
        open_desk(folders, "llamacpp")
    assert read == folders


def test_closing_closes_the_engine_once(tmp_path: Path, base: hub.Base, opened: Any) -> None:
    desk, _ = opened(package(tmp_path / "one", "one", base))
    desk.close()
    desk.close()
    assert desk.find("one").turns.engine.num_closed == 1
