"""From places to a data folder.

folder = gather([origin_of("docs/"), origin_of("https://example.org/handbook/")], Path("data/handbook"))

The folder appears whole or not at all. Beside the usual files it has `places.jsonl`: each thing that was opened, with
its digest, time and licence. A source that takes long keeps its state beside the folder, and goes on there.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sartor import durable, names
from sartor.collect import KIND, PLACES, Clock, Found, Only, Origin, Place, Trip, readable, source
from sartor.collect.journal import Index
from sartor.data import folder
from sartor.data.folder import DataFolder, Making
from sartor.errors import DataError, RecipeError
from sartor.types import Document, LedgerEntry, Progress

#: The source of whatever no other source claims.
REST = "files"
#: Settings of every source that are no options: they say what the place is.
_OURS = frozenset({"place", "root"})


def origin_of(place: str, given: Mapping[str, Any] | None = None, /, *, root: Path = Path(), **options: Any) -> Origin:
    """The source that reads a place, told by the form of the place, with its settings.

    Args:
        place: as its user wrote it.
        given: options as somebody gave them, whatever their names are.
        root: what a relative place starts from.
        options: more of them.

    Raises:
        DataError: there is nothing at this place.
        RecipeError: an option that this source does not have, or not with such a value.
    """
    others = (name for name in names.known(KIND) if name != REST and source(name).matches(place, root))
    name = next(others, REST)
    if name == REST and not source(REST).matches(place, root):
        raise DataError(
            f"there is nothing at {place}",
            hint="a place is a file, a folder, a pattern such as 'docs/**/*.md', an archive, a URL, or "
            "hf:owner/name@revision; paths are relative to where you are",
        )
    settings = {**(given or {}), **options}
    known = ", ".join(sorted(set(source(name).Config.model_fields) - _OURS))
    if ours := sorted(_OURS & settings.keys()):
        raise RecipeError(f"{place}: `{ours[0]}` is no option", hint=f"{name} knows {known}")
    try:
        return Origin(name, source(name).Config.model_validate({**settings, "place": place, "root": str(root)}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            hint = f"{name} knows {known}"
            raise RecipeError(f"{place}: there is no option `{option}` for such a place", hint=hint) from error
        raise RecipeError(f"{place}: the option {option}: {first['msg']}", hint=f"{name} knows {known}") from error


def gather(
    origins: Sequence[Origin],
    path: Path,
    *,
    only: Only = "",
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> DataFolder:
    """Write what is at these places into a data folder, replacing one of that name.

    Args:
        origins: the places, in the order of the folder.
        path: the folder.
        only: what is wanted, where places have both documents and examples.
        clock: for tests.
        progress: told how many were kept and how many not.

    Raises:
        DataError: nothing is there to be taken, or documents and examples are mixed.
        UserError: something that is no data folder stands at `path`.
        MachineError: the disk is full, or a library is missing.
    """
    folder.require_ours(path)
    sidecar = path.with_name(f".{path.name}.collecting")
    trip = _trip(path, sidecar, only, clock or Clock())
    with folder.making(path) as made, _places(made) as places:
        tally = Tally()
        for origin in origins:
            for found in source(origin.source).find(origin.config, trip):
                _put(found, made, tally, places)
                if progress:
                    progress(made.num_kept, made.num_dropped)
        if not made.num_kept:
            shutil.rmtree(sidecar, ignore_errors=True)
            raise _nothing(origins, made, tally)
        made.finish(_card(path.name, origins, made, tally))
    shutil.rmtree(sidecar, ignore_errors=True)
    return DataFolder(path)


@dataclass(slots=True)
class Tally:
    """What the card adds up."""

    licences: Counter[str] = field(default_factory=Counter)
    times: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_places: int = 0
    kind: str = ""
    first: str = ""
    first_told: str = ""


def _trip(path: Path, sidecar: Path, only: Only, clock: Clock) -> Trip:
    if not folder.is_data_folder(path) or durable.verify(path):
        return Trip(sidecar, clock, only)
    return Trip(sidecar, clock, only, Index(path / PLACES), Index(path / folder.DOCUMENTS))


@contextlib.contextmanager
def _places(made: Making) -> Iterator[Callable[[Place], None]]:
    with durable.opened(made.staging / PLACES) as file:

        def write(place: Place) -> None:
            file.write(place.model_dump_json() + "\n")

        yield write


def _put(found: Found, made: Making, tally: Tally, places: Callable[[Place], None]) -> None:
    if isinstance(found, LedgerEntry):
        made.tell(found)
        tally.first_told = tally.first_told or f"{found.file}: {found.detail}"
    elif isinstance(found, Place):
        places(found)
        tally.num_places += 1
        tally.licences[found.licence or "not stated"] += 1
        tally.times = [min([*tally.times, found.time]), max([*tally.times, found.time])]
        if note := found.about.get("note"):
            tally.notes.append(str(note))
    else:
        kind = "documents" if isinstance(found, Document) else "examples"
        if tally.kind and kind != tally.kind:
            raise DataError(
                f"{tally.first} gives {tally.kind}, and {found.id} gives {kind}: one data set holds one of both",
                hint="say which with `--only documents` or `--only examples`; the others then stand in the ledger",
            )
        tally.kind, tally.first = kind, tally.first or found.id
        made.keep(found)


def _nothing(origins: Sequence[Origin], made: Making, tally: Tally) -> DataError:
    reasons = ", ".join(f"{count:,} {reason}" for (_, reason), count in made.counts.most_common(5)) or "it is empty"
    first = f"; the first: {tally.first_told}" if tally.first_told else ""
    return DataError(f"nothing could be taken from {_named(origins)}: {reasons}{first}", hint=_WAYS)


_WAYS = "look at the first reason: it names the place, and the limit or the rule that was met"


def _named(origins: Sequence[Origin]) -> str:
    return ", ".join(readable(vars(origin.config)["place"]) for origin in origins)


def _card(title: str, origins: Sequence[Origin], made: Making, tally: Tally) -> str:
    licences = ", ".join(f"{name} ({count:,})" for name, count in tally.licences.most_common(8))
    facts = [
        ("collected from", _named(origins)),
        ("found between", " and ".join(tally.times) or "not known"),
        ("licences", licences or "not stated"),
        ("places opened", f"{tally.num_places:,}, each in {PLACES} with its digest"),
    ]
    notes = [*dict.fromkeys(tally.notes), "Who made these texts has rights in them: see the licences before you train."]
    return folder.card(title, facts, {f"kept: {tally.kind}": made.num_kept, **folder.told(made.counts)}, notes)
