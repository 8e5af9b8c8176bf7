"""Whether a peer's choice of mode ever beats the planner's: 57 problems of all shapes and sizes, as a Markdown table.

    python benchmarks/regret.py [--seconds 0.6] [--create-graph] [--problems MLP] [--json file]

Every figure is the median, in milliseconds, of forward pass and Jacobian in turns with the peers'. The best torch peer
is the fastest of torch.func's and torch.autograd.functional's modes on that problem; the ratio is to that one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean, median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.func import jacfwd, jacrev

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import local_turn, time_in_turns
from benchmarks.report import format_ms, markdown_table
from highgrad_ext import full_jacobian

Function = Callable[[Tensor], Tensor]
LARGEST = 4_000_000  # entries of a Jacobian that the slowest peers still manage


def fixed(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / shape[-1] ** 0.5


def mlp(*widths: int, activation: Function = torch.tanh) -> Function:
    layers = [(fixed(fan_out, fan_in), fixed(fan_out)) for fan_in, fan_out in pairwise(widths)]

    def network(x: Tensor) -> Tensor:
        for weight, bias in layers[:-1]:
            x = activation(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])

    return network


def residual_net(width: int, depth: int) -> Function:
    weights = [fixed(width, width) for _ in range(depth)]

    def network(x: Tensor) -> Tensor:
        for weight in weights:
            x = x + torch.tanh(F.linear(x, weight))
        return x

    return network


def convolution(channels: int, kernels: int) -> Function:
    first, second = fixed(kernels, channels, 3, 3), fixed(4, kernels, 3, 3)
    return lambda x: F.conv2d(F.conv2d(x, first, padding=1).relu(), second, stride=2)


def attention(x: Tensor) -> Tensor:
    return (x @ x.mT / x.shape[-1] ** 0.5).softmax(-1) @ x


def recurrent(steps: int, width: int) -> Function:
    weight = fixed(width, width)

    def run(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = torch.tanh(weight @ x) + 0.1 * x.sin()
        return x

    return run


def robot_arm(x: Tensor) -> Tensor:
    """Where each of the joints of a planar arm is."""
    angle = x.cumsum(0)
    return torch.stack([angle.cos().cumsum(0), angle.sin().cumsum(0)])


def heat(x: Tensor) -> Tensor:
    inner = F.pad(x, (1, 1))
    return inner[2:] - 2 * x + inner[:-2] + x**3


def wide_stencil(x: Tensor) -> Tensor:
    return sum((x.roll(k, -1) * x.roll(-k, -2) for k in range(1, 4)), x.sin())


def lorenz(x: Tensor) -> Tensor:
    return torch.roll(x, 1) * (torch.roll(x, -1) - torch.roll(x, 2)) - x + 8


def least_squares(rows: int, columns: int) -> Function:
    a, b = fixed(rows, columns), fixed(rows)
    return lambda x: (a @ x).exp() - b


def heads(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x.sin(), x.cos())


def frozen(module: nn.Module) -> nn.Module:
    """With weights of its own, whatever was drawn before."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = fixed(*parameter.shape) + 0.01 * number
    return module.eval()


def gated_recurrence(steps: int, width: int) -> Function:
    cell = frozen(nn.GRUCell(4, width))
    signal = fixed(steps, 1, 4)

    def run(x: Tensor) -> Tensor:
        for value in signal:
            x = cell(value, x)
        return x

    return run


def residual_block(channels: int) -> Function:
    convolutions = [frozen(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2)]
    norms = [frozen(nn.BatchNorm2d(channels)) for _ in range(2)]
    last = frozen(nn.Linear(channels, 10))

    def block(x: Tensor) -> Tensor:
        y = norms[1](convolutions[1](norms[0](convolutions[0](x)).relu()))
        return last((x + y).relu().mean((2, 3)))

    return block


def u_net(x: Tensor) -> Tensor:
    first, middle, last = fixed(8, 1, 3, 3), fixed(8, 8, 3, 3), fixed(1, 16, 3, 3)
    fine = F.conv2d(x, first, padding=1).relu()
    coarse = F.conv2d(F.max_pool2d(fine, 2), middle, padding=1).relu()
    return F.conv2d(torch.cat([F.interpolate(coarse, scale_factor=2, mode="bilinear"), fine], 1), last, padding=1)


def rotations(x: Tensor) -> Tensor:
    """The end of an arm of joints that turn about their own axes."""
    end = torch.eye(4)
    for number, angle in enumerate(x):
        cos, sin = angle.cos(), angle.sin()
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rows = [(cos, -sin, zero, zero), (sin, cos, zero, zero), (zero, zero, one, zero), (zero, zero, zero, one)]
        end = end @ torch.stack([torch.stack(row) for row in rows]) @ (torch.eye(4) + fixed(4, 4) / (number + 2))
    return end[:3, 3]


def runge_kutta(steps: int, width: int) -> Function:
    weight, h = fixed(width, width), 0.01

    def run(x: Tensor) -> Tensor:
        for _ in range(steps):
            a = torch.tanh(weight @ x)
            b = torch.tanh(weight @ (x + h / 2 * a))
            c = torch.tanh(weight @ (x + h / 2 * b))
            d = torch.tanh(weight @ (x + h * c))
            x = x + h / 6 * (a + 2 * b + 2 * c + d)
        return x

    return run


def problems() -> dict[str, tuple[tuple[int, ...], Function]]:
    """Shape of the input, and the function."""
    a, b = fixed(40, 60), fixed(30, 30)
    return {
        "exp of 1": ((1,), torch.exp),
        "square of 3": ((3,), lambda x: x**2),
        "ger of 3": ((3,), lambda x: torch.ger(x, x)),
        "Rosenbrock residuals, 2": ((2,), lambda x: torch.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])),
        "robot arm of 7 joints": ((7,), robot_arm),
        "robot arm of 60 joints": ((60,), robot_arm),
        "Lorenz 96, 40": ((40,), lorenz),
        "Lorenz 96, 1000": ((1000,), lorenz),
        "linear 100 -> 100": ((100,), mlp(100, 100)),
        "linear 1000 -> 1000": ((1000,), mlp(1000, 1000)),
        "matrix product 40x60 @ 60x10": ((60, 10), lambda x: a @ x),
        "inverse of 8x8": ((8, 8), lambda x: torch.linalg.inv(x + 4 * torch.eye(8))),
        "matrix square of 12x12": ((12, 12), lambda x: x @ x),
        "quadratic forms, 30": ((20, 30), lambda x: (x @ b * x).sum(1)),
        "softmax of 10": ((10,), lambda x: x.softmax(0)),
        "softmax of 500": ((500,), lambda x: x.softmax(0)),
        "softmax of 50 x 20": ((50, 20), lambda x: x.softmax(1)),
        "cumsum of 300": ((300,), lambda x: x.sin().cumsum(0)),
        "sort of 200": ((200,), lambda x: x.sort().values ** 2),
        "layer norm of 16 x 32": ((16, 32), lambda x: F.layer_norm(x, (32,)).tanh()),
        "elementwise, 100": ((100,), lambda x: x.sin() * x.exp()),
        "elementwise, 2000": ((2000,), lambda x: x.sin() * x.exp()),
        "heat equation, 200": ((200,), heat),
        "heat equation, 1000": ((1000,), heat),
        "wide stencil, 24 x 24": ((24, 24), wide_stencil),
        "attention of 8 x 16": ((8, 16), attention),
        "attention of 4 x 6 x 8": ((4, 6, 8), attention),
        "convolutions, 3 x 12 x 12": ((1, 3, 12, 12), convolution(3, 16)),
        "convolutions, 1 x 24 x 24": ((1, 1, 24, 24), convolution(1, 8)),
        "least squares 500 x 10": ((10,), least_squares(500, 10)),
        "least squares 5000 x 50": ((50,), least_squares(5000, 50)),
        "least squares 50 x 500": ((500,), least_squares(50, 500)),
        "recurrence, 10 steps of 20": ((20,), recurrent(10, 20)),
        "recurrence, 50 steps of 8": ((8,), recurrent(50, 8)),
        "scalar MLP 100-64-64-1": ((100,), mlp(100, 64, 64, 1)),
        "MLP 2-16-16-2": ((2,), mlp(2, 16, 16, 2)),
        "MLP 10-64-64-10": ((10,), mlp(10, 64, 64, 10)),
        "MLP 64-256-256-32": ((64,), mlp(64, 256, 256, 32)),
        "relu MLP 200-300-300-100": ((200,), mlp(200, 300, 300, 100, activation=torch.relu)),
        "MLP 512-512-512-512": ((512,), mlp(512, 512, 512, 512)),
        "MLP 1024-1024-1024-512": ((1024,), mlp(1024, 1024, 1024, 512)),
        "MLP 784-64-10": ((784,), mlp(784, 64, 10)),
        "MLP 10-256-256-3000": ((10,), mlp(10, 256, 256, 3000)),
        "autoencoder 784-256-16-256-784": ((784,), mlp(784, 256, 16, 256, 784)),
        "autoencoder 300-8-300": ((300,), mlp(300, 8, 300)),
        "residual net of 128, 4 deep": ((128,), residual_net(128, 4)),
        "200 samples of 3-32-32-2": ((200, 3), mlp(3, 32, 32, 2)),
        "32 samples of 20-64-5": ((32, 20), mlp(20, 64, 5)),
        "bilinear, 8 x 8 to 16 x 16": ((1, 1, 8, 8), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
        "bicubic, 8 x 8 to 16 x 16": ((1, 1, 8, 8), lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
        "Kronecker square of 4x4": ((4, 4), lambda x: torch.kron(x, x)),
        "heads of attention, 2 x 8 x 8": ((1, 2, 8, 8), heads),
        "GRU cell, 30 steps of 12": ((1, 12), gated_recurrence(30, 12)),
        "residual block, 4 x 8 x 8": ((1, 4, 8, 8), residual_block(4)),
        "U-net, 8 x 8": ((1, 1, 8, 8), u_net),
        "arm of 7 rotations": ((7,), rotations),
        "Runge-Kutta, 25 steps of 6": ((6,), runge_kutta(25, 6)),
    }


def contestants(function: Function, x: Tensor, create_graph: bool) -> dict[str, Callable[[], object]]:
    leaf = x.clone().requires_grad_()
    start = leaf if create_graph else x
    functional = {"create_graph": create_graph, "vectorize": True}
    return {
        "highgrad_ext": lambda: full_jacobian(function(leaf), leaf, create_graph=create_graph),
        "jacrev": lambda: jacrev(function)(start),
        "jacfwd": lambda: jacfwd(function)(start),
        "functional, reverse": lambda: jacobian(function, start, **functional),
        "functional, forward": lambda: jacobian(function, start, strategy="forward-mode", **functional),
    }


def usable(call: Callable[[], object], expected: Tensor) -> bool:
    try:
        result = call()
    except (RuntimeError, NotImplementedError):
        return False
    assert isinstance(result, Tensor)
    return torch.allclose(result, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def measure(seconds: float, create_graph: bool, chosen: str = "") -> list[dict[str, str | float]]:
    """Of the problems whose names contain `chosen`."""
    rows: list[dict[str, str | float]] = []
    for name, (shape, function) in problems().items():
        if chosen not in name:
            continue
        x = 1 + 0.3 * fixed(*shape)
        assert x.numel() * function(x).numel() <= LARGEST, name
        calls = contestants(function, x, create_graph)
        expected = jacrev(function)(x)
        calls = {peer: call for peer, call in calls.items() if usable(call, expected)}
        assert "highgrad_ext" in calls, name
        times = time_in_turns({peer: local_turn(call, "cpu") for peer, call in calls.items()}, seconds)
        medians = {peer: 1e3 * median(seen) for peer, seen in times.items()}
        ours = medians.pop("highgrad_ext")
        best = min(medians, key=lambda peer: medians[peer])
        rows.append({"problem": name, "ours": ours, "best": medians[best], "peer": best, "ratio": ours / medians[best]})
        print(f"{name}: {ours / medians[best]:.2f}", file=sys.stderr, flush=True)
    return rows


def report(rows: list[dict[str, str | float]]) -> str:
    ratios = [float(row["ratio"]) for row in rows]
    table = markdown_table(
        ["problem", "highgrad_ext, ms", "best torch peer, ms", "", "ratio"],
        [
            [
                str(r["problem"]),
                *(format_ms(float(r[key])) for key in ("ours", "best")),
                str(r["peer"]),
                f"{r['ratio']:.2f}",
            ]
            for r in sorted(rows, key=lambda r: float(r["ratio"]))
        ],
    )
    return (
        f"{table}\n\nGeometric mean {geometric_mean(ratios):.2f}, worst {max(ratios):.2f}, of {len(rows)} problems.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.6, help="a problem")
    parser.add_argument("--create-graph", action="store_true", help="results are differentiable again")
    parser.add_argument("--problems", default="", help="those whose names contain this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.seconds, options.create_graph, options.problems)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(report(rows))


if __name__ == "__main__":
    main()
