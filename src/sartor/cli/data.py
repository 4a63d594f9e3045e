"""`sartor data`: make, mend and look at data sets. A command takes a file or data folder and writes a data folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sartor.cli.common import AsJson, put, talk, writing
from sartor.errors import UserError

if TYPE_CHECKING:
    from sartor.data.folder import DataFolder
    from sartor.types import Example, Json, LedgerEntry, Progress

app = typer.Typer(name="data", help="Collect, clean, build, augment, review and inspect data.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="A file of examples, or a data folder.")]
To = Annotated[Path, typer.Option("--to", help="The data folder to write.")]
Ask = Annotated[str, typer.Option("--ask", help="Who is asked: a base here, or {url: …, model: …, key: VARIABLE}.")]
FORMATS = "openai (chat), alpaca, sharegpt, completion, text, preference (trl, dpo), unpaired (kto) or example."
Fields = Annotated[str, typer.Option("--fields", help="Your columns under our names: {prompt: question}.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a folder that is there already.")]


@app.command()
def collect(
    places: Annotated[
        list[str],
        typer.Argument(metavar="PLACE...", help="Paths, 'docs/**/*.md', archives, URLs, hf:owner/name@revision."),
    ],
    to: To,
    only: Annotated[str, typer.Option(help="documents or examples, where places have both.")] = "",
    sets: Annotated[list[str] | None, typer.Option("--set", help="An option of the places: max_pages=50.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Take documents or examples from places, each with its source, digest, time and licence. A crawl goes on."""
    settings = {"places": places, "only": only, "options": _settings(sets)}
    _tell(_made("collect", None, to, settings, force=force), as_json)


@app.command()
def clean(
    source: Source,
    to: To,
    cleaners: Annotated[
        str, typer.Option("--with", help="One or more, as in a recipe: [exact_duplicates, {name: pii, action: mask}].")
    ],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Another setting: only_train=true.")] = None,
    force: Force = False,
    fields: Fields = "",
    as_json: AsJson = False,
) -> None:
    """Drop, mend or mark examples; every one that is not used as it came is in the ledger, with its reason."""
    named = _settings([f"cleaners={cleaners}"])["cleaners"]
    columns = {"fields": _columns(fields)} if fields else {}
    settings = {"cleaners": named if isinstance(named, list) else [named], **columns, **_settings(sets)}
    _tell(_made("clean", source, to, settings, force=force), as_json)


@app.command()
def build(
    source: Annotated[Path, typer.Argument(help="A data folder of documents, or a table for builders of rows.")],
    to: To,
    builder: Annotated[str, typer.Option("--with", help="The builder, as in a recipe: {name: qa, pairs: 3}.")] = "qa",
    ask: Ask = "",
    sets: Annotated[list[str] | None, typer.Option("--set", help="Another setting: max_tokens=512.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make examples of documents, grounded in them, or of the rows of a table. What was answered is not asked again."""
    settings = _settings([f"builder={builder}", *_who(ask), *(sets or ())])
    _tell(_made("build", source, to, settings, force=force), as_json)


@app.command()
def augment(
    seeds: Source,
    to: To,
    way: Annotated[str, typer.Option("--with", help="What is made, as in a recipe: {name: paraphrase}.")] = "",
    wanted: Annotated[int, typer.Option(help="Accepted examples after which it ends.", min=1)] = 100,
    yes: Annotated[bool, typer.Option("--yes", help="Accept what passed the checks, unseen.")] = False,
    ask: Ask = "",
    sets: Annotated[list[str] | None, typer.Option("--set", help="Another setting: size=20.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Grow examples from seeds, in rounds that are checked and reviewed. Stopped at any moment, it goes on."""
    from sartor.augment.gather import gather
    from sartor.augment.review import at_desk
    from sartor.augment.work import Config
    from sartor.cli.desk import Terminal
    from sartor.recipe import validated
    from sartor.workshop import Job
    from sartor.workshop.growing import grown, rounds_beside

    accept = ["accept=true"] if yes else []
    chosen = [f"recipe={way}"] if way else []
    config = validated(Config, _settings([f"wanted={wanted}", *accept, *chosen, *_who(ask), *(sets or ())]), "augment")
    seated = sys.stdin.isatty() and not yes
    with _writing(to, force), _bar("augment") as progress:
        work = grown(Job(to, Path(), seeds, progress=progress), config, rounds_beside(to))
    while seated and work.tally().waiting:
        before = work.tally().waiting
        at_desk(work, Terminal())
        if work.tally().waiting == before:
            break
        if not work.tally().waiting:
            with _bar("augment") as progress:
                work = grown(Job(to, Path(), seeds, progress=progress), config, rounds_beside(to))
    _tell(gather(work, to, str(to)), as_json)


@app.command()
def review(
    rounds: Annotated[Path, typer.Argument(help="The folder of rounds, NAME.rounds beside the data folder NAME.")],
    decisions: Annotated[Path | None, typer.Option(help="A file of decisions (JSONL) instead of a terminal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Accept, edit or reject what passed the checks; the reasons are told to whoever is asked next."""
    from sartor.augment.review import at_desk, by_file
    from sartor.augment.work import reopen
    from sartor.cli.desk import Terminal

    work = reopen(rounds, str(rounds))
    if decisions is None and not sys.stdin.isatty():
        raise UserError("nobody sits at this terminal", hint="give the decisions in a file: --decisions FILE")
    done = by_file(work, decisions, str(decisions)) if decisions else at_desk(work, Terminal())
    tally = work.tally()
    document = {"decided": done, "accepted": tally.accepted, "waiting": tally.waiting}
    put(document, f"{done} decided; {tally.accepted} accepted so far, {tally.waiting} wait", as_json)


@app.command()
def failures(
    to: To,
    run: Annotated[str, typer.Option("--run", help="A run's folder, name or id; the newest if none.")] = "",
    below: Annotated[float, typer.Option(help="A lower score than this is a failure.", min=0, max=1)] = 1.0,
    ask: Ask = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """What the untuned model answers wrongly on train and dev, as seeds for `augment`. Never of the test split."""
    from sartor.ask.opening import Who, open_asker
    from sartor.cli.common import newest_run, run_named
    from sartor.recipe import validated
    from sartor.workshop.mining import mine

    chosen = run_named(run) if run else newest_run()
    who = _settings(_who(ask)).get("who", {"model": chosen.recipe.model})
    who = validated(Who, who if isinstance(who, Mapping) else {"model": who}, "ask")
    with _writing(to, force), contextlib.closing(open_asker(who)) as asker, _bar("failures") as progress:
        folder = mine(chosen, asker, to, below=below, progress=progress)
    _tell(folder, as_json)


@app.command()
def convert(
    source: Source,
    to: To,
    form: Annotated[str, typer.Option("--format", help=FORMATS)],
    force: Force = False,
    fields: Fields = "",
    as_json: AsJson = False,
) -> None:
    """Write rows in another format; what it cannot hold is in the ledger."""
    from sartor.data.convert import ROWS
    from sartor.data.convert import convert as converted
    from sartor.data.folder import label_of

    with _writing(to, force), _bar("convert") as progress:
        found = converted(source, to, to=form, label=label_of(source), fields=_columns(fields), progress=progress)
    counts = {f"{action}: {reason}": count for (action, reason), count in found.counts.most_common()}
    document = {"file": str(to / ROWS), "rows_in": found.rows_in, "rows_out": found.rows_out, "ledger": counts}
    lines = [f"{to / ROWS}: {found.rows_out:,} of {found.rows_in:,} rows, from {found.source_format}"]
    put(document, escape("\n".join([*lines, *(f"  {name}: {count:,}" for name, count in counts.items())])), as_json)


@app.command()
def inspect(
    source: Source,
    model: Annotated[str, typer.Option(help="Count and show the tokens of this base, with what is trained.")] = "",
    search: Annotated[str, typer.Option(help="Show rows with these words.")] = "",
    reason: Annotated[str, typer.Option(help="Show rows of which the ledger tells this reason.")] = "",
    limit: Annotated[int, typer.Option(help="The most rows to show.", min=0, max=1000)] = 5,
    languages: Annotated[bool, typer.Option("--languages", help="Tell the language of each row.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page that stands alone.")] = None,
    fields: Fields = "",
    as_json: AsJson = False,
) -> None:
    """Statistics, lengths, labels, what the ledger tells, and rows with the tokens that are trained."""
    from sartor import durable
    from sartor.data.finding.languages import language_of
    from sartor.data.folder import is_data_folder, open_folder
    from sartor.data.inspect import Asked, examples_of
    from sartor.data.inspect import inspect as found_in
    from sartor.report.inspection import render_inspection
    from sartor.sinks.inspection import show_inspection
    from sartor.workshop.knowing import renderer_of

    if is_data_folder(source):
        folder = open_folder(source, str(source))
        rows: Iterable[Example] = examples_of(folder)
        entries = list(folder.ledger())
    else:
        rows, entries = _read(source, fields)
    facts = found_in(
        rows,
        entries,
        label=str(source),
        asked=Asked(search=search, reason=reason, most=limit),
        renderer=renderer_of(model) if model else None,
        language_of=language_of if languages else None,
    )
    if html:
        with writing(html, "--html"):
            durable.atomic_write(html, render_inspection(facts))
        talk.print(f"wrote {html}", highlight=False)
    put(facts.model_dump(mode="json"), show_inspection(facts), as_json)


@app.command()
def diff(
    before: Source,
    after: Annotated[Path, typer.Argument(help="The data folder that was made of it.")],
    limit: Annotated[int, typer.Option(help="The most rows to show.", min=0)] = 20,
    fields: Fields = "",
    as_json: AsJson = False,
) -> None:
    """List what was removed, changed and added between two versions of a data set, each with its reason."""
    from sartor.data.diff import Tally, differences
    from sartor.sinks.data import show_difference, show_tally

    later, tally = _examples_folder(after), Tally()
    found = differences(_examples(before, fields), later.examples(), later.ledger(), tally)
    if as_json:
        listed = [item.document() for _, item in zip(range(limit), found, strict=False)]
        for _ in found:
            pass
        return put({**tally.document(), "differences": listed}, "", as_json=True)
    for number, item in enumerate(found):
        if number < limit:
            put({}, show_difference(item), as_json=False)
    return put({}, show_tally(tally, limit), as_json=False)


@app.command()
def restore(
    before: Source,
    after: Annotated[Path, typer.Argument(help="The data folder in which rows are missing or changed.")],
    rows: Annotated[list[str], typer.Argument(metavar="ROW...", help="Rows by name, as `diff` lists them.")],
    to: To,
    force: Force = False,
    fields: Fields = "",
    as_json: AsJson = False,
) -> None:
    """Put rows back as they were before they were dropped or changed."""
    from sartor.data.diff import restore as put_back

    with _writing(to, force):
        mended = put_back(_examples(before, fields), _examples_folder(after), rows, to)
    _tell(mended, as_json)


def _settings(sets: Sequence[str] | None) -> Json:
    """Settings as `--set` gives them."""
    from sartor.recipe import settings_of

    return settings_of(sets or ())


def _columns(fields: str) -> dict[str, str]:
    """Our field name -> the user's column.

    Raises:
        UserError: these are no pairs of names.
    """
    found = _settings([f"fields={fields}"])["fields"] if fields else {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"--fields is {fields!r}", hint="write --fields '{prompt: question, completion: reply}'")
    return dict(found)


def _who(ask: str) -> list[str]:
    return [f"who={ask}"] if ask else []


def _made(step: str, source: Path | None, to: Path, settings: Json, *, force: bool) -> DataFolder:
    """Run one step of the workshop by its name."""
    from sartor.data.folder import DataFolder
    from sartor.recipe import validated
    from sartor.workshop import Job, refuse_wrong_kind
    from sartor.workshop import step as member_of

    member = member_of(step)
    refuse_wrong_kind(step, member, source)
    config = validated(member.Config, settings, step)
    with _writing(to, force), _bar(step) as progress:
        member.run(Job(to, Path(), source, progress=progress), config)
    return DataFolder(to)


@contextmanager
def _writing(to: Path, force: bool) -> Iterator[None]:
    """Write a data folder, or rows; what is there already is replaced only if that is asked for, and ours."""
    from sartor.data.folder import require_ours

    with writing(to, "--to"):
        if to.exists() and not force:
            raise UserError(f"{to} is there already", hint="name another folder with --to, or replace it with --force")
        require_ours(to)
        yield


def _examples(path: Path, fields: str) -> Iterator[Example]:
    """The examples of a file or data folder; rows that cannot be read are passed over."""
    from sartor.data.folder import label_of
    from sartor.data.read import stream

    for outcome in stream(path, format=None, fields=_columns(fields), label=label_of(path)):
        if outcome.example is not None:
            yield outcome.example


def _examples_folder(path: Path) -> DataFolder:
    """A data folder of examples.

    Raises:
        DataError: it is none, or is damaged.
        UserError: it holds documents.
    """
    from sartor.data.folder import open_folder

    folder = open_folder(path, str(path))
    if folder.holds_documents:
        raise UserError(f"the data folder {path} holds documents, not examples", hint="name what was made of them")
    return folder


def _read(path: Path, fields: str) -> tuple[list[Example], list[LedgerEntry]]:
    """All rows of a file, and what there is to tell of them."""
    from sartor.data.folder import label_of
    from sartor.data.read import read

    with _bar("reading") as progress:
        found = read(path, format=None, fields=_columns(fields), label=label_of(path), progress=progress)
    return list(found.examples), list(found.entries)


def _tell(folder: DataFolder, as_json: bool) -> None:
    """What a step made.

    Raises:
        Refused: nothing.
    """
    from collections import Counter

    from sartor.workshop import refuse_empty

    counts = Counter(f"{entry.action}: {entry.reason}" for entry in folder.ledger())
    kept = folder.num_members
    document: dict[str, Any] = {"folder": str(folder.path), "kept": kept, "ledger": dict(counts.most_common())}
    what = "documents" if folder.holds_documents else "examples"
    lines = [f"{folder.path}: {kept:,} {what}", *(f"  {name}: {count:,}" for name, count in counts.most_common())]
    put(document, escape("\n".join(lines)), as_json)
    refuse_empty(folder)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A progress bar on stderr for what takes its time; it goes away when all is done."""
    from rich.progress import Progress as Bars

    with Bars(console=talk, transient=True, disable=not talk.is_terminal) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)
