"""Structures of which columns are computed, in forward mode: all, or the full ones of an arrow besides its rows."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from second_order import weighted_gradient
from structured import constant, find, jacobian_with
from test_structure import Doubled, check_equal, check_structure, dense, leaf, tridiagonal
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import full_jacobian, plan

pytestmark = pytest.mark.filterwarnings("ignore")


def arrow(x: Tensor) -> Tensor:
    """Diagonal, a dense first column and a dense first row."""
    return torch.cat([(x**2).sum()[None], x[1:] ** 3 * x[0].exp()])


def spline(x: Tensor) -> Tensor:
    """Many points, each a mean of two neighbours of a coarse grid: tall and banded."""
    weight = torch.linspace(0, 1, 40, dtype=torch.float64)[None]
    return (x[:-1, None] * (1 - weight) + x[1:, None] * weight).sin().reshape(-1)


def decoded(*shape: int) -> Callable[[Tensor], Tensor]:
    weight = constant(*shape)
    return lambda x: (x @ weight).tanh()


# Name -> function, shape of its leaf, passes, whether all are of columns, full columns.
BY_COLUMNS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], int, bool, int]] = {
    "arrow": (arrow, (160,), 3, False, 1),
    "dense column": (lambda x: x**2 * x[7], (160,), 2, False, 1),
    "dense columns": (lambda x: x**2 * x[7] + x[11] * x[13], (160,), 4, False, 3),
    "bordered band": (lambda x: tridiagonal(x) * x[0].cos() + x[-1] ** 2, (160,), 5, False, 2),
    "dense row": (lambda x: torch.cat([x.sum()[None], x[1:] ** 2]), (160,), 2, False, 0),
    "spline": (spline, (30,), 2, True, 0),
    "wide samples": (decoded(3, 200), (20, 3), 3, True, 0),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", BY_COLUMNS)
def test_few_passes(name: str, create_graph: bool) -> None:
    function, shape, passes, by_columns, full = BY_COLUMNS[name]
    x = leaf(*shape)
    f = function(x)
    structure = check_structure(f, x, dense(f, x))
    assert structure is not None
    assert (structure.num_passes, structure.by_columns, len(structure.full_columns)) == (passes, by_columns, full)
    if create_graph:
        actual = jacobian_with(structure, f, x, create_graph=True)[0]
        expected = full_jacobian(f, x, structure="dense")
        check_equal(actual.detach(), expected.detach())
        assert_close(weighted_gradient(actual, x), weighted_gradient(expected, x))


@pytest.mark.parametrize("name", BY_COLUMNS)
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_sparse(name: str, layout: torch.layout) -> None:
    function, shape, *_ = BY_COLUMNS[name]
    x = leaf(*shape)
    f = function(x)
    expected = dense(f, x).reshape(f.numel(), x.numel())
    passes: list[tuple[int, int]] = []
    for mode in ("auto", "reverse"):
        sparse = full_jacobian(
            f,
            x,
            create_graph=False,
            layout=layout,
            mode=mode,
            progress=lambda done, total: passes.append((done, total)),
        )
        assert sparse.layout == layout
        assert_close(sparse.to_dense(), expected)
        assert passes[-1][0] == passes[-1][1]


def test_large_arrows_of_a_single_call() -> None:
    x = leaf(1200)
    passes: list[tuple[int, int]] = []
    jacobian = full_jacobian(arrow(x), x, create_graph=False, progress=lambda done, total: passes.append((done, total)))
    check_equal(jacobian, dense(arrow(x), x))
    assert passes[-1][0] == passes[-1][1] <= 16


def test_several_inputs_share_columns() -> None:
    """State and parameters: columns of all inputs lie next to one another, and one input has none."""
    x, parameters, y = leaf(200), leaf(2, seed=1), leaf(200, seed=2)
    f = tridiagonal(x) * parameters[0] + y**2 * parameters[1].exp()
    structure = find(f, x, parameters, y)
    assert structure is not None
    assert structure.full_columns.tolist() == [200, 201] and structure.num_passes == 5
    expected = full_jacobian(f, (x, parameters, y), create_graph=False, structure="dense")
    for actual, block in zip(jacobian_with(structure, f, x, parameters, y), expected, strict=True):
        check_equal(actual, block)
    other = leaf(200, seed=3)
    g = tridiagonal(other) * parameters[0] + y**2 * parameters[1].exp()
    for actual, block in zip(
        jacobian_with(structure, g, other, parameters, y),
        full_jacobian(g, (other, parameters, y), create_graph=False, structure="dense"),
        strict=True,
    ):
        check_equal(actual, block)


def opaque(x: Tensor) -> Tensor:
    """x, by an operator of which probes alone can tell so, since its scale is not quite what its sizes say."""
    return torch.ops.aten.upsample_nearest1d(x[None, None], [len(x)], 1.0 + 1e-9)[0, 0]


def test_kept_and_pickled() -> None:
    x, y = leaf(160), leaf(160, seed=1)
    structure = pickle.loads(pickle.dumps(find(arrow(x), x)))
    assert structure.is_global and structure.full_columns.tolist() == [0] and structure.num_passes == 3
    check_equal(jacobian_with(structure, arrow(y), y)[0], dense(arrow(y), y))

    def masked(x: Tensor) -> Tensor:
        return arrow(opaque(x).relu())

    local = find(masked(x), x)
    assert local is not None and not local.is_global
    check_equal(jacobian_with(local, masked(y), y)[0], dense(masked(y), y))


def test_entries_that_are_not_finite_come_from_rows() -> None:
    x = leaf(160)
    with torch.no_grad():
        x[20] = 0.0

    def function(x: Tensor) -> Tensor:
        return arrow(x) + x.abs().sqrt() * x[0]

    f = function(x)
    expected = dense(f, x)
    assert not expected.isfinite().all()
    check_equal(jacobian_with(find(f, x), f, x)[0], expected)
    passes: list[tuple[int, int]] = []
    x = torch.cat([x.detach()] * 8).requires_grad_()
    f = function(x)
    jacobian = full_jacobian(f, x, create_graph=False, progress=lambda done, total: passes.append((done, total)))
    check_equal(jacobian, dense(f, x))
    assert passes[-1][0] == passes[-1][1]


def test_no_columns_where_forward_mode_has_an_obstacle() -> None:
    """Layer norm's double backward is not trusted; rows are, and a dense column then has no structure."""
    x = leaf(40, 4)
    f = nn.functional.layer_norm(x, (4,)) * x[0, 0]
    assert find(f, x) is None
    assert find(Doubled.apply(leaf(160)) * 2, leaf(160)) is None
    mixed = leaf(160)
    g = (mixed.float() ** 2).double() * mixed[0]
    assert find(g, mixed) is None


def test_float32() -> None:
    x = torch.randn(1500).requires_grad_()
    assert_close(full_jacobian(arrow(x), x, create_graph=False), dense(arrow(x), x))


def test_patterns_of_columns_are_exact() -> None:
    x = leaf(30)
    structure = find(spline(opaque(x)), x)
    assert structure is not None and "of columns" in structure.reason
    mask = np.zeros(structure.shape, dtype=bool)
    mask[np.repeat(np.arange(structure.shape[0]), np.diff(structure.row_ptr)), structure.col_ind] = True
    assert mask.sum() == 2 * structure.shape[0]


def test_columns_of_different_inputs_differ_in_colour() -> None:
    x, y = leaf(60), leaf(60)
    f = (x[:, None] * constant(60, 50) + y[:, None].sin()).exp()
    kept = plan(f, [x, y])
    assert kept.passes == 2
    for found, expected in zip(full_jacobian(f, [x, y], plan=kept), dense(f, [x, y]), strict=True):
        check_equal(found, expected)
