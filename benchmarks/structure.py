"""What structure saves, as a Markdown table: ratios to the fastest torch peer, that of one backward, or seconds.

    python benchmarks/structure.py [--seconds 3] [--threads 2] [--problems Brusselator] [--json file]

Every figure is the median of forward pass and Jacobian, in turns with the peers', as in ``benchmarks/regret.py``, in
single precision and without a graph of the result. A kept plan is made once, outside of what is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import local_turn, time_in_turns
from benchmarks.regret import Function, contestants, fixed, mlp, usable
from benchmarks.report import format_ms, markdown_table
from highgrad_ext import full_jacobian, plan

Call = Callable[[], object]
OWN, BACKWARD = "highgrad_ext", "one backward"


@dataclass(frozen=True)
class Variant:
    """One way to call full_jacobian, and at most how many times the baseline it should take."""

    name: str
    wanted: float
    call: Callable[[Function, Tensor], Call]


def dense(function: Function, x: Tensor) -> Call:
    return lambda: full_jacobian(function(x), x, create_graph=False)


def sparse(function: Function, x: Tensor) -> Call:
    return lambda: full_jacobian(function(x), x, create_graph=False, layout=torch.sparse_csr)


def kept(function: Function, x: Tensor) -> Call:
    found = plan(function(x), x)
    return lambda: full_jacobian(function(x), x, create_graph=False, plan=found)


def kept_sparse(function: Function, x: Tensor) -> Call:
    found = plan(function(x), x, layout=torch.sparse_csr)
    return lambda: full_jacobian(function(x), x, create_graph=False, plan=found)


def by_sample(function: Function, x: Tensor) -> Call:
    return lambda: full_jacobian(function(x), x, create_graph=False, batch_dims=1)


def brusselator(state: Tensor) -> Tensor:
    def laplacian(u: Tensor) -> Tensor:
        return u.roll(1, -1) + u.roll(-1, -1) + u.roll(1, -2) + u.roll(-1, -2) - 4 * u

    u, v = state[0], state[1]
    reaction = u * u * v
    return torch.stack([1 + reaction - 4.4 * u, 3.4 * u - reaction]) + 10 * laplacian(state)


def tridiagonal(x: Tensor) -> Tensor:
    return torch.cat([x[:1], x[2:] - 2 * x[1:-1] + x[:-2] + x[1:-1] ** 2, x[-1:]])


def elements_of(n: int) -> Tensor:
    """The corners of the triangles of a square of n x n points."""
    point = torch.arange(n * n).view(n, n)
    lower = torch.stack([point[:-1, :-1], point[1:, :-1], point[:-1, 1:]], -1)
    upper = torch.stack([point[1:, 1:], point[1:, :-1], point[:-1, 1:]], -1)
    return torch.cat([lower, upper]).view(-1, 3)


def finite_elements(n: int) -> Function:
    """The residual of a reaction and a diffusion, assembled of triangles."""
    corners = elements_of(n)
    stiffness = fixed(len(corners), 3, 3)

    def residual(u: Tensor) -> Tensor:
        local = u[corners]
        force = (stiffness @ local.unsqueeze(-1)).squeeze(-1) + local.mean(1, keepdim=True) ** 3
        return torch.zeros_like(u).index_add(0, corners.view(-1), force.view(-1))

    return residual


def bundle_adjustment(cameras: int, points: int, observations: int) -> Function:
    """Where cameras of 9 parameters see points, all in one vector of parameters."""
    camera_of = (torch.arange(observations) * 7) % cameras
    point_of = (torch.arange(observations) * 13) % points

    def residual(x: Tensor) -> Tensor:
        camera = x[: 9 * cameras].view(cameras, 9)[camera_of]
        point = x[9 * cameras :].view(points, 3)[point_of]
        angle = camera[:, :3].norm(dim=1, keepdim=True)
        axis = camera[:, :3] / angle
        turned = point * angle.cos() + torch.linalg.cross(axis, point) * angle.sin()
        turned = turned + axis * (axis * point).sum(1, keepdim=True) * (1 - angle.cos()) + camera[:, 3:6]
        image = -turned[:, :2] / turned[:, 2:]
        square = (image * image).sum(1, keepdim=True)
        return image * (1 + square * camera[:, 7:8] + square * square * camera[:, 8:9]) * camera[:, 6:7]

    return residual


def springs(n: int) -> Function:
    """Forces on n x n points of a cloth, in three axes."""
    point = torch.arange(n * n).view(n, n)
    one = torch.cat([point[1:].reshape(-1), point[:, 1:].reshape(-1)])
    other = torch.cat([point[:-1].reshape(-1), point[:, :-1].reshape(-1)])

    def forces(x: Tensor) -> Tensor:
        difference = x[one] - x[other]
        force = difference * (1 - 1 / (difference.square().sum(1, keepdim=True) + 0.1).sqrt())
        return torch.zeros_like(x).index_add(0, one, -force).index_add(0, other, force)

    return forces


@dataclass(frozen=True)
class Case:
    """A function at a point. Without peers, a variant's figure is its time in seconds."""

    function: Function
    x: Tensor
    variants: tuple[Variant, ...]
    baseline: str = "best torch peer"


def cases() -> dict[str, Case]:
    network = mlp(3, 64, 64, 1)
    return {
        "1024 samples of 3-64-64-1": Case(network, fixed(1024, 3), (Variant("dense", 1 / 300, dense),)),
        "1024 samples of 3-64-64-1, batch_dims=1": Case(
            network, fixed(1024, 3), (Variant("samples", 2.5, by_sample),), BACKWARD
        ),
        "sin(x) exp(x) of 2000": Case(
            lambda x: x.sin() * x.exp(),
            fixed(2000),
            (Variant("dense", 1 / 10, dense), Variant("sparse", 1 / 40, sparse)),
        ),
        "Brusselator 2 x 24 x 24": Case(
            brusselator,
            1 + 0.1 * fixed(2, 24, 24),
            (
                Variant("dense", 1 / 2, dense),
                Variant("dense, kept plan", 1 / 12, kept),
                Variant("sparse, kept plan", 1 / 12, kept_sparse),
            ),
        ),
        "finite elements, 40 x 40": Case(
            finite_elements(40),
            fixed(1600),
            (Variant("dense", 1 / 4, dense), Variant("sparse, kept plan", 1 / 40, kept_sparse)),
        ),
        "bundle adjustment of 20 cameras": Case(
            bundle_adjustment(20, 200, 800),
            1 + 0.1 * fixed(9 * 20 + 3 * 200),
            (Variant("dense", 1 / 2, dense), Variant("sparse, kept plan", 1 / 10, kept_sparse)),
        ),
        "springs of 20 x 20 points": Case(
            springs(20),
            fixed(400, 3),
            (Variant("dense", 1 / 2, dense), Variant("sparse, kept plan", 1 / 10, kept_sparse)),
        ),
        "tridiagonal residual of 100000": Case(
            tridiagonal, fixed(100_000), (Variant("sparse", 0.5, sparse),), "seconds"
        ),
    }


def baselines(case: Case, x: Tensor) -> dict[str, Call]:
    """The calls of which the fastest is the baseline."""
    if case.baseline == "seconds":
        return {}
    if case.baseline == BACKWARD:
        return {BACKWARD: lambda: torch.autograd.grad(case.function(x).sum(), x)}
    calls = contestants(case.function, case.x, create_graph=False)
    expected = full_jacobian(case.function(x), x, create_graph=False, structure="dense", mode="reverse")
    return {name: call for name, call in calls.items() if name != OWN and usable(call, expected)}


def check(case: Case, variant: Variant, result: object, x: Tensor) -> None:
    """Raises where the result is not the dense Jacobian, of which the largest is spared."""
    assert isinstance(result, Tensor)
    if case.baseline != "best torch peer":
        return
    expected = full_jacobian(case.function(x), x, create_graph=False, structure="dense", mode="reverse")
    torch.testing.assert_close(result.to_dense().view(expected.shape), expected, msg=variant.name)


def measure(seconds: float, chosen: str = "") -> list[dict[str, str | float]]:
    """Of the problems whose names contain `chosen`."""
    rows: list[dict[str, str | float]] = []
    for name, case in cases().items():
        if chosen not in name:
            continue
        x = case.x.clone().requires_grad_()
        own = {variant: variant.call(case.function, x) for variant in case.variants}
        for variant, call in own.items():
            check(case, variant, call(), x)
        peers = baselines(case, x)
        turns = {**peers, **{variant.name: call for variant, call in own.items()}}
        times = time_in_turns({key: local_turn(call, "cpu") for key, call in turns.items()}, seconds)
        medians = {key: median(seen) for key, seen in times.items()}
        best = min(peers, key=lambda peer: medians[peer], default="")
        for variant in case.variants:
            figure = medians[variant.name]
            rows.append(
                {
                    "problem": f"{name}, {variant.name}",
                    "passes": count_passes(case, variant, x),
                    "ours": 1e3 * figure,
                    "baseline": best or case.baseline,
                    "its": 1e3 * medians[best] if best else 0.0,
                    "ratio": figure / medians[best] if best else figure,
                    "wanted": variant.wanted,
                }
            )
    return rows


def count_passes(case: Case, variant: Variant, x: Tensor) -> int:
    """How many a call takes, told by its progress; those of a kept plan are the plan's."""
    f = case.function(x)
    if variant.call in (kept, kept_sparse):
        return plan(f, x).passes
    seen: list[int] = []
    full_jacobian(
        f,
        x,
        create_graph=False,
        batch_dims=1 if variant.call is by_sample else 0,
        layout=torch.sparse_csr if variant.call is sparse else torch.strided,
        progress=lambda done, total: seen.append(total),
    )
    return seen[-1]


def report(rows: list[dict[str, str | float]]) -> str:
    header = ["problem", "passes", "highgrad_ext, ms", "baseline", "its ms", "ratio (or seconds)", "wanted at most"]
    lines = []
    for row in rows:
        ours, its, ratio, wanted = (float(row[key]) for key in ("ours", "its", "ratio", "wanted"))
        lines.append(
            [
                str(row["problem"]),
                str(row["passes"]),
                format_ms(ours),
                str(row["baseline"]),
                format_ms(its) if its else "-",
                f"{ratio:.3g}" if ratio > 0.5 or not its else f"1/{1 / ratio:.3g}",
                f"{wanted:.3g}" if wanted > 0.5 or not its else f"1/{1 / wanted:.3g}",
            ]
        )
    return markdown_table(header, lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="a problem")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--problems", default="", help="those whose names contain this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.seconds, options.problems)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(report(rows))


if __name__ == "__main__":
    main()
