"""What is done with parts of an example's texts that should not be learnt: told, masked, replaced, or the row dropped.

Texts of messages, and the texts inside the arguments of tool calls. No entry holds what was found: the ledger goes
along with the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.data.clean import Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import edited, texts_of
from sartor.data.finding.identifiers import Span
from sartor.types import Chat, Example, LedgerEntry, Message, Pair, Text

Find = Callable[[str], Sequence[Span]]
Replace = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Redaction:
    """How to treat what `find` finds. `replace(kind, value)` is written in its place, where there is one; `verb` says
    in the ledger what was done: masked, replaced."""

    find: Find
    action: str
    replace: Replace
    verb: str

    def of(self, example: Example) -> Outcome:
        """The example as it goes on, and an entry for each field and kind (for a dropped row, one in all)."""
        found = [(field, text, spans) for field, text in _places(example) if (spans := self.find(text))]
        if not found:
            return kept(example)
        counts = [(field, Counter(span.kind for span in spans)) for field, _, spans in found]
        if self.action == "drop":
            total = sum((count for _, count in counts), Counter[str]())
            return dropped(example, next(iter(total)), _told("found", total), counts[0][0])
        action, verb = ("flagged", "found") if self.action == "report" else ("changed", self.verb)
        entries = [entry for field, count in counts for entry in _entries(example, action, verb, field, count)]
        if self.action == "report":
            return kept(example, *entries)
        made = {text: redacted(text, spans, self.replace) for _, text, spans in found}
        return kept(_with_calls(edited(example, lambda text: made.get(text, text))[0], made), *entries)


def redacted(text: str, spans: Sequence[Span], replace: Replace) -> str:
    """The text with each span replaced. Spans stand in the order of the text, and do not overlap."""
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], replace(span.kind, text[span.start : span.end])]
        end = span.end
    return "".join([*parts, text[end:]])


def _entries(example: Example, action: str, verb: str, field: str, counts: Counter[str]) -> Iterator[LedgerEntry]:
    for kind, count in counts.items():
        yield entry_of(example, action, kind, _told(verb, Counter({kind: count})), field)


def _told(verb: str, counts: Counter[str]) -> str:
    return f"{verb}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"


def _places(example: Example) -> Iterator[tuple[str, str]]:
    """Every text with its field, those in the arguments of calls after the others."""
    yield from ((found.field, found.text) for found in texts_of(example))
    if isinstance(example, Text):
        return
    for place, message in _messages(example):
        for index, call in enumerate(message.tool_calls):
            yield from _strings(call.arguments, f"{place}.tool_calls[{index}].arguments")


def _messages(example: Any) -> Iterator[tuple[str, Message]]:
    if isinstance(example, Chat):
        yield from ((f"messages[{index}]", message) for index, message in enumerate(example.messages))
        return
    yield from ((f"prompt[{index}]", message) for index, message in enumerate(example.prompt))
    sides = ("chosen", "rejected") if isinstance(example, Pair) else ("answer",)
    yield from ((side, vars(example)[side]) for side in sides)


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strings(inner, f"{place}[{index}]")


def _with_calls(example: Example, made: dict[str, str]) -> Example:
    """The example with the texts inside the arguments of calls replaced too."""
    if isinstance(example, Text) or not any(message.tool_calls for _, message in _messages(example)):
        return example
    if isinstance(example, Chat):
        return example.model_copy(update={"messages": tuple(_over(message, made) for message in example.messages)})
    sides = ("chosen", "rejected") if isinstance(example, Pair) else ("answer",)
    update: dict[str, Any] = {side: _over(vars(example)[side], made) for side in sides}
    update["prompt"] = tuple(_over(message, made) for message in example.prompt)
    return example.model_copy(update=update)


def _over(message: Message, made: dict[str, str]) -> Message:
    calls = [call.model_copy(update={"arguments": _replaced(call.arguments, made)}) for call in message.tool_calls]
    return message.model_copy(update={"tool_calls": tuple(calls)}) if calls else message


def _replaced(value: Any, made: dict[str, str]) -> Any:
    if isinstance(value, str):
        return made.get(value, value)
    if isinstance(value, dict):
        return {key: _replaced(inner, made) for key, inner in value.items()}
    return [_replaced(inner, made) for inner in value] if isinstance(value, list) else value
