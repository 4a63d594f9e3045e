"""The contract of an arm, over every file of the folder: adding an arm adds its row here."""

from __future__ import annotations

from types import ModuleType

import pytest
from pydantic import ValidationError

from sartor import names
from sartor.types import Chat, Frozen, Message, Source

NAMES = names.known("arms")
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
    assert {"Config", "SUMMARY", "TUNED", "candidates", "messages"} <= set(vars(arm))
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
