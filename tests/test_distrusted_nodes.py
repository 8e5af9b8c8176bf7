"""Nodes that torch's vmap gets silently wrong: each row of the table shown wrong, and right through full_jacobian."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from second_order import weighted_gradient
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, directional, full_jacobian, nth_derivative
from highgrad_ext._reference import full_jacobian_loop, nth_derivative_loop

aten = torch.ops.aten


def running() -> tuple[Tensor, Tensor]:
    return torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)


INFINITE = torch.tensor([1.0, float("inf")], dtype=torch.float64)

# Node -> (f of a leaf of 9 elements whose tape has that Node, whether only the recorded graph is wrong).
DEMONSTRATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "CdistBackward0": (lambda x: torch.cdist(x[:6].view(3, 2), x[:6].view(3, 2) + 1), False),
    "RollBackward0": (lambda x: torch.roll(x.sum(), 1) * x, False),
    "IndexCopyBackward0": (lambda x: x[:3].index_copy(0, torch.tensor(1), x[8]), False),
    "MaskedSelectBackward0": (lambda x: x[:3].masked_select(torch.ones(3, 3).bool()).view(3, 3).sum(0), False),
    "LinalgDetBackward0": (lambda x: torch.linalg.det((x - x.detach()).view(3, 3) + 2 * torch.eye(3)), True),
    "MaxBackward1": (lambda x: x.max() * INFINITE, False),
    "MedianBackward0": (lambda x: x.median() * INFINITE, False),
    "MinBackward1": (lambda x: x.min() * INFINITE, False),
    "NanmedianBackward0": (lambda x: x.nanmedian() * INFINITE, False),
    "NativeLayerNormBackward0": (lambda x: F.layer_norm(x[:6].view(2, 3), (3,), x[6:9]), True),
    "NativeBatchNormBackward0": (lambda x: F.batch_norm(x[:6].view(3, 2), None, None, x[6:8], training=True), True),
    "NativeBatchNormLegitBackward0": (
        lambda x: aten._native_batch_norm_legit(x[:6].view(3, 2), x[6:8], None, *running(), True, 0.1, 1e-5)[0],
        True,
    ),
    "NativeBatchNormLegitBackward1": (
        lambda x: aten._native_batch_norm_legit.no_stats(x[:6].view(3, 2), x[6:8], None, True, 0.1, 1e-5)[0],
        True,
    ),
}

# Of GPUs alone: torch has one batching rule for all of these norms.
ELSEWHERE = {"CudnnBatchNormBackward0", "MiopenBatchNormBackward0"}


def leaf() -> Tensor:
    return torch.randn(9, dtype=torch.float64, requires_grad=True)


def batched_without_distrust(f: Tensor, x: Tensor, create_graph: bool) -> Tensor:
    basis = torch.eye(f.numel(), dtype=f.dtype).view(-1, *f.shape)
    (rows,) = _C.batched_vjp([f], [basis], [x], create_graph)
    assert rows is not None
    return rows.view(*f.shape, *x.shape)


def test_every_row_is_demonstrated() -> None:
    assert set(_C.distrusted_nodes()) == set(DEMONSTRATIONS) | ELSEWHERE


def names(node: torch.autograd.graph.Node | None, seen: set[str]) -> set[str]:
    if node is not None:
        seen.add(node.name())
        for child, _ in node.next_functions:
            names(child, seen)
    return seen


@pytest.mark.parametrize("node", DEMONSTRATIONS)
def test_full_jacobian_is_right(node: str) -> None:
    function, only_graph = DEMONSTRATIONS[node]
    x = leaf()
    f = function(x)
    assert node in names(f.grad_fn, set())
    assert_close(full_jacobian(f, x, create_graph=False), full_jacobian_loop(f, x), equal_nan=True)
    if only_graph:
        assert_close(
            weighted_gradient(full_jacobian(f, x), x),
            weighted_gradient(full_jacobian_loop(f, x, create_graph=True), x),
        )


@pytest.mark.parametrize("node", DEMONSTRATIONS)
def test_torch_is_wrong(node: str) -> None:
    """A row is not needed on a release of torch where this warns."""
    function, only_graph = DEMONSTRATIONS[node]
    x = leaf()
    f = function(x)
    actual = batched_without_distrust(f, x, create_graph=only_graph)
    expected = full_jacobian_loop(f, x, create_graph=only_graph)
    if only_graph:
        assert_close(actual, expected)
        actual, expected = weighted_gradient(actual, x), weighted_gradient(expected, x)
    if torch.allclose(actual, expected):
        warnings.warn(f"torch {torch.__version__} batches {node} rightly", stacklevel=1)


@pytest.mark.parametrize("node", ["CdistBackward0", "NativeLayerNormBackward0"])
def test_this_release_is_wrong(node: str) -> None:
    """The releases in which these were found wrong; keeps the test above honest."""
    if not (2, 11) <= tuple(int(part) for part in torch.__version__.split(".")[:2]) <= (2, 14):
        pytest.skip("not known of this torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test_torch_is_wrong(node)


def count_recorded(root: Tensor, name: str) -> int:
    """How many Nodes of that name lie behind a tensor."""
    seen: set[torch.autograd.graph.Node] = set()
    todo = [root.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [child for child, _ in node.next_functions]
    return sum(node.name() == name for node in seen)


def test_only_what_is_wrong_is_replaced() -> None:
    """Not the values of a norm, and nothing but the norm. Nor what has the shapes that torch batches rightly."""
    x, weight = leaf(), torch.randn(3, dtype=torch.float64, requires_grad=True)
    f = torch.special.i1(F.layer_norm(x.view(3, 3), (3,), weight).sin())  # which only vmap can batch
    sweeps: list[int] = []
    by_input = full_jacobian(f, x, progress=lambda done, total: sweeps.append(done))
    full_jacobian(f, (x, weight), create_graph=False, progress=lambda done, total: sweeps.append(done))
    by_weight = full_jacobian(f, (x, weight), progress=lambda done, total: sweeps.append(done))[1]
    copied = x[:6].index_copy(0, torch.tensor([1, 3, 5]), x[6:])
    full_jacobian(copied, x, progress=lambda done, total: sweeps.append(done))
    assert sweeps == [9, 9, 9, 6]
    for jacobian in (by_input, by_weight):
        assert count_recorded(jacobian, "NativeLayerNormBackwardBackward0") == 0
    assert count_recorded(by_weight, "CosBackward0") == 1


def test_third_derivatives_through_a_layer_norm() -> None:
    """Whose recorded backward in torch takes the moments for constants."""
    x = leaf()
    f = F.layer_norm(x.view(3, 3), (3,)).sin()
    expected = nth_derivative(f, x, 3, method="taylor").sum((0, 1))
    jacobian, weights = full_jacobian(f, x), torch.linspace(-1, 2, 9, dtype=x.dtype)
    gradient = torch.autograd.grad(jacobian.sum((0, 1)) @ weights, x, create_graph=True)[0]
    assert_close(full_jacobian_loop(gradient, x), torch.einsum("ijk,i->jk", expected, weights))


@pytest.mark.parametrize("node", DEMONSTRATIONS)
def test_right_among_other_nodes(node: str) -> None:
    """Beside one that no table knows, for which all go through torch's engine."""
    function, only_graph = DEMONSTRATIONS[node]
    x = leaf()
    f = torch.stack([function(x).flatten()[0], torch.special.i1(x).sum()])
    if torch.isfinite(full_jacobian_loop(f, x)).all():
        f = f.sin()
    assert_close(full_jacobian(f, x, create_graph=False), full_jacobian_loop(f, x), equal_nan=True)
    if only_graph:
        assert_close(
            weighted_gradient(full_jacobian(f, x), x),
            weighted_gradient(full_jacobian_loop(f, x, create_graph=True), x),
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.layer_norm(x.sin().view(3, 3), (3,), x[:3]),
        lambda x: F.batch_norm(x.sin().view(3, 3), None, None, x[:3], training=True),
        lambda x: F.group_norm(x.sin().view(1, 9), 3),
    ],
    ids=["layer norm", "batch norm", "group norm"],
)
def test_directions_where_jets_cannot_go(function: Callable[[Tensor], Tensor]) -> None:
    """A transform of real numbers has no jets: gradients are nested, and no further than torch has them right."""
    x = leaf()
    f = torch.view_as_real(torch.fft.rfft(function(x)))
    v = torch.linspace(-1, 2, 9, dtype=x.dtype)
    curvature = torch.einsum("...ij,i,j->...", nth_derivative_loop(f, x, 2), v, v)
    assert_close(directional(f, x, v, 2)[2], curvature)


def test_third_derivatives_where_jets_cannot_go() -> None:
    x = leaf()
    v = torch.linspace(-1, 2, 9, dtype=x.dtype)
    f = F.layer_norm(x.sin().view(3, 3), (3,))
    expected = torch.view_as_real(torch.fft.rfft(directional(f, x, v, 3)[3]))
    assert_close(directional(torch.view_as_real(torch.fft.rfft(f)), x, v, 3)[3], expected)
