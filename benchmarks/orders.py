"""Times orders above one against nested derivatives: ``python benchmarks/orders.py``.

Prints a Markdown report, which ``--markdown`` writes to a file too; ``--json`` keeps all figures. Own and peer take
turns as in ``benchmarks/run.py``; a time is that of the forward pass and the derivative, in single precision.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev, jvp, vjp, vmap

import highgrad_ext
from benchmarks import report
from benchmarks.measure import Timing, local_turn, time_in_turns
from benchmarks.options import on_device, option_parser, parse, publish
from benchmarks.run import machine
from highgrad_ext import biharmonic, directional, laplacian, nth_derivative
from highgrad_ext._reference import nth_derivative_loop

Run = Callable[[], Tensor]
OWN, PEER = "own", "peer"


@dataclass(frozen=True)
class Row:
    """One line of the table. same: whether both compute the same derivative."""

    problem: str
    peer_name: str
    own: Run
    peer: Run
    same: bool = True

    def measure(self, seconds: float) -> dict[str, Any]:
        """Milliseconds of both, and the largest difference of their results, relative to the largest entry."""
        mine, theirs = self.own(), self.peer()
        difference = (mine - theirs).abs().max() / theirs.abs().max() if self.same else None
        turns = {OWN: local_turn(self.own), PEER: local_turn(self.peer)}
        times = {who: asdict(Timing.of(t)) for who, t in time_in_turns(turns, seconds).items()}
        return {
            "problem": self.problem,
            "peer_name": self.peer_name,
            "difference": None if difference is None else difference.item(),
            **times,
        }


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
            return vjp(f, y)[1](x.new_ones(()))[0]

        return vmap(lambda v: (jvp(gradient, (x,), (v,))[1] * v).sum())(torch.eye(width, device=x.device)).sum()

    return at


def cases() -> list[Row]:
    """The lines of the table."""
    small, x = mlp(3, 32, 32, 1), torch.randn(3, requires_grad=True)
    deep, z = mlp(1, 64, 64, 64, 1), torch.randn(256, 1, requires_grad=True)
    wide, batch = mlp(50, 768, 768, 512, 512, 1), torch.randn(32, 50, requires_grad=True)
    five, y = mlp(5, 64, 64, 1), torch.randn(64, 5, requires_grad=True)
    ten, w = mlp(10, 64, 64, 64, 1), torch.randn(10, requires_grad=True)

    def full(n: int) -> Run:
        return lambda: nth_derivative(small(x)[0], x, n, create_graph=False)

    rows = [
        Row("3-32-32-1, order 4, full", "origin's loop", full(4), lambda: nth_derivative_loop(small(x)[0], x, 4)),
        Row(
            "3-32-32-1, order 4, full",
            "nested jacrev",
            full(4),
            lambda: repeated(jacrev, lambda v: small(v)[0], 4)(x.detach()),  # type: ignore[operator]
        ),
        Row("3-32-32-1, order 6, full", "the same at order 3", full(6), full(3), same=False),
        Row(
            "10-64-64-64-1, order 4, full",
            "nested, not symmetric",
            lambda: nth_derivative(ten(w)[0], w, 4, create_graph=False),
            lambda: nth_derivative(ten(w)[0], w, 4, create_graph=False, symmetric=False),
        ),
    ]
    for n in (1, 2, 4, 7, 8):
        rows.append(
            Row(
                f"256 samples of 1-64-64-64-1, order {n}",
                "nested autograd.grad",
                lambda n=n: directional(deep(z), z, torch.ones_like(z), n, create_graph=False)[n],
                lambda n=n: nested_grad(deep(z), z, n),
            )
        )
    rows.append(
        Row(
            "256 samples of 1-64-64-64-1, order 10",
            "the same at order 4",
            lambda: directional(deep(z), z, torch.ones_like(z), 10, create_graph=False)[10],
            lambda: directional(deep(z), z, torch.ones_like(z), 4, create_graph=False)[4],
            same=False,
        )
    )

    def own_laplacian() -> Tensor:
        return laplacian(wide(batch)[:, 0], batch, batch_dims=1, create_graph=False)

    twice = forward_over_reverse(forward_over_reverse(lambda v: five(v)[0], 5), 5)
    rows += [
        Row(
            "Laplacian, 32 samples of 50-768-768-512-512-1",
            "trace of vmap(hessian)",
            own_laplacian,
            lambda: vmap(hessian(lambda v: wide(v)[0]))(batch.detach()).diagonal(dim1=1, dim2=2).sum(1),
        ),
        Row(
            "Laplacian, 32 samples of 50-768-768-512-512-1",
            "jvp of vjp",
            own_laplacian,
            lambda: vmap(forward_over_reverse(lambda v: wide(v)[0], 50))(batch.detach()),
        ),
        Row(
            "biharmonic, 64 samples of 5-64-64-1",
            "jvp of vjp, twice",
            lambda: biharmonic(five(y)[:, 0], y, batch_dims=1, create_graph=False),
            lambda: vmap(twice)(y.detach()),
        ),
    ]
    return rows


_HEADER = ["problem", "highgrad_ext min", "median", "peer", "its min", "its median", "ratio of min", "ratio of medians"]
_HEADER += ["largest difference"]
_PREAMBLE = """\
Milliseconds for the forward pass and the derivative together, single precision, no graph of the result; both in turns
in one run. The largest difference is that of the results, both in single precision, relative to the largest entry."""


def _cells(row: dict[str, Any]) -> list[str]:
    own, peer = row[OWN], row[PEER]
    times = [[report.format_ms(t[key]) for key in ("min_ms", "median_ms")] for t in (own, peer)]
    ratios = [f"{own[key] / peer[key]:.2g}" for key in ("min_ms", "median_ms")]
    difference = "-" if row["difference"] is None else f"{row['difference']:.0e}"
    return [row["problem"], *times[0], row["peer_name"], *times[1], *ratios, difference]


def markdown(figures: dict[str, Any]) -> str:
    """The whole report."""
    software = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    table = report.markdown_table(_HEADER, [_cells(row) for row in figures["rows"]])
    return "\n\n".join([f"{report.hardware(figures)}; {software}", _PREAMBLE, table]) + "\n"


def run(rows: list[Row], seconds: float, threads: int) -> dict[str, Any]:
    """All figures of a run, as the JSON file keeps them."""
    figures: dict[str, Any] = {"machine": machine(), "threads": threads}
    figures["versions"] = {"torch": torch.__version__, "highgrad_ext": highgrad_ext.__version__}
    figures["rows"] = []
    gc.freeze()  # what is loaded by now needs no collecting between two calls
    for number, row in enumerate(rows, 1):
        print(f"[{number}/{len(rows)}] {row.problem}, {row.peer_name}", file=sys.stderr, flush=True)
        figures["rows"].append(row.measure(seconds))
    return figures


def main() -> None:
    options = parse(option_parser(__doc__, 3.0, "row"))
    torch.manual_seed(0)
    rows = [row for row in on_device(cases, options.device)() if options.problems in row.problem]
    figures = run(rows, options.seconds, options.threads)
    publish(options, figures, markdown(figures))


if __name__ == "__main__":
    main()
