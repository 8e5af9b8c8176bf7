"""verify=True: right Jacobians pass, of every kind, and wrong ones do not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import PROBLEMS, Problem
from test_planner import leaf, network
from test_structure import tridiagonal
from torch import Tensor, nn

from highgrad_ext import _verify, full_jacobian


@torch.library.custom_op("highgrad_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_vmap
def _(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:
    return 2.001 * x, in_dims[0]


class Twice(torch.autograd.Function):
    """Its backward runs an operator whose batching rule is wrong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return twice(grad)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.filterwarnings("ignore:full_jacobian")
def test_right_ones_pass(problem: Problem) -> None:
    x = leaf(problem.size)
    f = problem.build(x)
    if problem.name in ("backward that ignores its cotangent", "tensor hook that branches"):
        with pytest.raises(RuntimeError, match="found a wrong Jacobian"):
            full_jacobian(f, x, verify=True)
    else:
        full_jacobian(f, x, verify=True, create_graph=not problem.first_order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("widths", [(3, 5), (300, 4, 300), (5, 2000), (40, 64, 64, 10)])
def test_every_plan_passes(widths: tuple[int, ...], dtype: torch.dtype) -> None:
    x = leaf(widths[0]).detach().to(dtype).requires_grad_()
    full_jacobian(network(*widths).to(dtype)(x), x, verify=True, create_graph=False)


def test_every_result_passes() -> None:
    x, y = leaf(90), leaf(9, 10)
    for layout in (torch.sparse_csr, torch.sparse_coo):
        full_jacobian(tridiagonal(x), x, layout=layout, verify=True)
    full_jacobian(y.sin().cumsum(1), y, batch_dims=1, verify=True)
    full_jacobian((y.sin().sum(), tridiagonal(x) * y.sum()), {"x": x, "y": y}, verify=True)
    z = torch.rand(3, dtype=torch.complex128, requires_grad=True)
    full_jacobian((z * z).abs(), z, verify=True)
    full_jacobian(leaf(0) * 2, leaf(3), verify=True)


def test_what_it_compares_with_is_torchs_own() -> None:
    x = leaf(5)
    f = (x.sin().unsqueeze(1) * x).tanh()
    with torch.profiler.profile() as profile:
        full_jacobian(f, x, create_graph=False, verify=True)
    assert "TanhBackward0" in {event.name for event in profile.events()}


@pytest.mark.parametrize("create_graph", [True, False])
def test_wrong_ones_do_not(create_graph: bool) -> None:
    x = leaf(5)
    f = Twice.apply(x.sin())
    full_jacobian(f, x, chunk_size=1, verify=True, create_graph=create_graph)
    full_jacobian(f, x, create_graph=create_graph)
    with pytest.raises(RuntimeError, match="full_jacobian: verify=True found a wrong Jacobian of output 1 by input 0"):
        full_jacobian((x.sin(), f), (x,), verify=True, create_graph=create_graph)


def test_it_changes_nothing() -> None:
    x = leaf(5)
    h = x.sin()
    h.retain_grad()
    state = torch.get_rng_state()
    f = h.cos()
    full_jacobian(f, x, verify=True, retain_graph=False)
    assert x.grad is None and h.grad is None and torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="a second time"):
        full_jacobian(f, x)


def test_the_environment_turns_it_on() -> None:
    assert not _verify.ALWAYS
    code = "import highgrad_ext; assert highgrad_ext._verify.ALWAYS"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "HIGHGRAD_VERIFY": "1"}, check=True)


def test_rounding_where_all_cancels_passes() -> None:
    """Sums of what is normalized do not depend on its mean, nor on a bias before it."""
    x = leaf(30).detach().view(2, 3, 5).requires_grad_()
    f = F.group_norm(x, 3).sum(2)
    assert full_jacobian(f, x, create_graph=False, verify=True).abs().max() < 1e-12
    bias = leaf(4)
    f = F.batch_norm(leaf(24).view(6, 4) + bias, None, None, training=True)
    assert full_jacobian(f, bias, create_graph=False, verify=True).abs().max() < 1e-12


def test_newton_steps_pass() -> None:
    x = leaf(20)
    w = nn.Parameter(torch.eye(20, dtype=torch.float64) * 3)
    full_jacobian(torch.linalg.solve(w, x) ** 2, (x, w), verify=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_sparse_ones_of_all_dtypes(dtype: torch.dtype, layout: torch.layout) -> None:
    x = leaf(6).detach().to(dtype).requires_grad_()
    f = x.abs().float() ** 2
    full_jacobian(f, x, verify=True, layout=layout, create_graph=False)
