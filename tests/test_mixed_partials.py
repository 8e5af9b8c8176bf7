"""Chosen partial derivatives, mixed ones too, and first derivatives along directions: against nested gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from problems import NoVmap
from test_recorded_jets import NODE, nodes
from torch import Tensor, nn
from torch.testing import assert_close

import highgrad_ext
from highgrad_ext import _partials, directional, full_jacobian, nth_derivative, partials
from highgrad_ext._partials import recipe


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def net(inputs: int, outputs: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, outputs)).double()


def derived(f: Tensor, wrt: tuple[Tensor, ...], index: tuple[int, ...]) -> Tensor:
    """Of [samples, outputs] by the elements of samples of all `wrt` together, one gradient after another."""
    columns = []
    for column in f.unbind(1):
        for i in index:
            grads = torch.autograd.grad(column.sum(), wrt, create_graph=True)
            column = torch.cat(grads, 1)[:, i]
        columns.append(column)
    return torch.stack(columns, 1)


SETS: list[list[tuple[int, ...]]] = [
    [(0,)],
    [(2,), (0,), ()],
    [(1, 0)],
    [(0,), (1,), (1, 1), (0, 1, 1)],
    [(0, 0), (1, 1), (0, 1), (1, 0)],
    [(0, 1, 2), (1,)],
    [(0, 0, 1, 1), (0, 0), (2,)],
    [(2, 1, 1, 1), (1, 1, 1, 1)],
    list(itertools.combinations_with_replacement(range(3), 2)),
]
KINDS: dict[str, Callable[[Tensor], Tensor]] = {"jets": torch.sin, "nested": NoVmap.apply}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("indices", SETS, ids=str)
def test_partials(indices: list[tuple[int, ...]], kind: str) -> None:
    t, x = leaf(4, 1), leaf(4, 2)
    module = net(3, 2)
    f = module(KINDS[kind](torch.cat([t, x], 1)))
    expected = [derived(f, (t, x), index) for index in indices]
    found = partials(f, (t, x), indices, batch_dims=1)
    assert_close(list(found), expected, rtol=1e-9, atol=1e-11)
    without = partials({"f": f}, (t, x), indices, batch_dims=1, create_graph=False)
    assert_close([value["f"].detach() for value in without], [value.detach() for value in expected])
    assert not any(value["f"].requires_grad for value, index in zip(without, indices, strict=True) if index)
    weights = list(module.parameters())
    grads, wanted = (
        torch.autograd.grad(
            sum(value.square().sum() for value in values),
            weights,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for values in (found, expected)
    )
    assert_close(grads, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 1)])
def test_first_order_alone(shape: tuple[int, ...], create_graph: bool) -> None:
    """Columns of a gradient, of samples and, without batch_dims, of all of f by elements of one sample."""
    torch.manual_seed(0)
    t, x = (torch.rand(4, width, dtype=torch.float64).requires_grad_() for width in (1, 2))
    numel = math.prod(shape[1:])
    f = torch.tanh(torch.cat([t, x], 1) @ torch.rand(3, numel, dtype=torch.float64)).reshape(shape)
    columns = [block.reshape(4, numel, 4, -1) for block in full_jacobian(f, (t, x), create_graph=False)]
    of_sample = torch.cat([block[torch.arange(4), :, torch.arange(4)] for block in columns], 2)
    for indices in ([(2,), (0,)], [(1,)]):
        found = partials(f, (t, x), indices, batch_dims=1, create_graph=create_graph)
        assert_close([value.detach() for value in found], [of_sample[..., i].reshape(shape) for (i,) in indices])
        assert all(value.requires_grad == create_graph for value in found)
        found[0].mul_(torch.ones((), dtype=torch.float64, requires_grad=True))
    of_all = torch.cat([block.reshape(4 * numel, -1) for block in columns], 1)
    for indices in ([(11,), (3,)], [(5,)]):
        found = partials(f, (t, x), indices, create_graph=create_graph)
        assert_close([value.detach() for value in found], [of_all[:, i].reshape(shape) for (i,) in indices])


def test_partials_without_samples() -> None:
    x = leaf(3)
    f = x[0] ** 2 * x[1] * x[2] + x.sin().sum()
    found = partials(f, x, [(0, 0, 1), (0, 2), (0, 1, 2)])
    assert_close(list(found), [2 * x[2], 2 * x[0] * x[1], 2 * x[0]])
    constant = torch.ones(2, dtype=torch.float64)
    assert_close(partials(constant, x, [(0, 1), (2,)]), (torch.zeros_like(constant), torch.zeros_like(constant)))


def test_few_directions() -> None:
    """Each as high as it must be: rows of jets are what a derivative costs."""
    assert recipe((((0, 1),), ((1, 2),))).orders == (2, 1)
    assert recipe((((0, 1), (1, 1)),)).orders == (2, 2)
    assert recipe((((0, 2),), ((1, 2),), ((0, 1), (1, 1)))).orders == (2, 2, 2)
    assert recipe((((0, 1),), ((1, 2),), ((0, 1), (1, 2)))).orders == (3, 3, 3, 2)


def test_wrong_indices() -> None:
    x = leaf(3, 2)
    f = x.sin().sum(1)
    for indices in ([0], ["01"], [(0.0,)], [(True,)]):
        with pytest.raises(TypeError, match="partials: expected every one of indices"):
            partials(f, x, indices, batch_dims=1)  # type: ignore[list-item]
    for index in ((2,), (-1, 0)):
        with pytest.raises(ValueError, match="of the 2 elements of wrt in a sample"):
            partials(f, x, [index], batch_dims=1)
    with pytest.raises(RuntimeError, match="got samples that mix"):
        partials((x - x.mean(0)).sum(1), x, [(0,)], batch_dims=1)


@pytest.mark.parametrize("batch_dims", [0, 1, 2])
@pytest.mark.parametrize("outputs", [1, 2])
def test_first_derivatives_along_many_directions(batch_dims: int, outputs: int) -> None:
    x = leaf(2, 4, 3)
    module = net(3, outputs)
    f = module(x)
    jacobian = nth_derivative(f, x, 1, batch_dims=2)
    for v in (torch.eye(3), torch.randn(5, 3), torch.randn(5, 2, 4, 3)):
        v = v.double()
        v = v.view(len(v), 1, 1, 3) if v.dim() == 2 else v
        expected = (jacobian * v.unsqueeze(3)).sum(-1)
        value, first = directional(f, x, v, 1, batch_dims=batch_dims)
        assert value is f
        assert_close(first, expected)
        weights = list(module.parameters())
        grads, wanted = (
            torch.autograd.grad(y.square().sum(), weights, retain_graph=True, allow_unused=True)
            for y in (first, expected)
        )
        assert_close(grads[0], wanted[0])
        assert not directional(f, x, v, 1, batch_dims=batch_dims, create_graph=False)[1].requires_grad


def test_first_derivatives_by_several_wrt() -> None:
    t, x = leaf(4, 1), leaf(4, 2)
    f = net(3)(torch.cat([t, x], 1))
    directions = (torch.randn(5, 4, 1).double(), torch.randn(5, 1, 2).double())
    expected = sum(
        (g * v).sum(-1, keepdim=True)
        for g, v in zip(torch.autograd.grad(f.sum(), (t, x), create_graph=True), directions, strict=True)
    )
    assert_close(directional(f, (t, x), directions, 1, batch_dims=1)[1], expected)


def test_directions_broadcast() -> None:
    x = leaf(4, 2)
    f = net(2)(x)
    u, u_x, u_xx = directional(f, x, torch.tensor([0.0, 1.0]), 2)
    assert_close([u, u_x, u_xx], [f, derived(f, (x,), (1,)), derived(f, (x,), (1, 1))])
    _, (u_x, u_t), (u_xx,) = directional(f, x, torch.eye(2)[[1, 0]].unsqueeze(1), (2, 1), batch_dims=1)
    assert_close([u_t, u_x, u_xx], [derived(f, (x,), index) for index in ((0,), (1,), (1, 1))])
    for wrong in (torch.ones(3), torch.ones(3, 2), torch.ones(1, 1, 4, 2), torch.ones(5, 3, 2)):
        with pytest.raises(ValueError, match="directional: expected directions of wrt's shapes"):
            directional(f, x, wrong, 1)
    with pytest.raises(ValueError, match="directional: expected directions of wrt's shapes"):
        directional(f, (x, x), (torch.ones(2, 1, 2), torch.ones(3, 1, 2)), 1)


def test_a_recorded_gradient_is_torchs_own() -> None:
    """One row goes by the Nodes that torch.autograd.grad records, whose backward is the shorter, and by no view more
    than it needs."""
    x = leaf(4, 2)
    f = net(2)(x)
    assert "TanhBackwardBackward0" in nodes(nth_derivative(f, x, 1, batch_dims=1))
    f = f[:, 0]
    [gradient] = torch.autograd.grad(f, x, torch.ones_like(f), create_graph=True)
    expected = sorted(nodes(gradient))
    assert sorted(nodes(full_jacobian(f, x, batch_dims=1))) == expected
    [column] = partials(f, x, [(1,)], batch_dims=1)
    assert sorted(nodes(column)) == sorted([*expected, "SelectBackward0"])
    _, along = directional(f, x, torch.eye(2).unsqueeze(1), 1, batch_dims=1)
    assert sorted(nodes(along)) == sorted([*expected, "TBackward0"])


def test_public() -> None:
    assert "partials" in highgrad_ext.__all__


def second_derivatives(width: int) -> list[tuple[int, ...]]:
    return [(0,), *itertools.combinations_with_replacement(range(width), 2), (width - 1,)]


@pytest.mark.parametrize("batch_dims", [1, 2])
def test_many_second_derivatives_of_one_output(batch_dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By gradients of gradients where these are cheaper, as of large tensors: values and the gradients by weights."""
    monkeypatch.setattr(_partials, "_BYTES_OF_GRADIENT", 0)
    t, x = leaf(4, 1), leaf(4, 3)
    module = net(4)
    indices = second_derivatives(4)
    f = module(torch.cat([t, x], 1).sin())
    expected = [derived(f, (t, x), index).reshape(f.shape) for index in indices]
    if batch_dims == 2:
        # Samples [2, 2], of the same elements.
        t, x = (z.detach().reshape(2, 2, -1).requires_grad_() for z in (t, x))
        f = module(torch.cat([t, x], 2).sin())
    found = partials(f, (t, x), indices, batch_dims=batch_dims)
    assert_close([value.reshape(4, 1) for value in found], expected)
    grads, wanted = (
        torch.autograd.grad(
            sum(value.square().sum() for value in values), list(module.parameters())[:-1], retain_graph=True
        )
        for values in (found, expected)
    )
    assert_close(grads, wanted)
    assert NODE not in nodes(found[-2])


def test_many_second_derivatives_of_polynomials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant first derivatives have no graph; a scalar without samples."""
    monkeypatch.setattr(_partials, "_BYTES_OF_GRADIENT", 0)
    x = leaf(4)
    indices = second_derivatives(4)
    found = dict(zip(indices, partials(x[0] * 3 + x[1] * x[2], x, indices), strict=True))
    assert found[(0,)].item() == 3
    assert {index: value.item() for index, value in found.items() if value.item()} == {(0,): 3, (1, 2): 1}


def test_many_second_derivatives_of_a_norm() -> None:
    """The third derivative of torch's own layer norm is wrong, and training takes it: jets serve."""
    torch.manual_seed(0)
    x = leaf(4, 4)
    weight = leaf(4, 6)

    def mean_and_deviation(z: Tensor) -> Tensor:
        centred = z - z.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()

    def loss(norm: Callable[[Tensor], Tensor], derive: Callable[[Tensor], list[Tensor]]) -> Tensor:
        f = norm((x @ weight).sin())[:, :1]
        return torch.autograd.grad(sum(value.square().sum() for value in derive(f)), weight)[0]

    indices = second_derivatives(4)
    found = loss(lambda z: nn.functional.layer_norm(z, (6,)), lambda f: list(partials(f, x, indices, batch_dims=1)))
    expected = loss(mean_and_deviation, lambda f: [derived(f, (x,), index) for index in indices])
    assert_close(found, expected)


@pytest.mark.parametrize("create_graph", [True, False])
def test_results_share_no_memory(create_graph: bool) -> None:
    """Not even where the gradients by both terms of a sum are views of one tensor."""
    x, y = leaf(4, 1), leaf(4, 1)
    by_x, by_y = partials(x.view(-1) + y.view(-1), (x, y), [(0,), (1,)], batch_dims=1, create_graph=create_graph)
    with torch.no_grad():
        by_x.mul_(7)
    assert_close(by_y, torch.ones_like(by_y))
