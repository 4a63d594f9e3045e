"""Events: what a verb says while it works. Frozen, one discriminated union, one line of `events.jsonl` each.

Sinks are functions from Event to None. Nothing else reports: the console, the log and the report read the same stream.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from sartor.types import Frozen

# A dev loss may be infinite: `Infinity` in the log is read back, pydantic's default `null` is not.
_JSON = ConfigDict(ser_json_inf_nan="constants")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class _Event(Frozen):
    model_config = _JSON

    time: str = Field(default_factory=_now)


class Started(_Event):
    """Training begins, or goes on, at `step` (0 = from the start)."""

    type: Literal["started"] = "started"
    run: str
    plan: str
    step: int
    steps: int


class Stepped(_Event):
    """One optimizer step. `num_tokens`: non-padding, once per example. `seconds` without save and evaluation."""

    type: Literal["stepped"] = "stepped"
    step: int
    loss: float
    lr: float
    grad_norm: float
    num_tokens: int
    num_supervised: int
    seconds: float
    peak_bytes: int
    metrics: dict[str, float] = Field(default_factory=dict)


class Evaluated(_Event):
    """The dev loss (mean over supervised tokens) after `step`."""

    type: Literal["evaluated"] = "evaluated"
    step: int
    loss: float
    num_supervised: int


class Answered(_Event):
    """An arm answered `done` of `total` items."""

    type: Literal["answered"] = "answered"
    arm: str
    done: int
    total: int


class Advanced(_Event):
    """A step of the workshop did `done` of `total` (0: nobody knows how much it is)."""

    type: Literal["advanced"] = "advanced"
    step: str
    done: int
    total: int


class Saved(_Event):
    """A checkpoint is whole on disk."""

    type: Literal["saved"] = "saved"
    step: int
    path: str


class Entered(_Event):
    """A stage begins: number `number` of `of`. `seconds` is what the plan foretells for it; 0 = not foretold."""

    type: Literal["entered"] = "entered"
    stage: str
    number: int
    of: int
    seconds: float = 0.0


class Skipped(_Event):
    """A stage did not have to run."""

    type: Literal["skipped"] = "skipped"
    stage: str
    reason: str


class Warned(_Event):
    """Something the user should know, that does not stop the work."""

    type: Literal["warned"] = "warned"
    code: str
    message: str
    hint: str = ""


class Finished(_Event):
    """All steps are done and saved."""

    type: Literal["finished"] = "finished"
    step: int


class Stopped(_Event):
    """A signal asked for it: the state is saved, and the run can be continued."""

    type: Literal["stopped"] = "stopped"
    step: int


class Failed(_Event):
    """The work ended with an error."""

    type: Literal["failed"] = "failed"
    error: str
    message: str
    hint: str


_Kinds = (
    Entered
    | Started
    | Stepped
    | Evaluated
    | Answered
    | Advanced
    | Saved
    | Skipped
    | Warned
    | Finished
    | Stopped
    | Failed
)
Event = Annotated[_Kinds, Field(discriminator="type")]
EVENT: TypeAdapter[_Kinds] = TypeAdapter(Event, config=_JSON)
