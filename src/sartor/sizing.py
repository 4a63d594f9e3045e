"""Size: the largest micro-batch, with as little computed again as possible, that fits; and the nearest thing that can.

The order of what is tried is fixed and knows nothing of a machine's speed, so the same memory gives the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import NamedTuple

from sartor.adapters.method import UNCUTTABLE
from sartor.backends import estimate
from sartor.backends.estimate import MOMENTS, Calibration, Job
from sartor.backends.ranks import cut, fits_each
from sartor.catalogue import CATALOGUE, Card
from sartor.data.fold import num_computed
from sartor.data.pack import Segment, Steps
from sartor.data.prepare import Tokenised
from sartor.errors import RecipeError
from sartor.hub import Shape, norms_of
from sartor.plan import Quantized, Recompute

FEWEST_TOKENS = 128  # below this the products lose their speed, and recomputing costs less
TILES = (512, 128)  # rows of logits at once: 128 multiply at 70 % of the speed of 512
SCANNED_STEPS = 200  # packing so many takes about a second
MOST_TOKENS = 65_536  # a forward: more does not fill a GPU better
USABLE = 0.95  # of a GPU's memory: its allocator cannot use the last pieces
SHORTEST = 64  # tokens: examples cut to less than this are no way out
ANSWERING = "`sartor train` trains without answers; prove where more memory is, or choose a smaller base"
RECOMPUTES: tuple[Recompute, ...] = ("none", "mlp", "layer")
WHOLE_LAYERS: tuple[Recompute, ...] = ("none", "layer")  # transformers knows no part of a layer


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that one device may hold, and what its memory is like."""

    num_bytes: int
    calibration: Calibration

    def holds(self, job: Job) -> bool:
        return estimate.peak(estimate.memory(job, self.calibration)) <= self.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What the nearest fitting plan may change: rank (0: it has none), lengths of the examples, base, method.

    `quantisable`: whether the method can be trained on quantised weights.
    """

    rank: int
    lengths: Sequence[int]
    job_of: Callable[[Shape], Job]
    with_lora: Job
    quantisable: bool = False


class Packing(NamedTuple):
    """What micro-batches come to: the most `tokens` that one computes, the most `supervised` ones of any, and the share
    of all tokens that is `computed`."""

    tokens: int
    supervised: int
    computed: float


def shape_of(card: Card) -> Shape:
    """The sizes of a catalogue model, without its weights."""
    return Shape(**card.sizes.model_dump(), context=card.context, norms=norms_of(card.model_type, card.sizes))


def choose(job: Job, room: Room, *, most: int, filled: Callable[[Job], Job] = lambda way: way) -> Job | None:
    """The first of all ways that fits: micro-batches from `most` tokens down, then recomputing; None if none does.

    `filled`: a way as the data fills it. Virtual tokens before each of many short rows make more of it than was asked.
    """
    ways = _ways(job, most, (room.calibration.tile, *TILES))
    return next((way for way in ways if room.holds(way) and room.holds(filled(way))), None)


def spread(job: Job, room: Room, *, most: int, filled: Callable[[Job], Job] = lambda way: way) -> Job | None:
    """`choose` for all of a job's devices, which hold the base as ranks will.

    Raises:
        RecipeError: ranks cannot train so.
    """
    _refuse_shorter_moments(job)
    shared = held(job, room.num_bytes / USABLE)
    if shared.shards > 1 and not job.cuttable:
        message, hint = UNCUTTABLE
        raise RecipeError(message, hint=hint)
    return choose(shared, room, most=most, filled=filled)


def held(job: Job, device_bytes: float) -> Job:
    """A job whose devices hold the base as ranks do (`backends/fsdp.py`): a trained one, or one too large for each, is
    cut. Packed weights never are.
    """
    whole = job.quantize != "none" or fits_each(estimate.base_bytes(job.shape, "none", job.item_bytes), device_bytes)
    return job if whole and not job.full else sharded(job)


def takes_eight_bits(job: Job) -> bool:
    """Whether moments may have eight bits: they are bitsandbytes', which knows no parts of a weight
    (`backends/optimizer.py`), and devices share trained weights out."""
    return not (job.full and job.devices > 1)


def _refuse_shorter_moments(job: Job) -> None:
    """Moments that cannot be are told before anything is sized.

    Raises:
        RecipeError: they are to have eight bits, and devices share the trained weights out.
    """
    if job.moment_bytes == MOMENTS["adamw_8bit"] and not takes_eight_bits(job):
        raise RecipeError(
            f"`tune.optimizer` has moments of eight bits, and {job.devices} devices share the trained weights out",
            hint="set `tune.optimizer` to adamw: its moments are shared out too",
        )


def sharded(job: Job) -> Job:
    """A job whose devices hold the base together."""
    return replace(job, shards=job.devices)


def most_tokens(longest: int, step_tokens: float) -> int:
    """Tokens of a micro-batch on a GPU: as many as a step has, but no more than fill it."""
    return min(MOST_TOKENS, max(longest, math.ceil(step_tokens)))


def smallest(job: Job) -> Job:
    """The way that needs the least memory."""
    return list(_ways(job, FEWEST_TOKENS))[-1]


def nearest(job: Job, room: Room, way: Way) -> list[str]:
    """What would fit where this job does not, each as something to write into the recipe."""
    return [
        sentence
        for sentence in (
            _adapter_instead(job, room, way),
            _shorter_moments(job, room),
            _quantised(job, room, way),
            _lower_rank(job, room, way),
            _shorter(job, room, way),
            _smaller_base(job, room, way),
        )
        if sentence
    ]


def shortage(job: Job, room: Room, ways: Sequence[str], *, device: str, num_bytes: int) -> tuple[str, str]:
    """What is missing on a device of so many bytes, and what to do: the message and the hint of a refusal."""
    least = smallest(job)
    needed = estimate.peak(estimate.memory(least, room.calibration))
    message = (
        f"training needs at least {needed / 2**30:.1f} GiB, with {least.micro_tokens:,} tokens a forward and each "
        f"layer computed again; {device} has {num_bytes / 2**30:.1f} GiB, of which {room.num_bytes / 2**30:.1f} can be "
        "used"
    )
    return message, "; or ".join(ways) or "no smaller rank, length or catalogue model fits: more memory is needed"


def unanswerable(shape: Shape, quantize: Quantized, item_bytes: int, room: Room) -> str:
    """Why a base cannot answer; "" where it can. An engine has one device, however many share the training."""
    needed = room.calibration.runtime_bytes + estimate.answering_bytes(shape, quantize, item_bytes)
    if needed <= room.num_bytes:
        return ""
    how = ", packed ones as the numbers that they stand for" if quantize in estimate.OURS else ""
    return (
        f"answering needs at least {needed / 2**30:.1f} GiB on one device, for all of the weights{how}; "
        f"{room.num_bytes / 2**30:.1f} can be used"
    )


def packer(
    train: Sequence[Tokenised], dev: Sequence[Tokenised], *, batch_size: int, steps: int, seed: int
) -> Callable[[Job], Packing]:
    """`packing` of these examples for any job; what was found for one is remembered."""
    examples = [item.segments for item in train]

    @cache
    def packed(job: Job) -> Packing:
        return packing(examples, job, batch_size, steps=steps, seed=seed, beside=dev)

    return packed


def full(job: Job, packed: Callable[[Job], Packing]) -> Job:
    """A job as the data fills it on a GPU, whose micro-batch is laid out whole: virtual tokens may make more of it.

    Each of several devices has its own part of a step, in which little is alike.
    """
    return job if job.devices > 1 else replace(job, micro_tokens=max(job.micro_tokens, packed(job).tokens))


def packing(
    examples: Sequence[Sequence[Segment]],
    job: Job,
    batch_size: int,
    *,
    steps: int,
    seed: int,
    beside: Sequence[Tokenised] = (),
) -> Packing:
    """Micro-batches as training will pack them; of a long run the first steps, which differ little from the rest.

    Where equal beginnings are not computed once, batches are cut to size again, as `backends/torch.py` does. Examples
    `beside` those of the steps are packed no fuller, but the longest of them may be longer.
    """
    sizes, supervised, total = [1], 1, 1
    packed = Steps(examples, batch_size=batch_size, micro_tokens=job.text_tokens, seed=seed, share=True)
    for step in islice(packed, min(steps, SCANNED_STEPS)):
        for batch in step:
            total += batch.num_tokens
            for piece in [batch] if job.shares else cut(batch, -(-batch.num_tokens // job.text_tokens)):
                sizes.append(num_computed(piece, share=job.shares, virtual=job.virtual))
                supervised = max(supervised, piece.num_supervised)
    longest = max((item.length + job.virtual for item in beside), default=0)
    return Packing(max(*sizes, longest), supervised, sum(sizes) / total)


def _ways(job: Job, most: int, tiles: Sequence[int] = TILES) -> Iterator[Job]:
    again = WHOLE_LAYERS if job.computed_by == "transformers" else RECOMPUTES
    for number, recompute in enumerate(again):
        for tile in dict.fromkeys(tiles) if number == 0 else tiles[-1:]:
            for micro_tokens in micro_sizes(most, job.longest + job.virtual):
                yield replace(job, recompute=recompute, tile=tile, micro_tokens=micro_tokens)


def micro_sizes(most: int, longest: int) -> tuple[int, ...]:
    """From `most` tokens down by halves; the longest example always fits into one."""
    least = max(longest, min(most, FEWEST_TOKENS))
    sizes = []
    size = max(most, least)
    while size > least:
        sizes.append(size)
        size //= 2
    return (*sizes, least)


def _adapter_instead(job: Job, room: Room, way: Way) -> str:
    return "set `tune.adapter` to lora" if job.full and room.holds(smallest(way.with_lora)) else ""


def _shorter_moments(job: Job, room: Room) -> str:
    shorter = replace(job, moment_bytes=MOMENTS["adamw_8bit"])
    fits = job.moment_bytes > shorter.moment_bytes and takes_eight_bits(job) and room.holds(smallest(shorter))
    return "set `tune.optimizer` to adamw_8bit" if fits else ""


def _quantised(job: Job, room: Room, way: Way) -> str:
    fits = way.quantisable and job.quantize == "none" and room.holds(smallest(replace(job, quantize="nf4")))
    return "set `model.quantize` to nf4" if fits else ""


def _lower_rank(job: Job, room: Room, way: Way) -> str:
    """The largest smaller rank: adapter, moments and low-rank inputs shrink with it."""
    rank = way.rank // 2 if job.low_rank else 0
    while rank >= 1:
        lower = replace(
            job, num_trainable=job.num_trainable * rank // way.rank, low_rank=job.low_rank * rank // way.rank
        )
        if room.holds(smallest(lower)):
            return f"set `tune.adapter.r` to {rank}"
        rank //= 2
    return ""


def _shorter(job: Job, room: Room, way: Way) -> str:
    """The greatest length at which it fits, and what that costs."""
    fitting = [
        length
        for length in sorted(set(way.lengths))
        if SHORTEST <= length < job.longest and room.holds(smallest(replace(job, longest=length)))
    ]
    if not fitting:
        return ""
    lost = sum(length > fitting[-1] for length in way.lengths)
    return (
        f"set `data.max_length` to {fitting[-1]} with `data.too_long: drop`, which drops {lost:,} of "
        f"{len(way.lengths):,} examples"
    )


def _smaller_base(job: Job, room: Room, way: Way) -> str:
    """The largest catalogue model below this one that fits, with the same method and examples."""
    for card in sorted(CATALOGUE, key=lambda card: -card.parameters):
        shape = shape_of(card)
        if card.kind != "decoder" or shape.num_parameters >= job.shape.num_parameters:
            continue
        if shape.context < job.longest + job.virtual:
            continue
        if shape.num_layers < job.depth:
            continue
        try:
            smaller = way.job_of(shape)
        except RecipeError:  # a setting that names what this one does not have
            continue
        if room.holds(smallest(smaller)):
            return f"set `model` to {card.name} ({card.parameters:,} M parameters)"
    return ""
