"""Training steps of physics-informed networks: ``python benchmarks/pinns.py``.

A step is the forward pass of a network, the residual of an equation, the mean of its square, and the backward pass to
the weights. The peers compute the same residual: nested ``torch.autograd.grad`` of sums over samples, as such codes
are written by hand, and ``torch.func`` under ``vmap``. Prints a Markdown report, as ``benchmarks/orders.py`` does.
"""

import gc
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacfwd, jvp, vmap

import highgrad_ext
from benchmarks import report
from benchmarks.measure import Timing, local_turn, time_in_turns
from benchmarks.options import option_parser, parse, publish
from benchmarks.orders import mlp
from benchmarks.pinn_networks import Bell, BranchAndTrunk, Chebyshev, Gated, Siren
from benchmarks.run import machine
from highgrad_ext import biharmonic, directional, divergence, full_jacobian, laplacian, nth_derivative, partials

OWN, HAND, FUNC = "highgrad_ext", "nested autograd.grad", "torch.func"

# From the network and its input [samples, N] to the residual.
Residual = Callable[[nn.Module, Tensor], Tensor]


def grad(f: Tensor, x: Tensor) -> Tensor:
    """The gradients of a value a sample."""
    return torch.autograd.grad(f.sum(), x, create_graph=True)[0]


def along(x: Tensor, *axes: int) -> Tensor:
    """The directions of some axes, the same for every sample."""
    directions = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[list(axes)]
    return directions.unsqueeze(1).expand(len(axes), *x.shape)


def by_sample(function: Callable[[Callable[[Tensor], Tensor], Tensor], Any]) -> Callable[[nn.Module, Tensor], Any]:
    """What a function of (network of one sample, sample) gives for all samples, with torch.func."""

    def all_samples(net: nn.Module, x: Tensor) -> Any:
        parameters = dict(net.named_parameters())
        return vmap(lambda point: function(lambda y: functional_call(net, parameters, (y,)), point))(x)

    return all_samples


def repeated_jvp(f: Callable[[Tensor], Tensor], axis: int, order: int, like: Tensor) -> Callable[[Tensor], Tensor]:
    """The derivative of an order along an axis, by jvp of jvp."""
    direction = torch.zeros(len(like), device=like.device)
    direction[axis] = 1
    for _ in range(order):
        f = (lambda g: lambda y: jvp(g, (y,), (direction,))[1])(f)
    return f


def tanh_network(inputs: int, width: int, outputs: int) -> nn.Module:
    return mlp(inputs, width, width, width, outputs)


@dataclass(frozen=True)
class Equation:
    """A residual in three ways. inputs, outputs: of the network, which is made of them and of a width between."""

    name: str
    inputs: int
    outputs: int
    own: Residual
    hand: Residual
    func: Residual
    network: Callable[[int, int, int], nn.Module] = tanh_network

    def by(self, network: Callable[[int, int, int], nn.Module], name: str) -> "Equation":
        """The same with another network."""
        return replace(self, network=network, name=f"{self.name}, {name}")


def poisson() -> Equation:
    def own(net: nn.Module, x: Tensor) -> Tensor:
        return laplacian(net(x)[:, 0], x, batch_dims=1) + 1

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        g = grad(net(x), x)
        return grad(g[:, 0], x)[:, 0] + grad(g[:, 1], x)[:, 1] + 1

    func = by_sample(lambda u, y: hessian(lambda z: u(z)[0])(y).trace() + 1)
    return Equation("Poisson, 2-D", 2, 1, own, hand, func)


def helmholtz() -> Equation:
    def own(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        return laplacian(u, x, batch_dims=1) + 4 * u

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        g = grad(u, x)
        return sum((grad(g[:, i], x)[:, i] for i in range(3)), 4 * u)

    func = by_sample(lambda u, y: hessian(lambda z: u(z)[0])(y).trace() + 4 * u(y)[0])
    return Equation("Helmholtz, 3-D", 3, 1, own, hand, func)


def evolution(name: str, orders: int, residual: Callable[..., Tensor]) -> Equation:
    """u_t and derivatives by x up to an order. residual: of (u, u_t, u_x, u_xx, ...); the input is (t, x)."""

    def own(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        _, (u_x, u_t), *higher = directional(u, x, along(x, 1, 0), (orders, 1))
        return residual(u, u_t, u_x, *(u_k for (u_k,) in higher))

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        g = grad(u, x)
        by_x = [g[:, 1]]
        for _ in range(orders - 1):
            by_x.append(grad(by_x[-1], x)[:, 1])
        return residual(u, g[:, 0], *by_x)

    def of_sample(u: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        value = lambda z: u(z)[0]  # noqa: E731
        by_x = [repeated_jvp(value, 1, k, y)(y) for k in range(1, orders + 1)]
        return residual(value(y), repeated_jvp(value, 0, 1, y)(y), *by_x)

    return Equation(name, 2, 1, own, hand, by_sample(of_sample))


def wave() -> Equation:
    def own(net: nn.Module, x: Tensor) -> Tensor:
        second = nth_derivative(net(x)[:, 0], x, 2, reduce="diagonal", batch_dims=1)
        return second[:, 0] - 4 * second[:, 1]

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        g = grad(net(x), x)
        return grad(g[:, 0], x)[:, 0] - 4 * grad(g[:, 1], x)[:, 1]

    def of_sample(u: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        second = hessian(lambda z: u(z)[0])(y)
        return second[0, 0] - 4 * second[1, 1]

    return Equation("wave", 2, 1, own, hand, by_sample(of_sample))


def vorticity() -> Equation:
    """Of the stream function psi(x, y): psi_y w_x - psi_x w_y = nu laplacian(w), w = -laplacian(psi)."""
    nu = 0.01

    def own(net: nn.Module, x: Tensor) -> Tensor:
        psi = net(x)[:, 0]
        first = grad(psi, x)
        third = nth_derivative(psi, x, 3, batch_dims=1)
        w = -(third[:, :, 0, 0] + third[:, :, 1, 1])
        bilaplacian = biharmonic(psi, x, batch_dims=1)
        return first[:, 1] * w[:, 0] - first[:, 0] * w[:, 1] + nu * bilaplacian

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        first = grad(net(x), x)
        w = -(grad(first[:, 0], x)[:, 0] + grad(first[:, 1], x)[:, 1])
        slope = grad(w, x)
        diffusion = grad(slope[:, 0], x)[:, 0] + grad(slope[:, 1], x)[:, 1]
        return first[:, 1] * slope[:, 0] - first[:, 0] * slope[:, 1] - nu * diffusion

    def of_sample(psi: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        value = lambda z: psi(z)[0]  # noqa: E731
        w = lambda z: -hessian(value)(z).trace()  # noqa: E731
        first, slope = jacfwd(value)(y), jacfwd(w)(y)
        return first[1] * slope[0] - first[0] * slope[1] - nu * hessian(w)(y).trace()

    return Equation("Navier-Stokes, stream function", 2, 1, own, hand, by_sample(of_sample))


def velocities() -> Equation:
    """Steady flow of (u, v, p) by (x, y): momentum in both directions and continuity."""
    nu = 0.01

    def residual(value: Tensor, first: Tensor, diffusion: Tensor) -> Tensor:
        u, v = value[:, 0], value[:, 1]
        momentum = [u * first[:, i, 0] + v * first[:, i, 1] + first[:, 2, i] - nu * diffusion[:, i] for i in range(2)]
        return torch.stack([*momentum, first[:, 0, 0] + first[:, 1, 1]], 1)

    def own(net: nn.Module, x: Tensor) -> Tensor:
        value = net(x)
        first = nth_derivative(value, x, 1, batch_dims=1, method="taylor")
        return residual(value, first, laplacian(value[:, :2], x, batch_dims=1))

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        value = net(x)
        first = torch.stack([grad(value[:, i], x) for i in range(3)], 1)
        diffusion = [sum(grad(first[:, i, j], x)[:, j] for j in range(2)) for i in range(2)]
        return residual(value, first, torch.stack(diffusion, 1))  # type: ignore[arg-type]

    def of_sample(net: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        second = hessian(lambda z: net(z)[:2])(y)
        return net(y), jacfwd(net)(y), second.diagonal(dim1=1, dim2=2).sum(1)

    every = by_sample(of_sample)
    return Equation("Navier-Stokes, u v p", 2, 3, own, hand, lambda net, x: residual(*every(net, x)))


def elasticity() -> Equation:
    """Divergence of a field and all second derivatives of it: (grad div + laplacian) of displacements."""

    def own(net: nn.Module, x: Tensor) -> Tensor:
        second = nth_derivative(net(x), x, 2, batch_dims=1)
        return torch.einsum("sjij->si", second) + torch.einsum("sijj->si", second)

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        value = net(x)
        first = [grad(value[:, i], x) for i in range(2)]
        div = first[0][:, 0] + first[1][:, 1]
        diffusion = [sum(grad(first[i][:, j], x)[:, j] for j in range(2)) for i in range(2)]
        return grad(div, x) + torch.stack(diffusion, 1)  # type: ignore[arg-type]

    def of_sample(net: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        second = hessian(net)(y)
        return torch.einsum("jij->i", second) + torch.einsum("ijj->i", second)

    return Equation("elasticity, 2-D", 2, 2, own, hand, by_sample(of_sample))


def continuity() -> Equation:
    def own(net: nn.Module, x: Tensor) -> Tensor:
        return divergence(net(x), x, batch_dims=1)

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        value = net(x)
        return sum((grad(value[:, i], x)[:, i] for i in range(3)), x.new_zeros(()))

    return Equation("continuity, 3-D", 3, 3, own, hand, by_sample(lambda u, y: jacfwd(u)(y).trace()))


def advection() -> Equation:
    """First derivatives of one output: what a single gradient gives."""

    def own(net: nn.Module, x: Tensor) -> Tensor:
        _, (u_t, u_x) = directional(net(x)[:, 0], x, torch.eye(2, device=x.device).unsqueeze(1), 1, batch_dims=1)
        return u_t + u_x

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        first = grad(net(x), x)
        return first[:, 0] + first[:, 1]

    return Equation("advection", 2, 1, own, hand, by_sample(lambda u, y: jacfwd(lambda z: u(z)[0])(y).sum()))


def eikonal() -> Equation:
    def own(net: nn.Module, x: Tensor) -> Tensor:
        return full_jacobian(net(x)[:, 0], x, batch_dims=1).square().sum(1) - 1

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        return grad(net(x), x).square().sum(1) - 1

    func = by_sample(lambda u, y: jacfwd(lambda z: u(z)[0])(y).square().sum() - 1)
    return Equation("eikonal, 3-D", 3, 1, own, hand, func)


def mixed(
    name: str, indices: list[tuple[int, ...]], residual: Callable[..., Tensor], hand: Residual, inputs: int = 2
) -> Equation:
    """residual: of u and its partial derivatives by (t, x), or more."""

    def own(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        return residual(u, *partials(u, x, indices, batch_dims=1))

    def of_sample(net: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        derivatives = []
        for index in indices:
            f = lambda z: net(z)[0]  # noqa: E731
            for axis in index:
                f = repeated_jvp(f, axis, 1, y)
            derivatives.append(f(y))
        return residual(net(y)[0], *derivatives)

    return Equation(name, inputs, 1, own, hand, by_sample(of_sample))


def long_waves() -> Equation:
    """Benjamin, Bona and Mahony: u_t + u_x + u u_x - u_txx."""

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        first = grad(u, x)
        mixed = grad(grad(first[:, 1], x)[:, 1], x)[:, 0]
        return first[:, 0] + first[:, 1] + u * first[:, 1] - mixed

    residual = lambda u, u_t, u_x, u_txx: u_t + u_x + u * u_x - u_txx  # noqa: E731
    return mixed("Benjamin-Bona-Mahony", [(0,), (1,), (0, 1, 1)], residual, hand)


def sine_gordon() -> Equation:
    def hand(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        return grad(grad(u, x)[:, 0], x)[:, 1] - u.sin()

    return mixed("sine-Gordon, u_tx", [(0, 1)], lambda u, u_tx: u_tx - u.sin(), hand)


def minimal_surface() -> Equation:
    def residual(u: Tensor, u_x: Tensor, u_y: Tensor, u_xx: Tensor, u_xy: Tensor, u_yy: Tensor) -> Tensor:
        return (1 + u_x**2) * u_yy - 2 * u_x * u_y * u_xy + (1 + u_y**2) * u_xx

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        first = grad(u, x)
        by_x, by_y = grad(first[:, 0], x), grad(first[:, 1], x)
        return residual(u, first[:, 0], first[:, 1], by_x[:, 0], by_x[:, 1], by_y[:, 1])

    return mixed("minimal surface", [(0,), (1,), (0, 0), (0, 1), (1, 1)], residual, hand)


def fokker_planck() -> Equation:
    """A linear drift in two dimensions, with correlated noise, as it is written out."""

    def residual(u: Tensor, u_t: Tensor, u_x: Tensor, u_y: Tensor, u_xx: Tensor, u_xy: Tensor, u_yy: Tensor) -> Tensor:
        return u_t - 2 * u - u_x - 0.5 * u_y - 0.5 * u_xx - 0.2 * u_xy - 0.5 * u_yy

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        u = net(x)[:, 0]
        first = grad(u, x)
        by_x, by_y = grad(first[:, 1], x), grad(first[:, 2], x)
        return residual(u, *first.unbind(1), by_x[:, 1], by_x[:, 2], by_y[:, 2])

    indices = [(0,), (1,), (2,), (1, 1), (1, 2), (2, 2)]
    return mixed("Fokker-Planck, 2-D", indices, residual, hand, inputs=3)


def schroedinger() -> Equation:
    """Of (u, v) by (t, x), with a nonlinearity."""

    def residual(value: Tensor, by_t: Tensor, twice_by_x: Tensor) -> Tensor:
        square = value.square().sum(-1, keepdim=True)
        turned = torch.stack([-by_t[..., 1], by_t[..., 0]], -1)
        return turned + 0.5 * twice_by_x + square * value

    def own(net: nn.Module, x: Tensor) -> Tensor:
        value, (_, by_t), (twice_by_x,) = directional(net(x), x, along(x, 1, 0), (2, 1))
        return residual(value, by_t, twice_by_x)

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        value = net(x)
        first = [grad(value[:, i], x) for i in range(2)]
        second = [grad(g[:, 1], x)[:, 1] for g in first]
        return residual(value, torch.stack([g[:, 0] for g in first], 1), torch.stack(second, 1))

    def of_sample(u: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        return residual(u(y), repeated_jvp(u, 0, 1, y)(y), repeated_jvp(u, 1, 2, y)(y))

    return Equation("Schroedinger, two outputs", 2, 2, own, hand, by_sample(of_sample))


def maxwell() -> Equation:
    """Of (E, B) by (t, x, y, z) in vacuum."""

    def curl_of(field: Tensor) -> Tensor:
        pairs = ((1, 2), (2, 0), (0, 1))
        return torch.stack([field[..., k, j + 1] - field[..., j, k + 1] for j, k in pairs], -1)

    def residual(first: Tensor) -> Tensor:
        e, b = first[..., :3, :], first[..., 3:, :]
        divergences = [sum(f[..., i, i + 1] for i in range(3)) for f in (e, b)]
        waves = [e[..., 0] - curl_of(b), b[..., 0] + curl_of(e)]
        return torch.cat([*waves, torch.stack(divergences, -1)], -1)  # type: ignore[arg-type]

    def own(net: nn.Module, x: Tensor) -> Tensor:
        return residual(
            directional(net(x), x, torch.eye(4, device=x.device).unsqueeze(1), 1, batch_dims=1)[1].permute(1, 2, 0)
        )

    def hand(net: nn.Module, x: Tensor) -> Tensor:
        value = net(x)
        return residual(torch.stack([grad(value[:, i], x) for i in range(6)], 1))

    return Equation("Maxwell", 4, 6, own, hand, by_sample(lambda u, y: residual(jacfwd(u)(y))))


def equations() -> list[Equation]:
    """The equations of the table."""
    heat = evolution("heat", 2, lambda u, u_t, u_x, u_xx: u_t - 0.1 * u_xx)
    return [
        advection(),
        eikonal(),
        heat.by(BranchAndTrunk, "DeepONet"),
        long_waves(),
        minimal_surface(),
        fokker_planck(),
        sine_gordon(),
        heat.by(Bell, "exp(-x x)"),
        heat.by(Gated, "gates"),
        heat.by(Chebyshev, "Chebyshev KAN"),
        helmholtz().by(Siren, "SIREN"),
        schroedinger(),
        maxwell(),
        poisson(),
        helmholtz(),
        heat,
        evolution("Burgers", 2, lambda u, u_t, u_x, u_xx: u_t + u * u_x - 0.01 * u_xx),
        evolution("Allen-Cahn", 2, lambda u, u_t, u_x, u_xx: u_t - 1e-4 * u_xx + 5 * u**3 - 5 * u),
        wave(),
        evolution("Korteweg-de Vries", 3, lambda u, u_t, u_x, u_xx, u_xxx: u_t + 6 * u * u_x + u_xxx),
        evolution("Kuramoto-Sivashinsky", 4, lambda u, u_t, u_x, u_xx, u_xxx, u_xxxx: u_t + u * u_x + u_xx + u_xxxx),
        vorticity(),
        velocities(),
        elasticity(),
        continuity(),
    ]


def step(residual: Residual, net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the loss by all weights."""
    loss = residual(net, x).square().mean()
    # Every equation drops the last bias but those that hold u itself.
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)


def measure(equation: Equation, samples: int, width: int, seconds: float, device: str = "cpu") -> dict[str, Any]:
    """Milliseconds of all that memory holds, and the largest difference of own gradients from those by hand."""
    torch.manual_seed(0)
    net = equation.network(equation.inputs, width, equation.outputs).to(device)
    x = torch.rand(samples, equation.inputs).to(device).requires_grad_()
    ways = {OWN: equation.own, HAND: equation.hand, FUNC: equation.func}
    steps = {name: (lambda residual=residual: step(residual, net, x)) for name, residual in ways.items()}
    flat = {}
    for name, run in steps.items():
        with suppress(torch.OutOfMemoryError):
            flat[name] = torch.cat([g.reshape(-1) for g in run()])
    expected = flat.get(HAND, flat[OWN])
    largest = {name: ((found - expected).abs().max() / expected.abs().max()).item() for name, found in flat.items()}
    turns = {name: local_turn(steps[name]) for name in flat}
    times = {name: asdict(Timing.of(t)) for name, t in time_in_turns(turns, seconds).items()}
    return {
        "equation": equation.name,
        "samples": samples,
        "width": width,
        "difference": largest[OWN],
        "peers_differ": largest.get(FUNC),
        **times,
    }


_HEADER = ["equation", "samples", "width", "highgrad_ext", "nested grad", "torch.func"]
_HEADER += ["ratio of min to the best", "of medians"]
_HEADER += ["largest difference"]
_PREAMBLE = """\
Milliseconds, the least and the median, of a training step: forward pass of a network with three hidden layers, of tanh
where no other is named, residual, and gradients of the mean of its square by all weights, single precision; all three
in turns in one run. The largest difference is that of the gradients from those by nested grad, relative to the largest
of them."""


def _cells(row: dict[str, Any]) -> list[str]:
    times, ratios = [], []
    for name in (OWN, HAND, FUNC):
        figures = [report.format_ms(row[name][key]) for key in ("min_ms", "median_ms")] if name in row else []
        times.append(" / ".join(figures) or "out of memory")
    for key in ("min_ms", "median_ms"):
        best = min((row[name][key] for name in (HAND, FUNC) if name in row), default=math.inf)
        ratios.append(f"{row[OWN][key] / best:.2f}")
    cells = [row["equation"], str(row["samples"]), str(row["width"]), *times]
    return [*cells, *ratios, f"{row['difference']:.0e}"]


def markdown(figures: dict[str, Any]) -> str:
    """The whole report."""
    software = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    table = report.markdown_table(_HEADER, [_cells(row) for row in figures["rows"]])
    return "\n\n".join([f"{report.hardware(figures)}; {software}", _PREAMBLE, table]) + "\n"


def run(
    sizes: list[tuple[int, int]], seconds: float, threads: int, only: str = "", device: str = "cpu"
) -> dict[str, Any]:
    """All figures of a run, as the JSON file keeps them. sizes: samples and width."""
    figures: dict[str, Any] = {"machine": machine(), "threads": threads}
    figures["versions"] = {"torch": torch.__version__, "highgrad_ext": highgrad_ext.__version__}
    figures["rows"] = []
    gc.freeze()  # what is loaded by now needs no collecting between two calls
    for equation in equations():
        if only in equation.name:
            for samples, width in sizes:
                print(f"{equation.name}, {samples} samples, width {width}", file=sys.stderr, flush=True)
                figures["rows"].append(measure(equation, samples, width, seconds, device))
    return figures


def main() -> None:
    options = parse(option_parser(__doc__, 3.0, "row"))
    sizes = [(100, 20), (1000, 64), (4000, 128)] + [(50_000, 256)] * (options.device == "cuda")
    figures = run(sizes, options.seconds, options.threads, options.problems, options.device)
    publish(options, figures, markdown(figures))


if __name__ == "__main__":
    main()
