"""How LoRA's two matrices begin, where that is not at random and at zero.

EVA looks at training data. PiSSA, OLoRA and LoftQ begin with an update of their own, s B₀ A₀, and take it out of the
base, so that the sum is the base as it was: W = (W - s B₀ A₀) + s B₀ A₀. PEFT leaves it at that: the adapter that it
saves is of a base that nobody else has, and with the adapter switched off, the answers are no longer the base's. So
each layer remembers A₀ and B₀. A checkpoint holds them (another machine's decomposition may differ), and what is saved
is the change itself, s (B A - B₀ A₀): plain LoRA of rank 2 r on the base as it was.

Shapes: R rank · K inputs · N outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from sartor.adapters.saving import ADAPTER
from sartor.errors import ModelError, RecipeError
from sartor.ops.lora_linear import AugmentedLoraLinear
from sartor.types import Batch

#: Forwards after which the principal components that EVA looks for should have settled: it takes a dozen or two.
MOST_FORWARDS = 1000


class MovedLoraLinear(AugmentedLoraLinear):
    """A LoRA layer that took the update it began with out of its base. `remember` must be called once after that.

    Attributes:
        start: A₀ and B₀. They stay where the model was when it began, on the CPU.
    """

    start: tuple[torch.Tensor, torch.Tensor]

    def remember(self) -> None:
        self.start = (self._down.detach().clone(), self._up.detach().clone())

    @torch.no_grad()
    def begin(self, down_RK: torch.Tensor, up_NR: torch.Tensor) -> None:
        """Begin at this update: take it out of the base."""
        self._down.copy_(down_RK)
        self._up.copy_(up_NR)
        self._add(-(up_NR @ down_RK))
        self.remember()

    @torch.no_grad()
    def begin_again(self, down_RK: torch.Tensor, up_NR: torch.Tensor) -> None:
        """As if the layer had begun at this update; right to the rounding of the base, and nothing moves if it had."""
        old_RK, old_NR = self.start
        if torch.equal(old_RK, down_RK) and torch.equal(old_NR, up_NR):
            return
        self._add(old_NR @ old_RK - up_NR @ down_RK)
        self.start = (down_RK, up_NR)

    def change(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B A - B₀ A₀ as one product of rank 2 r. As the difference of two large ones it would be lost in bf16."""
        down_SK = torch.cat((self._down.detach().cpu(), self.start[0])).double()
        up_NS = torch.cat((self._up.detach().cpu(), -self.start[1]), dim=1).double()
        (basis_NP, left_PS), (basis_KQ, right_QS) = torch.linalg.qr(up_NS), torch.linalg.qr(down_SK.t())
        u_PZ, sizes_Z, v_ZQ = torch.linalg.svd(left_PS @ right_QS.t(), full_matrices=False)
        roots_Z = sizes_Z.sqrt()
        down, up = torch.zeros_like(down_SK), torch.zeros_like(up_NS)
        down[: len(roots_Z)] = roots_Z[:, None] * (v_ZQ @ basis_KQ.t())
        up[:, : len(roots_Z)] = basis_NP @ u_PZ * roots_Z
        return down.float(), up.float()

    @property
    def _down(self) -> torch.Tensor:
        weight: torch.Tensor = self.lora_A[ADAPTER].weight
        return weight

    @property
    def _up(self) -> torch.Tensor:
        weight: torch.Tensor = self.lora_B[ADAPTER].weight
        return weight

    def _add(self, update_NK: torch.Tensor) -> None:
        """Add s times this to the base, in place: it may be a view of weights that are laid out for speed."""
        weight_NK = self.base_layer.weight
        update_NK = update_NK.to(weight_NK.device) * self.scaling[ADAPTER]
        weight_NK.copy_(weight_NK.float() + update_NK)


def moved(model: Any) -> dict[str, MovedLoraLinear]:
    """The layers of a model that took something out of their base, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, MovedLoraLinear)}


def state(model: Any) -> dict[str, torch.Tensor]:
    """What the layers began with."""
    starts = {name: layer.start for name, layer in moved(model).items()}
    downs = {f"{name}.start_A": start[0] for name, start in starts.items()}
    return downs | {f"{name}.start_B": start[1] for name, start in starts.items()}


def restore(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """The mirror of `state`: what the base must have lost for these."""
    for name, layer in moved(model).items():
        layer.begin_again(tensors[f"{name}.start_A"], tensors[f"{name}.start_B"])


def as_plain_lora(model: Any) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """The adapter as plain LoRA on the base as it was: its settings, and its tensors by the names of the parameters.

    None for the tensors where those that the model has are right.
    """
    plain = copy.deepcopy(model.peft_config[ADAPTER])
    plain.init_lora_weights, plain.eva_config = True, None
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in moved(model).items():
        down, up = layer.change()
        tensors |= {f"{name}.lora_A.{ADAPTER}.weight": down, f"{name}.lora_B.{ADAPTER}.weight": up}
    if tensors:
        plain.r *= 2
        plain.lora_alpha *= 2**0.5 if plain.use_rslora else 2  # so that the scale stays
    return plain, tensors or None


def look_at_data(model: Any, batches: Sequence[Batch]) -> None:
    """EVA: the rows of A become the directions in which the layer's inputs vary most (Paischer et al. 2024, §3).

    PEFT's own, with the same rank for every layer, so that shapes are known before the data is. Without batches A stays
    as it is.

    Raises:
        RecipeError: the batches have fewer tokens than the rank.
        ModelError: the directions do not settle.
    """
    from peft import initialize_lora_eva_weights

    if not batches:
        return
    rank = model.peft_config[ADAPTER].r
    loader = [_padded(batch) for batch in batches if batch.num_tokens >= rank]
    if not loader:
        raise RecipeError(
            f"eva looks for {rank} directions, and no batch of the training data has as many tokens",
            hint="give it more examples or a smaller `tune.adapter.r`, or choose lora",
        )
    num_left = MOST_FORWARDS

    def forward(model: Any, inputs: Any) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise ModelError(
                f"eva: the directions of the inputs do not settle in {MOST_FORWARDS} forwards", hint="choose lora"
            )
        model(**inputs)

    inner = model.get_base_model()
    attention = inner.config._attn_implementation
    inner.set_attn_implementation("sdpa")  # ours is of flat batches, and may be of another device
    try:
        initialize_lora_eva_weights(model, loader, forward_fn=forward, show_progress_bar=False)
    finally:
        inner.set_attn_implementation(attention)


def _padded(batch: Batch) -> dict[str, torch.Tensor]:
    """The segments of a flat batch as rows that end in padding; what is padding is not looked at."""
    rows = [torch.from_numpy(batch.tokens_T[start:end]) for start, end in pairwise(batch.offsets_S1.tolist())]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": pad_sequence(rows, batch_first=True), "attention_mask": mask}
