"""Everything that only a GPU can tell, in one Markdown report: ``make gpu-check`` on a machine that has one.

Needs torch (2.11 to 2.14, CUDA build), numpy, nvcc, ninja and setuptools, no network, and at most ten minutes. Builds
for the GPUs that are there, compares kernels and functions with the CPU, and measures; then, where pytest and
compute-sanitizer are installed, the tests and the kernels under its tools. A step that fails, or takes longer than its
share, does not stop the next; only where nothing was built, or another copy of the package would be checked, do all
stop. Objects are kept, so a build that was cut off goes on when called again. ``--rehearse`` does all of it on a
machine without a GPU: on the CPU what can be there, and the rest up to its first CUDA call.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 580  # all steps together
GRACE = 8  # of them to tell, when a step is cut off, what it has found
HOST_TESTS = ("tests/ptx/test_cuda_device.py", "tests/test_cuda_build.py")
DEVICE_QUESTION = """
import torch
assert torch.version.cuda, f"torch {torch.__version__} is a build without CUDA"
torch.cuda.init()
for i in range(torch.cuda.device_count()):
    p = torch.cuda.get_device_properties(i)
    print(f"{p.major}.{p.minor}", p.name, f"{p.total_memory >> 30} GiB", sep=", ")
"""
VERSIONS_QUESTION = "import torch; print(f'torch {torch.__version__}, CUDA {torch.version.cuda}')"
MODULE_QUESTION = "import highgrad_ext; print(highgrad_ext._C.__file__, highgrad_ext.cuda_built)"


@dataclass
class Step:
    """A command, the seconds it may take, and what of its output is worth reporting."""

    title: str
    command: list[str]
    seconds: int
    tail: int = 25
    environ: dict[str, str] = field(default_factory=dict)
    is_report: bool = False  # its output is Markdown, given whole


@dataclass(frozen=True)
class Outcome:
    title: str
    verdict: str
    seconds: float
    text: str
    failed: bool


def run(step: Step, deadline: float) -> Outcome:
    left = deadline - time.monotonic() - GRACE
    allowed = min(step.seconds, left)
    if left < 2:
        return Outcome(step.title, "not run: no time was left", 0.0, "", failed=True)
    start = time.monotonic()
    try:
        # A session of its own, so that what is cut off goes with all that it has started.
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | step.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
    except OSError as error:
        return Outcome(step.title, "FAILED to start", 0.0, quote(str(error)), failed=True)
    try:
        output, _ = process.communicate(timeout=allowed)
        failed = process.returncode != 0
        verdict = f"FAILED, exit status {process.returncode}" if failed else judge(output)
    except subprocess.TimeoutExpired:
        output = cut_off(process)
        verdict, failed = f"FAILED, cut off after {allowed:.0f} s", True
    seconds = time.monotonic() - start
    # A report that was cut off has told something, too.
    lines = output.splitlines()
    whole = step.is_report and (not failed or any(line.startswith("|") for line in lines))
    # How far ninja came, which what it says of an end would hide.
    counted = [line[:80] for line in lines[: -step.tail] if re.match(r"\[\d+/\d+\]", line)][-1:]
    text = output if whole else quote("\n".join([*counted, *lines[-step.tail :]]))
    return Outcome(step.title, verdict, seconds, text, failed)


def hear_interrupts() -> None:
    """As what is started from a terminal does: in the background of a shell, interrupts are ignored by all below."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cut_off(process: subprocess.Popen[str]) -> str:
    """What it has said. It is interrupted first, since pytest then lists the tests that have failed."""
    for number, seconds in ((signal.SIGINT, GRACE / 2), (signal.SIGKILL, GRACE / 2)):
        with contextlib.suppress(ProcessLookupError):  # all are gone
            os.killpg(process.pid, number)
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            continue
    return "it waits for the device, and cannot be ended"


def judge(output: str) -> str:
    """What a step that ended well has done: a run in which every test was skipped has passed nothing."""
    last = output.splitlines()[-1] if output else ""
    if output.startswith("skipped:") or (re.search(r"\d+ skipped", last) and not re.search(r"\d+ passed", last)):
        return "nothing ran, all was skipped"
    return "passed"


def quote(text: str) -> str:
    return f"```\n{text}\n```"


def ask(question: str, seconds: int = 120) -> tuple[list[str], str]:
    """Lines that Python answers in a process of its own, of this folder's package; or the last it says of why not."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", question]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [], f"no answer in {seconds} s"
    if done.returncode != 0:
        return [], next(iter(done.stderr.splitlines()[-1:]), f"exit status {done.returncode}")
    return done.stdout.splitlines(), ""


def what_is_wrong_with(module: list[str], error: str, found: list[str]) -> str:
    """Why the answer to MODULE_QUESTION means that nothing would be checked; empty if it does not."""
    if not module:
        return f"the package cannot be imported: {error}"
    path, _, cuda_built = module[-1].rpartition(" ")
    if not Path(path).resolve().is_relative_to(ROOT):
        return f"another build would be checked: {path}"
    if found and cuda_built != "True":
        return f"a build without CUDA: {path}"
    return ""


def find_toolkit() -> None:
    """Puts nvcc on PATH, where it is only at one of the usual places."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if not shutil.which("nvcc") and home and Path(home, "bin", "nvcc").is_file():
            os.environ["PATH"] = os.pathsep.join([str(Path(home, "bin")), os.environ["PATH"]])


def compute_sanitizer() -> str | None:
    nvcc = shutil.which("nvcc")
    beside = Path(nvcc).resolve().parent if nvcc else Path()
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(beside))


def steps(found: list[str], build: bool) -> Iterator[Step]:
    """In the order of what matters most, should time run out: a slow build takes it from the last. A rehearsal, where
    no device is found, takes the CPU."""
    python, device = sys.executable, "cuda" if found else "cpu"
    capabilities = ";".join(sorted({one.split(",")[0] for one in found})) or "9.0"
    # Tests ask for the architectures, too: what is built for one GPU lacks the others.
    here = {"PYTHONPATH": str(ROOT), "TORCH_CUDA_ARCH_LIST": capabilities}
    if build:
        environ = {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capabilities}
        # Nothing else says anything without it, so it may take most of the time.
        yield Step("Build", [python, "setup.py", "build_ext", "--inplace"], 430, 15, environ)
    smoke = [python, "tools/gpu_smoke.py", "--device", device]
    yield Step("Kernels and functions against the CPU", smoke, 110, 40, here, is_report=True)
    benchmark = [python, "benchmarks/gpu.py", "--device", device, "--seconds", "40" if found else "2"]
    yield Step("Benchmarks", benchmark, 100, 40, here, is_report=True)
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--tb=short"]
    if importlib.util.find_spec("pytest"):
        yield Step("Streams, devices and graphs, by pytest", [*pytest, *HOST_TESTS], 50, 30, here)
        workers = min(8, (os.cpu_count() or 1) // 2) if importlib.util.find_spec("xdist") else 0
        several = ["-n", str(workers)] if workers > 1 else []
        yield Step("All that takes a device, by pytest", [*pytest, *several, "-m", "gpu", "tests"], 150, 30, here)
    if tool := compute_sanitizer():
        for name, seconds in (("memcheck", 50), ("racecheck", 40)):
            command = [tool, "--tool", name, "--error-exitcode", "9", *smoke, "--kernels"]
            # torch's caching allocator would hide what lies next to a tensor.
            environ = here | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            yield Step(f"compute-sanitizer, {name}", command, seconds, 30, environ)


def missing(found: list[str]) -> list[str]:
    """What this machine lacks for parts of the check."""
    lacks = [] if found else ["a GPU"]
    lacks += [] if shutil.which("nvcc") else ["nvcc"]
    lacks += [] if shutil.which("ninja") or importlib.util.find_spec("ninja") else ["ninja"]
    lacks += [] if importlib.util.find_spec("setuptools") else ["setuptools: nothing can be built"]
    left_out = {
        "pytest": "the steps by pytest are left out; kernels and functions are compared without",
        "hypothesis": "tests that need it fail to be collected, and the others go on",
        "scipy": "so do those that need it",
        "expecttest": "tests by torch's opcheck fail",
    }
    lacks += [f"{name}: {what}" for name, what in left_out.items() if not importlib.util.find_spec(name)]
    return lacks + ([] if compute_sanitizer() else ["compute-sanitizer: its steps are left out"])


def markdown(found: list[str], versions: str, outcomes: list[Outcome]) -> str:
    lines = ["# highgrad_ext on a GPU", "", f"{time.strftime('%Y-%m-%d %H:%M')}, {platform.platform()}", ""]
    lines += [f"* {versions}, Python {platform.python_version()}, {os.cpu_count()} CPU cores"]
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
    find_toolkit()
    found, error = ask(DEVICE_QUESTION)
    if not found and not options.rehearse:
        raise SystemExit(f"gpu-check: torch finds no GPU ({error}). --rehearse goes as far as it can without one.")
    versions, error = ask(VERSIONS_QUESTION)
    outcomes: list[Outcome] = []

    def add(outcome: Outcome) -> None:
        print(f"  {outcome.verdict}, {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        options.report.write_text(markdown(found, "".join(versions) or error, outcomes))

    wrong: str | None = None
    for step in steps(found, not options.no_build):
        print(f"{step.title} ...", flush=True)
        if step.title != "Build" and wrong is None:
            wrong = what_is_wrong_with(*ask(MODULE_QUESTION), found)
        add(Outcome(step.title, f"not run: {wrong}", 0.0, "", failed=True) if wrong else run(step, deadline))
    # Where the machine goes with its files, its output is what is left.
    print(f"\n{options.report.read_text()}\nreport: {options.report}")
    raise SystemExit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main()
