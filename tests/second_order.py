"""The graph of a Jacobian, seen through one gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_gradient(jacobian: Tensor, wrt: Tensor) -> Tensor:
    """The gradient of a weighted sum of the Jacobian; zeros where the Jacobian is constant."""
    weights = torch.linspace(0.5, 1.7, jacobian.numel(), dtype=jacobian.dtype, device=jacobian.device).view(
        jacobian.shape
    )
    weighted = (jacobian * weights).sum()
    if not weighted.requires_grad:
        return torch.zeros_like(wrt)
    return torch.autograd.grad(weighted, wrt, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
