"""`sartor data`: make, mend and look at data sets. A command takes a file or data folder and writes a data folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sartor.cli.common import AsJson, put, talk
from sartor.errors import UserError

if TYPE_CHECKING:
    from sartor.data.folder import DataFolder
    from sartor.types import Example
    from sartor.workshop import Progress

app = typer.Typer(name="data", help="Collect, clean, build, augment, review and inspect data.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="A file of examples, or a data folder.")]
To = Annotated[Path, typer.Option("--to", help="The data folder to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a folder that is there already.")]


@app.command()
def clean(
    source: Source,
    to: To,
    cleaners: Annotated[
        str, typer.Option("--with", help="Cleaners as in a recipe: [exact_duplicates, {name: pii, action: mask}].")
    ],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Another setting: only_train=true.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Drop, mend or mark examples; every one that is not used as it came is in the ledger, with its reason."""
    folder = _made("clean", source, to, [f"cleaners={cleaners}", *(sets or ())], force=force)
    _tell(folder, as_json)


@app.command()
def diff(
    before: Source,
    after: Annotated[Path, typer.Argument(help="The data folder that was made of it.")],
    limit: Annotated[int, typer.Option(help="The most rows to show.", min=0)] = 20,
    as_json: AsJson = False,
) -> None:
    """List what was removed, changed and added between two versions of a data set, each with its reason."""
    from sartor.data.diff import Tally, differences
    from sartor.data.folder import open_folder
    from sartor.sinks.data import show_difference, show_tally

    later, tally = open_folder(after, str(after)), Tally()
    found = differences(_examples(before), later.examples(), later.ledger(), tally)
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
    as_json: AsJson = False,
) -> None:
    """Put rows back as they were before they were dropped or changed."""
    from sartor.data.diff import restore as put_back
    from sartor.data.folder import open_folder

    _refuse_existing(to, force)
    _tell(put_back(_examples(before), open_folder(after, str(after)), rows, to), as_json)


def _made(step: str, source: Path | None, to: Path, sets: list[str], *, force: bool) -> DataFolder:
    """Run one step of the workshop by its name, with settings as `--set` gives them."""
    from sartor.data.folder import open_folder
    from sartor.recipe import settings_of, validated
    from sartor.workshop import Job
    from sartor.workshop import step as member_of

    _refuse_existing(to, force)
    member = member_of(step)
    config = validated(member.Config, settings_of(sets), step)
    with _bar(step) as progress:
        member.run(Job(to, Path(), source, progress=progress), config)
    return open_folder(to, str(to))


def _refuse_existing(to: Path, force: bool) -> None:
    if to.exists() and not force:
        raise UserError(f"{to} is there already", hint="name another folder with --to, or replace it with --force")


def _examples(path: Path) -> Iterator[Example]:
    """The examples of a file or data folder; rows that cannot be read are passed over."""
    from sartor.data.read import stream

    for outcome in stream(path, format=None, fields={}, label=path.name):
        if outcome.example is not None:
            yield outcome.example


def _tell(folder: DataFolder, as_json: bool) -> None:
    """What a step made."""
    from collections import Counter

    counts = Counter(f"{entry.action}: {entry.reason}" for entry in folder.ledger())
    kept = sum(1 for _ in (folder.documents() if folder.holds_documents else folder.examples()))
    document: dict[str, Any] = {"folder": str(folder.path), "kept": kept, "ledger": dict(counts.most_common())}
    what = "documents" if folder.holds_documents else "examples"
    lines = [f"{folder.path}: {kept:,} {what}", *(f"  {name}: {count:,}" for name, count in counts.most_common())]
    put(document, escape("\n".join(lines)), as_json)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A progress bar on stderr for what takes its time; it goes away when all is done."""
    from rich.progress import Progress as Bars

    with Bars(console=talk, transient=True, disable=not talk.is_terminal) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)
