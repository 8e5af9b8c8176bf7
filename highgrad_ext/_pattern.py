"""Patterns of structured Jacobians, to hand on and to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._C import Structure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ._plan import Plan

# Dots of one braille character, two columns by four rows: the bit of each (U+2800 is the one without any).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def rows_of(structure: Structure) -> NDArray[np.int64]:
    """The row of every entry, shape (nnz,)."""
    import numpy as np

    return np.repeat(np.arange(structure.shape[0]), np.diff(structure.row_ptr))


def to_scipy(structure: Structure) -> Any:
    """The pattern as a boolean ``scipy.sparse.csr_array`` of shape (f.numel(), wrt.numel()). Needs SciPy."""
    import numpy as np
    from scipy.sparse import csr_array

    values = np.ones(len(structure.col_ind), dtype=bool)
    return csr_array((values, structure.col_ind, structure.row_ptr), shape=structure.shape)


def braille(structure: Structure, *, width: int = 40) -> str:
    """The pattern in lines of at most `width` braille characters; a dot where any entry of its part may be nonzero.

    One dot is one entry where that fits.
    """
    import numpy as np

    rows, columns = structure.shape
    if rows == 0 or columns == 0:
        return ""
    scale = max(1.0, columns / (2 * width))
    across, down = int(np.ceil(columns / scale)), int(np.ceil(rows / scale))
    dots = np.zeros((-(-down // 4) * 4, -(-across // 2) * 2), dtype=bool)
    dots[(rows_of(structure) / scale).astype(np.int64), (structure.col_ind / scale).astype(np.int64)] = True
    cells = dots.reshape(dots.shape[0] // 4, 4, dots.shape[1] // 2, 2)
    codes = 0x2800 + np.einsum("rick,ik->rc", cells, _DOTS)
    return "\n".join("".join(map(chr, line)) for line in codes)


def spy(plan: Plan, axes: Axes | None = None, *, output: int = 0) -> Axes:
    """Plots the sparsity pattern of one output of a plan, each entry in the colour of its pass.

    Args:
        plan: from :func:`plan`; TypeError for anything else, ValueError if that output has no structure.
        axes: matplotlib axes to draw on, or None for new ones. Needs matplotlib.
        output: which tensor of `f`.

    Returns:
        the axes.
    """
    if not hasattr(plan, "outputs"):
        raise TypeError(f"spy: expected a Plan, got {type(plan).__name__}")
    structure = plan.outputs[output].structure
    if structure is None:
        raise ValueError(f"spy: expected a plan with structure, got one without: {plan.outputs[output].reason}")
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(5, 5), layout="constrained").add_subplot()
    rows, columns = structure.shape
    entry_rows = rows_of(structure)
    passes = structure.colors[structure.col_ind if structure.by_columns else entry_rows]
    size = (200 / max(rows, columns, 1)) ** 2
    axes.scatter(structure.col_ind, entry_rows, c=passes, s=max(size, 0.5), marker="s", linewidths=0, cmap="turbo")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
    axes.set_title(f"{rows} x {columns}, {len(entry_rows)} entries, {structure.num_colors} passes")
    return axes
