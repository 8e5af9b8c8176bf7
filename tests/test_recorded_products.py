"""Recorded jets of a product, one Node on the graph: values, and gradients of gradients by all that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import biharmonic, directional, laplacian

NODE = "MultiplySeriesBackward"


def twice(a: Tensor, b: Tensor) -> Tensor:
    shared = b.sin()
    return (a.tanh() * shared) * shared


# Of what two layers give.
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda a, b: a.tanh() * b.sin(),
    "gate": lambda a, b: (1 - a.tanh()) * b.sin() + a.tanh() * b.exp(),
    "of the first order": lambda a, b: a.tanh() * (b * 0.5),
    "of products": lambda a, b: (a.tanh() * b.sin()) * (a.sin() * b.tanh()),
    "of one factor twice": twice,
}
every_product = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)


def nodes(tensor: Tensor) -> set[str]:
    seen, left = set(), [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [edge for edge, _ in node.next_functions]
    return {node.name() for node in seen}


def grad(f: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(f.sum(), x, create_graph=True)[0]


def nested_laplacian(f: Tensor, x: Tensor) -> Tensor:
    first = grad(f, x)
    return sum(grad(first[:, i], x)[:, i] for i in range(x.shape[1]))  # type: ignore[return-value]


class Net:
    """sum(product(x a, x b)), by sample."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], samples: int = 5, width: int = 4, **options: Any):
        torch.manual_seed(0)
        options = {"dtype": torch.float64, "requires_grad": True, **options}
        self.x = torch.randn(samples, 3, **options)
        self.a, self.b = torch.randn(3, width, **options), torch.randn(3, width, **options)
        self.f = product(self.x @ self.a, self.x @ self.b).sum(1)

    def assert_same(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Values, gradients and gradients of gradients by all leaves."""
        totals = []
        for tensors in (found, expected):
            total = sum((i + 1) * tensor.cos().sum() for i, tensor in enumerate(tensors))
            first = torch.autograd.grad(total, (self.x, self.a, self.b), create_graph=True)
            second = torch.autograd.grad(
                sum(g.square().sum() for g in first), (self.x, self.a, self.b), retain_graph=True
            )
            totals.append([*tensors, *first, *second])
        for own, other in zip(*totals, strict=True):
            assert_close(own, other, rtol=1e-9, atol=1e-9)


@every_product
@pytest.mark.parametrize("orders", [(2, 2), (2, 1), (3, 1), (3, 2, 1), (4, 1), (5,)], ids=str)
def test_gradients(product: Callable[[Tensor, Tensor], Tensor], orders: tuple[int, ...]) -> None:
    net = Net(product)
    _, *series = directional(net.f, net.x, torch.eye(3, dtype=torch.float64)[: len(orders)].unsqueeze(1), orders)
    assert all(NODE in nodes(of_order) for of_order in series)
    expected: list[list[Tensor]] = [[] for _ in series]
    for i, order in enumerate(orders):
        derivative = net.f
        for k in range(order):
            derivative = grad(derivative, net.x)[:, i]
            expected[k].append(derivative)
    net.assert_same(series, [torch.stack(rows) for rows in expected])


@every_product
@pytest.mark.parametrize("operator", [laplacian, biharmonic])
def test_sums_over_directions(product: Callable[[Tensor, Tensor], Tensor], operator: Callable[..., Tensor]) -> None:
    net = Net(product)
    found = operator(net.f, net.x, batch_dims=1)
    assert NODE in nodes(found)
    expected = nested_laplacian(net.f, net.x)
    if operator is biharmonic:
        expected = nested_laplacian(expected, net.x)
    net.assert_same([found], [expected])


@every_product
def test_operators_of_operators(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(product, samples=3)
    inner = laplacian(net.f, net.x, batch_dims=1)
    _, (along, _), (second,) = directional(net.f, net.x, torch.eye(3, dtype=torch.float64)[:2].unsqueeze(1), (2, 1))
    found = [laplacian(of_inner, net.x, batch_dims=1) for of_inner in (inner, along, second)]
    first = grad(net.f, net.x)[:, 0]
    inners = [nested_laplacian(net.f, net.x), first, grad(first, net.x)[:, 0]]
    net.assert_same(found, [nested_laplacian(of_inner, net.x) for of_inner in inners])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 33])
@pytest.mark.parametrize("samples", [1, 3, 1500])
def test_any_size(dtype: torch.dtype, width: int, samples: int) -> None:
    net = Net(PRODUCTS["gate"], samples, width, dtype=dtype)
    for options in ({}, {"create_graph": False}):
        found = laplacian(net.f, net.x, batch_dims=1, **options)
        assert_close(found, nested_laplacian(net.f, net.x), rtol=1e-4, atol=1e-4 * width)
    found = laplacian(net.f, net.x, batch_dims=1)
    for leaf in (net.a, net.b):
        expected = grad(nested_laplacian(net.f, net.x), leaf)
        assert_close(grad(found, leaf), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("other", [lambda b: b.sin().sum(1, keepdim=True), lambda b: b], ids=["features", "samples"])
def test_what_broadcasts_is_multiplied_in_torchs_operations(other: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda a, b: a.tanh() * other(b))
    found = laplacian(net.f, net.x, batch_dims=1)
    assert NODE not in nodes(found)
    net.assert_same([found], [nested_laplacian(net.f, net.x)])


def test_errors_are_torchs() -> None:
    net = Net(PRODUCTS["product"])
    loss = laplacian(net.f, net.x, batch_dims=1).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_batched_gradients() -> None:
    net = Net(PRODUCTS["gate"])
    found = laplacian(net.f, net.x, batch_dims=1)
    rows = torch.eye(len(found), dtype=found.dtype)
    (batched,) = torch.autograd.grad(found, net.a, rows, is_grads_batched=True, retain_graph=True)
    expected = [torch.autograd.grad(found, net.a, row, retain_graph=True)[0] for row in rows]
    assert_close(batched, torch.stack(expected))
