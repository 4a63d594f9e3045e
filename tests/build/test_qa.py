"""Questions about a chunk: what passes is grounded in it, and can be asked without it."""

from __future__ import annotations

import json

import pytest

from sartor.ask.reading import Unreadable
from sartor.build import Problem, qa
from sartor.build.chunks import Config as Cutting
from sartor.build.chunks import chunks
from sartor.types import Chat

from .papers import MANUAL, paper

(CHUNK,) = chunks(paper(MANUAL, title="Manual"), Cutting())
CONFIG = qa.Config()


def pair(
    question: str = "How much water does the kettle hold?",
    answer: str = "The kettle holds 1.7 litres of water.",
    quote: str = "The kettle holds 1.7 litres of water.",
) -> dict[str, str]:
    return {"question": question, "answer": answer, "quote": quote}


def read(*pairs: object, config: qa.Config = CONFIG) -> list[object]:
    return list(qa.read(json.dumps({"pairs": list(pairs)}), CHUNK, config))


def reasons(*pairs: object, config: qa.Config = CONFIG) -> list[str]:
    return [found.reason if isinstance(found, Problem) else "" for found in read(*pairs, config=config)]


def test_a_grounded_pair_is_an_example() -> None:
    (found,) = read(pair())
    assert isinstance(found, Chat)
    assert found.prompt[-1].content == "How much water does the kettle hold?"
    assert found.target == "The kettle holds 1.7 litres of water."
    assert found.source.origin == "manual.md"


def test_a_quote_may_differ_in_spacing_case_and_marks() -> None:
    assert reasons(pair(quote="the kettle  holds 1.7 Litres of water")) == [""]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (pair(quote="It holds five litres."), "not_grounded"),
        (pair(answer="Elephants prefer bananas on Tuesdays."), "not_grounded"),
        (pair(question="What does the text say of water?"), "needs_the_text"),
        (pair(question="According to this passage, who boils?"), "needs_the_text"),
        (pair(question=" "), "wrong_keys"),
        ({"question": "Why?"}, "wrong_keys"),
        ("Why?", "wrong_keys"),
        (None, "wrong_keys"),
    ],
)
def test_others_are_dropped_by_name(wrong: object, reason: str) -> None:
    assert reasons(pair(), wrong) == ["", reason]


def test_quotes_are_not_asked_for_where_they_are_not_wanted() -> None:
    assert reasons({"question": "How much?", "answer": "1.7 litres of water"}, config=qa.Config(quotes=False)) == [""]


def test_the_same_question_twice_and_too_many() -> None:
    assert reasons(pair(), pair()) == ["", "duplicate"]
    config = qa.Config(pairs=1)
    assert reasons(pair(), pair("What does the kettle hold?"), config=config) == ["", "too_many"]


def test_of_a_list_that_breaks_off_the_whole_pairs_are_kept() -> None:
    text = json.dumps({"pairs": [pair(), pair("What does it hold?")]})[:-90]
    found = list(qa.read(text, CHUNK, CONFIG))
    assert isinstance(found[0], Chat)
    assert [each.reason for each in found[1:] if isinstance(each, Problem)] == ["broken_off"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no", "not_json"),
        ('{"questions": []}', "wrong_keys"),
        ('{"pairs": []}', "nothing_to_ask"),
        ('{"pairs": 3}', "wrong_keys"),
    ],
)
def test_answers_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(Unreadable) as found:
        list(qa.read(text, CHUNK, CONFIG))
    assert found.value.reason == reason


def test_the_text_is_shown_as_data_under_its_title() -> None:
    messages = qa.question(CHUNK, qa.Config(about="prices"))
    assert messages[-1].content.startswith("From: Manual › Kettle\n\n# Kettle")
    assert "prices" in messages[0].content
    assert "3 objects at most" in messages[0].content


def test_an_example_may_show_its_text() -> None:
    (found,) = read(pair(), config=qa.Config(with_text=True))
    assert isinstance(found, Chat)
    assert found.prompt[-1].content.startswith("# Kettle")
