"""The memory model: each item by hand, each phase for what it holds, and what makes it grow or shrink."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from sartor.backends import estimate, optimizer
from sartor.backends.estimate import CPU, CUDA, Job
from sartor.hub import Shape
from sartor.plan import Memory
from sartor.recipe import Optimizer

MIB, GIB = 2**20, 2**30
SIZES = {"num_layers": 30, "hidden": 576, "inner": 1536, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64}
SMOLLM2 = Shape(**SIZES, vocab=49152, tied=True, context=8192)
TRAINABLE = 4_884_480
JOB = Job(
    shape=SMOLLM2,
    item_bytes=2,
    num_trainable=TRAINABLE,
    micro_tokens=1024,
    longest=300,
    low_rank=7 * 16,
    answer_rows=32,
    answer_tokens=32 * 200,
)


def of(job: Job = JOB, phase: str = "train") -> Memory:
    return estimate.memory(job, CPU)[phase]


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_what_a_layer_keeps_of_a_token_by_hand() -> None:
    stream, rotated, attended, inner = 2 * 4 * 576, 2 * (576 + 2 * 192), 2 * 576, 2 * 2 * 1536
    assert estimate.saved_per_token(JOB) == stream + rotated + attended + inner + 4 * 9 + 2 * 112 == 14_084
    assert estimate.saved_per_token(replace(JOB, recompute="mlp")) == 14_084 - inner
    assert estimate.saved_per_token(replace(JOB, recompute="layer")) == stream
    assert sum(estimate.saved_parts(JOB).values()) == 14_084


def test_what_norms_inside_a_block_read_is_kept_too() -> None:
    """Two families whose layers keep more than the usual: seen in `ops/attention_block.py` and `ops/gated_block.py`."""
    heads = (("self_attn.q_norm", 64), ("self_attn.k_norm", 64))
    after = (("pre_feedforward_layernorm", 576), ("post_feedforward_layernorm", 576))
    qwen, gemma = (
        replace(JOB, shape=JOB.shape.model_copy(update={"norms": norms})) for norms in (heads, heads + after)
    )
    rotated, added = 2 * (576 + 2 * 192), 2 * 2 * 576
    assert estimate.saved_per_token(qwen) == 14_084 + rotated
    assert estimate.saved_per_token(gemma) == 14_084 + rotated + added
    whole = estimate.saved_per_token(replace(JOB, recompute="layer"))
    assert estimate.saved_per_token(replace(gemma, recompute="layer")) == whole + added
    assert estimate.saved_per_token(replace(gemma, layers="transformers")) == estimate.saved_per_token(
        replace(JOB, layers="transformers")
    )


def test_the_items_of_training_by_hand() -> None:
    found = of()
    assert found.weights == 134_515_008 * 2
    assert (found.masters, found.gradients, found.moments) == (4 * TRAINABLE, 4 * TRAINABLE, 8 * TRAINABLE)
    assert found.activations == 1024 * 30 * 14_084
    assert found.logits == 512 * 49_152 * 2
    assert found.products == CPU.product_bytes * CPU.num_products
    assert found.total == sum(found.items().values())
    assert 1 * GIB < found.total < 2 * GIB, "SmolLM2 trains on a laptop"


def test_a_phase_holds_what_it_needs() -> None:
    phases = estimate.memory(JOB, CPU)
    held = {name: set(memory.items()) for name, memory in phases.items()}
    assert "gradients" not in held["evaluate"] | held["save"] | held["resume"] | held["generate"]
    assert "disk" in held["save"] & held["resume"]
    assert "disk" not in held["train"] | held["generate"]
    assert {"masters", "moments"} & held["generate"] == set()
    assert phases["generate"].keys == 32 * 200 * 30 * 2 * 192 * 2
    assert estimate.peak(phases) == phases["save"].total


def test_the_buffers_of_our_layers_stay_after_the_backward() -> None:
    theirs, ours = (estimate.memory(replace(JOB, layers=layers), CPU) for layers in ("transformers", "hand-written"))
    for phase in ("evaluate", "save", "resume"):
        assert theirs[phase].activations == 0
        assert ours[phase].activations == ours["train"].activations > 0
    assert theirs["save"].layer == 0 < ours["save"].layer == ours["train"].layer


def test_the_peak_is_that_of_the_fullest_phase_of_training() -> None:
    """With a large adapter and a tiny batch it is saving, not training, that is fullest."""
    job = replace(JOB, num_trainable=300_000_000, micro_tokens=16, tile=16)
    phases = estimate.memory(job, CPU.model_copy(update={"disk_copies": 2.0}))
    assert estimate.peak(phases) == phases["save"].total > phases["train"].total
    idle = replace(JOB, answer_tokens=10**7)
    assert estimate.peak(estimate.memory(idle, CPU)) == of(JOB, "save").total, "generation belongs to other stages"


@pytest.mark.parametrize(
    "change",
    [
        {"micro_tokens": 2048},
        {"item_bytes": 4},
        {"num_trainable": 2 * TRAINABLE},
        {"tile": 1024},
        {"low_rank": 7 * 64},
        {"full": True, "num_trainable": 134_515_008},
    ],
)
def test_it_grows_with_what_is_held(change: dict[str, int]) -> None:
    assert of(replace(JOB, **change)).total > of().total


@pytest.mark.parametrize(
    "change", [{"recompute": "mlp"}, {"recompute": "layer"}, {"depth": 5}, {"quantize": "nf4"}, {"tile": 128}]
)
def test_it_shrinks_with_what_is_not_kept(change: dict[str, object]) -> None:
    assert of(replace(JOB, **change)).total < of().total


def test_a_quantised_base_by_hand() -> None:
    """Four bits, their scales and the scales of those; embedding and head in eight bits; norms as they are."""
    linear, ends = 106_168_320, 28_311_552
    rest = 134_515_008 - linear - ends
    job = replace(JOB, quantize="nf4")
    assert of(job).weights == int(linear * 4.127 / 8 + ends * 8.25 / 8 + rest * 2)
    assert of(job).weights < 0.35 * of().weights
    assert of(job).layer - of().layer == 3072 * 576 * 2, "gate and up, made into numbers"
    assert of(job, "generate").weights == of(JOB, "generate").weights, "an engine holds the numbers"
    gptq = replace(JOB, quantize="gptq")
    assert of(gptq).weights == int(linear * 4.25 / 8 + (ends + rest) * 2) == of(gptq, "generate").weights
    shared = estimate.memory(replace(job, devices=8, shards=8), CPU)["train"]
    assert shared.weights == of(job).weights, "each device holds all of them"


def test_full_tuning_by_the_arithmetic_people_know() -> None:
    """bf16: 2 + 4 + 4 + 8 bytes a parameter; fp32: the weights are the masters, 4 + 4 + 8."""
    parameters = SMOLLM2.num_parameters
    job = replace(JOB, full=True, num_trainable=parameters, low_rank=0)
    for item_bytes, each in ((2, 18), (4, 16)):
        found = of(replace(job, item_bytes=item_bytes))
        assert found.weights + found.masters + found.gradients + found.moments + found.working == each * parameters


FULL = replace(JOB, full=True, num_trainable=SMOLLM2.num_parameters, low_rank=0)
TRAINED = {"masters", "gradients", "moments", "working"}


@pytest.mark.parametrize("job", [JOB, FULL])
def test_shards_divide_the_base_and_gather_a_layer(job: Job) -> None:
    """`backends/fsdp.py` never cuts adapters, and what is cut goes through transformers' layers. Of trained weights it
    holds the masters alone."""
    alone, shared = (estimate.memory(replace(job, devices=8, shards=shards), CUDA)["train"] for shards in (1, 8))
    assert shared.weights == (0 if job.full else alone.weights // 8)
    for name in TRAINED:
        assert getattr(shared, name) == getattr(alone, name) // (8 if job.full else 1)
    own = estimate.memory(replace(job, layers="transformers"), CUDA)["train"]
    assert shared.activations == own.activations > alone.activations
    assert shared.layer > alone.layer
    assert (shared.logits > alone.logits) == job.full, "by autograd"


@pytest.mark.parametrize("quantize", ["none", "nf4", "gptq"])
def test_answers_come_from_one_device(quantize: str) -> None:
    """An engine is never sharded, and makes no packed weights into numbers again."""
    job = replace(JOB, quantize=quantize)
    alone, shared = (estimate.memory(replace(job, shards=shards), CUDA)["generate"] for shards in (1, 8))
    assert shared == alone
    assert alone.weights == estimate.answering_bytes(SMOLLM2, job.quantize, 2)
    assert (alone.weights < 2 * SMOLLM2.num_parameters) == (quantize == "gptq")


def test_layers_that_others_packed_are_never_ours() -> None:
    """GPTQ's and AWQ's are of types that our blocks do not take; PEFT's adapters on them read a copy in fp32."""
    reads = 5 * 576 + 576 + 1536
    for quantize, ours in (("none", True), ("nf4", True), ("gptq", False), ("awq", False)):
        job = replace(JOB, quantize=quantize, reads=reads)
        assert (job.computed_by == "hand-written", job.shares) == (ours, ours)
        copies = estimate.saved_per_token(job) - estimate.saved_per_token(replace(job, reads=0))
        assert copies == (0 if ours else 4 * reads)


def test_layers_without_kernels_are_those_of_transformers() -> None:
    plain = replace(JOB, kernels=False)
    assert (plain.computed_by, plain.shares) == ("transformers", False)
    assert estimate.saved_parts(plain) == estimate.saved_parts(replace(JOB, layers="transformers"))
    beside = replace(JOB, layers="without backward", kernels=False)
    assert beside.computed_by == "without backward", "nothing is kept, whoever computes them"


def test_what_peft_s_own_adapters_read_is_kept_in_fp32() -> None:
    """Under dropout three times over, as measured; sharded once; in layers of ours, which read what is there, never."""
    reads = 5 * 576 + 576 + 1536
    job = replace(JOB, reads=reads)
    plain = estimate.saved_per_token(replace(job, layers="transformers"))
    assert estimate.saved_per_token(job) == 14_084
    assert estimate.saved_per_token(replace(job, dropout=True)) == plain + 3 * 4 * reads
    assert estimate.saved_per_token(replace(job, shards=8)) == plain + 4 * reads
    assert estimate.saved_per_token(replace(job, dropout=True, recompute="layer")) == 2 * 4 * 576


def test_a_checkpoint_is_put_together_in_the_host_s_memory() -> None:
    phases = estimate.memory(FULL, CUDA)
    assert phases["save"].disk == phases["resume"].disk == 0
    assert estimate.peak(phases) == phases["train"].total
    assert of(FULL, "save").disk == 12 * SMOLLM2.num_parameters * CPU.disk_copies


def test_what_is_kept_of_the_frozen_layers_is_a_tenth_of_the_memory_at_most() -> None:
    def kept(depth: int, num_tokens: int = 10_000) -> int:
        return estimate.kept_tokens(SMOLLM2, depth, num_tokens=num_tokens, memory_bytes=16 * GIB)

    assert (kept(0), kept(30), kept(8)) == (0, 0, 10_000)
    assert kept(8, 10**9) * 4 * 576 == pytest.approx(1.6 * GIB, rel=1e-5)
    phases = estimate.memory(replace(JOB, depth=8, kept_tokens=10_000), CPU)
    assert phases["train"].kept == phases["save"].kept == 10_000 * 576 * 4
    assert phases["generate"].kept == of().kept == 0


@pytest.mark.parametrize(("name", "num_bytes"), [("adamw", 8), ("adamw_8bit", 2), ("paged_adamw_8bit", 2), ("sgd", 0)])
def test_moments_are_those_of_the_optimizer(name: str, num_bytes: int) -> None:
    job = replace(JOB, moment_bytes=estimate.MOMENTS[name])
    assert of(job).moments == num_bytes * TRAINABLE
    assert of(job, "save").disk == (4 + num_bytes) * TRAINABLE * CPU.disk_copies
    assert estimate.MOMENTS.keys() == set(optimizer.NAMES) == set(get_args(Optimizer))


# ---- time ------------------------------------------------------------------------------------------------------------


def flops(job: Job = JOB, *, share: float = 0.0, length: float = 0.0) -> float:
    return estimate.training_flops(job, supervised_share=share, mean_length=length)


def test_flops_by_hand() -> None:
    """4 a frozen weight, 6 a trained one, 4 a weight of the head where supervised, and causal attention."""
    bare = flops()
    assert bare == 4 * 106_168_320 + 6 * TRAINABLE == 453_980_160
    assert flops(share=0.5) - bare == 4 * 49_152 * 576 * 0.5
    assert flops(length=100.0) - bare == 7 * 9 * 64 * 100 * 30
    full = replace(JOB, full=True, num_trainable=SMOLLM2.num_parameters)
    assert flops(full) == 6 * 106_168_320
    half = estimate.training_flops(replace(JOB, depth=15), supervised_share=0, mean_length=0, below=0.2)
    assert half == pytest.approx((4 * 0.5 + 2 * 0.5 * 0.2) * 106_168_320 + 6 * TRAINABLE)
    assert flops(replace(JOB, depth=15)) == 3 * 106_168_320 + 6 * TRAINABLE, "below the adapters there is no backward"


def test_computing_again_costs_what_it_computes() -> None:
    assert flops(replace(JOB, recompute="mlp")) - flops() == 2 * 30 * 2 * 576 * 1536
    forward = 2 * 106_168_320 + 2 * TRAINABLE
    assert flops(replace(JOB, recompute="layer")) - flops() == pytest.approx(forward)


def test_seconds_follow_the_machine() -> None:
    def seconds(job: Job = JOB, *, speed: float = 1e11, tokens: int = 10_000, micro: int = 10, steps: int = 5) -> float:
        return estimate.training_seconds(
            job, CPU, num_tokens=tokens, num_micro=micro, steps=steps, flops_per_token=flops(job), flops=speed
        )

    assert seconds(speed=2e11) < seconds() < seconds(speed=5e10)
    assert seconds(micro=20) - seconds() == pytest.approx(10 * 30 * CPU.layer_seconds)
    assert seconds(steps=6) - seconds() == pytest.approx(TRAINABLE * CPU.step_seconds)
    cut = replace(JOB, devices=8, shards=8)
    assert seconds(cut, steps=6) - seconds(cut) == pytest.approx(TRAINABLE * CPU.step_seconds), "an adapter is not cut"


def test_one_more_token_reads_all_weights_once() -> None:
    one, many = (estimate.decode_seconds(JOB, CPU, rows=rows, flops=1e15) for rows in (1, 32))
    assert one == many == pytest.approx(2 * (106_168_320 + 49_152 * 576) / CPU.bandwidth + 30 * CPU.decode_seconds)
    assert estimate.decode_seconds(JOB, CPU, rows=512, flops=1e11) > one


def test_only_several_devices_send_to_each_other() -> None:
    def travel(devices: int, shards: int) -> float:
        job = replace(JOB, devices=devices, shards=shards)
        return estimate.travel_seconds(job, CUDA, num_micro=10, steps=10)

    assert travel(1, 1) == 0.0
    assert 0 < travel(2, 1) < travel(8, 1) < travel(8, 8)


def test_the_products_of_a_model_are_those_of_its_layers() -> None:
    found = estimate.products(SMOLLM2, 512)
    assert {tuple(product) for product in found} == {
        (512, 576, 960), (512, 576, 576), (512, 576, 3072), (512, 1536, 576)
    }  # fmt: skip
