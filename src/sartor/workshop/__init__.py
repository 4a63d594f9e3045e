"""Making a data set, step by step: `data.make` in a recipe, and the commands of `sartor data`. One step a file.

A file `workshop/x.py` holds

- `SUMMARY`: one line for people;
- `TAKES`: what the step before it, or `data.train`, must give: "nothing", "documents" or "examples";
- `Config`: its settings;
- `inputs(config, root)`: what decides the result beside its settings and what it takes, such as digests of files;
- `run(job, config)`: make the data folder `job.to`; a step that was stopped goes on where it stopped.

Each step's folder is named after the digest of all that decides it, so a step whose inputs are unchanged is not run
again, and a recipe's folder is known before it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from sartor import __version__, durable, names
from sartor.data.folder import DataFolder, is_data_folder, label_of
from sartor.errors import RecipeError, Refused
from sartor.events import Advanced, Entered
from sartor.recipe import Recipe, validated
from sartor.store import RUNS
from sartor.types import Frozen, Progress, digest_of
from sartor.workshop.telling import watched

KIND = "workshop"
NOT_MEMBERS: frozenset[str] = frozenset({"growing", "knowing", "mining", "telling"})
#: Where the folders of steps lie, beside the runs.
MADE = f"{RUNS}/data"

Takes = Literal["nothing", "documents", "examples"]


@dataclass(frozen=True, slots=True)
class Job:
    """One step to be done: `source` is the file or data folder that it takes, None where it takes nothing.

    `root`: the folder that paths are relative to. `progress` is told how much is done, and of how much (0: not known).
    """

    to: Path
    root: Path
    source: Path | None = None
    seed: int = 17
    progress: Progress | None = None

    @property
    def label(self) -> str:
        """What messages and ids call the source."""
        assert self.source is not None
        return label_of(self.source, self.root)


class Step(Protocol):
    """What a file of this folder contains."""

    SUMMARY: str
    TAKES: Takes
    Config: type[Frozen]

    def inputs(self, config: Any, root: Path) -> Any: ...

    def run(self, job: Job, config: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Planned:
    """A step of a recipe, with the folder that it makes or has made."""

    name: str
    step: Step
    config: Any
    job: Job

    def run(self, progress: Progress) -> None:
        """Make the folder."""
        self.step.run(replace(self.job, progress=progress), self.config)


def step(name: str) -> Step:
    """The step of that name.

    Raises:
        RecipeError: there is none; the hint offers the nearest.
    """
    return cast("Step", names.resolve(KIND, name))


def planned(recipe: Recipe, root: Path) -> tuple[Planned, ...]:
    """The steps of `data.make` in their order. Nothing is made yet.

    Raises:
        RecipeError: a step is not known, has a wrong setting, or does not fit to what stands before it.
    """
    source, seed = (root / recipe.data.train if recipe.data.train else None), recipe.tune.seed
    digest = durable.digest(source) if source else ""
    found = []
    for number, one in enumerate(recipe.data.make):
        member = step(one.name)
        _refuse_misfit(one.name, member, source)
        config = validated(member.Config, one.settings, f"data.make.{one.name}")
        digest = digest_of(__version__, one.name, config, digest, member.inputs(config, root), seed)
        to = root / MADE / f"{number + 1}-{one.name}-{digest[:8]}"
        found.append(Planned(one.name, member, config, Job(to, root, source, seed)))
        source = to
    return tuple(found)


def made(steps: Sequence[Planned], stopping: Callable[[], bool] = lambda: False) -> Iterator[Entered | Advanced]:
    """Make what is not there yet, step by step: each one that has to run is entered, and says how far it is.

    Args:
        stopping: asked while a step runs; once it says so, nothing more is made.

    Raises:
        Refused: a step leaves nothing. Its folder says why, and it is made again next time.
    """
    for number, one in enumerate(steps, start=1):
        if is_data_folder(one.job.to) and not durable.verify(one.job.to) and not DataFolder(one.job.to).is_empty:
            continue
        refuse_wrong_kind(one.name, one.step, one.job.source)
        yield Entered(stage=one.name, number=number, of=len(steps))
        for done, total in watched(one.run, stopping=stopping):
            yield Advanced(step=one.name, done=done, total=total)
        if stopping():
            return
        refuse_empty(DataFolder(one.job.to))


def resolved(recipe: Recipe, root: Path) -> Recipe:
    """The recipe with `data.train` naming the folder that `data.make` makes, where it has steps."""
    steps = planned(recipe, root)
    if not steps:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": str(steps[-1].job.to)})})


def _refuse_misfit(name: str, member: Step, source: Path | None) -> None:
    if member.TAKES == "nothing" and source is not None:
        raise RecipeError(
            f"`data.make`: {name} begins with nothing, and something stands before it",
            hint="let it be the first step, and leave `data.train` out",
        )
    if member.TAKES != "nothing" and source is None:
        raise RecipeError(
            f"`data.make`: {name} needs {member.TAKES}, and nothing stands before it",
            hint="name a file or data folder in `data.train`, or let `collect` be the first step",
        )


def refuse_wrong_kind(name: str, member: Step, source: Path | None) -> None:
    """A data folder holds what the step takes; of a file it says so itself.

    Raises:
        RecipeError: it does not.
    """
    if source is None or not is_data_folder(source):
        return
    holds = "documents" if DataFolder(source).holds_documents else "examples"
    if holds != member.TAKES:
        way_out = {"documents": "`build` makes examples of documents", "examples": "`collect` makes documents"}
        raise RecipeError(f"{name} needs {member.TAKES}, and {source.name} holds {holds}", hint=way_out[holds])


def refuse_empty(folder: DataFolder) -> None:
    """Nothing at all is no success, though the ledger is kept.

    Raises:
        Refused: the folder holds nothing.
    """
    if folder.is_empty:
        hint = f"its ledger says why: sartor data inspect {folder.path}"
        raise Refused(f"nothing is left in {folder.path}", hint=hint)
