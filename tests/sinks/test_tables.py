"""Tables: all that they are given is shown, whatever stands in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sartor.catalogue import CATALOGUE
from sartor.check import Check, Counts, Problem, Sample
from sartor.plan import Plan
from sartor.sinks.tables import (
    minutes,
    show_answers,
    show_check,
    show_models,
    show_plan,
    show_proof,
    show_runs,
)
from sartor.store import Run

from ..plans import plan  # noqa: TID252 - the tests are no package that could be imported by name
from ..proofs import arm, item, proof  # noqa: TID252

HOSTILE = ["[red]", "[/]", "[/red] x", "[bold", ":smile:", "back\\", "a\x1b[2Jb", "\x07", "[link=x]y[/link]"]


def shown(renderable: Any, *, width: int = 250) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(renderable)
    return file.getvalue()


def safe(text: str) -> str:
    return text.replace("\x1b", "␛").replace("\x07", "␇")


def make_check(text: str = "words", *, ok: bool = False) -> Check:
    counts = dict.fromkeys(Counts.model_fields, 1234) | {"dropped": {"syntax": 3}, "changed": {}}
    problems = (
        Problem(code="leak", severity="error", message=f"e {text}!", hint=f"h {text}!", where=(f"w {text}!",)),
        Problem(code="few_examples", severity="warning", message="a warning", hint="more"),
    )
    return Check(
        ok=ok,
        format="chat",
        problems=() if ok else problems,
        counts=Counts.model_validate(counts),
        samples=(Sample(row=f"r {text}!", pieces=(("asked ", False), (f"trained {text}!", True))),),
    )


def make_plan(text: str = "words") -> Plan:
    return plan(reasons={"learning_rate": f"because {text}!", "proof.arms": "three", "estimate": f"from {text}!"})


def test_a_check_is_shown_whole() -> None:
    text = shown(show_check(make_check()))
    for words in ("1,234 rows of format chat", "dropped: 3 syntax", "error e words!", "→ h words!", "w words!"):
        assert words in text
    assert "warning a warning" in text
    assert "asked trained words!" in text
    assert "not ok" in text
    assert "ok: ready to train" in shown(show_check(make_check(ok=True)))


def test_trained_text_differs_from_context() -> None:
    file = io.StringIO()
    Console(file=file, width=200, force_terminal=True, color_system="standard").print(show_check(make_check()))
    assert "\x1b[1;4;32mtrained words!" in file.getvalue()
    assert "\x1b[1;4;32masked" not in file.getvalue()


def test_a_plan_is_shown_with_its_reasons() -> None:
    text = shown(show_plan(make_plan()))
    assert "learning_rate" in text
    assert "0.5" in text
    assert "because words!" in text
    assert "['zero_shot', 'tuned']" in text
    assert "estimate: 0.00 GiB, 1 s, 1 tokens (from words!)" in text


def test_a_proof_is_shown_with_every_arm() -> None:
    text = shown(show_proof(proof()))
    for words in ("zero_shot", "10.0%", "few_shot", "3 shots, chosen on dev", "tuned", "60.0% to 80.0%", "20 + 5"):
        assert words in text
    assert proof().sentence in text


def test_answers_stand_side_by_side_won_first_and_one_lost() -> None:
    items = [item(str(number), "few_shot", 0.0, output=f"before {number}") for number in range(9)]
    items += [item(str(number), "tuned", 1.0, output=f"after {number}") for number in range(9)]
    items += [item("bad", "few_shot", 1.0, output="it was right"), item("bad", "tuned", 0.0, output="now wrong")]
    items += [item("half", "few_shot", 0.25), item("half", "tuned", 0.5)]
    items += [item("alone", "tuned", 1.0, output="nothing to compare")]
    text = shown(show_answers(items, "few_shot", "tuned", most=4))
    assert text.count("✗ before") == text.count("✓ after") == 3
    assert "✓ it was right" in text
    assert "✗ now wrong" in text
    assert "nothing to compare" not in text
    assert "0.25" in shown(show_answers(items[-3:], "few_shot", "tuned"))


def test_answers_without_a_question_or_a_difference() -> None:
    texts = [item("t", "zero_shot", 0.1, input=()), item("t", "tuned", 0.2, input=())]
    assert "0.20" in shown(show_answers(texts, "zero_shot", "tuned"))
    shown(show_answers([], "zero_shot", "tuned"))


def test_long_answers_are_shortened_and_say_so() -> None:
    items = [item("a", "zero_shot", 0.0), item("a", "tuned", 1.0, output="x" * 1000)]
    text = shown(show_answers(items, "zero_shot", "tuned"))
    assert "…" in text
    assert "x" * 300 not in text.replace("\n", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_neither_lost_nor_obeyed(text: str) -> None:
    judged = shown(show_check(make_check(text)))
    for words in ("e ", "h ", "w ", "r ", "trained "):
        assert f"{words}{safe(text)}!" in judged
    planned = shown(show_plan(make_plan(text)))
    assert f"because {safe(text)}!" in planned
    found = proof(metric=f"m{text}!", sentence=f"s {text}!", arms=(arm("tuned", 0.5, chosen=f"c {text}!"),))
    proved = shown(show_proof(found))
    for words in (f"m{safe(text)}!", f"s {safe(text)}!", f"c {safe(text)}!"):
        assert words in proved
    question = ({"role": "user", "content": f"q {text}!"},)
    items = [item("a", "zero_shot", 0.0, input=question, target=f"t {text}!", output=f"o {text}!")]
    items += [item("a", "tuned", 1.0, input=question, target=f"t {text}!", output=f"p {text}!")]
    answered = shown(show_answers(items, "zero_shot", "tuned"))
    for words in ("q ", "t ", "o ", "p "):
        assert f"{words}{safe(text)}!" in answered
    assert "\x1b" not in judged + planned + proved + answered


def test_models_are_listed() -> None:
    text = shown(show_models(CATALOGUE))
    assert all(card.name in text and card.licence in text for card in CATALOGUE)


def test_runs_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "[red]tickets-1a2b3c4d"
    folder.mkdir(parents=True)
    text = shown(show_runs([Run(folder)]))
    assert "[red]tickets-1a2b3c4d" in text
    assert "none" in text


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (89.4, "89 s"), (90, "1.5 min"), (3600, "60.0 min")])
def test_durations_as_one_says_them(seconds: float, words: str) -> None:
    assert minutes(seconds) == words
