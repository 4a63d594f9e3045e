"""Products with matrices that are Kronecker products, or sums of them.

    (A ⊗ B) x        = vec(A X Bᵀ), X the rows of x as a (J, L) matrix: A ⊗ B itself is never made
    Σ_i A_i ⊗ B_i    a parameterised hypercomplex multiplication (PHM): made, as it is a bottleneck's and so is small

Shapes: T tokens · A_IJ and B_KL the factors of (I·K, J·L) · N terms of a sum, and the size of each A_i · U inputs and
V outputs of a term's B_i · R its rank.
"""

from __future__ import annotations

import torch


def kron_linear(x_TK: torch.Tensor, left_IJ: torch.Tensor, right_KL: torch.Tensor) -> torch.Tensor:
    """(A ⊗ B) x of each row, (…, I·K) from (…, J·L)."""
    rows_TJL = x_TK.reshape(*x_TK.shape[:-1], left_IJ.shape[1], right_KL.shape[1])
    return torch.matmul(left_IJ, torch.matmul(rows_TJL, right_KL.t())).flatten(-2)


def phm_weight(rule_NNN: torch.Tensor, left_NUR: torch.Tensor, right_NRV: torch.Tensor) -> torch.Tensor:
    """Σ_i A_i ⊗ (s_i t_i), (N·U, N·V): what rows are multiplied by from the right."""
    return torch.einsum("npq,nuv->puqv", rule_NNN, left_NUR @ right_NRV).flatten(2).flatten(0, 1)
