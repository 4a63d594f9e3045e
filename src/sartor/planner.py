"""Decide: recipe + prepared data + hardware → Plan. Every number with the number or rule behind it.

What the recipe names is taken; what it leaves out is decided here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sartor import quantisation, timing
from sartor.adapters import family_of, preset_of
from sartor.advice import advise
from sartor.asked import ASKED, DEFAULT_ARMS, arms_of, metric_of, settled
from sartor.backends import estimate
from sartor.backends.estimate import CPU, CUDA_HERE, MOMENTS, Job
from sartor.data.prepare import Tokenised
from sartor.errors import MachineError, RecipeError
from sartor.hardware import ENVIRONMENT, Hardware, measure_flops
from sartor.hub import Base, Shape
from sartor.jobs import Method, job_of, settled_method, way_of, with_lora
from sartor.names import resolve
from sartor.ops import native
from sartor.plan import Estimate, Memory, ModelChoice, Plan, ProofPlan, Quantized, steps_of
from sartor.quantisation import optimizer_words, quantize_of
from sartor.recipe import Recipe, TuneSpec
from sartor.sizing import USABLE, Packing, Room, full, held, most_tokens, nearest, packer, shortage, spread
from sartor.timing import Work, work_of
from sartor.types import Form

ENOUGH_ITEMS = 200
DEV_ITEMS = 40
#: On a CPU activations of about so many tokens stay in a 32 MiB cache; in bf16 more did not go faster. In fp32 each
#: product lays its weights out first, which more rows repay.
MICRO_TOKENS, FP32_MICRO_TOKENS = 1024, 2048
PROBE_TOKENS = {"cpu": MICRO_TOKENS, "cuda": 8 * MICRO_TOKENS}  # of the products whose speed is measured
ANSWER_BATCH = 32
SECONDS_BETWEEN_SAVES = 60.0
MOST_SAVING = 0.1  # of the time
USABLE_MEMORY = 0.9
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
    recipe: Recipe,
    train: Sequence[Tokenised],
    test: Sequence[Tokenised],
    reasons: Reasons | None = None,
    form: Form = "decoder",
) -> ProofPlan:
    """How answers are scored and compared. Decided from recipe and data alone, so that every machine decides the same.

    Raises:
        RecipeError: an arm, a metric or its settings are not known.
    """
    reasons = Reasons() if reasons is None else reasons
    arms = arms_of(DEFAULT_ARMS[form] if recipe.prove.arms is None else recipe.prove.arms, form)
    reasons.because("proof.arms", arms, ASKED if recipe.prove.arms else f"the usual ones of a {form}")
    items = reasons.because("proof.items", *_items(recipe.prove.items, len(test)))
    longest = max((length for item in (*train, *test) for length in _answer_lengths(item)), default=64)
    max_new_tokens = reasons.decide(
        "proof.max_new_tokens",
        recipe.prove.max_new_tokens,
        longest + 8,
        f"the longest answer in the data has {longest} tokens; 8 more, so that none is cut",
    )
    return ProofPlan(
        arms=arms,
        metric=reasons.because("proof.metric", *metric_of(recipe, [item.example for item in train], form)),
        goal=reasons.decide(
            "proof.goal", recipe.task.goal, 0.0, "none is set: beating the best untuned arm decides the verdict"
        ),
        items=items,
        dev_items=reasons.because("proof.dev_items", DEV_ITEMS, "enough to choose the number of shots"),
        max_new_tokens=max_new_tokens,
        batch_size=reasons.because(
            "proof.batch_size", ANSWER_BATCH, "more rows are no faster on a CPU, and all machines ask alike"
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
    dev: Sequence[Tokenised] = (),
    data: str,
    devices: int = 1,
) -> Plan:
    """The whole plan. Of several `devices`, which are GPUs, each is like that of `hardware`, and has a rank of its own.

    Raises:
        RecipeError: a name or a setting is not known.
        MachineError: the plan does not fit this machine.
    """
    reasons = Reasons()
    tune = recipe.tune
    method = settled_method(tune.adapter, shape)
    adapter = reasons.because("adapter", method.adapter, _method_words(tune.adapter.name))
    objective = resolve("objectives", tune.objective.name)
    dtype = reasons.because("model.dtype", *number_format(hardware))
    course = course_of(tune, shape, len(train), reasons)
    proof = plan_proof(recipe, train, test, reasons)
    work = work_of(train, test, dev, **course)
    room, passed = room_of(hardware), (*train, *dev)
    job = job_of(method, shape, item_bytes=2 if dtype == "bfloat16" else 4, work=work, passed=passed, proof=proof)
    job = replace(job, moment_bytes=MOMENTS[course["optimizer"]], kernels=_has_kernels(dtype, hardware))
    job = replace(job, quantize=_quantize(recipe, base, shape, job, reasons), devices=devices)
    job = replace(job, kept_tokens=_kept_tokens(job, work, hardware))
    reasons["optimizer"] = optimizer_words(course["optimizer"], reasons["optimizer"], hardware.device)
    most = _most(job, work, hardware)
    packed = packer(train, dev, batch_size=work.batch_size, steps=work.steps, seed=tune.seed)
    fill = partial(_filled, packed=packed, hardware=hardware)
    sized = spread(job, room, most=most, filled=fill) or _refuse(job, room, hardware, method, passed)
    work, filled = replace(work, computed=packed(sized).computed if devices == 1 else 1.0), fill(sized)
    save_every = reasons.decide("save_every", tune.save_every, *saves_every(work, sized, hardware))
    reasons["estimate"], phases = speed_words(sized, hardware), estimate.memory(filled, room.calibration)
    return Plan(
        model=model_of(recipe, base, shape, dtype, quantize=job.quantize),
        backend=reasons.because("backend", "torch", _process_words(sized, hardware)),
        objective=reasons.because("objective", settled(objective, tune.objective, {}, "tune.objective"), RECIPE_SAYS),
        adapter=adapter,
        family=reasons.because("family", method.family, f"the family of {tune.adapter.name}"),
        micro_tokens=reasons.because("micro_tokens", *_micro_tokens(sized, most, hardware)),
        recompute=reasons.because("recompute", *_recompute(sized)),
        tile=reasons.because("tile", *_tile(sized)),
        max_length=reasons.because("max_length", job.longest, "the longest example of train and dev"),
        save_every=save_every,
        num_trainable=reasons.because("num_trainable", method.num_trainable, _share(method, shape)),
        proof=proof,
        data=data,
        estimate=estimate_of(work, sized, filled, phases, proof, hardware, save_every),
        advice=_advice(job, room, work, len(train), most),
        **course,
        **place_of(tune, hardware, reasons, devices=devices),
        reasons=dict(reasons),
    )


def _items(asked: int | None, held_out: int) -> tuple[int, str]:
    """How many items are answered, and why."""
    if asked is None:
        words = f"{held_out} are held out; {ENOUGH_ITEMS} detect a difference of 10 points with 80 % power"
        return min(ENOUGH_ITEMS, held_out), words
    return (asked, ASKED) if asked <= held_out else (held_out, f"{asked} are {ASKED}; no more are held out")


def place_of(tune: TuneSpec, hardware: Hardware, reasons: Reasons, *, devices: int = 1) -> dict[str, Any]:
    """What makes this machine give the same numbers again: fields of the plan."""
    return {
        "devices": reasons.because("devices", devices, "a GPU for each rank" if devices > 1 else "one process"),
        "seed": reasons.because("seed", tune.seed, RECIPE_SAYS),
        "num_threads": reasons.because("num_threads", hardware.num_cores, f"{hardware.num_cores} cores here"),
        "environment": reasons.because("environment", ENVIRONMENT, "read by the libraries when they start"),
    }


def _quantize(recipe: Recipe, base: Base, shape: Shape, job: Job, reasons: Reasons) -> Quantized:
    """How the base's weights are held."""
    quantize, reason = quantize_of(recipe, base.folder, shape.kind)
    words = quantisation.words(quantize, reason, shape, job.item_bytes)
    return reasons.because("model.quantize", quantize, words)  # type: ignore[no-any-return]


def _advice(job: Job, room: Room, work: Work, num_train: int, most: int) -> tuple[str, ...]:
    """What the other methods would need and bring."""
    lora, mean_length = with_lora(job), work.num_tokens / num_train
    return advise(lora, room, num_train=num_train, most=most, mean_length=mean_length, context=job.shape.context)


def _has_kernels(dtype: native.Element, hardware: Hardware) -> bool:
    from sartor.ops.fuse import without_kernels  # torch, which planning for another machine does not need

    return not without_kernels(dtype, hardware.device)


def model_of(recipe: Recipe, base: Base, shape: Shape, dtype: Any, **chosen: Any) -> ModelChoice:
    """The base, with what was chosen for it."""
    return ModelChoice(
        name=base.name,
        path=base.path,
        revision=base.revision,
        digest=base.digest,
        dtype=dtype,
        template=recipe.model.template,
        context=shape.context,
        **chosen,
    )


def course_of(tune: TuneSpec, shape: Shape, num_train: int, reasons: Reasons) -> dict[str, Any]:
    """How many steps of how many examples, and the optimizer's settings on the way: fields of the plan."""
    batch_size = reasons.decide("batch_size", tune.batch_size, *_batch_size(num_train))
    steps, epochs = _length(tune.steps, tune.epochs, num_train, batch_size, reasons)
    return {
        "batch_size": batch_size,
        "steps": steps,
        "epochs": epochs,
        "optimizer": reasons.decide("optimizer", tune.optimizer, "adamw", "the usual choice for fine-tuning"),
        "learning_rate": reasons.decide("learning_rate", tune.learning_rate, *_learning_rate(shape, tune.adapter.name)),
        "warmup_steps": reasons.because("warmup_steps", max(1, steps // 20), "5 % of the steps"),
        "schedule": reasons.because("schedule", "linear", "down to zero: the last steps settle"),
        "clip": reasons.because("clip", 1.0, "a gradient norm above 1 is an outlier"),
        "weight_decay": reasons.because(
            "weight_decay", 0.0, "a short run needs none: decay would only pull what is trained towards zero"
        ),
        "evaluate_every": reasons.because(
            "evaluate_every", max(1, steps // 6), "six points show the trend of the dev loss"
        ),
    }


def number_format(hardware: Hardware) -> tuple[str, str]:
    if hardware.device == "cuda":
        words = "multiplies bf16, at half the memory of fp32" if hardware.has_bf16 else "has no bf16 products"
        return "bfloat16" if hardware.has_bf16 else "float32", f"this GPU {words}"
    if hardware.has_bf16:
        return "bfloat16", "this processor multiplies bf16; half the memory of fp32, and two to three times its speed"
    return "float32", "this processor has no bf16 products: bf16 would be slower than fp32"


def with_speed(hardware: Hardware, shape: Shape) -> Hardware:
    """The same with the speed of a model's own products, in the type in which it will be trained."""
    from sartor.ops.product import multiply

    flops = measure_flops(
        number_format(hardware)[0],
        hardware.num_cores,
        multiply,
        products=estimate.products(shape, PROBE_TOKENS[hardware.device]),
        device=hardware.device,
    )
    return hardware.model_copy(update={"flops": flops})


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


def _learning_rate(shape: Shape, method: str) -> tuple[float, str]:
    millions = shape.num_parameters / 1e6
    rate = 5e-4 if millions < 500 else 3e-4 if millions < 3_000 else 2e-4
    multiple = preset_of(method).learning_rate
    words = "" if multiple == 1 else f"; {method} wants {multiple:g} times what lora does"
    what = {"adapter": "an adapter on", "model": "the weights of"}[family_of(method).TRAINS]
    return rate * multiple, f"{what} a model of {millions:,.0f} M parameters: the smaller the base, the higher{words}"


def device_words(hardware: Hardware) -> str:
    """What trains, in words."""
    if hardware.device == "cpu":
        return "this machine's CPU"
    return f"cuda: {hardware.device_name}, {hardware.device_memory_bytes / 2**30:.1f} GiB"


def _process_words(job: Job, hardware: Hardware) -> str:
    if job.devices == 1:
        return f"one process on {device_words(hardware)}"
    held_as = "the weights cut over them (FSDP)" if job.shards > 1 else "each with the whole base"
    return f"{job.devices} processes, {held_as}, each on {device_words(hardware)}"


def room_of(hardware: Hardware) -> Room:
    if hardware.device == "cpu":
        return Room(int(hardware.memory_bytes * USABLE_MEMORY), CPU)
    return Room(int(hardware.device_memory_bytes * USABLE), CUDA_HERE)


def _most(job: Job, work: Work, hardware: Hardware) -> int:
    """Tokens of a micro-batch where memory is no matter: a CPU's caches are small, and a GPU wants to be filled."""
    if hardware.device == "cpu":
        return max(_full_speed(job), job.longest) + job.virtual
    return most_tokens(job.longest, work.step_tokens / job.devices) + job.virtual


def _full_speed(job: Job) -> int:
    """Tokens of a forward from which more of them would be no faster on a CPU."""
    return FP32_MICRO_TOKENS if job.item_bytes == 4 else MICRO_TOKENS


def _kept_tokens(job: Job, work: Work, hardware: Hardware) -> int:
    """Tokens for which the frozen layers are computed once only. That is done on a CPU, by our layers."""
    if hardware.device == "cuda" or not job.shares:
        return 0
    num_tokens = min(work.num_tokens, work.trained_tokens)
    return estimate.kept_tokens(job.shape, job.depth, num_tokens=num_tokens, memory_bytes=hardware.memory_bytes)


def _micro_tokens(sized: Job, most: int, hardware: Hardware) -> tuple[int, str]:
    if sized.micro_tokens < most:
        where = "this machine's" if hardware.device == "cpu" else "the GPU's"
        return sized.text_tokens, f"{most:,} tokens a forward would not fit into {where} memory"
    if hardware.device == "cuda":
        return sized.text_tokens, "as many as a step has on average, but no fewer than the longest example"
    if sized.longest <= _full_speed(sized):
        return sized.text_tokens, f"with {sized.text_tokens} tokens a forward the products run at full speed"
    return sized.text_tokens, f"the longest example has {sized.longest} tokens and is never cut"


def _recompute(sized: Job) -> tuple[str, str]:
    kept = sized.micro_tokens * sized.shape.num_layers * estimate.saved_per_token(sized) / 2**30
    return sized.recompute, {
        "none": f"all that the backward needs fits: {kept:.2f} GiB for a micro-batch; nothing is computed twice",
        "mlp": f"gate and up of each layer are computed again: what is kept shrinks to {kept:.2f} GiB and fits",
        "layer": f"each layer is computed again from its input: what is kept shrinks to {kept:.2f} GiB and fits",
    }[sized.recompute]


def _method_words(name: str) -> str:
    preset = preset_of(name)
    return f"{RECIPE_SAYS}: {preset.summary}; served by {', '.join(preset.served_by)}"


def _share(method: Method, shape: Shape) -> str:
    return f"{method.num_trainable / shape.num_parameters:.1%} of the base's {shape.num_parameters / 1e6:.0f} M"


def _tile(sized: Job) -> tuple[int, str]:
    size = sized.tile * sized.shape.vocab * sized.item_bytes / 2**20
    return sized.tile, f"positions whose {sized.shape.vocab:,} logits are held at once, {size:.0f} MiB"


def saves_every(work: Work, sized: Job, hardware: Hardware) -> tuple[int, str]:
    calibration = room_of(hardware).calibration
    seconds = timing.training_seconds(work, sized, calibration, hardware.flops)
    between = max(SECONDS_BETWEEN_SAVES, estimate.save_seconds(sized, calibration) / MOST_SAVING)
    every = round(between * work.steps / max(1.0, seconds))
    return max(1, min(work.steps, every)), f"about every {between:.0f} s at the estimated speed"


def _filled(job: Job, packed: Callable[[Job], Packing], hardware: Hardware) -> Job:
    """A job whose micro-batch is no larger than the fullest one that the data makes of it; a GPU's is always full."""
    if hardware.device == "cuda":
        return full(job, packed)
    return replace(job, micro_tokens=packed(job).tokens, tile=min(job.tile, packed(job).supervised))


def estimate_of(
    work: Work, job: Job, filled: Job, phases: dict[str, Memory], proof: ProofPlan, hardware: Hardware, save_every: int
) -> Estimate:
    """Bytes, reckoned for the micro-batch as the data fills it, and seconds."""
    calibration = room_of(hardware).calibration
    return Estimate(
        peak_bytes=estimate.peak(phases),
        seconds=round(timing.training_seconds(work, job, calibration, hardware.flops), 1),
        tokens=work.trained_tokens,
        fullest=filled.micro_tokens,
        supervised=filled.tile,
        layers=job.computed_by,
        shards=job.shards,
        memory=phases,
        stages=timing.stages(work, job, proof, calibration, flops=hardware.flops, save_every=save_every),
    )


def speed_words(job: Job, hardware: Hardware) -> str:
    if hardware.device == "cuda":
        return (
            f"products at {CUDA_HERE.efficiency:.0%} of the {hardware.flops / 1e12:.0f} TFLOP/s measured here: an "
            "assumption, as all that is said of time on a GPU"
        )
    words = f"products at the {hardware.flops / 1e9:.0f} GFLOP/s measured here, and what is not products, per token"
    return words if job.computed_by != "transformers" else f"{words}, of our own layers: transformers' run here"


def _refuse(job: Job, room: Room, hardware: Hardware, method: Method, passed: Sequence[Tokenised]) -> Job:
    """Say what is missing, and the nearest thing that fits.

    Raises:
        MachineError: always.
    """
    on_cpu = hardware.device == "cpu"
    num_bytes = hardware.memory_bytes if on_cpu else hardware.device_memory_bytes
    shared = held(job, num_bytes)
    message, hint = shortage(
        shared,
        room,
        nearest(shared, room, way_of(shared, method, passed)),
        device="this machine" if on_cpu else f"{'each ' if job.devices > 1 else ''}{hardware.device_name}",
        num_bytes=num_bytes,
    )
    raise MachineError(message, hint=hint)


def _answer_lengths(item: Tokenised) -> list[int]:
    """Supervised tokens of each segment: an upper bound of the answer's length."""
    return [sum(weight != 0 for weight in part.weights) for part in item.segments]
