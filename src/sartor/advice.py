"""Advise: which method of tuning fits this memory, this much data and this way of serving. Words, no decision."""

from __future__ import annotations

from dataclasses import replace

from sartor.backends import estimate
from sartor.backends.estimate import Job
from sartor.sizing import ANSWERING, USABLE, Room, held, smallest, spread, takes_eight_bits, unanswerable

FEW, PLENTY = 50, 20_000  # examples: below, a prompt holds them all; above, full tuning can learn what adapters cannot
GIB = 2**30


def advise(lora: Job, room: Room, *, num_train: int, most: int, mean_length: float, context: int) -> tuple[str, ...]:
    """Sentences: whether the base can be proved here, what to use first, and what the other methods need and bring."""
    problem = unanswerable(lora.shape, lora.quantize, lora.item_bytes, room)
    lora = replace(lora, quantize="none")
    return (
        *([f"No proof here: {problem}. {ANSWERING}."] if problem else ()),
        _by_data(num_train, mean_length, context),
        _by_memory("lora", lora, room, most),
        _by_memory("qlora", quantised(lora), room, most),
        _by_memory("full", full(lora), room, most),
        "Served beside others on one base, or changed often: an adapter (LoRA, QLoRA), a few megabytes each. Served "
        "alone, or exported to one file: an adapter merged into the base answers as fast as full tuning does.",
        "Beyond these: lst where there is hardly memory for a backward; ia3 or bitfit for very many tasks, as their "
        "files are the smallest; prompt_tuning or prefix_tuning where nothing inside the model may change; "
        "warp for labels; new_tokens for words that the base never saw. `sartor methods` lists all.",
    )


def quantised(job: Job) -> Job:
    """The same work on a 4-bit base: its weights shrink, what is computed does not."""
    return replace(job, quantize="nf4", full=False)


def full(job: Job) -> Job:
    """The same work with every weight trained; on several devices with the moments that these can share out."""
    every = job.shape.num_parameters
    bare = replace(job, low_rank=0, reads=0, dropout=False, depth=0, kept_tokens=0)
    made = replace(bare, full=True, num_trainable=every, layers="hand-written")
    shorter = made.moment_bytes == estimate.MOMENTS["adamw_8bit"]
    return replace(made, moment_bytes=estimate.MOMENTS["adamw"]) if shorter and not takes_eight_bits(made) else made


def _by_data(num_train: int, mean_length: float, context: int) -> str:
    if num_train < FEW:
        return (
            f"{num_train} training examples: prompting first. With so few, examples in the prompt (few_shot) mostly "
            f"reach as much as tuning, and the proof cannot tell them apart; tune from about {FEW} on."
        )
    if num_train * mean_length < context / 2:
        return (
            f"{num_train:,} training examples fit into half of one prompt: prompting may be enough. The baseline "
            "measures it; tuning then saves the tokens of every request."
        )
    if num_train >= PLENTY:
        return (
            f"{num_train:,} training examples: LoRA on all layers is right for most tasks, with a higher rank (r 64) "
            "if the training loss stays high; full tuning pays when the data is a field or a language of its own."
        )
    return (
        f"{num_train:,} training examples: LoRA. An adapter learns a task from so many as well as full tuning does, "
        "and forgets less."
    )


def _by_memory(method: str, job: Job, room: Room, most: int) -> str:
    fitting = spread(job, room, most=most)
    least = smallest(held(job, room.num_bytes / USABLE))
    needed = estimate.peak(estimate.memory(fitting or least, room.calibration)) / GIB
    word = {"lora": "LoRA", "qlora": "QLoRA (4-bit base)", "full": "Full tuning"}[method]
    device = " a device" if job.devices > 1 else ""
    can = f"{room.num_bytes / GIB:.1f} GiB{device} can be used"
    if fitting is None:
        verdict = f"does not fit: it needs {needed:.1f} GiB at least, and {can}"
    else:
        again = "" if fitting.recompute == "none" else f", computing {_AGAIN[fitting.recompute]} again"
        verdict = f"needs about {needed:.1f} GiB{again}; {can}"
    return f"{word} {verdict}."


_AGAIN = {"mlp": "gate and up", "layer": "whole layers"}
