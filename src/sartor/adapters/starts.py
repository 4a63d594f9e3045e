"""How LoRA's two matrices begin, where that is not at random and at zero.

EVA looks at training data. LoftQ looks at what a base in four bits lost, and begins there. PiSSA and OLoRA (and LoftQ
on any other base) begin with an update of their own, s B₀ A₀, and take it out of the base, so that the sum is the base
as it was: W = (W - s B₀ A₀) + s B₀ A₀. PEFT leaves it at that: the adapter that it saves is of a base that nobody else
has, and with the adapter switched off, the answers are no longer the base's. So each layer remembers A₀ and B₀. A
checkpoint holds them (another machine's decomposition may differ), and what is saved is the change itself,
s (B A - B₀ A₀): plain LoRA of rank 2 r on the base as it was.

Shapes: R rank · K inputs · N outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils.rnn import pad_sequence

from sartor.adapters.saving import ADAPTER
from sartor.base import remainders
from sartor.errors import ModelError, RecipeError
from sartor.ops.lora_linear import AugmentedLoraLinear
from sartor.ops.quantised import pack
from sartor.ops.quantised_linear import QuantisedLinear
from sartor.types import Batch

#: Forwards after which the principal components that EVA looks for should have settled: it takes a dozen or two.
MOST_FORWARDS = 1000
#: Rounds of LoftQ's search where the base is not in four bits yet, as in the paper.
ROUNDS = 5

#: A and B of a layer.
Factors = tuple[torch.Tensor, torch.Tensor]


class MovedLoraLinear(AugmentedLoraLinear):
    """A LoRA layer whose base has lost the update that it began with. `remember` must be called once at the start.

    Attributes:
        start: A₀ and B₀. They stay where the model was when it began, on the CPU.
    """

    start: tuple[torch.Tensor, torch.Tensor]

    @torch.no_grad()
    def remember(self, *, take_out: bool) -> None:
        """Note the update that it begins with; `take_out` of the base what PEFT has not."""
        self.start = (self._down.detach().clone(), self._up.detach().clone())
        if take_out:
            self._add(-(self._up @ self._down))

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
        """Add s times this to the base, in place: it may be a view of weights laid out for speed, or a rank's part."""
        weight_NK = self.base_layer.weight
        update_NK = update_NK.to(weight_NK.device) * self.scaling[ADAPTER]
        if isinstance(weight_NK, DTensor):
            update_NK = distribute_tensor(update_NK, weight_NK.device_mesh, weight_NK.placements, src_data_rank=None)
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
    if not tensors:
        return plain, None
    plain.r *= 2
    plain.lora_alpha *= 2**0.5 if plain.use_rslora else 2  # so that the scale stays
    return plain, {**model.state_dict(), **tensors}  # PEFT also looks for what is trained whole: a classifier's head


def four_bit_starts(model: Any, config: Any, scale: float) -> dict[str, Factors]:
    """LoftQ: begin at what four bits lose of the weights (Li et al. 2023, arXiv 2310.08659, algorithm 1).

    On a base in four bits those bits are there: one round is all, and the sum comes as near to the checkpoint's weights
    as the rank allows. On another, NF4 and the update make room for each other in turns, and the update is then taken
    out of the base. (PEFT's own asks for CUDA, and forgets the scale: its sum is off unless that is 1.)

    Args:
        model: before it has an adapter.
        config: PEFT's, with the rank and the layers that get one.
    """
    rank = config.r

    def is_target(name: str) -> bool:
        return config.target_modules == "all-linear" or bool(check_target_module_exists(config, name))

    if next(model.parameters()).is_meta:
        return {}  # its sizes alone are asked for
    if is_packed(model):
        return {name: _principal(lost_NK, rank, scale) for name, lost_NK in remainders(model) if is_target(name)}
    head = model.get_output_embeddings()
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head}
    return {name: _searched(part.weight.detach(), rank, scale) for name, part in layers.items() if is_target(name)}


def is_packed(model: Any) -> bool:
    """Whether its linear layers are packed: nothing can be taken out of those."""
    return any(isinstance(part, QuantisedLinear) for part in model.modules())


def _principal(matrix_NK: torch.Tensor, rank: int, scale: float) -> Factors:
    """A and B whose product, times the scale, is the part of a matrix in its largest directions."""
    u_NR, sizes_R, v_KR = torch.svd_lowrank(matrix_NK, rank, niter=4)
    roots_R = (sizes_R / scale).sqrt()
    return roots_R[:, None] * v_KR.T, u_NR * roots_R


def _searched(weight_NK: torch.Tensor, rank: int, scale: float) -> Factors:
    weight_NK = weight_NK.float()
    update_NK = torch.zeros_like(weight_NK)
    for _ in range(ROUNDS):
        four_bits_NK = pack(weight_NK - update_NK, "nf4").whole(torch.float32)
        down_RK, up_NR = _principal(weight_NK - four_bits_NK, rank, scale)
        update_NK = scale * up_NR @ down_RK
    return down_RK, up_NR


def begin(model: Any, starts: Mapping[str, Factors]) -> None:
    """Begin at these updates, by the layer's name; layers that are not named have begun, as PEFT has them begin."""
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, AugmentedLoraLinear):
            continue
        if name in starts:
            layer.lora_A[ADAPTER].weight.data.copy_(starts[name][0])
            layer.lora_B[ADAPTER].weight.data.copy_(starts[name][1])
        if isinstance(layer, MovedLoraLinear):
            layer.remember(take_out=name in starts)


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
        model(**inputs, **({"decoder_input_ids": inputs["input_ids"]} if inner.config.is_encoder_decoder else {}))

    inner = model.get_base_model()
    initialize_lora_eva_weights(model, loader, forward_fn=forward, show_progress_bar=False)


def _padded(batch: Batch) -> dict[str, torch.Tensor]:
    """The segments of a flat batch as rows that end in padding; what is padding is not looked at."""
    rows = [torch.from_numpy(batch.tokens_T[start:end]) for start, end in pairwise(batch.offsets_S1.tolist())]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": pad_sequence(rows, batch_first=True), "attention_mask": mask}
