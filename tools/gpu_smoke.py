"""Kernels and functions on a GPU against the CPU, where there may be nothing but torch and numpy: no test runner.

Prints a Markdown table of what was compared, and exits with 1 where something differs. What hangs or loses the device
costs its own check alone. ``--kernels`` leaves the
functions out, for compute-sanitizer; ``--device cpu`` rehearses.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "ptx")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_cases import CASES, NotOnThisDevice, compare_with_loop, leaf  # noqa: E402
from kernel_table import TABLE  # noqa: E402
from launching import Call, as_bytes  # noqa: E402
from problems import PROBLEMS  # noqa: E402
from torch.testing import assert_close  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

import highgrad_ext  # noqa: E402

# What is compared with what, by the row of the table that it counts in.
Check = tuple[str, str, Callable[[], None]]


def compare_call(call: Call, device: str) -> None:
    """As the interpreter does."""
    for got, output in zip(call.results(device), call.outputs(), strict=True):
        if not output.holds(np.asarray(as_bytes(got.cpu()))):
            raise AssertionError("another result than the CPU's")


def kernel_checks(device: str) -> Iterator[Check]:
    for row in TABLE:
        for call in row.calls():
            # Places outside of a tensor raise on the CPU.
            if device == "cpu" and call.label.endswith("outside"):
                continue
            yield row.launcher.removeprefix("launch_"), call.label, lambda call=call: compare_call(call, device)


def compare_case(case: str, device: str) -> None:
    results, expected = (tree_leaves(CASES[case](leaf(where).view(4, 3))) for where in (device, "cpu"))
    assert {result.device.type for result in results} == {device}
    assert_close([result.cpu() for result in results], expected)


def function_checks(device: str) -> Iterator[Check]:
    for case in CASES:
        yield "functions and options", case, lambda case=case: compare_case(case, device)
    for problem in PROBLEMS:
        for chunk_size in (None, 1):
            yield (
                "Jacobians of hard graphs",
                f"{problem.name}, chunk_size={chunk_size}",
                lambda problem=problem, chunk_size=chunk_size: compare_with_loop(problem, device, chunk_size),
            )


class Table:
    """A row a part, printed when the part is over, so that what is cut off has told what it had found."""

    def __init__(self) -> None:
        self.counts = {"same": 0, "different": 0, "not on this device": 0}
        self.reports: list[str] = []
        self.part, self.label = "", ""

    def start(self, part: str, label: str) -> None:
        if self.part and part != self.part:
            self.end_part()
        self.part, self.label = part, label

    def count(self, how: str) -> None:
        self.counts[how] += 1

    def differs(self, report: str) -> None:
        self.count("different")
        self.reports.append(f"{self.part}, {self.label}:\n{report}")

    def end_part(self, note: str = "") -> None:
        print(f"| {self.part}{note} | {' | '.join(str(count) for count in self.counts.values())} |", flush=True)
        self.counts = dict.fromkeys(self.counts, 0)

    def end(self) -> None:
        if self.reports:
            print("\n```\n" + "\n".join(self.reports[:10]) + "\n```", flush=True)


def device_is_lost(device: str) -> bool:
    """After an error of some kinds, a process can do nothing on its device any more."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def go_on_anew(first: int) -> NoReturn:
    """The checks from `first` on, in a process that knows nothing of this one."""
    options = [word for word in sys.argv[1:] if not word.startswith("--from=")]
    os.execv(sys.executable, [sys.executable, __file__, *options, f"--from={first}"])


def run_checks(checks: list[Check], first: int, device: str, patience: float) -> bool:
    """Whether all from `first` on are the same. One that takes longer than `patience` seconds is left, as is a device
    that is lost, and the others go on in another process."""
    table = Table()

    def leave(index: int, why: str) -> NoReturn:
        table.end_part(f", {why} in {table.label}")
        table.end()
        go_on_anew(index + 1)

    for index, (part, label, check) in enumerate(checks[first:], first):
        table.start(part, label)
        watch = threading.Timer(patience, leave, (index, f"waited {patience:.0f} s"))
        watch.daemon = True
        watch.start()
        try:
            check()
            table.count("same")
        except NotOnThisDevice:
            table.count("not on this device")
        except Exception:
            table.differs(traceback.format_exc(limit=-1))
            if device_is_lost(device):
                leave(index, "the device was lost")
        finally:
            watch.cancel()
    table.end_part()
    table.end()
    return not table.reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--kernels", action="store_true", help="only the kernels")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for one check (default 30)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first check, of those that are numbered")
    options = parser.parse_args()
    if options.device == "cuda" and not (torch.cuda.is_available() and highgrad_ext.cuda_built):
        print("skipped: no CUDA device, or a build without CUDA")
        return
    warnings.simplefilter("ignore")
    checks = [*kernel_checks(options.device), *([] if options.kernels else function_checks(options.device))]
    if options.first == 0:
        print("| compared with the CPU | same | different | not on this device |\n|---|---|---|---|", flush=True)
    same = options.first >= len(checks) or run_checks(checks, options.first, options.device, options.patience)
    # What came before this process was no success.
    raise SystemExit(not same or options.first > 0)


if __name__ == "__main__":
    main()
