"""LoRA as one matrix product: y = [x, x Aᵀ] [W, s B]ᵀ.

Adding a LoRA delta to an already rounded bf16 output loses small updates. One product over the augmented inner size
rounds their sum once (docs/why/numerics.md). Masters are fp32 parameters, as PEFT keeps them; the bf16 working copies
are refreshed once per optimizer step.

Shapes: T tokens · K inputs · N outputs · R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLoraLinear
from torch import nn

from sartor.errors import Unsupported
from sartor.ops.product import multiply_few
from sartor.ops.quantised_linear import QuantisedLinear, computes_in, device_of, side_by_side


class AugmentedLoraLinear(PeftLoraLinear):  # type: ignore[misc]
    """PEFT's LoRA layer with the forward of a single product, for one active adapter without dropout.

    Everything else (saving, merging, several adapters, dropout) is PEFT's own, and its own forward is the plain twin.
    `prepare` must be called once after loading, `refresh` after each update of the masters.
    """

    def prepare(self, adapter: str) -> None:
        """Lay the base weight and s·B side by side; the base layer's weight becomes a view of that.

        A quantised one stays as it is: [W, s B] is then made anew for each product.
        """
        num_held = 0 if isinstance(self.base_layer, QuantisedLinear) else self.in_features
        rank, dtype = self.lora_A[adapter].weight.shape[0], computes_in(self.base_layer)
        device = device_of(self.base_layer)
        self._held_NHR = torch.empty(self.out_features, num_held + rank, dtype=dtype, device=device)
        if num_held:
            self._held_NHR[:, :num_held] = self.base_layer.weight.detach()
            self.base_layer.weight = nn.Parameter(self._held_NHR[:, :num_held], requires_grad=False)
        self._up_NR = self._held_NHR[:, num_held:]
        self._down_RK = self._held_NHR.new_empty(rank, self.in_features)
        self._prepared = adapter
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters into the working copies."""
        adapter = self._prepared
        self._down_RK.copy_(self.lora_A[adapter].weight)
        self._up_NR.copy_(self.lora_B[adapter].weight * self.scaling[adapter])

    @property
    def _joint_NKR(self) -> torch.Tensor:
        """[W, s B], to be read at once: a quantised one lasts until another layer's is made."""
        quantised = isinstance(self.base_layer, QuantisedLinear)
        return side_by_side([self.base_layer], self._up_NR) if quantised else self._held_NHR

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """PEFT's own.

        Raises:
            Unsupported: the base is quantised. Changed weights would have to be quantised anew, and answer otherwise.
        """
        if isinstance(self.base_layer, QuantisedLinear):
            raise Unsupported("merging into quantised weights", hint="load the base with `load_base(…, packed=False)`")
        super().merge(*args, **kwargs)

    def beyond(self, adapter: str) -> str:
        """What this adapter has beyond y = W x + s B A x; "" when that is all."""
        if self.active_adapters != [adapter]:
            return f"active adapters {self.active_adapters}, not {adapter} alone"
        found = {
            "dropout": not isinstance(self.lora_dropout[adapter], nn.Identity),
            "a variant (DoRA and the like)": adapter in self.lora_variant,
            "a bias": self.lora_bias[adapter],
        }
        return next((name for name, there in found.items() if there), "")

    @property
    def out_of_use(self) -> bool:
        """Whether the adapter is switched off, or already part of the base weight."""
        return bool(self.disable_adapters or self.merged)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        x = x.to(computes_in(self.base_layer))  # the residual stream may be fp32
        adapter = vars(self).get("_prepared")
        if adapter is None or self.out_of_use or self.beyond(adapter):
            twin: torch.Tensor = super().forward(x, *args, **kwargs)
            return twin
        y_TN = _AugmentedProduct.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]),
            self.lora_A[adapter].weight,
            self.lora_B[adapter].weight,
            self._down_RK,
            self,
            self.scaling[adapter],
        )
        if self.base_layer.bias is not None:
            y_TN = y_TN + self.base_layer.bias
        return y_TN.view(*x.shape[:-1], self.out_features)  # type: ignore[no-any-return]


class _AugmentedProduct(torch.autograd.Function):
    """Gradients of A and B (fp32) and of x; none of the frozen weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TK: torch.Tensor,
        master_A_RK: torch.Tensor,
        master_B_NR: torch.Tensor,
        down_RK: torch.Tensor,
        layer: AugmentedLoraLinear,
        scaling: float,
    ) -> torch.Tensor:
        low_TR = x_TK @ down_RK.t()
        ctx.save_for_backward(x_TK, low_TR, down_RK)
        ctx.layer, ctx.scaling = layer, scaling
        return torch.cat((x_TK, low_TR), dim=1) @ layer._joint_NKR.t()

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TK, low_TR, down_RK = ctx.saved_tensors
        dy_TN = upstream[0]
        num_inputs = x_TK.shape[1]
        d_TKR = dy_TN @ ctx.layer._joint_NKR
        dlow_TR = d_TKR[:, num_inputs:].contiguous()
        dA_RK = multiply_few(dlow_TR, x_TK).float()
        dB_NR = multiply_few(low_TR, dy_TN).t().float() * ctx.scaling
        dx_TK = torch.addmm(d_TKR[:, :num_inputs], dlow_TR, down_RK) if ctx.needs_input_grad[0] else None
        return dx_TK, dA_RK, dB_NR, None, None, None


def prepare(model: nn.Module, adapter: str = "default") -> list[AugmentedLoraLinear]:
    """Prepare every augmented layer of a model; the layers, for `refresh`."""
    layers = [module for module in model.modules() if isinstance(module, AugmentedLoraLinear)]
    for layer in layers:
        layer.prepare(adapter)
    return layers
