"""Activations of several Nodes, recorded as one; and gradients by what else operations take, which none may hide."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_recorded_jets import NODE, nodes
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from highgrad_ext import directional, laplacian


def along(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> Tensor:
    """The derivative of `order` of f(x + s v) by the number s, one gradient after another."""
    s = torch.zeros(x.shape, dtype=x.dtype, requires_grad=True)
    value = f(x.detach() + s * v)
    rows = []
    for weight in torch.eye(value.numel(), dtype=x.dtype):
        derivative = (value.reshape(-1) * weight).sum()
        for _ in range(order):
            (grad,) = torch.autograd.grad(derivative, s, create_graph=True, allow_unused=True, materialize_grads=True)
            derivative = grad.sum()
        rows.append(derivative)
    return torch.stack(rows).reshape(value.shape)


def parameter(*shape: int) -> Tensor:
    torch.manual_seed(3)
    return (torch.rand(shape, dtype=torch.float64) + 0.3).requires_grad_()


def point() -> Tensor:
    torch.manual_seed(1)
    return (torch.rand(4, 3, dtype=torch.float64) + 0.2).requires_grad_()


# How many Nodes are composed: functions of one tensor, of one operation where no more of them are one function.
GRAPHS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "one": (lambda x, p: torch.exp(-x * x) @ p, 1),
    "a chain of two": (lambda x, p: (torch.exp(-((x @ torch.outer(p, p)) ** 2)) @ p).sin() ** 2, 2),
    "with a parameter inside": (lambda x, p: torch.exp(p * x) * x, 1),
    "used again": (lambda x, p: (lambda y: (1 - y) * (x @ torch.outer(p, p)) + y)(x.tanh()), 1),
    "of two tensors": (lambda x, p: (x @ torch.outer(p, p)) * torch.exp(-x * x), 1),
    "broadcast": (lambda x, p: torch.exp(-x * x[:, :1]) @ p, 1),
    "linear": (lambda x, p: (2 * x - 1) @ p, 0),
    "of a slice": (lambda x, p: torch.exp(-(x[:, 1] ** 2)) * p[0], 1),
    "constants": (lambda x, p: torch.exp(-x * torch.arange(3.0, dtype=x.dtype) + 1) ** 2 @ p, 1),
}


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str, order: int) -> None:
    function, fused = GRAPHS[name]
    x, p = point(), parameter(3)
    v = torch.randn_like(x)
    f = function(x, p)
    found = directional(f, x, v, order)[order]
    expected = along(lambda y: function(y, p), x, v, order)
    assert_close(found, expected)
    if found.requires_grad:
        assert nodes(found).count(NODE) - nodes(f).count(NODE) == fused
        weight = torch.randn_like(found)
        # Recorded, so that the function's own series is derived again.
        grads = [
            torch.autograd.grad(value, p, weight, create_graph=True, allow_unused=True, materialize_grads=True)[0]
            for value in (found, expected)
        ]
        assert_close(*grads)
        if grads[0].requires_grad:
            again = [
                torch.autograd.grad(g.square().sum(), p, None, True, allow_unused=True, materialize_grads=True)[0]
                for g in grads
            ]
            assert_close(*again)
    assert_close(directional(f, x, v, order, create_graph=False)[order], expected.detach())


def test_inner_tensors_are_wrt_and_outputs() -> None:
    x = point()
    inner = -x * x
    f = torch.exp(inner)
    assert_close(laplacian(f, inner, batch_dims=2), f)
    both = laplacian([inner, f, inner.sin()], x, batch_dims=2)
    assert_close(both[0], torch.full_like(x, -2))
    assert_close(both[1], (4 * x**2 - 2) * f)
    assert_close(both[2], -2 * inner.cos() - 4 * x**2 * inner.sin())
    # Operators of operators.
    assert_close(laplacian(laplacian(f, x, batch_dims=2), x, batch_dims=2), (16 * x**4 - 48 * x**2 + 12) * f)


# Operations on x and a parameter of that shape.
OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "mul": (lambda x, p: x.sin() * p, (3,)),
    "div": (lambda x, p: p / x, (3,)),
    "pow": (lambda x, p: x**p, (3,)),
    "pow base": (lambda x, p: p**x, (3,)),
    "atan2": (torch.atan2, (3,)),
    "lerp": (lambda x, p: torch.lerp(x.sin(), p, x), (3,)),
    "addcdiv": (lambda x, p: torch.addcdiv(x, p.expand(4, 3), x.exp()), (3,)),
    "prelu": (lambda x, p: F.prelu(x - 0.7, p).sin(), (3,)),
    "prelu of one": (lambda x, p: F.prelu(x - 0.7, p).sin(), (1,)),
    "rms norm": (lambda x, p: F.rms_norm(x, (3,), p), (3,)),
    "batch norm": (lambda x, p: F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), p).sin(), (3,)),
    "bilinear": (lambda x, p: F.bilinear(x, x.sin(), p), (2, 3, 3)),
    "conv": (lambda x, p: F.conv1d(x[:, None], p).sin(), (2, 1, 2)),
    "baddbmm": (lambda x, p: torch.baddbmm(p, x[:, :, None].sin(), x[:, None]), (4, 3, 3)),
    "where": (lambda x, p: torch.where(x > 0.7, x.sin() * p, p), (3,)),
    "xlogy": (lambda x, p: torch.xlogy(p, x), (3,)),
    "huber": (lambda x, p: F.huber_loss(x, p.expand(4, 3), reduction="none", delta=0.2) * x, (3,)),
    "solve": (lambda x, p: torch.linalg.solve(p + 3 * torch.eye(3).double(), x.sin()[:, :, None]), (3, 3)),
    "solve of x": (lambda x, p: torch.linalg.solve(torch.diag_embed(x + 2), p.expand(4, 3)), (3,)),
    "einsum": (lambda x, p: torch.einsum("ni,ijk,nj->nk", x.sin(), p, x), (3, 3, 2)),
    "index": (lambda x, p: p[torch.tensor([0, 1, 1, 2])] * x.sin(), (3, 3)),
    "scatter": (lambda x, p: torch.scatter(x.sin(), 1, torch.zeros(4, 1, dtype=torch.long), p) * x, (4, 1)),
    "softmax": (lambda x, p: torch.softmax(x * p, 1), (3,)),
    "logsumexp": (lambda x, p: torch.logsumexp(x * p, 1), (3,)),
    "matrix exponential": (lambda x, p: torch.matrix_exp(x[:, :, None] * p), (3, 3)),
    "norm": (lambda x, p: (x - 3 * p).norm(dim=1), (3,)),
    "threshold": (lambda x, p: F.threshold(x * p, 0.3, 0.0).sin(), (3,)),
    "interpolation": (lambda x, p: F.interpolate((x.sin() * p)[:, None], 5, mode="linear"), (3,)),
    "weight norm": (lambda x, p: F.linear(x.sin(), torch._weight_norm(p, p.norm(dim=1, keepdim=True), 0)), (2, 3)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_by_parameters(name: str) -> None:
    function, shape = OPERATIONS[name]
    x, p = point(), parameter(*shape)
    v = torch.randn_like(x)
    found = directional(function(x, p), x, v, 2)[2]
    expected = along(lambda y: function(y, p), x, v, 2)
    assert_close(found, expected)
    weight = torch.randn_like(found)
    grads = [
        torch.autograd.grad(value, p, weight, allow_unused=True, materialize_grads=True)[0]
        if value.requires_grad
        else torch.zeros_like(p)
        for value in (found, expected)
    ]
    assert_close(*grads)


def test_under_a_checkpoint() -> None:
    """What is saved is recorded again when it is unpacked."""
    x, factors = point(), torch.linspace(0.5, 2, 3, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return torch.exp(x * factors)

    f = checkpoint(function, x, use_reentrant=False)
    v = torch.randn_like(x)
    assert_close(directional(f, x, v, 2)[2], along(function, x, v, 2))
    assert_close(laplacian(f, x, create_graph=False), laplacian(function(x), x, create_graph=False))
