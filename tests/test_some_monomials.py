"""Jets with the coefficients of some monomials alone: a derivative, and what it is a derivative of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_mixed_partials import derived, leaf
from test_recorded_jets import NODE, nodes
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, laplacian, partials
from highgrad_ext._partials import divisors, recipe

SETS: list[list[tuple[int, ...]]] = [
    [(0, 1, 1)],
    [(0,), (1,), (0, 1, 1)],
    [(0, 0), (0, 1), (1, 1)],
    [(0, 1, 2), (2, 2)],
    [(0, 0, 1, 1), (1,), (0, 0, 0, 0), (1, 1, 1, 1)],
]
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one layer": lambda x, w: torch.tanh(x @ w),
    "two layers": lambda x, w: torch.nn.functional.gelu(torch.sin(x @ w) @ w.t()) @ w,
    "products": lambda x, w: torch.tanh(x @ w) * torch.sin(x @ w.flip(1)),
    "quotients": lambda x, w: torch.exp(x @ w) / (2 + torch.cos(x @ w.flip(1))),
    "matrices": lambda x, w: ((x @ w).view(len(x), 2, -1) @ torch.sin(x @ w).view(len(x), -1, 2)).flatten(1),
    "softmax": lambda x, w: torch.softmax(x @ w, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("indices", SETS, ids=str)
def test_values_and_gradients(indices: list[tuple[int, ...]], name: str) -> None:
    """More samples than one block of elements, and no whole number of vectors."""
    torch.manual_seed(0)
    x, w = leaf(37, 3), (torch.randn(3, 14, dtype=torch.float64) / 3).requires_grad_()
    f = FUNCTIONS[name](x, w)
    f = torch.stack([f.sum(1), f[:, 0]], 1)
    needed = tuple(sorted(tuple((i, index.count(i)) for i in sorted(set(index))) for index in indices))
    assert divisors(needed).rows < recipe(needed).rows
    expected = [derived(f, (x,), index) for index in indices]
    found = partials(f, x, indices, batch_dims=1)
    assert_close(list(found), expected)
    assert_close(list(partials(f, x, indices, batch_dims=1, create_graph=False)), [e.detach() for e in expected])
    first = [
        torch.autograd.grad(sum(v.square().sum() for v in u), (w, x), create_graph=True) for u in (found, expected)
    ]
    assert_close(first[0], first[1])
    if len(indices) < 4:
        # What goes back through the Nodes themselves, and their jets.
        second = [torch.autograd.grad(sum(g.square().sum() for g in grads), w, retain_graph=True) for grads in first]
        assert_close(second[0], second[1])
        of_found = laplacian(found[-1], x, batch_dims=1)
        assert_close(of_found, sum(derived(expected[-1], (x,), (i, i)) for i in range(3)))


def test_one_node_an_activation() -> None:
    x, w = leaf(5, 2), leaf(2, 3)
    (found,) = partials(torch.tanh(x @ w), x, [(0, 1, 1)], batch_dims=1)
    assert nodes(found).count(NODE) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_elements(dtype: torch.dtype) -> None:
    """Rows that repeat for all samples, in several tasks, whose gradients are summed."""
    torch.manual_seed(0)
    x = torch.rand(900, 2, dtype=dtype, requires_grad=True)
    w = (torch.randn(2, 45, dtype=dtype)).requires_grad_()
    f = torch.sigmoid(x @ w).sum(1, keepdim=True)
    indices = [(0,), (0, 1, 1), (1, 1)]
    values = [partials(f, x, indices, batch_dims=1), [derived(f, (x,), index) for index in indices]]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    assert_close(list(values[0]), list(values[1]), rtol=tolerance, atol=tolerance)
    grads = [torch.autograd.grad(sum(v.square().mean() for v in u), (w, x), retain_graph=True) for u in values]
    assert_close(grads[0], grads[1], rtol=tolerance, atol=tolerance)


def test_fewest_rows() -> None:
    """Of a derivative by t and twice by x: t, x, tx, xx, txx."""
    by_t, by_txx = ((0, 1),), ((0, 1), (1, 2))
    chain = divisors((by_t, by_txx))
    assert chain.variables == (0, 1)
    assert chain.by_degree == (((0,), (1,)), ((0, 1), (1, 1)), ((0, 1, 1),))
    assert chain.places == {by_t: (0, 1), by_txx: (4, 2)}
    assert divisors((((3, 2),), ((5, 1),))).by_degree == (((0,), (1,)), ((0, 0),))


def test_short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then along directions, as many as there is memory for."""
    x, w = leaf(4, 2), leaf(2, 3)
    f = torch.sin(x @ w)
    sweep = _C.taylor_coefficients
    seen: list[bool] = []

    def no_memory_for_polynomials(*arguments: object) -> object:
        seen.append(len(arguments) > 9 and bool(arguments[9]))
        if seen[-1]:
            raise torch.OutOfMemoryError
        return sweep(*arguments)

    monkeypatch.setattr(_C, "taylor_coefficients", no_memory_for_polynomials)
    found = partials(f, x, [(0, 1, 1)], batch_dims=1)
    assert seen[0] and not all(seen)
    assert_close(found[0], derived(f, (x,), (0, 1, 1)))
