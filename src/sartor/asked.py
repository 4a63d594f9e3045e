"""What a recipe names, checked against what is there: arms, metrics, and members with their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sartor.adapters import family_of, preset_of, refuse_disguise
from sartor.data.split import labels
from sartor.errors import RecipeError
from sartor.metrics.load import Metric, Reads
from sartor.metrics.load import load as load_metric
from sartor.names import known, resolve, suggest
from sartor.plan import Choice
from sartor.recipe import Named, Recipe, validated
from sartor.types import Form

ASKED = "asked for in the recipe"
DEFAULT_ARMS: dict[Form, tuple[str, ...]] = {
    "decoder": ("zero_shot", "few_shot", "tuned"),
    "classifier": ("majority", "nearest", "tuned"),
    "embedder": ("zero_shot", "tuned"),
    "seq2seq": ("zero_shot", "tuned"),
}
#: The uses of a base that can give what a metric reads.
GIVES: dict[Reads, frozenset[Form]] = {
    "answer": frozenset({"decoder", "classifier", "seq2seq"}),
    "likelihood": frozenset({"decoder"}),
    "rank": frozenset({"embedder"}),
}


def arms_of(asked: Sequence[str], form: Form) -> tuple[str, ...]:
    """The arms of a recipe.

    Raises:
        RecipeError: one is not known, named twice, or not for such a use of a base; or none is untuned.
    """
    for arm in asked:
        if arm not in known("arms"):
            raise RecipeError(f"`prove.arms` names {arm!r}", hint=suggest(arm, known("arms")))
        if asked.count(arm) > 1:
            raise RecipeError(f"`prove.arms` names {arm!r} twice", hint="each arm answers each item once: name it once")
        if form not in resolve("arms", arm).FORMS:
            raise RecipeError(f"the arm {arm!r} is not for a {form}", hint=f"name {', '.join(DEFAULT_ARMS[form])}")
    if all(resolve("arms", arm).TUNED for arm in asked):
        untuned = sorted(arm for arm in DEFAULT_ARMS[form] if not resolve("arms", arm).TUNED)
        raise RecipeError(
            f"`prove.arms` names no untuned arm, only {', '.join(asked)}",
            hint=f"tuning is proved against one of {', '.join(untuned)}",
        )
    return tuple(asked)


def fitting_metric(name: str, form: Form) -> Metric:
    """The metric of this name.

    Raises:
        RecipeError: it is not known, or reads what such a use of a base does not give.
    """
    metric = load_metric(name)
    if form not in GIVES[metric.reads]:
        gives = next(reads for reads, forms in GIVES.items() if form in forms)
        fitting = [other for other in known("metrics") if load_metric(other).reads == gives]
        raise RecipeError(f"`task.metric` {name!r} is not for a {form}", hint=f"choose one of {', '.join(fitting)}")
    return metric


def metric_of(recipe: Recipe, examples: Sequence[Any], form: Form = "decoder") -> tuple[Choice, str]:
    """The metric with its settings; `choice` learns its options from the training split."""
    asked = recipe.task.metric
    metric = fitting_metric(asked.name, form)
    settings, reason = dict(asked.settings), ASKED
    if asked.name == "choice" and "options" not in settings:
        settings["options"] = labels(examples)
        reason = f"{ASKED}; the training split has {len(settings['options'])} labels, which are its options"
    validated(metric.config_type, settings, "task.metric")
    return Choice(name=asked.name, settings=settings), reason


def settled(module: Any, asked: Named, preset: dict[str, Any], path: str) -> Choice:
    """A member with all of its settings: those asked for, over those of the preset, over the member's own.

    Raises:
        RecipeError: a setting is not known, or not of its type. `path` is where they stand in the recipe.
    """
    config = validated(module.Config, {**preset, **asked.settings}, path)
    return Choice(name=asked.name, settings=config.model_dump(mode="json"))


def method_of(asked: Named) -> tuple[Any, Choice]:
    """The family of a tuning method, and the method with all of its settings.

    Raises:
        RecipeError: a name or a setting is not known, or makes another method of it.
    """
    family = family_of(asked.name)
    refuse_disguise(asked.name, asked.settings)
    return family, settled(family, asked, family.PRESETS[asked.name].settings, "tune.adapter")


def num_virtual(asked: Named) -> int:
    """Places of the context that a tuning method takes from the text of every example."""
    family = family_of(asked.name)
    config = validated(family.Config, {**family.PRESETS[asked.name].settings, **asked.settings}, "tune.adapter")
    return int(family.HOOKS.num_virtual(config))


def num_inserted(asked: Named | Choice) -> int:
    """Virtual tokens that a forward computes before each example.

    Keys and values that stand there instead, which our layers do not take, are none.
    """
    named = Named(name=asked.name, settings=asked.settings)
    return num_virtual(named) if preset_of(asked.name).layers == "hand-written" else 0
