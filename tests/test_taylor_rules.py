"""Every rule of the table, to order 6, against nested derivatives in float64; functions of a number against mpmath."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from taylor_rules import ROWS, SCALAR, Row
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C

ORDER = 6
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def point(row: Row) -> Tensor:
    return torch.rand(row.shape, dtype=torch.float64) * (row.high - row.low) + row.low


def jets(f: Tensor, x: Tensor, directions: Tensor, order: int = ORDER, **options: Any) -> Tensor:
    """[order, D, *f.shape]; collapsed, [*f.shape]."""
    defaults: dict[str, Any] = {"collapsed": False, "weights": None, "in_double": False, "create_graph": False}
    results = _C.taylor_coefficients([f], [x], [directions], order, **{**defaults, **options})
    assert not isinstance(results, str), results
    shape = f.shape if options.get("collapsed") else (order, len(directions), *f.shape)
    return torch.zeros(shape, dtype=f.dtype) if results[0] is None else results[0]


def nested(row: Row, x: Tensor, direction: Tensor, weights: Tensor) -> list[Tensor]:
    """d^k/dt^k of the weighted sum of row.function(x + t direction) at t = 0, divided by k!, for k = 1, 2, ..."""
    t = torch.zeros((), dtype=x.dtype, requires_grad=True)
    derivative = ((row.oracle or row.function)(x + t * direction) * weights).sum()
    results = []
    for k in range(1, ORDER + 1):
        if derivative.requires_grad:
            (grad,) = torch.autograd.grad(derivative, t, create_graph=True, allow_unused=True)
            derivative = torch.zeros_like(t) if grad is None else grad
        else:
            derivative = torch.zeros_like(t)
        results.append(derivative.detach() / math.factorial(k))
    return results


@every_row
def test_against_nested_derivatives(row: Row) -> None:
    x = point(row).requires_grad_()
    f = row.function(x)
    directions = torch.randn(3, *row.shape, dtype=x.dtype)
    coefficients = jets(f, x, directions)
    assert coefficients.shape == (ORDER, 3, *f.shape) and not coefficients.requires_grad
    weights = torch.randn(f.shape, dtype=f.dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if row.name == "float_inside" else {"rtol": 1e-8, "atol": 1e-10}
    for d, direction in enumerate(directions):
        for k, expected in enumerate(nested(row, x.detach(), direction, weights)):
            assert_close((coefficients[k, d] * weights).sum(), expected, **tolerance)


@every_row
@pytest.mark.parametrize("order", [2, 4])
def test_collapsed_sum(row: Row, order: int) -> None:
    x = point(row).requires_grad_()
    f = row.function(x)
    directions = torch.randn(3, *row.shape, dtype=x.dtype)
    every = jets(f, x, directions, order)[-1]
    assert_close(jets(f, x, directions, order, collapsed=True), every.sum(0))
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=x.dtype)
    assert_close(
        jets(f, x, directions, order, collapsed=True, weights=weights), torch.tensordot(weights, every, dims=1)
    )


@every_row
def test_recorded_coefficients_are_the_same(row: Row) -> None:
    """What is to be recorded goes another way: by whole tensors, not by elements."""
    x = point(row).requires_grad_()
    f = row.function(x)
    directions = torch.randn(3, *row.shape, dtype=x.dtype)
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=x.dtype)
    for options in ({}, {"collapsed": True}, {"collapsed": True, "weights": weights}):
        for order in (2, 5):
            recorded = jets(f, x, directions, order, create_graph=True, **options)
            assert_close(jets(f, x, directions, order, **options), recorded, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 50), (129,), (2, 1100)])
@pytest.mark.parametrize("function", [torch.tanh, torch.sin, torch.cos, torch.exp, torch.sigmoid, torch.tan])
def test_elements_in_blocks(function: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Of sizes that fill no whole number of blocks; the second function's input has all orders."""
    x = torch.rand(shape, dtype=dtype, requires_grad=True)
    f = function(x.sin().t())
    directions = torch.randn(7, *shape, dtype=dtype)
    weights = torch.randn(7, dtype=dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    for options in ({}, {"collapsed": True}, {"collapsed": True, "weights": weights}):
        for order in (2, 4):
            recorded = jets(f, x, directions, order, create_graph=True, **options)
            assert_close(jets(f, x, directions, order, **options), recorded, **tolerance)


@pytest.mark.parametrize("name", ["elu", "selu", "celu", "relu"])
def test_kinks_are_torchs(name: str) -> None:
    """At zero, where derivatives from left and right differ."""
    row = Row(name, lambda x: SCALAR[name][0](x) * x.exp() if name in SCALAR else x.relu() * x.exp(), (1,))
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    direction = torch.ones(1, 1, dtype=x.dtype)
    found = jets(row.function(x), x, direction)[:, 0, 0]
    assert_close(found, torch.stack(nested(row, x.detach(), direction[0], torch.ones(1, dtype=x.dtype))))


@every_row
def test_degree(row: Row) -> None:
    x = point(row).requires_grad_()
    [(degree, reaches, obstacle, regular, *_)] = _C.taylor_inspect([row.function(x)], [x])
    assert reaches == [True] and not obstacle and regular
    if row.degree is not None:
        assert degree == row.degree


@every_row
def test_graph_of_coefficients(row: Row) -> None:
    """The derivative of a coefficient by x is what the coefficient of the next order and nested reverse say."""
    x = point(row).requires_grad_()
    f = row.function(x)
    if row.name in ("float_inside", "cholesky_asymmetric"):
        pytest.skip("finite differences of float32, or of the lower triangle alone")
    direction = torch.randn(row.shape, dtype=x.dtype)
    other = torch.randn(row.shape, dtype=x.dtype)
    weights = torch.randn((3, 1, *f.shape), dtype=f.dtype)

    def weighted(x: Tensor) -> Tensor:
        return (jets(row.function(x), x, direction[None], 3, create_graph=True) * weights).sum()

    total = weighted(x)
    slope = torch.zeros((), dtype=x.dtype)
    if total.requires_grad:
        (grad,) = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)
        slope = (grad * other).sum()
    step = 1e-5
    ahead, behind = (weighted((x.detach() + s * other).requires_grad_()).detach() for s in (step, -step))
    assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


OWN_REFERENCE = {"sigmoid", "log1p", "logit", "sinc", "erfcx", "log_ndtr", "ndtri", "polygamma"}


@pytest.mark.parametrize("name", sorted(set(SCALAR) & {*dir(pytest.importorskip("mpmath"))} | OWN_REFERENCE))
def test_against_mpmath(name: str) -> None:
    mpmath = pytest.importorskip("mpmath")
    function, low, high = SCALAR[name]
    reference = {
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "log1p": lambda x: mpmath.log(1 + x),
        "logit": lambda x: mpmath.log(x / (1 - x)),
        "sinc": mpmath.sincpi,
        "erfcx": lambda x: mpmath.exp(x * x) * mpmath.erfc(x),
        "log_ndtr": lambda x: mpmath.log(mpmath.ncdf(x)),
        "ndtri": lambda x: mpmath.sqrt(2) * mpmath.erfinv(2 * x - 1),
        "polygamma": lambda x: mpmath.psi(2, x),
    }.get(name) or getattr(mpmath, name)
    x = torch.linspace(low + 0.1, high - 0.1, 4, dtype=torch.float64, requires_grad=True)
    coefficients = jets(function(x), x, torch.ones(1, 4, dtype=x.dtype), 10)
    with mpmath.workdps(60):
        for i in range(4):
            exact = mpmath.taylor(reference, mpmath.mpf(x[i].item()), 10)
            for k in range(1, 11):
                assert_close(coefficients[k - 1, 0, i].item(), float(exact[k]), rtol=1e-11, atol=1e-13)
