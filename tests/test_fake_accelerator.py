"""Every function on an accelerator that is not there: no tensor of another device is met, and each wait is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_cases import CASES
from problems import PROBLEMS

HERE = Path(__file__).resolve().parent

# See docs/cuda.md. All others wait for nothing.
WAITS = {
    # The nonzeros of a matrix whose structure nobody knows: of tensors without data, none is probed.
    **{case: {"read": 1} for case in ("stencil", "CSR", "COO")},
    # Whether samples mix, where the graph does not tell: one number an output.
    "laplacian of what is picked": {"read": 1},
    # The places of partial derivatives that differ: one table an order.
    **{
        case: {"copy": 3}
        for case in ("jets of quotients", "jets of layers", "recorded jets of layers", "jets", "nested")
    },
    "jets of several variables": {"copy": 4},
    "kept plan": {"copy": 1},
    "arrow": {"copy": 1},
    # Whether the product with a random vector is that of one backward.
    **{case: {"read": 1} for case in ("verified", "verified samples")},
    "saved tensors on the CPU": {"copy": 4},
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(HERE / "fake_accelerator.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return outcomes


def test_waits(found: dict[str, dict[str, Any]]) -> None:
    assert {case: outcome["waits"] for case, outcome in found.items() if outcome.get("waits")} == WAITS


@pytest.mark.parametrize("case", [*CASES, *(problem.name for problem in PROBLEMS)])
def test_devices(case: str, found: dict[str, dict[str, Any]]) -> None:
    outcome = found[case]
    if "unrecorded" in outcome:
        pytest.skip(outcome["unrecorded"])
    assert "error" not in outcome, outcome["error"]
    assert outcome.get("devices", ["elsewhere:0"]) == ["elsewhere:0"]
