"""The command line: one command per verb. Parse, call, print. Data goes to stdout, talk to stderr.

Exit codes: 0 done · 1 the check or the proof says no · 2 the user's mistake · 3 ours or the machine's ·
130 and 143 stopped by Ctrl-C and by SIGTERM, the work saved.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from sartor import __version__
from sartor.errors import Refused, SartorError, UserError

if TYPE_CHECKING:
    from sartor.proof import Proof
    from sartor.recipe import Recipe
    from sartor.stages import Bench
    from sartor.store import Run

app = typer.Typer(
    name="sartor",
    help="Sartor tailors a language model to your work, and proves that it fits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
talk = Console(stderr=True)

RecipePath = Annotated[Path, typer.Argument(metavar="[RECIPE]", help="The recipe.", show_default=True)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: a.b=value.")]
RunName = Annotated[str, typer.Option("--run", help="A run's folder, name or id, instead of the recipe's own.")]
NumRanks = Annotated[int, typer.Option("--ranks", min=1, help="Processes that train together: one for each GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DEFAULT = Path("sartor.yaml")


@app.command()
def new(
    data: Annotated[Path, typer.Argument(help="Your examples: JSONL, a JSON array, or text.")],
    recipe: Annotated[Path, typer.Option("--recipe", help="Where to write the recipe.")] = DEFAULT,
    model: Annotated[str, typer.Option(help="The base model.")] = "smollm2-135m-instruct",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing recipe.")] = False,
) -> None:
    """Write a recipe for a data file: format sniffed, metric proposed, each choice explained."""
    from sartor import durable
    from sartor.new import propose

    if recipe.exists() and not force:
        raise UserError(f"{recipe} is there already", hint="edit it, or write it anew with --force")
    durable.atomic_write(recipe, propose(data, relative_to=recipe.parent, model=model))
    talk.print(f"wrote {recipe}; next: [bold]sartor check[/bold]", highlight=False)


@app.command()
def check(recipe: RecipePath = DEFAULT, sets: Overrides = None, run: RunName = "", as_json: AsJson = False) -> None:
    """Say what would go wrong, with line numbers, before anything expensive. Exit code 1 when something would."""
    from sartor.sinks.tables import show_check

    bench = _work("check", recipe, sets, run)
    found = bench.check
    _print(found.model_dump(mode="json", by_alias=True), show_check(found), as_json)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def baseline(recipe: RecipePath = DEFAULT, sets: Overrides = None, run: RunName = "", as_json: AsJson = False) -> None:
    """Measure what the untuned model already reaches: zero-shot and few-shot, on the held-out items."""
    bench = _work("baseline", recipe, sets, run)
    _show_proof(bench, "baseline.json", as_json)


@app.command()
def plan(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    arithmetic: Annotated[bool, typer.Option("--explain", help="The arithmetic of memory, item by item.")] = False,
    on: Annotated[str, typer.Option(help="For another machine: h200, h100x8, a100-80x4, l4, rtx4090 …")] = "",
    price: Annotated[float, typer.Option(help="With --on: of a device and hour, for the price of the run.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Decide every number, each with its reason; estimate memory and time, here or on another machine."""
    from sartor.explain import offer_document, plan_document
    from sartor.sinks.tables import show_plan

    if on or price:
        from sartor.elsewhere import offer_of

        offer = offer_of(_find(run).path("recipe.yaml") if run else recipe, sets or (), on, price=price)
        document, text = offer_document(offer, arithmetic=arithmetic)
        return _print(document, escape(text), as_json)
    bench = _work("plan", recipe, sets, run, without=("baseline",))
    document, text = plan_document(bench.plan, bench.shape, arithmetic=arithmetic)
    _print(document, show_plan(bench.plan), as_json)
    return None if as_json else _print(document, escape(text), as_json)


@app.command()
def train(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    ranks: NumRanks = 1,
    as_json: AsJson = False,
) -> None:
    """Train the adapter; goes on from the newest good checkpoint."""
    _train_on(ranks, recipe, sets, run, without=("baseline",))
    bench = _work("train", recipe, sets, run, without=("baseline",))
    _foretold(bench)
    _print(
        {"run": bench.run.id, bench.run.result.name: str(bench.run.result)},
        f"{bench.run.result.name}: {bench.run.result}",
        as_json,
    )


@app.command()
def prove(recipe: RecipePath = DEFAULT, sets: Overrides = None, run: RunName = "", as_json: AsJson = False) -> None:
    """Compare tuned and untuned on the same held-out items; the verdict. Exit code 1 unless it is `ship`."""
    bench = _work("prove", recipe, sets, run)
    verdict = _show_proof(bench, "proof.json", as_json)
    if verdict != "ship":
        raise typer.Exit(1)


@app.command()
def package(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    anyway: Annotated[bool, typer.Option("--anyway", help="Package whatever the verdict is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the proved adapter into a folder with tokenizer, template, stop tokens, card, proof and lineage."""
    bench = _work("package", recipe, sets, run, anyway=anyway)
    folder = bench.run.path("artifact")
    _print({"run": bench.run.id, "artifact": str(folder)}, f"artifact: {folder}", as_json)


@app.command(name="run")
def run_all(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    ranks: NumRanks = 1,
    anyway: Annotated[bool, typer.Option("--anyway", help="Package whatever the verdict is.")] = False,
    as_json: AsJson = False,
) -> None:
    """check → baseline → plan → train → prove → package. Can be stopped and continued; unchanged stages are skipped."""
    from sartor.proof import Item
    from sartor.sinks.tables import show_answers
    from sartor.store import STAGES

    _train_on(ranks, recipe, sets, run)
    bench = _work("prove", recipe, sets, run)
    verdict = _show_proof(bench, "proof.json", as_json)
    items = [Item.model_validate(line) for line in _lines(bench.run, "items.jsonl")]
    best = _read_proof(bench.run, "proof.json").best_untuned.name
    talk.print(show_answers(items, best, "tuned"))
    _foretold(bench)
    talk.print(f"report: {bench.run.path('report.html')}", highlight=False, soft_wrap=True)
    if verdict != "ship" and not anyway:
        raise typer.Exit(1)
    _work("package", recipe, sets, run, anyway=anyway, without=tuple(STAGES)[:-1])
    talk.print(
        f"artifact: {bench.run.path('artifact')}; next: [bold]sartor serve[/bold]", highlight=False, soft_wrap=True
    )


@app.command()
def serve(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs to serve; the recipe's own if none.")
    ] = None,
    recipe: Annotated[Path, typer.Option("--recipe", help="The recipe whose run is served.")] = DEFAULT,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(help="The key that clients must send; SARTOR_API_KEY, or one made on first start.")
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option(help="A proxy with TLS stands in front: allow other addresses.")
    ] = False,
    engine: Annotated[str, typer.Option(help="What computes: sartor, llamacpp or vllm.")] = "sartor",
) -> None:
    """Serve the base and tuned adapters by name, behind the OpenAI API. A key is always needed."""
    from sartor.hardware import prepare_environment
    from sartor.serve.desk import open_desk
    from sartor.serve.keys import find_key
    from sartor.serve.run import serve as answer

    prepare_environment()
    folders = [_servable(run) for run in _runs_named(runs or [], recipe)]
    key = find_key(api_key, os.environ)
    desk = open_desk(folders, engine)

    def ready(url: str) -> None:
        names = ", ".join(model.name for model in desk.models)
        secret = key.text if key.origin not in ("--api-key", "SARTOR_API_KEY") else f"the one from {key.origin}"
        talk.print(f"serving {names}\n  base URL {url}\n  key {secret}", highlight=False, soft_wrap=True)

    answer(desk, key=key, host=host, port=port, behind_proxy=behind_proxy, ready=ready)


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List the runs of this folder, newest first."""
    from sartor.sinks.tables import show_runs
    from sartor.store import all_runs

    found = all_runs(Path())
    document = [
        {"run": run.id, "stages": run.stages_done(), "verdict": run.verdict(), "worker": run.worker()} for run in found
    ]
    _print(document, show_runs(found) if found else "no runs here yet", as_json)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's name or id; the newest if none.")] = "", as_json: AsJson = False
) -> None:
    """Show what is known of a run: plan, proof, paths."""
    from sartor.plan import Plan
    from sartor.sinks.tables import show_plan, show_proof
    from sartor.store import read_json

    chosen = _newest() if not run else _find(run)
    document: dict[str, Any] = {"run": chosen.id, "folder": str(chosen.folder), "stages": chosen.stages_done()}
    for name in ("check", "baseline", "plan", "proof"):
        if chosen.path(f"{name}.json").is_file():
            document[name] = read_json(chosen.path(f"{name}.json"))
    if as_json:
        _print(document, "", as_json=True)
        return
    output = Console()
    output.print(f"{chosen.id}: {' → '.join(chosen.stages_done())}", highlight=False)
    if "plan" in document:
        output.print(show_plan(Plan.model_validate(document["plan"])))
    for name in ("proof", "baseline"):
        if name in document:
            output.print(show_proof(_read_proof(chosen, f"{name}.json")))
            break
    if chosen.path("report.html").is_file():
        output.print(f"report: {chosen.path('report.html')}", highlight=False, soft_wrap=True)


@app.command()
def stop(run: Annotated[str, typer.Argument(help="A run's name or id; the one at work if none.")] = "") -> None:
    """Ask the process that works on a run to save and leave."""
    from sartor.store import all_runs

    candidates = [_find(run)] if run else all_runs(Path())
    working = [(candidate, worker) for candidate in candidates if (worker := candidate.worker())]
    if not working:
        raise UserError("nothing is running" + (f" on {run}" if run else " here"), hint="`sartor runs` lists the runs")
    for candidate, worker in working:
        os.kill(worker, signal.SIGTERM)
        talk.print(f"{candidate.id}: asked process {worker} to save and leave", highlight=False)


@app.command()
def models(
    path: Annotated[str, typer.Option("--path", help="Make this model ready and print its folder.")] = "",
    as_json: AsJson = False,
) -> None:
    """The models known by name: family, size, licence, context, knowledge cut-off, where they can be tuned."""
    from sartor.catalogue import CATALOGUE
    from sartor.sinks.tables import show_models

    if path:
        from sartor.hub import find
        from sartor.recipe import ModelSpec

        folder = find(ModelSpec(name=path)).path
        _print({"path": folder}, folder, as_json)
        return
    _print([card.model_dump(mode="json") for card in CATALOGUE], show_models(CATALOGUE), as_json)


@app.command()
def explain(
    key: Annotated[
        str, typer.Argument(help="A recipe key such as tune.learning_rate, or a section; all if none.")
    ] = "",
    recipe: Annotated[Path, typer.Option("--recipe", help="The recipe to look at.")] = DEFAULT,
) -> None:
    """What a recipe key does, when to change it, and what was decided here and why."""
    from sartor.explain import explain as text_of
    from sartor.plan import Plan
    from sartor.recipe import load
    from sartor.store import open_run, read_json

    asked, decided = None, None
    if recipe.is_file():
        asked = load(recipe)
        plan_file = open_run(recipe, asked).path("plan.json")
        decided = Plan.model_validate(read_json(plan_file)) if plan_file.is_file() else None
    Console().print(escape(text_of(key, asked, decided)), highlight=False, soft_wrap=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Is this machine ready? Exit code 3 when something needed is missing."""
    from sartor.doctor import examine

    findings = list(examine(Path()))
    lines = [
        f"{'ok ' if item.ok else 'NO '} {item.what}: {item.seen}" + ("" if item.ok else f"\n    → {item.hint}")
        for item in findings
    ]
    _print([item.model_dump() for item in findings], escape("\n".join(lines)), as_json)
    if not all(item.ok for item in findings):
        raise typer.Exit(3)


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="recipe, example, ledger, check, plan, event, item, proof or lineage.")],
) -> None:
    """The JSON Schema of a file of a run."""
    from sartor.schemas import schema_of

    sys.stdout.write(json.dumps(schema_of(name), indent=2) + "\n")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sartor {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point: runs a command and turns errors into words and exit codes."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # deprecations between libraries are for us, not for users
    try:
        app()
    except SartorError as error:
        talk.print(f"[bold red]error[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        talk.print(f"  [bold]→[/bold] {escape(error.hint)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        talk.print("stopped")
        sys.exit(130)
    except Exception:  # noqa: BLE001 - the last line of defence: ours, so the traceback belongs to the report of it
        traceback.print_exc()
        talk.print(
            "[bold red]this is a fault of sartor[/bold red]: please report it with the lines above", highlight=False
        )
        sys.exit(3)


def _work(
    last: str,
    recipe: Path,
    sets: list[str] | None,
    name: str,
    *,
    without: tuple[str, ...] = (),
    anyway: bool = False,
) -> Bench:
    """Bring a run to a stage, telling what happens on the way."""
    from sartor.hardware import prepare_environment
    from sartor.launch.signals import requests
    from sartor.sinks.console import ConsoleSink
    from sartor.stages import Bench, run_until

    prepare_environment()
    run = _find(name) if name else _open(recipe, sets)[0]
    bench = Bench(run, anyway=anyway)

    def stop(number: int) -> None:
        run.stopping = True
        talk.print("stopping after this step; once more to leave at once")

    with run.locked(), requests(stop, signal.SIGTERM, signal.SIGINT) as received, ConsoleSink(talk) as sink:
        for event in run_until(bench, last, without=without):
            sink(event)
    if received:
        raise typer.Exit(128 + received[0])
    return bench


def _train_on(num_ranks: int, recipe: Path, sets: list[str] | None, name: str, **how: Any) -> None:
    """Train in several processes, if more than one is asked for; what comes after finds it done."""
    from sartor.launch.torchrun import launch

    code = launch(_work("plan", recipe, sets, name, **how), num_ranks) if num_ranks > 1 else 0
    if code:
        raise typer.Exit(code)


def _open(recipe: Path, sets: list[str] | None) -> tuple[Run, Recipe]:
    from sartor.recipe import load
    from sartor.store import open_run

    asked = load(recipe, sets or ())
    return open_run(recipe, asked), asked


def _find(name: str) -> Run:
    from sartor.store import find_run

    return find_run(Path(), name)


def _newest() -> Run:
    from sartor.store import all_runs

    found = all_runs(Path())
    if not found:
        raise UserError("no runs here yet", hint="`sartor run` makes one")
    return found[0]


def _runs_named(names: list[str], recipe: Path) -> list[Run]:
    return [_find(name) for name in names] if names else [_open(recipe, None)[0]]


def _servable(run: Run) -> Path:
    """A run's artifact; its bare adapter or model, with a warning, when it was not packaged."""
    if run.path("artifact/manifest.json").is_file():
        return run.path("artifact")
    if (run.result / "manifest.json").is_file():
        talk.print(
            f"[yellow]warning[/yellow] {run.id} is not packaged (verdict: {run.verdict() or 'none yet'})",
            highlight=False,
        )
        return run.result
    raise Refused(f"{run.id} has nothing to serve yet", hint="`sartor run` trains, proves and packages it")


def _print(document: Any, shown: Any, as_json: bool) -> None:
    """One JSON document, or the same for people, on stdout."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        Console().print(shown, highlight=False, soft_wrap=isinstance(shown, str))


def _show_proof(bench: Bench, name: str, as_json: bool) -> str:
    from sartor.sinks.tables import show_proof

    proof = _read_proof(bench.run, name)
    _print(proof.model_dump(mode="json", by_alias=True), show_proof(proof), as_json)
    return proof.verdict


def _read_proof(run: Run, name: str) -> Proof:
    from sartor.proof import Proof
    from sartor.store import read_json

    return Proof.model_validate(read_json(run.path(name)))


def _lines(run: Run, name: str) -> Iterator[Any]:
    from sartor import durable

    return durable.read_lines(run.path(name))


def _foretold(bench: Bench) -> None:
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


if __name__ == "__main__":
    main()
