"""An example beside all others: duplicates, and distance from the seeds."""

from __future__ import annotations

from sartor.augment import recipe
from sartor.augment.known import Known, alike
from sartor.types import Chat

from .makers import chat, seeds


def compared(example: Chat, others: list[Chat], name: str = "self_instruct") -> list[str]:
    known = Known(recipe(name), seeds(12), 0.7)
    known.add(others)
    return [problem.reason for problem in known.problems(example, seeds(12)[0])]


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
