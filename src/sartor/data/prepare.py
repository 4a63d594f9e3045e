"""Prepare: the recipe's files to examples with their tokens, cleaned, split, and a ledger that accounts for every row.

Cleaners that repair or drop what is bad in itself see every file before the split; those that choose among good rows
see the training split alone, and know what is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sartor import durable
from sartor.chat import Speech
from sartor.data.clean import Context
from sartor.data.cleaning import Chosen, chosen, cleaned
from sartor.data.families import alike
from sartor.data.ledger import Ledger, listed, refuse_if_many
from sartor.data.pack import Segment, segment
from sartor.data.read import Read, read
from sartor.data.split import Split, distinct, leaks, split
from sartor.errors import DataError, Where
from sartor.names import resolve
from sartor.recipe import Recipe
from sartor.store import Run
from sartor.types import EXAMPLE, Chat, Embed, Example, LedgerEntry, Text

PARTS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Tokenised:
    """An example with its segments: `exact` and `stop_trained` as the renderer found them, over all its segments."""

    example: Chat | Text
    segments: tuple[Segment, ...]
    exact: bool
    stop_trained: bool

    @property
    def length(self) -> int:
        """Tokens of its longest sequence."""
        return max((len(item.tokens) for item in self.segments), default=0) + 1

    @property
    def num_tokens(self) -> int:
        return sum(len(item.tokens) for item in self.segments)

    @property
    def num_supervised(self) -> int:
        return sum(sum(weight != 0 for weight in item.weights) for item in self.segments)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The three parts, the ledger of all files together, and what the check wants to know of the way here."""

    train: tuple[Tokenised, ...]
    dev: tuple[Tokenised, ...]
    test: tuple[Tokenised, ...]
    ledger: Ledger
    format: str
    too_long: tuple[Tokenised, ...]
    leaks: tuple[tuple[str, str], ...]
    near_leaks: tuple[tuple[str, str], ...] = ()

    @property
    def everything(self) -> tuple[Tokenised, ...]:
        return self.train + self.dev + self.test


def prepare(recipe: Recipe, root: Path, renderer: Speech, *, context: int, embed: Embed | None = None) -> Prepared:
    """Read, clean, render, split. Examples over the longest length are dropped if the recipe says so, else reported.

    `embed` is for cleaners that compare meanings.

    Raises:
        DataError: a file cannot be read, or too many rows of it, or no row of it is left.
    """
    limit = min(recipe.data.max_length or context, context)
    steps = chosen(recipe.data.clean)
    knowing = Context(
        count_tokens=lambda example: num_tokens(example, renderer), embed=embed, root=root, seed=recipe.tune.seed
    )
    files = {role: _read(recipe, root, role) for role in PARTS}
    entries: list[LedgerEntry] = []
    kept: dict[str, list[Tokenised]] = {}
    too_long: list[Tokenised] = []
    for role, found in files.items():
        told: list[LedgerEntry] = [*found.entries] if found else []
        repaired = cleaned(
            _trainable(found, recipe), [step for step in steps if not step.selects], knowing, told.append
        )
        fitting, long, refused = _tokenise(repaired, renderer, limit)
        told += refused
        if recipe.data.too_long == "drop":
            told += [_too_long(item, limit) for item in long]
            long = []
        kept[role] = fitting + long
        too_long += long
        if found and not kept[role]:
            raise _nothing_left(role, told)
        entries += told
    parts = _split(recipe, kept)
    entries += parts.dropped
    train = _selected(parts, [step for step in steps if step.selects], knowing, entries)
    by_id = {item.example.id: item for items in kept.values() for item in items}
    prepared = {
        role: tuple(_again(by_id[example.id], example, renderer) for example in examples)
        for role, examples in (("train", train), ("dev", parts.dev), ("test", parts.test))
    }
    train_read = files["train"]
    brought = [example for role in ("dev", "test") if files[role] for example in getattr(parts, role)]
    return Prepared(
        **prepared,
        ledger=Ledger(
            rows_in=sum(found.rows for found in files.values() if found),
            kept=sum(map(len, prepared.values())),
            entries=tuple(entries),
        ),
        format=train_read.format if train_read else "",
        too_long=tuple(too_long),
        leaks=tuple(leaks(train, parts.test + parts.dev)),
        near_leaks=tuple(alike(train, brought)),
    )


def write(run: Run, prepared: Prepared) -> None:
    """The parts and the ledger into the run."""
    for role in PARTS:
        items: Sequence[Tokenised] = {"train": prepared.train, "dev": prepared.dev, "test": prepared.test}[role]
        durable.atomic_write(run.path(f"data/{role}.jsonl"), _lines(item.example for item in items))
    durable.atomic_write(run.path("data/ledger.jsonl"), _lines(prepared.ledger.entries))


def examples_of(run: Run, role: str) -> tuple[Chat | Text, ...]:
    """One part of a run's prepared examples."""
    found = (EXAMPLE.validate_python(line) for line in durable.read_lines(run.path(f"data/{role}.jsonl")))
    return tuple(example for example in found if isinstance(example, Chat | Text))


def tokenise(example: Chat | Text, renderer: Speech) -> Tokenised:
    """An example's segments, ready to be packed."""
    rendered = renderer.render(example)
    return Tokenised(
        example=example,
        segments=tuple(segment(example.id, part.ids, part.weights) for part in rendered),
        exact=all(part.exact for part in rendered),
        stop_trained=all(part.stop_trained for part in rendered),
    )


def _read(recipe: Recipe, root: Path, role: str) -> Read | None:
    name = {"train": recipe.data.train, "dev": recipe.data.dev, "test": recipe.data.test}[role]
    if name is None:
        return None
    path = Path(name)
    label = str(path.relative_to(root) if path.is_relative_to(root) else path)
    found = read(root / path, format=recipe.data.format, fields=recipe.data.fields, label=label)
    refuse_if_many(found.ledger, recipe.data.max_bad_rows)
    return found


def _trainable(found: Read | None, recipe: Recipe) -> tuple[Chat | Text, ...]:
    """The examples of a file, all of a kind that the objective learns from.

    Raises:
        DataError: one is of another kind.
    """
    objective = recipe.tune.objective.name
    eaten = resolve("objectives", objective).EXAMPLE
    examples = found.examples if found else ()
    stranger = next((example for example in examples if example.kind not in eaten), None)
    if stranger:
        raise DataError(
            f"these examples are of the kind {stranger.kind!r}, and {objective} learns from {', '.join(sorted(eaten))}",
            hint="`sartor data convert --to openai` takes the better answers alone; or choose another `tune.objective`",
            where=Where(stranger.source.file, line=stranger.source.line),
        )
    return tuple(example for example in examples if isinstance(example, Chat | Text))


def _selected(
    parts: Split[Chat | Text], steps: Sequence[Chosen], knowing: Context, entries: list[LedgerEntry]
) -> tuple[Chat | Text, ...]:
    """The training split after the cleaners that choose; nothing is chosen among what is held out.

    Raises:
        DataError: nothing is left.
    """
    told: list[LedgerEntry] = []
    left = cleaned(parts.train, steps, replace(knowing, held_out=(*parts.dev, *parts.test)), told.append)
    train = tuple(example for example in left if isinstance(example, Chat | Text))
    if parts.train and not train:
        raise _nothing_left("train", told)
    entries += told
    return train


def _again(item: Tokenised, example: Chat | Text, renderer: Speech) -> Tokenised:
    """An example with its tokens, made anew where it was changed since."""
    return item if item.example == example else tokenise(example, renderer)


def num_tokens(example: Example, renderer: Speech) -> int:
    """Tokens of an example as the base sees it; 0 for what it refuses, which is told later."""
    if not isinstance(example, Chat | Text):
        return 0
    try:
        return tokenise(example, renderer).num_tokens
    except DataError:
        return 0


def _tokenise(
    examples: Iterable[Example], renderer: Speech, limit: int
) -> tuple[list[Tokenised], list[Tokenised], list[LedgerEntry]]:
    """Examples that fit, examples that are too long, and entries for those that the template refuses."""
    fitting: list[Tokenised] = []
    long: list[Tokenised] = []
    dropped: list[LedgerEntry] = []
    for example in examples:
        assert isinstance(example, Chat | Text)  # so they were read, and no cleaner makes another kind
        try:
            item = tokenise(example, renderer)
        except DataError as error:
            source = example.source
            dropped.append(
                LedgerEntry(
                    action="dropped", file=source.file, line=source.line, reason="template", detail=error.message
                )
            )
            continue
        (long if item.length > limit else fitting).append(item)
    return fitting, long, dropped


def _split(recipe: Recipe, kept: dict[str, list[Tokenised]]) -> Split[Chat | Text]:
    """Hold out what the user did not bring; what the user brought is taken as it is, each item once."""
    with_dev, with_test = recipe.data.dev is None, recipe.data.test is None
    train = [item.example for item in kept["train"]]
    parts = split(train, seed=recipe.tune.seed, with_dev=with_dev, with_test=with_test)
    dev, dropped_dev = distinct([item.example for item in kept["dev"]])
    test, dropped_test = distinct([item.example for item in kept["test"]])
    return Split(
        train=parts.train,
        dev=parts.dev if with_dev else dev,
        test=parts.test if with_test else test,
        dropped=parts.dropped + dropped_dev + dropped_test,
    )


def _too_long(item: Tokenised, limit: int) -> LedgerEntry:
    source = item.example.source
    detail = f"{item.length} tokens, the longest allowed is {limit}"
    return LedgerEntry(action="dropped", file=source.file, line=source.line, reason="over_max_length", detail=detail)


def _nothing_left(role: str, entries: Sequence[LedgerEntry]) -> DataError:
    """Every row of a file the user brought was dropped."""
    gone = [entry for entry in entries if entry.action == "dropped"]
    return DataError(
        f"all {len(gone):,} rows of `data.{role}` were dropped\n{listed(gone)}",
        hint="correct these rows, or choose a model whose template and context take them",
        where=Where(gone[0].file),
    )


def _lines(values: Iterable[Chat | Text | LedgerEntry]) -> str:
    return "".join(value.model_dump_json(exclude_defaults=False) + "\n" for value in values)
