"""`make gpu-check`, rehearsed without a GPU: every step runs up to its first CUDA call, and the report says so."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(*options: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "gpu_check.py"
    return subprocess.run([sys.executable, script, *options], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: run the check itself")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("gpu-check: torch finds no GPU.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: run the check itself")
def test_rehearsal(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    done = run("--rehearse", "--no-build", "--report", str(report))
    assert done.returncode == 0, done.stdout + report.read_text()
    text = report.read_text()
    assert "* missing: a GPU" in text
    assert "| Kernels and functions against the CPU | passed |" in text
    assert "| Benchmarks | passed |" in text
    assert "| Streams, devices and graphs, by pytest | passed |" in text  # some of it is about the build
    assert "| All that takes a device, by pytest | nothing ran, all was skipped |" in text
    assert re.search(r"\| decompress \| [1-9]\d* \| 0 \| 0 \|", text)
    assert re.search(r"\| fold_symmetric, .* \| [\d.]+ \| \d+ \| [\d.]+ \|", text)
    assert "Error" not in text


def test_a_step_that_fails_or_takes_too_long(gpu_check: ModuleType) -> None:
    soon = time.monotonic() + 60
    python = [sys.executable, "-c"]
    passed = gpu_check.run(gpu_check.Step("a", [*python, "print('# hi')"], 60, is_report=True), soon)
    assert (passed.verdict, passed.text, passed.failed) == ("passed", "# hi\n", False)
    failed = gpu_check.run(gpu_check.Step("b", [*python, "print('why'); raise SystemExit(3)"], 60), soon)
    assert (failed.verdict, failed.text, failed.failed) == ("FAILED, exit status 3", "```\nwhy\n```", True)
    slow = gpu_check.run(gpu_check.Step("c", [*python, "print('x', flush=True); import time; time.sleep(60)"], 1), soon)
    assert slow.verdict == "FAILED, cut off after 1 s"
    report = "import time; print('|a|', flush=True); time.sleep(60)"
    cut = gpu_check.run(gpu_check.Step("c", [*python, report], 1, is_report=True), soon)
    assert (cut.text, cut.failed) == ("|a|\n", True)
    late = gpu_check.run(gpu_check.Step("d", [*python, ""], 60), time.monotonic())
    assert (late.verdict, late.failed) == ("not run: no time was left", True)
    absent = gpu_check.run(gpu_check.Step("e", ["no-such-program"], 60), soon)
    assert absent.verdict == "FAILED to start"


def test_what_only_skips_has_passed_nothing(gpu_check: ModuleType) -> None:
    assert gpu_check.judge("...\n3 passed, 2 skipped in 0.1s\n") == "passed"
    assert gpu_check.judge("...\n2 skipped, 7 deselected in 0.1s\n") == "nothing ran, all was skipped"
    assert gpu_check.judge("skipped: no CUDA device\n") == "nothing ran, all was skipped"


@pytest.mark.parametrize("found", [["9.0, H100, 79 GiB"], []])
def test_the_shares_fit_into_ten_minutes(gpu_check: ModuleType, found: list[str]) -> None:
    assert sum(step.seconds for step in gpu_check.steps(found, True)) <= gpu_check.SECONDS < 600


def test_without_pytest(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    assert not any("pytest" in step.command for step in gpu_check.steps([], True))
    assert any("pytest" in lack for lack in gpu_check.missing([]))


def test_it_builds_for_the_gpus_that_are_there(gpu_check: ModuleType) -> None:
    build, *_ = gpu_check.steps(["9.0, H100, 79 GiB", "8.6, A10, 23 GiB", "9.0, H100, 79 GiB"], True)
    assert build.environ["TORCH_CUDA_ARCH_LIST"] == "8.6;9.0"
    assert "Build" not in [step.title for step in gpu_check.steps([], False)]
