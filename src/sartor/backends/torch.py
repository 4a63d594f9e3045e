"""By torch, on a CPU or a GPU: flat packed batches, a frozen base or a trained one, fp32 masters.

What other processes have to do with it is left to a collaborator, `ranks.Ranks`. Start-up checks on the model itself
decide whether the fast paths are right for it; where one is not, the slower right path is taken, and `warnings` says
so.

Shape suffixes: T tokens · S segments · N supervised positions · V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sartor.adapters import family_of, preset_of
from sartor.adapters.beside.tuner import Beside
from sartor.adapters.method import UNCUTTABLE
from sartor.backends import frozen, placement
from sartor.backends.frozen import Frozen
from sartor.backends.ranks import Alone, Ranks, cut, here, idle
from sartor.backends.updates import Updates, mode
from sartor.base import FAMILIES, load_base, plain_attention
from sartor.data.fold import fold
from sartor.errors import FOREIGN, ModelError, RecipeError, Unsupported, first_line
from sartor.hardware import return_freed_memory
from sartor.ops import attention, gpu, lora_linear, native
from sartor.ops.fuse import Fusion, fuse, without_kernels
from sartor.plan import Adam, Plan
from sartor.types import Batch, Sums, TokenStats

SLOW = "no kernel takes this model's sizes: plain torch computes {what}. Right, but slower."
SHARDED = (
    "the base is sharded over the ranks: LoRA goes through PEFT's own layers, whose bf16 gradients are less exact, and "
    "layers are gathered as they are needed. Right, but slower than a base that fits each rank."
)
STILL = (
    "the base's own dropout ({what}) is off: what it drops would depend on how a step is cut. An adapter may have its "
    "own: `tune.adapter.dropout`."
)


class TorchBackend:
    """See `protocol.Backend`."""

    def __init__(self, plan: Plan, ranks: Ranks | None = None, examples: Sequence[Batch] = ()) -> None:
        configure(plan)
        self._ranks = ranks or Alone()
        self._device = placement.device_of(self._ranks.place)
        placement.register_attention(self._device)
        family = family_of(plan.adapter.name)
        dtype = vars(torch)[plan.model.dtype]
        model = load_base(plan.model.path, dtype, plan.model.quantize, attention=attention.NAME, packed=True)
        if self._device.type == "cpu":  # else they leave that file anyway
            placement.own(model)
        dropped = placement.still(model)
        torch.manual_seed(plan.seed)
        preset = preset_of(plan.adapter.name)
        self._packable = preset.packable
        self._family, self._config = family, family.Config(**plan.adapter.settings)
        try:
            self._model = family.attach(model, self._config)
        except ValueError as error:  # PEFT's word for layers that a method does not take
            raise RecipeError(
                f"`tune.adapter`: {plan.adapter.name} does not attach to {type(model).__name__}: {first_line(error)}",
                hint="name the layers that it is to tune in `tune.adapter.targets`, or choose another method",
            ) from error
        self._model.train()
        with placement.without_flat_attention(model):
            family.HOOKS.calibrate(self._model, self._config, examples)
        self._policy = placement.Policy(model, dtype, _stream_dtype(model.base_model), plan.tile)
        self._policy.beginning = partial(family.HOOKS.beginning, self._model, self._config)
        self._policy.head_rows = partial(family.HOOKS.head_rows, self._model, self._config)
        self._policy.coupled = family.HOOKS.couple(self._config) > 0
        _round_after_norms(model.base_model, dtype)
        self._whole = self._policy.whole = self._ranks.settle(self._policy, trains=family.TRAINS)
        if not (self._whole or preset.cuttable):
            message, hint = UNCUTTABLE
            raise RecipeError(message, hint=hint)
        if self._ranks.place.rank:  # weights are made alike by all ranks; from here on each drops out by itself
            torch.manual_seed(plan.seed + self._ranks.place.rank)
        placement.bring(self._model, self._device)
        self._warnings: list[str] = [] if self._whole or family.TRAINS == "model" else [SHARDED]
        if dropped:
            self._warnings.append(STILL.format(what=dropped))
        self._kernels = self._lay_out(plan)
        plain_gpu = self._device.type == "cuda" and not self._policy.fused
        self._num_tokens = plan.micro_tokens if plain_gpu else 0
        if plain_gpu and not gpu.problem() and not placement.use_gpu_kernels(model, self._device):
            placement.compile_layers(model)
        if plan.recompute != "none" and not self._policy.fused:
            self._warnings.append(placement.recompute_layers(model, plan.recompute))
        self._shares = self._policy.fused and self._check_sharing()
        self._frozen = self._keep_below() if self._shares else None
        self._updates = Updates(self._model, family, self._config, plan, self._ranks, self._device)
        self._micro_tokens = max(plan.micro_tokens, plan.max_length)
        with mode(self._model, training=False):  # dropout is drawn anew in each forward: two would never be equal
            self._check_packing(plan.max_length)
            self._check_head()

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def forward_backward(self, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool = True) -> Sums:
        """A batch that was packed for shared beginnings is cut where they are not shared."""
        parts = 1 if self._shares else -(-batch.num_tokens // self._micro_tokens)
        if not self._whole:  # a layer is gathered by all ranks at once, so all cut into as many pieces
            parts = max(map(int, self._ranks.join([str(parts)])))
        pieces = cut(batch, parts) if parts > 1 else [batch]
        pieces += [idle()] * (parts - len(pieces))
        forward = partial(self._updates.forward_backward, self._stats)
        return reduce(add, [forward(piece, objective, config, weight, grad=grad) for piece in pieces])

    def step(self, adam: Adam) -> float:
        norm = self._updates.step(adam)
        self._refresh()
        return norm

    def sum(self, value: float) -> float:
        return self._ranks.sum(value)

    def save(self, folder: Path) -> None:
        self._updates.save(folder)

    def load(self, folder: Path) -> None:
        self._updates.load(folder)
        self._refresh()

    def export(self, folder: Path) -> None:
        """All ranks gather, rank 0 writes."""
        model, is_cut = self._model, not self._whole and self._family.TRAINS == "model"
        tensors = {name: self._updates.on_disk(item) for name, item in model.state_dict().items()} if is_cut else {}
        if self._ranks.place.rank == 0:
            self._family.export(placement.on_one_rank(model, tensors) if is_cut else model, folder)

    def _refresh(self) -> None:
        self._updates.refresh()
        for part in self._kernels:
            part.refresh()

    def _lay_out(self, plan: Plan) -> list[Fusion | lora_linear.AugmentedLoraLinear]:
        """Weights laid out for the fastest layers that are right for this model; what to refresh after each update.

        Laying W and sB side by side needs W whole: on a sharded base PEFT's own forward computes.
        """
        if not self._whole:
            return []
        if self._packable:
            missing = _no_kernels(plan.model.dtype, self._policy) or _narrow_beside(self._policy.model, plan.max_length)
            missing = self._agreed(missing)
            if not missing:
                plain, self._policy.stream = self._policy.stream, torch.float32
                decoder = self._policy.model.base_model
                dtype = vars(torch)[plan.model.dtype]
                fusion = fuse(
                    decoder,
                    self._policy.probe,
                    dtype=dtype,
                    recompute=plan.recompute,
                    num_rows=plan.micro_tokens + self._family.HOOKS.num_virtual(self._config),
                    agree=self._agreed,
                )
                self._policy.fused = not fusion.problem
                if self._policy.fused:
                    if fusion.slow:
                        self._warnings.append(SLOW.format(what=fusion.slow))
                    return [fusion]
                self._policy.stream, missing = plain, fusion.problem
            self._warnings.append(f"hand-written layers are off: {missing}. transformers' own compute, slower.")
        prepared: list[Fusion | lora_linear.AugmentedLoraLinear] = [*lora_linear.prepare(self._model)]
        return_freed_memory()
        return prepared

    def _agreed(self, problem: str) -> str:
        """What one of the ranks cannot do, none does: the first problem of all ranks, which all must ask for."""
        place = self._ranks.place
        said = f"rank {place.rank}: {problem}" if problem and place.size > 1 else problem
        return next((word for word in self._ranks.join([said]) if word), "")

    def _check_sharing(self) -> bool:
        """Whether equal beginnings are computed once: where that is right in this very model."""
        problem = self._agreed(self._policy.find_unequal())
        if problem:
            self._warnings.append(f"equal beginnings are computed again and again: {problem}. Right, but slower.")
        return not problem

    def _keep_below(self) -> Frozen | None:
        kept, problem = frozen.keep_below(self._policy, self._model)
        if problem:
            self._warnings.append(problem)
        return kept

    def _stats(self, batch: Batch) -> TokenStats:
        batch = self._policy.begun(batch, self._family.HOOKS.num_virtual(self._config))
        if self._policy.packed and self._num_tokens:
            num_tokens = placement.room_for(batch, self._num_tokens)
            batch = placement.filled(batch, num_tokens, segment_step=placement.SEGMENT_STEP)
        supervised_N = (batch.weights_T != 0).nonzero()[0]
        offsets_S1 = self._here(batch.offsets_S1)
        found = self._folded(batch, supervised_N) if self._shares else self._flat(batch, supervised_N)
        logprobs_N, apart_N = found if found.dim() == 2 else (found, None)
        supervised = self._here(supervised_N)
        return TokenStats(
            logprobs_N=logprobs_N,
            weights_N=self._here(batch.weights_T)[supervised],
            segments_N=torch.bucketize(supervised, offsets_S1[1:].long(), right=True),
            apart_N=apart_N,
        )

    def _flat(self, batch: Batch, supervised_N: np.ndarray) -> torch.Tensor:
        """What the policy gives for the supervised tokens, every segment computed whole."""
        logprobs_N: torch.Tensor = self._policy(
            self._here(batch.tokens_T),
            self._here(batch.positions_T),
            self._here(batch.offsets_S1),
            batch.longest_segment,
            self._here(supervised_N),
            self._here(batch.targets_T[supervised_N]),
        )
        return logprobs_N

    def _folded(self, batch: Batch, supervised_N: np.ndarray) -> torch.Tensor:
        """The same, with equal beginnings and equal targets computed once; autograd adds up what they are worth."""
        folded = fold(batch)
        places_M, first_M, back_N = np.unique(folded.places_T[supervised_N], return_index=True, return_inverse=True)
        logprobs_M: torch.Tensor = self._policy(
            self._here(folded.tokens_U),
            self._here(folded.positions_U),
            self._here(folded.offsets_P1),
            len(folded.tokens_U),
            self._here(places_M),
            self._here(batch.targets_T[supervised_N][first_M]),
            self._here(folded.parents_P),
            None if self._frozen is None else self._here(self._frozen.hidden(batch).numpy()[folded.sources_U]),
        )
        return logprobs_M[..., self._here(back_N)]

    def _here(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)

    def _check_packing(self, longest: int) -> None:
        """Whether packed segments stay apart in this very model, and its windows reach over the `longest`.

        Else it falls back to one segment at a time.

        Raises:
            ModelError: they do not, and the model is sharded, or its layers are the hand-written ones; or a token sees
                what comes after it even then.
        """
        window = 0 if self._policy.fused else placement.shortest_window(self._policy.model)
        longest += self._family.HOOKS.num_virtual(self._config)
        if not self._packable:
            problem = "this tuning method cannot be packed"
        elif 0 < window < longest:
            problem = f"rows of up to {longest} tokens reach beyond a sliding window of {window}"
        else:
            try:
                problem = attention.find_leak(self._probe, self._policy.model.config.get_text_config().vocab_size)
            except gpu.failures(Unsupported, *FOREIGN) as error:
                problem = error.message if isinstance(error, Unsupported) else f"it refuses it ({first_line(error)})"
        if not problem:
            return
        if self._policy.fused:
            raise ModelError(
                f"the hand-written layers let segments see each other: {problem}",
                hint=f"this is a fault of ours, please report it; {native.OFF}=0 trains without them on a CPU",
            )
        if not self._whole:  # ranks would gather a layer as often as they have segments: each another number of times
            raise ModelError(
                f"a sharded model must be packed, and {problem}", hint="train on one rank, or choose another method"
            )
        self._warnings.append(f"packing is off: {problem}. Training goes one segment at a time, right but slower.")
        if self._policy.has_prefix:  # layers that are computed again lose what transformers' cache holds
            self._policy.model.gradient_checkpointing_disable()
        model = self._policy.model
        model.set_attn_implementation(plain_attention(model))
        self._policy.packed = False
        if blind := attention.find_foresight(self._probe, model.config.get_text_config().vocab_size):
            raise ModelError(f"{type(model).__name__} cannot be trained here: {blind}", hint=FAMILIES)

    def _probe(self, tokens_T: torch.Tensor, positions_T: torch.Tensor, offsets_S1: torch.Tensor) -> torch.Tensor:
        """Hidden states of a probe, as training would compute them."""
        tokens_T, positions_T, offsets_S1 = (part.to(self._device) for part in (tokens_T, positions_T, offsets_S1))
        return self._policy.hidden(tokens_T, positions_T, offsets_S1, len(tokens_T))[0].cpu()

    @torch.no_grad()
    def _check_head(self) -> None:
        """The head must be one plain product, as our loss takes it to be: the model's own logits decide.

        Raises:
            ModelError: it has a bias, a scale or a soft cap.
        """
        tokens_T = torch.arange(5, 13, device=self._device) % self._policy.model.config.get_text_config().vocab_size
        own_1TV, product_1TV = self._policy.own_logits(tokens_T)
        if not torch.allclose(own_1TV, product_1TV, rtol=0.02, atol=0.02):
            raise ModelError(
                "this model's head is not one plain matrix product (a bias, a scale or a soft cap)",
                hint="choose a model of the Llama, Qwen, Phi, Gemma, Mistral or SmolLM families",
            )


def open_backend(plan: Plan, examples: Sequence[Batch] = ()) -> TorchBackend:
    """Weights, adapter and optimizer of a plan, in place."""
    return TorchBackend(plan, examples=examples)


def configure(plan: Plan) -> None:
    """Environment, threads and determinism, as the plan says."""
    os.environ.update(plan.environment)
    torch.set_num_threads(max(1, plan.num_threads // here().local_size))
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())  # some CUDA kernels have no such form
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # 9 % of a step, for nothing


def _no_kernels(element: native.Element, policy: placement.Policy) -> str:
    """Why the kernels cannot be had; "" when they are there."""
    if policy.has_prefix:
        return "they take no keys and values from outside"
    return without_kernels(element, policy.device.type)


def _narrow_beside(model: Any, longest: int) -> str:
    """Why a network beside the backbone cannot go with it; "" where it can.

    Its own attention is transformers', which knows no window in a flat batch.
    """
    beside = (layer.network for layer in model.base_model.modules() if isinstance(layer, Beside))
    attends = any(network.ATTENDS for network in beside if network is not None)
    window = placement.shortest_window(model) if attends else 0
    return (
        f"beside them rows of {longest} tokens reach beyond a sliding window of {window}"
        if 0 < window < longest
        else ""
    )


def _stream_dtype(decoder: torch.nn.Module) -> torch.dtype:
    """fp32 for the residual stream where all linear layers are ours: 60 bf16 roundings less (docs/why/numerics.md).

    torch's LayerNorm wants its input in the type of its weights, so models that use it keep their own stream.
    """
    layers = [layer for layer in decoder.modules() if isinstance(layer, lora_linear.AugmentedLoraLinear)]
    ours = {id(part) for layer in layers for part in layer.modules()}
    strict = (torch.nn.Linear, torch.nn.LayerNorm)
    bare = [part for part in decoder.modules() if isinstance(part, strict) and id(part) not in ours]
    return torch.float32 if layers and not bare else next(decoder.parameters()).dtype


def _round_after_norms(decoder: torch.nn.Module, dtype: torch.dtype) -> None:
    """What leaves a norm is rounded once, instead of once by each of the linear layers that read it.

    A network beside the decoder keeps fp32, as its weights do.
    """
    apart = {part for layer in decoder.modules() if isinstance(layer, Beside) for part in layer.beside.modules()}
    for module in decoder.modules():
        if type(module).__name__.endswith("RMSNorm") and module not in apart:
            module.register_forward_hook(lambda norm, inputs, output: output.to(dtype))
