"""Every function on a GPU: Jacobians against the loop there, all else against the CPU."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import CASES, ConstantsFollow, NotOnThisDevice, compare_with_loop, leaf
from problems import PROBLEMS, Problem
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from highgrad_ext import full_jacobian

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_jacobian(problem: Problem, chunk_size: int | None, device: str) -> None:
    try:
        compare_with_loop(problem, device, chunk_size)
    except NotOnThisDevice as error:
        pytest.skip(str(error))


def test_constants_follow() -> None:
    """So they do to a device that every machine has."""
    x = torch.ones(3, device="meta", requires_grad=True)
    with ConstantsFollow("meta"):
        f = torch.cat([torch.eye(3) @ x, torch.ones(2)]) + torch.ones(5)
    assert full_jacobian(f, x, create_graph=False).shape == (5, 3)


@pytest.mark.parametrize("case", CASES)
def test_function(case: str, device: str) -> None:
    results, expected = (tree_leaves(CASES[case](leaf(where).view(4, 3))) for where in (device, "cpu"))
    assert {result.device.type for result in results} == {device}
    assert_close([result.cpu() for result in results], expected)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_csr])
def test_structure(create_graph: bool, layout: torch.layout, device: str) -> None:
    """Rows that share no column share a pass; the dense way is that of the CPU."""
    x = leaf(device, 3000)
    f = x[1:] * x[:-1].sin()
    if layout == torch.sparse_csr:
        jacobian = full_jacobian(f, x, layout=layout, create_graph=False).to_dense()
    else:
        jacobian = full_jacobian(f, x, create_graph=create_graph)
    y = leaf("cpu", 3000)
    expected = full_jacobian(y[1:] * y[:-1].sin(), y, structure="dense", create_graph=False)
    assert_close(jacobian.detach().cpu(), expected)
