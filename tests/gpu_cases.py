"""What is run on a GPU and compared with the CPU. Needs torch and numpy alone, as does tools/gpu_smoke.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from problems import Problem
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from highgrad_ext import (
    biharmonic,
    curl,
    directional,
    divergence,
    full_jacobian,
    hessian,
    laplacian,
    nth_derivative,
    plan,
)


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


def weights(x: Tensor, *shape: int) -> Tensor:
    """A leaf beside x."""
    numel = torch.Size(shape).numel()
    return torch.linspace(-0.9, 1.2, numel, dtype=x.dtype, device=x.device).cos().view(shape).requires_grad_()


def by_parameters(x: Tensor) -> Any:
    """Of layers, whose samples share sweeps."""
    w, b, v = weights(x, 5, 3), weights(x, 5), weights(x, 2, 5)
    f = functional.linear(functional.linear(x.detach(), w, b).tanh(), v)
    return full_jacobian(f, (w, b, v), create_graph=False)


def by_kernels(x: Tensor) -> Any:
    k, e = weights(x, 2, 1, 2, 2), weights(x, 2)
    f = functional.conv2d(x.detach().view(4, 1, 3, 1).expand(4, 1, 3, 3), k, e, padding=1).sin().flatten(1)
    return full_jacobian(f, (k, e), create_graph=False)


def network(x: Tensor) -> Tensor:
    """Layers whose rows need no engine."""
    h = functional.layer_norm(x @ weights(x, 3, 6).detach(), (6,)).tanh()
    h = functional.conv1d(h.unsqueeze(1), weights(x, 2, 1, 3).detach(), padding=1)
    return torch.cat([h.flatten(1).softmax(-1), h.amax(-1), h.var(-1)], -1)


def picked(x: Tensor) -> Tensor:
    """Samples that only indices tell apart."""
    return x.flatten()[torch.arange(x.numel(), device=x.device)].view_as(x).sin()


def layers(x: Tensor) -> Tensor:
    return (x @ weights(x, 3, 4).detach()).tanh() @ weights(x, 4, 3).detach()


def through_a_bottleneck(x: Tensor) -> Tensor:
    return (weights(x, 40, 2).detach() @ (weights(x, 2, 12).detach() @ x.flatten()).sin()).exp()


def by_a_kept_plan(x: Tensor) -> Tensor:
    y = leaf(x.device.type, 60)
    kept = plan(y[1:] * y[:-1], y)
    return full_jacobian(y[1:] * y[:-1], y, plan=kept)


def arrow(x: Tensor) -> Tensor:
    """Rows and columns are compressed together."""
    y = leaf(x.device.type, 120)
    f = torch.cat([(y * y.sin()).sum().view(1), y[1:] * y[:1] + y[1:].exp()])
    return full_jacobian(f, y, create_graph=False)


def halves(x: Tensor) -> Tensor:
    y = x.detach().to(torch.float16).requires_grad_()
    return full_jacobian(y * y.flip(-1), y, create_graph=False)


def complex_input(x: Tensor) -> Tensor:
    z = torch.complex(x.detach(), x.detach().cos()).requires_grad_()
    return full_jacobian((z * z.flip(-1)).abs().sum(-1), z, create_graph=False)


def attention(x: Tensor) -> Tensor:
    q = (x @ weights(x, 3, 8).detach()).view(1, 1, 4, 8)
    return functional.scaled_dot_product_attention(q, q.sin(), q.cos()).flatten()


CASES: dict[str, Callable[[Tensor], Any]] = {
    "arrow": arrow,
    "halves": halves,
    "complex input": complex_input,
    "attention": lambda x: full_jacobian(attention(x), x, create_graph=False),
    "verified": lambda x: full_jacobian(network(x), x, create_graph=False, verify=True),
    "verified samples": lambda x: full_jacobian(vector(x), x, batch_dims=1, verify=True),
    "row by row": lambda x: full_jacobian(vector(x), x, chunk_size=1),
    "in chunks": lambda x: full_jacobian(vector(x), x, chunk_size=5, create_graph=False),
    "an order for each direction": lambda x: directional(
        layers(x).sum(-1), x, torch.eye(3, dtype=x.dtype, device=x.device)[:2].unsqueeze(1).expand(2, *x.shape), (2, 1)
    ),
    "trained through": lambda x: torch.autograd.grad(laplacian(layers(x).sum(-1), x, batch_dims=1).square().sum(), x),
    "Jacobian trained through": lambda x: torch.autograd.grad(full_jacobian(vector(x), x).square().sum(), x),
    "jets of matrices": lambda x: nth_derivative(
        torch.linalg.solve(x[:3] @ x[:3].mT + 3 * torch.eye(3, dtype=x.dtype, device=x.device), x[3]).sum(),
        x,
        2,
        method="taylor",
    ),
    "parameters": by_parameters,
    "kernels": by_kernels,
    "network": lambda x: full_jacobian(network(x), x, create_graph=False),
    "network, recorded": lambda x: full_jacobian(network(x), x),
    "network, samples": lambda x: full_jacobian(network(x), x, batch_dims=1, create_graph=False),
    "bottleneck": lambda x: full_jacobian(through_a_bottleneck(x), x, create_graph=False),
    "kept plan": by_a_kept_plan,
    "stencil": lambda x: full_jacobian(x[1:] * x[:-1], x, layout=torch.sparse_coo, create_graph=False).to_dense(),
    "jets of several variables": lambda x: nth_derivative(
        scalar(x), x, 4, method="taylor", batch_dims=1, create_graph=False
    ),
    "jets of vectors": lambda x: nth_derivative(network(x), x, 2, method="taylor", batch_dims=1),
    "jets of quotients": lambda x: nth_derivative(x.exp() / (1 + x.square()), x, 3, method="taylor", batch_dims=1),
    "jets of layers": lambda x: nth_derivative(layers(x), x, 3, method="taylor", batch_dims=1, create_graph=False),
    "recorded jets of layers": lambda x: nth_derivative(layers(x).sum(-1), x, 3, method="taylor", batch_dims=1),
    "laplacian of layers": lambda x: laplacian(layers(x).sum(-1), x, batch_dims=1),
    "biharmonic of layers": lambda x: biharmonic(layers(x).sum(-1), x, batch_dims=1),
    "hessian of layers": lambda x: hessian(layers(x).sum(-1), x, batch_dims=1),
    "divergence of layers": lambda x: divergence(layers(x), x, batch_dims=1),
    "curl of layers": lambda x: curl(layers(x), x, batch_dims=1),
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
    "laplacian of what is picked": lambda x: laplacian(picked(x).sum(-1), x, batch_dims=1),
    "biharmonic": lambda x: biharmonic(scalar(x), x, batch_dims=1),
    "hessian": lambda x: hessian(scalar(x), x, batch_dims=1),
    "directional": lambda x: directional(scalar(x), x, torch.ones_like(x), 3),
    "divergence": lambda x: divergence(vector(x), x, batch_dims=1),
    "curl": lambda x: curl(vector(x), x, batch_dims=1),
}


def leaf(device: str, numel: int = 12) -> Tensor:
    return torch.linspace(-1.3, 1.1, numel, dtype=torch.float64).to(device).requires_grad_()
