"""Slow oracles: one torch.autograd.grad a row, nothing clever. For tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor


def full_jacobian_loop(f: Tensor, wrt: Tensor, create_graph: bool = False) -> Tensor:
    """The Jacobian of shape f.shape + wrt.shape, zeros where there is no path."""
    rows = []
    if f.requires_grad:
        with torch.enable_grad():
            elements = f.reshape(-1).unbind()
        for element in elements:
            (grad,) = torch.autograd.grad(element, wrt, retain_graph=True, create_graph=create_graph, allow_unused=True)
            rows.append(torch.zeros_like(wrt) if grad is None else grad.to_dense() if grad.is_sparse else grad)
    if not rows:
        return wrt.new_zeros(f.shape + wrt.shape)
    with torch.set_grad_enabled(create_graph):
        return torch.stack(rows).reshape(f.shape + wrt.shape)


def nth_derivative_loop(f: Tensor, wrt: Tensor, n: int, create_graph: bool = False) -> Tensor:
    """The n-th derivative of shape f.shape + wrt.shape * n, by n nested row loops."""
    for order in range(n):
        f = full_jacobian_loop(f, wrt, create_graph or order < n - 1)
    return f
