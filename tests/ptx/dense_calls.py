"""Calls of the launchers of seed_basis and assemble_rows."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import torch
from call_values import awkward_values, name
from launching import COMPLEX, REAL, Call, HugeInput, HugeOutput, Input, Output, Stream, huge_value
from ptx_memory import Ints
from torch import Tensor

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext


def ends(grid: int) -> list[int]:
    """The first block, and the last that has anything to do, which is among the last of all."""
    return [0, *range(max(1, grid - 8), grid)]


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

    arguments = (HugeOutput(numel, dtype, expected), dtype, rows, columns, first_row, Stream())
    return Call(f"seed_basis {name(dtype)} huge", "launch_seed_basis", arguments, blocks=ends)


def seed_basis_huge() -> Iterator[Call]:
    yield huge_seed_basis_call(torch.half, 3, 2**31 + 11, 2**31 + 5)
    yield huge_seed_basis_call(torch.float64, 2**17 + 1, 2**17 + 3, 2)
    yield huge_seed_basis_call(torch.float32, 2**16 + 7, 2**16 + 3, 0)
    yield huge_seed_basis_call(torch.complex128, 2, 2**32 + 1, 2**32 - 1)


def seed_basis_quick() -> Iterator[Call]:
    for dtype in (torch.half, torch.float32, torch.complex64):
        for shape in [(97, 131, 3), (7, 3, 0), (5, 2, 0), (5, 5, 0), (6, 5, 1), (1, 7, 6), (1, 10, 2), (3, 4, 9)]:
            yield seed_basis_call(dtype, *shape)
        yield huge_seed_basis_call(dtype, 2**16 + 7, 2**16 + 3, 0)
        yield huge_seed_basis_call(dtype, 3, 2**31 + 11, 2**31 + 5)
        yield huge_seed_basis_call(dtype, 2, 2**30 + 7, 2**30 + 5)


def seed_basis_busy() -> Iterator[Call]:
    for dtype in REAL + COMPLEX:
        yield seed_basis_call(dtype, 255, 1023, 5)


def seed_basis_drawn(rng: Random) -> Call:
    columns = round(300_000 ** rng.random())
    return seed_basis_call(rng.choice(REAL + COMPLEX), 300_000 // columns + 1, columns, rng.randint(0, columns))


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
    "pitched, aligned": lambda t: awkward_values(130 * 48, t).view(130, 48)[:, :40],
    "four dims, aligned": lambda t: awkward_values(3 * 4 * 5 * 64, t).view(3, 4, 5, 64)[:, ::2, :4, 8:40],
    "four dims": lambda t: awkward_values(3 * 4 * 5 * 60, t).view(3, 4, 5, 60)[:, ::2, :4, 1:50:3],
    "expanded rows": lambda t: awkward_values(90, t).expand(13, 90),
    "expanded columns": lambda t: awkward_values(90, t)[:, None].expand(90, 13),
    "transposed": lambda t: awkward_values(130 * 70, t).view(130, 70).t(),
    "small transposed": lambda t: awkward_values(5 * 7, t).view(5, 7).t(),
    "half a tile": lambda t: awkward_values(20 * 21, t).view(20, 21).t(),
    "more of a tile": lambda t: awkward_values(21 * 31, t).view(21, 31).t(),
    "most of a tile": lambda t: awkward_values(31 * 32, t).view(31, 32).t(),
    "two bands": lambda t: awkward_values(70 * 700, t).view(70, 700).t(),
    "narrow": lambda t: awkward_values(3 * 1500, t).view(3, 1500).t(),
    "less narrow": lambda t: awkward_values(6 * 700, t).view(6, 700).t(),
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


# By shape: (size, stride) of each dimension. The larger ones are copied in parts.
BIG = 2**31 + 1001
HUGE_BLOCKS: dict[str, list[tuple[int, int]]] = {
    "contiguous": [(BIG, 1)],
    "strided": [(3, 2**34), (BIG, 2)],
    "far apart": [(3, 2**50), (2**27 + 5, 2**14)],
    "transposed": [(70001, 1), (70003, 70001)],
    "transposed, far apart": [(2**22 + 5, 1), (70, 2**40)],
    "transposed, wide band": [(700, 1), (2**20 + 5, 700)],
    "tall": [(BIG, 1), (6, BIG)],
    "wide": [(3, 1), (2, 2**33), (BIG, 3)],
    "matrices outside": [(2, 2**50), (2**19 + 5, 2**12), (30, 1), (32, 40)],
    "matrices inside": [(30, 1), (2**19 + 5, 2**12), (32, 40)],
}


def huge_copy_call(dst: torch.dtype, src: torch.dtype, shape: str) -> Call:
    dims = HUGE_BLOCKS[shape]
    numel = int(np.prod([size for size, _ in dims]))
    reach = 1 + sum((size - 1) * stride for size, stride in dims)

    def expected(index: Ints) -> Ints:
        offset = np.zeros_like(index)
        for size, stride in reversed(dims):
            offset += index % size * stride
            index = index // size
        return huge_value(offset)

    arguments = (HugeOutput(numel, dst, expected), dst, HugeInput(reach, src), src, layout_of(dims), numel, Stream())
    return Call(f"assemble_rows huge {shape}", "launch_copy_block", arguments, blocks=ends)


def copy_huge() -> Iterator[Call]:
    yield huge_copy_call(torch.float32, torch.half, "contiguous")
    yield huge_copy_call(torch.float32, torch.bfloat16, "far apart")
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
        for shape in ("far apart", "transposed, far apart", "matrices outside", "matrices inside"):
            yield huge_copy_call(dst, src, shape)


def copy_busy() -> Iterator[Call]:
    same = [(t, t) for t in (torch.half, torch.float32, torch.float64, torch.complex128)]
    for src, dst in [*same, (torch.half, torch.float32), (torch.float64, torch.bfloat16)]:
        # More tiles than a wave has blocks.
        n = 1024 if dst.itemsize <= 4 else 512
        values = awkward_values(n * n, src)
        yield copy_call(dst, src, "contiguous", values)
        yield copy_call(dst, src, "pitched", values.view(n, n)[:, : n - 32])
        yield copy_call(dst, src, "odd pitched", values.view(n, n)[:, : n - 31])
        yield copy_call(dst, src, "transposed", values.view(n, n).t())
        yield copy_call(dst, src, "reversed", values.view(n // 8, 16, n // 2).permute(2, 1, 0))
        odd = values[: (n - 27) * (n - 31)].view(n - 27, n - 31)
        yield copy_call(dst, src, "odd transposed", odd.t())
        yield copy_call(dst, src, "narrow", values[: n * n // 3 * 3].view(3, -1).t())
        yield copy_call(dst, src, "less narrow", values[: n * n // 6 * 6].view(6, -1).t())
    # Little lies side by side, and what lies next to it in the source lies far from it in the result.
    apart = awkward_values(82 * 37 * 7 * 4 * 24, torch.half).view(82, 37, 7, 4, 24).permute(3, 2, 4, 1, 0)
    yield copy_call(torch.half, torch.half, "odd pieces", apart)


def copy_drawn(rng: Random) -> Call:
    """A block of two to five dimensions in any order, some of them cut out of longer ones."""
    src = rng.choice(REAL + COMPLEX)
    dst = rng.choice(COMPLEX if src.is_complex else REAL)
    num_dims = rng.choice([2, 2, 3, 3, 4, 5])
    numel = 10_000_000 // (src.itemsize + dst.itemsize)
    shares = [rng.random() + 0.15 for _ in range(num_dims)]
    sizes = [max(1, round(numel ** (share / sum(shares)))) for share in shares]
    whole = [size + rng.choice([0, 0, 1, 3]) for size in sizes]
    block = awkward_values(int(np.prod(whole)), src).view(whole)
    for dim, size in enumerate(sizes):
        block = block.narrow(dim, rng.randint(0, whole[dim] - size), size)
    order = rng.sample(range(num_dims), num_dims)
    return copy_call(dst, src, f"{sizes} of {whole} in order {order}", block.permute(order))
