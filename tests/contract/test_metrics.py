"""The contract of a metric, over every file of the folder: adding a metric adds its row here."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor import names, stats
from sartor.metrics.load import load
from sartor.types import Chat, Frozen, Message, Score, Source

NAMES = tuple(name for name in names.known("metrics") if load(name).reads == "answer")
TEXTS = st.one_of(st.text(), st.text(alphabet="ab A.-\n紧ก", max_size=12))


def chat(target: str) -> Chat:
    messages = (Message(role="user", content="?"), Message(role="assistant", content=target))
    return Chat(source=Source(file="tickets.jsonl", line=7), messages=messages)


@pytest.fixture(params=NAMES, scope="module")
def metric(request: pytest.FixtureRequest) -> ModuleType:
    return names.resolve("metrics", request.param)


def test_the_metrics_of_the_issue_are_known() -> None:
    assert {"exact", "contains", "choice", "f1"} <= set(NAMES)


def test_members(metric: ModuleType) -> None:
    assert {"Config", "SUMMARY", "score", "reduce"} <= set(vars(metric))
    assert metric.SUMMARY.strip() == metric.SUMMARY != ""
    assert "\n" not in metric.SUMMARY
    assert len(metric.SUMMARY) <= 100


def test_config_is_frozen_refuses_unknown_keys_and_survives_json(metric: ModuleType) -> None:
    assert issubclass(metric.Config, Frozen)
    config = metric.Config()
    assert metric.Config.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        metric.Config.model_validate({"no_such_option": 1})
    for name in metric.Config.model_fields:
        with pytest.raises(ValidationError):
            setattr(config, name, 1)


def test_every_option_is_described(metric: ModuleType) -> None:
    for name, field in metric.Config.model_fields.items():
        assert field.description, f"{metric.__name__}: option {name} has no description"


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(target=TEXTS, output=TEXTS)
def test_score_is_bounded_explained_and_repeatable(name: str, target: str, output: str) -> None:
    metric = load(name)
    score = metric.score(metric.config_type(), chat(target), output)
    assert isinstance(score, Score)
    assert 0 <= score.value <= 1
    assert (score.detail == "") == (score.value == 1)
    assert metric.score(metric.config_type(), chat(target), output) == score


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(target=TEXTS)
def test_the_target_itself_scores_one(name: str, target: str) -> None:
    metric = load(name)
    assert metric.score(metric.config_type(), chat(target), target) == Score(value=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_answer_scores_zero_and_says_why(name: str) -> None:
    metric = load(name)
    for output in ("", "something else entirely"):
        score = metric.score(metric.config_type(), chat("blue"), output)
        assert score.value == 0
        assert score.detail


@pytest.mark.parametrize("values", [[0.0] * 20, [1.0] * 3, [0.0, 1.0, 1.0, 1.0], [0.2, 0.4, 0.4, 0.9, 1.0]])
def test_reduce_carries_an_interval_and_is_order_free(metric: ModuleType, values: list[float]) -> None:
    scores = [Score(value=value) for value in values]
    summary = metric.reduce(scores)
    assert isinstance(summary, stats.Interval)
    assert summary.mean == pytest.approx(sum(values) / len(values))
    assert 0 <= summary.low <= summary.mean <= summary.high <= 1
    assert summary.low < summary.high
    shuffled = random.Random(1).sample(scores, len(scores))
    assert metric.reduce(shuffled) == summary
    assert metric.reduce(scores) == summary


def test_reduce_refuses_no_scores(metric: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\[\]"):
        metric.reduce([])
