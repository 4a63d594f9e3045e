"""Time: counts of the work, and what makes each stage longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sartor import timing
from sartor.backends import estimate
from sartor.backends.estimate import CPU, CUDA, Job
from sartor.catalogue import card
from sartor.chat import Renderer
from sartor.plan import Choice, ProofPlan
from sartor.sizing import shape_of
from sartor.store import STAGES
from sartor.timing import Work, work_of

from .conversations import TINY, tiny
from .engines import tokenised
from .plans import chat, plan

FLOPS = 1e11
WORK = Work(
    num_rows=1200,
    num_examples=1000,
    num_tokens=200_000,
    num_supervised=50_000,
    sum_squares=200_000 * 250,
    prompt_tokens=150.0,
    answer_tokens=50.0,
    dev_tokens=15_000,
    steps=125,
    batch_size=8,
    evaluate_every=25,
)
PROOF = plan().proof.model_copy(
    update={"arms": ("zero_shot", "few_shot", "tuned"), "items": 200, "max_new_tokens": 100}
)


def job(**changes: object) -> Job:
    found = card("smollm2-135m-instruct")
    assert found is not None
    base = Job(
        shape=shape_of(found), item_bytes=2, num_trainable=4_884_480, micro_tokens=1024, longest=400, low_rank=112
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def stages(work: Work = WORK, proof: ProofPlan = PROOF, *, save_every: int = 20) -> dict[str, float]:
    return timing.stages(work, job(), proof, CPU, flops=FLOPS, save_every=save_every)


def test_the_work_is_counted() -> None:
    renderer = Renderer(tiny(TINY))
    train = tokenised(renderer, [chat(f"q {line}", "far away", line=line) for line in range(10)])
    test = tokenised(renderer, [chat("q", "far away", line=50)])
    dev = tokenised(renderer, [chat("q", "far away", line=60)])
    found = work_of(train, test, dev, steps=5, batch_size=4, evaluate_every=2)
    assert (found.num_rows, found.num_examples, found.passes) == (12, 10, 2.0)
    assert found.dev_tokens == dev[0].num_tokens
    assert found.num_tokens == sum(item.num_tokens for item in train)
    assert found.trained_tokens == 2 * found.num_tokens
    assert found.step_tokens == pytest.approx(found.trained_tokens / 5)
    assert found.answer_tokens == test[0].num_supervised
    assert found.prompt_tokens == test[0].num_tokens - test[0].num_supervised
    assert found.mean_length >= found.num_tokens / 10


def test_every_stage_of_a_run_has_its_seconds() -> None:
    found = stages()
    assert list(found) == list(STAGES)
    assert all(seconds > 0 for seconds in found.values())
    training = timing.training_seconds(WORK, job(), CPU, FLOPS)
    assert training < found["train"] < 1.3 * training


def test_more_items_take_longer_to_answer_and_not_to_train() -> None:
    more = stages(proof=PROOF.model_copy(update={"items": 400}))
    assert more["baseline"] > stages()["baseline"]
    assert more["prove"] > stages()["prove"]
    assert more["train"] == stages()["train"]


def test_arms_and_metrics_decide_what_is_read_and_written() -> None:
    only_zero = stages(proof=PROOF.model_copy(update={"arms": ("zero_shot", "tuned")}))
    assert only_zero["baseline"] < stages()["baseline"]
    assert only_zero["prove"] == stages()["prove"]
    read = stages(proof=PROOF.model_copy(update={"metric": Choice(name="perplexity")}))
    assert read["prove"] < stages()["prove"], "what is only weighed need not be written"


def test_arms_with_answers_of_their_own_write_nothing() -> None:
    def baseline(arm: str) -> float:
        return stages(proof=PROOF.model_copy(update={"arms": (arm, "tuned")}))["baseline"]

    read = estimate.forward_seconds(job(), CPU, num_tokens=200_000 + (PROOF.items + PROOF.dev_items) * 150, flops=FLOPS)
    assert baseline("majority") == CPU.start_seconds
    assert baseline("nearest") == pytest.approx(CPU.start_seconds + read, abs=0.2)


def test_shots_are_read_once_for_each_number_of_them() -> None:
    """The engine keeps equal beginnings; what is only weighed is read whole."""

    def reading(proof: ProofPlan) -> float:
        shots, none = (
            stages(proof=proof.model_copy(update={"arms": (arm, "tuned")})) for arm in ("few_shot", "zero_shot")
        )
        return shots["baseline"] - none["baseline"]

    at_once = PROOF.model_copy(
        update={"max_new_tokens": round(WORK.answer_tokens), "batch_size": 1_000, "dev_items": 0}
    )
    shown = estimate.forward_seconds(job(), CPU, num_tokens=timing.SHOTS * 200, flops=FLOPS)
    assert reading(at_once) == pytest.approx(timing.TRIED * shown, abs=0.2)
    weighed = at_once.model_copy(update={"metric": Choice(name="perplexity")})
    assert reading(weighed) == pytest.approx(200 * shown, abs=0.2)


def test_more_to_compute_than_there_is_does_not_shorten_attention() -> None:
    """Virtual tokens before every row: three times the text."""
    assert replace(WORK, computed=3.0).mean_seen == WORK.mean_length


def test_what_is_kept_of_frozen_layers_is_computed_in_the_first_epoch_only() -> None:
    work = replace(WORK, steps=500)
    again, kept = (job(depth=8, kept_tokens=tokens) for tokens in (0, work.num_tokens))
    assert timing.training_seconds(work, kept, CPU, FLOPS) < 0.8 * timing.training_seconds(work, again, CPU, FLOPS)
    once = replace(WORK, steps=125)
    assert timing.training_seconds(once, kept, CPU, FLOPS) == timing.training_seconds(once, again, CPU, FLOPS)


def test_beginnings_that_are_shared_are_computed_once() -> None:
    """Half of the tokens: half of the products and calls, for attention three quarters; the head sees as many."""
    half = replace(WORK, computed=0.5)
    assert (half.computed_tokens, half.trained_tokens) == (WORK.trained_tokens // 2, WORK.trained_tokens)
    assert half.computed_tokens * half.supervised_share == WORK.trained_tokens * WORK.supervised_share
    assert half.computed_tokens * half.mean_seen == 0.75 * WORK.trained_tokens * WORK.mean_seen
    once, again = (timing.training_seconds(work, job(), CPU, FLOPS) for work in (half, WORK))
    assert 0.5 < once / again < 0.65
    assert stages(half)["train"] < 0.65 * stages()["train"]
    assert stages(half)["prove"] == stages()["prove"]


def test_saving_often_takes_time() -> None:
    assert stages(save_every=1)["train"] > stages(save_every=100)["train"]


def test_devices_share_a_step_but_cut_no_example() -> None:
    def seconds(devices: int) -> float:
        calibration = CUDA.model_copy(update={"layer_seconds": 0.0, "step_seconds": 0.0, "link": 1e15})
        return timing.training_seconds(WORK, job(devices=devices), calibration, FLOPS)

    assert seconds(2) == pytest.approx(seconds(1) / 2, rel=1e-3)
    assert seconds(64) == pytest.approx(seconds(1) * 250 / 1600, rel=1e-3), "as long as one example takes"


def test_a_slow_link_decides_where_weights_travel() -> None:
    slow = CUDA.model_copy(update={"link": 1e8})
    shared = timing.training_seconds(WORK, job(devices=2, shards=2), slow, 1e15)
    assert shared > 10 * timing.training_seconds(WORK, job(devices=2), slow, 1e15)
