"""Decide for encoders and encoder-decoders: what `planner` does for decoders, with a simpler estimate of memory.

Trainable parameters are counted on the model itself, without its weights, so that every method that attaches is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sartor.adapters import family_of
from sartor.asked import method_of, settled
from sartor.backends import estimate
from sartor.backends.estimate import GRADIENT, MASTER, MOMENTS, Job
from sartor.data.prepare import Tokenised
from sartor.errors import MachineError, RecipeError
from sartor.hardware import Hardware
from sartor.hub import Base, Shape
from sartor.names import resolve
from sartor.plan import Choice, Memory, ModelChoice, Plan
from sartor.planner import (
    MICRO_TOKENS,
    RECIPE_SAYS,
    Reasons,
    course_of,
    device_words,
    estimate_of,
    model_of,
    number_format,
    place_of,
    plan_proof,
    room_of,
    saves_every,
    speed_words,
)
from sartor.quantisation import quantize_of
from sartor.recipe import Named, Recipe, TuneSpec
from sartor.sizing import Room, micro_sizes
from sartor.texts import labels_of
from sartor.timing import work_of
from sartor.types import Form

STEP_PAIRS = 32  # of an objective whose examples are each other's negatives: more of them teach more
#: Than a decoder: with its rate all-MiniLM-L6-v2 is at a loss of 1.0 after three epochs of 474 rows with 12 labels.
FASTER = 4
PADDED = 1.25  # times the tokens of a batch are computed at most: see `data.pad.LONGER`
#: Vectors of the hidden and of the inner size that transformers' own layers keep of a token for the backward.
KEPT_HIDDEN, KEPT_INNER = 10, 2
ATTACHING = "full, top_layers, lora, bottleneck and ln_tuning attach to most"
LOGITS = 3  # copies of an encoder-decoder's logits, in fp32: as they come, as log-probabilities, and their gradient
SMALL = 500_000_000  # parameters of a base that `full` trains at little cost


def decide_padded(
    recipe: Recipe,
    base: Base,
    shape: Shape,
    hardware: Hardware,
    *,
    form: Form,
    train: Sequence[Tokenised],
    test: Sequence[Tokenised],
    dev: Sequence[Tokenised] = (),
    data: str,
) -> Plan:
    """The whole plan.

    Raises:
        RecipeError: a name or a setting is not known, or the method is another one, or does not attach to this base.
        MachineError: the plan does not fit this machine.
    """
    reasons, tune = Reasons(), recipe.tune
    objective = resolve("objectives", tune.objective.name)
    reasons.because("model.quantize", *quantize_of(recipe, base.folder, shape.kind))
    dtype = reasons.because("model.dtype", *number_format(hardware))
    model = _model(recipe, base, shape, form, dtype, train, reasons)
    family, adapter = family_of(tune.adapter.name), settled_padded(tune.adapter, shape)
    num_trainable = _counted(model, family, adapter.settings)
    whole = "whole_steps" in objective.NEEDS
    course = _course(tune, shape, len(train), whole, reasons)
    proof = plan_proof(recipe, train, test, reasons, form)
    work = work_of(train, test, dev, **course)
    job = _job(model, shape, course, (*train, *dev), num_trainable, full=family.TRAINS == "model", whole=whole)
    sized = _sized(job, form, room_of(hardware), whole=whole)
    phases = memory(sized, form, room_of(hardware))
    save_every = reasons.decide("save_every", tune.save_every, *saves_every(work, sized, hardware))
    words = "a whole step in one batch: its pairs are each other's negatives" if whole else "of like length together"
    return Plan(
        model=model,
        backend=reasons.because("backend", "padded", f"{form}: padded batches on {device_words(hardware)}"),
        objective=reasons.because("objective", settled(objective, tune.objective, {}, "tune.objective"), RECIPE_SAYS),
        adapter=reasons.because("adapter", adapter, RECIPE_SAYS),
        family=reasons.because("family", family.__name__.rpartition(".")[2], f"the family of {tune.adapter.name}"),
        micro_tokens=reasons.because("micro_tokens", sized.micro_tokens, f"tokens before padding, {words}"),
        max_length=reasons.because("max_length", job.longest, "the longest example of train and dev"),
        save_every=save_every,
        num_trainable=reasons.because(
            "num_trainable", num_trainable, f"counted on the model, of {shape.num_parameters / 1e6:.1f} M in its file"
        ),
        proof=proof,
        data=data,
        estimate=reasons.because(
            "estimate",
            estimate_of(work, sized, sized, phases, proof, hardware, save_every),
            f"{speed_words(sized, hardware)}; memory by counting what transformers' layers keep: a rough guess",
        ),
        advice=_advice(shape),
        **course,
        **place_of(tune, hardware, reasons),
        reasons=dict(reasons),
    )


def _advice(shape: Shape) -> tuple[str, ...]:
    small = shape.num_parameters <= SMALL
    first = (
        "A base as small as this one: `full` reaches most and costs little; an adapter is smaller on disk, and forgets "
        "less."
        if small
        else "A base as large as this one: an adapter first; `full` trains every weight, at three more copies of each."
    )
    return (f"{first} Classifiers train their head whole with either.",)


def _job(
    model: ModelChoice,
    shape: Shape,
    course: dict[str, Any],
    passed: Sequence[Tokenised],
    num_trainable: int,
    *,
    full: bool,
    whole: bool,
) -> Job:
    """What decides memory and time; a whole step has room for as many of the longest examples as it holds."""
    longest = max(item.length for item in passed)
    return Job(
        shape=shape,
        item_bytes=2 if model.dtype == "bfloat16" else 4,
        num_trainable=num_trainable,
        micro_tokens=longest * (course["batch_size"] if whole else 1),
        longest=longest,
        full=full,
        moment_bytes=MOMENTS[course["optimizer"]],
        layers="transformers",
    )


def _course(tune: TuneSpec, shape: Shape, num_train: int, whole: bool, reasons: Reasons) -> dict[str, Any]:
    """How many steps of how many examples, and the optimizer's settings: `planner.course_of`, for smaller bases."""
    decided: dict[str, Any] = {}
    if whole and tune.batch_size is None:
        decided["batch_size"] = min(STEP_PAIRS, num_train)
    course = course_of(tune.model_copy(update=decided), shape, num_train, reasons)
    if decided:
        reasons["batch_size"] = f"{course['batch_size']} pairs are each other's negatives: more of them teach more"
    reasons |= {"recompute": "all that the backward needs fits", "tile": "not used by padded batches"}
    if tune.learning_rate is None:
        course["learning_rate"] *= FASTER
        reasons["learning_rate"] += f"; {FASTER} times that, as bases of this kind are small and their heads are new"
    return course


def _model(
    recipe: Recipe, base: Base, shape: Shape, form: Form, dtype: Any, train: Sequence[Tokenised], reasons: Reasons
) -> ModelChoice:
    labels = labels_of(item.example for item in train) if form == "classifier" else ()
    reasons["model.form"] = f"a base that is an {shape.kind.replace('_', '-')}, with the objective of the recipe"
    reasons["model.labels"] = f"the {len(labels)} answers of the training split" if labels else "only a classifier has"
    return model_of(recipe, base, shape, dtype, form=form, labels=labels)


def settled_padded(asked: Named, shape: Shape) -> Choice:
    """A method with its settings, for a base of this kind.

    Raises:
        RecipeError: a name or a setting is not known, or makes another method of it; or PEFT does not put virtual
            tokens before what an encoder reads.
    """
    family, adapter = method_of(asked)
    if shape.kind == "encoder" and family.HOOKS.num_virtual(family.Config(**adapter.settings)):
        raise RecipeError(
            f"`tune.adapter`: {asked.name} stands before a text that a model goes on with, and an encoder does not",
            hint=ATTACHING,
        )
    return adapter


def _counted(model: ModelChoice, family: Any, settings: dict[str, Any]) -> int:
    """Trainable parameters of a method on this model, which is built without its weights.

    Raises:
        RecipeError: the method finds nothing to attach to.
    """
    from sartor.backends.forms import skeleton  # torch, which reading a recipe does not need

    start = family.Config.model_fields.get("init")
    if start is not None:  # one that is drawn from weights has as many parameters as the plain one
        settings = {**settings, "init": start.default}
    try:
        attached = family.attach(skeleton(Path(model.path), model.form, model.labels), family.Config(**settings))
    except ValueError as error:  # PEFT's word for layers that are not there
        reason = str(error).partition(". ")[0]
        raise RecipeError(
            f"`tune.adapter`: the method does not attach to this base: {reason}",
            hint=ATTACHING,
        ) from error
    return sum(weight.numel() for weight in attached.parameters() if weight.requires_grad)


def _sized(job: Job, form: Form, room: Room, *, whole: bool) -> Job:
    """The largest micro-batch that fits.

    Raises:
        MachineError: not even the longest example fits.
    """
    sizes = (job.micro_tokens,) if whole else micro_sizes(max(MICRO_TOKENS, job.longest), job.longest)
    for micro_tokens in sizes:
        sized = replace(job, micro_tokens=micro_tokens)
        needed = estimate.peak(memory(sized, form, room))
        if needed <= room.num_bytes:
            return sized
    ways = {"an adapter": job.full, "a smaller `tune.batch_size`": whole, "a smaller `data.max_length`": True}
    raise MachineError(
        f"training needs {needed / 2**30:.1f} GiB, of {room.num_bytes / 2**30:.1f} that can be used",
        hint=f"choose {', '.join(way for way, helps in ways.items() if helps)}, or a smaller base",
    )


def kept_per_token(job: Job, form: Form) -> int:
    """Bytes that a layer of transformers' keeps of a token for the backward: taken from its code, not measured."""
    shape = job.shape
    kept = job.item_bytes * (KEPT_HIDDEN * shape.hidden + KEPT_INNER * shape.inner)
    if form == "seq2seq":  # attention with a position bias keeps its scores, twice
        kept += 2 * job.item_bytes * shape.num_heads * job.longest
    return kept


def memory(job: Job, form: Form, room: Room) -> dict[str, Memory]:
    """Bytes of each phase, itemised."""
    shape, calibration, kept = job.shape, room.calibration, kept_per_token(job, form)
    tokens = PADDED * job.micro_tokens
    held = Memory(
        runtime=calibration.runtime_bytes,
        weights=int(shape.num_parameters * job.item_bytes),
        masters=0 if job.item_bytes == MASTER and job.full else job.num_trainable * MASTER,
        moments=job.num_trainable * job.moment_bytes,
    )
    logits = int(LOGITS * tokens * shape.vocab * 4) if form == "seq2seq" else 0
    disk = int(job.num_trainable * (MASTER + job.moment_bytes) * calibration.disk_copies)
    computing = {"layer": int(tokens * kept), "logits": logits}
    activations, gradients = int(tokens * kept * shape.num_layers), job.num_trainable * GRADIENT
    return {
        "load": estimate.loading(held, job, calibration),
        "train": held.model_copy(update={**computing, "activations": activations, "gradients": gradients}),
        "evaluate": held.model_copy(update=computing),
        "save": held.model_copy(update={"disk": disk}),
        "resume": held.model_copy(update={"disk": disk}),
        "generate": held.model_copy(update={"masters": 0, "moments": 0, **computing}),
    }
