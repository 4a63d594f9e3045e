"""Grow a data set: rounds of asking, checking and reviewing, until there is enough.

for step in grow(work, asker, review=accept_passed):
    …
folder = gather(work, path, label)

Killed at any moment, the same call goes on: what was answered is not asked again, what was decided stays decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sartor.ask import Asker, Wish
from sartor.augment import judge
from sartor.augment.rounds import Checked, Decision, Round
from sartor.augment.work import Work
from sartor.errors import RecipeError

#: Rounds in a row of one call, of which nothing was accepted, after which more of them would only cost.
_IN_VAIN = 3

#: Decides on what passed the checks of a round, as far as somebody is there to do so.
Review = Callable[[Round], None]


@dataclass(frozen=True, slots=True)
class Step:
    """How far a round is: of `total` questions, `done` are answered, judged or decided."""

    round: str
    stage: str
    done: int
    total: int


def grow(work: Work, asker: Asker, *, judging: Asker | None = None, review: Review) -> Iterator[Step]:
    """Rounds until enough is accepted, the most rounds were made, nothing comes of them, or a reviewer is awaited.

    Raises:
        RecipeError: the recipe needs a judge, and there is none.
        SartorError: whoever is asked takes no questions.
    """
    if judging is None and work.recipe.NEEDS_JUDGE:
        name = work.config.recipe.name
        raise RecipeError(f"the recipe {name} needs a judge", hint="say who judges: `judge: {url: …, model: …}`")
    with work.locked():
        for each in _rounds(work):
            if not each.checked():
                yield from _answered(work, each, asker)
                yield from _checked(work, each, judging)
            if work.config.accept:
                accept_passed(each)
            else:
                review(each)
            tally = each.tally()
            yield Step(each.name, "decided", tally.asked - tally.waiting, tally.asked)
            if not tally.done:
                return


def accept_passed(each: Round) -> None:
    """Accept what passed the checks, unseen."""
    for found in each.outcomes():
        if found.fate == "waiting":
            each.decide(Decision(key=found.checked.key, decision="accept", by="all"))


def leave_waiting(each: Round) -> None:
    """Nobody is there: what passed waits."""


def _rounds(work: Work) -> Iterator[Round]:
    """The rounds that are not done yet, then new ones as long as they are wanted.

    What earlier calls asked in vain ends nothing: whoever is asked is well again, or is somebody else.
    """
    before = work.rounds()
    yield from (each for each in before if not each.tally().done)
    answered = sum(not each.lost for each in before)
    begun: list[Round] = []
    while _goes_on(work, answered, begun):
        begun.append(work.begin())
        yield begun[-1]


def _goes_on(work: Work, answered: int, begun: Sequence[Round]) -> bool:
    """Whether there is another round, after so many that were answered before and those begun in this call."""
    if answered + len(begun) >= work.config.rounds or work.tally().accepted >= work.config.wanted:
        return False
    latest = begun[-_IN_VAIN:]
    return len(latest) < _IN_VAIN or any(each.tally().accepted for each in latest)


def _answered(work: Work, each: Round, asker: Asker) -> Iterator[Step]:
    """Ask what is not answered yet; each answer is on disk before the next one is looked at."""
    config = work.config
    wish = Wish(config.max_tokens, config.temperature, config.seed, work.recipe.schema(work.settings))
    answered = each.answers().keys()
    questions = [asked.question for asked in each.asked if asked.key not in answered]
    done = len(each.asked) - len(questions)
    if not questions:
        return
    for answer in asker.ask(questions, wish):
        each.answer(answer)
        done += 1
        yield Step(each.name, "answered", done, len(each.asked))


def _checked(work: Work, each: Round, judging: Asker | None) -> Iterator[Step]:
    """Look at all answers of a round, and have judged what passed."""
    from sartor.augment.examine import Examiner  # numpy

    found = Examiner(work).look(each)
    if judging is not None:
        yield from _judged(work, each, judging, found)
        judged, least = each.judged(), work.config.least_score
        found = [judge.told(checked, judged, least, ranks=work.recipe.NEEDS_JUDGE) for checked in found]
    each.check(found)


def _judged(work: Work, each: Round, judging: Asker, found: list[Checked]) -> Iterator[Step]:
    """Ask a judge about what passed, as far as it was not asked yet."""
    passed = [(checked.key, checked.example) for checked in found if checked.passed and checked.example is not None]
    judged = each.judged().keys()
    all_questions = [question for key, example in passed for question in judge.questions(key, example)]
    questions = [question for question in all_questions if question.key not in judged]
    if not questions:
        return
    wish = judge.wish_for(passed[0][1], seed=work.config.seed)
    done = len(all_questions) - len(questions)
    for answer in judging.ask(questions, wish):
        each.judge(answer)
        done += 1
        yield Step(each.name, "judged", done, len(all_questions))
