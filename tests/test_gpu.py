"""Every function on a GPU against the same on the CPU. On the CPU alone, the cases themselves are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from problems import PROBLEMS, Problem
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map

from highgrad_ext import biharmonic, curl, directional, divergence, full_jacobian, hessian, laplacian, nth_derivative

pytestmark = pytest.mark.filterwarnings("ignore")


class ConstantsFollow(TorchFunctionMode):
    """The table of problems has its constants on the CPU: where they meet a tensor of the device, they go there."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        arguments = (args, kwargs or {})
        tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        if {tensor.device.type for tensor in tensors} == {"cpu", self.device}:
            arguments = tree_map(lambda leaf: leaf.to(self.device) if isinstance(leaf, Tensor) else leaf, arguments)
        return func(*arguments[0], **arguments[1])


def record(problem: Problem, device: str) -> tuple[Tensor, Tensor]:
    """f and its leaf on the device. Skips the test where the graph cannot be there."""
    x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64).to(device).requires_grad_()
    torch.manual_seed(0)
    try:
        with ConstantsFollow(device):
            return problem.build(x), x
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if device == "cpu":
            raise
        pytest.skip(f"a graph of the CPU: {error}")


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_jacobian(problem: Problem, chunk_size: int | None, device: str) -> None:
    jacobian = full_jacobian(*record(problem, device), create_graph=False, chunk_size=chunk_size)
    assert jacobian.device.type == device
    assert_close(jacobian.cpu(), full_jacobian(*record(problem, "cpu"), create_graph=False))


def test_constants_follow() -> None:
    """So they do to a device that every machine has."""
    x = torch.ones(3, device="meta", requires_grad=True)
    with ConstantsFollow("meta"):
        f = torch.cat([torch.eye(3) @ x, torch.ones(2)]) + torch.ones(5)
    assert full_jacobian(f, x, create_graph=False).shape == (5, 3)


# ---- Functions and options, of 4 samples of 3 numbers


def scalar(x: Tensor) -> Tensor:
    return (x.sin() * x.flip(-1).exp()).sum(-1).tanh()


def vector(x: Tensor) -> Tensor:
    return x.sin() * x.flip(-1) + x.square().sum(-1, keepdim=True)


CASES: dict[str, Callable[[Tensor], Any]] = {
    "forward mode": lambda x: full_jacobian(vector(x), x, mode="forward"),
    "several": lambda x: full_jacobian((scalar(x), vector(x)), {"x": x}, create_graph=False),
    "no path": lambda x: full_jacobian(x.detach(), x),
    "out": lambda x: full_jacobian(scalar(x), x, create_graph=False, out=x.new_empty(4, 4, 3).detach()),
    "batch_dims": lambda x: full_jacobian(vector(x), x, batch_dims=1),
    "CSR": lambda x: full_jacobian(x.sin(), x, layout=torch.sparse_csr, create_graph=False).to_dense(),
    "COO": lambda x: full_jacobian(vector(x), x, layout=torch.sparse_coo, create_graph=False).to_dense(),
    "second derivatives": lambda x: nth_derivative(scalar(x), x, 2),
    "nested": lambda x: nth_derivative(scalar(x), x, 3, method="nested", batch_dims=1),
    "jets": lambda x: nth_derivative(scalar(x), x, 3, method="taylor", batch_dims=1),
    "sum": lambda x: nth_derivative(scalar(x).sum(), x, 3, reduce="sum"),
    "diagonal": lambda x: nth_derivative(vector(x), x, 2, reduce="diagonal"),
    "past the degree": lambda x: nth_derivative(x.square().sum(), x, 4),
    "laplacian": lambda x: laplacian(scalar(x), x, batch_dims=1),
    "biharmonic": lambda x: biharmonic(scalar(x), x, batch_dims=1),
    "hessian": lambda x: hessian(scalar(x), x, batch_dims=1),
    "directional": lambda x: directional(scalar(x), x, torch.ones_like(x), 3),
    "divergence": lambda x: divergence(vector(x), x, batch_dims=1),
    "curl": lambda x: curl(vector(x), x, batch_dims=1),
}


def leaf(device: str, numel: int = 12) -> Tensor:
    return torch.linspace(-1.3, 1.1, numel, dtype=torch.float64).to(device).requires_grad_()


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
