"""batch_dims where the graph alone does not show that samples are kept apart; and what the user's graph keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import NoVmap
from structured import constant
from test_sparse_results import by_sample
from test_structure import leaf
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import (
    directional,
    divergence,
    full_jacobian,
    hessian,
    laplacian,
    nth_derivative,
    partials,
)

Function = Callable[[Tensor], Tensor]


class Sign(torch.autograd.Function):
    """Not linear, sample by sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 1 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.sign()


class Neighbors(torch.autograd.Function):
    """Mixes samples, and lets no NaN through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + x.roll(1, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad + grad.roll(-1, 0)).nan_to_num()


class Faint(torch.autograd.Function):
    """Likewise, by less than roundings of their sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + 1e-20 * x.roll(1, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad + 1e-20 * grad.roll(-1, 0)).nan_to_num()


class Gated(torch.autograd.Function):
    """Mixes samples by a weight that is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + 0 * x.roll(1, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad + 0 * grad.roll(-1, 0)


class Clipped(torch.autograd.Function):
    """Not linear: no more than a norm of one flows back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 1 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / grad.norm().clamp(min=1)


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 1 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError("no backward")


def hooked(hook: Function) -> Function:
    def function(x: Tensor) -> Tensor:
        y = x.sin()
        y.register_hook(hook)
        return y @ constant(3, 2)

    return function


def leaf_hooked(x: Tensor) -> Tensor:
    x.register_hook(lambda grad: grad / grad.norm())
    return x.sin()


APART: dict[str, Function] = {
    "custom": lambda x: NoVmap.apply(x) @ constant(3, 2),
    "not linear, by sample": lambda x: Sign.apply(x).exp(),
    "doubled by a hook": hooked(lambda grad: 2 * grad),
    "singular": lambda x: NoVmap.apply(x * torch.tensor([0.0, 1, 1])).abs().sqrt(),
}
MIXED: dict[str, tuple[Function, str]] = {
    "roll": (Neighbors.apply, "NeighborsBackward"),
    "faint": (Faint.apply, "FaintBackward"),
    "clipped": (Clipped.apply, "ClippedBackward, a custom Function or a Node with hooks, is not linear"),
    "normalized by a hook": (hooked(lambda grad: grad / grad.norm()), "SinBackward0, a custom"),
    "normalized by a leaf's hook": (leaf_hooked, "AccumulateGrad, a custom"),
}


@pytest.mark.filterwarnings("ignore:full_jacobian")
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 5, 33])
@pytest.mark.parametrize("name", APART)
def test_samples_that_unknown_nodes_keep_apart(name: str, samples: int, create_graph: bool) -> None:
    x = leaf(samples, 3)
    f = APART[name](x)
    assert_close(full_jacobian(f, x, batch_dims=1, create_graph=create_graph).detach(), by_sample(f, x), equal_nan=True)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", MIXED)
def test_samples_that_unknown_nodes_mix(name: str, create_graph: bool) -> None:
    function, words = MIXED[name]
    for samples in (2, 5, 8):
        x = leaf(samples, 3)
        f = function(x)
        with pytest.raises(RuntimeError, match=f"full_jacobian: .*got samples that mix.*{words}"):
            full_jacobian(f, x, batch_dims=1, create_graph=create_graph)
        with pytest.raises(RuntimeError, match=f"laplacian: .*got samples that mix.*{words}"):
            laplacian(f.sum(1), x, batch_dims=1)


def test_samples_that_are_mixed_by_zero() -> None:
    x = leaf(5, 3)
    f = Gated.apply(x)
    assert_close(full_jacobian(f, x, batch_dims=1, create_graph=False), by_sample(f, x))
    with pytest.raises(RuntimeError, match="got samples that mix"):
        full_jacobian(f, x, batch_dims=1)


def test_samples_whose_backward_fails() -> None:
    x = leaf(5, 3)
    with pytest.raises(RuntimeError, match="one whose backward fails when it is probed"):
        full_jacobian(Failing.apply(x), x, batch_dims=1)


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "full_jacobian": lambda u, x: full_jacobian(u, x, batch_dims=1),
    "nth_derivative, order 1": lambda u, x: nth_derivative(u, x, 1, batch_dims=1),
    "nth_derivative, order 2": lambda u, x: nth_derivative(u, x, 2, batch_dims=1),
    "nested": lambda u, x: nth_derivative(u, x, 2, batch_dims=1, method="nested"),
    "contracted": lambda u, x: nth_derivative(u, x, 3, reduce="sum"),
    "hessian": lambda u, x: hessian(u, x, batch_dims=1),
    "laplacian": lambda u, x: laplacian(u, x, batch_dims=1),
    "divergence": lambda u, x: divergence(u.expand(-1, 3), x, batch_dims=1),
    "directional, order 1": lambda u, x: directional(u, x, torch.ones_like(x), 1, batch_dims=1),
    "directional, order 2": lambda u, x: directional(u, x, torch.ones_like(x), 2, batch_dims=1),
    "directional, order 2, several": lambda u, x: directional(u.expand(-1, 40), x, torch.ones_like(x), 2),
    "partials, order 1": lambda u, x: partials(u, x, [(0,)], batch_dims=1),
    "partials, order 2": lambda u, x: partials(u, x, [(0,), (1, 1)], batch_dims=1),
}
ACTIVATIONS: dict[str, Function] = {
    "known": torch.tanh,
    "custom": NoVmap.apply,
    "unknown": lambda x: x.renorm(2, 0, 0.5),
}


@pytest.mark.filterwarnings("ignore:full_jacobian", "ignore:nested derivatives")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CALLS)
def test_retained_grads_are_left_alone(name: str, activation: str) -> None:
    x = leaf(4, 3)
    moved = 2 * x
    hidden = ACTIVATIONS[activation](moved @ constant(3, 3))
    u = (hidden**2) @ constant(3, 1)
    for tensor in (moved, hidden, u):
        tensor.retain_grad()
    CALLS[name](u, x)
    for tensor in (x, moved, hidden, u):
        assert tensor.grad is None
    u.sum().backward()
    assert moved.grad is not None and hidden.grad is not None and u.grad is not None
