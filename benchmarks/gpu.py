"""Times on a GPU: ``python benchmarks/gpu.py`` prints a Markdown report within ``--seconds``.

Each call is timed by CUDA events, after warm-up, with the second-level cache flushed before it, so that it reads its
inputs from memory. Jacobians are compared with torch.func; kernels with torch's own copy of one GiB, which is what the
memory can do (the roofline: none of the kernels computes more than it moves). ``--device cpu`` rehearses all of it with
small tensors and a clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from pathlib import Path

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch

import highgrad_ext
from benchmarks.measure import check
from benchmarks.peers import ALL_TORCH, FROM_TAPE, HIGHGRAD, TorchOps
from benchmarks.problems import PROBLEMS, Problem

MOST_CALLS = 50
PEERS = (HIGHGRAD, FROM_TAPE, "func.jacrev", "func.jacfwd", "functional, vectorized")
DTYPES = (torch.half, torch.float32, torch.float64, torch.complex128)
ops = torch.ops.highgrad_ext


@dataclass(frozen=True)
class Scale:
    """How large the tensors are: far beyond any cache on a GPU, and next to nothing in a rehearsal."""

    warm_up: int  # calls
    flushed_bytes: int
    copied_bytes: int
    side: int  # of square matrices
    cube: int  # of symmetric tensors of order 3
    rows: int  # of small symmetric tensors


SCALES = {
    "cuda": Scale(3, 256 << 20, 1 << 30, 8192, 400, 20_000),
    "cpu": Scale(0, 1 << 20, 1 << 20, 64, 33, 5),
}


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Of one call; the rest of the device's work is over before."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def median_ms(call: Callable[[], object], seconds: float, device: str) -> float:
    """The median of up to MOST_CALLS calls, or of as many as the seconds allow."""
    for _ in range(SCALES[device].warm_up):
        call()
    flushed = torch.empty(SCALES[device].flushed_bytes, dtype=torch.uint8, device=device)
    times = []
    end_of_time = time.monotonic() + seconds
    while not times or (len(times) < MOST_CALLS and time.monotonic() < end_of_time):
        flushed.zero_()
        times.append(milliseconds(call, device))
    return statistics.median(times)


# ---- Jacobians


def compare(problem: Problem, seconds: float, device: str) -> dict[str, str]:
    """Milliseconds of each peer, forward pass included, or why it has none."""
    oracle = ALL_TORCH["func.jacrev"](problem.build(TorchOps(device, torch.float64)), problem.order)()
    case = problem.build(TorchOps(device))
    cells = {}
    for name in PEERS:
        try:
            call = ALL_TORCH[name](case, problem.order)
            check(call(), oracle)
            cells[name] = f"{median_ms(call, seconds / len(PEERS), device):.3f}"
        except Exception as error:  # a peer's failure is its cell
            cells[name] = type(error).__name__
    return cells


# ---- Kernels

# Name, bytes that must move, call.
KernelCall = tuple[str, int, Callable[[], object]]


def dense_calls(dtype: torch.dtype, device: str) -> Iterator[KernelCall]:
    n = SCALES[device].side
    like = torch.empty(n, dtype=dtype, device=device)
    square = torch.ones(n, n, dtype=dtype, device=device)
    rows = torch.empty_like(square)
    yield "seed_basis", square.nbytes, lambda: ops.seed_basis(like, n, 0)
    yield "assemble_rows_, zeros", square.nbytes, lambda: ops.assemble_rows_(rows, None)
    # [n, n / 32, 32], densest in the dimension between.
    between = torch.ones(32, n, n // 32, dtype=dtype, device=device).permute(1, 2, 0)
    blocks = {
        "contiguous": square,
        "pitched": torch.ones(n, n + 8, dtype=dtype, device=device)[:, :n],
        "transposed": square.t(),
        "transposed within rows": between,
    }
    for label, block in blocks.items():
        target = rows.view(block.shape)
        yield (
            f"assemble_rows_, {label}",
            2 * square.nbytes,
            lambda target=target, block=block: ops.assemble_rows_(target, block),
        )


def entry_calls(dtype: torch.dtype, device: str) -> Iterator[KernelCall]:
    """A tridiagonal Jacobian, compressed to three rows."""
    n = SCALES[device].side
    row = torch.arange(n, device=device).repeat_interleave(3)
    column = row + torch.arange(-1, 2, device=device).repeat(n)
    inside = (column >= 0) & (column < n)
    row, column = row[inside], column[inside]
    source, target = row % 3 * n + column, row * n + column
    compressed = torch.ones(3, n, dtype=dtype, device=device)
    dense = torch.ones(n, n, dtype=dtype, device=device)
    indices = 2 * source.nbytes
    moved = dense.nbytes + compressed.nbytes + indices
    yield "decompress, dense", moved, lambda: ops.decompress(compressed, source, target, [n, n])
    moved = 2 * compressed.nbytes + indices
    yield "compress, dense", moved, lambda: ops.compress(dense, source, target, [3, n])
    # The values of a sparse result, as many as a square has elements.
    many = torch.arange(n * n, device=device).roll(n // 2)
    values = torch.ones(n * n, dtype=dtype, device=device)
    moved = 2 * values.nbytes + many.nbytes
    yield "decompress, values", moved, lambda: ops.decompress(values, many, None, [n * n])
    yield "compress, values", moved, lambda: ops.compress(values, many, None, [n * n])


def symmetric_calls(dtype: torch.dtype, device: str) -> Iterator[KernelCall]:
    scale = SCALES[device]
    for size, order, rows in ((scale.side, 2, 1), (scale.cube, 3, 1), (8, 4, scale.rows), (3, 2, 16 * scale.rows)):
        packed = torch.ones(rows, comb(size + order - 1, order), dtype=dtype, device=device)
        full = torch.ones(rows, size**order, dtype=dtype, device=device)
        for op, argument in ((ops.expand_symmetric, packed), (ops.fold_symmetric, full)):
            yield (
                f"{op.__name__}, {rows} x {size}^{order}",
                packed.nbytes + full.nbytes,
                lambda op=op, argument=argument, size=size, order=order: op(argument, size, order),
            )


def copied_per_second(device: str) -> float:
    """Bytes a second that torch's own copy reads and writes: what a kernel can hope for."""
    source = torch.empty(SCALES[device].copied_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2e3 * source.nbytes / median_ms(lambda: target.copy_(source), 2.0, device)


def kernel_rows(seconds: float, device: str) -> list[tuple[str, ...]]:
    """One row a call; a kernel that fails is named, and the others go on."""
    best, rows = copied_per_second(device), []
    for calls in (dense_calls, entry_calls, symmetric_calls):
        for dtype in DTYPES:
            try:
                for name, moved, call in calls(dtype, device):
                    ms = median_ms(call, seconds, device)
                    label = f"{name}, {str(dtype).removeprefix('torch.')}"
                    rows.append((label, f"{ms:.3f}", f"{moved / ms / 1e6:.0f}", f"{1e3 * moved / ms / best:.2f}"))
            except Exception as error:
                rows.append((f"{calls.__name__}, {dtype}", type(error).__name__, str(error).split("\n")[0], ""))
    return [(f"torch's copy of {SCALES[device].copied_bytes >> 20} MiB", "", f"{best / 1e9:.0f}", "1.00"), *rows]


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [header, ("---",) * len(header), *rows]]


def report(seconds: float, device: str) -> Iterator[str]:
    """Line by line, so that what is cut off has told what it had found."""
    yield from ("## Kernels", "", "Bytes that must move, a second, and as a share of what torch's own copy does.", "")
    yield from table(("kernel", "ms", "GB/s", "of the copy"), kernel_rows(seconds / 200, device))
    yield from (
        "",
        "## Jacobians",
        "",
        "Milliseconds, float32, forward pass included, without a graph of the result.",
        "",
    )
    yield from table(("problem", *PEERS), [])
    for problem in PROBLEMS:
        cells = compare(problem, seconds / 2 / len(PROBLEMS), device)
        yield f"| {' | '.join([problem.name, *cells.values()])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all calls, warm-up apart (default 60)")
    parser.add_argument("--device", choices=SCALES, default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not (torch.cuda.is_available() and highgrad_ext.cuda_built):
        print("skipped: no CUDA device, or a build without CUDA")
        return
    for line in report(options.seconds, options.device):
        print(line, flush=True)


if __name__ == "__main__":
    main()
