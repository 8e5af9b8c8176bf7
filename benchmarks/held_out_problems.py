"""More Jacobians with next to no zeros, of other operators, which no constant was set on."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.dense_problems import Graph, by_input, hessian
from benchmarks.structured_problems import drawn
from benchmarks.varied_problems import Function, fixed, frozen


def kuramoto(x: Tensor) -> Tensor:
    return (x[:, None] - x[None]).sin().mean(1) + x.cos()


def gravity(x: Tensor) -> Tensor:
    """Accelerations of bodies [n, 3] that all attract each other."""
    between = x[None] - x[:, None]
    return (between / (between.square().sum(-1, keepdim=True) + 0.1) ** 1.5).sum(1)


def butterflies(n: int) -> Function:
    """Dense after log2(n) rounds that each pair all elements anew."""
    factors = fixed(n.bit_length() - 1, n)
    index = torch.arange(n)

    def run(x: Tensor) -> Tensor:
        for number, factor in enumerate(factors):
            x = (factor * x + x[index ^ (1 << number)]).tanh()
        return x

    return run


def diffusion(steps: int) -> Function:
    """Explicit steps of a reaction and a diffusion, until every cell has felt every other."""

    def run(u: Tensor) -> Tensor:
        for _ in range(steps):
            sums = F.pad(u[None], (1, 1), mode="circular")[0].unfold(0, 3, 1).sum(1)
            u = u + 0.2 * (sums - 3 * u) + 0.01 * u * (1 - u)
        return u

    return run


def implicit_diffusion(n: int) -> Function:
    matrix = 3 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    factor = torch.linalg.cholesky(matrix + 0.0 * matrix.T)

    def run(u: Tensor) -> Tensor:
        for _ in range(4):
            u = torch.cholesky_solve((u + 0.1 * u.sin())[:, None], factor)[:, 0]
        return u

    return run


def sweep_of_thomas(n: int) -> Function:
    """A recurrence forwards and one backwards, element by element: thousands of Nodes."""

    def run(x: Tensor) -> Tensor:
        values = [x[0]]
        for k in range(1, n):
            values.append(x[k] + values[-1].sin())
        back = [values[-1]]
        for value in reversed(values[:-1]):
            back.append(value + 0.5 * back[-1])
        return torch.stack(back)

    return run


def transformer(x: Tensor) -> Tensor:
    width = x.shape[-1]
    wq, wk, wv, wo, up, down = (fixed(*s) for s in [(width, width)] * 4 + [(width, 2 * width), (2 * width, width)])
    y = F.layer_norm(x, [width])
    x = x + ((y @ wq) @ (y @ wk).mT).softmax(-1) @ (y @ wv) @ wo
    return x + F.gelu(F.layer_norm(x, [width]) @ up) @ down


def causal_attention(x: Tensor) -> Tensor:
    mask = torch.ones(len(x), len(x)).tril() > 0
    return (x @ x.T).masked_fill(~mask, -9.0).softmax(-1) @ x


def sinkhorn(n: int) -> Function:
    cost = fixed(n, n)

    def run(x: Tensor) -> Tensor:
        kernel, u = (cost * x).exp(), torch.ones(n)
        for _ in range(5):
            u = x.softmax(0) / (kernel @ (1 / (kernel.T @ u)))
        return u

    return run


def pooled(size: int, outputs: int) -> Function:
    network = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(2, 6, 3, padding=1, stride=2),
        nn.LeakyReLU(),
        nn.Upsample(scale_factor=2),
        nn.Flatten(),
        nn.Linear(6 * (size // 2) ** 2, outputs),
    )
    return frozen(network).requires_grad_(False)


def lstm(steps: int, width: int) -> Function:
    network = nn.LSTM(width, width)
    frozen(network)
    network.requires_grad_(False)
    return lambda x: network(x.view(steps, 1, width).flip(0))[0][-1, 0] + x.view(steps, width).mean(0)


def scattered_maxima(n: int) -> Function:
    target, weight = drawn(n, n * 4), fixed(n, n)

    def run(x: Tensor) -> Tensor:
        y = torch.zeros(n).scatter_reduce(0, target, (weight @ x).repeat(4).sin(), "amax", include_self=False)
        return weight @ y

    return run


def index_puts(n: int) -> Function:
    index, weight = [drawn(n, n, k + 1)[:, 0] for k in range(3)], fixed(n, n)

    def run(x: Tensor) -> Tensor:
        for k in index:
            x = x.clone().index_put_((k,), x.sin(), accumulate=True) * x
        return weight @ x

    return run


def walks(n: int) -> Function:
    """A dense graph's messages, gathered and scattered by expanded indices."""
    source, target = drawn(n, n * 6), drawn(n, n * 6, 1)[:, 0]

    def run(x: Tensor) -> Tensor:
        for _ in range(5):
            x = x.tanh() + torch.zeros_like(x).scatter_add(0, target, x.gather(0, source) * 0.3)
        return x

    return run


def spectral(x: Tensor) -> Tensor:
    """A step of Burgers' equation in wave numbers."""
    n = len(x)
    wave = torch.arange(n // 2 + 1)
    for _ in range(3):
        slope = torch.fft.irfft(torch.fft.rfft(x) * 1j * wave, n)
        x = x - 0.01 * x * slope
    return torch.fft.irfft(torch.fft.rfft(x) * torch.exp(-0.01 * wave**2), n)


def standardized(x: Tensor) -> Tensor:
    return ((x - x.mean()) / (x.var() + 0.1).sqrt()).tanh()


def grid_samples(size: int) -> Function:
    grid = fixed(1, size, size, 2).clamp(-1, 1)
    weight = fixed(20, size * size)
    return lambda x: weight @ F.grid_sample(x, grid, align_corners=False).view(-1)


def dense_ode(n: int, steps: int) -> Function:
    weight = fixed(n, n)

    def run(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = x + 0.1 * ((weight @ x).sigmoid() * x.roll(1) - x)
        return x

    return run


def by_weights(samples: int, width: int) -> Graph:
    """Residuals by the one matrix of a recurrence."""

    def make() -> tuple[Tensor, list[Tensor]]:
        weight, x = fixed(width, width).requires_grad_(), fixed(samples, width)
        for _ in range(4):
            x = (x @ weight).tanh()
        return x.sum(0), [weight]

    return make


def by_two(n: int) -> Graph:
    def make() -> tuple[Tensor, list[Tensor]]:
        a, b = fixed(n).requires_grad_(), (fixed(n) + 0.2).requires_grad_()
        return (torch.outer(a, b).relu() + fixed(n, n)) @ (a.sort().values + b[drawn(n, n, 1)[:, 0]]), [a, b]

    return make


def held_out_problems() -> dict[str, Graph]:
    cases: dict[str, Graph] = {}
    for n in (50, 200, 700):
        cases[f"Kuramoto, {n}"] = by_input(kuramoto, n)
        cases[f"scattered maxima, {n}"] = by_input(scattered_maxima(n), n)
        cases[f"index_put, {n}"] = by_input(index_puts(n), n)
    for n in (64, 256, 1024):
        cases[f"butterflies, {n}"] = by_input(butterflies(n), n)
        cases[f"spectral Burgers, {n}"] = by_input(spectral, n)
    for n in (500, 3000):
        cases[f"standardized, {n}"] = by_input(standardized, n)
        cases[f"cumprod and flip, {n}"] = by_input(lambda x: (1 + 0.01 * x).cumprod(0).flip(0).cumsum(0) * x, n)
        cases[f"softmax and topk, {n}"] = by_input(lambda x: x.softmax(0) * x.topk(len(x)).values.log1p(), n)
        cases[f"norm and pad, {n}"] = by_input(lambda x: F.pad(x, (1, 1)).diff() / x.norm(), n)
    for n in (60, 400):
        cases[f"walks, {n}"] = by_input(walks(n), n)
        cases[f"diffusion to all, {n}"] = by_input(diffusion(n // 2), n)
        cases[f"implicit diffusion, {n}"] = by_input(implicit_diffusion(n), n)
        cases[f"dense ODE, {n}"] = by_input(dense_ode(n, 12), n)
        cases[f"Sinkhorn, {n}"] = by_input(sinkhorn(n), n)
        cases[f"a and b, {n}"] = by_two(n)
    for n in (20, 100):
        cases[f"gravity of {n}"] = by_input(gravity, n, 3)
        cases[f"Cholesky, {n}"] = by_input(
            lambda x: torch.linalg.cholesky(torch.outer(x, x) + 9 * torch.eye(len(x))).sum(0) + x.sum(), n
        )
        cases[f"eigenvalues, {n}"] = by_input(lambda x: torch.linalg.eigvalsh(torch.outer(x, x.sin()) + x.diag()), n)
        cases[f"matrix exponential, {n}"] = by_input(lambda x: torch.linalg.matrix_exp(0.1 * x.outer(x)) @ x.relu(), n)
        cases[f"Thomas, {n}"] = by_input(sweep_of_thomas(n), n)
    for length, width in ((8, 16), (24, 32)):
        cases[f"transformer of {length} x {width}"] = by_input(transformer, length, width)
        cases[f"causal attention of {length} x {width}"] = by_input(causal_attention, length, width)
        cases[f"LSTM of {length} x {width}"] = by_input(lstm(length, width), length * width)
        cases[f"recurrence of {length} by {width} x {width} weights"] = by_weights(length, width)
    for size, outputs in ((16, 50), (32, 200)):
        cases[f"pools of {size} x {size} to {outputs}"] = by_input(pooled(size, outputs), 1, 2, size, size)
        cases[f"grid samples of {size} x {size}"] = by_input(grid_samples(size), 1, 1, size, size)
    cases["Hessian of Kuramoto, 150"] = hessian(kuramoto, 150)
    cases["Hessian of walks, 120"] = hessian(walks(120), 120)
    cases["Hessian of a dense ODE, 100"] = hessian(dense_ode(100, 4), 100)
    cases["Hessian of a logsumexp, 800"] = hessian(lambda x: (x * fixed(len(x))).logsumexp(0, keepdim=True), 800)
    cases["MLP of layer norms, 200"] = by_input(
        lambda x: [x := F.layer_norm(fixed(200, 200) @ x, [200]).relu() for _ in range(4)][-1], 200
    )
    cases["MLP of 100-900-900-700, silu"] = by_input(
        lambda x: [x := F.silu(fixed(m, n) @ x) for n, m in pairwise((100, 900, 900, 700))][-1], 100
    )
    return cases
