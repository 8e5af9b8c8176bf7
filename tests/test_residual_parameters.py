"""Residuals of differential equations by the parameters of a network: the rows of all samples share sweeps.

In the derivatives that operators record, the first weight meets directions that are the same for all samples: what is
computed from it has none itself, before a layer takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import biharmonic, directional, divergence, full_jacobian, hessian, laplacian, partials, plan
from highgrad_ext._reference import full_jacobian_loop

SAMPLES = 5

# From the network's outputs [SAMPLES, outputs] and its inputs [SAMPLES, 2] to the residual.
Residual = Callable[[Tensor, Tensor], Tensor]


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Shared(nn.Module):
    """One layer twice, and the first one once more at the end, by its transpose."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(self.middle(self.first(x).tanh()).tanh()).tanh()
        return self.last(F.linear(h, self.first.weight.t()))


class Scaled(nn.Module):
    """Inputs in units of parameters, and layers with features of their own scale."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.units = nn.Parameter(torch.tensor([1.3, -0.7]))
        self.log_scale = nn.Parameter(torch.linspace(-0.3, 0.4, 4))
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x / self.units) * self.log_scale.exp()))


class Modulated(nn.Module):
    """Factors and addends of features (FiLM), which a network of its own makes of one condition."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.last, self.film = nn.Linear(2, 4), nn.Linear(4, outputs), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        condition = torch.tensor([0.3, -1.0, 0.8], dtype=x.dtype)
        factor, addend = self.film(condition).sigmoid().chunk(2)
        return self.last(torch.tanh(factor * self.first(x) + addend))


class Normed(nn.Module):
    """Weights of unit rows, times a parameter."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, outputs)
        self.lengths = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first.weight
        weight = rows * (self.lengths / rows.norm(dim=1)).unsqueeze(1)
        return F.linear(F.linear(x, weight, self.first.bias).tanh(), self.last.weight / self.last.weight.norm())


def mlp(activation: nn.Module, outputs: int, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 4, bias=bias), activation, nn.Linear(4, 3, bias=bias), activation, nn.Linear(3, outputs, bias=bias)
    )


def weight_normed(outputs: int) -> nn.Module:
    net = mlp(nn.Tanh(), outputs)
    assert isinstance(net, nn.Sequential)
    for i in (0, 2, 4):
        nn.utils.parametrizations.weight_norm(net[i])
    return net


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "tanh": lambda outputs: mlp(nn.Tanh(), outputs),
    "sin": lambda outputs: mlp(Sine(), outputs),
    "GELU": lambda outputs: mlp(nn.GELU(), outputs),
    "no bias": lambda outputs: mlp(nn.Tanh(), outputs, bias=False),
    "shared layers": Shared,
    "scaled": Scaled,
    "modulated": Modulated,
    "normed": Normed,
    "weight norm": weight_normed,
}


def heat(u: Tensor, x: Tensor) -> Tensor:
    axes = torch.eye(2, dtype=x.dtype)[[1, 0]].unsqueeze(1).expand(2, *x.shape)
    _, (_, by_time), (by_space,) = directional(u[:, 0], x, axes, (2, 1), batch_dims=1)
    return by_time - by_space * u[:, 0]


def burgers(u: Tensor, x: Tensor) -> Tensor:
    by_time, by_space, twice = partials(u[:, 0], x, [(0,), (1,), (1, 1)], batch_dims=1)
    return by_time + u[:, 0] * by_space - 0.1 * twice


def monge_ampere(u: Tensor, x: Tensor) -> Tensor:
    second = hessian(u[:, 0], x, batch_dims=1)
    return second[:, 0, 0] * second[:, 1, 1] - second[:, 0, 1] ** 2


def systems(u: Tensor, x: Tensor) -> Tensor:
    """Two residuals a sample, one of them of first derivatives alone."""
    momentum = laplacian(u[:, 0], x, batch_dims=1) + u[:, 1]
    return torch.stack([momentum, divergence(u, x, batch_dims=1)], 1)


RESIDUALS: dict[str, tuple[Residual, int]] = {
    "laplacian": (lambda u, x: laplacian(u[:, 0], x, batch_dims=1) + u[:, 0] ** 2, 1),
    "laplacian of two": (lambda u, x: laplacian(u, x, batch_dims=1), 2),
    "heat": (heat, 1),
    "burgers": (burgers, 1),
    "biharmonic": (lambda u, x: biharmonic(u[:, 0], x, batch_dims=1), 1),
    "laplacian of a laplacian": (
        lambda u, x: laplacian(laplacian(u[:, 0], x, batch_dims=1), x, batch_dims=1),
        1,
    ),
    "divergence": (lambda u, x: divergence(u, x, batch_dims=1), 2),
    "monge_ampere": (monge_ampere, 1),
    "systems": (systems, 2),
}


def build(network: str, residual: str, samples: int = SAMPLES) -> tuple[Tensor, list[Tensor]]:
    function, outputs = RESIDUALS[residual]
    torch.manual_seed(0)
    net = NETWORKS[network](outputs).double()
    x = torch.linspace(-1, 1.4, 2 * samples, dtype=torch.float64).cos().view(samples, 2).requires_grad_()
    return function(net(x), x), list(net.parameters())


def check(f: Tensor, parameters: list[Tensor], chunk_size: int | None, create_graph: bool) -> None:
    p = plan(f, parameters, chunk_size=chunk_size)
    assert "samples share passes" in p.reason
    assert p.passes == f[0].numel()
    jacobians = full_jacobian(f, parameters, create_graph=create_graph, plan=p)
    expected = [full_jacobian_loop(f, q, create_graph=create_graph) for q in parameters]
    for got, want in zip(jacobians, expected, strict=True):
        assert_close(got, want)
        assert got.is_contiguous() and got.requires_grad == (create_graph and want.requires_grad)
    if create_graph:
        weighted = [
            sum((j * torch.linspace(-1, 1, j.numel(), dtype=j.dtype).view(j.shape)).sum() for j in all_jacobians)
            for all_jacobians in (jacobians, expected)
        ]
        grads = [torch.autograd.grad(w, parameters, allow_unused=True, retain_graph=True) for w in weighted]
        for a, b in zip(*grads, strict=True):
            assert_close(torch.zeros_like(b) if a is None else a, b) if b is not None else None


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_samples_share_passes(residual: str, network: str) -> None:
    f, parameters = build(network, residual)
    check(f, parameters, None, create_graph=False)


@pytest.mark.parametrize("network", ["tanh", "GELU", "normed", "modulated"])
@pytest.mark.parametrize("residual", ["heat", "systems", "laplacian of two"])
def test_derivatives_of_the_jacobian(residual: str, network: str) -> None:
    f, parameters = build(network, residual)
    check(f, parameters, None, create_graph=True)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_chunks(chunk_size: int, create_graph: bool) -> None:
    f, parameters = build("normed", "systems")
    check(f, parameters, chunk_size, create_graph)


def test_a_single_call_and_the_dense_one() -> None:
    f, parameters = build("GELU", "heat", samples=400)
    totals: list[int] = []
    jacobians = full_jacobian(f, parameters, create_graph=False, progress=lambda done, total: totals.append(total))
    assert totals[-1] == 1
    dense = full_jacobian(f, parameters, create_graph=False, structure="dense")
    for got, want in zip(jacobians, dense, strict=True):
        assert_close(got, want)


def test_a_kept_plan_and_places_for_the_result() -> None:
    f, parameters = build("weight norm", "burgers")
    p = plan(f, parameters)
    with torch.no_grad():
        for q in parameters:
            q += 0.1
    again, others = build("weight norm", "burgers")
    out = [torch.full((*again.shape, *q.shape), torch.nan, dtype=q.dtype) for q in others]
    full_jacobian(again, others, create_graph=False, out=out, plan=p)
    for got, q in zip(out, others, strict=True):
        assert_close(got, full_jacobian_loop(again, q))


def test_intermediates_and_what_they_are_made_of() -> None:
    """A weight by itself, what it is computed from, and the same parameter twice."""
    x = torch.linspace(-1, 1.4, 2 * SAMPLES, dtype=torch.float64).view(SAMPLES, 2).requires_grad_()
    a = torch.linspace(-1, 0.7, 8, dtype=torch.float64).view(4, 2).requires_grad_()
    b = torch.linspace(0.4, 1, 4, dtype=torch.float64).requires_grad_()
    weight = a.tanh() * b.unsqueeze(1)
    f = laplacian(F.linear(x, weight, b).sin().sum(1), x, batch_dims=1)
    check(f, [weight, a, b, a], None, create_graph=False)


def test_hooks_see_every_row() -> None:
    f, parameters = build("tanh", "laplacian")
    parameters[0].register_hook(lambda grad: 2 * grad)
    assert "samples share passes" not in plan(f, parameters).reason
    for got, q in zip(full_jacobian(f, parameters, create_graph=False), parameters, strict=True):
        assert_close(got, full_jacobian_loop(f, q))


def test_samples_that_mix_share_nothing() -> None:
    x = torch.linspace(-1, 1.4, 2 * SAMPLES, dtype=torch.float64).view(SAMPLES, 2).requires_grad_()
    net = NETWORKS["tanh"](1).double()
    u = net(x)[:, 0]
    f = laplacian(u, x, batch_dims=1) - u.mean()
    parameters = list(net.parameters())
    assert "samples share passes" not in plan(f, parameters).reason
    for got, q in zip(full_jacobian(f, parameters, create_graph=False), parameters, strict=True):
        assert_close(got, full_jacobian_loop(f, q))


@settings(max_examples=30, deadline=None)
@given(
    samples=st.integers(2, 6),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    network_activation=st.sampled_from([torch.tanh, torch.sin, F.gelu, torch.sigmoid]),
    residual=st.sampled_from(["laplacian", "heat", "burgers", "laplacian of two", "divergence"]),
    with_bias=st.booleans(),
    normed=st.booleans(),
)
def test_networks_of_any_widths(
    samples: int,
    widths: list[int],
    network_activation: Callable[[Tensor], Tensor],
    residual: str,
    with_bias: bool,
    normed: bool,
) -> None:
    """Widths that equal the number of samples, or of directions, are nothing special."""
    function, outputs = RESIDUALS[residual]
    torch.manual_seed(0)
    sizes = [2, *widths, outputs]
    weights = [torch.randn(b, a, dtype=torch.float64, requires_grad=True) for a, b in pairwise(sizes)]
    biases = [torch.randn(b, dtype=torch.float64, requires_grad=True) if with_bias else None for b in sizes[1:]]
    x = torch.randn(samples, 2, dtype=torch.float64, requires_grad=True)
    h = x
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = F.linear(network_activation(h) if i > 0 else h, weight / (1 + weight.norm()) if normed else weight, bias)
    f = function(h, x)
    parameters = [*weights, *(bias for bias in biases if bias is not None)]
    p = plan(f, parameters)
    for got, q in zip(full_jacobian(f, parameters, create_graph=False, plan=p), parameters, strict=True):
        assert_close(got, full_jacobian_loop(f, q))
