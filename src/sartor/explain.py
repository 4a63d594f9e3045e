"""`sartor explain KEY`: what a recipe key does, when to change it, and what was decided here and why.

`sartor plan --explain` and `--on`: the arithmetic of memory, the time of each stage, and the plan for another machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sartor.errors import UserError
from sartor.names import suggest
from sartor.plan import Memory, Plan
from sartor.recipe import Named, Recipe, fields
from sartor.types import Frozen, Json

if TYPE_CHECKING:
    from sartor.backends.estimate import Job
    from sartor.elsewhere import Offer
    from sartor.hub import Shape
    from sartor.types import Form

MIB, GIB = 2**20, 2**30
_WORDS = {2: "bf16", 4: "fp32"}
_MOMENTS = {8: "Adam: two in fp32", 2: "Adam: two in 8 bits", 0: "none"}


class Line(Frozen):
    """One item of memory: what it is, how it comes about, its bytes."""

    item: str
    arithmetic: str
    num_bytes: int


def explain(key: str, recipe: Recipe | None, plan: Plan | None) -> str:
    """A paragraph in plain words; a section name explains all of its keys.

    Raises:
        UserError: there is no such key.
    """
    chosen = [field for field in fields() if field[0] == key or field[0].startswith(f"{key}.") or not key]
    if not chosen:
        raise UserError(f"no recipe key {key!r}", hint=suggest(key, tuple(path for path, *_ in fields())))
    return "\n\n".join("\n".join(_lines(*field, recipe, plan)) for field in chosen)


def plan_document(plan: Plan, shape: Shape, *, arithmetic: bool) -> tuple[Json, str]:
    """A plan as one JSON document, and what stands below its table: times, advice and, if asked, the arithmetic."""
    document = plan.model_dump(mode="json", by_alias=True)
    text: list[str] = []
    if arithmetic:
        phases = plan.estimate.memory
        sums = _sums(planned_job(plan, shape), phases, plan.model.form) if phases else {}
        document, text = {"plan": document, **_document(sums)}, [*_memory_lines(sums, phases)]
    return document, "\n".join([*text, *_time_lines(plan.estimate.stages), *plan.advice])


def offer_document(offer: Offer, *, arithmetic: bool) -> tuple[Json, str]:
    """The same for a machine that is not this one."""
    document: Json = {**offer.model_dump(mode="json"), "run_seconds": round(offer.run_seconds, 1)}
    text = [*_offer_lines(offer)]
    if arithmetic:
        sums = _sums(offer.job, offer.memory, "decoder")
        document |= _document(sums)
        text += _memory_lines(sums, offer.memory)
    return document, "\n".join([*text, *_closing_lines(offer)])


def planned_job(plan: Plan, shape: Shape) -> Job:
    """What the plan's memory was reckoned from."""
    from sartor.backends.estimate import MOMENTS, Job
    from sartor.jobs import settled_method

    job = Job(
        shape=shape,
        item_bytes=2 if plan.model.dtype == "bfloat16" else 4,
        num_trainable=plan.num_trainable,
        micro_tokens=plan.estimate.fullest or plan.micro_tokens,
        longest=plan.max_length,
        recompute=plan.recompute,
        tile=plan.estimate.supervised or plan.tile,
        moment_bytes=MOMENTS[plan.optimizer],
        quantize=plan.model.quantize,
        layers=plan.estimate.layers,
        devices=plan.devices,
        shards=plan.estimate.shards,
    )
    if plan.model.form != "decoder":  # whose layers have other names, and are counted on the model itself
        return job
    method = settled_method(Named(name=plan.adapter.name, settings=plan.adapter.settings), shape)
    given = method.given(job)
    return given if given.computed_by == plan.estimate.layers else replace(given, kernels=False)


def _sums(job: Job, phases: dict[str, Memory], form: Form) -> dict[str, list[Line]]:
    """The arithmetic of training, then of the fullest phase, whose sum is the estimate, if that is another one."""
    return {phase: _arithmetic(job, phases[phase], form) for phase in dict.fromkeys(("train", _fullest(phases)))}


def _fullest(phases: dict[str, Memory]) -> str:
    """Of the phases of the stage `train`."""
    from sartor.backends.estimate import TRAINING

    return max(("train", *TRAINING), key=lambda phase: phases[phase].total)


def _document(sums: dict[str, list[Line]]) -> Json:
    """The same for programs: training's lines, and those of a fuller phase by its name."""
    written = {phase: [line.model_dump(mode="json") for line in lines] for phase, lines in sums.items()}
    return {"arithmetic": written.pop("train", []), "fullest": written}


def _arithmetic(job: Job, memory: Memory, form: Form) -> list[Line]:
    """Each item of a phase's memory with its numbers put in; on one device, of all that share the weights."""
    if form == "decoder":
        formulas, parts = _held(job, memory) | _computed(job, memory), _parts(job)
    else:
        formulas, parts = _held(job, memory) | _computed_padded(job, form), []
    words = {name: info.description or name for name, info in Memory.model_fields.items()}
    lines: list[Line] = []
    for name, size in memory.items().items():
        lines.append(Line(item=words[name], arithmetic=formulas[name], num_bytes=size))
        lines += parts if name == "activations" else []
    return lines


def _held(job: Job, memory: Memory) -> dict[str, str]:
    """What stays from step to step, and what comes from disk or goes there."""
    from sartor.backends.estimate import GRADIENT, MASTER, STORED

    trained = _trained(job) + (f" ÷ {job.shards} devices" if job.full and job.shards > 1 else "")
    saved = MASTER + job.moment_bytes
    return {
        "runtime": "measured",
        "weights": _weights(job, job.item_bytes),
        "masters": f"{trained} × {MASTER} bytes (fp32)",
        "gradients": f"{trained} × {GRADIENT} bytes (fp32)",
        "moments": f"{trained} × {job.moment_bytes} bytes ({_MOMENTS[job.moment_bytes]})",
        "disk": f"{trained} × {saved} bytes × {memory.disk / (job.num_held * saved):.2g} held twice",
        "mapped": _weights(replace(job, quantize=job.quantize if job.foreign else "none", shards=1), STORED),
    }


def _computed(job: Job, memory: Memory) -> dict[str, str]:
    """What a decoder's layers take, and what is laid out for them."""
    from sartor.backends import estimate

    tokens, scratch = f"{job.micro_tokens:,} tokens", estimate.scratch_per_token(job)
    copies = memory.working / (job.num_trainable * job.item_bytes)
    made = memory.layer - job.micro_tokens * scratch
    stream = job.shape.hidden * estimate.STREAM
    return {
        "working": f"{_trained(job)} × {job.item_bytes} bytes ({_WORDS[job.item_bytes]}) × {copies:g} copies",
        "activations": f"{tokens} × {job.num_layers} layers × {estimate.saved_per_token(job):,} bytes",
        "attention": f"{tokens} × {estimate.attention_per_token(job):,} bytes: gradients of keys and values in fp32",
        "logits": f"{job.tile:,} positions × {job.shape.vocab:,} words × "
        f"{memory.logits // (job.tile * job.shape.vocab)} bytes",
        "layer": f"{tokens} × {scratch:,} bytes"
        + (f" + {made:,} bytes of weights" if made else "")
        + ", of one layer at a time",
        "products": f"{estimate.CPU.num_products} that oneDNN keeps × {estimate.CPU.product_bytes:,} bytes",
        "kept": f"{memory.kept // stream:,} tokens × {stream:,} bytes: what enters the lowest trained layer, in fp32",
    }


def _computed_padded(job: Job, form: Form) -> dict[str, str]:
    """What the layers of other bases take."""
    from sartor.planner_padded import LOGITS, PADDED, kept_per_token

    tokens, kept = f"{job.micro_tokens:,} tokens × {PADDED:g} with padding", kept_per_token(job, form)
    return {
        "activations": f"{tokens} × {job.shape.num_layers} layers × {kept:,} bytes, a rough guess",
        "logits": f"{tokens} × {job.shape.vocab:,} words × 4 bytes (fp32) × {LOGITS}",
        "layer": f"{tokens} × {kept:,} bytes, of one layer at a time",
    }


def _parts(job: Job) -> list[Line]:
    """What a layer keeps of a token."""
    from sartor.backends.estimate import saved_parts

    parts = saved_parts(job).items()
    return [Line(item=f"  of a token and layer: {part}", arithmetic="", num_bytes=size) for part, size in parts]


def _trained(job: Job) -> str:
    return f"{job.num_trainable / 1e6:,.2f} M trained"


def _weights(job: Job, item_bytes: int) -> str:
    """The base's parameters by how they are held. Packed ones are not cut."""
    from sartor.backends.estimate import held_parts

    parts = held_parts(job, item_bytes).items()
    last = f" ({_WORDS[item_bytes]})" if job.quantize == "none" else ""
    over = f" ÷ {job.shards} devices" if job.quantize == "none" and job.shards > 1 else ""
    return " + ".join(f"{count / 1e6:,.1f} M {name} × {size:g} bytes" for name, (count, size) in parts) + last + over


def _memory_lines(sums: dict[str, list[Line]], phases: dict[str, Memory]) -> Iterator[str]:
    """The arithmetic as columns, each sum below, and the other phases beside it."""
    if not sums:
        return
    rows = [(line.item, _size(line.num_bytes), line.arithmetic) for lines in sums.values() for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for phase, lines in sums.items():
        yield ""
        for line in lines:
            yield f"{line.item:<{widths[0]}}  {_size(line.num_bytes):>{widths[1]}}  {line.arithmetic}".rstrip()
        word = "training" if phase == "train" else phase
        yield f"{word:<{widths[0]}}  {_size(phases[phase].total):>{widths[1]}}"
    fullest = _fullest(phases)
    marks = {fullest: " (the fullest)"}
    others = [
        f"{name} {_size(memory.total)}{marks.get(name, '')}" for name, memory in phases.items() if name != "train"
    ]
    yield f"other phases: {', '.join(others)}"


def _time_lines(stages: dict[str, float]) -> Iterator[str]:
    if stages:
        each = ", ".join(f"{stage} {_duration(seconds)}" for stage, seconds in stages.items())
        yield f"the whole run: {_duration(sum(stages.values()))} ({each})"


def _offer_lines(offer: Offer) -> Iterator[str]:
    again = {"none": "nothing computed twice", "mlp": "gate and up computed again", "layer": "layers computed again"}
    how = "weights sharded" if offer.sharded else "the whole base on each"
    size = f"{offer.parameters / 1e9:.2f} B parameters"
    yield f"{offer.model} ({size}), {offer.method}, {offer.dtype}, on {offer.machine}"
    yield f"devices       {offer.devices}" + (f", {how}" if offer.devices > 1 else "")
    yield f"micro-batch   {offer.micro_tokens:,} tokens a device; {again[offer.recompute]}"
    yield f"memory        {_size(offer.peak_bytes)} of {_size(offer.room_bytes)} that can be used on each"
    yield (
        f"training      {_duration(offer.training_seconds)} for {offer.tokens:,} tokens, at {offer.utilisation:.1%} of "
        "the devices' peak"
    )
    yield from _time_lines(offer.stages)


def _closing_lines(offer: Offer) -> Iterator[str]:
    if offer.price:
        yield f"price of the run {offer.price:,.2f}"
    yield from ("", *offer.notes, "", *offer.advice)


def _size(num_bytes: int) -> str:
    for unit, word in ((GIB, "GiB"), (MIB, "MiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.2f} {word}"
    return f"{num_bytes:,} B"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _lines(path: str, what: str, when: str, default: Any, recipe: Recipe | None, plan: Plan | None) -> Iterator[str]:
    yield path
    yield f"  what     {what}"
    yield f"  when     {when}"
    shown = ("decided by the plan" if _decides(path) else "none") if default is None else _shown(default)
    yield f"  default  {shown}"
    if recipe is not None:
        asked = _dig(recipe.model_dump(mode="json"), path)
        yield f"  asked    {'nothing' if asked is None else _shown(asked)}"
    if plan is not None:
        decided = _decided_path(path)
        if decided in plan.reasons:
            yield f"  decided  {_shown(_dig(plan.model_dump(mode='json'), decided))}: {plan.reasons[decided]}"


def _decided_path(path: str) -> str:
    """Where the plan keeps what a recipe key asks for."""
    section, _, key = path.partition(".")
    return {"tune": key, "prove": f"proof.{key}", "task": f"proof.{key}"}.get(section, path)


def _decides(path: str) -> bool:
    """Whether a key that is left out is decided by the plan: those of tuning and proving are."""
    return path.partition(".")[0] in ("tune", "prove")


def _dig(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _shown(value: Any) -> str:
    if isinstance(value, Named):
        return _shown(value.model_dump(mode="json"))
    if isinstance(value, dict) and set(value) == {"name", "settings"}:
        return f"{value['name']} {value['settings']}" if value["settings"] else str(value["name"])
    return str(value)
