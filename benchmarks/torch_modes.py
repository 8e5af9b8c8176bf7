"""A function's Jacobian by this package and by each mode of torch.func and torch.autograd.functional, to be timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import jacfwd, jacrev, vmap

from benchmarks.varied_problems import Function
from highgrad_ext import full_jacobian


def contestants(function: Function, x: Tensor, create_graph: bool) -> dict[str, Callable[[], object]]:
    leaf = x.clone().requires_grad_()
    start = leaf if create_graph else x
    functional = {"create_graph": create_graph, "vectorize": True}
    return {
        "highgrad_ext": lambda: full_jacobian(function(leaf), leaf, create_graph=create_graph),
        "jacrev": lambda: jacrev(function)(start),
        "jacfwd": lambda: jacfwd(function)(start),
        "functional, reverse": lambda: jacobian(function, start, **functional),
        "functional, forward": lambda: jacobian(function, start, strategy="forward-mode", **functional),
    }


def contestants_of_samples(function: Function, x: Tensor, create_graph: bool) -> dict[str, Callable[[], object]]:
    leaf = x.clone().requires_grad_()
    start = leaf if create_graph else x

    def of_one(sample: Tensor) -> Tensor:
        return function(sample[None])[0]

    def by_hand() -> Tensor:
        f = function(leaf)
        rest = f.shape[1:]
        units = torch.eye(rest.numel(), device=x.device).view(-1, 1, *rest).expand(-1, *f.shape)
        (rows,) = torch.autograd.grad(f, leaf, units, is_grads_batched=True, create_graph=create_graph)
        return rows.movedim(0, 1).reshape(f.shape + x.shape[1:])

    return {
        "highgrad_ext": lambda: full_jacobian(function(leaf), leaf, create_graph=create_graph, batch_dims=1),
        "vmap of jacrev": lambda: vmap(jacrev(of_one))(start),
        "vmap of jacfwd": lambda: vmap(jacfwd(of_one))(start),
        "rows of all samples": by_hand,
    }


def usable(call: Callable[[], object], expected: Tensor) -> bool:
    try:
        result = call()
    except (RuntimeError, NotImplementedError):
        return False
    assert isinstance(result, Tensor)
    return torch.allclose(result, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
