"""Residual vectors that join several sets of points, or flatten several residuals of each: every set by itself."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import full_jacobian, laplacian, plan
from highgrad_ext._reference import full_jacobian_loop

INTERIOR, BOUNDARY = 12, 5


class Problem:
    """A network of two outputs, at points inside and at points of the boundary."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.scale = nn.Parameter(torch.tensor([1.5, 0.5], dtype=torch.float64))
        self.inside = torch.rand(INTERIOR, 2, dtype=torch.float64).requires_grad_()
        self.border = torch.rand(BOUNDARY, 2, dtype=torch.float64)
        self.parameters = [*self.net.parameters(), self.scale]

    def equation(self) -> Tensor:
        return laplacian(self.net(self.inside), self.inside, batch_dims=1) * self.scale

    def boundary(self) -> Tensor:
        return self.net(self.border) - 1


def in_columns(p: Problem) -> Tensor:
    return torch.cat([p.equation()[:, 0], p.equation()[:, 1], p.boundary()[:, 0]])


def flattened(p: Problem) -> Tensor:
    return torch.cat([p.equation().reshape(-1), p.boundary().flatten()])


def with_prior(p: Problem) -> Tensor:
    """A part by one parameter alone, one of a single row, one that is constant, and a parameter as it is."""
    rows = [p.equation()[:, 0], 0.1 * p.parameters[0].reshape(-1), p.scale.sum()[None], torch.ones(3).double(), p.scale]
    return torch.cat(rows)


def nested(p: Problem) -> Tensor:
    inner = torch.cat([p.boundary(), p.boundary() ** 2])
    return torch.cat([p.equation(), inner]).reshape(-1)


def with_nothing(p: Problem) -> Tensor:
    return torch.cat([p.equation()[:, 0], p.boundary()[:0, 0], p.boundary()[:, 0]])


RESIDUALS: dict[str, Callable[[Problem], Tensor]] = {
    "columns": in_columns,
    "flattened": flattened,
    "flattened alone": lambda p: p.equation().reshape(-1),
    "stacked": lambda p: torch.stack([p.equation()[:, 0], p.equation()[:, 1]]),
    "prior": with_prior,
    "nested": nested,
    "with nothing": with_nothing,
}


def check(f: Tensor, parameters: list[Tensor], **options: object) -> None:
    found = full_jacobian(f, parameters, **options)
    for got, q in zip(found, parameters, strict=True):
        assert_close(got, full_jacobian_loop(f, q))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_parts_share_passes(residual: str) -> None:
    p = Problem()
    f = RESIDUALS[residual](p)
    found = plan(f, p.parameters)
    assert found.reason.startswith("in parts: ") and "samples share passes" in found.reason
    assert found.passes < f.numel() / 2
    check(f, p.parameters, create_graph=False)
    check(f, p.parameters, create_graph=False, plan=found)
    check(f, p.parameters, create_graph=False, chunk_size=1)
    check(f, p.parameters, create_graph=False, retain_graph=True, verify=True)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_derivatives(residual: str) -> None:
    p = Problem()
    f = RESIDUALS[residual](p)

    def total(jacobians: list[Tensor]) -> Tensor:
        return sum((j.sin().sum() for j in jacobians), torch.zeros(()))

    own = total(full_jacobian(f, p.parameters, create_graph=True))
    expected = total([full_jacobian_loop(f, q, create_graph=True) for q in p.parameters])
    grads = [torch.autograd.grad(t, p.parameters, retain_graph=True, materialize_grads=True) for t in (own, expected)]
    for got, want in zip(*grads, strict=True):
        assert_close(got, want)


def test_a_kept_plan() -> None:
    p = Problem()
    found = plan(nested(p), p.parameters)
    assert found == plan(nested(p), p.parameters) == pickle.loads(pickle.dumps(found))
    assert found != plan(flattened(p), p.parameters)
    assert "passes" in repr(found)
    with torch.no_grad():
        p.scale.mul_(2)
    check(nested(p), p.parameters, create_graph=False, plan=found)
    with pytest.raises(ValueError, match="expected a graph like the one that was planned"):
        full_jacobian(flattened(p), p.parameters, plan=found)


def test_progress_and_out() -> None:
    p = Problem()
    f = with_prior(p)
    steps: list[tuple[int, int]] = []
    out = [torch.empty(len(f), *q.shape, dtype=q.dtype) for q in p.parameters]
    check(f, p.parameters, create_graph=False, out=out, progress=lambda done, all_: steps.append((done, all_)))
    assert steps[-1][0] == steps[-1][1]


def test_what_joins_may_be_seen() -> None:
    p = Problem()
    f = in_columns(p)
    seen = []
    f.register_hook(lambda grad: seen.append(grad.shape))
    assert "in parts" not in plan(f, p.parameters).reason
    check(f, p.parameters, create_graph=False)
    assert seen
    g = in_columns(p)
    assert "in parts" not in plan(g.sin(), [*p.parameters, g]).reason
    check(g.view(1, -1), [*p.parameters, g], create_graph=False)


def test_memory_is_released() -> None:
    p = Problem()
    f = flattened(p)
    full_jacobian(f, p.parameters, create_graph=False, retain_graph=False)
    with pytest.raises(RuntimeError, match="a second time"):
        full_jacobian(f, p.parameters, create_graph=False)
