"""What the calls of all launchers share: names, values, and the blocks worth running of a huge grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Of so many elements.
Values = Callable[[int, torch.dtype], Tensor]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_and_last(pieces: int) -> Callable[[int], list[int]]:
    """The blocks that do the first and the last of so many pieces of work, which the grid shares in turn."""
    return lambda grid: sorted({0, (pieces - 1) % grid})


def normal_values(numel: int, dtype: torch.dtype) -> Tensor:
    return _in_dtype(torch.randn(numel, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), dtype)


def negative_zeros(numel: int, dtype: torch.dtype) -> Tensor:
    """What a sum that starts with zero makes positive."""
    return _in_dtype(torch.full([numel], -0.0, dtype=torch.float64), dtype)


def _in_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.complex(values, values.flip(0)).to(dtype) if dtype.is_complex else values.to(dtype)


def awkward_values(numel: int, dtype: torch.dtype) -> Tensor:
    """Normal values, and some that are special or lie between two neighbours of a narrower type."""
    values = normal_values(numel, torch.float64)
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65504.0, 65520.0, 1e-8, 6e-8, 3.4e38, 1e300, 1e-310]
    special += [
        1 + 2**-11,
        1 + 3 * 2**-11,
        1 + 2**-8,
        1 + 3 * 2**-8,
        1 + 2**-11 + 2**-40,
        -(1 + 2**-24),
        1 + 3 * 2**-24,
    ]
    places = torch.arange(0, numel, 3)
    values[places] = torch.tensor(special, dtype=torch.float64)[torch.arange(len(places)) % len(special)]
    return _in_dtype(values, dtype)
