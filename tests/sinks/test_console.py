"""The console: takes every event at any time, and shows what others wrote as it is."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import pytest
from rich.console import Console

from sartor.events import Answered, Entered, Saved, Started, Warned
from sartor.sinks.console import ConsoleSink

from ..events import every_event, stepped  # noqa: TID252 - the tests are no package that could be imported by name

HOSTILE = [
    "[red]",
    "[/]",
    "[/red] x",
    "[bold",
    ":smile:",
    "back\\[slash]",
    "a\x1b[2Jb",
    "\x07",
    "line\nbreak",
    "[link=x]",
]


def said(events: list[Any], *, terminal: bool = False) -> str:
    """What is written for these events, without the colours."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, color_system="standard" if terminal else None)
    with ConsoleSink(console) as sink:
        for event in events:
            sink(event)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


@pytest.mark.parametrize("terminal", [False, True])
def test_every_kind_of_event_is_accepted(terminal: bool) -> None:
    text = said(every_event(), terminal=terminal)
    for words in (
        "[1/6] words, about 1.5 min",
        "words: words, skipped",
        "training starts, 4 steps in all",
        "warning words (words)",
        "step 1: dev loss 1.5000",
        "stopped after step 1",
        "training is done: 4 steps",
    ):
        assert words in text


@pytest.mark.parametrize("terminal", [False, True])
def test_any_event_may_come_first(terminal: bool) -> None:
    for event in every_event():
        said([event], terminal=terminal)
        said([event, event], terminal=terminal)


@pytest.mark.parametrize("terminal", [False, True])
def test_any_event_may_follow_any(terminal: bool) -> None:
    for pair in itertools.permutations(every_event(), 2):
        said(list(pair), terminal=terminal)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_neither_lost_nor_obeyed(text: str, terminal: bool) -> None:
    entered = Entered(stage=text, number=1, of=6, seconds=0.0)
    found = said([entered, Warned(code="c", message=f"row {text}!", hint=f"hint {text}!")], terminal=terminal)
    shown = text.replace("\x1b", "␛").replace("\x07", "␇")
    assert f"warning row {shown}! (hint {shown}!)" in found
    assert f"[1/6] {shown}" in found.partition("warning")[0]
    assert "\x1b" not in found
    said(every_event(text), terminal=terminal)


def test_a_failure_is_said() -> None:
    assert "words words (words)" in said(every_event()[-1:])


def test_a_step_without_a_measurable_time_is_no_division_by_zero() -> None:
    assert "loss 1.250" in said([Started(run="r", plan="d", step=0, steps=1), stepped(1, seconds=0.0)])


def test_going_on_says_from_where() -> None:
    text = said([Started(run="r", plan="d", step=7, steps=10)])
    assert "training goes on after step 7, 10 steps in all" in text


def test_without_a_terminal_lines_are_few_but_the_last_is_there() -> None:
    events = [Answered(arm="zero_shot", done=done, total=50) for done in range(1, 51)]
    lines = said(events).splitlines()
    assert len(lines) < 10
    assert lines[-1].strip() == "zero_shot: 50/50 answers"


def test_the_bars_of_training_and_of_each_arm_are_apart() -> None:
    events = [
        Answered(arm="zero_shot", done=10, total=10),
        Answered(arm="few_shot", done=6, total=6),
        Answered(arm="few_shot", done=20, total=20),
        Started(run="r", plan="d", step=0, steps=2),
        stepped(1),
        stepped(2),
        Saved(step=2, path="step-000002"),
    ]
    text = said(events)
    for words in ("zero_shot: 10/10", "few_shot: 6/6", "few_shot: 20/20", "train: 2/2"):
        assert words in text


def test_an_arm_that_starts_again_gets_a_new_bar() -> None:
    """The candidates of an arm are tried on dev, then the chosen one answers the test items."""
    events = [Answered(arm="few_shot", done=done, total=6) for done in (3, 6, 3, 6)]
    assert said(events).count("few_shot: 6/6") == 2
