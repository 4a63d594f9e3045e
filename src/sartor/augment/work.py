"""A job on disk: its settings, its seeds and its rounds, all as files, so that any command can take it up.

work/
  augment.json    the settings
  seeds.jsonl     what it grows from
  ledger.jsonl    what reading them told: rows that are no seeds, and why
  round-001/ …    see `rounds.py`
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from sartor import durable
from sartor.ask.opening import Who
from sartor.ask.spending import Spent
from sartor.augment import Draw, Made, Recipe, recipe
from sartor.augment.checks import Config as Checks
from sartor.augment.lessons import Fault, lessons_of
from sartor.augment.rounds import Asked, Outcome, Round, Tally
from sartor.augment.turns import unsuitable
from sartor.data.folder import LEDGER
from sartor.errors import DataError
from sartor.recipe import Named, validated
from sartor.store import read_json
from sartor.types import EXAMPLE, Chat, Example, Frozen, LedgerEntry, Source, digest_of

SETTINGS, SEEDS, LOCK = "augment.json", "seeds.jsonl", ".lock"
#: Settings that may change while a job goes on: they decide how far, who is asked and at what price, not what is made.
FREE = frozenset({"wanted", "rounds", "size", "who", "judge", "accept", "with_seeds"})


class Config(Frozen):
    """How examples are made, checked and reviewed: a step `augment` of `data.make`, and of `sartor data augment`."""

    recipe: Named = Field(default=Named(name="self_instruct"), description="What is made: a recipe, with its settings.")
    wanted: int = Field(default=100, ge=1, le=1_000_000, description="Accepted examples after which it ends.")
    size: int = Field(default=20, ge=1, le=1000, description="Questions of a round: reviewed before the next begins.")
    rounds: int = Field(default=50, ge=1, le=10_000, description="The most rounds.")
    shown: int = Field(default=3, ge=0, le=20, description="Examples that are shown beside the seed.")
    who: Who = Field(default_factory=Who, description="Who is asked: a model here, or an endpoint.")
    judge: Who | None = Field(default=None, description="Who judges what passed the other checks; nobody: no judging.")
    least_score: int = Field(default=7, ge=1, le=10, description="The judge's mark that passes, of 10.")
    checks: Checks = Field(default_factory=Checks, description="How strict the checks are.")
    max_tokens: int = Field(default=512, ge=1, le=32_768, description="The longest answer, in tokens.")
    temperature: float = Field(default=0.8, ge=0, le=2, description="How freely it is made.")
    seed: int = Field(default=17, ge=0, description="Of all that is drawn.")
    accept: bool = Field(default=False, description="Accept what passed the checks, without a reviewer.")
    with_seeds: bool = Field(default=True, description="The seeds are part of the result.")

    @property
    def member(self) -> Recipe:
        return recipe(self.recipe.name)

    @property
    def settings(self) -> Any:
        """Those of the recipe.

        Raises:
            RecipeError: the recipe or one of its settings is not known.
        """
        return validated(self.member.Config, self.recipe.settings, "augment.recipe")


@dataclass(frozen=True)
class Work:
    """A job in its folder. `all_seeds` as they were given; those that no recipe can use are left out of `seeds`.

    `entries`: what there was to tell of the rows when they were read.
    """

    folder: Path
    config: Config
    all_seeds: tuple[Example, ...]
    entries: tuple[LedgerEntry, ...] = ()

    @cached_property
    def recipe(self) -> Recipe:
        return self.config.member

    @cached_property
    def settings(self) -> Any:
        """Those of the recipe."""
        return self.config.settings

    @cached_property
    def seeds(self) -> dict[str, Chat]:
        """By their ids."""
        return {seed.id: seed for seed in self.all_seeds if isinstance(seed, Chat) and not unsuitable(seed)}

    @cached_property
    def first(self) -> int:
        """The number of the first round, after those in which seeds were made: no id is used twice."""
        ours = re.compile(re.escape(self.place("round-")) + r"(\d+)")
        before = [int(found[1]) for seed in self.all_seeds if (found := ours.fullmatch(seed.source.file))]
        return max(before, default=0) + 1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, the others wait; what a killed one left half-written is gone."""
        with durable.exclusive(self.folder / LOCK):
            for folder in (self.folder, *self.folder.glob("round-*")):
                durable.clear_staging(folder)
            yield

    def rounds(self) -> list[Round]:
        """Those that have begun, in their order."""
        numbered = (Round(self.folder / f"round-{number:03d}") for number in count(self.first))
        return list(takewhile(lambda each: each.asked, numbered))

    def outcomes(self) -> Iterator[Outcome]:
        """What became of all questions, in their order."""
        for each in self.rounds():
            yield from each.outcomes()

    def accepted(self) -> list[Made]:
        return [found.example for found in self.outcomes() if found.fate == "accepted" and found.example is not None]

    def tally(self) -> Tally:
        """All rounds together."""
        total = Tally(asked=0)
        for each in self.rounds():
            total += each.tally()
        return total

    def spent(self) -> tuple[Spent, Spent]:
        """What making and judging took, over all rounds."""
        made, judged = Spent(), Spent()
        for each in self.rounds():
            making, judging = each.spent()
            made, judged = made + making, judged + judging
        return made, judged

    def lessons(self) -> tuple[str, ...]:
        """What the rounds so far have taught."""
        return lessons_of(fault for found in self.outcomes() if (fault := _fault(found)) is not None)

    def begin(self) -> Round:
        """The next round, with all its questions on disk."""
        before = self.rounds()
        each = Round(self.folder / f"round-{self.first + len(before):03d}")
        each.ask(self._questions(each, start=sum(len(earlier.asked) for earlier in before)))
        return each

    def place(self, round_name: str) -> str:
        """What stands for a file where something was made in that round."""
        return f"augment/{self.config.recipe.name}/{round_name}"

    def stamped(self, example: Made, asked: Asked, seed: Chat) -> Made:
        """The example with where it came from. Its origin is that of its seed, if that was made itself: a family has
        one name."""
        file, _, _ = asked.key.partition("/")
        origin = seed.source.origin or seed.id
        source = Source(file=self.place(file), line=asked.number, origin=origin)
        return example.model_copy(update={"source": source})

    def unsuitable(self) -> Iterator[LedgerEntry]:
        """The seeds that no recipe can use, and why."""
        for seed in self.all_seeds:
            if why := unsuitable(seed):
                file, line = seed.source.file, seed.source.line
                yield LedgerEntry(action="flagged", file=file, line=line, reason="unsuitable_seed", detail=why)

    def _questions(self, each: Round, start: int) -> list[Asked]:
        lessons, made = self.lessons(), [example for example in self.accepted() if isinstance(example, Chat)]
        pool = [*self.seeds.values(), *made]
        found = []
        for number in range(1, self.config.size + 1):
            draw = self._draw(start + number - 1, pool)
            messages = self.recipe.question(draw, self.settings, lessons)
            found.append(Asked(key=f"{each.name}/{number:03d}", number=number, seed=draw.seed.id, messages=messages))
        return found

    def _draw(self, number: int, pool: Sequence[Chat]) -> Draw:
        """Every seed comes up once before any comes up again, each time in another order."""
        cycle, place = divmod(number, len(self.seeds))
        order = list(self.seeds)
        random.Random(f"{self.config.seed}:{cycle}").shuffle(order)  # noqa: S311 - a seeded draw, no secret
        seed = self.seeds[order[place]]
        others = [example for example in pool if example.id != seed.id]
        draw = random.Random(f"{self.config.seed}:others:{number}")  # noqa: S311
        return Draw(number, seed, tuple(draw.sample(others, min(self.config.shown, len(others)))))


def name_of(seeds: Sequence[Example], config: Config) -> str:
    """A name for the folder of a job: the same as long as its seeds are, and the settings that may not change."""
    fixed = config.model_dump(mode="json", exclude=set(FREE))
    return f"augment-{digest_of(fixed, [seed.model_dump(mode='json') for seed in seeds])[:8]}"


def open_work(folder: Path, seeds: Sequence[Example], config: Config, entries: Sequence[LedgerEntry] = ()) -> Work:
    """A new job, or one that is taken up: then with the same seeds, and the same settings but for those in `FREE`.

    Raises:
        DataError: there is nothing to grow from, or the folder holds another job.
        RecipeError: the recipe or its settings are not known.
    """
    work = Work(folder, config, tuple(seeds), tuple(entries))
    _ = work.settings
    if not work.seeds:
        why = next((f": {entry.detail}" for entry in work.unsuitable()), "")
        raise DataError(f"none of {len(seeds)} seeds can be used{why}", hint="a seed is a question with its answer")
    if len({seed.id for seed in seeds}) < len(seeds):
        raise DataError("two seeds have the same place", hint="give each file its own name")
    text = _lines(seeds)
    with work.locked():
        if (folder / SETTINGS).is_file():
            _refuse_another(work, text)
        else:
            durable.atomic_write(folder / SEEDS, text)
        durable.atomic_write(folder / LEDGER, _lines(entries))
        durable.write_json(folder / SETTINGS, {"schema": 1, **config.model_dump(mode="json")})
    return work


def reopen(folder: Path, label: str) -> Work:
    """A job by its folder alone.

    Raises:
        DataError: there is none.
    """
    if not (folder / SETTINGS).is_file():
        raise DataError(f"{label} holds no augmentation", hint="`sartor data augment` begins one")
    settings = {key: value for key, value in read_json(folder / SETTINGS).items() if key != "schema"}
    seeds = tuple(map(EXAMPLE.validate_python, durable.read_lines(folder / SEEDS)))
    entries = tuple(map(LedgerEntry.model_validate, durable.read_lines(folder / LEDGER)))
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{label}/{SETTINGS}: `{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}"
        raise DataError(message, hint="correct it, or begin anew in another folder") from error
    return Work(folder, config, seeds, entries)


def _refuse_another(work: Work, seeds: str) -> None:
    before = reopen(work.folder, work.folder.name)
    if (work.folder / SEEDS).read_text(encoding="utf-8") != seeds:
        raise DataError(
            f"{work.folder.name} grows from other seeds", hint="give the same ones, or another folder to grow in"
        )
    ours, theirs = (each.config.model_dump(mode="json", exclude=set(FREE)) for each in (work, before))
    for key, value in ours.items():
        if value != theirs[key]:
            raise DataError(
                f"{work.folder.name} was begun with `{key}: {theirs[key]}`, not {value}",
                hint="leave it as it was, or give another folder",
            )


def _lines(members: Iterable[Frozen]) -> str:
    return "".join(member.model_dump_json() + "\n" for member in members)


def _fault(found: Outcome) -> Fault | None:
    if found.fate == "failed":
        return Fault(reason=found.reason.partition(":")[0])
    if found.fate != "rejected":
        return None
    return Fault(reason=found.reason) if found.by == "checks" else Fault(words=found.reason)
