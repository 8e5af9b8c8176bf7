"""Calls of the launchers of decompress and compress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from call_values import awkward_values, first_and_last, name
from launching import COMPLEX, REAL, Call, HugeInput, HugeOutput, Input, Output, Stream, Struct, huge_value
from ptx_memory import Ints
from torch import Tensor

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext


@dataclass(frozen=True)
class Pattern:
    """The entries of a compressed Jacobian: csrc/ops/decompress.h."""

    source: Tensor
    target: Tensor | None
    source_numel: int
    target_numel: int

    @property
    def targets(self) -> Tensor:
        return torch.arange(len(self.source)) if self.target is None else self.target

    def source_inside(self) -> Tensor:
        return (self.source >= 0) & (self.source < self.source_numel)

    def target_inside(self) -> Tensor:
        return (self.targets >= 0) & (self.targets < self.target_numel)

    def inside(self) -> Pattern:
        """Without the entries that lie outside of a tensor, which the CPU refuses."""
        keep = self.source_inside() & self.target_inside()
        if keep.all():
            return self
        return Pattern(self.source[keep], self.targets[keep], self.source_numel, self.target_numel)

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
    "sources outside": Pattern(torch.tensor([3, -1, 5, 1, 2**40, 0, -(2**50), 4]), None, 5, 8),
}


# Without targets, which the ops refuse: entry k has no place k.
TOO_MANY = Pattern(torch.arange(300) % 40, None, 40, 290)


def not_a_number(dtype: torch.dtype) -> complex:
    """What is read outside of a tensor."""
    return complex(torch.nan, torch.nan) if dtype.is_complex else torch.nan


def decompress_call(dtype: torch.dtype, shape: str, pattern: Pattern) -> Call:
    compressed = awkward_values(pattern.source_numel, dtype)

    def op(device: str, pattern: Pattern = pattern) -> Tensor:
        target = None if pattern.target is None else pattern.target.to(device)
        shape = [pattern.target_numel]
        return ops.decompress(compressed.to(device), pattern.source.to(device), target, shape)

    within = pattern.inside()
    expected = op("cpu", within)
    initial = None if pattern.target is None else torch.zeros_like(expected)
    written = pattern.target_inside()
    unread = pattern.targets[written & ~pattern.source_inside()]
    expected[unread] = not_a_number(dtype)
    arguments = (
        Output(expected, initial=initial, needed=pattern.targets[written]),
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
        for shape in ("sparse values", "symmetric", "outside", "sources outside"):
            yield decompress_call(dtype, shape, PATTERNS[shape])
        yield decompress_call(dtype, "too many", TOO_MANY)
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
    initial = torch.zeros_like(expected)
    written = pattern.source_inside()
    expected[pattern.source[written & ~pattern.target_inside()]] = not_a_number(dtype)
    arguments = (
        Output(expected, initial=initial, needed=pattern.source[written].unique(), updated=True),
        Input(values, needed=within.targets),
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
        for shape in ("twice", "symmetric", "outside", "sources outside"):
            pattern = PATTERNS[shape]
            yield compress_call(dtype, shape, pattern, awkward_values(pattern.target_numel, dtype))
        few = Pattern(TOO_MANY.source[-20:] * 5, None, 200, 17)
        yield compress_call(dtype, "too many", few, awkward_values(17, dtype))
        for count, has_target in ((2**39 + 2**31 + 5, True), (2**39 + 700, False)):
            yield huge_compress_call(dtype, count, has_target)


def compress_busy() -> Iterator[Call]:
    every = Pattern(torch.arange(70_001), None, 70_001, 70_001)
    for dtype in REAL + COMPLEX:
        values = awkward_values(500 * 500, dtype)
        shape = "in parts" if dtype.is_complex else "contiguous"
        yield compress_call(dtype, shape, every, values[: every.target_numel])
        yield compress_call(dtype, "odd tridiagonal", tridiagonal(500), values)


def band_drawn(rng: Random) -> Pattern:
    """Entries of a band matrix, row by row, as colours of rows or of columns leave them, into a matrix or packed."""
    band, is_dense = rng.choice([1, 2, 3, 5, 9, 17]), rng.random() < 0.5
    size = rng.randint(100, 600) if is_dense else rng.randint(2000, 20_000)
    row = torch.arange(size).repeat_interleave(band)
    column = row + torch.arange(band).repeat(size) - band // 2
    inside = (column >= 0) & (column < size)
    row, column = row[inside], column[inside]
    source = row % band * size + column if rng.random() < 0.5 else column % band * size + row
    target, numel = (row * size + column, size * size) if is_dense else (None, len(row))
    return Pattern(source, target, band * size, numel)


def decompress_drawn(rng: Random) -> Call:
    pattern = band_drawn(rng)
    return decompress_call(rng.choice(REAL + COMPLEX), f"{len(pattern.source)} of a band", pattern)


def compress_drawn(rng: Random) -> Call:
    pattern, dtype = band_drawn(rng), rng.choice(REAL + COMPLEX)
    values = awkward_values(pattern.target_numel, dtype)
    return compress_call(dtype, f"{len(pattern.source)} of a band", pattern, values)
