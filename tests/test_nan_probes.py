"""Probes from coarse to fine, of matrices that are known: whatever the budget, nothing is missed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from patterns import arguments, arrow, banded, five_point, is_row_coloring, random_pattern

from highgrad_ext import _C

Found = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def probe(matrix: np.ndarray, order: np.ndarray, **budget: Any) -> Found | None:
    """The pattern, the full columns and the colours of rows that are found."""
    limits = _C.ProbeBudget()
    for name, value in budget.items():
        setattr(limits, name, value)
    found = _C.probe_pattern(*arguments(matrix), order, limits)
    if found is None:
        return None
    row_ptr, col_ind, full, coloring = found
    pattern = sp.csr_array((np.ones(len(col_ind), dtype=bool), col_ind, row_ptr), shape=matrix.shape).toarray()
    return pattern, full, None if coloring is None else coloring[0]


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Bands, blocks and stencils, with rows in any order, full columns, and a few entries anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 80))
    kind = draw(st.sampled_from(["banded", "blocks", "stencil", "arrow", "random"]))
    if kind == "banded":
        matrix = banded(rows, draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    elif kind == "blocks":
        matrix = np.kron(np.eye(rows // 4 + 1), np.ones((draw(st.integers(1, 6)), draw(st.integers(1, 3)))))
    elif kind == "stencil":
        matrix = five_point(draw(st.integers(2, 8)), draw(st.booleans()))
    elif kind == "arrow":
        matrix = arrow(rows)
    else:
        matrix = random_pattern(rng, rows, draw(st.integers(1, 80)), draw(st.sampled_from([0.005, 0.02, 0.1])))
    matrix = matrix.astype(bool)
    for _ in range(draw(st.integers(0, 4))):
        matrix[rng.integers(len(matrix)), rng.integers(matrix.shape[1])] = True
    if draw(st.booleans()):
        matrix[:, rng.integers(matrix.shape[1])] = True
    return matrix[rng.permutation(len(matrix))] if draw(st.booleans()) else matrix


def check(matrix: np.ndarray, found: Found) -> None:
    pattern, full, colors = found
    assert not (matrix & ~pattern).any(), "a nonzero was missed"
    if colors is not None:
        rest = pattern.copy()
        rest[:, full] = False
        assert is_row_coloring(rest, colors)


@settings(max_examples=400, deadline=None)
@given(
    matrix=matrices(),
    is_in_order=st.booleans(),
    first_blocks=st.integers(1, 20),
    samples=st.integers(0, 8),
    are_known=st.booleans(),
    wide_blocks=st.sampled_from([0, 0, 2, 4]),
    split=st.integers(2, 5),
    max_probes=st.sampled_from([0, 20, 1000]),
    sweep_cost=st.sampled_from([-1.0, 0.0, 3.0, 1000.0]),
    entry_cost=st.sampled_from([0.0, 0.1]),
    max_full_columns=st.integers(0, 2),
)
@example(
    matrix=np.eye(13, dtype=bool),  # as many single rows as blocks, of one or two rows
    is_in_order=True,
    first_blocks=8,
    samples=8,
    are_known=False,
    wide_blocks=0,
    split=2,
    max_probes=0,
    sweep_cost=0.0,
    entry_cost=0.0,
    max_full_columns=0,
)
def test_nothing_is_missed(
    matrix: np.ndarray,
    is_in_order: bool,
    first_blocks: int,
    samples: int,
    are_known: bool,
    sweep_cost: float,
    **budget: float,
) -> None:
    rows = len(matrix)
    order = np.arange(0) if is_in_order else np.random.default_rng(rows).permutation(rows)
    blocks = min(first_blocks, rows)
    found = probe(
        matrix,
        order,
        first_blocks=first_blocks,
        samples=min(samples, blocks),
        sampled=[list(np.flatnonzero(row)) for row in matrix[: samples if are_known else 0]],
        max_colors=rows,
        sweep_cost=sweep_cost,
        **budget,
    )
    if found is None:
        return
    check(matrix, found)
    if sweep_cost < 0 and not found[1].size:
        assert np.array_equal(found[0], matrix), "single rows have their own entries alone"


@pytest.mark.parametrize("sample", [2, 7, 12, 17])
def test_blocks_that_are_not_split_have_what_their_samples_hit(sample: int) -> None:
    """A row that is probed by itself, and reaches what no other row does."""
    matrix = np.kron(np.eye(4), np.ones((5, 2))).astype(bool)
    matrix = np.concatenate([matrix, np.zeros((20, 1), dtype=bool)], axis=1)
    matrix[sample, -1] = True
    found = probe(matrix, np.arange(0), first_blocks=4, samples=4, max_probes=0, max_colors=20, sweep_cost=1000.0)
    assert found is not None
    check(matrix, found)


@pytest.mark.parametrize(("sampled", "is_found"), [([[49, 50, 51]], True), ([list(range(100))], False)])
def test_rows_that_were_probed_before_tell_whether_to_go_on(sampled: list[list[int]], is_found: bool) -> None:
    matrix = banded(100, 1, 1).astype(bool)
    found = probe(matrix, np.arange(0), first_blocks=8, samples=4, sampled=sampled, max_probes=100, max_colors=20)
    assert (found is not None) == is_found
    if found is not None:
        check(matrix, found)
