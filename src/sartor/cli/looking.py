"""Looking: what is there, what is known, what was decided and why. Nothing changes, but for a run that is stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from sartor.cli.common import DEFAULT, EMBEDDED_MODEL, AsJson, newest_run, put, read_proof, run_named, talk
from sartor.errors import UserError

app = typer.Typer()


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List the runs of this folder, newest first."""
    from sartor.sinks.tables import show_runs
    from sartor.store import all_runs

    found = all_runs(Path())
    document = [
        {"run": run.id, "stages": run.stages_done(), "verdict": run.verdict(), "worker": run.worker()} for run in found
    ]
    put(document, show_runs(found) if found else "no runs here yet", as_json)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's name or id; the newest if none.")] = "", as_json: AsJson = False
) -> None:
    """Show what is known of a run: plan, proof, paths."""
    from sartor.plan import Plan
    from sartor.sinks.tables import show_plan, show_proof
    from sartor.store import read_json

    chosen = newest_run() if not run else run_named(run)
    document: dict[str, Any] = {"run": chosen.id, "folder": str(chosen.folder), "stages": chosen.stages_done()}
    for name in ("check", "baseline", "plan", "proof"):
        if chosen.path(f"{name}.json").is_file():
            document[name] = read_json(chosen.path(f"{name}.json"))
    if as_json:
        put(document, "", as_json=True)
        return
    output = Console()
    output.print(f"{chosen.id}: {' → '.join(chosen.stages_done())}", highlight=False)
    if "plan" in document:
        output.print(show_plan(Plan.model_validate(document["plan"])))
    for name in ("proof", "baseline"):
        if name in document:
            output.print(show_proof(read_proof(chosen, f"{name}.json")))
            break
    if chosen.path("report.html").is_file():
        output.print(f"report: {chosen.path('report.html')}", highlight=False, soft_wrap=True)


@app.command()
def stop(run: Annotated[str, typer.Argument(help="A run's name or id; the one at work if none.")] = "") -> None:
    """Ask the process that works on a run to save and leave."""
    from sartor.store import all_runs

    candidates = [run_named(run)] if run else all_runs(Path())
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
        put({"path": folder}, folder, as_json)
        return
    put([card.model_dump(mode="json") for card in CATALOGUE], show_models(CATALOGUE), as_json)


@app.command()
def methods(
    model: Annotated[str, typer.Option("--model", help="The base whose parameters are counted.")] = EMBEDDED_MODEL,
    as_json: AsJson = False,
) -> None:
    """The tuning methods: what each trains, costs beside LoRA, who serves it, its paper."""
    from sartor.catalogue import card
    from sartor.hub import find, shape
    from sartor.methods import measured_on, table
    from sartor.recipe import ModelSpec
    from sartor.sinks.tables import show_methods
    from sartor.sizing import shape_of

    known = card(model)
    if known is not None and known.kind == "decoder":
        sizes = shape_of(known)
    else:  # an encoder's weights are counted
        sizes = shape(find(ModelSpec(name=model)).folder)
    found = table(sizes)
    put([method.model_dump(mode="json") for method in found], show_methods(found, model, measured_on()), as_json)


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

    _refuse_short(key)
    asked, decided = None, None
    if recipe.is_file():
        asked = load(recipe)
        plan_file = open_run(recipe, asked).path("plan.json")
        decided = Plan.model_validate(read_json(plan_file)) if plan_file.is_file() else None
    Console().print(escape(text_of(key, asked, decided)), highlight=False, soft_wrap=True)


def _refuse_short(key: str) -> None:
    """`tune.lr` is nearer to `tune.learning_rate` than letters tell: by the first ones of its words.

    Raises:
        UserError: the key is short for another.
    """
    from sartor.recipe import fields

    for path, *_ in fields():
        section, _, name = path.rpartition(".")
        if "_" in name and key == f"{section}.{''.join(word[0] for word in name.split('_'))}":
            raise UserError(f"no recipe key {key!r}", hint=f"did you mean {path!r}?")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Is this machine ready? Exit code 3 when something needed is missing."""
    from sartor.doctor import examine

    findings = list(examine(Path()))
    lines = [
        f"{'ok ' if item.ok else 'NO '} {item.what}: {item.seen}" + ("" if item.ok else f"\n    → {item.hint}")
        for item in findings
    ]
    put([item.model_dump() for item in findings], escape("\n".join(lines)), as_json)
    if not all(item.ok for item in findings):
        raise typer.Exit(3)


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="recipe, example, ledger, check, plan, event, item, proof or lineage.")],
) -> None:
    """The JSON Schema of a file of a run."""
    from sartor.schemas import schema_of

    sys.stdout.write(json.dumps(schema_of(name), indent=2) + "\n")
