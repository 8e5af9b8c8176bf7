"""The kernels under test: one row each. A new kernel is a new row, and a list of calls of its launcher.

The expected values are those of the CPU op; only where a tensor is too large to exist does a formula take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import dense_calls
import entry_calls
import jet_calls
import symmetric_calls
from launching import Call


@dataclass(frozen=True)
class Row:
    """A launcher.

    calls: every dtype and shape, to be compared. huge: sizes past 2^31. quick: a few calls that use every part of the
    kernel, for the mutants. busy: calls large enough that their traffic says something; drawn: one more, by chance.
    """

    launcher: str
    kernels: tuple[str, ...]  # plain names of what it launches
    calls: Callable[[], Iterator[Call]]
    huge: Callable[[], Iterator[Call]]
    quick: Callable[[], Iterator[Call]]
    busy: Callable[[], Iterator[Call]]
    drawn: Callable[[Random], Call]


TABLE = [
    Row(
        "launch_seed_basis",
        ("seed_basis_kernel",),
        dense_calls.seed_basis_calls,
        dense_calls.seed_basis_huge,
        dense_calls.seed_basis_quick,
        dense_calls.seed_basis_busy,
        dense_calls.seed_basis_drawn,
    ),
    Row(
        "launch_copy_block",
        ("copy_block_kernel", "copy_transposed_kernel"),
        dense_calls.copy_calls,
        dense_calls.copy_huge,
        dense_calls.copy_quick,
        dense_calls.copy_busy,
        dense_calls.copy_drawn,
    ),
    Row(
        "launch_decompress",
        ("decompress_kernel",),
        entry_calls.decompress_calls,
        entry_calls.decompress_huge,
        entry_calls.decompress_quick,
        entry_calls.decompress_busy,
        entry_calls.decompress_drawn,
    ),
    Row(
        "launch_compress",
        ("compress_kernel",),
        entry_calls.compress_calls,
        entry_calls.compress_huge,
        entry_calls.compress_quick,
        entry_calls.compress_busy,
        entry_calls.compress_drawn,
    ),
    Row(
        "launch_expand_symmetric",
        ("expand_tiles_kernel", "expand_columns_kernel"),
        symmetric_calls.expand_calls,
        symmetric_calls.expand_huge,
        symmetric_calls.expand_quick,
        symmetric_calls.expand_busy,
        symmetric_calls.expand_drawn,
    ),
    Row(
        "launch_fold_symmetric",
        ("fold_tiles_kernel", "fold_bricks_kernel", "fold_entries_kernel"),
        symmetric_calls.fold_calls,
        symmetric_calls.fold_huge,
        symmetric_calls.fold_quick,
        symmetric_calls.fold_busy,
        symmetric_calls.fold_drawn,
    ),
    Row(
        "launch_compose_jet",
        ("compose_jet_kernel",),
        jet_calls.compose_calls,
        jet_calls.compose_huge,
        jet_calls.compose_quick,
        jet_calls.compose_busy,
        jet_calls.compose_drawn,
    ),
    Row(
        "launch_reverse_jet",
        ("reverse_jet_kernel",),
        jet_calls.reverse_calls,
        jet_calls.reverse_huge,
        jet_calls.reverse_quick,
        jet_calls.reverse_busy,
        jet_calls.reverse_drawn,
    ),
]
