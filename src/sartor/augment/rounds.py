"""One round on disk, and what became of each question of it. A folder `round-001/` holds

- `asked.jsonl`: all questions of the round, written at once: with it the round exists;
- `answers.jsonl`, `judged.jsonl`: a line for each answer, appended as it comes;
- `checked.jsonl`: what was made and what the checks found, computed from those, written at once;
- `decisions.jsonl`: a line for each decision, appended as it is made, here or by the studio; the last one counts.

Nothing else is state, so a process that is killed at any moment is taken up where it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from sartor import durable
from sartor.ask import Answer, Question
from sartor.ask.spending import Spent, spent
from sartor.augment import Made
from sartor.augment.checks import Problem
from sartor.errors import DataError, SartorError
from sartor.types import Frozen, Json, Message

ASKED, ANSWERS, JUDGED, CHECKED, DECISIONS = (
    f"{name}.jsonl" for name in ("asked", "answers", "judged", "checked", "decisions")
)

Fate = Literal["accepted", "rejected", "failed", "waiting"]


class Asked(Frozen):
    """A question of a round: `number` counts from 1 within it, `seed` is the id of the example it is made from."""

    key: str
    number: int
    seed: str
    messages: tuple[Message, ...]

    @property
    def question(self) -> Question:
        return Question(self.key, self.messages)


class Checked(Frozen):
    """What came of a question: an example and what is wrong with it, or the name of its failure."""

    key: str
    number: int
    example: Annotated[Made, Field(discriminator="kind")] | None = None
    problems: tuple[Problem, ...] = ()
    score: int = 0
    failure: str = ""

    @property
    def passed(self) -> bool:
        return self.example is not None and not self.problems


class Decision(Frozen):
    """What somebody decided. `by`: person, file, studio, or all (whatever passed was accepted unseen).

    `example`: what an edit made of it.
    """

    key: str
    decision: Literal["accept", "edit", "reject"]
    reason: str = ""
    by: str = "person"
    example: Annotated[Made, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _edits_bring_an_example(self) -> Decision:
        if (self.decision == "edit") != (self.example is not None):
            raise ValueError("an edit has the edited `example`, and nothing else has one")
        return self


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question in the end. `reason` is a word, or a reviewer's own."""

    checked: Checked
    fate: Fate
    example: Made | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """A round is done when asked = accepted + rejected + failed.

    Raises (on construction):
        SartorError: the numbers do not add up, which is a fault of ours.
    """

    asked: int
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    waiting: int = 0

    def __post_init__(self) -> None:
        if self.asked != self.accepted + self.rejected + self.failed + self.waiting:
            raise SartorError(
                f"{self} does not add up: questions are lost", hint="this is a fault of sartor: please report it"
            )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            asked=self.asked + other.asked,
            accepted=self.accepted + other.accepted,
            rejected=self.rejected + other.rejected,
            failed=self.failed + other.failed,
            waiting=self.waiting + other.waiting,
        )

    @property
    def done(self) -> bool:
        return self.waiting == 0


@dataclass(frozen=True)
class Round:
    """A round in its folder. What is read once is kept, except what others may append to."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def asked(self) -> tuple[Asked, ...]:
        return tuple(map(Asked.model_validate, durable.read_lines(self.folder / ASKED)))

    def answers(self) -> dict[str, Answer]:
        return self._answers(ANSWERS)

    @property
    def lost(self) -> bool:
        """Whoever was asked had an answer to none of its questions."""
        return all(answer.failure for answer in self.answers().values())

    def judged(self) -> dict[str, Answer]:
        return self._answers(JUDGED)

    def checked(self) -> tuple[Checked, ...]:
        """What came of each question, in their order; nothing before all are answered."""
        return tuple(map(Checked.model_validate, durable.read_lines(self.folder / CHECKED)))

    def decisions(self) -> dict[str, Decision]:
        """The last decision on each.

        Raises:
            DataError: a line of the file is none.
        """
        return {decision.key: decision for decision in map(self._decision, durable.read_lines(self.folder / DECISIONS))}

    def ask(self, questions: Iterable[Asked]) -> None:
        """Begin the round."""
        durable.atomic_write(self.folder / ASKED, _lines(questions))

    def answer(self, answer: Answer) -> None:
        self._append(ANSWERS, answer)

    def judge(self, answer: Answer) -> None:
        self._append(JUDGED, answer)

    def check(self, checked: Iterable[Checked]) -> None:
        durable.atomic_write(self.folder / CHECKED, _lines(checked))

    def decide(self, decision: Decision) -> None:
        durable.append(self.folder / DECISIONS, decision.model_dump_json())

    def outcomes(self) -> Iterator[Outcome]:
        """What became of each question that was checked, in their order."""
        decisions = self.decisions()
        for checked in self.checked():
            yield outcome(checked, decisions.get(checked.key))

    def tally(self) -> Tally:
        """How many questions ended how; those that are not answered yet wait."""
        fates = Counter(found.fate for found in self.outcomes())
        unchecked = len(self.asked) - fates.total()
        return Tally(
            asked=len(self.asked),
            accepted=fates["accepted"],
            rejected=fates["rejected"],
            failed=fates["failed"],
            waiting=fates["waiting"] + unchecked,
        )

    def spent(self) -> tuple[Spent, Spent]:
        """What making and judging took."""
        return spent(self.answers().values()), spent(self.judged().values())

    def _append(self, name: str, answer: Answer) -> None:
        durable.append(self.folder / name, json.dumps(asdict(answer), ensure_ascii=False))

    def _answers(self, name: str) -> dict[str, Answer]:
        """The first answer to each question: one that was answered is not asked again."""
        found: dict[str, Answer] = {}
        for line in durable.read_lines(self.folder / name):
            found.setdefault(line["key"], Answer(**line))
        return found

    def _decision(self, line: Json) -> Decision:
        try:
            return Decision.model_validate(line)
        except ValidationError as error:
            raise DataError(
                f"{self.name}/{DECISIONS} has a line that is no decision: {error.errors()[0]['msg'].lower()}",
                hint='a line is {"key": …, "decision": "accept" | "edit" | "reject", "reason": …}',
            ) from error


def outcome(checked: Checked, decision: Decision | None) -> Outcome:
    """What became of a question: a decision counts for more than a check, and nothing can be made of a failure."""
    if checked.example is None:
        return Outcome(checked, "failed", reason=checked.failure)
    if decision is None:
        if checked.problems:
            return Outcome(checked, "rejected", reason=checked.problems[0].reason, by="checks")
        return Outcome(checked, "waiting", checked.example)
    if decision.decision == "reject":
        return Outcome(checked, "rejected", reason=decision.reason, by=decision.by)
    if decision.example is not None:
        edited = decision.example.model_copy(update={"source": checked.example.source})
        return Outcome(checked, "accepted", edited, by=decision.by)
    return Outcome(checked, "accepted", checked.example, by=decision.by)


def _lines(members: Iterable[Frozen]) -> str:
    return "".join(member.model_dump_json() + "\n" for member in members)
