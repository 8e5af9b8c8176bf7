"""Multivariate jets: all partial derivatives of one order at once, against jets along directions and nested loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from taylor_rules import ROWS, Row
from test_taylor_rules import jets, point
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import _C, _taylor, nth_derivative
from highgrad_ext._reference import nth_derivative_loop
from highgrad_ext._symmetric import expand, packed_size

every_way = pytest.mark.parametrize("contracted", [False, True])


def partials(
    f: Tensor, wrt: list[Tensor], order: int, contracted: bool, batch_dims: int = 0, create_graph: bool = False
) -> Tensor:
    """[samples, outputs, width, ..., width]."""
    width = sum(math.prod(x.shape[batch_dims:]) for x in wrt)
    samples = math.prod(f.shape[:batch_dims])
    found = _C.taylor_partials(f, wrt, batch_dims, order, contracted, create_graph)
    assert not isinstance(found, str), found
    if found is None:
        found = torch.zeros(samples, f.numel() // samples, packed_size(width, order), dtype=f.dtype)
    return expand(found, width, order)


def net(inputs: int, outputs: int) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, outputs)]
    return nn.Sequential(*layers).double()


@every_way
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_rule_along_directions(row: Row, order: int, contracted: bool) -> None:
    x = point(row).requires_grad_()
    if x.numel() ** order > 20000:
        order = 2
    f = row.function(x)
    direction = torch.randn(2, *row.shape, dtype=x.dtype)
    expected = jets(f, x, direction, order)[-1] * math.factorial(order)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if row.name == "float_inside" else {"rtol": 1e-8, "atol": 1e-9}
    for create_graph in (False, True):
        full = partials(f, [x], order, contracted, create_graph=create_graph)[0]
        for v, derivative in zip(direction, expected, strict=True):
            along = full
            for _ in range(order):
                along = along @ v.reshape(-1)
            assert_close(along, derivative.reshape(-1), **tolerance)


@every_way
@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("outputs", [1, 3])
def test_samples_and_several_wrt(outputs: int, order: int, contracted: bool) -> None:
    a = torch.randn(2, 2, 1, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    f = net(3, outputs)(torch.cat([b.exp(), a], 2)) * a
    found = partials(f, [a, b], order, contracted, batch_dims=2)
    for number in range(4):
        i, j = divmod(number, 2)
        x = torch.cat([a[i, j], b[i, j]]).detach().requires_grad_()
        value = net(3, outputs)(torch.cat([x[1:].exp(), x[:1]])) * x[0]
        if order < 5:
            assert_close(found[number], nth_derivative_loop(value, x, order))
        else:
            assert_close(found[number], nth_derivative(value, x, order, method="nested", create_graph=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numel", [1, 16, 37, 200])
@pytest.mark.parametrize("function", [torch.tanh, torch.sin, torch.cos, torch.exp, torch.sigmoid, torch.tan])
def test_elements_in_groups(function: object, numel: int, dtype: torch.dtype) -> None:
    """Of sizes that fill no whole number of vectors; what is recorded goes another way."""
    x = torch.rand(3, dtype=dtype, requires_grad=True)
    w = torch.randn(numel, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)) / 2
    f = function((w @ x).sin())  # type: ignore[operator]
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    recorded = partials(f, [x], 4, False, create_graph=True)
    assert_close(partials(f, [x], 4, False), recorded.detach(), **tolerance)
    assert_close(partials(f, [x], 4, True), recorded.detach(), **tolerance)


@every_way
def test_gradcheck_by_weights_and_wrt(contracted: bool) -> None:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        hidden = torch.tanh(x @ weight)
        return partials((hidden * hidden.exp()).sum(1), [x], 3, contracted, 1, create_graph=True)

    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, weight))


def sweeps_of_polynomials(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each that follows, whether its highest order is contracted."""
    seen: list[bool] = []
    sweep = _C.taylor_partials

    def spy(*arguments: object) -> object:
        seen.append(bool(arguments[4]))
        return sweep(*arguments)

    monkeypatch.setattr(_C, "taylor_partials", spy)
    return seen


def test_every_way_that_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By size, by a number of directions that the caller sets, and where samples are only probed to be independent."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    f = net(4, 1)(x)[:, 0]
    seen = sweeps_of_polynomials(monkeypatch)
    expected = nth_derivative(f, x, 3, batch_dims=1, method="nested", create_graph=False)
    assert_close(nth_derivative(f, x, 3, batch_dims=1, create_graph=False), expected)
    monkeypatch.setattr(_taylor, "_CONTRACTED_BYTES", 0)
    assert_close(nth_derivative(f, x, 3, batch_dims=1, create_graph=False), expected)
    assert_close(nth_derivative(f, x, 3, batch_dims=1, create_graph=False, chunk_size=5), expected)
    assert seen == [False, True]
    shuffled = x.flip(0).flip(0)
    g = net(4, 1)(shuffled)[:, 0]
    assert_close(nth_derivative(g, x, 3, batch_dims=1, create_graph=False), expected)
    assert seen == [False, True, False]


@pytest.mark.parametrize(
    ("samples", "outputs", "create_graph", "sweeps"),
    [
        pytest.param(5, 1, False, [False], id="few"),
        pytest.param(100000, 1, False, [], id="behind the caches"),
        pytest.param(5000, 1, False, [True], id="in the caches"),
        pytest.param(5000, 1, True, [], id="differentiated again"),
        pytest.param(100000, 2, False, [True], id="of many outputs"),
    ],
)
def test_hessians_of_many_samples(
    samples: int, outputs: int, create_graph: bool, sweeps: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two sweeps where polynomials would be bound by memory, never by directions in float64."""
    x = torch.randn(samples, 3, dtype=torch.float64, requires_grad=True)
    f = net(3, outputs)(x)
    seen = sweeps_of_polynomials(monkeypatch)
    monkeypatch.delattr(_taylor.Sweeps, "_partials_along_directions")
    found = nth_derivative(f, x, 2, batch_dims=1, create_graph=create_graph)
    assert seen == sweeps
    (gradient,) = torch.autograd.grad(f[:, -1].sum(), x, create_graph=True)
    expected = torch.stack([torch.autograd.grad(g.sum(), x, retain_graph=True)[0] for g in gradient.unbind(1)], 1)
    assert_close(found[:, -1].detach(), expected)


def test_mixed_precision_is_not_contracted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_taylor, "_CONTRACTED_BYTES", 0)
    x = torch.randn(3, dtype=torch.bfloat16, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    result = nth_derivative(x.sin().prod(), x, 3, create_graph=False)
    assert_close(result.double(), nth_derivative(wide.sin().prod(), wide, 3, create_graph=False), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("width", [3, 40])
def test_layer_norm_is_not_left_to_nested_sweeps(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which torch's own third derivative is wrong."""
    monkeypatch.setattr(_taylor, "_WIDE", 4)
    x = torch.randn(width, dtype=torch.float64, requires_grad=True)
    found = nth_derivative(torch.nn.functional.layer_norm(x.sin(), (width,))[0], x, 3, create_graph=False)
    v = torch.randn(1, width, dtype=x.dtype)
    expected = jets(torch.nn.functional.layer_norm(x.sin(), (width,))[0], x, v, 3)[-1, 0] * 6
    assert_close(found @ v[0] @ v[0] @ v[0], expected)


@pytest.mark.parametrize("kind", [torch.tanh, lambda x: x.softmax(0)], ids=["contracts", "does not"])
def test_nested_sweeps_where_they_are_cheaper(
    kind: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_taylor, "_NARROW", 2)
    monkeypatch.setattr(_taylor, "_WIDE", 4)
    for width in (2, 4, 5):
        x = torch.randn(width, dtype=torch.float64, requires_grad=True)
        f = (kind(x) * x).sum()
        found = nth_derivative(f, x, 2, create_graph=False)
        assert_close(found, nth_derivative(f, x, 2, method="taylor", create_graph=False))
        assert_close(found, nth_derivative_loop(f, x, 2))
