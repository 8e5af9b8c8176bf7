"""Every function on an accelerator whose memory is the host's: values, waits, and streams."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
import torch
from accelerator import HERE, run_script
from gpu_cases import ACTIVATIONS, CASES
from problems import PROBLEMS
from torch.utils.cpp_extension import include_paths, library_paths

CXX = os.environ.get("CXX", "c++")
FORWARD, CALL = 7, 3  # streams, of host_accelerator.py

pytestmark = pytest.mark.skipif(shutil.which(CXX.split()[-1]) is None, reason="no C++ compiler")

# What waits for the device, see docs/cuda.md: for a number that is read, or for a tensor copied from or to the CPU.
READS = {
    "forward mode",
    "forward mode of many rows",
    "jets of matrices",
    "laplacian of what is picked",
    "masked_scatter, take_along_dim",
    "reductions",
    "verified",
    "verified samples",
}
# By expand_symmetric, for which CUDA has a kernel, and this device none.
WITHOUT_KERNEL = {
    "jets",
    "jets of a convolution",
    "jets of a normalization",
    "jets of attention",
    "jets of layers",
    "jets of losses",
    "jets of matrices",
    "jets of quotients",
    "jets of several variables",
    "jets of vectors",
    "nested",
    "nested, samples, order 4",
    "recorded jets of layers",
    "second derivatives",
}
COPIES = {"kept plan", "saved tensors on the CPU"} | WITHOUT_KERNEL


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    library = tmp_path_factory.mktemp("host") / "libhost.so"
    includes = [f"-isystem{path}" for path in include_paths()]
    libraries = [f"-L{path}" for path in library_paths()]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    command = [
        *CXX.split(),
        "-std=c++20",
        "-O0",
        "-fPIC",
        "-shared",
        abi,
        *includes,
        str(HERE / "host_accelerator.cpp"),
    ]
    subprocess.run([*command, "-o", str(library), *libraries, "-lc10", "-ltorch_cpu"], check=True)
    return run_script("host_accelerator.py", str(library))


def values_are_those_of_the_cpu(outcome: dict[str, Any]) -> None:
    if "unrecorded" in outcome:
        pytest.skip(outcome["unrecorded"])
    assert "error" not in outcome, outcome["error"]


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str, found: dict[str, dict[str, Any]]) -> None:
    values_are_those_of_the_cpu(found["cases"][case])


@pytest.mark.parametrize("problem", [problem.name for problem in PROBLEMS])
def test_problems(problem: str, found: dict[str, dict[str, Any]]) -> None:
    values_are_those_of_the_cpu(found["problems"][problem])


def test_waits(found: dict[str, dict[str, Any]]) -> None:
    outcomes = {**found["cases"], **found["problems"]}
    for how, known in (("read", READS), ("copy", COPIES)):
        assert {case for case, outcome in outcomes.items() if how in outcome.get("waits", {})} == known


def test_jets_of_functions_are_one_kernel(found: dict[str, dict[str, Any]]) -> None:
    """Forward and backward, of activations with their recurrences and of those that torch's operations expand."""
    for case in ("directional", "laplacian of layers", "biharmonic of layers", "diagonal, samples"):
        assert found["cases"][case]["jets"] > 0, case
    # Three sweeps, of two functions each activation.
    assert found["cases"]["activations trained through"]["jets"] >= 2 * 3 * 2 * len(ACTIVATIONS)


def test_steps_start_fewer_kernels_than_by_hand(found: dict[str, dict[str, Any]]) -> None:
    assert found["kernels"]["heat"] < 0.75 * found["kernels"]["heat by hand"]


def test_streams(found: dict[str, dict[str, Any]]) -> None:
    """A stream that a graph was not recorded on waits for that, before and after."""
    for case, waits in found["streams"].items():
        assert waits[0] == [CALL, FORWARD], case
        assert waits[-1] == [FORWARD, CALL], case
