"""What is looked at before a person looks."""

from __future__ import annotations

import json

import pytest

from sartor.augment import recipe
from sartor.augment.checks import Config, Known, alike, problems, ways_of
from sartor.types import Chat

from .makers import chat, seeds

FREE = Config(language=False)


def reasons(example: Chat, from_seeds: list[Chat], config: Config = FREE) -> list[str]:
    return [problem.reason for problem in problems(example, ways_of(from_seeds, config))]


def compared(example: Chat, others: list[Chat], name: str = "self_instruct") -> list[str]:
    known = Known(recipe(name), seeds(12), 0.7)
    known.add(others)
    return [problem.reason for problem in known.problems(example, seeds(12)[0])]


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


def test_a_duplicate_is_named_with_its_twin() -> None:
    other = chat("Who sells hammers and saws in Turin?", "Nobody.", file="made", line=7)
    known = Known(recipe("self_instruct"), seeds(12), 0.7)
    known.add([other])
    again = chat("Who sells hammers and saws in Turin?", "Somebody.")
    (problem,) = known.problems(again, seeds(12)[0])
    assert (problem.reason, problem.detail) == ("duplicate", "the same as made:7")


def test_what_is_nearly_the_same_is_found() -> None:
    other = chat("Who sells hammers and saws and very long nails in Turin?", "Nobody.", file="made", line=7)
    near = chat("Who sells hammers and saws and very long nails in  TURIN!", "Nobody.")
    assert compared(near, [other]) == ["near_duplicate"]
    assert compared(near, []) == []


def test_another_number_is_another_question() -> None:
    other = chat("What do 17 of the hammers cost in Turin today?", "Nobody.", file="made", line=7)
    assert compared(chat("What do 18 of the hammers cost in Turin today?", "Nobody."), [other]) == []


def test_a_seed_in_a_new_coat_is_too_near() -> None:
    seed = seeds(1)[0]
    coat = chat(seed.prompt[-1].content.replace("?", ", please?"), "x")
    assert compared(coat, []) == ["too_near_seed"]
    assert compared(coat, [], "paraphrase") == []
    assert compared(coat, [], "hard_negatives") == []


def test_gibberish_is_too_far() -> None:
    gibberish = chat("Xqzv wklp jjhg ѫѭѯ zzyx qwpl vvbn mmkj xxcv qqrt hhgg pplk xkcd", "zzz")
    assert compared(gibberish, []) == ["too_far"]


def test_a_seed_may_be_improved_more_than_once_but_not_in_the_same_way() -> None:
    seed = seeds(12)[0]
    better = chat(seed.prompt[-1].content, "At the market of Lyon, on Saturdays.")
    assert compared(better, [], "improve") == []
    assert compared(better, [better], "improve") == ["duplicate"]


def test_texts_are_alike_or_not() -> None:
    assert alike("Where is it?", "where  IS it?") == 1
    assert alike("abc", "xyz") == 0
    assert alike("", "") == 1
