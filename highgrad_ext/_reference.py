"""Slow oracles: one torch.autograd.grad a row, nothing clever. For tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor


def full_jacobian_loop(f: Tensor, wrt: Tensor, create_graph: bool = False) -> Tensor:
    """The Jacobian of shape f.shape + wrt.shape, zeros where there is no path."""
    return nth_derivative_loop(f, wrt, 1, create_graph)


def nth_derivative_loop(f: Tensor, wrt: Tensor, n: int, create_graph: bool = False) -> Tensor:
    """The n-th derivative of shape f.shape + wrt.shape * n: row by row, of each row of the derivative of f."""
    if n == 0:
        return f
    rows = []
    for row in range(f.numel() if f.requires_grad else 0):
        unit = torch.zeros(f.numel(), dtype=f.dtype, device=f.device)
        unit[row] = 1
        (grad,) = torch.autograd.grad(
            f, wrt, unit.view(f.shape), retain_graph=True, create_graph=create_graph or n > 1, allow_unused=True
        )
        grad = torch.zeros_like(wrt) if grad is None else grad.to_dense() if grad.is_sparse else grad
        rows.append(nth_derivative_loop(grad, wrt, n - 1, create_graph))
    shape = f.shape + wrt.shape * n
    with torch.set_grad_enabled(create_graph):
        return torch.stack(rows).reshape(shape) if rows else wrt.new_zeros(shape)
