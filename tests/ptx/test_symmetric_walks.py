"""What a second-level cache moves where rows of symmetric tensors are much larger: docs/cuda.md."""

from __future__ import annotations

import ctypes

import pytest
import toolchain
import torch
from launching import Call
from symmetric_calls import Symmetric, expand_call, fold_call
from traffic import CACHE, MOST, measure, most_of_large_rows


def moved(op: str, size: int, order: int, itemsize: int, cache: int) -> int:
    count = ctypes.CDLL(str(toolchain.walks_library())).moved_bytes
    count.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    count.restype = ctypes.c_int64
    return int(count(op == "fold", size, order, itemsize, cache))


def ratio(op: str, size: int, order: int, itemsize: int, cache: int) -> float:
    shape = Symmetric(size, order, 1, 1)
    sectors = sum(-(-numel * itemsize // 32) for numel in (shape.full, shape.packed))
    return moved(op, size, order, itemsize, cache) / (32 * sectors)


CALLS = {"expand": expand_call, "fold": fold_call}
# Of each walk one, and cubes that are one unit, or several.
COUNTED = [
    *(("expand", 67, 3, torch.half, 1 << 17), ("expand", 105, 3, torch.half, 2_300_000)),
    *(("expand", 33, 4, torch.half, 1 << 17), ("expand", 14, 4, torch.float64, 1 << 15)),
    *(("fold", 45, 3, torch.half, 1 << 15), ("fold", 45, 3, torch.half, 3 << 15)),
    *(("fold", 40, 3, torch.complex128, 1 << 17), ("fold", 14, 4, torch.float32, 1 << 16)),
]


@pytest.mark.skipif(toolchain.NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("op, size, order, dtype, cache", COUNTED)
def test_counts_what_the_kernels_move(op: str, size: int, order: int, dtype: torch.dtype, cache: int) -> None:
    call: Call = CALLS[op](dtype, Symmetric(size, order, 1, 1, cache))
    assert measure(call, "90", cache).memory == moved(op, size, order, dtype.itemsize, cache)


LARGE = [
    *(("expand", size, 3, itemsize) for size in (163, 257) for itemsize in (2, 4, 8, 16)),
    *(("fold", size, 3, itemsize) for size in (225, 289) for itemsize in (2, 4, 8)),
    *(("expand", 45, 4, 2), ("expand", 45, 4, 16), ("expand", 33, 5, 2), ("expand", 27, 5, 16)),
    *(("fold", 53, 4, itemsize) for itemsize in (2, 4, 8, 16)),
    *(("fold", 23, 5, itemsize) for itemsize in (2, 4, 8, 16)),
]


@pytest.mark.parametrize("op, size, order, itemsize", LARGE)
def test_rows_larger_than_the_cache(op: str, size: int, order: int, itemsize: int) -> None:
    assert ratio(op, size, order, itemsize, CACHE) <= most_of_large_rows(op, order, itemsize)


@pytest.mark.parametrize("op, order", [("expand", 3), ("fold", 3), ("expand", 4), ("fold", 4)])
def test_a_cache_that_is_large_enough(op: str, order: int) -> None:
    """Of the rows above; an A100's has 40 MiB."""
    size = {3: 225, 4: 53}[order]
    assert ratio(op, size, order, 2, 24 << 20) <= MOST
