"""Sparse tensors on an accelerator that is not there: no tensor of another device is met, and each wait is known.

test_host_accelerator.py has the rest, with values; torch has no sparse tensors of its device.
"""

from __future__ import annotations

from typing import Any

import pytest
from accelerator import run_script
from fake_accelerator import SPARSE

# See docs/cuda.md.
WAITS = {
    # The nonzeros of a matrix whose structure nobody knows: of tensors without data, none is probed.
    **{case: {"read": 1} for case in ("stencil", "CSR", "COO")},
    # torch checks the indices of any.
    "sparse by a kept plan": {"copy": 1, "read": 1},
    # Tensors without values are subclasses, which jets do not know: the places of partial derivatives that differ.
    "jets of interpolation": {"copy": 3},
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    return run_script("fake_accelerator.py")


def test_waits(found: dict[str, dict[str, Any]]) -> None:
    assert {case: outcome["waits"] for case, outcome in found.items() if outcome.get("waits")} == WAITS


@pytest.mark.parametrize("case", SPARSE)
def test_devices(case: str, found: dict[str, dict[str, Any]]) -> None:
    outcome = found[case]
    assert "error" not in outcome, outcome["error"]
    assert outcome.get("devices", ["elsewhere:0"]) == ["elsewhere:0"]
