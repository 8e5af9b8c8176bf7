"""Recorded jets of an activation, one Node on the graph: values, and gradients of gradients by all that it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations_with_replacement, pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from highgrad_ext import _C, directional, full_jacobian, hessian, laplacian

NODE = "ComposeSeriesBackward"
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # solutions of equations: slopes that are polynomials in the value, and those that have a value of their own
    "tanh": torch.tanh,
    "tan": torch.tan,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "sin": torch.sin,
    "cosh": torch.cosh,
    # with a series of their own by a recurrence, and by what their jets are made of
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, beta=2.5, threshold=0.5),
    "logsigmoid": F.logsigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 2.0),
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "erf": torch.erf,
    "atan": torch.atan,
    "log1p": lambda x: torch.log1p(x + 1),
    "sinc": lambda x: torch.sinc(x + 2),
    "erfcx": torch.special.erfcx,
    "logit": lambda x: torch.logit(x / 20 + 0.5, eps=1e-3),
    "digamma": lambda x: torch.digamma(x + 6),
    # several Nodes that are one function
    "bell": lambda x: torch.exp(-x * x),
    "x tanh": lambda x: x * torch.tanh(x),
    "rational": lambda x: (x + 0.3 * x**2) / (2 + x * x.sin()),
    "relu cubed": lambda x: (x + 0.1).relu() ** 3,
    "multiple": lambda x: torch.sin(3 * x + 0.2),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def nodes(tensor: Tensor) -> list[str]:
    """The names of all Nodes of a graph."""
    seen, left = {}, [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen[node] = node.name()
            left += [edge for edge, _ in node.next_functions]
    return list(seen.values())


def jets(f: Tensor, x: Tensor, directions: Tensor, order: int, **options: Any) -> Tensor:
    """[order, D, *f.shape]; collapsed, [*f.shape]; with counts, the rows of all orders."""
    defaults: dict[str, Any] = {"collapsed": False, "weights": None, "in_double": False, "create_graph": True}
    (result,) = _C.taylor_coefficients([f], [x], [directions], order, **{**defaults, **options})
    assert isinstance(result, Tensor)
    return result


def nested(f: Tensor, x: Tensor, direction: Tensor, order: int) -> list[Tensor]:
    """The coefficients along one direction, for an f whose element i depends on the samples x[i] alone."""
    series = []
    for k in range(1, order + 1):
        (grad,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        f = (grad * direction).reshape(*f.shape, -1).sum(-1) / k
        series.append(f)
    return series


def layers(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, last: Tensor) -> Tensor:
    """Two activations: the first takes a jet of one order, the same for all samples; the second of all orders."""
    return function(function(x @ weight) @ last).sum(1)


OPTIONS: list[dict[str, Any]] = [{}, {"counts": True}, {"collapsed": True}, {"collapsed": True, "weights": True}]


def compare(own: Tensor, hand: Tensor, leaves: tuple[Tensor, ...], second_order: bool) -> None:
    """Values and gradients, of second order, too, if asked for."""
    assert_close(own, hand)
    cotangent = torch.randn_like(hand)
    expected = torch.autograd.grad(hand, leaves, cotangent, create_graph=second_order, retain_graph=True)
    assert_close(torch.autograd.grad(own, leaves, cotangent, retain_graph=True), expected)
    if second_order:
        recorded = torch.autograd.grad(own, leaves, cotangent, create_graph=True)
        assert_close(recorded, expected)
        norms = [sum((g**2).sum() for g in first) for first in (recorded, expected)]
        assert_close(*(torch.autograd.grad(norm, leaves, retain_graph=True) for norm in norms))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_directions_of_all_samples_are_expanded_by_no_node(order: int) -> None:
    """The first activation's Node sums over samples itself."""
    x, weight, last = (torch.rand(*shape, requires_grad=True) for shape in ((11, 2), (2, 3), (3, 2)))
    own = jets(layers(torch.tanh, x, weight, last), x, torch.eye(2).unsqueeze(1).expand(2, 11, 2), order)
    assert nodes(own).count(NODE) == 2 and "ExpandBackward0" not in nodes(own)


@every_function
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("options", OPTIONS, ids=["all", "counts", "collapsed", "weighted"])
@pytest.mark.parametrize("same", [True, False], ids=["same", "own"])
def test_gradients(function: Callable[[Tensor], Tensor], order: int, options: dict[str, Any], same: bool) -> None:
    """Of first order without a graph of their own, the reverse by element, and with one; and of second order."""
    options = dict(options)
    if order == 1 and options:
        return
    x = (torch.rand(11, 2, dtype=torch.float64) - 0.5).requires_grad_()
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    last = (torch.randn(3, 2, dtype=torch.float64) / 3).requires_grad_()
    directions = torch.randn(3, 1 if same else 11, 2, dtype=torch.float64).expand(3, 11, 2)
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    counts = [3 - min(k, 2) for k in range(order)]
    if options.get("weights"):
        options["weights"] = weights
    if options.get("counts"):
        options["counts"] = counts
    leaves = (x, weight, last)
    f = layers(function, *leaves)
    own = jets(f, x, directions, order, **options)
    assert nodes(own).count(NODE) == 2
    hand = torch.stack([torch.stack(nested(f, x, v, order)) for v in directions], 1)
    if options.get("counts"):
        hand = torch.cat([hand[k, :count] for k, count in enumerate(counts)])
    elif options.get("collapsed"):
        hand = (hand[-1] * (weights if options.get("weights") is not None else torch.ones(3))[:, None]).sum(0)
    compare(own, hand, leaves, second_order=order < 4)


@every_function
def test_gradcheck(function: Callable[[Tensor], Tensor]) -> None:
    """By numbers alone, of directions too."""
    x = (torch.rand(3, 2, dtype=torch.float64) - 0.5).requires_grad_()
    weight = (torch.randn(2, 2, dtype=torch.float64) / 2).requires_grad_()
    directions = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)

    def coefficients(x: Tensor, weight: Tensor, directions: Tensor) -> Tensor:
        return jets(function(x @ weight), x, directions, 3)

    assert gradcheck(coefficients, (x, weight, directions))
    assert gradgradcheck(coefficients, (x, weight, directions))


@every_function
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_gradients_of_all_partial_derivatives(function: Callable[[Tensor], Tensor], order: int, inputs: int) -> None:
    """By multivariate jets: gradients without a graph of their own and with one, and of second order."""
    x = (torch.rand(5, inputs, dtype=torch.float64) - 0.5).requires_grad_()
    weight = torch.randn(inputs, 3, dtype=torch.float64, requires_grad=True)
    last = (torch.randn(3, 1, dtype=torch.float64) / 3).requires_grad_()
    leaves = (x, weight, last)
    f = layers(function, *leaves)
    (own,) = _C.taylor_partials(f, [x], 1, order, False, True).unbind(1)
    assert nodes(own).count(NODE) == 2
    monomials = list(combinations_with_replacement(range(inputs), order))
    hand = []
    for axes in sorted(monomials, key=lambda index: index[::-1]):
        partial = f
        for axis in axes:
            (grad,) = torch.autograd.grad(partial.sum(), x, create_graph=True)
            partial = grad[:, axis]
        hand.append(partial)
    compare(own, torch.stack(hand, 1), leaves, second_order=order < 4)


@pytest.mark.parametrize("wanted", ["direction", "value", "both"])
def test_directions_that_repeat_without_an_expansion_on_top(wanted: str) -> None:
    """Their cotangent is not summed where their Node is to do that, or where there is none."""
    x = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=wanted != "value")
    own = directional(x.tanh(), x, direction.expand(2, 5, 3)[:, :], 2)[2]
    y = x.tanh()
    expected = -2 * y * (1 - y**2) * direction**2
    leaves = {"direction": [direction], "value": [x], "both": [direction, x]}[wanted]
    cotangent = torch.randn_like(own)
    assert_close(torch.autograd.grad(own, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent))


def net(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in pairwise(sizes):
        modules += [nn.Linear(before, after), activation()]
    return nn.Sequential(*modules[:-1])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 16, 20, 33, 130])
@pytest.mark.parametrize("samples", [1, 3, 150])
def test_any_size(activation: type[nn.Module], dtype: torch.dtype, width: int, samples: int) -> None:
    """Vectors that end with the memory, and sums over samples in several tasks."""
    torch.manual_seed(0)
    model = net(3, width, width, 1, activation=activation).double()
    x = torch.rand(samples, 3, dtype=torch.float64, requires_grad=True)
    f = model(x)[:, 0]
    (grad,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    hand = sum(torch.autograd.grad(grad[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(3))
    parameters = list(model.parameters())
    expected = torch.autograd.grad(hand.square().sum(), parameters, allow_unused=True, materialize_grads=True)
    model, y = model.to(dtype), x.detach().to(dtype).requires_grad_()
    own = laplacian(model(y)[:, 0], y, batch_dims=1)
    assert nodes(own).count(NODE) == 2
    parameters = list(model.parameters())
    found = torch.autograd.grad(own.square().sum(), parameters, allow_unused=True, materialize_grads=True)
    scale = max(g.abs().max() for g in expected)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for a, b in zip(found, expected, strict=True):
        assert_close(a.double() / scale, b / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU])
def test_sums_over_many_samples_keep_their_digits(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = net(1, 4, 1, activation=activation)
    x = torch.rand(300_000, 1, requires_grad=True)
    direction = torch.ones(1, 1).expand_as(x)

    def weight_gradient(model: nn.Module, x: Tensor) -> Tensor:
        u_x = directional(model(x)[:, 0], x, direction.to(x.dtype), 2)[2]
        return torch.autograd.grad(u_x.sum(), model[0].weight)[0]  # type: ignore[index]

    single = weight_gradient(model, x)
    double = weight_gradient(model.double(), x.detach().double().requires_grad_())
    assert_close(single.double(), double, rtol=3e-4, atol=0)


def test_empty_and_scalars() -> None:
    x = torch.zeros(0, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    own = jets((x @ weight).tanh(), x, torch.ones(2, 0, 2, dtype=x.dtype), 2)
    assert own.shape == (2, 2, 0, 3)
    assert_close(torch.autograd.grad(own.sum(), weight)[0], torch.zeros_like(weight))
    y = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    scalar = directional(y.tanh(), y, torch.ones_like(y), 3)[3]
    assert_close(torch.autograd.grad(scalar, y)[0], nested_of_scalar(y, 4))


def nested_of_scalar(y: Tensor, order: int) -> Tensor:
    f = y.tanh()
    for _ in range(order):
        (f,) = torch.autograd.grad(f, y, create_graph=True)
    return f


@every_function
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 200.0, -200.0])
def test_special_values_are_those_without_a_graph(function: Callable[[Tensor], Tensor], value: float) -> None:
    x = torch.tensor([value, 0.5], dtype=torch.float64, requires_grad=True)
    directions = torch.ones(1, 2, dtype=torch.float64)
    f = function(x)
    recorded = jets(f, x, directions, 3)
    assert_close(recorded, jets(f, x, directions, 3, create_graph=False), equal_nan=True)
    assert recorded[:, :, 1].isfinite().all()
    (grad,) = torch.autograd.grad(recorded[:, 0].sum(), x)
    assert grad[1].isfinite()


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_batched_gradients(activation: type[nn.Module]) -> None:
    """Under vmap, the Node's backward takes torch's operations."""
    model = net(2, 4, 4, 1, activation=activation).double()
    x = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    own = laplacian(model(x)[:, 0], x, batch_dims=1)
    weight = model[0].weight
    rows = [torch.autograd.grad(own[i], weight, retain_graph=True)[0] for i in range(5)]
    eye = torch.eye(5, dtype=torch.float64)
    (batched,) = torch.autograd.grad(own, weight, eye, is_grads_batched=True, retain_graph=True)
    assert_close(batched, torch.stack(rows))
    assert_close(full_jacobian(own, weight), batched)
    assert_close(full_jacobian(own, weight, create_graph=False), batched)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU])
@pytest.mark.parametrize("inner", ["laplacian", "counts", "hessian"])
@pytest.mark.parametrize("outer", ["laplacian", "directional"])
def test_operators_of_operators_are_jets(activation: type[nn.Module], inner: str, outer: str) -> None:
    torch.manual_seed(0)
    model = net(2, 5, 4, 1, activation=activation).double()
    x = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    u = model(x)[:, 0]
    unit = torch.eye(2, dtype=torch.float64)
    if inner == "laplacian":
        first = laplacian(u, x, batch_dims=1)
        expected = sum(2 * nested(u, x, unit[i], 2)[1] for i in range(2))
    elif inner == "hessian":
        own = hessian(u, x, batch_dims=1)
        first = own[:, 0, 1] * own[:, 1, 1]
        a, b, c = (nested(u, x, v, 2)[1] for v in (unit[0], unit[1], unit[0] + unit[1]))
        expected = (c - a - b) * b * 2
    else:
        _, (u_x, _), (u_xx,) = directional(u, x, unit.unsqueeze(1).expand(2, 6, 2), (2, 1))
        first = u_x * u_xx
        a, b = nested(u, x, unit[0], 2)
        expected = a * b * 2
    assert NODE in nodes(first)
    assert _C.taylor_inspect([first], [x])[0][2] == ""  # no obstacle
    if outer == "laplacian":
        second = laplacian(first, x, batch_dims=1)
        expected = sum(2 * nested(expected, x, unit[i], 2)[1] for i in range(2))
    else:
        second = directional(first, x, unit[1].expand_as(x), 3)[3]
        expected = 6 * nested(expected, x, unit[1], 3)[2]
    assert_close(second, expected)
    weight = model[0].weight
    assert_close(
        torch.autograd.grad(second.sum(), weight, retain_graph=True),
        torch.autograd.grad(expected.sum(), weight, retain_graph=True),
    )


def test_freed_graph_raises_as_torch_does() -> None:
    x = torch.rand(4, dtype=torch.float64, requires_grad=True)
    own = directional(x.tanh(), x, torch.ones_like(x), 2)[2].sum()
    torch.autograd.grad(own, x)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(own, x)


@pytest.mark.parametrize("function", [torch.exp, torch.sin, F.silu])
def test_values_changed_in_place_raise_as_torch_does(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(4, dtype=torch.float64, requires_grad=True)
    inner = x @ torch.rand(4, 3, dtype=torch.float64)
    y = function(inner)
    own = directional(y, x, torch.ones_like(x), 2)[2].sum()
    torch.autograd.grad(own, x, retain_graph=True)
    with torch.no_grad():
        (y if function is torch.exp else inner).zero_()
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(own, x)


def test_under_autocast() -> None:
    model = net(2, 8, 8, 1)
    x = torch.rand(9, 2, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = model(x)[:, 0]
        own = laplacian(u.float(), x, batch_dims=1)
        gradients = torch.autograd.grad(own.square().mean(), model[0].weight)[0]
    exact = laplacian(model(x)[:, 0], x, batch_dims=1)
    expected = torch.autograd.grad(exact.square().mean(), model[0].weight)[0]
    assert gradients.isfinite().all()
    assert_close(gradients, expected, rtol=0.2, atol=0.05 * expected.abs().max().item())


ORDERS = [(1, 2), (2, 1), (3, 1, 2), (1, 1, 4), (2, 2, 1), (1,), (3,)]


@pytest.mark.parametrize("orders", ORDERS, ids=str)
@pytest.mark.parametrize("kind", ["jets", "unknown Node", "hook", "chunks"])
@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_orders_by_direction(orders: tuple[int, ...], kind: str, create_graph: bool, same: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 1))
    model = model.double()
    x = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    u = model(x)[:, 0]
    if kind == "hook":
        u.register_hook(lambda grad: grad)
    if kind == "unknown Node":
        u = u + torch.special.i0(x[:, 0])
    directions = torch.randn(len(orders), 1 if same else 6, 2, dtype=torch.float64).expand(len(orders), 6, 2)
    chunk_size = 1 if kind == "chunks" else None
    own = directional(u, x, directions, orders, create_graph=create_graph, chunk_size=chunk_size)
    assert own[0] is u and len(own) == 1 + max(orders)
    every = directional(u, x, directions, max(orders))
    for k in range(1, max(orders) + 1):
        reaching = [d for d, n in enumerate(orders) if n >= k]
        assert_close(own[k], every[k][reaching] if create_graph else every[k][reaching].detach())
        assert own[k].requires_grad == create_graph
    if create_graph:
        weight = model[0].weight
        losses = [
            sum(
                (r[[d for d, n in enumerate(orders) if n >= k]] if r is every[k] else r).square().sum()
                for k, r in enumerate(rows[1:], 1)
            )
            for rows in (own, every)
        ]
        assert_close(*(torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses))


def test_orders_by_direction_of_containers() -> None:
    x, y = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    f = {"a": x.sin() * y.exp(), "b": x**2}
    directions = (
        torch.stack([torch.ones(3), torch.zeros(3)]).double(),
        torch.stack([torch.zeros(3), torch.ones(3)]).double(),
    )
    _, first, second = directional(f, (x, y), directions, [1, 2])
    assert_close(first["a"], torch.stack([x.cos() * y.exp(), x.sin() * y.exp()]))
    assert_close(second["a"], (x.sin() * y.exp())[None])
    assert_close(second["b"], torch.zeros(1, 3, dtype=torch.float64))


def test_orders_by_direction_that_are_wrong() -> None:
    x = torch.rand(3, requires_grad=True)
    two = torch.ones(2, 3)
    for orders in [(1, 2, 3), (1,), ()]:
        with pytest.raises(ValueError, match="an order for each of 2 directions"):
            directional(x.sin(), x, two, orders)
    with pytest.raises(ValueError, match="at least 1"):
        directional(x.sin(), x, two, (1, 0))
    with pytest.raises(TypeError, match="an int, or one for each direction"):
        directional(x.sin(), x, two, (1, 2.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an int, or one for each direction"):
        directional(x.sin(), x, two, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        directional(x.sin(), x, two[:0], ())
