"""From the answers of a round to examples with what is wrong with them, in the order of the questions.

The order in which answers came makes no difference, so that two runs on the same answers find the same.
"""

from __future__ import annotations

from sartor.ask import Answer
from sartor.ask.reading import Unreadable
from sartor.augment.checks import Problem, problems, ways_of
from sartor.augment.known import Known
from sartor.augment.rounds import Asked, Checked, Round
from sartor.augment.work import Work

_CUT_OFF = "the answer was too long and broke off"
#: What stands in the place of an answer that whoever was asked has lost.
_NO_ANSWER = Answer("", failure="no_answer: whoever was asked said nothing")


class Examiner:
    """Looks at rounds of a job, beside its seeds and all that was accepted before."""

    def __init__(self, work: Work) -> None:
        seeds = list(work.seeds.values())
        self._work = work
        self._ways = ways_of(seeds, work.config.checks)
        self._known = Known(work.recipe, seeds, work.config.checks.duplicates)
        self._known.add(work.accepted())

    def look(self, each: Round) -> list[Checked]:
        """All questions of a round, of which all are answered."""
        answers = each.answers()
        return [self._look(asked, answers.get(asked.key, _NO_ANSWER)) for asked in each.asked]

    def _look(self, asked: Asked, answer: Answer) -> Checked:
        if answer.failure:
            return Checked(key=asked.key, number=asked.number, failure=answer.failure)
        seed = self._work.seeds[asked.seed]
        try:
            made = self._work.recipe.read(answer.text, seed, self._work.settings)
        except Unreadable as error:
            failure = f"cut_off: {_CUT_OFF}" if answer.truncated else str(error)
            return Checked(key=asked.key, number=asked.number, failure=failure)
        example = self._work.stamped(made, asked, seed)
        wrong: tuple[Problem, ...] = ()
        if answer.truncated:
            wrong = (Problem(reason="cut_off", detail=_CUT_OFF),)
        wrong = wrong or problems(example, self._ways) or self._known.problems(example, seed)
        if not wrong:
            self._known.add([example])
        return Checked(key=asked.key, number=asked.number, example=example, problems=wrong)
