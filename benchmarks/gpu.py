"""Times on a GPU: ``python benchmarks/gpu.py`` prints a Markdown report within ``--seconds``.

Each call is timed by CUDA events, after warm-up, with the second-level cache flushed before it, so that it reads its
inputs from memory. Jacobians are compared with torch.func; kernels with a plain copy of as many bytes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch

import highgrad_ext
from benchmarks.measure import check
from benchmarks.peers import ALL_TORCH, FROM_TAPE, HIGHGRAD, TorchOps
from benchmarks.problems import PROBLEMS, Problem

WARM_UP = 3
MOST_CALLS = 50
FLUSH_BYTES = 256 << 20  # more than any second-level cache holds
PEERS = (HIGHGRAD, FROM_TAPE, "func.jacrev", "func.jacfwd", "functional, vectorized")
ops = torch.ops.highgrad_ext


def median_ms(call: Callable[[], object], seconds: float) -> float:
    """The median of up to MOST_CALLS calls, or of as many as the seconds allow."""
    for _ in range(WARM_UP):
        call()
    flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = []
    end_of_time = time.monotonic() + seconds
    while not events or (len(events) < MOST_CALLS and time.monotonic() < end_of_time):
        flushed.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        events.append((start, end))
    return statistics.median(start.elapsed_time(end) for start, end in events)


# ---- Jacobians


def compare(problem: Problem, seconds: float) -> dict[str, str]:
    """Milliseconds of each peer, forward pass included, or why it has none."""
    oracle = ALL_TORCH["func.jacrev"](problem.build(TorchOps("cuda", torch.float64)), problem.order)()
    case = problem.build(TorchOps("cuda"))
    cells = {}
    for name in PEERS:
        try:
            call = ALL_TORCH[name](case, problem.order)
            check(call(), oracle)
            cells[name] = f"{median_ms(call, seconds / len(PEERS)):.3f}"
        except Exception as error:  # a peer's failure is its cell
            cells[name] = type(error).__name__
    return cells


# ---- Kernels


def kernel_calls() -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Name, bytes that must move, call."""
    n = 8192
    for dtype in (torch.half, torch.float32, torch.float64, torch.complex128):
        like = torch.empty(n, dtype=dtype, device="cuda")
        square = torch.empty(n, n, dtype=dtype, device="cuda").fill_(1)
        rows = torch.empty_like(square)
        yield f"seed_basis, {dtype}", square.nbytes, lambda like=like: ops.seed_basis(like, n, 0)
        for label, block in (
            ("contiguous", square),
            ("pitched", torch.empty(n, n + 8, dtype=dtype, device="cuda")[:, :n]),
            ("transposed", square.t()),
        ):
            name = f"assemble_rows_, {label}, {dtype}"
            yield name, 2 * square.nbytes, lambda rows=rows, block=block: ops.assemble_rows_(rows, block)


def copy_bandwidth() -> float:
    """Bytes a second of torch's own copy of one GiB: what a kernel can hope for."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2e3 * source.nbytes / median_ms(lambda: target.copy_(source), 2.0)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [header, ("---",) * len(header), *rows]]


def report(seconds: float) -> list[str]:
    share = seconds / (len(PROBLEMS) + 4)
    lines = ["## Jacobians", "", "Milliseconds, float32, forward pass included, without a graph of the result.", ""]
    problems = [(problem.name, compare(problem, share)) for problem in PROBLEMS]
    lines += table(("problem", *PEERS), [(name, *cells.values()) for name, cells in problems])
    best = copy_bandwidth()
    lines += ["", "## Kernels", "", f"A copy by torch moves {best / 1e9:.0f} GB/s; the ratio is to that.", ""]
    kernels = [(name, size, median_ms(call, 0.5)) for name, size, call in kernel_calls()]
    cells = [
        (name, f"{ms:.3f}", f"{size / ms / 1e6:.0f}", f"{1e3 * size / ms / best:.2f}") for name, size, ms in kernels
    ]
    return lines + table(("kernel", "ms", "GB/s", "ratio"), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all calls, warm-up apart (default 60)")
    options = parser.parse_args()
    if not torch.cuda.is_available() or not highgrad_ext.cuda_built:
        print("no CUDA device, or a build without CUDA: nothing to time")
        return
    print("\n".join(report(options.seconds)))


if __name__ == "__main__":
    main()
