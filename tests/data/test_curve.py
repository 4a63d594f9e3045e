"""The learning curve: what words give away is learned, what they do not is not, and more of the new helps."""

from __future__ import annotations

import random

from sartor.data.curve import NUM_FOLDS, learning_curve
from sartor.types import Chat, Message, Source

NAMES = ("red", "blue")


def rows(count: int, *, noise: bool = False, new: bool = False) -> list[Chat]:
    draw = random.Random(3)
    made = []
    for line in range(count):
        name = NAMES[line % 2]
        hint = f"{name}{draw.randrange(count // 4)}" if new else name
        text = f"a thing {draw.random() if noise else hint} number {line}"
        asked, answered = Message(role="user", content=text), Message(role="assistant", content=name)
        made.append(Chat(source=Source(file="a", line=line), messages=(asked, answered)))
    return made


def test_what_the_words_say_is_learned() -> None:
    curve = learning_curve(rows(80), NAMES)
    assert curve is not None
    assert curve.counts == (15, 30, 60)
    assert curve.scores[-1] == 1.0


def test_noise_is_not() -> None:
    curve = learning_curve(rows(200, noise=True), NAMES)
    assert curve is not None
    assert abs(curve.scores[-1] - 0.5) < 0.15


def test_the_curve_climbs_where_each_example_tells_something_new() -> None:
    curve = learning_curve(rows(200, new=True), NAMES)
    assert curve is not None
    assert curve.scores[0] + 0.05 < curve.scores[-1]


def test_it_is_the_same_twice_and_in_any_order() -> None:
    made = rows(60, new=True)
    assert learning_curve(made, NAMES) == learning_curve(made[::-1], NAMES)


def test_a_handful_has_none() -> None:
    assert learning_curve(rows(NUM_FOLDS * 2 - 1), NAMES) is None
