"""Residuals of differential equations, as codes for physics-informed networks write them, against nested gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import biharmonic, curl, directional, divergence, full_jacobian, hessian, laplacian, nth_derivative

SAMPLES = 5


def points(width: int) -> Tensor:
    return torch.rand(SAMPLES, width, dtype=torch.float64, requires_grad=True)


def net(inputs: int, outputs: int = 1) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, outputs)).double()


def d(u: Tensor, x: Tensor, *axes: int) -> Tensor:
    """Mixed partial derivatives of a value for each sample, by nested gradients."""
    for axis in axes:
        (grad,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        u = grad[:, axis]
    return u


def along(u: Tensor, x: Tensor, axis: int, order: int) -> Tensor:
    direction = torch.zeros_like(x)
    direction[:, axis] = 1
    return directional(u, x, direction, order, batch_dims=1)[order]


def heat(x: Tensor) -> tuple[Tensor, Tensor]:
    u = net(4)(x)[:, 0]
    space = laplacian(u, x, batch_dims=1) - along(u, x, 0, 2)
    return along(u, x, 0, 1) - space, d(u, x, 0) - sum(d(u, x, i, i) for i in (1, 2, 3))


def wave(x: Tensor) -> tuple[Tensor, Tensor]:
    u = net(3)(x)[:, 0]
    second = nth_derivative(u, x, 2, reduce="diagonal", batch_dims=1)
    return second[:, 0] - second[:, 1:].sum(1), d(u, x, 0, 0) - d(u, x, 1, 1) - d(u, x, 2, 2)


def navier_stokes(dim: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Momentum and continuity of velocity and pressure, by time and space."""

    def residual(x: Tensor) -> tuple[Tensor, Tensor]:
        fields = net(dim + 1, dim + 1)(x)
        jacobian = full_jacobian(fields, x, batch_dims=1)
        second = nth_derivative(fields, x, 2, reduce="diagonal", batch_dims=1)
        velocity = fields[:, :dim]
        momentum = (
            jacobian[:, :dim, 0]
            + torch.einsum("sij,sj->si", jacobian[:, :dim, 1:], velocity)
            + jacobian[:, dim, 1:]
            - 0.01 * second[:, :dim, 1:].sum(2)
        )
        continuity = jacobian[:, :dim, 1:].diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
        rows = []
        for i in range(dim):
            u = fields[:, i]
            convection = sum(fields[:, j] * d(u, x, j + 1) for j in range(dim))
            diffusion = sum(d(u, x, j + 1, j + 1) for j in range(dim))
            rows.append(d(u, x, 0) + convection + d(fields[:, dim], x, i + 1) - 0.01 * diffusion)
        rows.append(sum(d(fields[:, i], x, i + 1) for i in range(dim)))
        return torch.cat([momentum, continuity], 1), torch.stack(rows, 1)

    return residual


def elasticity(x: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence of the stress of a displacement."""
    u = net(2, 2)(x)
    gradient = full_jacobian(u, x, batch_dims=1)
    strain = (gradient + gradient.mT) / 2
    stress = 2 * 0.7 * strain + 1.3 * strain.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(2).double()
    found = torch.stack([divergence(stress[:, i], x, batch_dims=1) for i in range(2)], 1)
    of_trace = [d(u[:, 0], x, 0, i) + d(u[:, 1], x, 1, i) for i in range(2)]
    expected = [0.7 * (d(u[:, i], x, 0, 0) + d(u[:, i], x, 1, 1)) + 2.0 * of_trace[i] for i in range(2)]
    return found, torch.stack(expected, 1)


def schroedinger(x: Tensor) -> tuple[Tensor, Tensor]:
    """i h_t + h_xx / 2 + |h|^2 h of a complex h by two outputs."""
    h = net(2, 2)(x)
    time, space = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=x.dtype).expand(2, *x.shape)
    _, h_t = directional(h, x, time, 1, batch_dims=1)
    _, _, h_xx = directional(h, x, space, 2, batch_dims=1)
    cubic = h.square().sum(1, keepdim=True) * h
    found = torch.stack([-h_t[:, 1], h_t[:, 0]], 1) + h_xx / 2 + cubic
    expected = [
        -d(h[:, 1], x, 0) + d(h[:, 0], x, 1, 1) / 2 + cubic[:, 0],
        d(h[:, 0], x, 0) + d(h[:, 1], x, 1, 1) / 2 + cubic[:, 1],
    ]
    return found, torch.stack(expected, 1)


def korteweg_de_vries(x: Tensor) -> tuple[Tensor, Tensor]:
    u = net(2)(x)[:, 0]
    direction = torch.tensor([0.0, 1.0], dtype=x.dtype).expand_as(x)
    _, u_x, _, u_xxx = directional(u, x, direction, 3, batch_dims=1)
    return along(u, x, 0, 1) + 6 * u * u_x + u_xxx, d(u, x, 0) + 6 * u * d(u, x, 1) + d(u, x, 1, 1, 1)


def cahn_hilliard(x: Tensor) -> tuple[Tensor, Tensor]:
    u = net(2)(x)[:, 0]
    found = laplacian(u**3 - u, x, batch_dims=1) - 0.02 * biharmonic(u, x, batch_dims=1)
    w = u**3 - u
    fourth = d(u, x, 0, 0, 0, 0) + 2 * d(u, x, 0, 0, 1, 1) + d(u, x, 1, 1, 1, 1)
    return found, d(w, x, 0, 0) + d(w, x, 1, 1) - 0.02 * fourth


def swift_hohenberg(x: Tensor) -> tuple[Tensor, Tensor]:
    u = net(2)(x)[:, 0]
    found = 0.3 * u - u**3 - (u + 2 * laplacian(u, x, batch_dims=1) + biharmonic(u, x, batch_dims=1))
    fourth = d(u, x, 0, 0, 0, 0) + 2 * d(u, x, 0, 0, 1, 1) + d(u, x, 1, 1, 1, 1)
    return found, 0.3 * u - u**3 - (u + 2 * (d(u, x, 0, 0) + d(u, x, 1, 1)) + fourth)


def beam(x: Tensor) -> tuple[Tensor, Tensor]:
    """Euler-Bernoulli: w_tt + w_xxxx."""
    u = net(2)(x)[:, 0]
    return along(u, x, 0, 2) + along(u, x, 1, 4), d(u, x, 0, 0) + d(u, x, 1, 1, 1, 1)


def poisson(dim: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def residual(x: Tensor) -> tuple[Tensor, Tensor]:
        u = net(dim)(x)[:, 0]
        return laplacian(u, x, batch_dims=1), sum((d(u, x, i, i) for i in range(dim)), torch.zeros_like(u))

    return residual


def hamilton_jacobi_bellman(x: Tensor) -> tuple[Tensor, Tensor]:
    u = net(6)(x)[:, 0]
    gradient = full_jacobian(u, x, batch_dims=1)
    space = nth_derivative(u, x, 2, reduce="diagonal", batch_dims=1)[:, 1:].sum(1)
    found = gradient[:, 0] + space - gradient[:, 1:].square().sum(1)
    expected = d(u, x, 0) + sum(d(u, x, i, i) - d(u, x, i) ** 2 for i in range(1, 6))
    return found, expected


def fokker_planck(x: Tensor) -> tuple[Tensor, Tensor]:
    """Drift and a diffusion matrix that depends on place."""
    p = net(2)(x)[:, 0].exp()
    drift = torch.stack([x[:, 1], -x[:, 0].sin()], 1)
    matrix = torch.stack([torch.stack([1 + x[:, 0] ** 2, x.prod(1)], 1), torch.stack([x.prod(1), x[:, 1].exp()], 1)], 1)
    second = nth_derivative(matrix * p[:, None, None], x, 2, batch_dims=1)
    found = -divergence(drift * p[:, None], x, batch_dims=1) + torch.einsum("sijij->s", second) / 2
    expected = -sum(d(drift[:, i] * p, x, i) for i in range(2))
    expected = expected + sum(d(matrix[:, i, j] * p, x, i, j) for i in range(2) for j in range(2)) / 2
    return found, expected


def lagrangian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Accelerations (L_qdqd)^-1 (L_q - L_qdq qd) of a Lagrangian network by positions and velocities."""
    velocity = x[:, 2:]
    energy = net(4)(x)[:, 0] + velocity.square().sum(1) * (2 + x[:, 0].cos())
    second = hessian(energy, x, batch_dims=1)
    force = full_jacobian(energy, x, batch_dims=1)[:, :2] - torch.einsum("sij,sj->si", second[:, 2:, :2], velocity)
    found = torch.linalg.solve(second[:, 2:, 2:], force)
    mass = torch.stack([torch.stack([d(energy, x, i, j) for j in (2, 3)], 1) for i in (2, 3)], 1)
    mixed = torch.stack([torch.stack([d(energy, x, i, j) for j in (0, 1)], 1) for i in (2, 3)], 1)
    right = torch.stack([d(energy, x, i) for i in (0, 1)], 1) - torch.einsum("sij,sj->si", mixed, velocity)
    return found, torch.linalg.solve(mass, right)


def hamiltonian(x: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence of a Hamiltonian vector field, which is zero, and its curl in three more dimensions."""
    energy = net(4)(x)[:, 0]
    gradient = full_jacobian(energy, x, batch_dims=1)
    field = torch.cat([gradient[:, 2:], -gradient[:, :2]], 1)
    return divergence(field, x, batch_dims=1), torch.zeros(SAMPLES, dtype=x.dtype)


def maxwell(x: Tensor) -> tuple[Tensor, Tensor]:
    """The curl of a curl is the gradient of the divergence less the Laplacian."""
    field = net(3, 3)(x)
    found = curl(curl(field, x, batch_dims=1), x, batch_dims=1)
    of_divergence = full_jacobian(divergence(field, x, batch_dims=1), x, batch_dims=1)
    rows = [sum(d(field[:, i], x, j, j) for j in range(3)) for i in range(3)]
    return found, of_divergence - torch.stack(rows, 1)


EQUATIONS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor]], int]] = {
    "heat": (heat, 4),
    "wave": (wave, 3),
    "Navier-Stokes, 2-D": (navier_stokes(2), 3),
    "Navier-Stokes, 3-D": (navier_stokes(3), 4),
    "elasticity": (elasticity, 2),
    "Schroedinger": (schroedinger, 2),
    "Korteweg-de Vries": (korteweg_de_vries, 2),
    "Cahn-Hilliard": (cahn_hilliard, 2),
    "Swift-Hohenberg": (swift_hohenberg, 2),
    "Euler-Bernoulli": (beam, 2),
    "Poisson, 10-D": (poisson(10), 10),
    "Poisson, 100-D": (poisson(100), 100),
    "Hamilton-Jacobi-Bellman": (hamilton_jacobi_bellman, 6),
    "Fokker-Planck": (fokker_planck, 2),
    "Lagrangian network": (lagrangian, 4),
    "Hamiltonian network": (hamiltonian, 4),
    "Maxwell": (maxwell, 3),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_residual(name: str) -> None:
    residual, width = EQUATIONS[name]
    x = points(width)
    found, expected = residual(x)
    assert found.requires_grad and found.shape == expected.shape
    assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert x.grad is None


@pytest.mark.parametrize("name", [name for name in EQUATIONS if name not in ("Poisson, 100-D", "Hamiltonian network")])
def test_gradients_of_a_training_step(name: str) -> None:
    """The derivative of the squared residual by the points, through all that was recorded."""
    residual, width = EQUATIONS[name]
    x = points(width)
    gradients = [torch.autograd.grad(part.square().sum(), x, retain_graph=True)[0] for part in residual(x)]
    assert_close(*gradients, rtol=1e-7, atol=1e-7)
