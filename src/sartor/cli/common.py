"""What commands share: their arguments, the work that brings a run to a stage, and putting out what was found."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from sartor.errors import MachineError, Refused, UserError

if TYPE_CHECKING:
    from sartor.events import Event
    from sartor.proof import Proof
    from sartor.recipe import Recipe
    from sartor.stages import Bench
    from sartor.store import Run

T = TypeVar("T")
talk = Console(stderr=True)

RecipePath = Annotated[Path, typer.Argument(metavar="[RECIPE]", help="The recipe.", show_default=True)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: a.b=value.")]
RunName = Annotated[str, typer.Option("--run", help="A run's folder, name or id, instead of the recipe's own.")]
NumRanks = Annotated[int, typer.Option("--ranks", min=1, help="Processes that train together: one for each GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DEFAULT = Path("sartor.yaml")
EMBEDDED_MODEL = "smollm2-135m-instruct"
#: Engines that answer with the adapters of every method as they are.
EVERY_METHOD = frozenset({"sartor", "peft"})
#: The system's numbers for places where nothing can be written: another place helps, another disk does not.
_NO_PLACE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS})


def work(
    last: str,
    recipe: Path,
    sets: list[str] | None,
    name: str,
    *,
    without: tuple[str, ...] = (),
    anyway: bool = False,
    ranks: int = 1,
) -> Bench:
    """Bring a run to a stage, telling what happens on the way.

    Raises:
        UserError: a run is named, whose recipe is fixed, and other settings for it.
    """
    from sartor.hardware import prepare_environment
    from sartor.launch.signals import requests
    from sartor.sinks.console import ConsoleSink
    from sartor.stages import Bench, run_until

    if name and sets:
        raise UserError(
            f"--set {sets[0]} does not go with --run {name}: a run keeps the recipe it was made from",
            hint="leave out --run: other settings make another run, which takes over the stages they leave alone",
        )
    prepare_environment()
    run = run_named(name) if name else open_recipe(recipe, sets)[0]
    bench = Bench(run, anyway=anyway, ranks=ranks)

    def stop(number: int) -> None:
        run.stopping = True
        talk.print("stopping after this step; once more to leave at once")

    with run.locked(), requests(stop, signal.SIGTERM, signal.SIGINT) as received, ConsoleSink(talk) as sink:
        for event in run_until(bench, last, without=without):
            sink(event)
    if received:
        raise typer.Exit(128 + received[0])
    return bench


def told(bench: Bench, events: Generator[Event, None, T]) -> T:
    """Do what stands beside the stages, telling what happens on the way; what it gives back."""
    from sartor.sinks.console import ConsoleSink

    with bench.run.locked(), ConsoleSink(talk) as sink:
        while True:
            try:
                sink(next(events))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


def train_on(num_ranks: int, recipe: Path, sets: list[str] | None, name: str, **how: Any) -> None:
    """Train in several processes, if more than one is asked for; what comes after finds it done."""
    from sartor.launch.torchrun import launch, require_gpus

    if num_ranks == 1:
        return
    require_gpus(num_ranks)
    code = launch(work("plan", recipe, sets, name, ranks=num_ranks, **how), num_ranks)
    if code:
        raise typer.Exit(code)


def open_recipe(recipe: Path, sets: list[str] | None) -> tuple[Run, Recipe]:
    from sartor.recipe import load
    from sartor.store import open_run

    asked = load(recipe, sets or ())
    return open_run(recipe, asked), asked


def run_named(name: str) -> Run:
    from sartor.store import find_run

    return find_run(Path(), name)


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Write to a place that the user named with an option.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        yield
    except (MachineError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NO_PLACE or cause.filename is None:
            raise
        if Path(cause.filename).absolute().parent not in path.absolute().parents:
            raise
        raise UserError(
            f"{path.absolute()} cannot be written: {cause.strerror}", hint=f"name another place with {option}"
        ) from error


def newest_run() -> Run:
    from sartor.store import all_runs

    found = all_runs(Path())
    if not found:
        raise UserError("no runs here yet", hint="`sartor run` makes one")
    return found[0]


def runs_named(names: list[str], recipe: Path) -> list[Run | Path]:
    """Runs by name, or the recipe's own. A folder with a lineage, such as a copied artifact, is taken as it is."""
    from sartor.store import LINEAGE

    if not names:
        return [open_recipe(recipe, None)[0]]
    return [Path(name) if (Path(name) / LINEAGE).is_file() else run_named(name) for name in names]


def servable(run: Run | Path, engine: str) -> Path:
    """A folder as it is; of a run the artifact, or with a warning its bare adapter or model, if it was not packaged.

    Engines that do not answer every method get what `sartor convert` made of this training, if it did.
    """
    from sartor import durable

    if isinstance(run, Path):
        return run
    trained, artifact = run.result, run.path("artifact")
    packaged = (artifact / durable.MANIFEST).is_file()
    newer = packaged and _was_trained_again(trained, artifact)
    folder = _converted(run, engine) or (artifact if packaged else trained)
    if not (folder / durable.MANIFEST).is_file():
        raise Refused(f"{run.id} has nothing to serve yet", hint="`sartor run` trains, proves and packages it")
    if folder == artifact and newer:
        _warn(f"{run.id} was trained again after it was packaged, and is served as packaged: see `sartor package`")
    elif not packaged or newer:
        _warn(f"{run.id} is not packaged (verdict: {run.verdict() or 'none yet'})")
    return folder


def _converted(run: Run, engine: str) -> Path | None:
    """What `sartor convert` made of a run's training, for an engine that does not answer every method."""
    from sartor import durable
    from sartor.store import read_json

    trained = durable.digest(run.result)
    for form in ("lora", "model") if engine not in EVERY_METHOD else ():
        folder = run.path(f"converted-{form}")
        if not (record := run.path(f"{folder.name}.json")).is_file():
            continue
        if not trained or read_json(record).get("trained") == trained:
            talk.print(f"{run.id} is served as {folder.name}", highlight=False)
            return folder
        _warn(f"{folder.name} of {run.id} is of an earlier training, and is left aside: `sartor convert` makes it anew")
    return None


def _was_trained_again(trained: Path, artifact: Path) -> bool:
    """Whether an artifact holds other files than those that training wrote last."""
    from sartor import durable
    from sartor.store import read_json

    if not (trained / durable.MANIFEST).is_file():
        return False
    now, then = (read_json(folder / durable.MANIFEST).get("files", {}) for folder in (trained, artifact))
    return any(then.get(name) != facts for name, facts in now.items())


def _warn(text: str) -> None:
    talk.print(f"[yellow]warning[/yellow] {text}", highlight=False, soft_wrap=True)


def put(document: Any, shown: Any, as_json: bool) -> None:
    """One JSON document, or the same for people, on stdout."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        Console().print(shown, highlight=False, soft_wrap=isinstance(shown, str))


def tell_proof(bench: Bench, name: str, as_json: bool) -> str:
    from sartor.sinks.tables import show_proof

    proof = read_proof(bench.run, name)
    put(proof.model_dump(mode="json", by_alias=True), show_proof(proof), as_json)
    return proof.verdict


def read_proof(run: Run, name: str) -> Proof:
    from sartor.proof import Proof
    from sartor.store import read_json

    return Proof.model_validate(read_json(run.path(name)))


def lines_of(run: Run, name: str) -> Iterator[Any]:
    from sartor import durable

    return durable.read_lines(run.path(name))


def foretold(bench: Bench) -> None:
    """The plan's estimates beside what was measured."""
    from sartor.sinks.tables import minutes
    from sartor.stages import measured

    told, found = bench.plan.estimate, measured(bench.run)
    talk.print(
        f"foretold → measured: memory {told.peak_bytes / 2**30:.2f} → {found['peak_bytes'] / 2**30:.2f} GiB, "
        f"training {minutes(told.seconds)} → {minutes(found['seconds'])}, tokens {told.tokens:,} → {found['tokens']:,} "
        f"({found['tokens_per_second']:,.0f} tokens/s)",
        highlight=False,
    )
