"""The verbs: each brings a run one noun further."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sartor.cli.common import (
    DEFAULT,
    EMBEDDED_MODEL,
    AsJson,
    NumRanks,
    Overrides,
    RecipePath,
    RunName,
    foretold,
    lines_of,
    put,
    read_proof,
    run_named,
    runs_named,
    servable,
    talk,
    tell_proof,
    told,
    train_on,
    work,
    writing,
)
from sartor.errors import UserError
from sartor.names import uncollected

app = typer.Typer()


@app.command()
def new(
    data: Annotated[Path, typer.Argument(help="Your examples: JSONL, JSON, CSV, TSV, Parquet or text, gzip or not.")],
    recipe: Annotated[Path, typer.Option("--recipe", help="Where to write the recipe.")] = DEFAULT,
    model: Annotated[str, typer.Option(help="The base model.")] = EMBEDDED_MODEL,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing recipe.")] = False,
) -> None:
    """Write a recipe for a data file: format sniffed, metric proposed, each choice explained."""
    from sartor import durable
    from sartor.new import propose

    if recipe.exists() and not force:
        raise UserError(f"{recipe} is there already", hint="edit it, or write it anew with --force")
    with writing(recipe, "--recipe"):
        durable.atomic_write(recipe, propose(data, relative_to=recipe.parent, model=model))
    talk.print(f"wrote {recipe}; next: [bold]sartor check[/bold]", highlight=False)


@app.command()
def check(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings and poor grades too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what would go wrong, with line numbers, before anything expensive, and if the data is ready.

    Exit code 1 when something would go wrong.
    """
    from sartor.sinks.tables import show_check

    bench = work("check", recipe, sets, run)
    found = bench.check
    put(found.model_dump(mode="json", by_alias=True), show_check(found), as_json)
    if not found.ok or (strict and found.doubtful):
        raise typer.Exit(1)


@app.command()
def baseline(recipe: RecipePath = DEFAULT, sets: Overrides = None, run: RunName = "", as_json: AsJson = False) -> None:
    """Measure what the untuned model already reaches: zero-shot and few-shot, on the held-out items.

    The check is done first where it was not.
    """
    bench = work("baseline", recipe, sets, run)
    tell_proof(bench, "baseline.json", as_json)


@app.command()
def plan(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    arithmetic: Annotated[bool, typer.Option("--explain", help="The arithmetic of memory, item by item.")] = False,
    on: Annotated[str | None, typer.Option(help="For another machine: h200, h100x8, a100-80x4, l4, rtx4090 …")] = None,
    price: Annotated[float, typer.Option(help="With --on: of a device and hour, for the price of the run.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Decide every number, each with its reason; estimate memory and time, here or on another machine.

    The check is done first where it was not; the baseline is not needed.
    """
    from sartor.explain import offer_document, plan_document
    from sartor.sinks.tables import show_plan

    if on is not None and not on.strip():
        raise UserError("--on names no machine", hint="for example --on h100x8; leave it out for this machine")
    on = on or ""
    if on or price:
        from sartor.elsewhere import offer_of
        from sartor.recipe import load
        from sartor.workshop import resolved
        from sartor.workshop.knowing import embed_by

        found = run_named(run) if run else None
        path, root = (found.path("recipe.yaml"), found.root) if found else (recipe, recipe.parent)
        offer = offer_of(resolved(load(path, sets or ()), root), root, on, price=price, embed=embed_by())
        document, text = offer_document(offer, arithmetic=arithmetic)
        return put(document, escape(text), as_json)
    bench = work("plan", recipe, sets, run, without=("baseline",))
    document, text = plan_document(bench.plan, bench.shape, arithmetic=arithmetic)
    put(document, show_plan(bench.plan), as_json)
    return None if as_json else put(document, escape(text), as_json)


@app.command()
def train(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    ranks: NumRanks = 1,
    as_json: AsJson = False,
) -> None:
    """Train the adapter; goes on from the newest good checkpoint.

    Check and plan are done first where they were not; the baseline is not needed.
    """
    train_on(ranks, recipe, sets, run, without=("baseline",))
    bench = work("train", recipe, sets, run, without=("baseline",))
    foretold(bench)
    put(
        {"run": bench.run.id, bench.run.result.name: str(bench.run.result)},
        f"{bench.run.result.name}: {bench.run.result}",
        as_json,
    )


@app.command()
def prove(recipe: RecipePath = DEFAULT, sets: Overrides = None, run: RunName = "", as_json: AsJson = False) -> None:
    """Compare tuned and untuned on the same held-out items; the verdict. Exit code 1 unless it is `ship`.

    What is missing is done first: check, baseline, plan and training.
    """
    bench = work("prove", recipe, sets, run)
    verdict = tell_proof(bench, "proof.json", as_json)
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
    """Put the proved adapter into a folder with tokenizer, template, stop tokens, card, proof and lineage.

    What is missing is done first: check, baseline, plan, training and proof.
    """
    bench = work("package", recipe, sets, run, anyway=anyway)
    folder = bench.run.path("artifact")
    put({"run": bench.run.id, "artifact": str(folder)}, f"artifact: {folder}", as_json)


@app.command()
def convert(
    recipe: RecipePath = DEFAULT,
    sets: Overrides = None,
    run: RunName = "",
    to: Annotated[str, typer.Option("--to", help="lora, or model: the base with the adapter in its weights.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", help="The highest rank of the LoRA.", min=1, max=512)] = 64,
    as_json: AsJson = False,
) -> None:
    """Give the adapter a form that other servers know, and score it again: what it cost is said.

    What is missing is done first: check, baseline, plan, training and proof.
    """
    from sartor.convert import convert as converted

    if to not in ("lora", "model"):
        raise UserError(f"--to {to}", hint="lora, or model")
    bench = work("prove", recipe, sets, run)
    found = told(bench, converted(bench, "lora" if to == "lora" else "model", most=rank))
    put(found.model_dump(mode="json", by_alias=True), f"{found.sentence}\n{bench.run.path(found.folder)}", as_json)


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

    train_on(ranks, recipe, sets, run)
    bench = work("prove", recipe, sets, run)
    verdict = tell_proof(bench, "proof.json", as_json)
    items = [Item.model_validate(line) for line in lines_of(bench.run, "items.jsonl")]
    best = read_proof(bench.run, "proof.json").best_untuned.name
    talk.print(show_answers(items, best, "tuned"))
    foretold(bench)
    talk.print(f"report: {bench.run.path('report.html')}", highlight=False, soft_wrap=True)
    if verdict != "ship" and not anyway:
        raise typer.Exit(1)
    work("package", recipe, sets, run, anyway=anyway, without=tuple(STAGES)[:-1])
    talk.print(
        f"artifact: {bench.run.path('artifact')}; next: [bold]sartor serve[/bold]", highlight=False, soft_wrap=True
    )


@app.command()
def serve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs or artifact folders to serve; the recipe's own run if none."),
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
    engine: Annotated[
        str, typer.Option(help="What computes: sartor, peft, llamacpp or vllm; `serve.engine` of the recipe if none.")
    ] = "",
    log_chats: Annotated[
        Path | None, typer.Option(help="Keep chats whose requests say `store: true` in this file, to learn from.")
    ] = None,
) -> None:
    """Serve the base and tuned adapters by name, behind the OpenAI API. A key is always needed."""
    from sartor.hardware import prepare_environment
    from sartor.launch.signals import handled
    from sartor.serve.chat_log import ChatLog
    from sartor.serve.desk import open_desk
    from sartor.serve.keys import find_key
    from sartor.serve.run import bind
    from sartor.serve.run import serve as answer

    prepare_environment()
    chosen = runs_named(runs or [], recipe)
    first = chosen[0]
    engine = engine or ("" if isinstance(first, Path) else first.recipe.serve.engine) or "sartor"
    folders = [servable(run, engine) for run in chosen]
    key = find_key(api_key, os.environ)

    def ready(url: str) -> None:
        names = ", ".join(model.name for model in desk.models)
        secret = key.text if key.origin not in ("--api-key", "SARTOR_API_KEY") else f"the one from {key.origin}"
        talk.print(f"serving {names}\n  base URL {url}\n  key {secret}", highlight=False, soft_wrap=True)
        if log_chats:
            talk.print(f"  chats that say `store: true` are kept in {log_chats}", highlight=False, soft_wrap=True)

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # not at once: an engine may have a server of its own to stop

    # The address before the minutes that a large model takes to open.
    with handled(leave, signal.SIGTERM), bind(host, port, behind_proxy=behind_proxy) as bound:
        log = None
        if log_chats:
            with writing(log_chats, "--log-chats"):
                log = ChatLog(log_chats)
        with uncollected():
            desk = open_desk(folders, engine)
        gc.freeze()  # it all stays as long as the server: collections later on, which stop every answer, pass it by
        for message in desk.warnings:
            talk.print(f"note: {message}", style="yellow", highlight=False, soft_wrap=True)
        answer(desk, bound, key=key, host=host, log=log, ready=ready)
