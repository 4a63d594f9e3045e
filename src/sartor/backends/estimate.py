"""How much memory and time a run needs, from the model's sizes and a short calibration: every byte and second itemised.

`Calibration` holds what sizes cannot tell: it is fitted to measurements, in one place, and nowhere else (`CPU`, `CUDA`;
docs/why/planning.md). The end of each run prints the estimate beside what was measured, so that it stays honest.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from pydantic import Field

from sartor.hardware import ENVIRONMENT, Product
from sartor.hub import TOGETHER, Shape
from sartor.plan import Memory, Quantized, Recompute
from sartor.types import Frozen

MIB = 2**20
MASTER, GRADIENT = 4, 4  # bytes a trained parameter: fp32 both
#: The same of an optimizer's moments: Adam has two, in fp32 or in 8 bits.
MOMENTS: dict[str, int] = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "sgd": 0}
#: Optimizers of bitsandbytes, whose moments have 8 bits; paged ones live in memory that the GPU shares with the CPU.
EIGHT_BIT = {"adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit"}
#: Bits of a weight that is held packed: 4 + 8/64 + 32/(64 · 256) with double quantisation (QLoRA, §3), 8 + 16/64;
#: and what GPTQ and AWQ mostly have, with groups of 128.
BITS: dict[str, float] = {"nf4": 4.127, "fp4": 4.127, "int8": 8.25, "gptq": 4.25, "awq": 4.25}
OURS = ("nf4", "fp4", "int8")  # of these embedding and head are held in eight bits; the others leave them as they are
STREAM = 4  # bytes an element of the residual stream and of its gradient: fp32
#: Copies of an adapter's input under dropout: what is drawn, what is left, and as much that lies freed between them
#: (SmolLM2-135M in fp32: 3.24 and 3.16 GiB measured with adapters on all linear layers, 3.12 foretold).
DROPPED = 3
KEPT_SHARE = 0.1  # of the machine's memory, for what leaves frozen layers: 2.3 KB a token for SmolLM2-135M
TRAINING = ("load", "train", "evaluate", "save", "resume")  # the phases of the stage `train`
#: Bytes of a logit's log-probability and gradient in fp32, and its gradient once more: by autograd, where the trained
#: head is shared out; our own loss makes them in the logits' place.
_SLOPES = 10
STORED = 2  # bytes a parameter of a checkpoint that is not quantised: bf16 or fp16, as nearly all are published


class Calibration(Frozen):
    """What is measured, not derived. Bytes, seconds, and shares."""

    runtime_bytes: int = Field(description="Python and the libraries, before the first weight.")
    product_bytes: int = Field(description="One compiled matrix product of shorter numbers that oneDNN keeps.")
    num_products: int = Field(description="How many it keeps. Training's products of fp32 are MKL's, which keeps none.")
    reads_here: bool = Field(description="Whether the checkpoint's file is read into the memory that is planned.")
    working_copies: float = Field(description="Copies of the trained weights in the type of the products.")
    tile: int = Field(description="Supervised positions whose logits are made at once at full speed.")
    disk_copies: float = Field(description="Share of trained weights and moments held twice in a save or a load.")
    cache_bytes: int = Field(description="Keys and values of answers, or of one context if more; 0: a share of a GPU.")
    prefill_tokens: int = Field(description="Prompt tokens in one forward of generation.")
    efficiency: float = Field(description="Share of the given FLOP/s that training's products reach.")
    attention_edge: int = Field(description="Tokens that each query costs beside those it sees: edges of blocks.")
    pointwise_seconds: float = Field(description="A token, for each element of a layer's hidden and inner vectors.")
    layer_seconds: float = Field(description="A layer and micro-batch: what calling costs, forward and backward.")
    decode_seconds: float = Field(description="A layer and token of generation: what calling costs.")
    step_seconds: float = Field(description="A trained parameter and optimizer step.")
    bandwidth: float = Field(description="Bytes a second that generation reads of the weights.")
    link: float = Field(description="Bytes a second from one device to the others.")
    disk_bandwidth: float = Field(description="Bytes a second that are written to disk and checked.")
    start_seconds: float = Field(description="Importing the libraries and opening a model.")
    row_seconds: float = Field(description="Reading, rendering and checking a row.")
    report_seconds: float = Field(description="Statistics, charts and the report.")


#: torch imports triton where it is installed, though a CPU has no use for it.
TRITON_BYTES = 75 * MIB if importlib.util.find_spec("triton") else 0

#: SmolLM2-135M on 2 cores: 0.3 ms a token beside the products, with the hand-written layers.
CPU = Calibration(
    runtime_bytes=460 * MIB + TRITON_BYTES,
    product_bytes=3 * MIB,
    num_products=int(ENVIRONMENT["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]),
    reads_here=True,
    working_copies=4.0,
    tile=512,
    disk_copies=0.5,
    cache_bytes=1 << 30,
    prefill_tokens=2048,
    efficiency=0.93,
    attention_edge=135,
    pointwise_seconds=5e-9,
    layer_seconds=1e-4,
    decode_seconds=1e-3,
    step_seconds=5e-9,
    bandwidth=2e10,
    link=1e9,
    disk_bandwidth=3e8,
    start_seconds=5.0,
    row_seconds=2e-3,
    report_seconds=4.0,
)

#: An assumption, said beside every number that rests on it. 45 % of the dense bf16 peak is between what well-tuned
#: trainers publish for LoRA (34 % of an A100) and full training (64 % of an H200 with FP8); a quarter of an 8B model
#: reached 51 % of an H200's by its datasheet with our layers, and allocated what is foretold for its step
#: (docs/why/gpu.md).
CUDA = Calibration(
    runtime_bytes=1200 * MIB,
    product_bytes=0,
    num_products=0,
    reads_here=False,
    working_copies=2.0,
    tile=4096,
    disk_copies=0.0,  # a checkpoint is put together in the host's memory, and read there
    cache_bytes=0,
    prefill_tokens=8192,
    efficiency=0.45,
    attention_edge=0,
    pointwise_seconds=0.0,
    layer_seconds=4e-4,
    decode_seconds=8e-5,
    step_seconds=1e-10,
    bandwidth=1e12,
    link=3e10,
    disk_bandwidth=1e9,
    start_seconds=20.0,
    row_seconds=2e-3,
    report_seconds=4.0,
)
#: The same where the speed of the model's own products was measured, of which 65 % were reached (docs/why/gpu.md).
CUDA_HERE = CUDA.model_copy(update={"efficiency": 0.65})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What decides memory and time beside the calibration. Sizes are of the whole model, tokens of one device.

    `low_rank` is the width of what a layer keeps of its low-rank inputs (adapted matrices × r), `reads` that of all
    inputs of its adapted matrices; `dropout`: some of these are dropped. `depth` is how many layers the backward
    passes, 0 all; of `kept_tokens`, what enters the lowest of them is kept from epoch to epoch. Of a micro-batch's
    tokens `virtual` stand before the text, which the `longest` example counts alone.
    `quantize` is how the base's weights are held, `layers` who is to compute its layers (`adapters.method.Preset`),
    `kernels` whether the device has what ours need, `moment_bytes` what the optimizer keeps of a trained parameter.
    `devices` share the work; `shards` of them hold the weights together, 1: each holds all of them, and must unless the
    base is `cuttable`. `answer_tokens` is what generation holds in its cache at most.
    """

    shape: Shape
    item_bytes: int
    num_trainable: int
    micro_tokens: int
    longest: int
    low_rank: int = 0
    reads: int = 0
    dropout: bool = False
    recompute: Recompute = "none"
    tile: int = 512
    full: bool = False
    depth: int = 0
    kept_tokens: int = 0
    virtual: int = 0
    moment_bytes: int = MOMENTS["adamw"]
    quantize: Quantized = "none"
    layers: str = "hand-written"
    kernels: bool = True
    devices: int = 1
    shards: int = 1
    cuttable: bool = True
    answer_rows: int = 1
    answer_tokens: int = 0

    @property
    def num_layers(self) -> int:
        """Layers that the backward passes."""
        return self.depth or self.shape.num_layers

    @property
    def num_held(self) -> float:
        """Trained parameters of one device: adapters are never cut."""
        return self.num_trainable / (self.shards if self.full else 1)

    @property
    def text_tokens(self) -> int:
        """Tokens of a micro-batch when it is packed, before virtual ones are put in."""
        return self.micro_tokens - self.virtual

    @property
    def foreign(self) -> bool:
        """Whether the weights are packed in layers of others, such as GPTQ's."""
        return self.quantize not in ("none", *OURS)

    @property
    def computed_by(self) -> str:
        """Who computes the layers, as `layers`: ours need their kernels and whole weights, and drop nothing."""
        ours = self.kernels and self.shards == 1 and not self.dropout and not self.foreign
        return "transformers" if self.layers == "hand-written" and not ours else self.layers

    @property
    def shares(self) -> bool:
        """Whether equal beginnings are computed once, and frozen layers once for all epochs: only ours do that."""
        return self.computed_by == "hand-written"


def weight_parts(shape: Shape, quantize: Quantized, item_bytes: int) -> dict[str, tuple[int, float]]:
    """The base's parameters by how they are held: how many, and bytes of each."""
    if quantize == "none":
        return {"parameters": (shape.num_parameters, item_bytes)}
    ends = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    parts = {
        f"in {quantize}": (shape.num_linear, BITS[quantize] / 8),
        "of embedding and head": (ends, BITS["int8"] / 8 if quantize in OURS else item_bytes),
        "others": (shape.num_parameters - shape.num_linear - ends, item_bytes),
    }
    return {name: part for name, part in parts.items() if part[0]}


def base_bytes(shape: Shape, quantize: Quantized, item_bytes: int) -> int:
    """Bytes of the base's weights."""
    return int(sum(count * size for count, size in weight_parts(shape, quantize, item_bytes).values()))


def answering_bytes(shape: Shape, quantize: Quantized, item_bytes: int) -> int:
    """Bytes of the weights where they answer: on one device, packed ones of ours as the numbers that they stand for."""
    return base_bytes(shape, "none" if quantize in OURS else quantize, item_bytes)


def query_width(shape: Shape) -> int:
    return shape.num_heads * shape.head_dim


def key_width(shape: Shape) -> int:
    return shape.num_kv_heads * shape.head_dim


def kept_tokens(shape: Shape, depth: int, *, num_tokens: int, memory_bytes: int) -> int:
    """Of so many training tokens, those for which what enters the lowest trained layer has room in `KEPT_SHARE`."""
    if not 0 < depth < shape.num_layers:
        return 0
    return min(num_tokens, int(KEPT_SHARE * memory_bytes) // (STREAM * shape.hidden))


def saved_parts(job: Job) -> dict[str, int]:
    """What one layer keeps of one token for the backward, in bytes by what it is."""
    shape, item = job.shape, job.item_bytes
    if job.computed_by == "without backward":
        return {"what leaves the layer": STREAM * shape.hidden}
    parts = {"residual stream, before attention and before the MLP": 2 * STREAM * shape.hidden}
    if job.computed_by == "transformers" and job.recompute != "layer":
        parts |= {
            "what the norms read and give": 4 * STREAM * shape.hidden,
            "activated gate, and what the MLP's last product reads": item * 2 * shape.inner,
            "what adapters read": item * 3 * shape.hidden,
            "the same in fp32, by PEFT's own adapters": MASTER * _copies(job) * job.reads,
        }
    if job.recompute != "layer":
        parts |= {
            "rotated queries, keys, values": item * (query_width(shape) + 2 * key_width(shape)),
            "attention output": item * query_width(shape),
            "log-sum-exp of each head": 4 * shape.num_heads,
            "low-rank inputs": item * job.low_rank,
        }
    if job.recompute == "none":
        parts["gate and up"] = item * 2 * shape.inner
    if job.computed_by == "hand-written":
        parts |= _before_norms(job)
    return {name: size for name, size in parts.items() if size}


def _copies(job: Job) -> int:
    """Copies that PEFT's own LoRA keeps of what an adapted matrix reads: ours takes its place on whole weights."""
    return DROPPED if job.dropout else int((job.shards > 1 or job.foreign) and job.layers == "hand-written")


def _before_norms(job: Job) -> dict[str, int]:
    """What norms inside a block read: those of each head's queries and keys, and those of what a block adds."""
    norms, parts = dict(job.shape.norms), {}
    if "self_attn.q_norm" in norms and job.recompute != "layer":
        parts["queries, keys, values before their norms"] = job.item_bytes * (
            query_width(job.shape) + 2 * key_width(job.shape)
        )
    if "post_feedforward_layernorm" in norms:
        parts["what attention and the MLP add, before their norms"] = job.item_bytes * 2 * job.shape.hidden
    return parts


def saved_per_token(job: Job) -> int:
    """Bytes that one layer keeps of one token for the backward."""
    return sum(saved_parts(job).values())


def scratch_per_token(job: Job) -> int:
    """Bytes of one layer while it computes: gradients of gate, up and qkv, their product, the stream's gradient."""
    shape, item = job.shape, job.item_bytes
    inner = item * 3 * shape.inner
    attention = item * (query_width(shape) + 2 * key_width(shape) + query_width(shape))
    again = {
        "none": 0,
        "mlp": item * 2 * shape.inner,
        "layer": saved_per_token(replace(job, recompute="none")),
    }[job.recompute]
    return inner + attention + 2 * STREAM * shape.hidden + item * shape.hidden + again


def attention_per_token(job: Job) -> int:
    """fp32 sums of the gradients of keys and values: one for each query head and each half of its queries."""
    return 2 * 2 * STREAM * query_width(job.shape)


def memory(job: Job, calibration: Calibration) -> dict[str, Memory]:
    """Bytes of each phase on one device, itemised. Sharded (FSDP) over more than one, with a layer gathered at a time.

    Packed weights are not sharded: each device holds them all, and makes a layer at a time into numbers. Gradients are
    dropped after each step. Activations too, but for those of our layers, whose buffers stay (`ops/workspace.py`).
    """
    shape, trained = job.shape, job.num_held
    held = Memory(
        runtime=calibration.runtime_bytes,
        weights=_weights(job),
        masters=0 if job.full and job.item_bytes == MASTER else int(trained * MASTER),
        moments=int(trained * job.moment_bytes),
        working=0 if job.full else int(trained * job.item_bytes * calibration.working_copies),
        products=calibration.product_bytes * calibration.num_products if job.item_bytes < MASTER else 0,
        kept=job.kept_tokens * shape.hidden * STREAM,
    )
    logits = job.tile * shape.vocab * (job.item_bytes + (_SLOPES if job.full and job.shards > 1 else 0))
    attention = job.micro_tokens * attention_per_token(job)
    layer = job.micro_tokens * scratch_per_token(job) + _gathered(job) + _made(job)
    computing = {"attention": attention, "logits": logits, "layer": layer}
    activations = {"activations": job.micro_tokens * job.num_layers * saved_per_token(job)}
    buffers = computing | activations if job.computed_by == "hand-written" else {}
    disk = int(trained * (MASTER + job.moment_bytes) * calibration.disk_copies)
    return {
        "load": loading(held, job, calibration),
        "train": held.model_copy(update={**computing, **activations, "gradients": int(trained * GRADIENT)}),
        "evaluate": held.model_copy(update=computing | buffers),
        "save": held.model_copy(update={**buffers, "disk": disk}),
        "resume": held.model_copy(update={**buffers, "disk": disk}),
        "generate": held.model_copy(
            update={
                "weights": answering_bytes(shape, job.quantize, job.item_bytes),
                "masters": 0,
                "moments": 0,
                "kept": 0,
                "products": calibration.product_bytes * calibration.num_products,
                "keys": _answers_keys(job, calibration),
                "layer": min(calibration.prefill_tokens, job.answer_tokens) * scratch_per_token(job),
                "logits": job.answer_rows * shape.vocab * (job.item_bytes + 4),
            }
        ),
    }


def held_parts(job: Job, item_bytes: int) -> dict[str, tuple[int, float]]:
    """`weight_parts` beside the masters. Trained weights that devices share out are their own masters, in fp32."""
    if job.full and job.shards > 1 and item_bytes < MASTER:
        return {"frozen": (job.shape.num_parameters - job.num_trainable, item_bytes)}
    return weight_parts(job.shape, job.quantize, item_bytes)


def _weights(job: Job) -> int:
    """Bytes of the base on one device. Packed ones are not cut."""
    whole = int(sum(count * size for count, size in held_parts(job, job.item_bytes).values()))
    return whole // job.shards if job.quantize == "none" else whole


def key_bytes(shape: Shape, item_bytes: int) -> int:
    """Bytes of a token's keys and values in all layers."""
    return 2 * shape.num_layers * key_width(shape) * item_bytes


def _answers_keys(job: Job, calibration: Calibration) -> int:
    """Bytes of the keys and values of answers: of all at once, or what the cache holds."""
    token = key_bytes(job.shape, job.item_bytes)
    wanted = job.answer_tokens * token
    return min(wanted, max(calibration.cache_bytes, job.shape.context * token)) if calibration.cache_bytes else wanted


def loading(held: Memory, job: Job, calibration: Calibration) -> Memory:
    """What a run holds when the last weight is taken from the checkpoint, whose pages stay until then."""
    num_bytes = base_bytes(job.shape, job.quantize, STORED) if job.foreign else job.shape.num_parameters * STORED
    return Memory(runtime=held.runtime, weights=held.weights, mapped=num_bytes if calibration.reads_here else 0)


def peak(phases: dict[str, Memory]) -> int:
    """Bytes of the stage `train` at its fullest."""
    return max(phases[name].total for name in TRAINING)


def forward_share(job: Job, below: float) -> float:
    """Share of the layers that a forward passes: those that train always, those below them `below` times in one."""
    passed = job.num_layers / job.shape.num_layers
    return passed + (1 - passed) * below


def training_flops(job: Job, *, supervised_share: float, mean_length: float, below: float = 1.0) -> float:
    """FLOPs a token: 4 per frozen weight (forward, input gradient), 6 per trained one, the head where supervised.

    Attention is causal: 2 products forward and 5 backward over half the square. Below the lowest trained layer there is
    no backward, and a forward only `below` times in one. Recomputed forwards come on top.
    """
    shape, passed = job.shape, job.num_layers / job.shape.num_layers
    forward, backward = forward_share(job, below), 4.0 if job.full else 2.0
    weights = (2.0 * forward + backward * passed) * shape.num_linear
    adapter = 0.0 if job.full else 6.0 * job.num_trainable
    head = (2.0 + backward) * shape.vocab * shape.hidden * supervised_share
    square = query_width(shape) * mean_length * shape.num_layers
    attention = _attention_products(job, below) * square
    again = {
        "none": 0.0,
        "mlp": 4.0 * job.num_layers * shape.hidden * shape.inner,
        "layer": 2.0 * passed * (shape.num_linear + square) + adapter / 3.0,
    }[job.recompute]
    return weights + adapter + head + attention + again


def _attention_products(job: Job, below: float) -> float:
    """How often a forward and a backward pass over the square of the scores, in products of all layers."""
    return 2.0 * forward_share(job, below) + 5.0 * job.num_layers / job.shape.num_layers


def training_seconds(
    job: Job,
    calibration: Calibration,
    *,
    num_tokens: int,
    num_micro: int,
    steps: int,
    flops_per_token: float,
    flops: float,
    below: float = 1.0,
) -> float:
    """Seconds for `num_tokens` in `num_micro` micro-batches on one device: products, what is not products, steps.

    `flops` is the device's speed in FLOP/s, before the calibration's efficiency; `below` as for `training_flops`.
    """
    shape, layers = job.shape, job.shape.num_layers * forward_share(job, below)
    edges = _attention_products(job, below) * query_width(shape) * 2.0 * calibration.attention_edge * shape.num_layers
    products = num_tokens * (flops_per_token + edges) / (flops * calibration.efficiency)
    pointwise = num_tokens * calibration.pointwise_seconds * layers * (shape.hidden + shape.inner)
    calls = num_micro * layers * calibration.layer_seconds
    return products + pointwise + calls + steps * job.num_held * calibration.step_seconds


def travel_seconds(job: Job, calibration: Calibration, *, num_micro: int, steps: int) -> float:
    """Seconds that weights and gradients travel between devices: sharded weights twice a micro-batch, gradients once
    a step, to and fro. It happens beside the computing: the longer of the two counts."""
    if job.devices == 1:
        return 0.0
    weights = 2 * num_micro * job.shape.num_parameters * job.item_bytes if job.shards > 1 else 0.0
    gradients = 2 * steps * job.num_trainable * GRADIENT
    return (weights + gradients) * (job.devices - 1) / job.devices / calibration.link


def forward_seconds(job: Job, calibration: Calibration, *, num_tokens: float, flops: float) -> float:
    """Seconds to read tokens: a forward alone, without the head."""
    shape = job.shape
    products = num_tokens * 2.0 * (shape.num_linear + job.num_trainable) / (flops * calibration.efficiency)
    return products + num_tokens * calibration.pointwise_seconds / 3 * shape.num_layers * (shape.hidden + shape.inner)


def decode_seconds(job: Job, calibration: Calibration, *, rows: int, flops: float) -> float:
    """Seconds for one more token of each of `rows` answers: the weights are read once, and multiplied by each."""
    shape = job.shape
    weights = shape.num_linear + shape.vocab * shape.hidden
    held = answering_bytes(shape, job.quantize, job.item_bytes)
    reading = weights * held / shape.num_parameters / calibration.bandwidth
    products = 2.0 * rows * weights / (flops * calibration.efficiency)
    return max(reading, products) + shape.num_layers * calibration.decode_seconds


def save_seconds(job: Job, calibration: Calibration) -> float:
    """Seconds for one checkpoint."""
    return job.num_trainable * (MASTER + job.moment_bytes) / calibration.disk_bandwidth


def products(shape: Shape, micro_tokens: int) -> tuple[Product, ...]:
    """The matrix products of training a layer, as (rows, inner, columns): what the calibration measures.

    Those that read the same input are one.
    """
    leaders = {name: names[0] for names in TOGETHER for name in names}
    joint: dict[str, Product] = {}
    for name, (inputs, outputs) in shape.linear_sizes().items():
        leader = leaders.get(name, name)
        before = joint[leader].columns if leader in joint else 0
        joint[leader] = Product(micro_tokens, inputs, before + outputs)
    return tuple(joint.values())


def _gathered(job: Job) -> int:
    """Sharded weights come together a layer at a time, and the next one is on its way; so do embedding and head.

    Trained ones give their gradients whole, and once more in fp32 to be summed.
    """
    if job.shards == 1:
        return 0
    shape = job.shape
    layer, ends = shape.num_linear // shape.num_layers, shape.vocab * shape.hidden * (1 if shape.tied else 2)
    slopes = max(layer, ends) * (job.item_bytes + GRADIENT) if job.full else 0
    return (2 * layer + ends) * job.item_bytes + slopes


def _made(job: Job) -> int:
    """Packed weights are made into numbers for one product at a time: the largest is that of gate and up."""
    return 2 * job.shape.hidden * job.shape.inner * job.item_bytes if job.quantize in OURS else 0
