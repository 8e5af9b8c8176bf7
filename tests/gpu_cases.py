"""What is run on a GPU and compared with the CPU. Needs torch and numpy alone, as does tools/gpu_smoke.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from problems import Problem
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from highgrad_ext import biharmonic, curl, directional, divergence, full_jacobian, hessian, laplacian, nth_derivative


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


class NotOnThisDevice(Exception):
    """The graph of a problem cannot be there."""


def record(problem: Problem, device: str) -> tuple[Tensor, Tensor]:
    """f and its leaf on the device."""
    x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64).to(device).requires_grad_()
    torch.manual_seed(0)
    try:
        with ConstantsFollow(device):
            return problem.build(x), x
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if device == "cpu":
            raise
        raise NotOnThisDevice(f"a graph of the CPU: {error}") from error


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
