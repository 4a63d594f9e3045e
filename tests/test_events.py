"""Events: each comes back from its line as it was."""

from __future__ import annotations

import datetime
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor import events

UNION = typing.get_args(typing.get_args(events.Event)[0])
VALUES: dict[type, object] = {str: "Zürich 🧵\n", int: 3, float: 0.25, dict[str, float]: {"a": 1.5}}


def example(kind: type) -> events.Event:
    given_fields = {
        name: VALUES[typing.cast("type", info.annotation)]
        for name, info in kind.model_fields.items()  # type: ignore[attr-defined]
        if name not in ("type", "time")
    }
    return typing.cast("events.Event", kind(**given_fields))


@pytest.mark.parametrize("kind", UNION)
def test_round_trip(kind: type) -> None:
    event = example(kind)
    line = events.EVENT.dump_json(event)
    assert b"\n" not in line
    assert events.EVENT.validate_json(line) == event
    assert json.loads(line)["type"] == kind.__name__.lower() == event.type
    datetime.datetime.fromisoformat(event.time)


def test_types_are_told_apart_by_their_names() -> None:
    assert len({kind.model_fields["type"].default for kind in UNION}) == len(UNION)


@given(loss=st.floats(allow_nan=False))
def test_an_infinite_loss_comes_back(loss: float) -> None:
    event = events.Evaluated(step=1, loss=loss, num_supervised=2)
    for line in (events.EVENT.dump_json(event), event.model_dump_json()):
        assert events.EVENT.validate_json(line) == event
        assert json.loads(line)["loss"] == loss


@pytest.mark.parametrize(
    "line", ["{}", '{"type": "other"}', '{"type": "finished"}', '{"type": "finished", "step": 1, "x": 2}']
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        events.EVENT.validate_json(line)


def test_events_are_frozen() -> None:
    with pytest.raises(ValidationError):
        events.Finished(step=1).step = 2  # type: ignore[misc]
