"""Operators of PDEs and derivatives of any order: against nested gradients, with batches, where jets cannot go."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hard_problems import OnceDifferentiable
from problems import NoVmap
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import (
    _C,
    biharmonic,
    curl,
    directional,
    divergence,
    full_jacobian,
    hessian,
    laplacian,
    nth_derivative,
    partials,
)
from highgrad_ext._reference import full_jacobian_loop, nth_derivative_loop
from highgrad_ext._symmetric import interpolation, multi_indices


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def net(inputs: int, outputs: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, outputs)).double()


KINDS: dict[str, Callable[[Tensor], Tensor]] = {"jets": torch.sin, "nested": NoVmap.apply}
every_kind = pytest.mark.parametrize("kind", KINDS)


def trace(tensor: Tensor, wrt: Tensor) -> Tensor:
    """The Laplacian by two loops."""
    width = wrt.numel()
    full = nth_derivative_loop(tensor, wrt, 2, create_graph=True).reshape(*tensor.shape, width, width)
    return full.diagonal(dim1=-2, dim2=-1).sum(-1)


@every_kind
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_laplacian(kind: str, outputs: int, chunk_size: int | None) -> None:
    x = leaf(2, 2)
    f = net(4, outputs)(KINDS[kind](x).view(-1))
    result = laplacian(f, x, chunk_size=chunk_size)
    assert result.requires_grad and result.shape == f.shape
    assert_close(result, trace(f, x))
    assert_close(laplacian({"f": f}, (x,), create_graph=False)["f"], result.detach())


@every_kind
def test_laplacian_of_samples(kind: str) -> None:
    x = leaf(5, 3)
    f = net(3, 2)(KINDS[kind](x))
    expected = torch.stack([trace(net(3, 2)(x[i].sin()), x)[:] for i in range(5)])
    assert_close(laplacian(f, x, batch_dims=1), expected)
    grid = leaf(2, 3, 2)
    f = net(2)(KINDS[kind](grid)).squeeze(-1)
    assert laplacian(f, grid, batch_dims=2).shape == (2, 3)
    assert_close(laplacian(f, grid, batch_dims=2), trace(f, grid))


def test_laplacian_of_a_branch_and_a_trunk() -> None:
    """A product of batches of matrices, the first of which does not depend on wrt."""
    x = leaf(5, 2)
    branch = leaf(5, 1, 6)
    f = torch.einsum("nmw,nw->nm", branch, x.sin() @ torch.randn(2, 6, dtype=x.dtype))
    assert_close(laplacian(f, x, batch_dims=1), -f)


@pytest.mark.parametrize("mixes", [False, True])
def test_samples_on_a_grid_or_among_centres(mixes: bool) -> None:
    """Samples are points of one grid_sample, or rows of a distance by products: axes prove both."""
    x = leaf(30, 2)
    y = x + x.mean(0) if mixes else x
    table, centres = leaf(1, 3, 5, 5), leaf(8, 2)
    f = nn.functional.grid_sample(table, y[None, :, None, :].tanh(), align_corners=True)[0, :, :, 0].t().sum(1)
    g = torch.cdist(y, centres).sum(1)
    for output in (f, g):
        assert _C.keeps_samples_apart([output], [x], 30) != mixes
        if not mixes:
            expected = torch.autograd.grad(output.sum(), x, retain_graph=True)[0]
            assert_close(nth_derivative(output, x, 1, batch_dims=1, method="nested"), expected)


@pytest.mark.parametrize("width", [3, 9])
def test_laplacian_of_an_ensemble(width: int) -> None:
    """Whose networks lead, before samples: axes prove these apart."""
    x = leaf(5, 2)
    first, last = leaf(4, 2, width), leaf(4, width, 1)

    def ensemble(y: Tensor) -> Tensor:
        return (torch.tanh(y.expand(4, *y.shape) @ first) @ last).sin().mean(0)

    f = ensemble(x)
    assert _C.keeps_samples_apart([f], [x], 5)
    assert not _C.keeps_samples_apart([f], [x], 5, everywhere=True)
    assert_close(laplacian(f, x, batch_dims=1), trace(f, x))
    mixed = ensemble(x) + x.sum(0)[:1]
    assert not _C.keeps_samples_apart([mixed], [x], 5)
    with pytest.raises(RuntimeError, match="got samples that mix"):
        laplacian(mixed, x, batch_dims=1)


@pytest.mark.parametrize("shape", [(7,), (2, 3), (1,)])
@pytest.mark.parametrize("width", [5, 1100])
def test_laplacian_behind_a_first_layer(shape: tuple[int, ...], width: int) -> None:
    """Whose coefficients of first order are the same for all samples."""
    x = leaf(*shape, 3)
    first, second = torch.randn(2, 3, width, dtype=x.dtype)
    f = (torch.tanh(x @ first) * torch.sin(x @ second)).sum(-1)
    options = {"batch_dims": len(shape)}
    assert_close(laplacian(f, x, create_graph=False, **options), trace(f, x).detach())
    assert_close(laplacian(f, x, **options), trace(f, x))


def test_laplacian_by_several_wrt() -> None:
    t, x = leaf(4, 1), leaf(4, 2)
    f = net(3)(torch.cat([t, x], 1))
    expected = trace(f, t) + trace(f, x)
    assert_close(laplacian(f, (t, x), batch_dims=1), expected)
    assert_close(laplacian(f, (t, x)), expected)


@every_kind
@pytest.mark.parametrize("width", [1, 2, 5])
def test_biharmonic(kind: str, width: int) -> None:
    x = leaf(width)
    f = (KINDS[kind](x) * torch.arange(1.0, width + 1)).sum().exp() * x.square().sum()
    assert_close(biharmonic(f, x), trace(trace(f, x), x))


def test_biharmonic_of_samples() -> None:
    x = leaf(3, 2)
    f = net(2)(x)[:, 0]
    assert_close(biharmonic(f, x, batch_dims=1), laplacian(laplacian(f, x, batch_dims=1), x, batch_dims=1))


@every_kind
def test_directional(kind: str) -> None:
    x = leaf(3, 2)
    v = torch.randn(3, 2, dtype=x.dtype)
    f = net(2, 2)(KINDS[kind](x))
    result = directional(f, x, v, 4)
    assert result[0] is f and len(result) == 5
    expected = f
    for derivative in result[1:]:
        expected = (full_jacobian_loop(expected, x, create_graph=True) * v).sum((-1, -2))
        assert_close(derivative, expected)
    several = directional(f, x, torch.stack([v, 2 * v]), 2)
    assert several[2].shape == (2, *f.shape)
    assert_close(several[2][1], 4 * result[2])


@every_kind
def test_divergence_and_curl(kind: str) -> None:
    x = leaf(4, 3)
    f = net(3, 3)(KINDS[kind](x))
    jacobian = torch.stack([full_jacobian_loop(f[i], x)[:, i] for i in range(4)])
    assert_close(divergence(f, x, batch_dims=1), jacobian.diagonal(dim1=1, dim2=2).sum(1))
    j = jacobian
    expected = torch.stack([j[:, 2, 1] - j[:, 1, 2], j[:, 0, 2] - j[:, 2, 0], j[:, 1, 0] - j[:, 0, 1]], 1)
    assert_close(curl(f, x, batch_dims=1), expected)
    assert divergence(f, x).shape == ()


@every_kind
@pytest.mark.parametrize("create_graph", [False, True])
def test_directional_of_samples(kind: str, create_graph: bool) -> None:
    x = leaf(2, 3, 2)
    directions = torch.randn(2, 2, 3, 2, dtype=x.dtype)
    for outputs in (1, 3):
        f = net(2, outputs)(KINDS[kind](x))
        expected = directional(f, x, directions, 3)
        found = directional(f, x, directions, 3, batch_dims=2, create_graph=create_graph)
        for a, b in zip(found[1:], expected[1:], strict=True):
            assert a.requires_grad == create_graph
            assert_close(a, b.detach() if not create_graph else b)
    with pytest.raises(RuntimeError, match=r"directional: .*got samples that mix"):
        directional(f * f.mean(), x, directions, 3, batch_dims=1)
    with pytest.raises(ValueError, match="directional: expected the first 1"):
        directional(f.sum(), x, directions, 3, batch_dims=1)


@pytest.mark.parametrize("slice_elements", [1, 9, 1 << 22])
def test_unknown_operations_of_torch(slice_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bessel functions, which have no rule, by products differentiated by their cotangent, or by rows."""
    monkeypatch.setattr("highgrad_ext._nested_series._JACOBIAN_ELEMENTS", slice_elements)
    x = leaf(3, 2)
    v = torch.randn(4, 3, 2, dtype=x.dtype)
    for f in (torch.special.i0(x.sin()), torch.special.i0(x.sin()).sum(1), torch.special.i0(x).prod()):
        expected = f
        series = directional(f, x, v, 3)
        for derivative in series[1:]:
            rows = full_jacobian_loop(expected, x, create_graph=True)
            if expected.dim() == f.dim():
                expected = torch.stack([(rows * direction).sum((-1, -2)) for direction in v])
            else:
                expected = torch.stack([(row * u).sum((-1, -2)) for row, u in zip(rows, v, strict=True)])
            assert_close(derivative, expected)
        assert_close(laplacian(f, x), trace(f, x))


def test_order_one_of_what_has_no_second_derivative() -> None:
    x = leaf(3)
    v = torch.randn(3, dtype=x.dtype)
    f = OnceDifferentiable.apply(x)
    assert_close(directional(f, x, v, 1, create_graph=False)[1], x.detach().exp() * v)


def test_fields_of_several_tensors() -> None:
    """Components and coordinates one by one, as many codes hold them."""
    coordinates = [leaf(4, 1) for _ in range(3)]
    joint = torch.cat([c.detach() for c in coordinates], 1).requires_grad_()
    f = net(3, 3)
    parts = list(f(torch.cat(coordinates, 1)).split(1, 1))
    assert_close(divergence(parts, coordinates, batch_dims=1), divergence(f(joint), joint, batch_dims=1))
    found = curl(parts, tuple(coordinates), batch_dims=1)
    assert isinstance(found, list)
    assert_close(torch.cat(found, 1), curl(f(joint), joint, batch_dims=1))
    with pytest.raises(ValueError, match="divergence: expected f of wrt's shape"):
        divergence(parts[:2], coordinates, batch_dims=1)
    assert divergence(leaf(0, 2).sin(), leaf(0, 2), batch_dims=1).shape == (0,)


def test_derivatives_that_torch_has_not() -> None:
    """Of operations whose backward has no derivative, by jets whatever their size, and through what is recorded."""
    x = leaf(40, 3)
    f = torch.cdist(x.sin(), x[:2].detach() + 2).sum()
    exact = (x.sin()[:, None] - (x[:2].detach() + 2)[None]).square().sum(2).sqrt().sum()
    assert_close(hessian(f, x, create_graph=False), hessian(exact, x, create_graph=False))
    small = leaf(2, 2)
    assert torch.autograd.gradcheck(lambda x: hessian(torch.cdist(x, torch.full_like(x, 2)).sum(1), x), (small,))
    q = leaf(1, 1, 3, 2)

    def attention(q: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, q.sin(), q).sum()

    assert torch.autograd.gradcheck(lambda q: hessian(attention(q), q), (q,))


def test_rotation_has_curl_and_no_divergence() -> None:
    x = leaf(3)
    f = torch.stack([-x[1], x[0], 0 * x[2]])
    assert_close(curl(f, x), torch.tensor([0.0, 0.0, 2.0], dtype=x.dtype))
    assert_close(divergence(f, x), torch.tensor(0.0, dtype=x.dtype))


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_curl_of_curl(batch_dims: int) -> None:
    """The gradient of the divergence, less the Laplacian; and what trains, of weights."""
    torch.manual_seed(0)
    x = leaf(4, 3) if batch_dims else leaf(3)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    f = module(x)
    found = curl(curl(f, x, batch_dims=batch_dims), x, batch_dims=batch_dims)
    gradient = full_jacobian(divergence(f, x, batch_dims=batch_dims), x, batch_dims=batch_dims)
    expected = gradient - laplacian(f, x, batch_dims=batch_dims)
    assert_close(found, expected)
    weights = list(module.parameters())[:-1]
    assert_close(
        *(torch.autograd.grad(value.square().sum(), weights, retain_graph=True) for value in (found, expected))
    )
    parts = tuple(part.clone().requires_grad_() for part in x.detach().tensor_split(3, -1))
    pieces = curl(module(torch.cat(parts, -1)).tensor_split(3, -1), parts, batch_dims=batch_dims, create_graph=False)
    assert_close(torch.cat(pieces, -1), curl(f, x, batch_dims=batch_dims, create_graph=False))


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "laplacian": lambda f, x: laplacian(f, x, batch_dims=1),
    "biharmonic": lambda f, x: biharmonic(f, x, batch_dims=1),
    "directional": lambda f, x: directional(f, x, torch.ones_like(x), 4)[4],
    "hessian": lambda f, x: hessian(f, x, batch_dims=1),
    "third": lambda f, x: nth_derivative(f, x, 3, batch_dims=1),
    "diagonal": lambda f, x: nth_derivative(f, x, 3, batch_dims=1, reduce="diagonal"),
    "sum": lambda f, x: nth_derivative(f, x, 3, reduce="sum"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradcheck_by_weights_and_wrt(operator: str) -> None:
    """What training needs: the graph of the result reaches the weights."""

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        hidden = torch.tanh(nn.functional.linear(x, weight, bias))
        return OPERATORS[operator]((hidden * hidden.exp()).sum(1), x)

    assert torch.autograd.gradcheck(function, (leaf(2, 2), leaf(3, 2), leaf(3)))


@pytest.mark.parametrize("operator", OPERATORS)
def test_training_gives_the_gradients_of_nested_reverse(operator: str) -> None:
    x, model = leaf(4, 2), net(2)
    f = model(x)[:, 0]
    grads = torch.autograd.grad(OPERATORS[operator](f, x).square().sum(), list(model.parameters()), allow_unused=True)
    x_hooked = x * 1
    x_hooked.register_hook(lambda grad: None)
    g = model(x_hooked)[:, 0]
    expected = torch.autograd.grad(
        OPERATORS[operator](g, x).square().sum(), list(model.parameters()), allow_unused=True
    )
    for a, b in zip(grads, expected, strict=True):
        if b is None:
            assert a is None or not a.any()
        if a is not None and b is not None:
            assert_close(a, b)


def test_samples_that_mix_raise() -> None:
    x = leaf(6, 2)
    mixing = [
        nn.BatchNorm1d(2).double()(x).sum(1),
        x.sum(1) * x.mean(),
        x.roll(1, 0).sum(1),
        x.softmax(0).sum(1),
        (torch.ones(6, 6, dtype=x.dtype) @ x).sum(1),
        x.flip(0).sin().sum(1),
    ]
    for f in mixing:
        for operator in (laplacian, hessian, biharmonic):
            with pytest.raises(RuntimeError, match="independent samples"):
                operator(f, x, batch_dims=1)
    separate = nn.BatchNorm1d(2).double().eval()(x).sin().sum(1)
    assert_close(laplacian(separate, x, batch_dims=1), trace(separate, x))


def test_wrong_arguments() -> None:
    x = leaf(3, 2)
    f = x.sin().sum(1)
    with pytest.raises(ValueError, match="laplacian: expected the first 1 dimensions"):
        laplacian(f.sum(), x, batch_dims=1)
    with pytest.raises(ValueError, match="expected batch_dims to be at least 0"):
        laplacian(f, x, batch_dims=-1)
    with pytest.raises(ValueError, match="divergence: expected f of wrt's shape"):
        divergence(f, x, batch_dims=1)
    with pytest.raises(ValueError, match="curl: expected f and wrt of 3"):
        curl(x.sin(), x, batch_dims=1)
    with pytest.raises(ValueError, match="directional: expected order"):
        directional(f, x, torch.ones_like(x), 0)
    with pytest.raises(ValueError, match="directional: expected directions"):
        directional(f, x, torch.ones(3), 2)
    with pytest.raises(RuntimeError, match="laplacian: expected every wrt to require grad"):
        laplacian(f, torch.ones(2))
    with pytest.raises(ValueError, match="expected method"):
        nth_derivative(f, x, 2, method="jets")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="cannot be used"):
        nth_derivative(NoVmap.apply(x).prod(), x, 2, method="taylor")


def test_freed_graph_and_changed_tensor_raise() -> None:
    x = leaf(3)
    f = x.exp().sum()
    laplacian(f, x, retain_graph=False, create_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        laplacian(f, x)
    y = x.exp()
    g = y.sin().sum()
    y.data.add_(0)
    with torch.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        laplacian(g, x)


@pytest.mark.parametrize(
    "derive",
    [
        lambda f, y: laplacian(f.sum(), y),
        lambda f, y: divergence(f, y),
        lambda f, y: directional(f, y, torch.ones_like(y), 1, batch_dims=1),
        lambda f, y: partials(f, y, [(0,)], batch_dims=1),
        lambda f, y: nth_derivative(f, y, 1, batch_dims=1),
    ],
)
def test_wrt_changed_since_raises(derive: Callable[[Tensor, Tensor], object]) -> None:
    """By what it is now, the derivatives would be zero."""
    y = leaf(3) * 1
    f = y * 2
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        derive(f, y)
    derive(y * 2, y)  # of what was computed since


def test_constants_parameters_and_detached_parts() -> None:
    x = leaf(3)
    weight = leaf(3)
    f = (x.detach() * x.sin() * weight).sum() + (x.exp().detach() * x.square()).sum()
    expected = -(x.detach() * x.sin() * weight).sum() + 2 * x.exp().detach().sum()
    result = laplacian(f, x)
    assert_close(result, expected)
    assert_close(torch.autograd.grad(result, weight)[0], -(x.detach() * x.sin()).detach())


@pytest.mark.parametrize("n", [2, 3, 4])
def test_orders_by_every_method(n: int) -> None:
    x = leaf(2, 2)
    f = net(4, 2)(x.view(-1))
    expected = nth_derivative_loop(f, x, n)
    for method in ("auto", "nested", "taylor"):
        assert_close(nth_derivative(f, x, n, method=method, create_graph=False), expected)
        assert_close(nth_derivative(f[0], x, n, method=method), expected[0])
    assert_close(nth_derivative(f, x, n, method="nested", symmetric=False), expected)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("width", [2, 16])
@pytest.mark.parametrize("reduce", [None, "sum", "diagonal"])
def test_orders_with_and_without_a_graph(n: int, width: int, reduce: Any) -> None:
    """Of a wrt so small that all orders flow through the graph, and of one so large that the highest is contracted."""
    x = leaf(width)
    f = net(width)(x)[0]
    expected = nth_derivative(f, x, n, reduce=reduce, method="nested", create_graph=False)
    assert expected.any()
    for create_graph in (False, True):
        options: dict[str, Any] = {"reduce": reduce, "create_graph": create_graph}
        assert_close(nth_derivative(f, x, n, **options), expected)
        with torch.no_grad():
            assert_close(nth_derivative(f, x, n, **options), expected)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("method", ["nested", "taylor"])
@pytest.mark.parametrize("reduce", [None, "diagonal"])
@pytest.mark.parametrize("width", [2, 8])
def test_orders_of_samples(n: int, method: Any, reduce: Any, width: int) -> None:
    x = leaf(3, width)
    for outputs in (1, 2):
        f = net(width, outputs)(x)
        f = f[:, 0] if outputs == 1 else f
        result = nth_derivative(f, x, n, method=method, reduce=reduce, batch_dims=1)
        every = nth_derivative(f, x, n, method="nested", create_graph=False)
        parts = []
        for i in range(3):
            part = every[i]
            for axis in range(n):
                part = part.select(f.dim() - 1 + axis, i)
            index = [torch.arange(width)] * n
            parts.append(part[(..., *index)] if reduce else part)
        assert_close(result, torch.stack(parts))


def test_mixed_blocks_of_every_order() -> None:
    x, y = leaf(2), leaf(3)
    f = {"a": (x.sum() * y).sin(), "b": x.exp().prod() * y.cos().sum()}
    derivative = nth_derivative(f, (x, y), 3, method="taylor")
    joint = torch.cat([x, y]).detach().requires_grad_()
    first, second = joint[:2], joint[2:]
    for name, whole in (("a", (first.sum() * second).sin()), ("b", first.exp().prod() * second.cos().sum())):
        full = nth_derivative_loop(whole, joint, 3)
        for path in itertools.product((0, 1), repeat=3):
            block = derivative[name][path[0]][path[1]][path[2]]
            cut = tuple(slice(0, 2) if j == 0 else slice(2, 5) for j in path)
            assert_close(block, full[(..., *cut)])


def test_mixed_blocks_of_samples() -> None:
    x, y = leaf(4, 2), leaf(4)
    f = (x.sin().sum(1) * y).exp()
    mixed = nth_derivative(f, [x, y], 3, batch_dims=1)[0][1][0]
    assert mixed.shape == (4, 2, 2)
    for i in range(4):
        whole = nth_derivative_loop((x[i].sin().sum() * y[i]).exp(), x, 2, create_graph=True)[i, :, i, :]
        expected = torch.stack([torch.autograd.grad(entry, y, retain_graph=True)[0][i] for entry in whole.reshape(-1)])
        assert_close(mixed[i], expected.view(2, 2))


def test_progress_of_operators() -> None:
    x = leaf(5, 3)
    f = net(3)(x)[:, 0]
    seen: list[tuple[int, int]] = []
    laplacian(f, x, batch_dims=1, chunk_size=2, progress=lambda *done: seen.append(done))
    assert seen == [(2, 3), (3, 3)]
    seen.clear()
    directional(f, x, torch.randn(4, 5, 3, dtype=x.dtype), 2, chunk_size=3, progress=lambda *done: seen.append(done))
    assert seen == [(3, 4), (4, 4)]


def test_degree_stop() -> None:
    x = leaf(3)
    w = torch.randn(3, 3, dtype=x.dtype)
    assert_close(nth_derivative(x @ w @ x, x, 2), w + w.t())
    for f, degree in ((x @ w @ x, 2), ((x**3).sum(), 3), ((x * x - 1).square().mean(), 4), (x.relu() * x, 2)):
        seen: list[tuple[int, int]] = []
        zero = nth_derivative(f, x, degree + 1, progress=lambda *s, seen=seen: seen.append(s))
        assert not zero.any() and not seen
        assert nth_derivative(f, x, degree).any()


def test_half_precision_and_float() -> None:
    torch.manual_seed(0)
    model = net(3).float()
    x = torch.randn(3, requires_grad=True)
    exact = nth_derivative(net(3)(x.double())[0], x, 4, create_graph=False)
    assert_close(nth_derivative(model(x)[0], x, 4, create_graph=False), exact, rtol=1e-4, atol=1e-6)
    y = torch.randn(3, dtype=torch.bfloat16, requires_grad=True)
    assert nth_derivative(y.sin().prod(), y, 3).dtype == torch.bfloat16


def test_empty_and_unused() -> None:
    x, y = leaf(0), leaf(2)
    assert laplacian(x.sin().sum(), x) == 0
    assert not laplacian(y.sin(), leaf(2)).any()
    assert laplacian(leaf(0, 2).sin(), y).shape == (0, 2)
    assert nth_derivative(leaf(0, 2).sin().sum(1), y, 3).shape == (0, 2, 2, 2)
    assert [t.shape for t in directional(y.sin(), y, torch.zeros(0, 2), 2)[1:]] == [(0, 2)] * 2


def test_numbers() -> None:
    x = leaf()
    f = x.sin()
    assert_close(laplacian(f, x), -f)
    assert_close(biharmonic(f, x), f)
    assert_close(directional(f, x, torch.full((), 2.0, dtype=x.dtype), 3)[3], -8 * x.cos())
    assert_close(nth_derivative(f, x, 5, reduce="diagonal"), x.cos())
    assert_close(hessian(f, x), -f)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_of_operators(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    tolerance = {"rtol": 0.03, "atol": 0.1} if dtype == torch.bfloat16 else {}
    for operator in (laplacian, biharmonic):
        result = operator(x.sin().prod(1), x, batch_dims=1, create_graph=False)
        assert result.dtype == dtype
        assert_close(
            result, operator(wide.sin().prod(1), wide, batch_dims=1, create_graph=False).to(dtype), **tolerance
        )
    assert directional(x.sin(), x, torch.ones_like(x), 2)[2].dtype == dtype


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_interpolation_is_exact_for_powers(width: int, order: int) -> None:
    """f(x) = prod x^i at 0: the coefficient along j is j^i, the only derivative is i! at i."""
    indices = multi_indices(width, order)
    counts = torch.nn.functional.one_hot(indices, width).sum(1).double()
    gamma = interpolation(width, order).to_dense()
    powers = (counts[:, None, :] ** counts[None, :, :]).prod(-1)
    factorials = torch.exp(torch.lgamma(counts + 1).sum(1))
    assert_close(gamma @ powers, torch.diag(factorials), rtol=1e-8, atol=1e-6)


def test_interpolation_of_the_paper() -> None:
    gamma = interpolation(2, 2).to_dense()
    assert_close(gamma[1], torch.tensor([-0.25, 1.0, -0.25], dtype=torch.float64))
