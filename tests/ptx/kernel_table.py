"""The kernels under test: one row each. A new kernel is a new row, and a list of calls of its launcher.

The expected values are those of the CPU op; only where a tensor is too large to exist does a formula take its place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from launching import COMPLEX, REAL, Call, HugeInput, HugeOutput, Input, Output, Stream, Struct, huge_value
from ptx_memory import Ints
from torch import Tensor

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext


@dataclass(frozen=True)
class Row:
    """A launcher.

    calls: every dtype and shape, to be compared. huge: sizes past 2^31. quick: a few calls that use every part of the
    kernel, for the mutants. busy: calls large enough that their traffic says something.
    """

    launcher: str
    kernels: tuple[str, ...]  # plain names of what it launches
    calls: Callable[[], Iterator[Call]]
    huge: Callable[[], Iterator[Call]]
    quick: Callable[[], Iterator[Call]]
    busy: Callable[[], Iterator[Call]]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_and_last(pieces: int) -> Callable[[int], list[int]]:
    """The blocks that do the first and the last of so many pieces of work, which the grid shares in turn."""
    return lambda grid: sorted({0, (pieces - 1) % grid})


# ---- seed_basis


def seed_basis_call(dtype: torch.dtype, rows: int, columns: int, first_row: int) -> Call:
    def op(device: str) -> Tensor:
        return ops.seed_basis(torch.empty(columns, dtype=dtype, device=device), rows, first_row)

    label = f"seed_basis {name(dtype)} {rows}x{columns} from {first_row}"
    return Call(label, "launch_seed_basis", (Output(op("cpu")), dtype, rows, columns, first_row, Stream()), op)


def seed_basis_calls() -> Iterator[Call]:
    shapes = [(1, 1, 0), (0, 5, 0), (5, 0, 0), (3, 5, 1), (2, 2, 5), (5, 3, 0), (700, 1, 0), (37, 41, 3), (130, 131, 7)]
    for dtype in REAL + COMPLEX:
        for shape in shapes:
            yield seed_basis_call(dtype, *shape)


def huge_seed_basis_call(dtype: torch.dtype, rows: int, columns: int, first_row: int) -> Call:
    numel = rows * columns

    def expected(index: Ints) -> Ints:
        return (index % columns == index // columns + first_row).astype(np.int64)

    pieces = -(-numel // (256 * 16 // dtype.itemsize))
    arguments = (HugeOutput(numel, dtype, expected), dtype, rows, columns, first_row, Stream())
    return Call(f"seed_basis {name(dtype)} huge", "launch_seed_basis", arguments, blocks=first_and_last(pieces))


def seed_basis_huge() -> Iterator[Call]:
    yield huge_seed_basis_call(torch.half, 3, 2**31 + 11, 2**31 + 5)
    yield huge_seed_basis_call(torch.float64, 2**21 + 1, 2**21 + 3, 2)
    yield huge_seed_basis_call(torch.float32, 2**16 + 7, 2**16 + 3, 0)
    yield huge_seed_basis_call(torch.complex128, 2, 2**32 + 1, 2**32 - 1)


def seed_basis_quick() -> Iterator[Call]:
    for dtype in (torch.half, torch.float32, torch.complex64):
        for shape in [(97, 131, 3), (7, 3, 0), (5, 2, 0), (5, 5, 0), (6, 5, 1), (1, 7, 6), (1, 10, 2), (3, 4, 9)]:
            yield seed_basis_call(dtype, *shape)
        yield huge_seed_basis_call(dtype, 2**16 + 7, 2**16 + 3, 0)
        yield huge_seed_basis_call(dtype, 3, 2**31 + 11, 2**31 + 5)
        yield huge_seed_basis_call(dtype, 2**22 + 1, 2**22 + 3, 2)


def seed_basis_busy() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        yield seed_basis_call(dtype, 255, 1023, 5)


# ---- assemble_rows


class StridedLayout(ctypes.Structure):
    """csrc/ops/index_math.h"""

    _fields_ = (("sizes", ctypes.c_int64 * 64), ("strides", ctypes.c_int64 * 64), ("num_dims", ctypes.c_int))


def coalesced(sizes: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """(size, stride) of what is left when neighbouring dimensions that are one run in memory are merged."""
    dims: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == size * stride:
            dims[-1] = (dims[-1][0] * size, stride)
        else:
            dims.append((size, stride))
    return dims


def layout_of(dims: list[tuple[int, int]]) -> StridedLayout:
    layout = StridedLayout(num_dims=len(dims))
    for k, (size, stride) in enumerate(dims):
        layout.sizes[k], layout.strides[k] = size, stride
    return layout


def awkward_values(numel: int, dtype: torch.dtype) -> Tensor:
    """Normal values, and some that are special or lie between two neighbours of a narrower type."""
    values = torch.randn(numel, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
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
    return torch.complex(values, values.flip(0)).to(dtype) if dtype.is_complex else values.to(dtype)


def copy_call(dst: torch.dtype, src: torch.dtype, shape: str, block: Tensor, skew: int = 0) -> Call:
    """`block` is any view of a one-dimensional storage."""
    storage = block.as_strided((block.untyped_storage().nbytes() // block.element_size(),), (1,), 0)
    places = torch.arange(len(storage)).as_strided(block.shape, block.stride(), block.storage_offset())
    first = block.storage_offset()

    def op(device: str) -> Tensor:
        rows = torch.empty(skew + block.numel(), dtype=dst, device=device)[skew:].view(block.shape)
        ops.assemble_rows_(rows, storage.to(device).as_strided(block.shape, block.stride(), first))
        return rows

    arguments = (
        Output(op("cpu"), skew),
        dst,
        Input(storage[first:].clone(), first, needed=places.unique() - first),
        src,
        layout_of(coalesced(block.shape, block.stride())),
        block.numel(),
        Stream(),
    )
    return Call(f"assemble_rows {name(src)} to {name(dst)}, {shape}", "launch_copy_block", arguments, op)


BLOCKS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "one": lambda t: awkward_values(1, t),
    "contiguous": lambda t: awkward_values(2500, t),
    "offset": lambda t: awkward_values(1200, t)[7:],
    "a quarter": lambda t: awkward_values(170, t),
    "half": lambda t: awkward_values(470, t),
    "three quarters": lambda t: awkward_values(700, t),
    "almost full": lambda t: awkward_values(1000, t),
    "every other": lambda t: awkward_values(2400, t)[::2],
    "pitched": lambda t: awkward_values(30 * 50, t).view(30, 50)[:, :41],
    "four dims": lambda t: awkward_values(3 * 4 * 5 * 60, t).view(3, 4, 5, 60)[:, ::2, :4, 1:50:3],
    "expanded rows": lambda t: awkward_values(90, t).expand(13, 90),
    "expanded columns": lambda t: awkward_values(90, t)[:, None].expand(90, 13),
    "transposed": lambda t: awkward_values(130 * 70, t).view(130, 70).t(),
    "small transposed": lambda t: awkward_values(5 * 7, t).view(5, 7).t(),
    "half a tile": lambda t: awkward_values(20 * 21, t).view(20, 21).t(),
    "more of a tile": lambda t: awkward_values(21 * 31, t).view(21, 31).t(),
    "most of a tile": lambda t: awkward_values(31 * 32, t).view(31, 32).t(),
    "narrow": lambda t: awkward_values(3 * 1500, t).view(3, 1500).t(),
    "flat": lambda t: awkward_values(3 * 1700, t).view(1700, 3).t(),
    "rows last": lambda t: awkward_values(18 * 65, t).view(3, 6, 65).permute(2, 0, 1),
    "reversed": lambda t: awkward_values(9 * 10 * 33, t).view(9, 10, 33).permute(2, 1, 0),
    "batch of transposed": lambda t: awkward_values(6 * 35 * 40, t).view(6, 35, 40)[:, 1:, :39].transpose(1, 2),
    "five dims": lambda t: awkward_values(2 * 3 * 4 * 5 * 36, t).view(3, 4, 36, 5, 2).permute(4, 2, 0, 3, 1)[:, 1:],
}


def copy_calls() -> Iterator[Call]:
    for src, dst in [(a, b) for a in REAL for b in REAL] + [(a, b) for a in COMPLEX for b in COMPLEX]:
        for shape, block in BLOCKS.items():
            yield copy_call(dst, src, shape, block(src), skew=1 if shape == "offset" else 0)


# By shape: (size, stride) of each dimension, and the number of pieces of work, 1024 elements or a tile, that the blocks
# share. With more than 2^31 pieces, blocks take several turns.
BIG = 2**31 + 1001
HUGE_BLOCKS: dict[str, tuple[list[tuple[int, int]], int]] = {
    "contiguous": ([(BIG, 1)], -(-BIG // 1024)),
    "strided": ([(3, 2**34), (BIG, 2)], -(-3 * BIG // 1024)),
    "several turns": ([(3, 2**50), (2**41 + 5, 4)], -(-3 * (2**41 + 5) // 1024)),
    "transposed": ([(70001, 1), (70003, 70001)], 1094 * 1094),
    "tall": ([(2, 2**35), (BIG, 1), (3, BIG)], 2 * -(-BIG // 352)),
    "wide": ([(3, 1), (2, 2**33), (BIG, 3)], 2 * -(-BIG // 350)),
    "matrices outside": ([(2, 2**50), (2**32 + 5, 16), (3, 1), (3, 4)], 2 * (2**32 + 5)),
    "matrices inside": ([(3, 1), (2**32 + 5, 16), (3, 4)], 2**32 + 5),
}


def huge_copy_call(dst: torch.dtype, src: torch.dtype, shape: str) -> Call:
    dims, pieces = HUGE_BLOCKS[shape]
    numel = int(np.prod([size for size, _ in dims]))
    reach = 1 + sum((size - 1) * stride for size, stride in dims)

    def expected(index: Ints) -> Ints:
        offset = np.zeros_like(index)
        for size, stride in reversed(dims):
            offset += index % size * stride
            index = index // size
        return huge_value(offset)

    arguments = (HugeOutput(numel, dst, expected), dst, HugeInput(reach, src), src, layout_of(dims), numel, Stream())
    return Call(f"assemble_rows huge {shape}", "launch_copy_block", arguments, blocks=first_and_last(pieces))


def copy_huge() -> Iterator[Call]:
    yield huge_copy_call(torch.float32, torch.half, "contiguous")
    yield huge_copy_call(torch.float32, torch.bfloat16, "several turns")
    yield huge_copy_call(torch.half, torch.half, "matrices outside")
    yield huge_copy_call(torch.half, torch.float64, "matrices inside")
    yield huge_copy_call(torch.float64, torch.float32, "strided")
    yield huge_copy_call(torch.bfloat16, torch.bfloat16, "transposed")
    yield huge_copy_call(torch.float64, torch.float64, "tall")
    yield huge_copy_call(torch.complex64, torch.complex64, "wide")


def copy_quick() -> Iterator[Call]:
    shapes = [shape for shape in BLOCKS if not shape.startswith("expanded")]
    for src, dst in [(torch.float32, torch.float32), (torch.float64, torch.bfloat16)]:
        for shape in shapes:
            yield copy_call(dst, src, shape, BLOCKS[shape](src))
        for shape in ("strided", "several turns", "transposed", "matrices outside", "matrices inside"):
            yield huge_copy_call(dst, src, shape)


def copy_busy() -> Iterator[Call]:
    same = [(t, t) for t in (torch.half, torch.float32, torch.float64, torch.complex128)]
    for src, dst in [*same, (torch.half, torch.float32), (torch.float64, torch.bfloat16)]:
        # More tiles than a wave has blocks.
        n = 1024 if dst.itemsize <= 4 else 512
        values = awkward_values(n * n, src)
        yield copy_call(dst, src, "contiguous", values)
        yield copy_call(dst, src, "pitched", values.view(n, n)[:, : n - 32])
        yield copy_call(dst, src, "transposed", values.view(n, n).t())
        yield copy_call(dst, src, "reversed", values.view(n // 8, 16, n // 2).permute(2, 1, 0))
        odd = values[: (n - 27) * (n - 31)].view(n - 27, n - 31)
        yield copy_call(dst, src, "odd transposed", odd.t())
        yield copy_call(dst, src, "narrow", values[: n * n // 3 * 3].view(3, -1).t())


# ---- decompress and compress


@dataclass(frozen=True)
class Pattern:
    """The entries of a compressed Jacobian: csrc/ops/decompress.h."""

    source: Tensor
    target: Tensor | None
    source_numel: int
    target_numel: int

    def inside(self) -> Pattern:
        """Without the entries that lie in no tensor, which the kernels leave out."""
        if self.target is None:
            return self
        places = ((self.source, self.source_numel), (self.target, self.target_numel))
        keep = torch.stack([(index >= 0) & (index < numel) for index, numel in places]).all(0)
        return Pattern(self.source[keep], self.target[keep], self.source_numel, self.target_numel)

    def places(self) -> Tensor:
        return torch.arange(len(self.source)) if self.target is None else self.target

    def entries(self) -> Struct:
        """csrc/ops/cuda/launch.h"""
        target = None if self.target is None else Input(self.target)
        return Struct((Input(self.source), target, len(self.source), self.source_numel, self.target_numel))


def shuffled(numel: int) -> Tensor:
    return torch.randperm(numel, generator=torch.Generator().manual_seed(5))


def tridiagonal(n: int) -> Pattern:
    """Of n rows, compressed to three."""
    row, column = torch.ones(n, n, dtype=torch.bool).triu(-1).tril(1).nonzero().t()
    return Pattern(column % 3 * n + row, row * n + column, 3 * n, n * n)


# No entry of these occurs more than twice, and no target more than once.
PATTERNS: dict[str, Pattern] = {
    "one": Pattern(torch.tensor([0]), None, 1, 1),
    "the last": Pattern(torch.tensor([4]), torch.tensor([6]), 5, 7),
    "none": Pattern(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 3, 4),
    "nothing": Pattern(torch.empty(0, dtype=torch.int64), None, 0, 0),
    "sparse values": Pattern(shuffled(1500)[:900], None, 1500, 900),
    "twice": Pattern(shuffled(600) // 2, None, 300, 600),
    "tridiagonal": tridiagonal(40),
    "symmetric": Pattern(shuffled(700) // 2, shuffled(800)[100:], 350, 800),
    "outside": Pattern(
        torch.tensor([0, -1, 5, 1, 2, 2**40, 3, 2, -(2**50), 4]),
        torch.tensor([3, 0, 1, -1, 7, 5, 2**40, 6, 4, -(2**50)]),
        5,
        7,
    ),
}


def decompress_call(dtype: torch.dtype, shape: str, pattern: Pattern) -> Call:
    compressed = awkward_values(pattern.source_numel, dtype)

    def op(device: str, pattern: Pattern = pattern) -> Tensor:
        target = None if pattern.target is None else pattern.target.to(device)
        shape = [pattern.target_numel]
        return ops.decompress(compressed.to(device), pattern.source.to(device), target, shape)

    within = pattern.inside()
    expected = op("cpu", within)
    initial = None if pattern.target is None else torch.zeros_like(expected)
    arguments = (
        Output(expected, initial=initial, needed=within.places()),
        Input(compressed, needed=within.source.unique()),
        dtype.itemsize,
        pattern.entries(),
        Stream(),
    )
    return Call(f"decompress {name(dtype)}, {shape}", "launch_decompress", arguments, op)


def decompress_calls() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        for shape, pattern in PATTERNS.items():
            yield decompress_call(dtype, shape, pattern)


def huge_source(k: Ints) -> Ints:
    return k % 1021 * (2**33 // 1021) + k % 7


def huge_decompress_call(dtype: torch.dtype, count: int, has_target: bool) -> Call:
    """With targets, the last comes first."""

    def expected(index: Ints) -> Ints:
        return huge_value(huge_source(count - 1 - index if has_target else index))

    target = HugeInput(count, torch.int64, lambda k: count - 1 - k) if has_target else None
    arguments = (
        HugeOutput(count, dtype, expected),
        HugeInput(2**33, dtype),
        dtype.itemsize,
        Struct((HugeInput(count, torch.int64, huge_source), target, count, 2**33, count)),
        Stream(),
    )
    return Call(
        f"decompress {name(dtype)} huge", "launch_decompress", arguments, blocks=first_and_last(-(-count // 256))
    )


def decompress_huge() -> Iterator[Call]:
    yield huge_decompress_call(torch.half, 2**39 + 2**31 + 5, has_target=True)
    yield huge_decompress_call(torch.float32, 2**39 + 700, has_target=False)
    yield huge_decompress_call(torch.float64, 2**32 + 3, has_target=True)
    yield huge_decompress_call(torch.complex128, 2**33, has_target=False)


def decompress_quick() -> Iterator[Call]:
    for dtype in (torch.half, torch.float32, torch.float64, torch.complex128):
        for shape in ("sparse values", "symmetric", "outside"):
            yield decompress_call(dtype, shape, PATTERNS[shape])
        for count, has_target in ((2**39 + 2**31 + 5, True), (2**39 + 700, False)):
            yield huge_decompress_call(dtype, count, has_target)


def decompress_busy() -> Iterator[Call]:
    every = Pattern(torch.arange(70_001), None, 70_001, 70_001)
    for dtype in REAL + COMPLEX:
        yield decompress_call(dtype, "contiguous", every)
        yield decompress_call(dtype, "odd tridiagonal", tridiagonal(500))


def compress_call(dtype: torch.dtype, shape: str, pattern: Pattern, values: Tensor) -> Call:
    def op(device: str, pattern: Pattern = pattern) -> Tensor:
        target = None if pattern.target is None else pattern.target.to(device)
        shape = [pattern.source_numel]
        return ops.compress(values.to(device), pattern.source.to(device), target, shape)

    within = pattern.inside()
    expected = op("cpu", within)
    arguments = (
        Output(expected, initial=torch.zeros_like(expected), needed=within.source.unique(), updated=True),
        Input(values, needed=within.places()),
        dtype,
        pattern.entries(),
        Stream(),
    )
    return Call(f"compress {name(dtype)}, {shape}", "launch_compress", arguments, op)


def compress_calls() -> Iterator[Call]:
    """A sum of two is the same in either order; of more only where no addition rounds, so there values are whole."""
    many = Pattern(shuffled(900) % 5, shuffled(1000)[50:950], 5, 1000)
    for dtype in REAL + COMPLEX:
        for shape, pattern in PATTERNS.items():
            yield compress_call(dtype, shape, pattern, awkward_values(pattern.target_numel, dtype))
        whole = (torch.arange(1000) * 181 % 7 - 3).to(dtype)
        yield compress_call(dtype, "many", many, whole * (1 + 2j) if dtype.is_complex else whole)


def huge_compress_call(dtype: torch.dtype, count: int, has_target: bool) -> Call:
    """The last source comes first."""

    def expected(index: Ints) -> Ints:
        k = count - 1 - index
        return huge_value(huge_source(k) if has_target else k)

    numel = 2**33 if has_target else count
    target = HugeInput(count, torch.int64, huge_source) if has_target else None
    arguments = (
        HugeOutput(count, dtype, expected),
        HugeInput(numel, dtype),
        dtype,
        Struct((HugeInput(count, torch.int64, lambda k: count - 1 - k), target, count, count, numel)),
        Stream(),
    )
    return Call(f"compress {name(dtype)} huge", "launch_compress", arguments, blocks=first_and_last(-(-count // 256)))


def compress_huge() -> Iterator[Call]:
    yield huge_compress_call(torch.half, 2**39 + 2**31 + 5, has_target=True)
    yield huge_compress_call(torch.bfloat16, 2**39 + 700, has_target=False)
    yield huge_compress_call(torch.float32, 2**32 + 3, has_target=True)
    yield huge_compress_call(torch.complex128, 2**33, has_target=False)


def compress_quick() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        for shape in ("twice", "symmetric", "outside"):
            pattern = PATTERNS[shape]
            yield compress_call(dtype, shape, pattern, awkward_values(pattern.target_numel, dtype))
        for count, has_target in ((2**39 + 2**31 + 5, True), (2**39 + 700, False)):
            yield huge_compress_call(dtype, count, has_target)


def compress_busy() -> Iterator[Call]:
    every = Pattern(torch.arange(70_001), None, 70_001, 70_001)
    for dtype in REAL + COMPLEX:
        values = awkward_values(500 * 500, dtype)
        shape = "in parts" if dtype.is_complex else "contiguous"
        yield compress_call(dtype, shape, every, values[: every.target_numel])
        yield compress_call(dtype, "odd tridiagonal", tridiagonal(500), values)


TABLE = [
    Row(
        "launch_seed_basis",
        ("seed_basis_kernel",),
        seed_basis_calls,
        seed_basis_huge,
        seed_basis_quick,
        seed_basis_busy,
    ),
    Row(
        "launch_copy_block",
        ("copy_block_kernel", "copy_transposed_kernel"),
        copy_calls,
        copy_huge,
        copy_quick,
        copy_busy,
    ),
    Row(
        "launch_decompress",
        ("decompress_kernel",),
        decompress_calls,
        decompress_huge,
        decompress_quick,
        decompress_busy,
    ),
    Row(
        "launch_compress",
        ("compress_kernel",),
        compress_calls,
        compress_huge,
        compress_quick,
        compress_busy,
    ),
]
