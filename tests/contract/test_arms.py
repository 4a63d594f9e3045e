"""The contract of an arm, over every file of the folder: adding an arm adds its row here."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from pydantic import ValidationError

from sartor import names
from sartor.types import Chat, Frozen, Message, Source

#: Arms that put something to a model; the others answer by themselves.
NAMES = [name for name in names.known("arms") if "messages" in vars(names.resolve("arms", name))]
OWN = sorted(set(names.known("arms")) - set(NAMES))
ROOM = 400


def chat(row: int, *, system: str = "", earlier: bool = False) -> Chat:
    turns = [Message(role="system", content=system)] if system else []
    if earlier:
        turns += [Message(role="user", content="before"), Message(role="assistant", content="yes")]
    turns += [
        Message(role="user", content=f"question {row} " + "x" * (row % 9)),
        Message(role="assistant", content=f"{row}"),
    ]
    return Chat(source=Source(file="rows.jsonl", line=row), messages=tuple(turns))


TRAIN = [chat(row, system="a system turn of training") for row in range(1, 41)]
ITEMS = [chat(100), chat(101, system="be brief"), chat(102, earlier=True), chat(103, system="be brief", earlier=True)]


def measure(example: Chat) -> int:
    """A length in tokens, near enough: the words' characters."""
    return sum(len(turn.content) for turn in example.messages)


@pytest.fixture(params=NAMES, scope="module")
def arm(request: pytest.FixtureRequest) -> ModuleType:
    return names.resolve("arms", request.param)


def test_the_arms_of_the_issue_are_known() -> None:
    assert {"zero_shot", "few_shot", "tuned"} <= set(NAMES)


def test_members(arm: ModuleType) -> None:
    assert {"Config", "SUMMARY", "TUNED", "FORMS", "candidates", "messages", "described"} <= set(vars(arm))
    assert arm.FORMS
    assert "\n" not in arm.SUMMARY
    assert 0 < len(arm.SUMMARY) <= 100
    assert isinstance(arm.TUNED, bool)
    assert issubclass(arm.Config, Frozen)


def test_candidates_are_deterministic_and_round_trip(arm: ModuleType) -> None:
    configs = arm.candidates(TRAIN, ROOM, measure, 17)
    assert configs
    assert configs == arm.candidates(list(TRAIN), ROOM, measure, 17)
    for config in configs:
        assert arm.Config.model_validate_json(config.model_dump_json()) == config
        with pytest.raises(ValidationError):
            arm.Config.model_validate({**config.model_dump(), "no_such_setting": 1})


@pytest.mark.parametrize("room", [0, 60, 200, 400, 10_000])
def test_candidates_fit_the_room(arm: ModuleType, room: int) -> None:
    item = ITEMS[0]
    for config in arm.candidates(TRAIN, room, measure, 17):
        added = sum(len(turn.content) for turn in arm.messages(config, item)) - sum(
            len(turn.content) for turn in item.prompt
        )
        assert added <= room


def test_the_conversation_ends_on_the_items_own_question(arm: ModuleType) -> None:
    for config in arm.candidates(TRAIN, ROOM, measure, 17):
        for item in ITEMS:
            turns = arm.messages(config, item)
            own = [turn for turn in item.prompt if turn.role != "system"]
            assert list(turns[-len(own) :]) == own
            assert turns[-1].role == "user"
            assert item.messages[-1] not in turns, "the answer is never shown"


def test_the_items_system_turn_stays_first_and_is_the_only_one(arm: ModuleType) -> None:
    for config in arm.candidates(TRAIN, ROOM, measure, 17):
        for item in ITEMS:
            turns = arm.messages(config, item)
            system = [turn for turn in turns if turn.role == "system"]
            assert system == [turn for turn in item.prompt if turn.role == "system"]
            assert list(turns[: len(system)]) == system


def test_users_and_assistants_take_turns(arm: ModuleType) -> None:
    for config in arm.candidates(TRAIN, ROOM, measure, 17):
        for item in ITEMS:
            roles = [turn.role for turn in arm.messages(config, item) if turn.role != "system"]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_few_shot_draws_from_training_by_its_seed() -> None:
    few_shot = names.resolve("arms", "few_shot")
    configs = few_shot.candidates(TRAIN, 10_000, measure, 17)
    assert [len(config.shots) for config in configs] == [3, 8]
    assert all(shot in TRAIN for config in configs for shot in config.shots)
    assert configs != few_shot.candidates(TRAIN, 10_000, measure, 18)
    assert few_shot.candidates(TRAIN[:2], 10_000, measure, 17) == []
    with_tools = [example.model_copy(update={"tools": ({"name": "f"},)}) for example in TRAIN]
    assert few_shot.candidates(with_tools, 10_000, measure, 17) == []


def test_only_the_tuned_arm_has_the_adapter_on() -> None:
    assert {name for name in NAMES if names.resolve("arms", name).TUNED} == {
        name for name in NAMES if name.startswith("tuned")
    }
    tuned, zero_shot = names.resolve("arms", "tuned"), names.resolve("arms", "zero_shot")
    for item in ITEMS:
        assert tuned.messages(tuned.Config(), item) == zero_shot.messages(zero_shot.Config(), item) == item.prompt


def letters(conversations: Sequence[Sequence[Message]]) -> np.ndarray:
    """Embeddings that only see the first letter of what was said last."""
    firsts = [ord(turns[-1].content[0]) for turns in conversations]
    return np.array([[np.cos(first), np.sin(first)] for first in firsts])


def labelled(rows: str) -> list[Chat]:
    """Rows such as "apple:fruit"."""
    pairs = [row.split(":") for row in rows.split()]
    turns = [(Message(role="user", content=said), Message(role="assistant", content=label)) for said, label in pairs]
    return [Chat(source=Source(file="x", line=line), messages=messages) for line, messages in enumerate(turns, start=1)]


@pytest.mark.parametrize("name", OWN)
def test_arms_that_answer_by_themselves(name: str) -> None:
    arm = names.resolve("arms", name)
    assert {"Config", "SUMMARY", "TUNED", "FORMS", "candidates", "answers", "described"} <= set(vars(arm))
    train, items = labelled("apple:fruit avocado:fruit apricot:fruit zinc:metal"), labelled("almond:nut zebra:animal")
    configs = arm.candidates(train, ROOM, measure, 17)
    assert configs == arm.candidates(list(train), ROOM, measure, 17)
    for config in configs:
        assert arm.Config.model_validate_json(config.model_dump_json()) == config
        answers = arm.answers(config, items, letters)
        assert answers == (["fruit", "fruit"] if name == "majority" else ["fruit", "metal"])
        assert arm.described(config)


def test_the_arms_of_an_encoder_are_known() -> None:
    assert set(OWN) == {"majority", "nearest"}
