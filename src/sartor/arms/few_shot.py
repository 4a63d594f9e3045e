"""The base model with worked examples from the training split before the question; how many is chosen on dev."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from sartor.types import Chat, Form, Frozen, Message

SUMMARY = "the base model with worked examples before the question"
TUNED = False
FORMS: frozenset[Form] = frozenset({"decoder", "seq2seq"})

COUNTS = (3, 8)  # more shots cost context at every answer; dev decides between few and many
ROOM_SHARE = 0.5  # of the context: the item and its answer need the rest


class Config(Frozen):
    """The shots, in the order in which they are shown."""

    shots: tuple[Chat, ...]


def candidates(train: Sequence[Chat], room: int, measure: Callable[[Chat], int], seed: int) -> list[Config]:
    """One configuration for each number of shots that fits; seeded draws from the shorter half of the training split.

    `room` and `measure` are in tokens: the model's context, and an example's length.
    """
    usable = [example for example in train if not example.tools]
    usable.sort(key=measure)
    pool = usable[: max(max(COUNTS), len(usable) // 2)]
    random.Random(seed).shuffle(pool)  # noqa: S311 - a seeded draw, not a secret
    configs = []
    for count in COUNTS:
        shots = tuple(pool[:count])
        if len(shots) == count and sum(measure(shot) for shot in shots) <= room * ROOM_SHARE:
            configs.append(Config(shots=shots))
    return configs


def messages(config: Config, item: Chat) -> tuple[Message, ...]:
    """The item's own system turn first, then the shots as turns that were already answered, then the item."""
    leading = [turn for turn in item.prompt if turn.role in ("system", "developer")]
    rest = [turn for turn in item.prompt if turn.role not in ("system", "developer")]
    shown = [turn for shot in config.shots for turn in shot.messages if turn.role not in ("system", "developer")]
    return tuple(leading + shown + rest)


def described(config: Config) -> str:
    return f"{len(config.shots)} shots"
