"""A data set in the terminal: its numbers, histograms of its lengths, and rows to read, token by token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sartor.data.inspect import words_of
from sartor.report.words import count, visible

if TYPE_CHECKING:
    from sartor.data.inspect import Facts, Shown, Spread, Token

_WIDTH = 40  # characters of the longest bar
_BLOCKS = " ▏▎▍▌▋▊▉█"
#: Neighbouring tokens have different grounds, so that one sees where one ends; trained ones are green and underlined.
_GROUNDS = ("on grey11", "on grey23")
_TRAINED = "bold green underline"
_MOST_LABELS = 20


def show_inspection(facts: Facts) -> RenderableType:
    """Everything, in the order in which one asks."""
    return Group(*_parts(facts))


def _parts(facts: Facts) -> Iterator[RenderableType]:
    yield Text(f"{visible(facts.label)}: {count(facts.rows)} rows ({_counts(facts.kinds)})", style="bold")
    if facts.roles:
        yield Text(f"turns: {_counts(facts.roles)}")
    if facts.languages:
        yield Text(f"languages of {count(facts.judged)} rows: {_counts(facts.languages)}")
    if facts.labels:
        yield _labels(facts.labels)
    for spread in facts.spreads:
        yield _histogram(spread)
    if facts.ledger:
        yield _ledger(facts)
    if facts.asked.search or facts.asked.reason:
        yield Text(f"\n{_found(facts)}", style="bold")
    for shown in facts.shown:
        yield Text()
        yield from _row(shown, words_of(facts.asked.search))
    if any(shown.tokens for shown in facts.shown):
        yield Text("\ntokens stand on different grounds; trained ones are green and underlined", style="dim")


def _found(facts: Facts) -> str:
    what = f"rows that hold {facts.asked.search}" if facts.asked.search else f"entries for {facts.asked.reason}"
    return visible(f"{what}: {count(facts.matches)}; {len(facts.shown)} rows shown")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count(number)} {visible(name)}" for name, number in counts.items())


def _labels(labels: dict[str, int]) -> Table:
    table = Table(
        "answer", Column("rows", justify="right"), Column("share", justify="right"), "", box=None, pad_edge=False
    )
    total, most = sum(labels.values()), max(labels.values())
    for name, number in list(labels.items())[:_MOST_LABELS]:
        table.add_row(Text(visible(name)), count(number), f"{number / total:.1%}", _bar(number / most))
    if len(labels) > _MOST_LABELS:
        table.add_row(f"… {len(labels) - _MOST_LABELS} more", "", "", "")
    return table


def _histogram(spread: Spread) -> RenderableType:
    head = Text(f"\n{spread.name}", style="bold")
    head.append(
        f"  {count(spread.total)} in all, mean {count(round(spread.mean, 1))}, median {count(spread.median)}, "
        f"99 % within {count(spread.most)}, from {count(spread.lowest)} to {count(spread.highest)}",
        style="not bold dim",
    )
    table = Table(Column(justify="right"), Column(justify="right"), "", box=None, pad_edge=False, show_header=False)
    most = max(bar.count for bar in spread.bars)
    for bar in spread.bars:
        if bar.high == bar.low + 1:
            place = count(bar.low)
        else:
            place = f"{count(bar.low)} to {count(bar.high - 1)}" if bar.high else f"{count(bar.low)} and more"
        table.add_row(place, count(bar.count), _bar(bar.count / most))
    return Group(head, table)


def _bar(share: float) -> Text:
    eighths = round(share * _WIDTH * 8)
    if share and not eighths:
        eighths = 1  # what is there is seen
    return Text("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip(), style="cyan")


def _ledger(facts: Facts) -> RenderableType:
    table = Table("ledger", Column("rows", justify="right"), box=None, pad_edge=False)
    for told in facts.ledger:
        table.add_row(Text(visible(f"{told.action}: {told.reason}")), count(told.count))
    return Group(Text(), table)


def _row(shown: Shown, words: tuple[str, ...]) -> Iterator[Text]:
    yield Text(visible(f"{shown.row} {shown.kind}".rstrip()), style="dim")
    for entry in shown.entries:
        yield Text(visible(f"  {entry.action}: {entry.reason} {entry.field} {entry.detail}"), style="yellow")
    if shown.note:
        yield Text(visible(f"  {shown.note}"), style="dim")
    for sequence in shown.tokens:
        yield _tokens(sequence)
    if shown.tokens:
        return
    for part in shown.parts:
        line = Text(visible(f"{part.role}: "), style="bold green" if part.answer else "bold")
        body = Text(visible(part.text), style="not bold default")
        for word in words:
            body.highlight_regex(re.compile(re.escape(word), re.IGNORECASE), style="reverse")
        yield line.append_text(body)


def _tokens(sequence: tuple[Token, ...]) -> Text:
    text = Text()
    for index, token in enumerate(sequence):
        ground = _GROUNDS[index % 2]
        text.append(visible(token.text).replace("\n", "↵\n"), style=f"{_TRAINED} {ground}" if token.trained else ground)
    return text
