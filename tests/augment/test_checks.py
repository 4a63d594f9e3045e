"""What is looked at in an example by itself."""

from __future__ import annotations

import json

import pytest

from sartor.augment.checks import Config, problems, ways_of
from sartor.types import Chat

from .makers import chat, seeds

FREE = Config(language=False)


def reasons(example: Chat, from_seeds: list[Chat], config: Config = FREE) -> list[str]:
    return [problem.reason for problem in problems(example, ways_of(from_seeds, config))]


def test_what_is_like_the_seeds_passes() -> None:
    assert reasons(chat("Where do I buy a hammer in Turin?", "At the market of Turin."), seeds()) == []


def test_a_label_must_be_one_that_there_is() -> None:
    labelled = [chat(f"Is {n} large?", "yes" if n % 2 else "no", line=n) for n in range(1, 13)]
    assert reasons(chat("Is 40 large?", "yes"), labelled) == []
    assert reasons(chat("Is 40 large?", "maybe"), labelled) == ["label"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"town": "Turin", "thing": "hammer"}, []),
        ({"town": "Turin", "thing": "hammer", "shop": "x"}, []),
        ({"town": "Turin"}, ["form"]),
        ({"town": "Turin", "thing": "hammer", "accepted": True}, ["form"]),
    ],
)
def test_json_must_have_the_keys_that_there_are(answer: dict[str, object], found: list[str]) -> None:
    shaped = [
        chat(f"Take it apart, please: number {n}", json.dumps({"town": "x" * n, "thing": "y"}), line=n)
        for n in range(1, 8)
    ]
    shaped.append(chat("Take it apart: all", json.dumps({"town": "a", "thing": "b", "shop": "c"}), line=9))
    assert reasons(chat("Take it apart: a hammer in Turin", json.dumps(answer)), shaped) == found
    assert "form" in reasons(chat("Take it apart: a hammer in Turin", "Turin, a hammer it is."), shaped)


def test_lengths_are_those_of_the_seeds() -> None:
    assert reasons(chat("Where?", "At the market of Turin."), seeds()) == ["too_short"]
    assert reasons(chat("Where do I buy a hammer in Turin?", "At the market. " * 40), seeds()) == ["too_long"]


def test_another_language_is_noticed_where_there_is_enough_to_tell() -> None:
    german = chat("Wo kaufe ich in der Stadt einen guten Hammer?", "Auf dem Markt von Turin.")
    assert reasons(german, seeds(), Config()) == ["language"]
    assert reasons(chat("Where do I buy hammers in Turin?", "At the market of Turin."), seeds(), Config()) == []
