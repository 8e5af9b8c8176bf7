"""The kernels' text as plain C++ under g++'s sanitizers, with the calls of the table."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toolchain
import torch
from kernel_table import TABLE, Row
from launching import ELEMENT_TYPES, Argument, Call, HugeOutput, Input, Output, Stream, Struct, as_bytes

pytestmark = pytest.mark.skipif(
    toolchain.NVCC is None or shutil.which("g++") is None, reason="no g++, or no CUDA toolkit for its headers"
)

# Calls, evenly picked: threads are slow there.
MOST_RACES = 40

SANITIZERS = {"address-undefined": ("address", "undefined"), "thread": ("thread",)}


def run_in_worker(library: Path, calls: list[tuple[str, list[Any]]], sanitizers: Sequence[str]) -> list[list[bytes]]:
    """Raises :class:`AssertionError` with the sanitizer's report."""
    runtime = subprocess.run(
        ["g++", f"-print-file-name=lib{sanitizers[0][0]}san.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Python's own leaks are not the question, and its allocator would hide what lies next to a small block.
    environ = os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    environ |= {"TSAN_OPTIONS": "exitcode=66:halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    worker = Path(__file__).with_name("shim_worker.py")
    done = subprocess.run(
        [sys.executable, "-S", worker], input=pickle.dumps((str(library), calls)), env=environ, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[:3000]
    results: list[list[bytes]] = pickle.loads(done.stdout)
    return results


def as_message(argument: Argument | None) -> tuple[Any, ...]:
    if isinstance(argument, Input):
        return "bytes", as_bytes(argument.tensor).tobytes(), argument.skew * argument.tensor.element_size()
    if isinstance(argument, Output):
        size = argument.expected.element_size()
        if argument.initial is not None:
            return "inout", as_bytes(argument.initial).tobytes(), argument.skew * size
        return "out", argument.expected.numel() * size, argument.skew * size
    if isinstance(argument, Struct):
        return "fields", [as_message(part) for part in argument.fields]
    if argument is None or isinstance(argument, Stream):
        return "int64", 0
    if isinstance(argument, torch.dtype):
        return "int32", ELEMENT_TYPES[argument]
    if isinstance(argument, int):
        return "int64", argument
    return "struct", bytes(argument)


def run_calls(row: Row, calls: list[Call], name: str) -> None:
    library = toolchain.shim_library(SANITIZERS[name])
    symbol = toolchain.symbol(library, row.launcher)
    messages = [(symbol, [as_message(argument) for argument in call.arguments]) for call in calls]
    for call, results in zip(calls, run_in_worker(library, messages, SANITIZERS[name]), strict=True):
        for got, output in zip(results, call.outputs(), strict=True):
            assert output.holds(np.frombuffer(got, np.uint8)), call.label


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.launcher)
def test_no_bad_address_and_no_undefined_behaviour(row: Row) -> None:
    run_calls(row, list(row.calls()), "address-undefined")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.launcher)
def test_no_race(row: Row) -> None:
    calls = [call for call in row.quick() if not isinstance(call.arguments[0], HugeOutput)]
    run_calls(row, calls[:: -(-len(calls) // MOST_RACES)], "thread")


# ---- Planted faults: what a sanitizer would have to say, it says

FAULTS = {
    "out of bounds": ("address-undefined", "data[threadIdx.x + 1] = 0;", "heap-buffer-overflow"),
    "shared, out of bounds": ("address-undefined", "tile[threadIdx.x + 1] = 0;", "out of bounds"),
    "overflow": (
        "address-undefined",
        "data[0] = 2147483647 + static_cast<int>(blockDim.x);",
        "signed integer overflow",
    ),
    "misaligned": (
        "address-undefined",
        "*reinterpret_cast<int*>(reinterpret_cast<char*>(data) + 1) = 0;",
        "misaligned address",
    ),
    "race": ("thread", "data[0] = threadIdx.x;", "data race"),
    "missing barrier": ("thread", "tile[threadIdx.x] = 1; data[threadIdx.x] = tile[31 - threadIdx.x];", "data race"),
    "none": ("thread", "tile[threadIdx.x] = 1; __syncthreads(); data[threadIdx.x] = tile[31 - threadIdx.x];", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault(fault: str, tmp_path: Path) -> None:
    name, body, message = FAULTS[fault]
    sources = {
        "kernel.cu": f"__global__ void kernel(int* data) {{ __shared__ int tile[32]; {body} }}"
        "\nvoid planted(int* data) { kernel<<<2, 32, 0, 0>>>(data); }"
    }
    library = toolchain.compile_shim(sources, SANITIZERS[name], tmp_path / "planted.so")
    calls = [(toolchain.symbol(library, "planted"), [("bytes", bytes(4 * 32), 0)])]
    if not message:
        run_in_worker(library, calls, SANITIZERS[name])
        return
    with pytest.raises(AssertionError, match=message):
        run_in_worker(library, calls, SANITIZERS[name])
