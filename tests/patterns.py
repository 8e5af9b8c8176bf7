"""Patterns for tests, and brute-force checkers of colourings: quadratic or worse, on SciPy matrices, nothing clever."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import scipy.sparse as sp

Arguments = tuple[tuple[int, int], np.ndarray, np.ndarray]


def arguments(matrix: sp.spmatrix | np.ndarray) -> Arguments:
    """Shape, row_ptr and col_ind of the nonzeros, as the C++ functions take a pattern."""
    csr = sp.csr_array(matrix)
    csr.sum_duplicates()
    csr.sort_indices()
    return csr.shape, csr.indptr.astype(np.int64), csr.indices.astype(np.int64)


def share_a_column(matrix: np.ndarray, a: int, b: int) -> bool:
    return bool((matrix[a] & matrix[b]).any())


def is_row_coloring(matrix: np.ndarray, colors: np.ndarray) -> bool:
    """Whether no two rows of one colour share a column."""
    matrix = matrix.astype(bool)
    return not any(
        colors[a] == colors[b] and share_a_column(matrix, a, b) for a, b in combinations(range(len(matrix)), 2)
    )


def least_colors(matrix: np.ndarray) -> int:
    """The chromatic number of the conflict graph of the rows, by trying all colourings."""
    matrix = matrix.astype(bool)
    n = len(matrix)
    conflicts = [[b for b in range(a) if share_a_column(matrix, a, b)] for a in range(n)]

    def extend(colors: list[int], limit: int) -> bool:
        row = len(colors)
        if row == n:
            return True
        used = max(colors, default=-1)
        return any(
            all(colors[b] != color for b in conflicts[row]) and extend([*colors, color], limit)
            for color in range(min(used + 2, limit))
        )

    return next(limit for limit in range(n + 1) if extend([], limit))


def banded(n: int, below: int, above: int) -> np.ndarray:
    i, j = np.indices((n, n))
    return ((j - i >= -below) & (j - i <= above)).astype(int)


def arrow(n: int) -> np.ndarray:
    matrix = np.eye(n, dtype=int)
    matrix[0] = matrix[:, 0] = 1
    return matrix


def five_point(side: int, periodic: bool = False) -> np.ndarray:
    line = banded(side, 1, 1)
    if periodic:
        line[0, -1] = line[-1, 0] = 1
    eye = np.eye(side, dtype=int)
    return ((np.kron(line, eye) + np.kron(eye, line)) > 0).astype(int)


def graph(n: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """Adjacency with a full diagonal."""
    matrix = np.eye(n, dtype=int)
    for a, b in edges:
        matrix[a, b] = matrix[b, a] = 1
    return matrix


def cycle(n: int) -> np.ndarray:
    return graph(n, [(i, (i + 1) % n) for i in range(n)])


def petersen() -> np.ndarray:
    outer = [(i, (i + 1) % 5) for i in range(5)]
    return graph(10, outer + [(i, i + 5) for i in range(5)] + [(5 + i, 5 + (i + 2) % 5) for i in range(5)])


def random_pattern(rng: np.random.Generator, rows: int, columns: int, density: float) -> np.ndarray:
    return (rng.random((rows, columns)) < density).astype(int)
