"""What a model answers wrongly on train and dev becomes seeds; what is held out never does."""

from __future__ import annotations

import pytest

from sartor.ask import Answer, Question
from sartor.augment.failures import measured, mined
from sartor.errors import DataError
from sartor.metrics.load import load
from sartor.types import Source, Text

from .makers import FakeAsker, seeds


def items(wrong: set[int]) -> list:
    examples = seeds(6)

    def script(question: Question) -> Answer:
        place = [seed.id for seed in examples].index(question.key)
        return Answer(question.key, "Nowhere." if place in wrong else examples[place].target, output_tokens=3)

    exact = load("exact")
    return list(measured(examples, FakeAsker(script), exact, exact.config_type(), max_tokens=20))


def test_wrong_answers_become_seeds() -> None:
    found = mined(items({1, 4}), seeds(6))
    assert [seed.source.line for seed in found.seeds] == [2, 5]
    assert found.entries == ()


def test_what_is_not_of_train_or_dev_is_passed_over() -> None:
    found = mined(items({1, 4}), seeds(3))
    assert [seed.source.line for seed in found.seeds] == [2]


def test_the_test_split_is_never_learned_from() -> None:
    with pytest.raises(DataError, match="held out"):
        mined(items({1}), seeds(6), held_out=[seeds(2)[1].id])


def test_a_baseline_of_the_test_split_has_nothing_to_mine() -> None:
    with pytest.raises(DataError, match="train or dev") as found:
        mined(items({1}), [seeds(7)[6]])
    assert "measured" in found.value.hint
    with pytest.raises(DataError, match="few_shot"):
        mined(items({1}), seeds(6), arm="few_shot")


def test_what_cannot_be_a_seed_is_told() -> None:
    text = Text(source=Source(file="seeds.jsonl", line=2), text="words")
    found = mined(items({1}), [text])
    assert found.seeds == ()
    assert [(entry.line, entry.reason) for entry in found.entries] == [(2, "unsuitable_seed")]


def test_a_failed_answer_scores_nothing_and_says_why() -> None:
    exact = load("exact")
    asker = FakeAsker(lambda question: Answer(question.key, failure="timeout: none"))
    found = list(measured(seeds(2), asker, exact, exact.config_type(), max_tokens=20))
    assert [(item.score, item.detail) for item in found] == [(0.0, "timeout: none")] * 2
    assert asker.wishes[0].temperature == 0


def test_a_metric_that_reads_no_answers_mines_nothing() -> None:
    perplexity = load("perplexity")
    with pytest.raises(DataError, match="reads no answers"):
        next(measured(seeds(1), FakeAsker(), perplexity, perplexity.config_type(), max_tokens=5))
