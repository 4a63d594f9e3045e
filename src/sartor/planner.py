"""Decide: recipe + prepared data + hardware → Plan. Every number with the number or rule behind it.

What the recipe names is taken; what it leaves out is decided here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from sartor.adapters import family_of
from sartor.backends import estimate
from sartor.data.prepare import Tokenised
from sartor.data.split import labels
from sartor.errors import MachineError, RecipeError
from sartor.hardware import ENVIRONMENT, Hardware
from sartor.hub import Base, Shape
from sartor.metrics.load import load as load_metric
from sartor.names import known, resolve, suggest
from sartor.plan import Choice, Estimate, ModelChoice, Plan, ProofPlan, steps_of
from sartor.recipe import Named, Recipe, TuneSpec

DEFAULT_ARMS = ("zero_shot", "few_shot", "tuned")
ENOUGH_ITEMS = 200
DEV_ITEMS = 40
MICRO_TOKENS = 1024  # activations of about this many tokens stay in a 32 MiB cache; more did not go faster
ANSWER_BATCH = 32
SECONDS_BETWEEN_SAVES = 60.0
USABLE_MEMORY = 0.9
ASKED = "asked for in the recipe"
RECIPE_SAYS = "as the recipe says"  # of keys that have a value there even when nobody wrote one


class Reasons(dict[str, str]):
    """Decided values with their reasons: `because(path, value, reason)` notes the reason and gives the value back."""

    def because(self, path: str, value: Any, reason: str) -> Any:
        self[path] = reason
        return value

    def decide(self, path: str, asked: Any, decided: Any, reason: str) -> Any:
        """What the recipe asked for, if it did; else what is decided here."""
        if asked is not None:
            return self.because(path, asked, ASKED)
        return self.because(path, decided, reason)


def plan_proof(
    recipe: Recipe, train: Sequence[Tokenised], test: Sequence[Tokenised], reasons: Reasons | None = None
) -> ProofPlan:
    """How answers are scored and compared. Decided from recipe and data alone, so that every machine decides the same.

    Raises:
        RecipeError: an arm, a metric or its settings are not known.
    """
    reasons = Reasons() if reasons is None else reasons
    arms = _arms(DEFAULT_ARMS if recipe.prove.arms is None else recipe.prove.arms)
    reasons.because("proof.arms", arms, ASKED if recipe.prove.arms else "the usual three")
    items = reasons.decide(
        "proof.items",
        min(recipe.prove.items, len(test)) if recipe.prove.items else None,
        min(ENOUGH_ITEMS, len(test)),
        f"{len(test)} are held out; {ENOUGH_ITEMS} detect a difference of 10 points with 80 % power",
    )
    longest = max((length for item in (*train, *test) for length in _answer_lengths(item)), default=64)
    max_new_tokens = reasons.decide(
        "proof.max_new_tokens",
        recipe.prove.max_new_tokens,
        longest + 8,
        f"the longest answer in the data has {longest} tokens; 8 more, so that none is cut",
    )
    return ProofPlan(
        arms=arms,
        metric=reasons.because("proof.metric", *_metric(recipe, [item.example for item in train])),
        goal=reasons.decide(
            "proof.goal", recipe.task.goal, 0.0, "none is set: beating the best untuned arm decides the verdict"
        ),
        items=items,
        dev_items=reasons.because("proof.dev_items", DEV_ITEMS, "enough to choose the number of shots"),
        max_new_tokens=max_new_tokens,
        batch_size=reasons.because(
            "proof.batch_size", ANSWER_BATCH, "beyond 32 rows a batch decodes no faster on a CPU"
        ),
        max_forgetting=reasons.because("proof.max_forgetting", recipe.prove.max_forgetting, RECIPE_SAYS),
        seed=reasons.because("proof.seed", recipe.tune.seed, "the seed of the run"),
    )


def decide(
    recipe: Recipe,
    base: Base,
    shape: Shape,
    hardware: Hardware,
    *,
    train: Sequence[Tokenised],
    test: Sequence[Tokenised],
    data: str,
) -> Plan:
    """The whole plan.

    Raises:
        RecipeError: a name or a setting is not known.
        MachineError: the plan does not fit this machine.
    """
    reasons = Reasons()
    tune = recipe.tune
    family = family_of(tune.adapter.name)
    preset = family.PRESETS[tune.adapter.name]
    adapter = reasons.because("adapter", _settled(family, tune.adapter, preset, "tune.adapter"), RECIPE_SAYS)
    objective = resolve("objectives", tune.objective.name)
    num_trainable = family.count(shape, family.Config(**adapter.settings))
    dtype = reasons.because("model.dtype", *_dtype(hardware))
    course = _course(tune, shape, len(train), reasons)
    longest = max(item.length for item in train)
    micro_tokens = reasons.because("micro_tokens", *_micro_tokens(longest))
    needed = _estimate(
        shape,
        hardware,
        reasons,
        num_trainable=num_trainable,
        micro_tokens=micro_tokens,
        train=train,
        passes=course["steps"] * course["batch_size"] / len(train),
        item_bytes=2 if dtype == "bfloat16" else 4,
    )
    return Plan(
        model=_model(recipe, base, shape, dtype),
        backend=reasons.because("backend", "torch", "one process on this machine"),
        objective=reasons.because("objective", _settled(objective, tune.objective, {}, "tune.objective"), RECIPE_SAYS),
        adapter=adapter,
        family=reasons.because("family", family.__name__.rpartition(".")[2], f"the family of {tune.adapter.name}"),
        micro_tokens=micro_tokens,
        max_length=reasons.because("max_length", longest, "the longest training example"),
        save_every=reasons.decide("save_every", tune.save_every, *_save_every(course["steps"], needed.seconds)),
        seed=reasons.because("seed", tune.seed, RECIPE_SAYS),
        num_threads=reasons.because("num_threads", hardware.num_cores, f"{hardware.num_cores} cores here"),
        environment=reasons.because("environment", ENVIRONMENT, "read by the libraries when they start"),
        num_trainable=reasons.because(
            "num_trainable",
            num_trainable,
            f"{num_trainable / shape.num_parameters:.1%} of the base's {shape.num_parameters / 1e6:.0f} M",
        ),
        proof=plan_proof(recipe, train, test, reasons),
        data=data,
        estimate=needed,
        reasons=dict(reasons),
        **course,
    )


def _model(recipe: Recipe, base: Base, shape: Shape, dtype: Any) -> ModelChoice:
    return ModelChoice(
        name=base.name,
        path=base.path,
        revision=base.revision,
        digest=base.digest,
        dtype=dtype,
        template=recipe.model.template,
        context=shape.context,
    )


def _course(tune: TuneSpec, shape: Shape, num_train: int, reasons: Reasons) -> dict[str, Any]:
    """How many steps of how many examples, and the optimizer's settings on the way: fields of the plan."""
    batch_size = reasons.decide("batch_size", tune.batch_size, *_batch_size(num_train))
    steps, epochs = _length(tune.steps, tune.epochs, num_train, batch_size, reasons)
    return {
        "batch_size": batch_size,
        "steps": steps,
        "epochs": epochs,
        "optimizer": reasons.because("optimizer", "adamw", "the usual choice for adapters"),
        "learning_rate": reasons.decide("learning_rate", tune.learning_rate, *_learning_rate(shape)),
        "warmup_steps": reasons.because("warmup_steps", max(1, steps // 20), "5 % of the steps"),
        "schedule": reasons.because("schedule", "linear", "down to zero: the last steps settle"),
        "clip": reasons.because("clip", 1.0, "a gradient norm above 1 is an outlier for an adapter"),
        "weight_decay": reasons.because("weight_decay", 0.0, "an adapter is small; decay would pull it to the base"),
        "evaluate_every": reasons.because(
            "evaluate_every", max(1, steps // 6), "six points show the trend of the dev loss"
        ),
    }


def _arms(asked: Sequence[str]) -> tuple[str, ...]:
    for arm in asked:
        if arm not in known("arms"):
            raise RecipeError(f"`prove.arms` names {arm!r}", hint=suggest(arm, known("arms")))
        if asked.count(arm) > 1:
            raise RecipeError(f"`prove.arms` names {arm!r} twice", hint="each arm answers each item once: name it once")
    if all(resolve("arms", arm).TUNED for arm in asked):
        untuned = [arm for arm in known("arms") if not resolve("arms", arm).TUNED]
        raise RecipeError(
            f"`prove.arms` names no untuned arm, only {', '.join(asked)}",
            hint=f"tuning is proved against one of {', '.join(untuned)}",
        )
    return tuple(asked)


def _metric(recipe: Recipe, examples: Sequence[Any]) -> tuple[Choice, str]:
    """The metric with its settings; `choice` learns its options from the training split."""
    asked = recipe.task.metric
    metric = load_metric(asked.name)
    settings, reason = dict(asked.settings), ASKED
    if asked.name == "choice" and "options" not in settings:
        settings["options"] = labels(examples)
        reason = f"{ASKED}; the training split has {len(settings['options'])} labels, which are its options"
    _validated(metric.config_type, settings, "task.metric")
    return Choice(name=asked.name, settings=settings), reason


def _settled(module: Any, asked: Named, preset: dict[str, Any], path: str) -> Choice:
    """A member with all of its settings: those asked for, over those of the preset, over the member's own."""
    config = _validated(module.Config, {**preset, **asked.settings}, path)
    return Choice(name=asked.name, settings=config.model_dump(mode="json"))


def _validated(config_type: Any, settings: dict[str, Any], path: str) -> Any:
    try:
        return config_type(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        hint = suggest(key, tuple(config_type.model_fields)) if unknown else f"correct `{key}`, or leave it out"
        raise RecipeError(f"`{path}.{key}` is {first['input']!r}: {first['msg'].lower()}", hint=hint) from error


def _dtype(hardware: Hardware) -> tuple[str, str]:
    if hardware.has_bf16:
        return "bfloat16", "this processor multiplies bf16; half the memory of fp32, and two to three times its speed"
    return "float32", "this processor has no bf16 products: bf16 would be slower than fp32"


def _batch_size(num_train: int) -> tuple[int, str]:
    size = 8 if num_train < 4_000 else 16 if num_train < 20_000 else 32
    return size, f"{num_train:,} training examples: small data needs many steps"


def _length(
    asked_steps: int | None, asked_epochs: float | None, num_train: int, batch_size: int, reasons: Reasons
) -> tuple[int, float]:
    if asked_steps is not None and asked_epochs is not None:
        raise RecipeError("both `tune.steps` and `tune.epochs` are given", hint="one follows from the other: keep one")
    if asked_steps is not None:
        reasons["steps"] = ASKED
        reasons["epochs"] = f"{asked_steps} steps of {batch_size} over {num_train:,} examples"
        return asked_steps, asked_steps * batch_size / num_train
    few, many = (5.0, "small data is seen often") if num_train < 300 else (3.0, "the usual three passes")
    decided = (1.0, "large data needs one pass") if num_train > 20_000 else (few, many)
    epochs = float(reasons.decide("epochs", asked_epochs, *decided))
    steps = steps_of(epochs, num_train, batch_size)
    reasons["steps"] = f"{epochs:g} epochs of {num_train:,} examples, {batch_size} a step"
    return steps, epochs


def _learning_rate(shape: Shape) -> tuple[float, str]:
    millions = shape.num_parameters / 1e6
    rate = 5e-4 if millions < 500 else 3e-4 if millions < 3_000 else 2e-4
    return rate, f"adapters on a model of {millions:,.0f} M parameters: the smaller the base, the higher"


def _micro_tokens(longest: int) -> tuple[int, str]:
    if longest <= MICRO_TOKENS:
        return MICRO_TOKENS, f"{MICRO_TOKENS} tokens a forward stay in the cache, and the products run at full speed"
    return longest, f"the longest example has {longest} tokens and is never cut"


def _save_every(steps: int, seconds: float) -> tuple[int, str]:
    every = round(SECONDS_BETWEEN_SAVES * steps / max(1.0, seconds))
    return max(1, min(steps, every)), f"about every {SECONDS_BETWEEN_SAVES:.0f} s at the estimated speed"


def _estimate(
    shape: Shape,
    hardware: Hardware,
    reasons: Reasons,
    *,
    num_trainable: int,
    micro_tokens: int,
    train: Sequence[Tokenised],
    passes: float,
    item_bytes: int,
) -> Estimate:
    """What `passes` over the training examples need."""
    total = sum(item.num_tokens for item in train)
    per_token = estimate.training_flops(
        shape,
        num_trainable,
        supervised_share=sum(item.num_supervised for item in train) / total,
        mean_length=sum(len(part.tokens) ** 2 for item in train for part in item.segments) / total,
    )
    tokens = round(total * passes)
    reasons["estimate"] = (
        f"products at the {hardware.flops / 1e9:.0f} GFLOP/s measured here, and what is not products, per token"
    )
    needed = Estimate(
        peak_bytes=estimate.training_bytes(shape, num_trainable, micro_tokens=micro_tokens, item_bytes=item_bytes),
        seconds=round(estimate.training_seconds(tokens, per_token, hardware.flops, shape), 1),
        tokens=tokens,
    )
    _refuse_if_too_large(needed, hardware)
    return needed


def _refuse_if_too_large(needed: Estimate, hardware: Hardware) -> None:
    if needed.peak_bytes <= hardware.memory_bytes * USABLE_MEMORY:
        return
    raise MachineError(
        f"training needs about {needed.peak_bytes / 2**30:.1f} GiB, this machine has "
        f"{hardware.memory_bytes / 2**30:.1f} GiB",
        hint="choose a smaller model, or drop the longest examples (`data.max_length` with `data.too_long: drop`)",
    )


def _answer_lengths(item: Tokenised) -> list[int]:
    """Supervised tokens of each segment: an upper bound of the answer's length."""
    return [sum(weight != 0 for weight in part.weights) for part in item.segments]
