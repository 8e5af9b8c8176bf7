"""Everything that only a GPU can tell, in one Markdown report: ``make gpu-check`` on a machine that has one.

Needs torch (2.11 to 2.14, CUDA build), nvcc, ninja and setuptools, no network, and at most ten minutes. Builds for the
GPUs that are there, runs the tests, the kernel tests under compute-sanitizer where it is installed, and the benchmarks.
``--rehearse`` does all of it up to the first CUDA call, on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 590
KERNEL_TESTS = "tests/ptx/test_cuda_device.py"
DEVICE_QUESTION = """
import torch
for i in range(torch.cuda.device_count()):
    p = torch.cuda.get_device_properties(i)
    print(f"{p.major}.{p.minor}", p.name, f"{p.total_memory >> 30} GiB", sep=", ")
"""


@dataclass
class Step:
    """A command, the seconds it may take, and what of its output is worth reporting."""

    title: str
    command: list[str]
    seconds: int
    tail: int = 25
    environ: dict[str, str] = field(default_factory=dict)
    is_report: bool = False  # its output is Markdown


@dataclass(frozen=True)
class Outcome:
    title: str
    verdict: str
    seconds: float
    text: str
    failed: bool


def run(step: Step, deadline: float) -> Outcome:
    left = deadline - time.monotonic()
    allowed = min(step.seconds, left)
    if left < 5:
        return Outcome(step.title, "not run: no time was left", 0.0, "", failed=True)
    start = time.monotonic()
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=os.environ | step.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=allowed,
            text=True,
            errors="replace",
        )
        output, verdict, failed = done.stdout, "passed", done.returncode != 0
        if failed:
            verdict = f"FAILED, exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        verdict, failed = f"FAILED, cut off after {allowed:.0f} s", True
    except OSError as error:
        output, verdict, failed = str(error), "FAILED to start", True
    seconds = time.monotonic() - start
    text = output if step.is_report and not failed else quote("\n".join(output.splitlines()[-step.tail :]))
    return Outcome(step.title, verdict, seconds, text, failed)


def quote(text: str) -> str:
    return f"```\n{text}\n```"


def devices() -> list[str]:
    """Compute capability, name and memory of each GPU, asked in a process of its own."""
    done = subprocess.run([sys.executable, "-c", DEVICE_QUESTION], capture_output=True, text=True)
    return done.stdout.splitlines()


def compute_sanitizer() -> str | None:
    nvcc = shutil.which("nvcc")
    beside = Path(nvcc).resolve().parent if nvcc else Path()
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(beside))


def steps(found: list[str], build: bool) -> Iterator[Step]:
    """In the order of what matters most, should time run out."""
    python = sys.executable
    here = {"PYTHONPATH": str(ROOT)}
    capabilities = ";".join(sorted({device.split(",")[0] for device in found}))
    if build:
        # An empty list of architectures, in a rehearsal, stands for all of them.
        environ = {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capabilities}
        yield Step("Build", [python, "setup.py", "build_ext", "--inplace"], 400, 15, environ)
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest"):
        yield Step(
            "Kernels and host code on the GPU", [*pytest, KERNEL_TESTS, "tests/test_cuda_build.py"], 120, 30, here
        )
        every = [*pytest, "--continue-on-collection-errors", "-m", "gpu", "tests"]
        yield Step("Ops and functions on the GPU", every, 150, 30, here)
        if tool := compute_sanitizer():
            for name in ("memcheck", "racecheck"):
                command = [tool, "--tool", name, "--error-exitcode", "9", *pytest, KERNEL_TESTS, "-k", "cpu_op"]
                # Its caching allocator would hide what lies next to a tensor.
                environ = here | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
                yield Step(f"compute-sanitizer, {name}", command, 75, 30, environ)
    yield Step("Benchmarks", [python, "benchmarks/gpu.py", "--seconds", "60"], 140, 30, here, is_report=True)


def missing(found: list[str]) -> list[str]:
    """What this machine lacks for parts of the check."""
    lacks = [] if found else ["a GPU"]
    lacks += [tool for tool in ("nvcc", "ninja") if not shutil.which(tool)]
    lacks += [
        f"{module} (tests are left out)" for module in ("pytest", "hypothesis") if not importlib.util.find_spec(module)
    ]
    return lacks + ([] if compute_sanitizer() else ["compute-sanitizer (left out)"])


def markdown(found: list[str], outcomes: list[Outcome]) -> str:
    import torch

    lines = ["# highgrad_ext on a GPU", "", f"{time.strftime('%Y-%m-%d %H:%M')}, {platform.platform()}", ""]
    lines += [f"* torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"]
    lines += [f"* GPU {number}: {device}" for number, device in enumerate(found)]
    lines += [f"* missing: {lack}" for lack in missing(found)]
    lines += ["", "| step | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {one.title} | {one.verdict} | {one.seconds:.0f} |" for one in outcomes]
    for one in outcomes:
        lines += ["", f"## {one.title}", "", one.text]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=ROOT / "gpu-report.md", metavar="FILE")
    parser.add_argument("--rehearse", action="store_true", help="go on without a GPU")
    parser.add_argument("--no-build", action="store_true", help="check what is built already")
    options = parser.parse_args()
    deadline = time.monotonic() + SECONDS
    found = devices()
    if not found and not options.rehearse:
        raise SystemExit("gpu-check: torch finds no GPU. --rehearse goes as far as it can without one.")
    outcomes = []
    for step in steps(found, not options.no_build):
        print(f"{step.title} ...", flush=True)
        outcomes.append(run(step, deadline))
        print(f"  {outcomes[-1].verdict}, {outcomes[-1].seconds:.0f} s", flush=True)
        options.report.write_text(markdown(found, outcomes))
        if step.title == "Build" and outcomes[-1].failed:
            break
    print(f"report: {options.report}")
    raise SystemExit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main()
