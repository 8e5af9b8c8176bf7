"""Calls of the launchers of expand_symmetric and fold_symmetric."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from random import Random

import numpy as np
import torch
from call_values import Values, awkward_values, name, negative_zeros, normal_values
from launching import COMPLEX, REAL, Call, HugeInput, HugeOutput, Input, Output, Stream, Struct, huge_value
from ptx_memory import Ints
from torch import Tensor

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext


@dataclass(frozen=True)
class Symmetric:
    """Rows of symmetric tensors: csrc/ops/symmetric_index.h."""

    size: int
    order: int
    rows: int
    lanes: int  # threads are started for so many rows
    cache: int = 4 << 20  # bytes of the device's second-level cache: a T4's, the smallest

    @property
    def packed(self) -> int:
        return math.comb(self.size + self.order - 1, self.order)

    @property
    def full(self) -> int:
        return self.size**self.order

    def layout(self) -> Struct:
        """csrc/ops/cuda/launch.h"""
        return Struct((self.rows, self.lanes, self.packed, self.full, self.size, self.cache, self.order))

    def cubes(self, unit: int, element_size: int) -> tuple[int, int]:
        """How many there are from end to end, and their side in units: plan_symmetric_cubes."""
        units = -(-self.size // unit)
        pair = 7 * unit * element_size + 3 * 32
        side = 1
        if self.size**2 * 2 // 5 * pair > self.cache:
            side = min(units, max(1, math.isqrt(self.cache // pair) // unit))
        across = -(-units // side)
        return across, -(-units // across)

    def _in_cubes(self, unit: int, blocks: int, element_size: int) -> tuple[int, int]:
        """Blocks of a row, and the first of those that do the last digits."""
        across, side = self.cubes(unit, element_size)
        in_cube = side**3 * blocks
        in_row = math.comb(across + 2, 3) * in_cube
        last = (self.size - 1) // unit - (across - 1) * side  # of the last cube, in each direction
        return in_row, in_row - in_cube + last * (1 + side + side**2) * blocks

    def expand_threads(self, element_size: int) -> int:
        if self.tiled:
            if self.order == 3:
                return self._in_cubes(32, 96, element_size)[0] * 256
            others = math.comb(self.size + self.order - 3, self.order - 2)
            return math.comb(-(-self.size // 32) + 1, 2) * others * 256
        columns = self.full // self.size
        return -(-self.size // (1 if columns < 16 else 4)) * columns

    def fold_threads(self, element_size: int) -> int:
        if self.in_bricks:
            return self._in_cubes(8, 2, element_size)[0] * 256
        return self.expand_threads(element_size) if self.tiled and self.order == 2 else self._places(element_size)[0]

    def group(self, element_size: int) -> int:
        """Of the largest digit: plan_symmetric_group."""
        factorial = math.factorial(self.order - 1)
        bytes_of_entry = factorial * ((self.order - 1) * element_size + 32)
        if self.order < 4 or math.comb(self.size + self.order - 2, self.order - 1) * bytes_of_entry <= self.cache:
            return 1
        fits = self.cache // (math.comb(self.size + self.order - 3, self.order - 2) * bytes_of_entry)
        return min(max(fits, 1), 32 // element_size)

    def _places(self, element_size: int) -> tuple[int, int]:
        """Of a row, and the last that has something to do."""
        group = self.group(element_size)
        if group == 1:
            return self.packed, self.packed - 1
        in_row = -(-self.size // group) * group * math.comb(self.size + self.order - 2, self.order - 1)
        return in_row, in_row - group + (self.size - 1) % group

    def fold_blocks(self, element_size: int) -> Callable[[int], list[int]]:
        if self.in_bricks:
            return self.blocks_in_cubes(8, 2, element_size)
        tiled = self.tiled and self.order == 2
        return self.blocks(self.fold_threads(element_size), None if tiled else self._places(element_size)[1])

    def blocks(self, threads: int, last: int | None = None) -> Callable[[int], list[int]]:
        """Those that do the first and the last columns, or tiles, of the first and the last row, and some between:
        `last` is the last that has something to do."""
        last = threads - 1 if last is None else last
        last_lane = (self.rows - 1) % self.lanes * threads
        some = (threads * part // 7 for part in (2, 3, 5))
        every = (0, *some, last, last_lane, last_lane + last, (self.lanes - 1) * threads + last)
        return lambda grid: sorted({item // 256 % grid for item in every})

    def blocks_in_cubes(self, unit: int, blocks: int, element_size: int) -> Callable[[int], list[int]]:
        """The same where cubes are done: of units of so many blocks, the first, the last that has something to do, and
        one of each kind."""
        in_row, last = self._in_cubes(unit, blocks, element_size)
        last_lane = (self.rows - 1) % self.lanes * in_row
        starts = (0, in_row * 5 // 7 // blocks * blocks, last, last_lane, last_lane + last)
        parts = (0, 37, 70, (self.size - 1) % 32) if blocks == 96 else range(blocks)
        return lambda grid: sorted({(start + part) % grid for start in starts for part in parts})

    @property
    def tiled(self) -> bool:
        """csrc/ops/symmetric_tiles.h"""
        return self.order >= 2 and self.size >= 32

    @property
    def in_bricks(self) -> bool:
        return self.order == 3 and self.tiled

    def __str__(self) -> str:
        how = "tiled" if self.tiled and self.order == 2 else "gathered"
        return f"{self.size}^{self.order}, {self.rows} rows of {self.lanes} at once, {how}"

    # The index arithmetic once more, by tables and the numbers of Python, for tensors that are too large to exist.

    @functools.cached_property
    def terms(self) -> list[Ints]:
        """C(i + k, k + 1) at [k][i], what digit i adds to the rank as the k-th of a sorted multi-index."""
        digit = np.arange(self.size)
        terms = [digit]
        for k in range(1, self.order):
            terms.append(terms[-1] * (digit + k) // (k + 1))
        return terms

    def rank(self, column: Ints) -> Ints:
        digits = [column // self.size**k % self.size for k in range(self.order)]
        return sum((t[d] for t, d in zip(self.terms, np.sort(digits, axis=0), strict=True)), np.zeros_like(column))

    def columns(self, rank: Ints) -> Ints:
        """Those of all permutations of the multi-index, [order!, ...]; those that occur again are -1."""
        digits = []
        for k in reversed(range(self.order)):
            digits.append(np.searchsorted(self.terms[k], rank, "right") - 1)
            rank = rank - self.terms[k][digits[-1]]
        every = [
            sum((digits[i] * self.size**k for k, i in enumerate(order)), np.zeros_like(rank))
            for order in permutations(range(self.order))
        ]
        columns = np.sort(every, axis=0)
        columns[1:][columns[1:] == columns[:-1]] = -1
        return columns


SYMMETRIC = [
    *(Symmetric(1, 7, 2, 2), Symmetric(1, 64, 1, 1)),
    *(Symmetric(3, 2, 1, 1), Symmetric(17, 2, 5, 2), Symmetric(6, 3, 4, 3), Symmetric(9, 3, 1, 1)),
    *(Symmetric(4, 4, 5, 1), Symmetric(3, 5, 2, 1), Symmetric(2, 9, 1, 1), Symmetric(4, 3, 11, 2)),
    *(Symmetric(32, 2, 3, 2), Symmetric(75, 2, 2, 1), Symmetric(33, 3, 1, 1)),
]
# Where a cache is too small for the plain walk.
SMALL_CACHE = [Symmetric(43, 3, 2, 1, 150_000), Symmetric(9, 4, 3, 2, 37_000), Symmetric(6, 5, 1, 1, 115_000)]


def expand_call(dtype: torch.dtype, shape: Symmetric) -> Call:
    packed = awkward_values(shape.rows * shape.packed, dtype).view(shape.rows, shape.packed)

    def op(device: str) -> Tensor:
        return ops.expand_symmetric(packed.to(device), shape.size, shape.order)

    arguments = (Output(op("cpu")), Input(packed), dtype.itemsize, shape.layout(), Stream())
    return Call(f"expand_symmetric {name(dtype)} {shape}", "launch_expand_symmetric", arguments, op)


def expand_calls() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        for shape in SYMMETRIC:
            yield expand_call(dtype, shape)


def huge_expand_call(dtype: torch.dtype, shape: Symmetric) -> Call:
    def expected(index: Ints) -> Ints:
        return huge_value(index // shape.full * shape.packed + shape.rank(index % shape.full))

    out, source = HugeOutput(shape.rows * shape.full, dtype, expected), HugeInput(shape.rows * shape.packed, dtype)
    arguments = (out, source, dtype.itemsize, shape.layout(), Stream())
    label = f"expand_symmetric {name(dtype)} huge {shape}"
    size = dtype.itemsize
    in_cubes = shape.tiled and shape.order == 3
    blocks = shape.blocks_in_cubes(32, 96, size) if in_cubes else shape.blocks(shape.expand_threads(size))
    return Call(label, "launch_expand_symmetric", arguments, blocks=blocks)


HUGE_SYMMETRIC = [
    *(Symmetric(2**20 + 3, 2, 1, 1), Symmetric(77501, 2, 3, 2), Symmetric(1301, 3, 3, 2)),
    *(Symmetric(81, 5, 2, 1), Symmetric(2, 33, 1, 1)),
]
# More cubes, tiles or entries than 2^32: their numbers take 64-bit division, and blocks several turns.
MANY_ENTRIES = [Symmetric(2**22 + 5, 2, 1, 1), Symmetric(21_500, 3, 2, 2)]
MANY_TILES = Symmetric(2500, 4, 1, 1)
# Nearly as many cubes from end to end as are found in 32 bits, in a cache for the plain walk.
MANY_CUBES = Symmetric(11_900, 3, 3, 2, 1 << 44)
MANY_PLACES = Symmetric(400, 5, 1, 1, 1 << 36)
HUGE_DTYPES = (torch.half, torch.float32, torch.float64, torch.bfloat16, torch.complex128)


def expand_huge() -> Iterator[Call]:
    for dtype, shape in zip(HUGE_DTYPES, HUGE_SYMMETRIC, strict=True):
        yield huge_expand_call(dtype, shape)


QUICK_SYMMETRIC = [
    *(Symmetric(17, 2, 5, 2), Symmetric(6, 3, 4, 3), Symmetric(4, 4, 3, 1)),
    *(Symmetric(3, 5, 11, 2), Symmetric(70, 2, 3, 2), Symmetric(33, 3, 1, 1)),
    *(Symmetric(44, 2, 1, 1), Symmetric(52, 2, 1, 1), Symmetric(60, 2, 1, 1)),
]


def expand_quick() -> Iterator[Call]:
    for dtype in (torch.half, torch.complex128):
        for shape in QUICK_SYMMETRIC:
            yield expand_call(dtype, shape)
        large_cubes = Symmetric(1301, 3, 3, 2, 24 << 20)
        for shape in (
            *HUGE_SYMMETRIC[:2],
            HUGE_SYMMETRIC[3],
            large_cubes,
            *MANY_ENTRIES,
            MANY_CUBES,
            MANY_TILES,
            Symmetric(31, 9, 1, 1),
            Symmetric(40, 6, 1, 1),
        ):
            yield huge_expand_call(dtype, shape)


BUSY_SYMMETRIC = [
    *(Symmetric(300, 2, 1, 1), Symmetric(1000, 2, 1, 1), Symmetric(100, 2, 5, 5), Symmetric(64, 3, 1, 1)),
    *(Symmetric(20, 4, 1, 1), Symmetric(5, 4, 200, 200), Symmetric(3, 2, 5000, 1000)),
]


def expand_busy() -> Iterator[Call]:
    for dtype in (torch.half, torch.float32, torch.float64, torch.complex128):
        for shape in BUSY_SYMMETRIC:
            yield expand_call(dtype, shape)


def fold_call(dtype: torch.dtype, shape: Symmetric, values: Values = normal_values) -> Call:
    """Awkward values make a NaN of most sums."""
    full = values(shape.rows * shape.full, dtype).view(shape.rows, shape.full)

    def op(device: str) -> Tensor:
        return ops.fold_symmetric(full.to(device), shape.size, shape.order)

    arguments = (Output(op("cpu")), Input(full), dtype, shape.layout(), Stream())
    return Call(f"fold_symmetric {name(dtype)} {shape}", "launch_fold_symmetric", arguments, op)


def fold_calls() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        for shape in (*SYMMETRIC, *SMALL_CACHE):
            yield fold_call(dtype, shape)
        yield fold_call(dtype, Symmetric(17, 2, 5, 2), awkward_values)


def huge_fold_call(dtype: torch.dtype, shape: Symmetric) -> Call:
    def expected(index: Ints) -> Ints:
        columns = shape.columns(index % shape.packed)
        values = huge_value(index // shape.packed * shape.full + columns)
        return np.where(columns < 0, 0, values).sum(0)

    out, source = HugeOutput(shape.rows * shape.packed, dtype, expected), HugeInput(shape.rows * shape.full, dtype)
    arguments = (out, source, dtype, shape.layout(), Stream())
    label = f"fold_symmetric {name(dtype)} huge {shape}"
    return Call(label, "launch_fold_symmetric", arguments, blocks=shape.fold_blocks(dtype.itemsize))


def fold_huge() -> Iterator[Call]:
    for dtype, shape in zip(HUGE_DTYPES[:4], HUGE_SYMMETRIC[:4], strict=True):
        yield huge_fold_call(dtype, shape)


def fold_quick() -> Iterator[Call]:
    for dtype in (torch.half, torch.complex64):
        for shape in (*QUICK_SYMMETRIC, *SMALL_CACHE):
            yield fold_call(dtype, shape)
        yield fold_call(dtype, Symmetric(36, 3, 2, 1))
        yield fold_call(dtype, Symmetric(70, 3, 1, 1))  # of several bricks
        yield fold_call(dtype, Symmetric(32, 2, 1, 1), awkward_values)
        yield fold_call(dtype, Symmetric(33, 3, 1, 1), awkward_values)
        yield fold_call(dtype, Symmetric(70, 2, 1, 1), negative_zeros)
        for shape in (*HUGE_SYMMETRIC[:4], *MANY_ENTRIES, MANY_CUBES, Symmetric(1300, 4, 3, 2), MANY_PLACES):
            yield huge_fold_call(dtype, shape)


def fold_busy() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        for shape in BUSY_SYMMETRIC:
            yield fold_call(dtype, shape)


def symmetric_drawn(rng: Random, itemsize: int, threads: Callable[[Symmetric], int]) -> Symmetric:
    """Rows of 8 MB in all, above order 2, and of 3 MB of order 2, of threads as csrc/ops/launch_plan.h has them."""
    order = rng.choice([2, 2, 3, 3, 4, 5])
    numel = (3_000_000 if order == 2 else 8_000_000) // itemsize
    size = max(2, round(numel ** (1 / order) * rng.uniform(0.4, 1)))
    rows = max(1, min(20_000, numel // size**order))
    in_row = threads(Symmetric(size, order, rows, 1))
    return Symmetric(size, order, rows, min(rows, -(-(2**18) // in_row)))


def expand_drawn(rng: Random) -> Call:
    dtype = rng.choice(REAL + COMPLEX)
    return expand_call(dtype, symmetric_drawn(rng, dtype.itemsize, lambda shape: shape.expand_threads(dtype.itemsize)))


def fold_drawn(rng: Random) -> Call:
    dtype = rng.choice(REAL + COMPLEX)
    return fold_call(dtype, symmetric_drawn(rng, dtype.itemsize, lambda shape: shape.fold_threads(dtype.itemsize)))
