"""A person decides on what passed the checks: at a desk (a terminal), or by a file of decisions.

Nothing is printed here: whoever opens a desk brings its keys and its screen. What is shown cannot drive a terminal.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from sartor import durable, formats
from sartor.augment import Made
from sartor.augment.rounds import Checked, Decision, Round
from sartor.augment.turns import question_of, sides, unsuitable
from sartor.augment.work import Work
from sartor.errors import DataError, FieldError, SartorError, UserError, Where
from sartor.formats import fields, strict
from sartor.names import suggest
from sartor.types import Message, Pair

KEYS: Mapping[str, str] = {"a": "accept", "e": "edit", "r": "reject", "q": "quit"}
#: What begins a line that names a text in the editor. More of them where a text has such a line itself.
_MARK = "%%%%"
_HELP = "Change the texts below the lines that begin with %%%%; leave those lines as they are. Save, and close."


class Desk(Protocol):
    """Where a reviewer sits."""

    def show(self, text: str) -> None: ...

    def key(self, keys: Mapping[str, str]) -> str:
        """One of the keys, when it is pressed."""
        ...

    def line(self, question: str) -> str: ...

    def edit(self, text: str) -> str:
        """The text as the reviewer left it."""
        ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """An example that waits for a decision, with its round and the id of its seed."""

    round: Round
    checked: Checked
    seed: str


def waiting(work: Work) -> Iterator[Waiting]:
    """All that wait, in their order."""
    for each in work.rounds():
        seeds = {asked.key: asked.seed for asked in each.asked}
        for found in each.outcomes():
            if found.fate == "waiting":
                yield Waiting(each, found.checked, seeds[found.checked.key])


def at_desk(work: Work, desk: Desk) -> int:
    """Decide one after the other until all is decided or the reviewer leaves; how many were decided."""
    found = list(waiting(work))
    for number, item in enumerate(found):
        desk.show(view(work, item, f"{number + 1} of {len(found)}"))
        decision = None
        while decision is None:
            key = desk.key(KEYS)
            if key == "q":
                return number
            decision = _decided(item.checked, KEYS[key], desk)
        item.round.decide(decision)
    return len(found)


def by_file(work: Work, path: Path, label: str) -> int:
    """Take decisions from a JSONL file; how many there were. All of it is right, or nothing is taken.

    Raises:
        DataError: a line is no decision, decides on what nobody asked, or has an edit that is of no use.
    """
    places = {checked.key: (each, checked) for each in work.rounds() for checked in each.checked()}
    taken = []
    for number, raw in enumerate(_file(path, label).split("\n"), start=1):
        if raw.strip():
            where = Where(label, number)
            decision = _decision(raw, where)
            if decision.key not in places:
                hint = suggest(decision.key, tuple(places)) if len(places) <= 50 else "keys are those in checked.jsonl"
                raise DataError(f"nothing with the key {decision.key!r} waits", hint=hint, where=where)
            _refuse_misfit(decision, places[decision.key][1].example, where)
            taken.append(decision)
    for decision in taken:
        places[decision.key][0].decide(decision)
    return len(taken)


def view(work: Work, item: Waiting, place: str) -> str:
    """An example for the screen, beside the seed that it was made from."""
    checked, seed = item.checked, work.seeds[item.seed]
    head = f"{checked.key} ({place}), made from {item.seed}"
    mark = f"judged {checked.score} of 10" if checked.score else ""
    parts = [head, *([mark] if mark else []), f"  seed asks: {fields.shorten(question_of(seed))}"]
    for name, text in texts_of(checked.example).items() if checked.example else ():
        parts.append(f"{name}:\n" + "\n".join(f"  {line}" for line in safe(text).split("\n")))
    return "\n".join(parts)


def safe(text: str) -> str:
    """Text that a terminal shows and does not obey: what cannot be printed is escaped, line ends stay."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def texts_of(example: Made) -> dict[str, str]:
    """The texts that a reviewer sees and may change, by their names."""
    if isinstance(example, Pair):
        answers = {"better": example.chosen.content, "worse": example.rejected.content}
        return {"question": question_of(example), **answers}
    return {"question": question_of(example), "answer": example.target}


def with_texts(example: Made, texts: Mapping[str, str]) -> Made:
    """The example with these texts in place of its own."""
    if isinstance(example, Pair):
        asked = _said(example.prompt[-1], texts["question"])
        chosen, rejected = _said(example.chosen, texts["better"]), _said(example.rejected, texts["worse"])
        update = {"prompt": (*example.prompt[:-1], asked), "chosen": chosen, "rejected": rejected}
        return example.model_copy(update=update)
    *before, asked, answer = example.messages
    messages = (*before, _said(asked, texts["question"]), _said(answer, texts["answer"]))
    return example.model_copy(update={"messages": messages})


def written(texts: Mapping[str, str]) -> str:
    """Texts as a page for an editor."""
    mark = _mark(texts)
    return _HELP.replace(_MARK, mark) + "\n" + "".join(f"{mark} {name}\n{text}\n" for name, text in texts.items())


def read_back(page: str, texts: Mapping[str, str]) -> dict[str, str]:
    """The texts in a page that `written` made of `texts`, as they are now.

    Raises:
        DataError: one of them is gone or empty, or is no clean text.
    """
    mark = f"{_mark(texts)} "
    found: dict[str, list[str]] = {}
    name = ""
    for line in page.split("\n"):
        if line.startswith(mark) and line.removeprefix(mark).strip() in texts:
            name = line.removeprefix(mark).strip()
            found[name] = []
        elif name:
            found[name].append(line)
    back = {name: "\n".join(lines).strip("\r\n") for name, lines in found.items()}
    for wanted in texts:
        if not back.get(wanted, "").strip():
            raise DataError(f"the {wanted} is gone", hint=f"leave the line `{mark}{wanted}`, and a text below it")
        try:
            fields.clean(back[wanted], wanted)
        except FieldError as error:
            raise DataError(f"the {wanted} cannot be kept: {error.message}", hint=error.hint) from error
    return back


def in_editor(text: str) -> str:
    """The text as it is when the user's editor is closed.

    Raises:
        UserError: there is no editor, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder:
        page = Path(folder) / "example.txt"
        durable.atomic_write(page, text)
        try:
            done = subprocess.run([*shlex.split(editor), str(page)], check=False)
        except (OSError, ValueError) as error:
            raise UserError(f"the editor {editor!r} cannot be started: {error}", hint="export EDITOR=nano") from error
        if done.returncode:
            raise UserError(f"the editor {editor!r} ended with {done.returncode}", hint="export EDITOR=nano")
        return page.read_text(encoding="utf-8", errors="replace")


def _decided(checked: Checked, word: str, desk: Desk) -> Decision | None:
    """The decision behind a key; None where the reviewer thought better of it."""
    if word == "accept":
        return Decision(key=checked.key, decision="accept")
    if word == "reject":
        return Decision(key=checked.key, decision="reject", reason=_clean(desk.line("what is wrong with it?")))
    if checked.example is None:
        return None
    texts = texts_of(checked.example)
    try:
        changed = read_back(desk.edit(written(texts)), texts)
    except SartorError as error:
        desk.show(f"{error} ({error.hint})")
        return None
    return Decision(key=checked.key, decision="edit", example=with_texts(checked.example, changed))


def _refuse_misfit(decision: Decision, made: Made | None, where: Where) -> None:
    """Only what was made is accepted, and an edit can stand in its place.

    Raises:
        DataError: it is not so.
    """
    if made is None and decision.decision != "reject":
        raise DataError(f"{decision.key} failed, there is nothing to accept", hint="reject it", where=where)
    if made is None or decision.example is None:
        return
    field, why = _misfit(decision.example, made)
    if why:
        hint = f"copy the example of {decision.key} from checked.jsonl, and change nothing but its texts"
        raise DataError(why, hint=hint, where=replace(where, field=f"example.{field}"))


def _misfit(edited: Made, made: Made) -> tuple[str, str]:
    """The field for which an edit cannot stand in the place of what was made, and why; nothing where it can."""
    if edited.kind != made.kind:
        return "kind", f"saw {edited.kind}, expected {made.kind}"
    try:
        formats.named("example").parse(edited.model_dump(mode="json"), made.source)
    except FieldError as error:
        return error.field, error.message
    return next(((field, why) for field, side in sides(edited).items() if (why := unsuitable(side))), ("", ""))


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()


def _mark(texts: Mapping[str, str]) -> str:
    mark = _MARK
    while any(mark in text for text in texts.values()):
        mark += "%"
    return mark


def _said(message: Message, content: str) -> Message:
    return message.model_copy(update={"content": content})


def _file(path: Path, label: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {label}: {error}", hint="give a JSONL file in UTF-8") from error


def _decision(raw: str, where: Where) -> Decision:
    example = '{"key": "round-001/003", "decision": "reject", "reason": "too vague"}'
    try:
        value = strict.loads(raw.encode("utf-8", "surrogatepass"))
        if not isinstance(value, dict):
            raise DataError(f"saw {fields.seen(value)}, expected an object", hint=f"such as {example}")
        return Decision.model_validate({"by": "file", **value})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"`{place}`: {first['msg'].lower()}", hint=f"a line is such as {example}", where=where
        ) from error
    except DataError as error:
        raise DataError(error.message, hint=f"a line is such as {example}", where=where) from error
