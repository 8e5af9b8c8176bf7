"""A network that solves the Kuramoto-Sivashinsky equation, whose loss needs the fourth derivative.

    python examples/kuramoto_sivashinsky.py

u_t + u u_x + u_xx + u_xxxx = 0 on a circle. The network has the initial state built in; its loss is the equation's
residual. All derivatives by x come from one sweep of Taylor coefficients over the recorded graph, and the loss is
differentiated through them. Compared with nested torch.autograd.grad: gradients and the time of an epoch. Writes
kuramoto_sivashinsky.png, with a spectral solution beside the network's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from highgrad_ext import directional

LENGTH = 22.0
END = 4.0
Derivatives = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


class Wave(nn.Module):
    """(x, t) in columns to u, periodic in x, with the initial state built in."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(5, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = 2 * torch.pi * x / LENGTH
        features = torch.cat([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos(), t / END], 1)
        return initial(x) + t * self.body(features)


def initial(x: Tensor) -> Tensor:
    angle = 2 * torch.pi * x / LENGTH
    return angle.cos() + 0.5 * (2 * angle).sin()


def by_jets(u: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u_t, u_x, u_xx, u_xxxx, each by the samples' own x or t."""
    _, u_t = directional(u, t, torch.ones_like(t), 1)
    _, u_x, u_xx, _, u_xxxx = directional(u, x, torch.ones_like(x), 4)
    return u_t, u_x, u_xx, u_xxxx


def by_autograd(u: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def derive(f: Tensor, by: Tensor) -> Tensor:
        return torch.autograd.grad(f.sum(), by, create_graph=True)[0]

    u_x = derive(u, x)
    u_xx = derive(u_x, x)
    return derive(u, t), u_x, u_xx, derive(derive(u_xx, x), x)


def loss_of(net: Wave, x: Tensor, t: Tensor, derivatives: Derivatives) -> Tensor:
    u = net(x, t)
    u_t, u_x, u_xx, u_xxxx = derivatives(u, x, t)
    return (u_t + u * u_x + u_xx + u_xxxx).square().mean()


def points(count: int) -> tuple[Tensor, Tensor]:
    return (LENGTH * torch.rand(count, 1)).requires_grad_(), (END * torch.rand(count, 1)).requires_grad_()


def milliseconds(net: Wave, derivatives: Derivatives, repeats: int = 10) -> float:
    """Of the loss and its gradient by all weights, the best of several."""
    x, t = points(512)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.autograd.grad(loss_of(net, x, t, derivatives), list(net.parameters()))
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def compare(net: Wave) -> None:
    exact = Wave().double()
    exact.load_state_dict(net.state_dict())
    x, t = (p.detach().double().requires_grad_() for p in points(128))
    grads = [
        torch.autograd.grad(loss_of(exact, x, t, derivatives), list(exact.parameters()))
        for derivatives in (by_jets, by_autograd)
    ]
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*grads, strict=True))
    jets, nested = milliseconds(net, by_jets), milliseconds(net, by_autograd)
    print(f"gradients of the loss by the weights, float64: relative difference {worst:.1e}")
    print(
        f"an epoch: {jets:.2f} ms by Taylor coefficients, {nested:.2f} ms by nested autograd.grad: {nested / jets:.1f}x"
    )


def train(net: Wave, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    start = time.perf_counter()
    for epoch in range(epochs):
        optimizer.zero_grad()
        loss = loss_of(net, *points(512), by_jets)
        loss.backward()
        optimizer.step()
        schedule.step()
        if epoch % (epochs // 5) == 0 or epoch == epochs - 1:
            print(f"epoch {epoch:5d}  residual {loss.item():.2e}  {time.perf_counter() - start:5.1f} s")


def spectral(size: int = 128, steps: int = 4000, frames: int = 100) -> Tensor:
    """[frames, size], by an integrating factor and the classical Runge-Kutta method."""
    x = torch.arange(size, dtype=torch.float64) * LENGTH / size
    k = 2 * torch.pi * torch.fft.rfftfreq(size, LENGTH / size).double()
    linear, dt = k**2 - k**4, END / steps
    half, full = torch.exp(linear * dt / 2), torch.exp(linear * dt)
    keep = (torch.arange(len(k)) < len(k) * 2 // 3).double()

    def rate(v: Tensor) -> Tensor:
        return -0.5j * k * keep * torch.fft.rfft(torch.fft.irfft(v, n=size) ** 2)

    v = torch.fft.rfft(initial(x))
    states = []
    for step in range(steps):
        if step % (steps // frames) == 0:
            states.append(torch.fft.irfft(v, n=size))
        a = rate(v)
        b = rate(half * (v + dt / 2 * a))
        c = rate(half * v + dt / 2 * b)
        d = rate(full * v + dt * half * c)
        v = full * v + dt / 6 * (full * a + 2 * half * (b + c) + d)
    return torch.stack(states)


def draw(net: Wave, path: Path) -> None:
    from matplotlib.figure import Figure

    reference = spectral()
    frames, size = reference.shape
    t = torch.arange(frames).float().view(-1, 1, 1) * END / frames
    x = torch.arange(size).float().view(1, -1, 1) * LENGTH / size
    with torch.no_grad():
        found = net(x.expand(frames, size, 1).reshape(-1, 1), t.expand(frames, size, 1).reshape(-1, 1))
    found = found.view(frames, size).double()
    error = (found - reference).norm() / reference.norm()
    print(f"relative error against the spectral solution: {error.item():.1e}")
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, values, title in zip(
        figure.subplots(1, 3), (found, reference, found - reference), ("network", "spectral", "difference"), strict=True
    ):
        image = axes.imshow(values.t().numpy(), origin="lower", aspect="auto", extent=(0, END, 0, LENGTH), cmap="RdBu")
        axes.set(title=title, xlabel="t", ylabel="x")
        figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("kuramoto_sivashinsky.png"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    net = Wave()
    compare(net)
    train(net, arguments.epochs)
    draw(net, arguments.output)


if __name__ == "__main__":
    main()
