"""One process on this machine, by torch: flat packed batches, a frozen base, fp32 master adapters.

Start-up checks on the model itself decide whether the fast paths are right for it; where one is not, the slower right
path is taken, and `warnings` says so.

Shape suffixes: T tokens · S segments · N supervised positions · D hidden size.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from sartor.adapters import family_of
from sartor.errors import ModelError, NumericsError, Unsupported
from sartor.ops import attention, cross_entropy, lora_linear
from sartor.plan import Adam, Plan
from sartor.types import Batch, Sums, TokenStats

STATE = "trainer.safetensors"
SLOW_ATTENTION = "sdpa"


class TorchBackend:
    """See `protocol.Backend`."""

    def __init__(self, plan: Plan) -> None:
        configure(plan)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        attention.register()
        family = family_of(plan.adapter.name)
        model = AutoModelForCausalLM.from_pretrained(
            plan.model.path,
            dtype=vars(torch)[plan.model.dtype],
            attn_implementation=attention.NAME,
            local_files_only=True,
            trust_remote_code=False,
        )
        torch.manual_seed(plan.seed)
        self._family = family
        self._model = family.attach(model, family.Config(**plan.adapter.settings))
        self._model.train()
        self._layers = lora_linear.prepare(self._model)
        self._decoder = model.base_model
        self._embed = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self._stream = _stream_dtype(self._decoder)
        _round_after_norms(self._decoder, self._head.weight.dtype)
        self._trainable = {name: item for name, item in self._model.named_parameters() if item.requires_grad}
        self._optimizer = _optimizer(plan, list(self._trainable.values()))
        self._pending: list[tuple[tuple[str, ...], torch.Tensor]] = []
        self._warnings: list[str] = []
        self._packed = self._check_packing()
        self._check_head()

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def forward_backward(self, batch: Batch, objective: Any, config: Any, weight: float, *, grad: bool = True) -> Sums:
        with torch.set_grad_enabled(grad):
            stats = self._stats(batch)
            loss, metrics = objective.loss(config, stats, batch)
            if grad:
                (loss / weight).backward()
        if grad:
            per_segment_S = torch.zeros(len(batch.rows)).index_add_(
                0, stats.segments_N, stats.logprobs_N.detach() * stats.weights_N
            )
            self._pending.append((batch.rows, per_segment_S))
        return Sums(
            loss=float(loss.detach()), num_tokens=batch.num_tokens, num_supervised=batch.num_supervised, metrics=metrics
        )

    def step(self, adam: Adam) -> float:
        gradients = [item.grad for item in self._trainable.values() if item.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._refuse_non_finite(norm)
        if adam.clip > 0 and norm > adam.clip:
            torch._foreach_mul_(gradients, adam.clip / norm)
        for group in self._optimizer.param_groups:
            group["lr"] = adam.learning_rate
            group["weight_decay"] = adam.weight_decay
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._pending.clear()
        self._refresh()
        return float(norm)

    def sum(self, value: float) -> float:
        return value

    def save(self, folder: Path) -> None:
        tensors = {f"weight.{name}": item.detach() for name, item in self._trainable.items()}
        for name, item in self._trainable.items():
            for key, value in self._optimizer.state.get(item, {}).items():
                tensors[f"{key}.{name}"] = value.detach()
        tensors["random"] = torch.get_rng_state()
        save_file({name: item.contiguous() for name, item in tensors.items()}, folder / STATE)

    def load(self, folder: Path) -> None:
        tensors = load_file(folder / STATE)
        for name, item in self._trainable.items():
            with torch.no_grad():
                item.copy_(tensors[f"weight.{name}"])
            state = {key.removesuffix(f".{name}"): value for key, value in tensors.items() if key.endswith(f".{name}")}
            state.pop("weight")
            if state:
                self._optimizer.state[item] = state
        torch.set_rng_state(tensors["random"])
        self._refresh()

    def export(self, folder: Path) -> None:
        self._family.export(self._model, folder)

    def _refresh(self) -> None:
        for layer in self._layers:
            layer.refresh()

    def _stats(self, batch: Batch) -> TokenStats:
        supervised_N = torch.from_numpy(batch.weights_T != 0).nonzero()[:, 0]
        targets_N = torch.from_numpy(batch.targets_T)[supervised_N]
        hidden_ND = self._hidden(batch)[supervised_N]
        offsets_S1 = torch.from_numpy(batch.offsets_S1).long()
        return TokenStats(
            logprobs_N=cross_entropy.supervised_logprobs(hidden_ND, self._head.weight, targets_N),
            weights_N=torch.from_numpy(batch.weights_T)[supervised_N],
            segments_N=torch.bucketize(supervised_N, offsets_S1[1:], right=True),
        )

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """Last hidden states (T, D): one packed forward, or one segment at a time on the slow path."""
        tokens_T, positions_T = torch.from_numpy(batch.tokens_T), torch.from_numpy(batch.positions_T)
        offsets_S1 = torch.from_numpy(batch.offsets_S1)
        if self._packed:
            return self._forward(tokens_T, positions_T, offsets_S1)
        spans = pairwise(batch.offsets_S1.tolist())
        return torch.cat([self._forward(tokens_T[start:end], positions_T[start:end], None) for start, end in spans])

    def _forward(
        self, tokens_T: torch.Tensor, positions_T: torch.Tensor, offsets_S1: torch.Tensor | None
    ) -> torch.Tensor:
        hidden_1TD = self._decoder(
            inputs_embeds=self._embed(tokens_T)[None].to(self._stream),
            position_ids=positions_T[None],
            attention_mask=None,
            use_cache=False,
            **({} if offsets_S1 is None else {"cu_seq_lens_q": offsets_S1}),
        ).last_hidden_state
        return hidden_1TD[0].to(self._head.weight.dtype)  # type: ignore[no-any-return]

    def _check_packing(self) -> bool:
        """Whether packed segments stay apart in this very model; else it falls back to one segment at a time."""
        if not self._family.PACKABLE:
            problem = "this tuning method cannot be packed"
        else:
            try:
                problem = attention.find_leak(self._forward, self._head.weight.shape[0])
            except Unsupported as error:
                problem = error.message
        if not problem:
            return True
        self._warnings.append(f"packing is off: {problem}. Training goes one segment at a time, right but slower.")
        self._model.get_base_model().set_attn_implementation(SLOW_ATTENTION)
        return False

    @torch.no_grad()
    def _check_head(self) -> None:
        """The head must be one plain product, as our loss takes it to be: the model's own logits decide.

        Raises:
            ModelError: it has a bias, a scale or a soft cap.
        """
        asked: dict[str, Any] = {
            "input_ids": torch.arange(5, 13)[None] % self._head.weight.shape[0],
            "use_cache": False,
        }
        if self._packed:
            asked["cu_seq_lens_q"] = torch.tensor([0, 8], dtype=torch.int32)
        own_TV = self._model.get_base_model()(**asked).logits[0]
        hidden_TD = self._decoder(**asked).last_hidden_state[0]
        if not torch.allclose(own_TV, hidden_TD @ self._head.weight.t(), rtol=0.02, atol=0.02):
            raise ModelError(
                "this model's head is not one plain matrix product (a bias, a scale or a soft cap)",
                hint="choose a model of the Llama, Qwen, SmolLM or Mistral families",
            )

    def _refuse_non_finite(self, norm: torch.Tensor) -> None:
        bad = [
            row
            for rows, sums_S in self._pending
            for row, value in zip(rows, sums_S.tolist(), strict=True)
            if value != value or abs(value) == float("inf")
        ]
        if not bad and torch.isfinite(norm):
            return
        rows = list(dict.fromkeys(bad or [row for members, _ in self._pending for row in members]))
        self._optimizer.zero_grad(set_to_none=True)
        self._pending.clear()
        what = "the loss" if bad else "the gradient"
        raise NumericsError(
            f"{what} is not finite; rows of this step: {', '.join(rows[:8])}" + (" …" if len(rows) > 8 else ""),
            hint="look at these rows; if they are sound, lower tune.learning_rate. The weights were not touched",
        )


def open_backend(plan: Plan) -> TorchBackend:
    """Weights, adapter and optimizer of a plan, in place."""
    return TorchBackend(plan)


def configure(plan: Plan) -> None:
    """Environment, threads and determinism, as the plan says."""
    os.environ.update(plan.environment)
    torch.set_num_threads(plan.num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # 9 % of a step, for nothing


def _optimizer(plan: Plan, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=0.0)
    adam = plan.adam(0)
    return torch.optim.AdamW(
        parameters, lr=0.0, betas=(adam.beta1, adam.beta2), eps=adam.epsilon, weight_decay=0.0, fused=True
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
    """What leaves a norm is rounded once, instead of once by each of the linear layers that read it."""
    for module in decoder.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.register_forward_hook(lambda norm, inputs, output: output.to(dtype))
