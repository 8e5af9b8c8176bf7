"""Orders above one against nested derivatives: milliseconds of forward pass and derivative, as a table in Markdown.

    python benchmarks/orders.py [--seconds 0.5]

Every figure is the median of as many runs as fit into the time, own and peer in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev, jvp, vjp, vmap

from highgrad_ext import biharmonic, directional, laplacian, nth_derivative
from highgrad_ext._reference import nth_derivative_loop

Run = Callable[[], Tensor]


def compare(own: Run, peer: Run, seconds: float) -> tuple[float, float]:
    """Median milliseconds of both, in turns; at least three runs of each."""
    own(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[0]) < 3:
        for run, seen in zip((own, peer), times, strict=True):
            before = time.perf_counter()
            run()
            seen.append(1e3 * (time.perf_counter() - before))
    return median(times[0]), median(times[1])


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def repeated(transform: Callable[..., Callable[[Tensor], Tensor]], f: Callable[[Tensor], Tensor], n: int) -> Tensor:
    for _ in range(n):
        f = transform(f)
    return f  # type: ignore[return-value]


def nested_grad(f: Tensor, x: Tensor, n: int) -> Tensor:
    for order in range(n):
        (f,) = torch.autograd.grad(f.sum(), x, create_graph=order < n - 1)
    return f


def forward_over_reverse(f: Callable[[Tensor], Tensor], width: int) -> Callable[[Tensor], Tensor]:
    """The Laplacian of a scalar function by jvp of vjp."""

    def at(x: Tensor) -> Tensor:
        def gradient(y: Tensor) -> Tensor:
            return vjp(f, y)[1](torch.ones(()))[0]

        return vmap(lambda v: (jvp(gradient, (x,), (v,))[1] * v).sum())(torch.eye(width)).sum()

    return at


def cases() -> list[tuple[str, str, Run, Run]]:
    """Name, peer, own run, peer's run."""
    small, x = mlp(3, 32, 32, 1), torch.randn(3, requires_grad=True)
    deep, z = mlp(1, 64, 64, 64, 1), torch.randn(256, 1, requires_grad=True)
    wide, batch = mlp(50, 768, 768, 512, 512, 1), torch.randn(32, 50, requires_grad=True)
    five, y = mlp(5, 64, 64, 1), torch.randn(64, 5, requires_grad=True)
    ten, w = mlp(10, 64, 64, 64, 1), torch.randn(10, requires_grad=True)

    def full(n: int) -> Run:
        return lambda: nth_derivative(small(x)[0], x, n, create_graph=False)

    rows: list[tuple[str, str, Run, Run]] = [
        ("3-32-32-1, order 4, full", "origin's loop", full(4), lambda: nth_derivative_loop(small(x)[0], x, 4)),
        (
            "3-32-32-1, order 4, full",
            "nested jacrev",
            full(4),
            lambda: repeated(jacrev, lambda v: small(v)[0], 4)(x.detach()),  # type: ignore[operator]
        ),
        ("3-32-32-1, order 6, full", "the same at order 3", full(6), full(3)),
        (
            "10-64-64-64-1, order 4, full",
            "nested, not symmetric",
            lambda: nth_derivative(ten(w)[0], w, 4, create_graph=False),
            lambda: nth_derivative(ten(w)[0], w, 4, create_graph=False, symmetric=False),
        ),
    ]
    for n in (1, 2, 4, 7, 8):
        rows.append(
            (
                f"256 samples of 1-64-64-64-1, order {n}",
                "nested autograd.grad",
                lambda n=n: directional(deep(z), z, torch.ones_like(z), n, create_graph=False)[n],
                lambda n=n: nested_grad(deep(z), z, n),
            )
        )
    rows.append(
        (
            "256 samples of 1-64-64-64-1, order 10",
            "the same at order 4",
            lambda: directional(deep(z), z, torch.ones_like(z), 10, create_graph=False)[10],
            lambda: directional(deep(z), z, torch.ones_like(z), 4, create_graph=False)[4],
        )
    )

    def own_laplacian() -> Tensor:
        return laplacian(wide(batch)[:, 0], batch, batch_dims=1, create_graph=False)

    twice = forward_over_reverse(forward_over_reverse(lambda v: five(v)[0], 5), 5)
    rows += [
        (
            "Laplacian, 32 samples of 50-768-768-512-512-1",
            "trace of vmap(hessian)",
            own_laplacian,
            lambda: vmap(hessian(lambda v: wide(v)[0]))(batch.detach()).diagonal(dim1=1, dim2=2).sum(1),
        ),
        (
            "Laplacian, 32 samples of 50-768-768-512-512-1",
            "jvp of vjp",
            own_laplacian,
            lambda: vmap(forward_over_reverse(lambda v: wide(v)[0], 50))(batch.detach()),
        ),
        (
            "biharmonic, 64 samples of 5-64-64-1",
            "jvp of vjp, twice",
            lambda: biharmonic(five(y)[:, 0], y, batch_dims=1, create_graph=False),
            lambda: vmap(twice)(y.detach()),
        ),
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for every row")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, milliseconds\n")
    print("| problem | highgrad_ext | peer | | ratio |\n|---|---|---|---|---|")
    for name, peer_name, own, peer in cases():
        mine, theirs = compare(own, peer, arguments.seconds)
        print(f"| {name} | {mine:.3g} | {theirs:.3g} | {peer_name} | {mine / theirs:.2g} |", flush=True)


if __name__ == "__main__":
    main()
