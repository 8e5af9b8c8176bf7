"""expand_symmetric and fold_symmetric: every dtype, gradients, vmap, and each the other's adjoint."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext._symmetric import multi_indices, packed_size

ops = torch.ops.highgrad_ext
DTYPES = [torch.half, torch.bfloat16, torch.float, torch.double, torch.cfloat, torch.cdouble]


def expand_loop(packed: Tensor, size: int, order: int) -> Tensor:
    rank = {tuple(index): p for p, index in enumerate(multi_indices(size, order).tolist())}
    columns = [rank[tuple(sorted(index))] for index in itertools.product(range(size), repeat=order)]
    return packed[:, columns]


@pytest.mark.parametrize("size, order", itertools.product([0, 1, 2, 3, 6], [0, 1, 2, 3, 4, 5]))
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_expand_and_fold(size: int, order: int, rows: int, device: str) -> None:
    packed = torch.randn(rows, packed_size(size, order), dtype=torch.double, device=device)
    full = ops.expand_symmetric(packed, size, order)
    assert_close(full, expand_loop(packed, size, order))
    other = torch.randn_like(full)
    assert_close((full * other).sum(), (packed * ops.fold_symmetric(other, size, order)).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_strides(dtype: torch.dtype, device: str) -> None:
    packed = torch.randn(10, 4, device=device).to(dtype).t()
    full = ops.expand_symmetric(packed, 3, 3)
    assert torch.equal(full, expand_loop(packed, 3, 3))
    counts = ops.fold_symmetric(torch.ones_like(full), 3, 3)
    assert_close(counts[0].real.double().cpu(), torch.tensor([1.0, 3, 3, 1, 3, 6, 3, 3, 3, 1], dtype=torch.double))


def test_gradients_and_registration() -> None:
    packed = torch.randn(2, 10, dtype=torch.double, requires_grad=True)
    full = torch.randn(2, 27, dtype=torch.double, requires_grad=True)
    for op, argument in ((ops.expand_symmetric, packed), (ops.fold_symmetric, full)):
        torch.library.opcheck(op.default, (argument, 3, 3))
        assert torch.autograd.gradcheck(op, (argument, 3, 3))
        assert torch.autograd.gradgradcheck(op, (argument, 3, 3))


def test_vmap() -> None:
    packed = torch.randn(5, 2, 6, dtype=torch.double)
    full = torch.vmap(lambda p: ops.expand_symmetric(p, 3, 2))(packed)
    assert_close(full, torch.stack([expand_loop(p, 3, 2) for p in packed]))
    assert_close(
        torch.vmap(lambda f: ops.fold_symmetric(f, 3, 2))(full),
        torch.stack([ops.fold_symmetric(f, 3, 2) for f in full]),
    )


def test_errors() -> None:
    with pytest.raises(RuntimeError, match="expand_symmetric: expected rows of 6 elements"):
        ops.expand_symmetric(torch.zeros(2, 5), 3, 2)
    with pytest.raises(RuntimeError, match="fold_symmetric: expected rows of 9 elements"):
        ops.fold_symmetric(torch.zeros(9), 3, 2)
    with pytest.raises(RuntimeError, match="expected a size of at least 0"):
        ops.fold_symmetric(torch.zeros(1, 9), -3, 2)
