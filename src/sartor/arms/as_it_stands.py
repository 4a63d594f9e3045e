"""Asking an item as it stands, with nothing chosen: what the arms that only differ in the model share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sartor.types import Chat, Frozen, Message


class Config(Frozen):
    """Nothing to choose."""


def candidates(train: Sequence[Chat], room: int, measure: Callable[[Chat], int], seed: int) -> list[Config]:
    return [Config()]


def messages(config: Config, item: Chat) -> tuple[Message, ...]:
    return item.prompt


def described(config: Config) -> str:
    return ""
