"""The served names: the base under its own name, and each adapter under the name of its run.

A model that was tuned as a whole is a base of its own: it answers to the name of its run, alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sartor import durable, hub, names
from sartor.artifact.package import speech_digests
from sartor.errors import MachineError, ModelError, UserError
from sartor.generate.protocol import Engine
from sartor.plan import Quantized
from sartor.recipe import ModelSpec
from sartor.serve.answer import Renderer
from sartor.serve.errors import no_such_model
from sartor.serve.turns import Turns
from sartor.store import LINEAGE, read_json
from sartor.types import Form, Json, digest_of


class OpenRenderer(Protocol):
    """How a folder's renderer is opened: with the template arguments that training used."""

    def __call__(self, folder: Path, *, template_kwargs: Iterable[tuple[str, Any]] = ()) -> Renderer: ...


class RequireFiles(Protocol):
    """How an engine's file refuses folders that it cannot open, before anything is loaded."""

    def __call__(self, base: Path, adapters: Mapping[str, Path]) -> None: ...


class OpenEngine(Protocol):
    """How an engine's file opens it: `generate/<name>.py` has such a function."""

    def __call__(self, base: Path, adapters: Mapping[str, Path]) -> Engine: ...


@dataclass(frozen=True, slots=True)
class Served:
    """One name: its engine with the line before it, its renderer, and its adapter; `None` is the base."""

    name: str
    turns: Turns
    renderer: Renderer
    adapter: str | None = None
    parent: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fingerprint(self) -> str:
        """A short mark of what rendered the prompt, for a reply's `system_fingerprint`."""
        return f"fp_{self.renderer.fingerprint[:12]}"


class Desk:
    """All that is served, by name."""

    def __init__(self, models: Sequence[Served]) -> None:
        self._models = {model.name: model for model in models}

    @classmethod
    def of(cls, engine: Engine, base: str, base_renderer: Renderer, renderers: Mapping[str, Renderer]) -> Desk:
        """The desk of one engine: its base, and each adapter with its own renderer."""
        turns = Turns(engine)
        tuned = [Served(name, turns, renderer, name, base) for name, renderer in renderers.items()]
        return cls([Served(base, turns, base_renderer), *tuned])

    @property
    def models(self) -> tuple[Served, ...]:
        """All names, the base first."""
        return tuple(self._models.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the engines say of the way in which they answer."""
        engines = {id(model.turns.engine): model.turns.engine for model in self.models}
        return tuple(message for engine in engines.values() for message in engine.warnings)

    def find(self, name: str) -> Served:
        """What answers to a name.

        Raises:
            ApiError: 404 model_not_found.
        """
        if name not in self._models:
            raise no_such_model(name, tuple(self._models))
        return self._models[name]

    def close(self) -> None:
        """End the engines and their threads."""
        for model in self.models:
            model.turns.close()


@dataclass(frozen=True, slots=True)
class Lineage:
    """The part of an artifact's `sartor.json` that serving needs."""

    folder: Path
    name: str
    base_name: str
    base_path: Path
    base_digest: str
    template: Json
    fingerprint: str
    is_whole: bool = False  # a model of its own, not an adapter on the base
    form: Form = "decoder"
    labels: tuple[str, ...] = ()
    base_quantize: Quantized = "none"


def open_desk(artifacts: Sequence[Path], engine_name: str = "sartor") -> Desk:
    """Open artifacts that share one base, or one whole model, with the engine of that name.

    Raises:
        UserError: no artifact, two of one name, or of different bases.
        ModelError: an artifact or its base is missing, or base or renderer is not the one it was trained with, or the
            engine runs no such files.
        MachineError: an artifact is damaged.
    """
    engine = names.resolve("generate", engine_name)
    lineages = read_lineages(artifacts)
    if lineages[0].form != "decoder":
        return _open_padded(lineages, engine_name)
    check_files(lineages, engine.require_files)
    from sartor.chat import open_renderer  # after the cheap checks: tokenizers and torch take seconds to import

    return desk_from(lineages, _opening(lineages[0], engine.open_engine), open_renderer)


def _opening(base: Lineage, open_engine: Any) -> OpenEngine:
    """How an engine is opened on the base that the adapters were trained on, held as it was then."""
    packed = base.base_quantize != "none" and not base.is_whole
    opening: OpenEngine = partial(open_engine, quantize=base.base_quantize) if packed else open_engine
    return opening


def _open_padded(lineages: Sequence[Lineage], engine_name: str) -> Desk:
    """The desk of encoders or encoder-decoders, which our own engine answers with."""
    form = lineages[0].form
    if engine_name != "sartor":
        raise UserError(f"{engine_name} is an engine of decoders, and this is a {form}", hint="leave out --engine")
    check_files(lineages)
    by_folder = {lineage.folder: lineage for lineage in lineages}
    from sartor.generate import padded
    from sartor.texts import open_texts

    def open_renderer(folder: Path, *, template_kwargs: Iterable[tuple[str, Any]] = ()) -> Renderer:
        tuned = by_folder.get(folder)
        base = folder if tuned is None or tuned.is_whole else tuned.base_path
        return open_texts(folder, base, form, tuned.labels if tuned else ())

    return desk_from(lineages, partial(padded.open_engine, form=form), open_renderer)


def desk_from(lineages: Sequence[Lineage], open_engine: OpenEngine, open_renderer: OpenRenderer) -> Desk:
    """The desk of checked lineages, with the ways to open an engine and a renderer given. Weights are loaded last."""
    base = lineages[0]
    renderers = _renderers(lineages, open_renderer)
    if base.is_whole:
        turns = Turns(open_engine(*_files(lineages)))
        return Desk([Served(base.name, turns, renderers[base.name], parent=base.base_name)])
    base_renderer = open_renderer(base.base_path)
    engine = open_engine(*_files(lineages))
    return Desk.of(engine, base.base_name, base_renderer, renderers)


def _renderers(lineages: Sequence[Lineage], open_renderer: OpenRenderer) -> dict[str, Renderer]:
    """Each lineage's own, by name. Of lineages that speak by the same files, one reads them for all: a second each."""
    by_files: dict[str, Renderer] = {}
    found = {}
    for lineage in lineages:
        files = digest_of(speech_digests(lineage.folder), dict(lineage.template), lineage.labels)
        if files not in by_files:
            by_files[files] = open_renderer(lineage.folder, template_kwargs=lineage.template.items())
        found[lineage.name] = _same_renderer(lineage, by_files[files])
    return found


def read_lineages(artifacts: Sequence[Path]) -> list[Lineage]:
    """What the artifacts say of themselves: they are undamaged, and of one base. Raises as `open_desk` does."""
    lineages = [_read_lineage(folder) for folder in artifacts]
    _require_one_base(lineages)
    return lineages


def check_files(lineages: Sequence[Lineage], require_files: RequireFiles = lambda base, adapters: None) -> None:
    """Refuse what the engine cannot open, and a base that is not the right one. Raises as `open_desk` does."""
    shared = lineages[0]
    if not shared.is_whole:
        _require_base(shared)
    require_files(*_files(lineages))
    if not shared.is_whole:
        _check_base(shared)  # last: reading all weights takes a minute on a large model


def _files(lineages: Sequence[Lineage]) -> tuple[Path, dict[str, Path]]:
    """What an engine is opened on: the base's folder, and those of the adapters by name."""
    first = lineages[0]
    if first.is_whole:
        return first.folder, {}
    return first.base_path, {lineage.name: lineage.folder for lineage in lineages}


def _read_lineage(folder: Path) -> Lineage:
    """What one artifact says of itself.

    Raises:
        ModelError: this is no artifact of ours.
        MachineError: it does not match its checksums.
    """
    if not (folder / LINEAGE).is_file():
        raise ModelError(f"{folder} has no {LINEAGE}", hint="name the artifact folder that `sartor package` wrote")
    problem = durable.verify(folder) if (folder / durable.MANIFEST).is_file() else ""
    if problem:
        raise MachineError(f"the artifact is damaged: {problem}", hint="run `sartor package` again")
    written = read_json(folder / LINEAGE)
    try:
        base: Mapping[str, Any] = written["base"]
        return Lineage(
            folder=folder,
            name=str(written["name"]),
            base_name=str(base["name"]),
            base_path=Path(base["path"]),
            base_digest=str(base["digest"]),
            template=dict(written["template"]),
            fingerprint=str(written["renderer"]),
            is_whole=written.get("holds") == "model",
            form=written.get("form", "decoder"),
            labels=tuple(written.get("labels", ())),
            base_quantize=base.get("quantize", "none"),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / LINEAGE} lacks {error}", hint="run `sartor package` again") from error


def _require_one_base(lineages: Sequence[Lineage]) -> None:
    """Refuse lineages that have not the same base, or not different names."""
    if not lineages:
        raise UserError("there is nothing to serve", hint="name a run or an artifact folder; `sartor runs` lists them")
    first = lineages[0]
    whole = next((lineage for lineage in lineages if lineage.is_whole), None)
    if whole is not None and len(lineages) > 1:
        others = ", ".join(lineage.name for lineage in lineages if lineage is not whole)
        raise UserError(
            f"{whole.name} is a model that was tuned as a whole, and no base for {others}: one server has one base",
            hint="start a server for each, on ports of their own",
        )
    seen = {first.base_name: first.base_path}
    for lineage in lineages:
        if lineage.form != first.form:
            raise UserError(
                f"{lineage.name} is a {lineage.form}, and {first.name} a {first.form}: one server has one kind",
                hint="start a server for each, on ports of their own",
            )
        if lineage.base_digest != first.base_digest:
            raise UserError(
                f"{lineage.name} was tuned from {lineage.base_name}, and {first.name} from {first.base_name}: "
                "one server has one base",
                hint="start a server for each base, on ports of their own",
            )
        if lineage.base_quantize != first.base_quantize:
            raise UserError(
                f"{lineage.name} was tuned on weights held in {lineage.base_quantize}, and {first.name} on weights in "
                f"{first.base_quantize}: one server has one base",
                hint="start a server for each, on ports of their own",
            )
        if lineage.name in seen:
            raise UserError(
                f"two served models are called {lineage.name!r}: {seen[lineage.name]} and {lineage.folder}",
                hint="serve one of them, or package one under another name",
            )
        seen[lineage.name] = lineage.folder


def _require_base(lineage: Lineage) -> None:
    if not lineage.base_path.is_dir():
        raise ModelError(
            f"the base model of {lineage.name} is not at {lineage.base_path}",
            hint=f"fetch it with `sartor models --path {lineage.base_name}`, and package again if it moved",
        )


def _check_base(lineage: Lineage) -> None:
    """The weights under an adapter are those it was tuned on: on others it would answer, and answer wrong."""
    found = hub.find(ModelSpec(name=str(lineage.base_path))).digest
    if found != lineage.base_digest:
        raise ModelError(
            f"the base model at {lineage.base_path} is not the one that {lineage.name} was tuned on "
            f"({lineage.base_digest[:12]} then, {found[:12]} now)",
            hint="put the base model back, or train again on this one",
        )


def _same_renderer(lineage: Lineage, renderer: Renderer) -> Renderer:
    if renderer.fingerprint != lineage.fingerprint:
        raise ModelError(
            f"{lineage.name} was trained with another template or tokenizer than its folder holds now "
            f"({lineage.fingerprint[:12]} then, {renderer.fingerprint[:12]} now)",
            hint="put the files back as packaged, or run `sartor package` again",
        )
    return renderer
