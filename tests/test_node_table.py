"""The table of Nodes, over torch's database of operators and random arguments.

Every row must be met. Wherever a tape holds known Nodes alone, axes must allow every nonzero; and unless one of the
Nodes may lose it, NaN in one row of the cotangent must arrive wherever that row of the Jacobian is nonzero.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cuda_graphs import GRAPHS, leaf
from cuda_operators import on_the_cpu
from problems import PROBLEMS
from random_ops import CASES, random_case
from structured import constant, mask_of_ties, names_on
from test_batched_nodes import BATCHED
from test_op_db import DIFFERENTIABLE, problems
from torch import Tensor, nn

from highgrad_ext import _C

# Aliases that no operator of the database records, and ours, which test_structure.py and test_recorded_jets.py meet.
NOT_MET = {"ClampMaxBackward0", "AssembleRowsBackward", "CompressBackward", "DecompressBackward"}
# What no CPU records.
NOT_MET |= {
    "CtcLossBackward1",
    "CudnnCtcLossBackward1",
    "FusedRmsNormBackward0",
    "ScaledDotProductFusedAttentionOverrideableBackward0",
}
NOT_MET |= {"ComposeSeriesBackward", "LocalSeriesBackward", "MultiplySeriesBackward"}
MAX_ROWS = 60

# What the database leaves out, or has too large.
EXTRA: list[Callable[[Tensor], Tensor]] = [
    lambda x: 1 - x,
    lambda x: x.fmod(0.7),
    lambda x: x.remainder(0.7),
    lambda x: torch.unsafe_split_with_sizes(x, [1, 3])[1],
    lambda x: torch.select_copy(x, 0, 1),
    lambda x: torch.slice_copy(x, 0, 1, 4, 2),
    lambda x: torch.split_copy(x, 3)[1],
    lambda x: torch.squeeze_copy(x.view(1, 4, 1), (0, 2)),
    F.hardswish,
    F.leaky_relu,
    lambda x: torch.ops.aten.div.Scalar_mode(x, 0.7, rounding_mode="floor"),
    lambda x: torch.special.gammainc(torch.full_like(x, 1.5), x.exp()),
    lambda x: torch.special.gammaincc(torch.full_like(x, 1.5), x.exp()),
    lambda x: torch.native_dropout(x, 0.5, True)[0],
    lambda x: torch.cdist(x.view(2, 2), x.view(2, 2) + 1, compute_mode="use_mm_for_euclid_dist"),
    lambda x: torch.ops.aten.norm.Scalar(x, 2),
    lambda x: torch.ops.aten.norm.ScalarOpt_dtype(x, 2, dtype=torch.double),
    lambda x: torch.special.xlog1py(2.0, x.exp()),
    lambda x: torch.special.xlog1py(x, 2.0),
    lambda x: torch.special.zeta(torch.full_like(x, 2.5), x.exp()),
    lambda x: torch.special.zeta(2.5, x.exp()),
    lambda x: (x.view(2, 2) * 1).t_(),
    lambda x: torch.xlogy(2.0, x.exp()),
    lambda x: torch.xlogy(x, 2.0),
    lambda x: F.interpolate(x.view(1, 1, 2, 2), scale_factor=2, mode="bilinear"),
    lambda x: F.interpolate(x.view(1, 1, 2, 2), scale_factor=2),
    lambda x: torch.fill(x, x[0]) * x,
    lambda x: (x * 1).fill_(2.0) * x,
    lambda x: (x * 1).fill_(x[0]) * x,
    lambda x: (x * 1).zero_() * x,
    lambda x: torch.ops.highgrad_ext.expand_symmetric(torch.stack([x[:3], x[1:]]), 2, 2),
    lambda x: torch.ops.highgrad_ext.fold_symmetric(torch.stack([x, x.flip(0)]), 2, 2),
    lambda x: nn.LSTM(2, 2)(x.view(2, 1, 2).float())[0],
]


def rows_of(f: Tensor, inputs: list[Tensor], value: float, batched: bool) -> list[Tensor]:
    """Products of cotangents that are zero but for one `value` each: [rows, elements] an input."""
    seeds = torch.zeros(f.numel(), f.numel(), dtype=f.dtype).fill_diagonal_(value).view(f.numel(), *f.shape)
    if batched:
        rows = _C.batched_vjp([f], [seeds], inputs, False)
    else:
        loop = [torch.autograd.grad(f, inputs, seed, retain_graph=True, allow_unused=True) for seed in seeds]
        rows = [None if row[0] is None else torch.stack([r.to_dense() for r in row]) for row in zip(*loop, strict=True)]
    return [
        torch.zeros(f.numel(), x.numel()) if row is None else row.reshape(f.numel(), -1)
        for row, x in zip(rows, inputs, strict=True)
    ]


def check_recorded(f: Tensor, inputs: list[Tensor], met: set[str]) -> None:
    """The Nodes that a backward records: its products by a cotangent and by the inputs again."""
    if f.grad_fn is None or not 0 < f.numel() <= MAX_ROWS:
        return
    cotangent = torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype).view(f.shape).requires_grad_()
    try:
        products = torch.autograd.grad(f, inputs, cotangent, create_graph=True, allow_unused=True)
    except RuntimeError:
        return  # no double backward
    for product in products:
        if product is not None and product.layout == torch.strided and product.dtype == f.dtype:
            check(product, [cotangent, *inputs], met)


def check(f: Tensor, inputs: list[Tensor], met: set[str]) -> None:
    if f.grad_fn is None or not 0 < f.numel() <= MAX_ROWS:
        return
    axes = _C.analyze_axes(f, inputs)
    if axes is None or not axes[1]:
        return
    try:
        values = rows_of(f, inputs, 1.0, False)
    except RuntimeError:
        return  # a loss of phase, or no backward at all
    met |= names_on(f)
    for (upper, _), value in zip(axes[0], values, strict=True):
        mask = mask_of_ties(f.numel(), upper)
        nonzero = value.nan_to_num(0) != 0  # 0 * inf is as good as zero
        assert not nonzero.any() or not (nonzero.numpy() & ~mask).any(), f"{names_on(f)}: axes"
    keeps_nan = axes[4]
    if not keeps_nan:
        return
    for batched in (False, True):
        try:
            probes = rows_of(f, inputs, torch.nan, batched)
        except RuntimeError:
            assert batched  # torch.vmap cannot go there
            continue
        for nan, value in zip(probes, values, strict=True):
            assert not ((value != 0) & ~nan.isnan()).any(), f"{names_on(f)}, batched={batched}"


@pytest.mark.filterwarnings("ignore")
def test_every_row_of_the_table() -> None:
    met: set[str] = set()
    for problem in PROBLEMS:
        x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64).requires_grad_()
        f = problem.build(x)
        check(f, [x], met)
        check_recorded(f, [x], met)
    for name in CASES:
        for seed in range(4):
            try:
                f, x = random_case(name, seed)
            except (RuntimeError, ValueError):
                continue
            check(f, [x], met)
            check_recorded(f, [x], met)
    for function in EXTRA:
        x = torch.linspace(-1.3, 1.1, 4, dtype=torch.float64).requires_grad_()
        check(function(x), [x], met)
        check_recorded(function(x), [x], met)
    with on_the_cpu():
        for graph in GRAPHS.values():
            x = leaf()
            check(graph.fused(x), [x], met)
            check_recorded(graph.fused(x), [x], met)
        check(torch.ops.aten._fused_dropout(x.sin(), 0.4)[0], [x], met)
    for _, function in BATCHED:
        x = (constant(5, 3, 3) + 2 * torch.eye(3)).requires_grad_()
        check(function(x), [x], met)
    for op in DIFFERENTIABLE:
        for function, inputs in problems(op):
            for f in function(*inputs):
                check(f, list(inputs), met)
                check_recorded(f, list(inputs), met)
    known = set(_C.known_nodes())
    assert known - met == NOT_MET & known, "unmet, or met after all: " + ", ".join(
        sorted((known - met) ^ (NOT_MET & known))
    )
