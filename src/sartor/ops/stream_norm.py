"""RMS norms on the residual stream, of a transformers module, with the fp32 scale that they multiply by.

Shapes: T tokens · D width of the stream.
"""

from __future__ import annotations

import torch
from torch import nn

from sartor.errors import Unsupported

EPSILON_NAMES = ("variance_epsilon", "eps", "epsilon")


class StreamNorm:
    """`scale` is what the normalised values are multiplied by: the module's weight, or 1 + weight (Gemma).

    Raises:
        Unsupported: the module has no epsilon that is known, or other parameters than a weight.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        found = [vars(module)[name] for name in EPSILON_NAMES if isinstance(vars(module).get(name), float)]
        if not found or [name for name, _ in module.named_parameters()] != ["weight"]:
            raise Unsupported(f"a norm of type {type(module).__name__}", hint="it takes the plain path")
        self.epsilon = found[0]
        self._module, self._weight = module, module.get_parameter("weight")
        self.masters = [self._weight] if self._weight.requires_grad else []
        self.scale_D = torch.empty_like(self._weight, dtype=dtype)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """A row of ones has rms 1: what the module makes of it is the scale, however its weight is meant."""
        ones_1D = torch.ones_like(self.scale_D)[None]
        # `forward`, not the call: a hook that rounds has no business here
        self.scale_D.copy_(self._module.forward(ones_1D)[0] * (1.0 + self.epsilon) ** 0.5)

    def gradients(
        self, upstream_TD: torch.Tensor, values_TD: torch.Tensor, inverse_T: torch.Tensor
    ) -> list[torch.Tensor]:
        """Gradients of the masters: Σ over tokens of upstream · normalised values."""
        if not self.masters:
            return []
        normalised_TD = values_TD.to(inverse_T.dtype) * inverse_T[:, None]
        return [(upstream_TD.to(inverse_T.dtype) * normalised_TD).sum(dim=0).to(self._weight.dtype)]
