"""`make gpu-check`, rehearsed without a GPU: every step runs up to its first CUDA call, and the report says so."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    return load("gpu_check")


@pytest.fixture(scope="module")
def gpu_smoke() -> ModuleType:
    return load("gpu_smoke")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "gpu_check.py"
    return subprocess.run([sys.executable, script, *options], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: run the check itself")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("gpu-check: torch finds no GPU (")


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
    assert (cut.text.splitlines()[0], cut.failed) == ("|a|", True)
    late = gpu_check.run(gpu_check.Step("d", [*python, ""], 60), time.monotonic())
    assert (late.verdict, late.failed) == ("not run: no time was left", True)
    counts = "print('[1/3] a', '[2/3] b', *'xyz', sep='\\n'); raise SystemExit(1)"
    stopped = gpu_check.run(gpu_check.Step("d", [*python, counts], 60, tail=2), soon)
    assert stopped.text == "```\n[2/3] b\ny\nz\n```"
    absent = gpu_check.run(gpu_check.Step("e", ["no-such-program"], 60), soon)
    assert absent.verdict == "FAILED to start"


def test_what_only_skips_has_passed_nothing(gpu_check: ModuleType) -> None:
    assert gpu_check.judge("...\n3 passed, 2 skipped in 0.1s\n") == "passed"
    assert gpu_check.judge("...\n2 skipped, 7 deselected in 0.1s\n") == "nothing ran, all was skipped"
    assert gpu_check.judge("skipped: no CUDA device\n") == "nothing ran, all was skipped"


@pytest.mark.parametrize("found", [["9.0, H100, 79 GiB"], []])
def test_the_shares_fit_into_ten_minutes(gpu_check: ModuleType, found: list[str]) -> None:
    """The comparison with the CPU after the slowest build: a faster one leaves time for the others."""
    shares = [step.seconds for step in gpu_check.steps(found, True)]
    assert sum(shares[:2]) + 2 * gpu_check.GRACE <= gpu_check.SECONDS < 600


def test_what_is_cut_off_is_asked_first(gpu_check: ModuleType) -> None:
    """As pytest is, which lists then what has failed; what does not hear is killed."""
    heard = "import time\ntry: print(1, flush=True), time.sleep(60)\nexcept KeyboardInterrupt: print('so far')"
    step = gpu_check.Step("a", [sys.executable, "-c", heard], 2)
    assert gpu_check.run(step, time.monotonic() + 60).text == "```\n1\nso far\n```"
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(2, flush=True); time.sleep(60)"
    step = gpu_check.Step("a", [sys.executable, "-c", deaf], 2)
    assert gpu_check.run(step, time.monotonic() + 60).text == "```\n2\n```"


def test_only_this_folders_build_is_checked(gpu_check: ModuleType) -> None:
    inside = f"{gpu_check.ROOT}/highgrad_ext/_C.so"
    wrong = gpu_check.what_is_wrong_with
    assert wrong([f"{inside} True"], "", ["a GPU"]) == wrong([f"{inside} False"], "", []) == ""
    assert wrong([f"{inside} False"], "", ["a GPU"]) == f"a build without CUDA: {inside}"
    assert wrong(["/elsewhere/_C.so True"], "", []) == "another build would be checked: /elsewhere/_C.so"
    assert wrong(*gpu_check.ask("import no_such_module"), []).endswith("No module named 'no_such_module'")
    assert wrong(*gpu_check.ask(gpu_check.MODULE_QUESTION), []) == ""


def test_an_answer_that_does_not_come(gpu_check: ModuleType) -> None:
    assert gpu_check.ask("import time; time.sleep(60)", seconds=1) == ([], "no answer in 1 s")


# ---- Comparing with the CPU


def fails() -> None:
    raise AssertionError("another result")


def checks(*calls: Callable[[], None]) -> list[tuple[str, str, Callable[[], None]]]:
    """Two in each part."""
    return [(f"part {index // 2}", f"check {index}", call) for index, call in enumerate(calls)]


def test_what_differs_is_counted(gpu_smoke: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> None:
        raise gpu_smoke.NotOnThisDevice("no")

    assert gpu_smoke.run_checks(checks(int, int, int), 0, "cpu", 60)
    assert not gpu_smoke.run_checks(checks(int, fails, absent), 0, "cpu", 60)
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["| part 0 | 2 | 0 | 0 |", "| part 1 | 1 | 0 | 0 |"]
    assert told[2:6] == ["| part 0 | 1 | 1 | 0 |", "| part 1 | 0 | 0 | 1 |", "", "```"]
    assert told[6] == "part 0, check 1:"


def test_others_go_on_where_one_hangs(
    gpu_smoke: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = []
    monkeypatch.setattr(gpu_smoke, "go_on_anew", went_on.append)
    gpu_smoke.run_checks(checks(int, lambda: time.sleep(1.0)), 0, "cpu", 0.2)
    assert went_on == [2]
    assert capsys.readouterr().out.startswith("| part 0, waited 0 s in check 1 | 1 | 0 | 0 |\n")


def test_others_go_on_where_the_device_is_lost(
    gpu_smoke: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew(first: int) -> None:
        raise SystemExit(first)

    monkeypatch.setattr(gpu_smoke, "go_on_anew", anew)
    monkeypatch.setattr(gpu_smoke, "device_is_lost", lambda device: True)
    with pytest.raises(SystemExit, match="1"):
        gpu_smoke.run_checks(checks(fails, int, int), 0, "cuda", 60)
    assert capsys.readouterr().out.startswith(
        "| part 0, the device was lost in check 0 | 0 | 1 | 0 |\n\n```\npart 0, c"
    )
    waiting = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in waiting)  # one that goes on would replace this process later


def test_the_last_checks_in_a_new_process() -> None:
    """What came before was no success, so neither is the whole."""
    smoke = [sys.executable, ROOT / "tools" / "gpu_smoke.py", "--device", "cpu", "--kernels"]
    done = subprocess.run([*smoke, "--from=700"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert done.returncode == 1
    assert re.fullmatch(r"(\| \w+ \| \d+ \| 0 \| 0 \|\n)+", done.stdout)


def test_without_pytest(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    assert not any("pytest" in step.command for step in gpu_check.steps([], True))
    assert any("pytest" in lack for lack in gpu_check.missing([]))


def test_it_builds_for_the_gpus_that_are_there(gpu_check: ModuleType) -> None:
    build, *_ = gpu_check.steps(["9.0, H100, 79 GiB", "8.6, A10, 23 GiB", "9.0, H100, 79 GiB"], True)
    assert build.environ["TORCH_CUDA_ARCH_LIST"] == "8.6;9.0"
    assert "Build" not in [step.title for step in gpu_check.steps([], False)]
