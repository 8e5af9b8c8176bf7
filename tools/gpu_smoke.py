"""Kernels and functions on a GPU against the CPU, where there may be nothing but torch and numpy: no test runner.

Prints a Markdown table of what was compared, and exits with 1 where something differs. ``--kernels`` leaves the
functions out, for compute-sanitizer; ``--device cpu`` rehearses.
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "ptx")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_cases import CASES, NotOnThisDevice, leaf, record  # noqa: E402
from kernel_table import TABLE  # noqa: E402
from launching import Call, Output, as_bytes, same_bits  # noqa: E402
from problems import PROBLEMS  # noqa: E402
from torch.testing import assert_close  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

import highgrad_ext  # noqa: E402
from highgrad_ext import full_jacobian  # noqa: E402

# What is compared with what, by the row of the table that it counts in.
Check = tuple[str, str, Callable[[], None]]


def compare_call(call: Call, device: str) -> None:
    """To the bit, as the interpreter does."""
    assert call.op is not None
    (expected,) = [argument.expected for argument in call.arguments if isinstance(argument, Output)]
    if not same_bits(np.asarray(as_bytes(call.op(device).cpu())), expected):
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


def compare_problem(name: str, chunk_size: int | None, device: str) -> None:
    (problem,) = [problem for problem in PROBLEMS if problem.name == name]
    jacobian = full_jacobian(*record(problem, device), create_graph=False, chunk_size=chunk_size)
    assert jacobian.device.type == device
    assert_close(jacobian.cpu(), full_jacobian(*record(problem, "cpu"), create_graph=False))


def function_checks(device: str) -> Iterator[Check]:
    for case in CASES:
        yield "functions and options", case, lambda case=case: compare_case(case, device)
    for problem in PROBLEMS:
        for chunk_size in (None, 1):
            yield (
                "Jacobians of hard graphs",
                f"{problem.name}, chunk_size={chunk_size}",
                lambda name=problem.name, chunk_size=chunk_size: compare_problem(name, chunk_size, device),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--kernels", action="store_true", help="only the kernels")
    options = parser.parse_args()
    if options.device == "cuda" and not (torch.cuda.is_available() and highgrad_ext.cuda_built):
        print("skipped: no CUDA device, or a build without CUDA")
        return
    warnings.simplefilter("ignore")
    checks = [*kernel_checks(options.device), *([] if options.kernels else function_checks(options.device))]
    same, different, absent = Counter[str](), Counter[str](), Counter[str]()
    reports = []
    for part, label, check in checks:
        try:
            check()
            same[part] += 1
        except NotOnThisDevice:
            absent[part] += 1
        except Exception:
            different[part] += 1
            reports.append(f"{part}, {label}:\n{traceback.format_exc(limit=-1)}")
    print("| compared with the CPU | same | different | not on this device |\n|---|---|---|---|")
    for part in dict.fromkeys(part for part, _, _ in checks):
        print(f"| {part} | {same[part]} | {different[part]} | {absent[part]} |")
    if reports:
        print("\n```\n" + "\n".join(reports[:10]) + "\n```")
    raise SystemExit(bool(reports))


if __name__ == "__main__":
    main()
