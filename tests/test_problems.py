"""The table of problems against the row loop in float64: values, chunks, second order, and nothing changed."""

from __future__ import annotations

import warnings

import pytest
import torch
from hard_problems import HARD_PROBLEMS
from problems import PROBLEMS, Problem
from second_order import weighted_gradient
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import full_jacobian, nth_derivative, plan
from highgrad_ext._reference import full_jacobian_loop

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = PROBLEMS + HARD_PROBLEMS
every_problem = pytest.mark.parametrize("problem", ALL, ids=lambda problem: problem.name)


def record(problem: Problem) -> tuple[Tensor, Tensor]:
    """f and its leaf, on a graph of their own."""
    x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64) + 0.3 * torch.rand(problem.size).double()
    x.requires_grad_()
    return problem.build(x), x


def test_table_is_large_and_has_no_name_twice() -> None:
    assert len({problem.name for problem in ALL}) == len(ALL) >= 45


@every_problem
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_values(problem: Problem, chunk_size: int | None) -> None:
    f, x = record(problem)
    version = x._version
    jacobian = full_jacobian(f, x, create_graph=False, chunk_size=chunk_size)
    assert_close(jacobian, full_jacobian_loop(f, x).to(x.dtype))
    assert x.grad is None and x._version == version
    assert_close(full_jacobian(f, x, create_graph=False, chunk_size=chunk_size), jacobian)


@every_problem
def test_forward_mode(problem: Problem) -> None:
    f, x = record(problem)
    expected = full_jacobian_loop(f, x, create_graph=not problem.first_order)
    jacobian = full_jacobian(f, x, create_graph=not problem.first_order, mode="forward")
    assert_close(jacobian, expected.to(x.dtype))
    if not problem.first_order and expected.requires_grad:
        assert_close(weighted_gradient(jacobian, x), weighted_gradient(expected, x))


@every_problem
def test_second_order(problem: Problem) -> None:
    f, x = record(problem)
    jacobian = full_jacobian(f, x) if not problem.first_order else full_jacobian(f, x, create_graph=False)
    expected = full_jacobian_loop(f, x, create_graph=not problem.first_order)
    assert_close(jacobian, expected)
    if not problem.first_order and expected.requires_grad:
        assert_close(weighted_gradient(jacobian, x), weighted_gradient(expected, x))


@every_problem
def test_warnings(problem: Problem) -> None:
    """One warning, which names the Node, where vmap cannot go; none for the row loop."""
    f, x = record(problem)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        full_jacobian(f, x, create_graph=False, chunk_size=1)
        assert not [warning for warning in seen if "full_jacobian" in str(warning.message)]
        full_jacobian(f, x, create_graph=False)
    ours = [warning for warning in seen if str(warning.message).startswith("full_jacobian: torch.vmap cannot run")]
    if problem.fallback is not None:
        assert len(ours) == int(problem.fallback)


@every_problem
def test_plans_and_sparse_results(problem: Problem) -> None:
    f, x = record(problem)
    expected = full_jacobian_loop(f, x).to(x.dtype)
    assert_close(full_jacobian(f, x, create_graph=False, plan=plan(f, x)), expected)
    sparse = full_jacobian(f, x, create_graph=False, layout=torch.sparse_csr)
    assert_close(sparse.to_dense(), expected.view(f.numel(), x.numel()))


@every_problem
def test_second_derivative(problem: Problem) -> None:
    f, x = record(problem)
    if problem.first_order or f.numel() * x.numel() > 200:
        pytest.skip("not differentiable twice, or large")
    gradient = full_jacobian_loop(f, x, create_graph=True)
    assert_close(nth_derivative(f, x, 2, create_graph=False), full_jacobian_loop(gradient, x))


@every_problem
def test_intermediate_wrt(problem: Problem) -> None:
    """wrt is a non-leaf, once next to its leaf and once twice."""
    if problem.name == "no path":
        pytest.skip("makes a leaf of its own")
    _, x = record(problem)
    hidden = x * 1.5
    f = problem.build(hidden)
    first, leaf, second = full_jacobian(f, (hidden, x, hidden), create_graph=False)
    expected = full_jacobian_loop(f, hidden)
    assert_close(first, expected)
    assert_close(second, expected)
    assert_close(leaf, 1.5 * expected)
