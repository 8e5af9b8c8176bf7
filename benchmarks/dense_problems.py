"""Jacobians with next to no zeros, through operators that may make them: what looking for structure loses there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.structured_problems import drawn
from benchmarks.varied_problems import (
    Function,
    attention,
    fixed,
    frozen,
    gated_recurrence,
    mlp,
    runge_kutta,
)

# Of a graph: f, and what it is differentiated by.
Graph = Callable[[], tuple[Tensor, list[Tensor]]]


def by_input(function: Function, *shape: int) -> Graph:
    def make() -> tuple[Tensor, list[Tensor]]:
        x = fixed(*shape).requires_grad_()
        return function(x), [x]

    return make


def by_parameters(*widths: int, samples: int) -> Graph:
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    network = frozen(nn.Sequential(*layers[:-1]))
    return lambda: (network(fixed(samples, widths[0])), list(network.parameters()))


def hessian(function: Function, n: int) -> Graph:
    def make() -> tuple[Tensor, list[Tensor]]:
        x = fixed(n).requires_grad_()
        (gradient,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return gradient, [x]

    return make


def selecting(n: int, kind: int) -> Function:
    """Matrix products with relu, where, an index or index_add before each."""
    weights, index = [fixed(n, n) for _ in range(3)], drawn(n, n)
    steps: list[Function] = [
        lambda x: x.relu() + 0.1 * x,
        lambda x: torch.where(x > 0, x, x.sin()),
        lambda x: x[index] * x,
        lambda x: x.index_add(0, index, x.tanh()),
    ]

    def run(x: Tensor) -> Tensor:
        for number, weight in enumerate(weights):
            x = weight @ steps[(kind + number) % len(steps)](x)
        return x

    return run


def messages(n: int, rounds: int, each: int) -> Function:
    """Dense by indices alone: after some rounds every element has heard of every other."""
    sources = drawn(n, rounds, n * each)
    target = torch.arange(n).repeat(each)

    def run(x: Tensor) -> Tensor:
        for where in sources:
            x = torch.zeros_like(x).index_add(0, target, x[where].sin())
        return x

    return run


def shifts(x: Tensor) -> Tensor:
    """Dense by windows alone."""
    for number in range(6):
        x = (x + x.roll(3**number) + x.roll(-(3**number))).tanh()
    return x


def solved(n: int) -> Function:
    matrix = fixed(n, n) + 4 * torch.eye(n)
    return lambda x: torch.linalg.solve(matrix + torch.outer(x, x), x.relu())


def products(n: int) -> Function:
    tensor = fixed(n, n, n)
    return lambda x: torch.einsum("ijk,j,k->i", tensor, x, x.relu())


def masked_softmax(n: int) -> Function:
    mask = fixed(n, n) > 0
    return lambda x: torch.where(mask, x[:, None] * x[None], -9.0).softmax(-1) @ x


def convolutions(size: int, outputs: int) -> Function:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (size // 2) ** 2, outputs),
    )
    return frozen(network).requires_grad_(False)


def dense_problems() -> dict[str, Graph]:
    cases: dict[str, Graph] = {}
    for n in (32, 128, 500):
        cases[f"MLP of {n}"] = by_input(mlp(n, n, n), n)
        cases[f"MLP of {n}, relu"] = by_input(mlp(n, n, n, activation=torch.relu), n)
    for samples in (8, 64):
        cases[f"2-32-32-1 by parameters, {samples} samples"] = by_parameters(2, 32, 32, 1, samples=samples)
    for length in (4, 16, 32):
        cases[f"attention of {length} x {length}"] = by_input(attention, length, length)
    for n in (10, 40, 120):
        cases[f"solve, {n}"] = by_input(solved(n), n)
        cases[f"einsum, {n}"] = by_input(products(n), n)
        cases[f"where and softmax, {n}"] = by_input(masked_softmax(n), n)
    for n in (30, 100, 300, 800):
        for kind, first in enumerate(("relu", "where", "index", "index_add")):
            cases[f"products and {first}, {n}"] = by_input(selecting(n, kind), n)
        cases[f"messages, {n}"] = by_input(messages(n, 4, 4 if n < 300 else 8), n)
        cases[f"shifts, {n}"] = by_input(shifts, n)
        cases[f"cumsum of a sort, {n}"] = by_input(lambda x: (x.sort().values * x).cumsum(0).relu(), n)
        cases[f"FFT, {n}"] = by_input(lambda x: torch.fft.rfft(x).abs().log1p(), n)
    for size, outputs in ((8, 10), (16, 10), (16, 100), (32, 10)):
        cases[f"convolutions of {size} x {size} to {outputs}"] = by_input(convolutions(size, outputs), 1, 3, size, size)
    cases["convolutions in 1-D, 16 layers"] = by_input(
        lambda x: [x := F.conv1d(x, fixed(4, 4, 5), padding=2).relu() for _ in range(16)][-1], 1, 4, 32
    )
    cases["20 steps of a GRU of 64"] = by_input(gated_recurrence(20, 64), 1, 64)
    cases["20 steps of Runge and Kutta, 64"] = by_input(runge_kutta(20, 64), 64)
    cases["Hessian of a network of 60"] = hessian(mlp(60, 64, 1), 60)
    cases["Hessian of products and index, 100"] = hessian(selecting(100, 2), 100)
    cases["Hessian of messages, 200"] = hessian(messages(200, 4, 6), 200)
    return cases
