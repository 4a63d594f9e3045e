"""Runs on disk: `runs/<name>-<id>/`, and what a verb may ask of one. All writing goes through `durable`.

The id is the digest of the resolved recipe and of the data files, so verbs that are given no run meet in the same one.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ruamel.yaml import YAML

from sartor import durable
from sartor.errors import MachineError, RecipeError, UserError
from sartor.names import resolve
from sartor.recipe import Recipe
from sartor.recipe import load as load_recipe
from sartor.types import Json, digest_of

RUNS = "runs"
LINEAGE = "sartor.json"  # beside an adapter or a tuned model: where it comes from (`artifact/lineage.py`)
KEPT_CHECKPOINTS = 2  # the newest may be the one that a power cut spoils, so one is never enough

#: The stages of a run in order, and the files each one writes.
STAGES: dict[str, tuple[str, ...]] = {
    "check": ("check.json", "data/train.jsonl", "data/dev.jsonl", "data/test.jsonl", "data/ledger.jsonl"),
    "baseline": ("baseline.json", "items.baseline.jsonl"),
    "plan": ("plan.json",),
    "train": ("adapter/manifest.json", "model/manifest.json"),  # one of them: see `Run.result`
    "prove": ("proof.json", "items.jsonl", "report.html"),
    "package": ("artifact/manifest.json",),
}


class Restorable(Protocol):
    """Something whose state goes into a checkpoint folder and comes back from it."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


@dataclass
class Run:
    """One run: its folder, and the flag that a signal sets."""

    folder: Path
    stopping: bool = False
    skipped_checkpoints: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.folder.name

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def result(self) -> Path:
        """The folder of what is trained here: `adapter/`, or `model/` where the plan tunes the whole model."""
        plan = self.path("plan.json")
        family = read_json(plan)["family"] if plan.is_file() else "lora"
        return self.path(resolve("adapters", family).TRAINS)

    @property
    def root(self) -> Path:
        """The folder of the recipe: that which holds `runs/`."""
        return self.folder.parent.parent.resolve()

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.path("recipe.yaml"))

    # ---- stages ------------------------------------------------------------------------------------------------

    def is_done(self, stage: str, inputs: str) -> bool:
        """Whether a stage ran on just these inputs and its files are still the ones it wrote."""
        record = self._stages().get(stage)
        return record is not None and record["inputs"] == inputs and record["outputs"] == self._outputs(stage)

    def finish(self, stage: str, inputs: str, seconds: float) -> None:
        """Record that a stage is done, with the digests of what it wrote."""
        record = {"inputs": inputs, "outputs": self._outputs(stage), "seconds": round(seconds, 3)}
        durable.write_json(self.path("stages.json"), {"schema": 1, "stages": {**self._stages(), stage: record}})

    def borrow(self, stage: str, inputs: str) -> str:
        """Copy a stage's files from another run that made them from the same inputs. The run's id, or empty."""
        for folder in sorted(self.folder.parent.iterdir()):
            other = Run(folder)
            if folder != self.folder and folder.is_dir() and other._lends(stage, inputs):
                for name in STAGES[stage]:
                    durable.atomic_write(self.path(name), other.path(name).read_bytes())
                self.finish(stage, inputs, seconds=0.0)
                return other.id
        return ""

    def _lends(self, stage: str, inputs: str) -> bool:
        """Whether all files of a stage are there for another run; a damaged run is no reason to stop that one."""
        try:
            return self.is_done(stage, inputs) and all(self.path(name).is_file() for name in STAGES[stage])
        except MachineError:
            return False

    def stage_seconds(self, stage: str) -> float:
        return float(self._stages().get(stage, {"seconds": 0.0})["seconds"])

    def stages_done(self) -> list[str]:
        """The stages that have run, in order."""
        done = self._stages()
        return [stage for stage in STAGES if stage in done]

    def verdict(self) -> str:
        """The proof's verdict, or empty."""
        path = self.path("proof.json")
        return str(read_json(path)["verdict"]) if path.is_file() else ""

    def _stages(self) -> Json:
        return read_json(self.path("stages.json")).get("stages", {}) if self.path("stages.json").is_file() else {}

    def _outputs(self, stage: str) -> dict[str, str]:
        return {name: _state_of(self.path(name)) for name in STAGES[stage]}

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def save(self, step: int, parts: Sequence[Restorable], decided: str) -> Path:
        """Write a whole checkpoint of `step`, then remove all but the newest ones.

        `decided` is the digest of what decided its weights.

        Raises:
            MachineError: the disk is full; the previous checkpoint is whole.
        """
        target = self.path("checkpoints") / f"step-{step:06d}"
        with durable.atomic_dir(target) as staging:
            durable.write_json(staging / "state.json", {"schema": 1, "step": step, "decided": decided})
            for part in parts:
                part.save(staging)
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            durable.remove_dir(old)
        return target

    def restore(self, parts: Sequence[Restorable], decided: str) -> int:
        """Load the newest checkpoint that verifies and whose weights the same decided; its step, or 0.

        Others are removed and named. Those of another plan are of no use again, and their steps would pass for newer.
        """
        durable.clear_staging(self.path("checkpoints"))
        for folder in self.checkpoints():
            problem = durable.verify(folder)
            state = {} if problem else read_json(folder / "state.json")
            if not problem and state.get("decided") != decided:
                problem = f"{folder.name} is of another plan: data, base or method are no longer those it was made with"
            if problem:
                self.skipped_checkpoints.append(problem)
                durable.remove_dir(folder)
                continue
            for part in parts:
                part.load(folder)
            return int(state["step"])
        return 0

    def export(self, *writers: Callable[[Path], None]) -> Path:
        """Write what was trained, whole or not at all."""
        with durable.atomic_dir(self.result) as staging:
            for write in writers:
                write(staging)
        return self.result

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, newest first."""
        folders = self.path("checkpoints").glob("step-*")
        return sorted(folders, key=lambda folder: (len(folder.name), folder.name), reverse=True)  # 1000000 > 999999

    # ---- events and processes ----------------------------------------------------------------------------------

    def events(self) -> Iterator[Json]:
        """The events that count: what a killed process did after its last checkpoint was done again, and is dropped."""
        kept: list[Json] = []
        for event in durable.read_lines(self.path("events.jsonl")):
            if event["type"] == "started":
                kept = [old for old in kept if old.get("step", -1) <= event["step"] or old["type"] == "started"]
            kept.append(event)
        yield from kept

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; a second one is told which process works on it.

        Raises:
            UserError: another process holds it.
        """
        path = self.path("lock")
        with path.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.id} is being worked on by process {self.worker() or 'unknown'}",
                    hint="wait for it, or `sartor stop`",
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            for folder in (self.folder, self.path("data"), self.path("checkpoints")):
                durable.clear_staging(folder)  # what killed processes left, now that nobody else writes here
            yield
            handle.truncate(0)

    def worker(self) -> int:
        """The process that works on this run now, or 0."""
        path = self.path("lock")
        if not path.is_file():
            return 0
        with path.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = handle.read().strip()
                return int(text) if text.isdigit() else 0
        return 0


def open_run(recipe_path: Path, recipe: Recipe) -> Run:
    """The run of this recipe and its data: found, or made.

    Raises:
        RecipeError: a data file is missing.
    """
    digest = digest_of(recipe.digest, data_digests(recipe_path.parent, recipe))[:8]
    folder = recipe_path.parent / RUNS / f"{_name_of(recipe)}-{digest}"
    if not (folder / "recipe.yaml").is_file():
        buffer = io.StringIO()
        YAML().dump(_absolute(recipe, recipe_path.parent).model_dump(mode="json", exclude_none=True), buffer)
        durable.atomic_write(folder / "recipe.yaml", buffer.getvalue())
    return Run(folder)


def data_digests(root: Path, recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each data file that the recipe names; of a data folder, that of its manifest."""
    digests = {}
    for role in ("train", "test", "dev"):
        name = getattr(recipe.data, role)
        if name is None:
            continue
        digests[role] = durable.digest(root / name)
        if not digests[role]:
            what = "no data folder" if (root / name).is_dir() else "no such file"
            raise RecipeError(f"`data.{role}` is {name!r}: there is {what}", hint=f"paths are relative to {root}")
    return digests


def all_runs(root: Path) -> list[Run]:
    """The runs below a folder, newest first."""
    folders = [path for path in (root / RUNS).glob("*") if (path / "recipe.yaml").is_file()]
    return [Run(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)]


def find_run(root: Path, name: str) -> Run:
    """A run by folder, by name, or by the beginning of its name or id.

    Raises:
        UserError: none, or more than one, fits.
    """
    if (Path(name) / "recipe.yaml").is_file():
        return Run(Path(os.path.abspath(name)))  # noqa: PTH100 - as it is named: a link stays in its own `runs/`
    fitting = [run for run in all_runs(root) if run.id.startswith(name) or run.id.endswith(f"-{name}")]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(run.id for run in (fitting or all_runs(root))) or "none"
    raise UserError(f"{len(fitting)} runs fit {name!r}", hint=f"`sartor runs` lists them: {listed}")


def read_json(path: Path) -> Json:
    """One JSON document of ours.

    Raises:
        MachineError: it is damaged.
    """
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MachineError(
            f"{path} is damaged: {error}", hint="delete it; the stage that wrote it runs again"
        ) from error
    return value


def _state_of(file: Path) -> str:
    """The digest of a file; a manifest counts only if the folder it vouches for is whole."""
    if not file.is_file():
        return "missing"
    problem = durable.verify(file.parent) if file.name == durable.MANIFEST else ""
    return problem or durable.sha256(file)


def _name_of(recipe: Recipe) -> str:
    made = recipe.data.make[-1].name if recipe.data.make else "run"
    return re.sub(r"[^a-z0-9]+", "-", Path(recipe.data.train or made).stem.lower()).strip("-")[:40] or "run"


def _absolute(recipe: Recipe, root: Path) -> Recipe:
    """The recipe as the run keeps it: paths that work from anywhere on this machine."""
    paths = {role: getattr(recipe.data, role) for role in ("train", "test", "dev")}
    found = {role: str((root / name).resolve()) for role, name in paths.items() if name is not None}
    local = root / recipe.model.name
    model = {"name": str(local.resolve())} if local.exists() else {}
    return recipe.model_copy(
        update={"data": recipe.data.model_copy(update=found), "model": recipe.model.model_copy(update=model)}
    )
