"""Colourings against brute force, closed forms against what they must give, and published numbers of colours."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import (
    Arguments,
    arguments,
    arrow,
    banded,
    cycle,
    five_point,
    is_row_coloring,
    least_colors,
    petersen,
    random_pattern,
)

from highgrad_ext import _C

GREEDY = ["natural", "largest first", "smallest last", "incidence degree"]


def color(matrix: np.ndarray, method: str = "best") -> tuple[np.ndarray, int]:
    result = _C.color_rows(*arguments(matrix), method)
    assert result is not None
    colors, num_colors = result
    assert set(colors.tolist()) == set(range(num_colors))
    return colors, num_colors


matrices = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 9), st.sampled_from([0.1, 0.25, 0.5])
).map(lambda drawn: random_pattern(np.random.default_rng(drawn[0]), *drawn[1:]))


@pytest.mark.parametrize("method", [*GREEDY, "best"])
@settings(max_examples=60, deadline=None)
@given(matrix=matrices)
def test_random_patterns(method: str, matrix: np.ndarray) -> None:
    colors, num_colors = color(matrix, method)
    assert is_row_coloring(matrix, colors)
    assert num_colors >= least_colors(matrix)


@settings(max_examples=100, deadline=None)
@given(matrix=matrices)
def test_closed_form_is_least_or_none(matrix: np.ndarray) -> None:
    # Sorting by first and last column makes closed forms more likely.
    matrix = matrix[np.lexsort(matrix.T)] if matrix.size else matrix
    result = _C.color_rows(*arguments(matrix), "closed form")
    if result is not None:
        colors, num_colors = result
        assert is_row_coloring(matrix, colors)
        assert num_colors == least_colors(matrix)


BLOCKS = sp.block_diag([np.ones((2, 3)), np.ones((4, 1)), np.ones((1, 2))]).toarray().astype(int)


@pytest.mark.parametrize(
    "matrix, expected",
    [
        (np.eye(7, dtype=int), 1),
        (banded(50, 1, 1), 3),
        (banded(50, 2, 2), 5),
        (banded(50, 0, 3), 4),
        (BLOCKS, 4),
        (np.ones((6, 4), dtype=int), 6),
    ],
    ids=["diagonal", "tridiagonal", "pentadiagonal", "upper band", "blocks", "dense"],
)
def test_closed_forms(matrix: np.ndarray, expected: int) -> None:
    colors, num_colors = color(matrix, "closed form")
    assert num_colors == expected
    assert is_row_coloring(matrix, colors)


def test_no_closed_form() -> None:
    assert _C.color_rows(*arguments(arrow(5)), "closed form") is None
    assert _C.color_rows(*arguments(np.eye(5, dtype=int)[::-1]), "closed form") is None


@pytest.mark.parametrize(
    "matrix, least, most",
    [
        # Curtis, Powell and Reid 1974: a band of width w takes w groups.
        (banded(40, 3, 3), 7, 7),
        # Coleman and More 1983, and Newsam and Ramsdell 1983: the five-point stencil takes 5; greedy may need more.
        (five_point(10, periodic=True), 5, 8),
        (five_point(12), 5, 7),
        # Rows of a graph of diameter two all share a column.
        (petersen(), 10, 10),
        (arrow(12), 12, 12),
        # The square of a cycle of length 3k takes 3 colours, of length 5 takes 5, of length 7 takes 4.
        (cycle(9), 3, 3),
        (cycle(5), 5, 5),
        (cycle(7), 4, 4),
    ],
    ids=["band", "torus", "grid", "petersen", "arrow", "cycle 9", "cycle 5", "cycle 7"],
)
def test_published_numbers(matrix: np.ndarray, least: int, most: int) -> None:
    colors, num_colors = color(matrix)
    assert is_row_coloring(matrix, colors)
    assert least <= num_colors <= most


@settings(max_examples=100, deadline=None)
@given(matrix=matrices)
def test_rows_and_columns_together(matrix: np.ndarray) -> None:
    full, colors, num_colors = _C.color_both(*arguments(matrix))
    rest = matrix.copy()
    rest[:, full] = 0
    assert is_row_coloring(rest, colors)
    assert set(colors.tolist()) <= set(range(num_colors))
    assert num_colors + 1.5 * len(full) <= color(matrix)[1]


def test_arrow_takes_few_passes() -> None:
    full, _, num_colors = _C.color_both(*arguments(arrow(300)))
    assert full.tolist() == [0] and num_colors == 2


def test_work_is_limited() -> None:
    """A dense column alone makes greedy colouring quadratic."""
    matrix = arrow(1000)
    assert _C.color_rows(*arguments(matrix), "best", 10_000) is None
    assert _C.color_rows(*arguments(matrix), "best", 2_000_000) is not None


def test_transpose() -> None:
    matrix = random_pattern(np.random.default_rng(0), 7, 11, 0.3)
    row_ptr, col_ind = _C.transpose_pattern(*arguments(matrix))
    _, expected_ptr, expected_ind = arguments(matrix.T)
    assert np.array_equal(row_ptr, expected_ptr) and np.array_equal(col_ind, expected_ind)


def test_a_million_rows() -> None:
    """Memory and time are linear in the entries: a periodic five-point stencil in random order, 5e6 entries."""
    side = 1000
    line = sp.diags_array([np.ones(side - 1), np.ones(side), np.ones(side - 1)], offsets=[-1, 0, 1])
    stencil = sp.csr_array(sp.kron(line, sp.eye_array(side)) + sp.kron(sp.eye_array(side), line))
    shape, row_ptr, col_ind = arguments(stencil)
    colors, num_colors = _C.color_rows(shape, row_ptr, col_ind, "natural")
    assert 5 <= num_colors <= 8
    rows = np.repeat(colors, np.diff(row_ptr))
    places = rows * shape[1] + col_ind
    assert len(np.unique(places)) == len(places)


BROKEN: list[tuple[str, Arguments]] = [
    ("row_ptr of rows", ((2, 2), np.array([0, 1]), np.array([0]))),
    ("row_ptr of rows", ((1, 2), np.array([0, 2]), np.array([0]))),
    ("col_ind to ascend", ((1, 2), np.array([0, 2]), np.array([1, 0]))),
    ("col_ind to ascend", ((1, 2), np.array([0, 1]), np.array([2]))),
    ("row_ptr to ascend", ((2, 2), np.array([0, 2, 1]), np.array([0]))),
]


@pytest.mark.parametrize("message, broken", BROKEN)
def test_errors(message: str, broken: Arguments) -> None:
    with pytest.raises(ValueError, match=message):
        _C.color_rows(*broken, "best")
    with pytest.raises(ValueError, match="known method"):
        _C.color_rows(*arguments(np.eye(2, dtype=int)), "best of all")
