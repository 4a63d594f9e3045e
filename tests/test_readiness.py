"""Readiness: each question is answered from the data, and bad data gets a bad grade with a way out."""

from __future__ import annotations

import pytest

from sartor.data.ledger import Ledger
from sartor.data.pack import segment
from sartor.data.prepare import Prepared, Tokenised
from sartor.readiness import Finding, readiness

from .plans import chat


def prepared(*rows: tuple[str, str], length: int = 10) -> Prepared:
    def item(line: int, question: str, answer: str) -> Tokenised:
        example = chat(question, answer, line=line)
        return Tokenised(example, (segment(example.id, range(length), [1.0] * length),), exact=True, stop_trained=True)

    train = tuple(item(line, *row) for line, row in enumerate(rows, start=1))
    return Prepared(train, (), (), Ledger(len(train), len(train)), "chat", (), ())


def found(*rows: tuple[str, str], length: int = 10, context: int = 100) -> dict[str, Finding]:
    return {finding.code: finding for finding in readiness(prepared(*rows, length=length), context=context)}


def labelled(count: int, *names: str) -> list[tuple[str, str]]:
    return [(f"{name} thing number {number}", name) for name in names for number in range(count)]


def test_good_data_gets_good_grades() -> None:
    grades = {code: finding.grade for code, finding in found(*labelled(60, "red", "blue")).items()}
    assert grades == dict.fromkeys(("enough_examples", "label_balance", "room", "variety", "more_data"), "good")


def test_questions_that_are_asked_twice_are_half_as_many() -> None:
    answer = found(*[(f"question {n}", f"answer {n}") for n in range(5)] * 2)["variety"].answer
    assert answer.startswith("50% of the questions are different; ")


def test_no_data_has_no_findings() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("code", "rows", "grade"),
    [
        ("enough_examples", labelled(9, "red", "blue"), "poor"),
        ("enough_examples", labelled(20, "red", "blue"), "fair"),
        ("enough_examples", [(f"q{n}", f"a long answer {n}") for n in range(60)], "fair"),
        ("label_balance", labelled(60, "red") + labelled(5, "blue"), "poor"),
        ("variety", labelled(10, "red", "blue") * 6, "poor"),
        ("agreement", [*labelled(30, "red", "blue"), *[(q, "red") for q, _ in labelled(9, "blue")]], "poor"),
        ("facts", [(f"Who is {n}?", f"Born {1900 + n} in Bonn") for n in range(60)], "fair"),
        ("more_data", [(f"q{n}", f"a long answer {n}") for n in range(60)], "unknown"),
    ],
)
def test_a_weakness_is_graded_and_has_a_way_out(code: str, rows: list[tuple[str, str]], grade: str) -> None:
    finding = found(*rows)[code]
    assert finding.grade == grade
    assert finding.answer
    assert finding.advice


def test_long_examples_are_held_against_the_context() -> None:
    assert found(*labelled(60, "red", "blue"), length=95)["room"].grade == "poor"
    assert found(*labelled(60, "red", "blue"), length=60)["room"].grade == "fair"
