"""Advice: the method by the data, by the memory, and by how it will be served."""

from __future__ import annotations

from dataclasses import replace

from sartor.advice import advise, full, quantised
from sartor.backends import estimate
from sartor.backends.estimate import CUDA, Job
from sartor.catalogue import card
from sartor.sizing import Room, shape_of

GIB = 2**30


def llama() -> Job:
    found = card("llama-3.1-8b-instruct")
    assert found is not None
    return Job(
        shape=shape_of(found), item_bytes=2, num_trainable=41_943_040, micro_tokens=512, longest=512, low_rank=112
    )


def advice(gib: float, *, num_train: int = 1000, mean_length: float = 200.0, job: Job | None = None) -> tuple[str, ...]:
    room = Room(int(gib * GIB), CUDA)
    return advise(job or llama(), room, num_train=num_train, most=2048, mean_length=mean_length, context=8192)


def said(lines: tuple[str, ...], word: str) -> str:
    (found,) = (line for line in lines if line.startswith(word))
    return found


def test_by_data() -> None:
    assert "prompting first" in advice(80, num_train=20)[0]
    assert "may be enough" in advice(80, num_train=60, mean_length=30)[0]
    assert advice(80, num_train=1000)[0].startswith("1,000 training examples: LoRA.")
    assert "full tuning pays" in advice(80, num_train=50_000)[0]


def test_by_memory() -> None:
    room = advice(76)
    assert "needs about" in said(room, "LoRA")
    assert "does not fit" in said(room, "Full tuning")
    little = advice(12)
    assert "does not fit" in said(little, "LoRA")
    assert "needs about" in said(little, "QLoRA")
    assert "needs about" in said(advice(400), "Full tuning")


def test_several_devices_hold_together_what_one_cannot() -> None:
    assert "needs about" in said(advice(76, job=replace(llama(), devices=8)), "Full tuning")
    assert "a device can be used" in said(advice(76, job=replace(llama(), devices=8)), "LoRA")


def test_by_serving() -> None:
    *_, serving, others = advice(76)
    assert "beside others on one base" in serving
    assert "`sartor methods` lists all" in others


def test_a_quantised_base_is_little_more_than_a_quarter() -> None:
    whole, quarter = (estimate.memory(job, CUDA)["train"].weights for job in (llama(), quantised(llama())))
    assert 3.3 < whole / quarter < 3.5  # embedding and head have eight bits
    assert full(llama()).num_trainable == llama().shape.num_parameters
