"""How much memory and time a training run needs, from the model's sizes and one measured matrix product.

The constants were calibrated on SmolLM2-135M with 2 cores (docs/why/numerics.md); the end of each run prints the
estimate beside what was measured, so that they stay honest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sartor.hub import Shape

#: Python, torch, transformers and PEFT before the first weight.
RUNTIME_BYTES = 480 * 2**20
#: Seconds a token for each element of a block's hidden and inner vectors, beside the products: norms, rotation,
#: activation, attention, copies. 1.4 ms a token for SmolLM2-135M, on fast and slow multipliers alike.
POINTWISE_SECONDS = 2.2e-8
#: Bytes per trainable parameter: fp32 master, gradient and two moments, two working copies, and a save in passing.
TRAINABLE_BYTES = 4 + 4 + 8 + 4 + 4


def training_flops(shape: Shape, num_trainable: int, *, supervised_share: float, mean_length: float) -> float:
    """FLOPs a token: 4 per frozen weight (forward, input gradient), 6 per adapter weight, the head where trained."""
    head = 4.0 * shape.vocab * shape.hidden * supervised_share
    attention = 7.0 * shape.num_heads * shape.head_dim * mean_length * shape.num_layers
    return 4.0 * shape.num_linear + 6.0 * num_trainable + head + attention


def training_seconds(num_tokens: int, flops_per_token: float, flops: float, shape: Shape) -> float:
    """Seconds for tokens: their products at a measured speed in FLOP/s, and the rest, which does not follow it."""
    rest = POINTWISE_SECONDS * shape.num_layers * (shape.hidden + shape.inner)
    return num_tokens * (flops_per_token / flops + rest)


def training_bytes(shape: Shape, num_trainable: int, *, micro_tokens: int, item_bytes: int) -> int:
    """Peak memory: runtime, weights, adapter with optimizer, saved activations of one micro-batch, a tile of logits."""
    query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    # Saved for backward in one block, per token: norms in fp32, projections, rotated copies, gate, up and product.
    per_block = item_bytes * (6 * shape.hidden + 4 * query + 6 * key + 5 * shape.inner) + 4 * (4 * shape.hidden)
    activations = micro_tokens * shape.num_layers * per_block
    logits = 512 * shape.vocab * item_bytes * 2
    weights = shape.num_parameters * item_bytes
    return int(RUNTIME_BYTES + weights + num_trainable * TRAINABLE_BYTES + activations + logits)
