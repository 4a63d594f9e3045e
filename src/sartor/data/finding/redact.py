"""What is done with parts of an example's texts that should not be learnt: told, masked, replaced, or the row dropped.

Looked at are the texts and names of messages, and all texts, keys and long numbers in arguments of calls and in tools.
What functions and their parameters are called stays, since calls and schemas hang together by it: it is told alone. No
entry holds what was found: the ledger goes along with the data.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sartor.data.clean import Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import PARTS, messages_of, texts_of, with_messages
from sartor.data.finding.identifiers import Span
from sartor.types import Example, Json, LedgerEntry, Message, Text

Find = Callable[[str], Sequence[Span]]
Replace = Callable[[str, str], str]

#: Digits of a number that is looked at as a text: those of the shortest telephone numbers.
LONG = 7


class _Place(NamedTuple):
    """A text that is looked at: in a field, and for JSON by which keys and numbers one gets there. `may_name`: if
    something is called so, it stays."""

    text: str
    field: str
    path: tuple[str | int, ...] = ()
    may_name: bool = False


@dataclass(frozen=True, slots=True)
class Redaction:
    """How to treat what `find` finds. `replace(kind, value)` is written in its place, where there is one; `verb` says
    in the ledger what was done: masked, replaced."""

    find: Find
    action: str
    replace: Replace
    verb: str

    def of(self, example: Example) -> Outcome:
        """The example as it goes on, and an entry for each place and kind (for a dropped row, one in all)."""
        found = [*_found(self.find, _places(example)), *_in_tools(self.find, example)]
        if not found:
            return kept(example)
        counts = [(place, Counter(span.kind for span in spans)) for place, spans in found]
        if self.action == "drop":
            total = sum((count for _, count in counts), Counter[str]())
            return dropped(example, next(iter(total)), _told("found", total), self._field(found[0][0]))
        names = _names(example)
        stays = {place for place, _ in found if self.action == "report" or (place.may_name and place.text in names)}
        entries = [
            entry
            for place, count in counts
            for entry in self._entries(example, place, count, changed=place not in stays)
        ]
        made = {place.text: redacted(place.text, spans, self.replace) for place, spans in found if place not in stays}
        return kept(_rewritten(example, made, names) if made else example, *entries)

    def _entries(
        self, example: Example, place: _Place, counts: Counter[str], *, changed: bool
    ) -> Iterator[LedgerEntry]:
        action, verb = ("changed", self.verb) if changed else ("flagged", "found")
        for kind, count in counts.items():
            yield entry_of(example, action, kind, _told(verb, Counter({kind: count})), self._field(place))

    def _field(self, place: _Place) -> str:
        """The path of a place, without what is found in the keys on it."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{self._hidden(part)}" for part in place.path)
        return "".join([place.field, *parts])

    def _hidden(self, key: str) -> str:
        return redacted(key, self.find(key), lambda kind, value: f"[{kind.upper()}]")


def redacted(text: str, spans: Sequence[Span], replace: Replace) -> str:
    """The text with each span replaced. Spans stand in the order of the text, and do not overlap."""
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], replace(span.kind, text[span.start : span.end])]
        end = span.end
    return "".join([*parts, text[end:]])


def _told(verb: str, counts: Counter[str]) -> str:
    return f"{verb}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"


def _found(find: Find, places: Iterable[_Place]) -> list[tuple[_Place, Sequence[Span]]]:
    return [(place, spans) for place in places if (spans := find(place.text))]


def _in_tools(find: Find, example: Example) -> Sequence[tuple[_Place, Sequence[Span]]]:
    return () if isinstance(example, Text) or not example.tools else _met(find, json.dumps(example.tools))


@functools.lru_cache(maxsize=64)  # the same tools stand in most rows
def _met(find: Find, tools: str) -> Sequence[tuple[_Place, Sequence[Span]]]:
    places = (place for index, tool in enumerate(json.loads(tools)) for place in _inside(tool, f"tools[{index}]"))
    return _found(find, (place._replace(may_name=True) for place in places))


def _places(example: Example) -> Iterator[_Place]:
    """Every text of messages, then every one of calls."""
    yield from (_Place(found.text, found.field) for found in texts_of(example))
    if isinstance(example, Text):
        return
    for field, message in messages_of(example):
        if message.name:
            yield _Place(message.name, f"{field}.name", may_name=True)
        for index, call in enumerate(message.tool_calls):
            yield _Place(call.name, f"{field}.tool_calls[{index}].name", may_name=True)
            yield from _inside(call.arguments, f"{field}.tool_calls[{index}].arguments")


def _inside(value: Any, field: str, path: tuple[str | int, ...] = ()) -> Iterator[_Place]:
    """Every text in JSON; a key stands at the path of the object that has it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield _Place(key, field, path, may_name=True)
            yield from _inside(inner, field, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _inside(inner, field, (*path, index))
    elif text := _as_text(value):
        yield _Place(text, field, path)


def _as_text(value: Any) -> str:
    """A text as it is, a long number as it is written, and nothing of all else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and sum(map(str.isdigit, str(value))) >= LONG:
        return str(value)
    return value if isinstance(value, str) else ""


def _names(example: Example) -> frozenset[str]:
    """What functions and their parameters are called, and every other key of a tool."""
    if isinstance(example, Text):
        return frozenset()
    called = {call.name for _, message in messages_of(example) for call in message.tool_calls}
    functions = (tool.get("function", tool) for tool in example.tools)
    called |= {str(function.get("name")) for function in functions if isinstance(function, dict)}
    return frozenset(called.union(*map(_keys, example.tools)))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _keys(inner)


def _rewritten(example: Example, made: Mapping[str, str], names: frozenset[str]) -> Example:
    """The example with texts replaced by what was made of them; names stay where they may be meant."""
    if isinstance(example, Text):
        return example.model_copy(update={"text": made[example.text]})
    free = {text: new for text, new in made.items() if text not in names}

    def over(message: Message) -> Message:
        calls = [
            call.model_copy(update={"arguments": _replaced(call.arguments, made, free)}) for call in message.tool_calls
        ]
        texts = {part: made.get(text, text) for part in PARTS if (text := vars(message)[part])}
        name = free.get(message.name, message.name)
        return message.model_copy(update={**texts, "name": name, "tool_calls": tuple(calls)})

    tools = tuple(_replaced(tool, free, free) for tool in example.tools)
    return with_messages(example, over).model_copy(update={"tools": tools})


def _replaced(value: Any, made: Mapping[str, str], keys: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        inner = {key: _replaced(inner, made, keys) for key, inner in value.items()}
        return _renamed(inner, keys) if not keys.keys().isdisjoint(inner) else inner
    if isinstance(value, list):
        return [_replaced(inner, made, keys) for inner in value]
    new = made.get(_as_text(value))
    if new is None:
        return value
    return int(new) if new.isdecimal() and not isinstance(value, str) else new


def _renamed(value: Json, keys: Mapping[str, str]) -> Json:
    """The object with other keys, no two of them the same: what becomes one is numbered."""
    renamed: Json = {}
    for key, inner in value.items():
        new = keys.get(key, key)
        numbered = itertools.chain([new], (f"{new} {number}" for number in itertools.count(2)))
        renamed[key if new == key else next(name for name in numbered if name not in value.keys() | renamed)] = inner
    return renamed
