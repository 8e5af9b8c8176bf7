"""The kernels: samples -> correctness -> gradients -> opcheck, on every device there is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext
REAL = [torch.half, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
CSRC = Path(__file__).resolve().parents[1] / "csrc"


def seed_basis_reference(like: Tensor, rows: int, first_row: int) -> Tensor:
    basis = torch.zeros(rows, like.numel(), dtype=like.dtype, device=like.device)
    basis.diagonal(first_row).fill_(1)
    return basis.view(rows, *like.shape)


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (4, 1, 3)])
def test_seed_basis(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    like = torch.empty(shape, dtype=dtype, device=device)
    numel = like.numel()
    for first_row in range(numel + 1):
        for rows in range(numel - first_row + 1):
            assert_close(ops.seed_basis(like, rows, first_row), seed_basis_reference(like, rows, first_row))


def test_seed_basis_past_the_end(device: str) -> None:
    """Rows past the last are zero."""
    basis = ops.seed_basis(torch.empty(2, device=device), 3, 1)
    assert_close(basis, torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]], device=device))
    assert not ops.seed_basis(torch.empty(2, device=device), 2, 5).any()


def test_seed_basis_of_an_empty_tensor(device: str) -> None:
    assert ops.seed_basis(torch.empty(0, 3, device=device), 0, 0).shape == (0, 0, 3)


# Blocks of 6 rows of shape (3, 4) in different strides.
LAYOUTS = {
    "contiguous": lambda t: t,
    "rows last": lambda t: t.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "transposed": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "reversed": lambda t: t.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "every other": lambda t: torch.stack([t, t * 0], dim=-1).reshape(*t.shape[:-1], -1)[..., ::2],
    "expanded rows": lambda t: t[:1].expand_as(t),
    "offset": lambda t: torch.cat([t[:1], t])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "block_dtype, dtype", [(a, b) for a in REAL for b in REAL] + [(a, b) for a in COMPLEX for b in COMPLEX]
)
def test_assemble_rows_in_place(layout: str, block_dtype: torch.dtype, dtype: torch.dtype, device: str) -> None:
    block = LAYOUTS[layout](torch.randn(6, 3, 4, dtype=block_dtype, device=device))
    rows = torch.full((6, 3, 4), torch.nan, dtype=dtype, device=device)
    ops.assemble_rows_(rows, block)
    assert_close(rows, block.to(dtype), check_stride=False, rtol=0, atol=0)
    ops.assemble_rows_(rows, None)
    assert_close(rows, torch.zeros_like(rows))


def test_lazy_conjugate_and_negative_are_resolved(device: str) -> None:
    block = torch.randn(2, 3, dtype=torch.complex128, device=device)
    rows = torch.empty_like(block)
    ops.assemble_rows_(rows, block.conj())
    assert_close(rows, block.conj().resolve_conj())
    negative = torch._neg_view(block.real.contiguous())
    real = torch.empty_like(block.real.contiguous())
    ops.assemble_rows_(real, negative)
    assert_close(real, -block.real)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda s: torch.Size(s).numel() < 60000),
    data=st.data(),
)
def test_assemble_rows_of_any_strides(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    base = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view([shape[d] for d in order])
    block = base.permute([order.index(d) for d in range(len(shape))])
    step = data.draw(st.integers(1, 3))
    block = block[..., ::step]
    rows = torch.empty(block.shape, dtype=torch.float64)
    ops.assemble_rows_(rows, block)
    assert torch.equal(rows, block)


def test_large_blocks_are_shared_by_threads(device: str) -> None:
    block = torch.randn(64, 65, 130, device=device).transpose(1, 2)
    rows = torch.empty(block.shape, device=device)
    ops.assemble_rows_(rows, block)
    assert torch.equal(rows, block)
    assert_close(
        ops.assemble_rows([block.flatten(1)], [64], [8, 8], torch.empty(130 * 65, device=device)).flatten(),
        block.flatten(),
    )


Blocks = tuple[list[Tensor | None], list[int], list[int], Tensor]


def samples(device: str, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> list[Blocks]:
    def block(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device, requires_grad=requires_grad)

    like = torch.empty(2, 3, dtype=dtype, device=device)
    return [
        ([block(6, 2, 3)], [6], [2, 3], like),
        ([block(2, 2, 3), None, block(3, 3, 2).transpose(1, 2)], [2, 1, 3], [6], like),
        ([None, None], [1, 1], [2], like),
        ([block(1, 2, 3)], [1], [], like),
        ([block(2)], [2], [2], torch.empty((), dtype=dtype, device=device)),
        ([], [], [0, 4], like),
        ([block(3, 0)], [3], [3], torch.empty(0, dtype=dtype, device=device)),
    ]


def assemble_rows_reference(
    blocks: list[Tensor | None], row_counts: list[int], output_shape: list[int], like: Tensor
) -> Tensor:
    parts = [
        like.new_zeros(n, *like.shape) if b is None else b.to(like.dtype)
        for b, n in zip(blocks, row_counts, strict=True)
    ]
    return torch.cat([like.new_zeros(0, *like.shape), *parts]).reshape(*output_shape, *like.shape)


@pytest.mark.parametrize("case", range(7))
def test_assemble_rows(case: int, device: str) -> None:
    args = samples(device)[case]
    assert_close(ops.assemble_rows(*args), assemble_rows_reference(*args))


@pytest.mark.parametrize("case", [0, 1, 3, 4])
def test_gradients_of_assemble_rows(case: int, device: str) -> None:
    blocks, *rest = samples(device, requires_grad=True)[case]
    given_blocks = tuple(b.detach().requires_grad_() for b in blocks if b is not None)

    def function(*present: Tensor) -> Tensor:
        remaining = iter(present)
        return ops.assemble_rows([None if b is None else next(remaining) for b in blocks], *rest).sin()

    assert torch.autograd.gradcheck(function, given_blocks)
    assert torch.autograd.gradgradcheck(function, given_blocks)


def test_gradient_has_the_dtype_of_the_block(device: str) -> None:
    block = torch.randn(2, 3, dtype=torch.float32, device=device, requires_grad=True)
    ops.assemble_rows([block], [2], [2], torch.empty(3, dtype=torch.float64, device=device)).sum().backward()
    assert block.grad is not None and block.grad.dtype == torch.float32


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_assemble_rows(case: int, requires_grad: bool, device: str) -> None:
    torch.library.opcheck(ops.assemble_rows.default, samples(device, requires_grad=requires_grad)[case])


def test_opcheck_of_the_others(device: str) -> None:
    like = torch.randn(2, 3, device=device)
    torch.library.opcheck(ops.seed_basis.default, (like, 4, 1))
    torch.library.opcheck(
        ops.seed_basis.default, (like.requires_grad_(), 4, 1), test_utils=("test_schema", "test_faketensor")
    )
    torch.library.opcheck(
        ops.assemble_rows_.default, (torch.empty(4, 3, device=device), torch.randn(3, 4, device=device).t())
    )
    torch.library.opcheck(ops.assemble_rows_.default, (torch.empty(4, 3, device=device), None))


def test_vmap(device: str) -> None:
    like = torch.empty(3, device=device)
    blocks = torch.randn(5, 2, 3, device=device)
    shared = torch.randn(4, 3, device=device)

    def function(block: Tensor) -> Tensor:
        return ops.assemble_rows([block, None, shared], [2, 1, 4], [7], like)

    assert_close(torch.vmap(function)(blocks), torch.stack([function(b) for b in blocks]))
    nested = torch.vmap(torch.vmap(function, in_dims=1, out_dims=1), in_dims=2)(
        blocks.permute(1, 0, 2)[:, None, :, :].expand(2, 4, 5, 3)
    )
    assert nested.shape == (5, 7, 4, 3)
    assert_close(torch.vmap(lambda x: ops.seed_basis(x, 2, 1))(blocks)[0], ops.seed_basis(blocks[0], 2, 1))

    def in_place(rows: Tensor, block: Tensor) -> Tensor:
        ops.assemble_rows_(rows, block)
        return rows

    assert_close(torch.vmap(in_place)(torch.zeros_like(blocks), blocks), blocks)


def test_func_transforms(device: str) -> None:
    like = torch.empty(3, device=device)

    def function(block: Tensor) -> Tensor:
        return ops.assemble_rows([block.sin(), None], [2, 1], [3], like)

    block = torch.randn(2, 3, device=device)
    reference = torch.func.jacrev(lambda b: torch.cat([b.sin(), b.new_zeros(1, 3)]))
    assert_close(torch.func.jacrev(function)(block), reference(block))
    assert_close(torch.func.jacrev(torch.func.jacrev(function))(block), torch.func.jacrev(reference)(block))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    def function(block: Tensor, like: Tensor) -> Tensor:
        basis = ops.seed_basis(like, block.shape[0], 0)
        return ops.assemble_rows([block * 2 + basis, None], [block.shape[0], 1], [block.shape[0] + 1], like).sin()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for rows in (2, 3):
        block = torch.randn(rows, 3, requires_grad=True)
        like = torch.empty(3)
        assert_close(compiled(block, like), function(block, like))
        (grad,) = torch.autograd.grad(compiled(block, like).sum(), block)
        assert_close(grad, torch.autograd.grad(function(block, like).sum(), block)[0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ops.assemble_rows([torch.ones(2, 3)], [3], [3], torch.ones(3)), "block 0 to hold 3 rows of shape"),
        (lambda: ops.assemble_rows([torch.ones(2, 3)], [2], [3], torch.ones(3)), "as many rows as output_shape"),
        (lambda: ops.assemble_rows([torch.ones(2, 3)], [2, 1], [3], torch.ones(3)), "one row count a block"),
        (
            lambda: ops.assemble_rows([torch.ones(1, 3, dtype=torch.cfloat)], [1], [1], torch.ones(3)),
            "both real or both complex",
        ),
        (lambda: ops.seed_basis(torch.ones(3), 2, -1), "first_row of at least 0, got 2 and -1"),
        (lambda: ops.assemble_rows_(torch.ones(3), torch.ones(3, requires_grad=True)), "it is not differentiable"),
        (lambda: ops.assemble_rows_(torch.ones(3, 2).t(), torch.ones(2, 3)), "expected contiguous rows"),
        (lambda: ops.assemble_rows_(torch.ones(2, 3), torch.ones(3, 2)), "expected a block of shape"),
    ],
)
def test_errors(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(RuntimeError, match=message):
        call()


def test_in_place_bumps_the_version() -> None:
    rows = torch.empty(2, 3)
    before = rows._version
    ops.assemble_rows_(rows, torch.ones(2, 3))
    assert rows._version == before + 1


def test_meta() -> None:
    like = torch.empty(3, 4, device="meta")
    assert ops.seed_basis(like, 5, 2).shape == (5, 3, 4)
    assert ops.assemble_rows([torch.empty(2, 3, 4, device="meta")], [2], [2, 1], like).shape == (2, 1, 3, 4)


INDEX_PROGRAM = r"""
#include <cstdio>
#include "ops/basis_plan.h"
#include "ops/index_math.h"
#include "ops/launch_plan.h"
using namespace highgrad::ops;
int main() {
  const int64_t big = int64_t{1} << 40;
  StridedLayout layout{};
  append_dim(layout, 3, 20);
  append_dim(layout, 1, 7);
  append_dim(layout, 5, 4);  // 5 * 4 == 20: one run with the first
  append_dim(layout, 2, 1000);
  std::printf("%d %ld %ld\n", layout.num_dims, layout.sizes[0], strided_offset(layout, 2, 2 * 7 + 1));
  // Rows 5, 6 and 7 of so many columns that a part has one of the ones at most.
  for (int64_t begin : {int64_t{0}, big * 2 + 7 - 40, big * 2 + 8}) {
    const BasisPlan plan = plan_basis(3, big, 5, begin, 1000);
    std::printf("%u %u ", plan.end, plan.end == 0 ? 0 : next_one(plan, 0));
  }
  int wrong = 0;
  for (uint32_t divisor : {1u, 2u, 3u, 7u, 641u, 65536u, 65537u, 2147483646u, 2147483647u}) {
    for (uint32_t number : {0u, 1u, 2u, 640u, 641u, 65535u, 65536u, 1000000007u, 2147483646u, 2147483647u}) {
      uint32_t whole = number;
      const uint32_t rest = divide_off(make_divider(divisor), whole);
      wrong += whole != number / divisor || rest != number % divisor;
    }
  }
  std::printf("%d\n", wrong);
  const int64_t numels[] = {1, 256, 257, big};
  for (int64_t numel : numels) {
    std::printf("%u %u\n", plan_launch(numel).grid, plan_launch(numel).block);
  }
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_index_math_and_launch_plans(tmp_path: Path) -> None:
    """Torch-free headers that the GPU's kernels share with the CPU's, also at sizes past 2^31."""
    source = tmp_path / "index.cpp"
    source.write_text(INDEX_PROGRAM)
    subprocess.run(["c++", "-std=c++17", f"-I{CSRC}", str(source), "-o", str(tmp_path / "index")], check=True)
    lines = subprocess.run([tmp_path / "index"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == ["2 15 1028", "1000 5 41 40 0 0 0", "1 256", "1 256", "2 256", "2147483647 256"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex128])
@pytest.mark.parametrize("length", range(1, 10))
def test_short_runs(length: int, dtype: torch.dtype) -> None:
    """Of blocks whose outer dimensions, of one, two and three sizes, change places."""
    for outer in ((7,), (5, 3), (2, 5, 3)):
        source = torch.randn(*outer, length + 1, dtype=dtype)[..., :length]
        block = source.permute(*reversed(range(len(outer))), len(outer))
        rows = torch.full(block.shape, 7, dtype=dtype)
        ops.assemble_rows_(rows, block)
        assert torch.equal(rows, block)
