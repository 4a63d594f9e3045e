"""Looking into a data set: how much of what it holds, how long it is, what became of other rows, and rows to read.

facts = inspect(folder.examples(), folder.ledger(), label="tickets", asked=Asked(search="refund"))

Examples are gone through once, and only numbers and the chosen rows are kept: any number fits.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sartor.chat import Rendered, Speech
from sartor.data.clean.texts import answer_of, question_of, texts_of, whole_of
from sartor.data.folder import DataFolder
from sartor.data.split import LONGEST_LABEL
from sartor.errors import DataError
from sartor.types import Chat, Example, Frozen, LedgerEntry, Pair, Source, Text, Unpaired

#: Bars of a histogram, at most; the last one holds all that is longer than 99 of 100.
MOST_BARS = 12
#: Different answers that may be labels, as `split.labels` has it.
MOST_LABELS = 200
#: Rows whose language is looked at: 0.03 ms each.
MOST_JUDGED = 5000
#: Tokens of a row that are shown.
MOST_TOKENS = 2000
_UNDECODED = "\ufffd"


class Bar(Frozen):
    """Rows whose number is from `low` to below `high`; `high` 0: and all above."""

    low: int
    high: int
    count: int


class Spread(Frozen):
    """One number of every row, such as the characters of its answer."""

    name: str
    total: int
    mean: float
    lowest: int
    median: int
    most: int
    highest: int
    bars: tuple[Bar, ...]


class Token(Frozen):
    """A piece of a row as the model reads it: one token, or a few that share a character."""

    text: str
    trained: bool


class Part(Frozen):
    """One text of a row."""

    field: str
    role: str
    text: str
    answer: bool


class Shown(Frozen):
    """A row to read: its texts, its tokens where a model is named, and what the ledger says of it. `note`: why there
    are no texts or tokens."""

    row: str
    kind: str = ""
    parts: tuple[Part, ...] = ()
    tokens: tuple[tuple[Token, ...], ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    note: str = ""


class Told(Frozen):
    """How often the ledger says this."""

    action: str
    reason: str
    count: int


class Asked(Frozen):
    """What somebody wants to see: rows that hold all `search` words, or that the ledger gives this `reason` for."""

    search: str = ""
    reason: str = ""
    most: int = 5
    seed: int = 17


class Facts(Frozen):
    """What a data set holds. `labels` are empty where the answers are no choice among few; `matches` counts the rows
    that were asked for, of which `shown` are some."""

    label: str
    rows: int
    kinds: dict[str, int]
    roles: dict[str, int]
    spreads: tuple[Spread, ...]
    labels: dict[str, int]
    languages: dict[str, int]
    judged: int
    ledger: tuple[Told, ...]
    asked: Asked
    matches: int
    shown: tuple[Shown, ...]


def inspect(
    examples: Iterable[Example],
    entries: Iterable[LedgerEntry] = (),
    *,
    label: str,
    asked: Asked | None = None,
    renderer: Speech | None = None,
    language_of: Callable[[str], str] | None = None,
) -> Facts:
    """All facts of a data set.

    Args:
        label: its name, for people. renderer: of the model whose tokens are counted and shown. language_of: tells a
            text's language; none is told without.
    """
    asked = asked or Asked()
    numbers, ledger = _Numbers(renderer, language_of), _Ledger(asked)
    for entry in entries:
        ledger.add(entry)
    chosen = _Chosen(asked, {(entry.file, entry.line) for entry in ledger.chosen})
    for example in examples:
        numbers.add(example)
        chosen.add(example)
    return Facts(
        label=label,
        rows=numbers.rows,
        kinds=dict(numbers.kinds.most_common()),
        roles=dict(numbers.roles.most_common()),
        spreads=tuple(spread_of(name, values) for name, values in numbers.values.items() if values),
        labels=numbers.label_counts(),
        languages=dict(numbers.languages.most_common()),
        judged=numbers.judged,
        ledger=tuple(
            Told(action=action, reason=reason, count=count) for (action, reason), count in ledger.counts.most_common()
        ),
        asked=asked,
        matches=ledger.matches if asked.reason else chosen.matches,
        shown=tuple(_shown(chosen, ledger, renderer)),
    )


def examples_of(folder: DataFolder) -> Iterator[Example]:
    """The examples of a data folder; its documents, where it holds those, as running texts."""
    if not folder.holds_documents:
        yield from folder.examples()
        return
    for document in folder.documents():
        yield Text(source=Source(file=document.place, line=1), text=document.text)


@dataclass(slots=True)
class _Numbers:
    """What is counted over all examples."""

    renderer: Speech | None
    language_of: Callable[[str], str] | None
    rows: int = 0
    judged: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    values: dict[str, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    labels: Counter[str] = field(default_factory=Counter)
    no_labels: bool = False
    languages: Counter[str] = field(default_factory=Counter)

    def add(self, example: Example) -> None:
        self.rows += 1
        self.kinds[example.kind] += 1
        answer = answer_of(example)
        if not isinstance(example, Text):
            messages = example.messages if isinstance(example, Chat) else example.prompt
            self.roles.update(message.role for message in messages)
            self.values["turns"].append(len(messages) + (not isinstance(example, Chat)))
            self.values["characters of the question"].append(len(question_of(example)))
        self.values["characters of the answer" if example.kind != "text" else "characters"].append(len(answer))
        self._count_label(example, answer)
        if self.language_of is not None and self.judged < MOST_JUDGED:
            self.judged += 1
            self.languages[self.language_of(answer) or self.language_of(whole_of(example)) or "not told"] += 1
        if self.renderer is not None:
            rendered = _rendered(example, self.renderer)
            self.values["tokens"].append(sum(len(each.ids) for each in rendered))
            self.values["trained tokens"].append(sum(weight != 0 for each in rendered for weight in each.weights))

    def label_counts(self) -> dict[str, int]:
        """The answers as labels, if they are: few, short ones."""
        few = 2 <= len(self.labels) <= min(MOST_LABELS, max(2, self.rows // 5))
        return dict(self.labels.most_common()) if few and not self.no_labels else {}

    def _count_label(self, example: Example, answer: str) -> None:
        if self.no_labels:
            return
        target = answer.strip()
        self.no_labels = example.kind != "chat" or len(target) > LONGEST_LABEL or "\n" in target
        self.labels[target] += 1
        if self.no_labels or len(self.labels) > MOST_LABELS:
            self.no_labels = True
            self.labels.clear()


@dataclass(slots=True)
class _Ledger:
    """Counts of the ledger, and a seeded sample of the entries with the reason that was asked for."""

    asked: Asked
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    matches: int = 0
    heap: list[tuple[int, int, LedgerEntry]] = field(default_factory=list)

    def add(self, entry: LedgerEntry) -> None:
        self.counts[entry.action, entry.reason] += 1
        if not self.asked.reason or entry.reason != self.asked.reason:
            return
        self.matches += 1
        item = (-_rank(f"{entry.file}:{entry.line}:{entry.field}", self.asked.seed), self.matches, entry)
        if len(self.heap) < self.asked.most:
            heapq.heappush(self.heap, item)
        else:
            heapq.heappushpop(self.heap, item)

    @property
    def chosen(self) -> list[LedgerEntry]:
        """The sample, in the order of the ledger."""
        return [entry for _, _, entry in sorted(self.heap, key=lambda item: item[1])]


@dataclass(slots=True)
class _Chosen:
    """The examples to show: those with all words, or those at the places of the ledger's sample, or else the first."""

    asked: Asked
    places: set[tuple[str, int]]
    matches: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, example: Example) -> None:
        if self.asked.reason:
            if (example.source.file, example.source.line) in self.places:
                self.examples.append(example)
            return
        if holds(example, self.asked.search):
            self.matches += 1
            if len(self.examples) < self.asked.most:
                self.examples.append(example)


def holds(example: Example, search: str) -> bool:
    """Whether an example holds all words of a search, in any order and case; a phrase in quotes counts as one word."""
    if not search.strip():
        return True
    whole = whole_of(example).casefold()
    return all(word in whole for word in words_of(search))


def words_of(search: str) -> tuple[str, ...]:
    """`refund "order number"` → refund, order number."""
    parts = search.casefold().split('"')
    found = [word for index, part in enumerate(parts) for word in ([part.strip()] if index % 2 else part.split())]
    return tuple(word for word in found if word)


def spread_of(name: str, values: Sequence[int]) -> Spread:
    """How numbers are spread; there is at least one."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Spread(
        name=name,
        total=sum(ordered),
        mean=sum(ordered) / len(ordered),
        lowest=ordered[0],
        median=ordered[last // 2],
        most=ordered[round(0.99 * last)],
        highest=ordered[-1],
        bars=tuple(_bars(ordered)),
    )


def _bars(ordered: Sequence[int]) -> Iterator[Bar]:
    """Bars of a round width, from the first one that holds anything up to where 99 % end; one more for the rest."""
    low, top = ordered[0], ordered[round(0.99 * (len(ordered) - 1))]
    width = _round_width(max(1, -(-(top - low + 1) // (MOST_BARS - 2))))
    start = low // width * width
    counts = Counter((value - start) // width for value in ordered if value <= top)
    above = sum(value > top for value in ordered)
    for index in range(max(counts) + 1):
        edge = start + index * width
        yield Bar(low=edge, high=min(edge + width, top + 1) if above else edge + width, count=counts[index])
    if above:
        yield Bar(low=top + 1, high=0, count=above)


def _round_width(least: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50 … that is enough."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale >= least:
                return step * scale
        scale *= 10


def _rank(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _shown(chosen: _Chosen, ledger: _Ledger, renderer: Speech | None) -> Iterator[Shown]:
    """The rows to read; of an entry whose row is gone, the entry alone."""
    if not ledger.asked.reason:
        yield from (_row(example, (), renderer) for example in chosen.examples)
        return
    kept = {(example.source.file, example.source.line): example for example in chosen.examples}
    places: dict[tuple[str, int], list[LedgerEntry]] = {}
    for entry in ledger.chosen:
        places.setdefault((entry.file, entry.line), []).append(entry)
    for (file, line), entries in places.items():
        if example := kept.get((file, line)):
            yield _row(example, tuple(entries), renderer)
        else:
            note = "the row is not in this data set: look it up in the file"
            yield Shown(row=f"{file}:{line}", entries=tuple(entries), note=note)


def _row(example: Example, entries: tuple[LedgerEntry, ...], renderer: Speech | None) -> Shown:
    tokens: tuple[tuple[Token, ...], ...] = ()
    note = ""
    if renderer is not None:
        try:
            tokens = tuple(tokens_of(each, renderer) for each in _rendered(example, renderer, strict=True))
        except DataError as error:
            note = f"the model cannot be given this row: {error.message}"
    parts = tuple(
        Part(field=found.field, role=_role(example, found.field), text=found.text, answer=found.answer)
        for found in texts_of(example)
    )
    return Shown(row=example.id, kind=example.kind, parts=parts, tokens=tokens, entries=entries, note=note)


def _role(example: Example, field: str) -> str:
    """Who says the text of a field such as `messages[2].content`."""
    place, _, part = field.rpartition(".")
    name, _, index = place.rstrip("]").partition("[")
    if index and not isinstance(example, Text):
        messages = example.messages if isinstance(example, Chat) else example.prompt
        name = messages[int(index)].role
    return f"{name}, {part}" if part == "reasoning" else name or field


def _rendered(example: Example, renderer: Speech, *, strict: bool = False) -> tuple[Rendered, ...]:
    """The sequences of an example, of a pair those of both answers. What cannot be rendered has none, unless strict."""
    try:
        return tuple(rendered for talk in _talks(example) for rendered in renderer.render(talk))
    except DataError:
        if strict:
            raise
        return ()


def _talks(example: Example) -> Iterator[Chat | Text]:
    """An example as conversations that end on an answer."""
    if isinstance(example, Pair | Unpaired):
        answers = (example.chosen, example.rejected) if isinstance(example, Pair) else (example.answer,)
        for answer in answers:
            yield Chat(source=example.source, messages=(*example.prompt, answer), tools=example.tools)
    else:
        yield example


def tokens_of(rendered: Rendered, renderer: Speech) -> tuple[Token, ...]:
    """The tokens of a sequence as texts. Tokens that only together make a character are one piece."""
    pieces: list[Token] = []
    held: list[int] = []
    for id, weight in list(zip(rendered.ids, rendered.weights, strict=True))[:MOST_TOKENS]:
        held.append(id)
        text = renderer.text(held)
        if _UNDECODED in text and len(held) < 4:  # a character of UTF-8 has four bytes at most
            continue
        pieces.append(Token(text=text, trained=weight != 0))
        held = []
    if held:
        pieces.append(
            Token(text=renderer.text(held), trained=rendered.weights[min(len(rendered.ids), MOST_TOKENS) - 1] != 0)
        )
    return tuple(pieces)
