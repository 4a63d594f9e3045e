"""Plan for machines that one does not have: `sartor plan --on h100x8`, from datasheets and the shapes of models.

Nothing is loaded and nothing is fetched. What is assumed rather than known is said in the offer's notes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import Field

from sartor import hub, timing
from sartor.accelerators import DEVICES_A_HOST, Machine, machine
from sartor.advice import advise
from sartor.asked import num_virtual, settled
from sartor.backends import estimate
from sartor.backends.estimate import CUDA, Calibration, Job
from sartor.catalogue import CATALOGUE, card
from sartor.chat import open_renderer
from sartor.data.folder import is_data_folder
from sartor.data.prepare import Prepared, Tokenised, prepare
from sartor.errors import Refused, UserError
from sartor.hub import EMBEDDED, Shape
from sartor.jobs import Method, job_of, settled_method, way_of, with_lora
from sartor.names import resolve
from sartor.plan import Memory, ProofPlan, Recompute
from sartor.planner import Reasons, course_of, plan_proof
from sartor.quantisation import by_recipe, quantize_of
from sartor.recipe import ModelSpec, Recipe
from sartor.sizing import (
    USABLE,
    Room,
    full,
    held,
    most_tokens,
    nearest,
    packer,
    shape_of,
    shortage,
    smallest,
    spread,
    unanswerable,
)
from sartor.texts import form_of
from sartor.timing import Work, work_of
from sartor.types import Embed, Frozen

READABLE = 0.7  # of a memory's datasheet bandwidth: what reading weights reaches
NETWORK = 5e10  # bytes a second and device between hosts: a 400 Gbit/s port for each, as in a DGX H100

OWN = "tokens are counted with the model's own tokenizer"


class Offer(Frozen):
    """What a run needs on some machine. Memory and room are of one device; `price` is 0 where none was given."""

    machine: str
    devices: int
    model: str
    parameters: int
    method: str
    num_trainable: int
    dtype: str
    sharded: bool
    micro_tokens: int
    recompute: Recompute
    tile: int
    peak_bytes: int
    room_bytes: int
    memory: dict[str, Memory]
    tokens: int
    training_seconds: float
    stages: dict[str, float]
    utilisation: float = Field(description="Products' FLOPs over training's time and the devices' peak.")
    price: float = 0.0
    notes: tuple[str, ...]
    advice: tuple[str, ...]
    job: Job = Field(exclude=True, description="What memory and time were reckoned from.")

    @property
    def run_seconds(self) -> float:
        return sum(self.stages.values())


@dataclass(frozen=True, slots=True)
class _Base:
    """What is known of a base without its weights: sizes, the folder of a tokenizer, and whose tokenizer that is.

    `folder` is its own, None where there is none here.
    """

    shape: Shape
    tokenizer: Path
    note: str
    folder: Path | None = None


def offer_of(recipe: Recipe, root: Path, machine_name: str, *, price: float, embed: Embed | None = None) -> Offer:
    """`plan_on` for an accelerator's name.

    Raises:
        UserError: a price, but no accelerator; or one that is no number.
    """
    if not math.isfinite(price):
        raise UserError(f"a price of {price:g}", hint="give a number, of any currency, per device and hour")
    if not machine_name:
        raise UserError(f"a price of {price:g}, but for no device", hint="name it: `sartor plan --on h100 --price 2`")
    return plan_on(recipe, root, machine(machine_name), price=price, embed=embed)


def plan_on(recipe: Recipe, root: Path, machine: Machine, *, price: float = 0.0, embed: Embed | None = None) -> Offer:
    """The run of a recipe on another machine; data paths are relative to `root`, `price` is per device and hour.

    Its `data.train` names what its `data.make` makes (`workshop.resolved`). `embed` is for cleaners.

    Raises:
        Refused: it does not fit there, or examples are too long; the hint says what would.
        UserError: the model's sizes are not known here, or its data is not made yet.
    """
    if recipe.data.make and not is_data_folder(root / (recipe.data.train or "")):
        raise UserError("`data.make` has not made its examples yet", hint="`sartor check` makes them; then plan")
    base = _base(recipe.model, root)
    renderer = open_renderer(base.tokenizer, template_kwargs=recipe.model.template.items())
    context = base.shape.context - num_virtual(recipe.tune.adapter)
    prepared = prepare(recipe, root, renderer, context=context, embed=embed)
    notes = (base.note, *_too_long(recipe, prepared, context, known=base.note == OWN))
    return offer(recipe, base.shape, prepared, machine, folder=base.folder, price=price, notes=notes)


def offer(
    recipe: Recipe,
    shape: Shape,
    prepared: Prepared,
    machine: Machine,
    *,
    folder: Path | None = None,
    price: float = 0.0,
    notes: tuple[str, ...] = (),
) -> Offer:
    """The same from a model's sizes, its folder if it is here, and prepared examples.

    Raises:
        Refused: it does not fit there; the hint says what would.
        RecipeError: a name or a setting is not known.
    """
    objective = resolve("objectives", recipe.tune.objective.name)
    form_of(shape.kind, objective.NEEDS)
    settled(objective, recipe.tune.objective, {}, "tune.objective")
    method = settled_method(recipe.tune.adapter, shape)
    course = course_of(recipe.tune, shape, len(prepared.train), Reasons())
    proof = plan_proof(recipe, prepared.train, prepared.test)
    work = work_of(prepared.train, prepared.test, prepared.dev, **course)
    item_bytes = 2 if machine.accelerator.dtype == "bfloat16" else 4
    passed = prepared.train + prepared.dev
    job = job_of(method, shape, item_bytes=item_bytes, work=work, passed=passed, proof=proof)
    quantize, _ = quantize_of(recipe, folder, shape.kind) if folder else by_recipe(recipe, shape.kind)
    moments = estimate.MOMENTS[course["optimizer"]]
    job = replace(job, devices=machine.count, moment_bytes=moments, quantize=quantize, kernels=item_bytes == 2)
    room = Room(int(machine.accelerator.memory_bytes * USABLE), _calibration(machine))
    most = most_tokens(job.longest, work.step_tokens / machine.count) + job.virtual
    packed = packer(prepared.train, prepared.dev, batch_size=work.batch_size, steps=work.steps, seed=recipe.tune.seed)
    sized = spread(job, room, most=most, filled=partial(full, packed=packed))
    if sized is None:
        raise _refusal(job, room, machine, method, passed)
    if sized.devices == 1:
        work = replace(work, computed=packed(sized).computed)
    advice = advise(
        with_lora(job),
        room,
        num_train=len(prepared.train),
        most=most,
        mean_length=work.num_tokens / len(prepared.train),
        context=shape.context,
    )
    said, filled = (*notes, *_notes(machine, sized, work, room)), full(sized, packed)
    return _offer(recipe, machine, method, sized, filled, room, work, proof, price, notes=said, advice=advice)


def _offer(
    recipe: Recipe,
    machine: Machine,
    method: Method,
    job: Job,
    filled: Job,
    room: Room,
    work: Work,
    proof: ProofPlan,
    price: float,
    *,
    notes: tuple[str, ...],
    advice: tuple[str, ...],
) -> Offer:
    flops, calibration = machine.accelerator.flops, room.calibration
    save_every = recipe.tune.save_every or max(1, work.steps // 10)
    seconds = timing.training_seconds(work, job, calibration, flops)
    stages = timing.stages(work, job, proof, calibration, flops=flops, save_every=save_every)
    phases = estimate.memory(filled, calibration)
    return Offer(
        machine=machine.name,
        devices=machine.count,
        model=recipe.model.name,
        parameters=job.shape.num_parameters,
        method=method.adapter.name,
        num_trainable=job.num_trainable,
        dtype=machine.accelerator.dtype,
        sharded=job.shards > 1,
        micro_tokens=job.micro_tokens,
        recompute=job.recompute,
        tile=job.tile,
        peak_bytes=estimate.peak(phases),
        room_bytes=room.num_bytes,
        memory=phases,
        tokens=work.trained_tokens,
        training_seconds=round(seconds, 1),
        stages=stages,
        utilisation=work.computed_tokens * timing.flops_per_token(work, job) / (seconds * flops * machine.count),
        price=round(price * machine.count * sum(stages.values()) / 3600, 4),
        notes=notes,
        advice=advice,
        job=job,
    )


def _base(spec: ModelSpec, root: Path) -> _Base:
    """Sizes and a tokenizer for a model whose weights need not be here; nothing is fetched."""
    known = card(spec.name)
    if known is not None and known.kind == "decoder" and known.name in EMBEDDED:
        found = hub.find(spec).folder
        return _Base(shape_of(known), found, OWN, found)
    folder = root / spec.name
    if (known.kind if known else "decoder") != "decoder" or (folder.is_dir() and hub.shape(folder).kind != "decoder"):
        raise UserError(
            f"{spec.name} is no decoder: only those are planned for other machines",
            hint="`sartor plan` plans it for this one; such bases are small",
        )
    embedded, *_ = EMBEDDED
    borrowed = (
        f"tokens are counted with the tokenizer of {embedded}, as that of {spec.name} is not here: a larger vocabulary "
        "makes fewer tokens of the same text, so this is mostly too many"
    )
    if folder.is_dir():
        has_own = (folder / "tokenizer.json").is_file()
        tokenizer = folder if has_own else hub.find(ModelSpec(name=embedded)).folder
        return _Base(hub.shape(folder), tokenizer, OWN if has_own else borrowed, folder)
    if known is None:
        raise UserError(
            f"the sizes of {spec.name!r} are not known here",
            hint=f"name a folder with its config.json, or one of {', '.join(card.name for card in CATALOGUE)}",
        )
    return _Base(shape_of(known), hub.find(ModelSpec(name=embedded)).folder, borrowed)


def _calibration(machine: Machine) -> Calibration:
    """The CUDA calibration with this device's memory and links; one direction of a link is half of it."""
    link = NETWORK if machine.count > DEVICES_A_HOST else machine.accelerator.link / 2
    return CUDA.model_copy(update={"bandwidth": machine.accelerator.bandwidth * READABLE, "link": link})


def _refusal(job: Job, room: Room, machine: Machine, method: Method, passed: Sequence[Tokenised]) -> Refused:
    shared = held(job, machine.accelerator.memory_bytes)
    ways = [*_more_devices(job, room, machine), *nearest(shared, room, way_of(shared, method, passed))]
    device = f"each device of {machine.name}" if machine.count > 1 else machine.name
    message, hint = shortage(shared, room, ways, device=device, num_bytes=machine.accelerator.memory_bytes)
    return Refused(message, hint=hint)


def _more_devices(job: Job, room: Room, machine: Machine) -> Sequence[str]:
    count = machine.count * 2
    while count <= DEVICES_A_HOST:
        if room.holds(smallest(held(replace(job, devices=count), machine.accelerator.memory_bytes))):
            return [f"take {machine.accelerator.name}x{count}"]
        count *= 2
    return []


def _too_long(recipe: Recipe, prepared: Prepared, context: int, *, known: bool) -> list[str]:
    """A note on examples that the check refuses; where another tokenizer counted, it may not.

    Raises:
        Refused: the model's own did.
    """
    if not prepared.too_long:
        return []
    limit = min(recipe.data.max_length or context, context)
    words = f"{len(prepared.too_long)} examples are longer than {limit} tokens"
    if known:
        hint = "shorten them, set `data.max_length`, or drop them with `data.too_long: drop`"
        raise Refused(f"{words}; nothing is ever cut", hint=hint)
    return [f"{words} and planned as they are: `sartor check` refuses them if the model's own tokenizer counts so too"]


def _notes(machine: Machine, job: Job, work: Work, room: Room) -> list[str]:
    device = machine.accelerator
    notes = [
        f"{device.name}: {device.memory_bytes / 2**30:.0f} GiB, {device.flops / 1e12:,.0f} TFLOP/s dense in "
        f"{device.dtype}, {device.bandwidth / 10**9:,.0f} GB/s, {device.link_name} ({device.source})",
        f"assumed, not measured: products at {CUDA.efficiency:.0%} of that peak, {CUDA.layer_seconds * 1e3:g} ms a "
        f"layer and micro-batch for calls; answers read the weights at {READABLE:.0%} of the bandwidth",
    ]
    if job.shards > 1:
        notes.append(f"weights are sharded over {job.shards} devices (FSDP) and gathered a layer at a time")
    elif job.devices > 1:
        notes.append("each device holds the whole base: only the adapter's gradients travel")
    answering = estimate.memory(job, CUDA)["generate"].total
    if answering > room.num_bytes and not unanswerable(job.shape, job.quantize, job.item_bytes, room):
        notes.append(
            f"{job.answer_rows} answers at once would take {answering / 2**30:.1f} GiB: fewer at a time, so slower"
        )
    if machine.count > work.batch_size:
        notes.append(f"a step has {work.batch_size} examples: {machine.count - work.batch_size} devices have no work")
    if machine.count > DEVICES_A_HOST:
        notes.append(f"between hosts {NETWORK / 1e9:.0f} GB/s a device are assumed")
        notes.append(
            f"more than {DEVICES_A_HOST} devices are several hosts, and this version trains on the devices of one"
        )
    return notes
