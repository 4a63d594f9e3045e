"""Time: seconds of each stage of `sartor run`, from the work in it and the estimates of one step and one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sartor.backends import estimate
from sartor.backends.estimate import Calibration, Job
from sartor.data.prepare import Tokenised
from sartor.names import resolve
from sartor.plan import ProofPlan

SHOTS = 8  # of few_shot: the larger number it tries, which is what it mostly chooses
TRIED = 2  # numbers of shots that it tries on dev
GENERAL_TOKENS = 4_500  # of the passages that measure forgetting, each read with and without the adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How much there is to do: sums over the training examples, means over the held-out ones, all tokens of dev.

    `computed` is the share of the training tokens that is computed: equal beginnings once (`sizing.packing`).
    """

    num_rows: int
    num_examples: int
    num_tokens: int
    num_supervised: int
    sum_squares: int
    prompt_tokens: float
    answer_tokens: float
    dev_tokens: int
    steps: int
    batch_size: int
    evaluate_every: int
    computed: float = 1.0

    @property
    def passes(self) -> float:
        return self.steps * self.batch_size / self.num_examples

    @property
    def trained_tokens(self) -> int:
        return round(self.num_tokens * self.passes)

    @property
    def computed_tokens(self) -> int:
        return round(self.trained_tokens * self.computed)

    @property
    def supervised_share(self) -> float:
        return self.num_supervised / max(1, self.num_tokens) / self.computed

    @property
    def mean_length(self) -> float:
        """Of the segment in which a token stands: long ones count for more."""
        return self.sum_squares / max(1, self.num_tokens)

    @property
    def mean_seen(self) -> float:
        """The same for attention, in which a token counts by what it sees: what is left out stands at the beginning.

        Virtual tokens may make more to compute than there is, and see little themselves.
        """
        return self.mean_length * max(1.0, 2 - self.computed)

    @property
    def step_tokens(self) -> float:
        return self.trained_tokens / self.steps


def work_of(
    train: Sequence[Tokenised],
    test: Sequence[Tokenised],
    dev: Sequence[Tokenised],
    *,
    steps: int,
    batch_size: int,
    evaluate_every: int,
    **rest: object,
) -> Work:
    """The work in prepared examples, in a course whose other settings do not count."""
    answers = sum(item.num_supervised for item in test)
    return Work(
        num_rows=len(train) + len(test) + len(dev),
        num_examples=len(train),
        num_tokens=sum(item.num_tokens for item in train),
        num_supervised=sum(item.num_supervised for item in train),
        sum_squares=sum(len(part.tokens) ** 2 for item in train for part in item.segments),
        prompt_tokens=(sum(item.num_tokens for item in test) - answers) / max(1, len(test)),
        answer_tokens=answers / max(1, len(test)),
        dev_tokens=sum(item.num_tokens for item in dev),
        steps=steps,
        batch_size=batch_size,
        evaluate_every=evaluate_every,
    )


def training_seconds(work: Work, job: Job, calibration: Calibration, flops: float) -> float:
    """Seconds of all steps, without evaluation and saving; each of several devices takes its share of a step.

    An example is not cut over devices: with few of them in a step, some devices wait for the longest.
    """
    per_device = work.computed_tokens / work.steps / job.devices
    if job.devices > 1:
        per_device = max(per_device, work.mean_length)
    num_micro = work.steps * math.ceil(per_device / job.micro_tokens)
    below = 1 - job.kept_tokens / max(1, work.num_tokens) * (1 - 1 / max(1.0, work.passes))
    computing = estimate.training_seconds(
        job,
        calibration,
        num_tokens=round(per_device * work.steps),
        num_micro=num_micro,
        steps=work.steps,
        flops_per_token=flops_per_token(work, job, below),
        flops=flops,
        below=below,
    )
    return max(computing, estimate.travel_seconds(job, calibration, num_micro=num_micro, steps=work.steps))


def flops_per_token(work: Work, job: Job, below: float = 1.0) -> float:
    """FLOPs of each token that is computed; `below` as for `estimate.training_flops`."""
    return estimate.training_flops(job, supervised_share=work.supervised_share, mean_length=work.mean_seen, below=below)


def stages(
    work: Work, job: Job, proof: ProofPlan, calibration: Calibration, *, flops: float, save_every: int
) -> dict[str, float]:
    """Seconds of each stage, those of opening a model and of writing among them."""
    training = training_seconds(work, job, calibration, flops)
    evaluations = math.ceil(work.steps / work.evaluate_every)
    saves = math.ceil(work.steps / save_every) + 3  # the rehearsal's two, and the adapter itself
    dev_tokens = work.dev_tokens * work.computed
    train = (
        calibration.start_seconds
        + training * (1 + 1 / work.steps)  # the rehearsal is about one step
        + evaluations * estimate.forward_seconds(job, calibration, num_tokens=dev_tokens, flops=flops)
        + saves * estimate.save_seconds(job, calibration)
    )
    untuned = sum(
        _arm_seconds(arm, work, job, proof, calibration, flops) for arm in proof.arms if not resolve("arms", arm).TUNED
    )
    tuned = sum(
        _arm_seconds(arm, work, job, proof, calibration, flops) for arm in proof.arms if resolve("arms", arm).TUNED
    )
    general = 2 * estimate.forward_seconds(job, calibration, num_tokens=GENERAL_TOKENS, flops=flops)
    found = {
        "check": work.num_rows * calibration.row_seconds,
        "baseline": calibration.start_seconds + untuned,
        "plan": work.num_rows * calibration.row_seconds + 1.0,
        "train": train,
        "prove": calibration.start_seconds + tuned + general + calibration.report_seconds,
        "package": estimate.save_seconds(job, calibration) + 1.0,
    }
    return {stage: round(seconds, 1) for stage, seconds in found.items()}


def _arm_seconds(arm: str, work: Work, job: Job, proof: ProofPlan, calibration: Calibration, flops: float) -> float:
    """Seconds for an arm's answers. An untuned model does not know when to stop: it is taken to use all its tokens.

    One with answers of its own reads examples and items, if it does that, and decodes nothing. The engine keeps equal
    beginnings, so shots are read once for each number of them that is tried; but what is only weighed is read whole.
    """
    module = resolve("arms", arm)
    if "answers" in vars(module):
        tokens = (work.num_tokens + (proof.items + proof.dev_items) * work.prompt_tokens) * module.EMBEDS
        return estimate.forward_seconds(job, calibration, num_tokens=tokens, flops=flops)
    tuned = module.TUNED
    shots = SHOTS if arm == "few_shot" else 0
    answers = proof.items + (TRIED * proof.dev_items if shots else 0)
    shown = shots * (work.prompt_tokens + work.answer_tokens)
    length = work.answer_tokens if tuned or shots else proof.max_new_tokens
    read = answers * work.prompt_tokens + TRIED * shown
    if proof.metric.name == "perplexity":
        read, length = answers * (work.prompt_tokens + shown + work.answer_tokens), 0.0
    reading = estimate.forward_seconds(job, calibration, num_tokens=read, flops=flops)
    rows = min(proof.batch_size, answers)
    return reading + answers / max(1, rows) * length * estimate.decode_seconds(job, calibration, rows=rows, flops=flops)
