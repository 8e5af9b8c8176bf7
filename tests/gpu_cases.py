"""What is run on a GPU and compared with the CPU. Needs torch and numpy alone, as does tools/gpu_smoke.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from problems import Problem
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
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
    partials,
    plan,
)
from highgrad_ext._reference import full_jacobian_loop


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
    if problem.name == "autocast" and device != "cpu":
        raise NotOnThisDevice("it casts what is on the CPU, and nothing else")
    x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64).to(device).requires_grad_()
    torch.manual_seed(0)
    try:
        with ConstantsFollow(device):
            return problem.build(x), x
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if device == "cpu":
            raise
        raise NotOnThisDevice(f"a graph of the CPU: {error}") from error


def compare_with_loop(problem: Problem, device: str, chunk_size: int | None) -> None:
    """Both on the device: what a GPU draws, or a solver makes of a deficient matrix, is its own."""
    try:
        expected = full_jacobian_loop(*record(problem, device))
    except RuntimeError as error:
        if device == "cpu":
            raise
        raise NotOnThisDevice(f"a backward of the CPU: {error}") from error
    jacobian = full_jacobian(*record(problem, device), create_graph=False, chunk_size=chunk_size)
    assert jacobian.device.type == device
    assert_close(jacobian, expected)


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


def normalized(x: Tensor) -> Any:
    """By the parameters of layer norms and of an elementwise scale."""
    w, b, s = weights(x, 3), weights(x, 3), weights(x, 3)
    return full_jacobian(functional.layer_norm(x.detach().sin(), (3,), w, b).tanh() * s, (w, b, s), create_graph=False)


def line(x: Tensor, numel: int = 120) -> Tensor:
    """A leaf long enough for structure to be looked for."""
    return leaf(x.device.type, numel)


def band_of_a_convolution(x: Tensor) -> Tensor:
    y = line(x)
    return full_jacobian(functional.conv1d(y.view(1, 1, -1), weights(x, 1, 1, 5).detach()).sin().flatten(), y)


def rolled(x: Tensor) -> Tensor:
    y = line(x)
    return full_jacobian(y * y.roll(1).sin() - y.roll(-1), y, create_graph=False)


def gathered(x: Tensor) -> Tensor:
    y = line(x)
    places = torch.arange(119, -1, -1, device=y.device)
    return full_jacobian((y[places] * y).sin(), y, create_graph=False)


def scattered(x: Tensor) -> Tensor:
    y = line(x)
    places = torch.arange(120, device=y.device) // 2
    return full_jacobian(torch.zeros_like(y[:60]).index_add(0, places, y * y.exp()), y, create_graph=False)


def where(x: Tensor) -> Tensor:
    y = line(x)
    return full_jacobian(torch.where(y > 0, y.sin(), y.roll(1).exp()), y, create_graph=False)


def written_in_place(x: Tensor) -> Tensor:
    y = line(x)
    z = y.sin().clone()
    z[1:-1] = y[2:] * y[:-2]
    return full_jacobian(z, y, create_graph=False)


def sparse_by_a_kept_plan(x: Tensor) -> Tensor:
    y = line(x)
    kept = plan(y[1:] * y[:-1], y, layout=torch.sparse_csr)
    return full_jacobian(y[1:] * y[:-1], y, plan=kept, create_graph=False).to_dense()


def hessian_of_a_chain(x: Tensor) -> Tensor:
    y = line(x)
    return nth_derivative((y[1:] * y[:-1].square()).sum(), y, 2, create_graph=False)


def trained_through_structure(x: Tensor) -> Any:
    y = line(x)
    return torch.autograd.grad(full_jacobian(y[1:] * y[:-1].sin(), y).square().sum(), y)


def into_structure(x: Tensor) -> Tensor:
    y = line(x)
    return full_jacobian(y * y.roll(1), y, create_graph=False, out=y.new_empty(120, 120).detach())


def recurrent(x: Tensor) -> Tensor:
    h = x.new_zeros(4, 3)
    for _ in range(3):
        h = (h @ weights(x, 3, 3).detach() + x).tanh()
    return h


def by_statistics(x: Tensor) -> Any:
    """In training and in evaluation; and by the parameters."""
    w, b, mean, deviation = weights(x, 3), weights(x, 3), weights(x, 3).detach(), weights(x, 3).detach() + 1
    trained = full_jacobian(functional.batch_norm(x, None, None, w, b, training=True).tanh(), (x, w, b))
    f = functional.batch_norm(x, mean, deviation, w, b).tanh()
    return trained, full_jacobian(f, x, batch_dims=1), laplacian(f.sum(-1), x, batch_dims=1)


def by_root_mean_square(x: Tensor) -> Any:
    w = weights(x, 3)
    jacobians = full_jacobian(functional.rms_norm(x.sin(), (3,), w).sin(), (x, w))
    return *jacobians, torch.autograd.grad(sum(jacobian.square().sum() for jacobian in jacobians), (x, w))


def embedded(x: Tensor) -> Tensor:
    table = weights(x, 7, 3)
    return full_jacobian(functional.embedding(torch.arange(4, device=x.device), table).sin(), table, create_graph=False)


def single_precision(x: Tensor) -> Any:
    y = x.detach().float().requires_grad_()
    return laplacian(scalar(y), y, batch_dims=1), nth_derivative(scalar(y), y, 2, batch_dims=1, create_graph=False)


ACTIVATIONS = (
    *(torch.tanh, torch.sin, torch.exp, torch.sigmoid, torch.erf, torch.atan, functional.silu, functional.gelu),
    *(functional.mish, functional.softplus, functional.elu),
)


def activations(x: Tensor) -> Tensor:
    h = x @ weights(x, 3, 4).detach()
    return torch.stack([(activation(h) @ weights(x, 4, 3).detach()).sin().sum(-1) for activation in ACTIVATIONS], 1)


def activations_trained_through(x: Tensor) -> Any:
    f, along = activations(x), torch.eye(3, dtype=x.dtype, device=x.device)
    mixed = partials(f, x, [(0, 1), (2, 2, 2), (1,)], batch_dims=1)
    series = directional(f, x, along.unsqueeze(1), (4, 2, 1), batch_dims=1)
    parts = [laplacian(f, x, batch_dims=1), *mixed, *series[1:]]
    return torch.autograd.grad(sum(part.square().sum() for part in parts), x)


def graph_freed(x: Tensor) -> Any:
    return full_jacobian(vector(x), x, retain_graph=False), laplacian(scalar(x), x, batch_dims=1, retain_graph=False)


CASES: dict[str, Callable[[Tensor], Any]] = {
    "partials": lambda x: partials(scalar(x), x, [(0,), (1, 1), (0, 1, 2)], batch_dims=1),
    "partials of layers": lambda x: partials(layers(x), x, [(0, 1), (2, 2)], batch_dims=1),
    "first partials": lambda x: partials(layers(x), x, [(0,), (2,)], batch_dims=1, create_graph=False),
    "partials without samples": lambda x: partials(layers(x[:1]).sum(), x, [(0, 1), (3,)]),
    "partials of several": lambda x: partials((scalar(x), vector(x)), x, [(0, 1, 1)], batch_dims=1),
    "laplacian without samples": lambda x: laplacian(scalar(x).sum(), x),
    "hessian without samples": lambda x: hessian(layers(x).sum(), x),
    "divergence without samples": lambda x: divergence(vector(x), x),
    "laplacian of a container": lambda x: laplacian({"u": scalar(x), "v": layers(x).sum(-1)}, x, batch_dims=1),
    "biharmonic without a graph": lambda x: biharmonic(scalar(x), x, batch_dims=1, create_graph=False),
    "first order along a direction": lambda x: directional(layers(x), x, torch.ones_like(x), 1),
    "norms": lambda x: laplacian(x.norm(dim=-1) + torch.cdist(x, x.detach() + 1).sum(-1), x, batch_dims=1),
    "jets of losses": lambda x: nth_derivative(
        functional.cross_entropy(layers(x), torch.arange(4, device=x.device) % 3), x, 2, method="taylor"
    ),
    "jets of attention": lambda x: nth_derivative(attention(x)[:4], x, 2, method="taylor", create_graph=False),
    "jets of a convolution": lambda x: nth_derivative(
        functional.conv1d(x.unsqueeze(1), weights(x, 2, 1, 2).detach()).tanh().sum((1, 2)),
        x,
        2,
        method="taylor",
        batch_dims=1,
    ),
    "jets of a normalization": lambda x: hessian(
        functional.layer_norm(x, (3,)).sin().sum(-1), x, batch_dims=1, method="taylor"
    ),
    "nested, samples, order 4": lambda x: nth_derivative(
        scalar(x), x, 4, method="nested", batch_dims=1, create_graph=False
    ),
    "jets of interpolation": lambda x: nth_derivative(
        scalar(x), x, 3, method="taylor", batch_dims=1, chunk_size=2, create_graph=False
    ),
    "sum, samples": lambda x: nth_derivative(vector(x).sum(), x, 2, reduce="sum", create_graph=False),
    "diagonal, nested": lambda x: nth_derivative(scalar(x), x, 2, reduce="diagonal", method="nested"),
    "diagonal, samples": lambda x: nth_derivative(scalar(x), x, 3, reduce="diagonal", batch_dims=1),
    "normalized": normalized,
    "band of a convolution": band_of_a_convolution,
    "rolled": rolled,
    "gathered": gathered,
    "scattered": scattered,
    "where": where,
    "written in place": written_in_place,
    "sparse by a kept plan": sparse_by_a_kept_plan,
    "hessian of a chain": hessian_of_a_chain,
    "trained through structure": trained_through_structure,
    "into structure": into_structure,
    "recurrent": lambda x: full_jacobian(recurrent(x), x, create_graph=False),
    "recurrent, samples": lambda x: full_jacobian(recurrent(x), x, batch_dims=1),
    "batch norm": by_statistics,
    "root mean square": by_root_mean_square,
    "embedded": embedded,
    "single precision": single_precision,
    "activations trained through": activations_trained_through,
    "graph freed": graph_freed,
    "forward mode of many rows": lambda x: full_jacobian(
        (weights(x, 60, 12).detach() @ x.flatten().sin()).exp(), x, mode="forward", create_graph=False
    ),
    "an elementwise head": lambda x: full_jacobian(functional.linear(x[0], weights(x, 9, 3)).sigmoid(), x),
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
    return torch.linspace(-1.3, 1.1, numel, dtype=torch.float64).to(device, non_blocking=True).requires_grad_()
