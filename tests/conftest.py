"""What all tests share: devices, seeds, and a check that nothing was left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # torch's own keeps the stack of each call, for every kind of accelerator that may still come.
    torch.manual_seed = torch.default_generator.manual_seed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `device` runs on the CPU, and on a GPU where there is one."""
    if "device" in metafunc.fixturenames:
        no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        metafunc.parametrize("device", ["cpu", pytest.param("cuda", marks=[no_gpu, pytest.mark.gpu])])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_vmap_level_is_left() -> Iterator[None]:
    """No test may end inside a level of torch.vmap that it was not inside before."""
    before = torch._C._functorch.maybe_current_level()
    yield
    assert torch._C._functorch.maybe_current_level() == before


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many of torch's differentiable operators were compared."""
    outcomes = {
        outcome: sum(
            "test_op_db.py::test_op[" in report.nodeid and report.when == "call"
            for report in terminalreporter.stats.get(outcome, [])
        )
        for outcome in ("passed", "failed")
    }
    if any(outcomes.values()):
        terminalreporter.write_line(f"op_db: {outcomes['passed']} operators right, {outcomes['failed']} wrong")
