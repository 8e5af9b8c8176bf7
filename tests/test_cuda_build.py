"""The CUDA build without a GPU: what is inside the module, where the ops are registered, and shapes without data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_resources
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import highgrad_ext

ROOT = Path(__file__).resolve().parents[1]
ops = torch.ops.highgrad_ext
OPS = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("highgrad_ext::"))

needs_module = pytest.mark.skipif(
    not highgrad_ext.cuda_built or cuda_resources.cuobjdump() is None, reason="no CUDA build, or no cuobjdump"
)
# As tools/gpu_check.py does for the GPU that is there.
needs_all_architectures = pytest.mark.skipif(
    bool(os.environ.get("TORCH_CUDA_ARCH_LIST")), reason="built for the architectures that TORCH_CUDA_ARCH_LIST names"
)


# ---- Inside the module


@needs_module
@needs_all_architectures
def test_architectures() -> None:
    """Machine code for each architecture, and PTX for those to come."""
    machine_code, ptx = cuda_resources.architectures()
    assert machine_code == set(cuda_resources.MULTIPROCESSORS)
    assert ptx == {"120"}


@needs_module
@needs_all_architectures
def test_resources_are_those_of_the_table() -> None:
    """A change that costs registers, shared memory or occupancy shows in a diff."""
    text = cuda_resources.DOCS.read_text()
    if f"nvcc of {cuda_resources.compiler()};" not in text:
        pytest.skip(f"the table is of another nvcc than that of {cuda_resources.compiler()}")
    assert cuda_resources.table() == text


@needs_module
def test_no_local_memory() -> None:
    every = [
        (name, architecture, one)
        for name, by_architecture in cuda_resources.resources().items()
        for architecture, instantiations in by_architecture.items()
        for one in instantiations
    ]
    assert every
    assert [used for used in every if used[2].local != 0] == []


def test_setup_builds_what_is_tabulated() -> None:
    archs = re.search(r"^CUDA_ARCHS = \((.*)\)$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert archs is not None
    assert re.findall(r"[\d.]+", archs[1]) == [f"{a[:-1]}.{a[-1]}" for a in cuda_resources.MULTIPROCESSORS]


@pytest.mark.parametrize(
    ("registers", "shared", "architecture", "expected"),
    [(32, 0, "90", 1.0), (54, 0, "90", 0.5), (64, 16640, "75", 0.75), (40, 16896, "86", 5 / 6), (255, 0, "80", 0.125)],
)
def test_occupancy(registers: int, shared: int, architecture: str, expected: float) -> None:
    assert cuda_resources.MULTIPROCESSORS[architecture].occupancy(registers, shared) == expected


@pytest.mark.skipif(not highgrad_ext.cuda_built, reason="no CUDA build")
def test_imports_without_a_driver() -> None:
    """With CUDA_VISIBLE_DEVICES empty no driver is asked; the CPU path works."""
    code = (
        "import torch, highgrad_ext; s = torch.arange(3., requires_grad=True); assert highgrad_ext.cuda_built; "
        "print(highgrad_ext.full_jacobian(torch.outer(s, s), s).sum().item(), torch.cuda.is_initialized())"
    )
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    folder = Path(highgrad_ext.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, cwd=folder)
    assert done.stdout == "18.0 False\n", done.stderr


# ---- Dispatch


def test_every_op_is_known() -> None:
    assert {name.removeprefix("highgrad_ext::") for name in OPS} >= {"seed_basis", "assemble_rows", "assemble_rows_"}


@pytest.mark.parametrize("key", ["CPU", "CUDA", "Meta", "AutogradCPU", "AutogradCUDA", "FuncTorchBatched"])
@pytest.mark.parametrize("op", OPS)
def test_dispatch_keys(op: str, key: str) -> None:
    """Each key has a kernel, its own or by an alias, that is no fallback: an op without a vmap rule would be looped."""
    if key == "CUDA" and not highgrad_ext.cuda_built:
        pytest.skip("no CUDA build")
    registrations = torch._C._dispatch_dump_table(op)
    (line,) = [line for line in registrations.splitlines() if line.startswith(f"{key}: ")]
    assert "fallback" not in line
    assert "registered at" in line
    assert "csrc/" in line


# ---- Shapes without data


def test_ops_on_a_fake_gpu() -> None:
    with FakeTensorMode():
        like = torch.empty(3, 4, device="cuda")
        basis = ops.seed_basis(like, 5, 2)
        jacobian = ops.assemble_rows([basis, None], [5, 1], [2, 3], like)
        rows = torch.empty(5, 3, 4, device="cuda", dtype=torch.double)
        ops.assemble_rows_(rows, basis)
        batched = torch.vmap(lambda x: ops.assemble_rows([ops.seed_basis(x, 2, 0)], [2], [2], x))(like)
    assert (basis.shape, jacobian.shape, batched.shape) == ((5, 3, 4), (2, 3, 3, 4), (3, 2, 4))
    assert {tensor.device.type for tensor in (basis, jacobian, rows, batched)} == {"cuda"}


def test_packed_ops_on_a_fake_gpu() -> None:
    with FakeTensorMode():
        compressed = torch.empty(2, 3, device="cuda")
        place = torch.empty(4, dtype=torch.int64, device="cuda")
        dense = ops.decompress(compressed, place, place, [5, 7])
        summed = ops.compress(dense, place, place, [2, 3])
        full = ops.expand_symmetric(torch.empty(2, 10, device="cuda"), 3, 3)
        packed = ops.fold_symmetric(full, 3, 3)
    results = (dense, summed, full, packed)
    assert [tuple(result.shape) for result in results] == [(5, 7), (2, 3), (2, 27), (2, 10)]
    assert {result.device.type for result in results} == {"cuda"}


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="a leaf on a GPU needs torch's CUDA build")
def test_a_jacobian_of_zeros_on_a_fake_gpu() -> None:
    """What full_jacobian allocates and fills itself. A sweep is another matter: see below."""
    with FakeTensorMode():
        wrt = torch.empty(4, device="cuda", requires_grad=True)
        jacobian = highgrad_ext.full_jacobian(torch.empty(2, 3, device="cuda"), wrt)
    assert jacobian.shape == (2, 3, 4)
    assert jacobian.device.type == "cuda"


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="a leaf on a GPU needs torch's CUDA build")
def test_assembly_on_a_fake_gpu_records_its_graph() -> None:
    """The op that full_jacobian ends with under create_graph."""
    with FakeTensorMode():
        block = torch.empty(2, 4, device="cuda", requires_grad=True)
        jacobian = ops.assemble_rows([block, None], [2, 1], [3], block.detach()[0])
    assert (jacobian.shape, jacobian.device.type) == ((3, 4), "cuda")
    assert jacobian.grad_fn is not None
    assert jacobian.grad_fn.name() == "AssembleRowsBackward"


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_full_jacobian_of_fake_tensors(create_graph: bool, chunk_size: int | None) -> None:
    """The whole way, on the meta device: libtorch's engine asks the driver for streams before it runs on a GPU."""
    with FakeTensorMode():
        wrt = torch.empty(3, device="meta", requires_grad=True)
        f = (torch.empty(5, 3, device="meta") * wrt.sin()).sum(1)
        jacobian = highgrad_ext.full_jacobian(f, wrt, create_graph=create_graph, chunk_size=chunk_size)
    assert jacobian.shape == (5, 3)
    assert jacobian.requires_grad is create_graph
