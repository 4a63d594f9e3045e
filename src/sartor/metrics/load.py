"""Open a metric by its name: a file of this folder, another package's, or the user's own `module:function`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from sartor import names, stats
from sartor.errors import DataError, RecipeError, Where
from sartor.types import Chat, Frozen, Score

Reads = Literal["answer", "likelihood", "rank"]
WANTED = "a metric is a function (example, output) that returns a number from 0 to 1, or a Score"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric ready for use. `score` takes (config, example, output), where config is a `config_type`.

    Where it `reads` a likelihood, the output is the mean log-probability of the target's tokens; where it reads a rank,
    the place of the target among all held-out ones, from 1. In both cases nothing is generated.
    """

    name: str
    config_type: type[Frozen]
    score: Callable[[Any, Any, Any], Score]
    reduce: Callable[[Sequence[Score]], stats.Interval]
    reads: Reads = "answer"


class NoOptions(Frozen):
    """The config of the user's own metric: its options live in the user's code."""


def load(name: str) -> Metric:
    """The metric of this name.

    Raises:
        RecipeError: the name is not known, or what it names cannot be called with (example, output).
        DataError: from the `score` of the user's own metric, when it returns anything but a number in [0, 1].
    """
    member = names.resolve("metrics", name)
    if ":" in name:
        return _users_own(name, member)
    return Metric(name, member.Config, member.score, member.reduce, vars(member).get("READS", "answer"))


def _users_own(name: str, function: Any) -> Metric:
    if not callable(function):
        raise RecipeError(f"the metric {name!r} is of type {type(function).__name__}, not a function", hint=WANTED)
    try:
        inspect.signature(function).bind("example", "output")
    except (TypeError, ValueError) as error:  # the wrong parameters; a callable that does not tell its parameters
        raise RecipeError(f"the metric {name!r} cannot be called with two arguments: {error}", hint=WANTED) from error

    def score(config: Frozen, example: Chat, output: str) -> Score:
        return _checked(name, example, function(example, output))

    return Metric(name, NoOptions, score, stats.summarise)


def _checked(name: str, example: Chat, result: object) -> Score:
    value = result.value if isinstance(result, Score) else result
    number = float(value) if isinstance(value, Real) else math.nan
    if not 0 <= number <= 1:  # nan lies nowhere
        where = Where(example.source.file, example.source.line)
        raise DataError(f"the metric {name!r} gave {value!r} for this item", hint=WANTED, where=where)
    return result if isinstance(result, Score) else Score(value=number)
