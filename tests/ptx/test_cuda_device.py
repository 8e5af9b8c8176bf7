"""On a GPU: the calls of the table, and how the host code treats streams, devices, graphs and memory (docs/cuda.md)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gpu_cases import CASES, leaf
from kernel_table import TABLE, Row
from launching import as_bytes
from torch import Tensor
from torch.testing import assert_close

import highgrad_ext
from highgrad_ext import full_jacobian, nth_derivative

pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() and highgrad_ext.cuda_built), reason="no GPU")
ops = torch.ops.highgrad_ext


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.launcher)
def test_equal_to_the_cpu_op(row: Row) -> None:
    for call in row.calls():
        for got, output in zip(call.results("cuda"), call.outputs(), strict=True):
            assert output.holds(np.asarray(as_bytes(got.cpu()))), call.label


@pytest.mark.parametrize("dtype", [torch.half, torch.float32])
def test_sizes_past_two_to_the_31(dtype: torch.dtype) -> None:
    rows, columns = 3, 2**30 + 7
    if torch.cuda.mem_get_info()[0] < 3 * rows * columns * dtype.itemsize:
        pytest.skip("not enough memory")
    basis = ops.seed_basis(torch.empty(1, dtype=dtype, device="cuda").expand(columns), rows, columns - 2)
    assert basis.count_nonzero() == 2
    assert basis[0, columns - 2] == basis[1, columns - 1] == 1
    transposed = basis.view(columns, rows).t()
    copy = torch.empty(rows, columns, dtype=dtype, device="cuda")
    ops.assemble_rows_(copy, transposed)
    assert torch.equal(copy, transposed)


def model(device: str = "cuda") -> tuple[Tensor, Tensor]:
    """f and wrt."""
    wrt = torch.linspace(-1, 1, 6, device=device, requires_grad=True)
    weights = torch.linspace(-2, 2, 4 * 6, device=device).view(4, 6)
    return (weights @ wrt.sin()).tanh(), wrt


def test_work_follows_the_current_stream() -> None:
    """What the stream did before must be seen; on another stream the old values would be."""
    stream = torch.cuda.Stream()
    block, rows = torch.zeros(300, 500, device="cuda"), torch.zeros(500, 300, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        block.fill_(1)
        ops.assemble_rows_(rows, block.t())
        f, wrt = model()
        jacobian = full_jacobian(f, wrt)
    stream.synchronize()
    assert (rows == 1).all()
    assert_close(jacobian.cpu(), full_jacobian(*model("cpu")))


@pytest.fixture
def sync_debug_mode() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_reverse_mode_waits_for_nothing(create_graph: bool, chunk_size: int | None, sync_debug_mode: None) -> None:
    f, wrt = model()
    options: dict[str, Any] = {"create_graph": create_graph, "chunk_size": chunk_size, "mode": "reverse"}
    nth_derivative(f, wrt, 2, **options)  # constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    full_jacobian(f, wrt, **options)
    nth_derivative(f, wrt, 2, **options)


# For a number, for what probes hit, or, where a result is sparse, for torch's look at its indices.
WAITING = {
    "forward mode",
    "forward mode of many rows",
    "jets of matrices",
    "kept plan",
    "laplacian of what is picked",
    "sparse by a kept plan",
    "stencil",
    "verified",
    "verified samples",
}


@pytest.mark.parametrize("case", [case for case in CASES if case not in WAITING])
def test_cases_wait_for_nothing(case: str, sync_debug_mode: None) -> None:
    x = leaf("cuda").view(4, 3)
    CASES[case](x)  # constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    CASES[case](x)


def test_forward_mode_waits_once(sync_debug_mode: None) -> None:
    f, wrt = model()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        full_jacobian(f, wrt, create_graph=False, mode="forward")
    assert sum("synchronizing CUDA operation" in str(warning.message) for warning in caught) == 1


CAPTURED: dict[str, Callable[[Tensor], Tensor]] = {
    "layer": lambda x: (torch.ones(4, len(x), device=x.device) @ x.sin()).tanh(),
    "many outputs": lambda x: (torch.ones(300, len(x), device=x.device) @ x.sin()).exp(),  # forward mode elsewhere
    "elementwise": lambda x: x.sin() * x.exp(),
    "stencil": lambda x: x.roll(1) * x - x.roll(-1),
    "picked": lambda x: x[torch.arange(len(x), device=x.device).flip(0)].sin(),
    "cumprod": lambda x: (x + 2).cumprod(0),
}


def compare_replay(call: Callable[[], Any], wrt: Tensor) -> None:
    """What a captured call gives for another point with what it gives there by itself."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    with torch.no_grad():
        wrt.mul_(0.5)
    graph.replay()
    assert_close(captured, call())


@pytest.mark.parametrize("mode", ["auto", "reverse"])
@pytest.mark.parametrize("function", CAPTURED)
def test_a_jacobian_in_a_cuda_graph(function: str, mode: str) -> None:
    wrt = torch.linspace(-1, 1, 60, device="cuda", requires_grad=True)
    compare_replay(lambda: full_jacobian(CAPTURED[function](wrt), wrt, create_graph=False, mode=mode), wrt)


@pytest.mark.parametrize(
    "case",
    [
        "biharmonic",
        "diagonal, samples",
        "directional",
        "divergence",
        "first partials",
        "laplacian",
        "network, samples",
        "partials",
        "partials of layers",
        "trained through",
    ],
)
def test_a_case_in_a_cuda_graph(case: str) -> None:
    wrt = leaf("cuda")
    compare_replay(lambda: CASES[case](wrt.view(4, 3)), wrt)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_the_tensors_device_and_not_the_current_one() -> None:
    with torch.cuda.device(0):
        f, wrt = model("cuda:1")
        jacobian = full_jacobian(f, wrt)
        assert torch.cuda.current_device() == 0
    assert jacobian.device == wrt.device
    assert_close(jacobian.cpu(), full_jacobian(*model("cpu")))


def test_peak_memory() -> None:
    """Of a Jacobian in many chunks: the result, and what a chunk needs."""
    wrt = torch.linspace(-1, 1, 1024, device="cuda", requires_grad=True)
    f = torch.linspace(-2, 2, 4096 * 1024, device="cuda").view(4096, 1024) @ wrt.sin()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    jacobian = full_jacobian(f, wrt, create_graph=False, chunk_size=256, mode="reverse")
    used = torch.cuda.max_memory_allocated() - before
    assert used < 1.5 * jacobian.nbytes
