"""What structure saves, as a Markdown table: ratios to the fastest torch peer, that of one backward, or seconds.

    python benchmarks/structure.py [--seconds 3] [--threads 2] [--problems Brusselator]
    python benchmarks/structure.py --dense [--held-out] [--seconds 3] [--threads 2] [--problems MLP]

Every figure is the median of forward pass and Jacobian, in turns with the peers', as in ``benchmarks/regret.py``, in
single precision and without a graph of the result. A kept plan is made once, outside of what is timed. Besides the
peers, the same call with ``structure="dense"`` is timed.

With ``--dense``: what a call loses to the attempt where there is nothing to be found, against ``structure="dense"`` in
turns, Jacobian alone. Figures are the fastest calls, since the losses are smaller than the noise of most machines; the
last is of the calls of which a quarter are faster. On one thread, of the time that the process had a core. With
``--held-out`` the problems are those that no constant was set on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.dense_problems import Graph, dense_problems
from benchmarks.held_out_problems import held_out_problems
from benchmarks.measure import MIN_CALLS, local_turn, time_in_turns
from benchmarks.options import on_device, option_parser, parse, publish
from benchmarks.report import format_ms, markdown_table
from benchmarks.structured_problems import (
    brusselator,
    bundle_adjustment,
    collocation,
    euler,
    finite_elements,
    gas,
    graph_network,
    kinetics,
    lennard_jones,
    neighbours,
    pendulum_chain,
    pose_graph,
    power_flow,
    runge_kutta_stages,
    sparse_design,
    spline,
    springs,
    toeplitz,
    tridiagonal,
)
from benchmarks.torch_modes import contestants, usable
from benchmarks.varied_problems import Function, fixed, mlp
from highgrad_ext import full_jacobian, plan

Call = Callable[[], object]
OWN, BACKWARD, DENSE = "highgrad_ext", "one backward", 'structure="dense"'

# What a call may lose to looking for structure in vain: the larger of these, a share and seconds.
LARGEST_SHARE, LARGEST_LOSS = 0.03, 30e-6


@dataclass(frozen=True)
class Variant:
    """One way to call full_jacobian, and at most how many times the baseline it should take."""

    name: str
    wanted: float
    call: Callable[[Function, Tensor], Call]


def dense(function: Function, x: Tensor) -> Call:
    return lambda: full_jacobian(function(x), x, create_graph=False)


def without_structure(function: Function, x: Tensor) -> Call:
    return lambda: full_jacobian(function(x), x, create_graph=False, structure="dense")


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


@dataclass(frozen=True)
class Case:
    """A function at a point. Without peers, a variant's figure is its time in seconds."""

    function: Function
    x: Tensor
    variants: tuple[Variant, ...]
    baseline: str = "best torch peer"


def first_and_kept(first: float, later: float) -> tuple[Variant, ...]:
    return (Variant("dense", first, dense), Variant("sparse, kept plan", later, kept_sparse))


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
        "graph network, 200 nodes": Case(graph_network(200, 600, 4), fixed(200, 4), first_and_kept(1 / 2, 1 / 10)),
        "cubic spline of 300 knots at 1500": Case(spline(300, 1500), fixed(300), first_and_kept(1 / 2, 1 / 10)),
        "Toeplitz matrix of 1500": Case(toeplitz(9), fixed(1500), first_and_kept(1 / 4, 1 / 40)),
        "Hessian of 343 atoms": Case(lennard_jones(7), neighbours(7)[0], first_and_kept(1 / 2, 1 / 10)),
        "power flow of 500 buses": Case(power_flow(500), 0.1 * fixed(2, 500), first_and_kept(1 / 4, 1 / 20)),
        "kinetics of 100 cells, 10 species": Case(kinetics(10, 20), fixed(100, 10), first_and_kept(1 / 10, 1 / 20)),
        "Euler's equations, 300 cells": Case(euler, gas(300), first_and_kept(1 / 2, 1 / 8)),
        "Runge and Kutta's stages, 2 x 500": Case(runge_kutta_stages, fixed(2, 500), first_and_kept(1 / 4, 1 / 20)),
        "chain of 150 pendulums": Case(pendulum_chain, fixed(7, 150), first_and_kept(1 / 2, 1 / 10)),
        "pose graph of 300": Case(pose_graph(300, 100), fixed(300, 3), first_and_kept(1 / 2, 1 / 10)),
        "collocation of 200 steps": Case(collocation(200), 0.1 * fixed(1002), first_and_kept(1 / 2, 1 / 10)),
        "sparse design of 2000 x 400": Case(sparse_design(2000, 400, 4), fixed(400), first_and_kept(1, 1 / 10)),
        "finite elements, 100000 unknowns": Case(
            finite_elements(317),
            fixed(317 * 317),
            (Variant("sparse", 2, sparse), Variant("sparse, kept plan", 0.5, kept_sparse)),
            "seconds",
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


def measure(seconds: float, chosen: str = "", device: str = "cpu") -> list[dict[str, str | float]]:
    """Of the problems whose names contain `chosen`."""
    rows: list[dict[str, str | float]] = []
    for name, made in on_device(cases, device)().items():
        if chosen not in name:
            continue
        case = replace(made, function=on_device(made.function, device))
        x = case.x.clone().requires_grad_()
        own = {variant: variant.call(case.function, x) for variant in case.variants}
        for variant, call in own.items():
            check(case, variant, call(), x)
        peers = baselines(case, x)
        turns = {**peers, **{variant.name: call for variant, call in own.items()}}
        if case.baseline == "best torch peer":
            turns[DENSE] = without_structure(case.function, x)
        times = time_in_turns({key: local_turn(call) for key, call in turns.items()}, seconds)
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
                    "dense": 1e3 * medians.get(DENSE, 0.0),
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
    header = ["problem", "passes", "ms", "baseline", "its ms", "dense, ms", "ratio (or seconds)", "wanted at most"]
    lines = []
    for row in rows:
        ours, its, dense, ratio, wanted = (float(row[key]) for key in ("ours", "its", "dense", "ratio", "wanted"))
        lines.append(
            [
                str(row["problem"]),
                str(row["passes"]),
                format_ms(ours),
                str(row["baseline"]),
                format_ms(its) if its else "-",
                format_ms(dense) if dense else "-",
                f"{ratio:.3g}" if ratio > 0.5 or not its else f"1/{1 / ratio:.3g}",
                f"{wanted:.3g}" if wanted > 0.5 or not its else f"1/{1 / wanted:.3g}",
            ]
        )
    return markdown_table(header, lines) + "\n"


def measure_losses(seconds: float, graphs: dict[str, Graph]) -> list[dict[str, str | float]]:
    """Of dense problems, the worst first."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    rows: list[dict[str, str | float]] = []
    for name, graph in graphs.items():
        f, wrt = graph()
        times: dict[str, list[float]] = {"auto": [], "dense": []}
        while min(len(seen) for seen in times.values()) < MIN_CALLS or sum(map(sum, times.values())) < seconds:
            # Neither is always the one that finds what the other has left in the caches.
            for structure in sorted(times, reverse=len(times["auto"]) % 2 == 0):
                start = clock()
                full_jacobian(f, wrt, create_graph=False, structure=structure)
                times[structure].append(clock() - start)
        auto, dense = (min(seen) for seen in times.values())
        quarter = [sorted(seen)[len(seen) // 4] for seen in times.values()]
        allowed = max(LARGEST_LOSS, LARGEST_SHARE * dense)
        rows.append(
            {
                "problem": name,
                "dense": dense,
                "auto": auto,
                "loss": (auto - dense) / allowed,
                "of quarter": (quarter[0] - quarter[1]) / allowed,
            }
        )
    return sorted(rows, key=lambda row: -float(row["loss"]))


def report_losses(rows: list[dict[str, str | float]]) -> str:
    header = ["problem", "dense, ms", "auto, ms", "loss", "of what is allowed", "by quarters"]
    lines = []
    for row in rows:
        auto, dense, loss, of_quarter = (float(row[key]) for key in ("auto", "dense", "loss", "of quarter"))
        lines.append(
            [
                str(row["problem"]),
                format_ms(1e3 * dense),
                format_ms(1e3 * auto),
                f"{auto / dense - 1:+.1%}",
                f"{loss:+.2f}",
                f"{of_quarter:+.2f}",
            ]
        )
    over = [[float(row[key]) > 1 for row in rows] for key in ("loss", "of quarter")]
    both = sum(map(all, zip(*over, strict=True)))
    return (
        markdown_table(header, lines)
        + f"\nThe worst of {len(rows)}: {rows[0]['problem']}. More than allowed: {sum(over[0])}, by quarters "
        + f"{sum(over[1])}, by both {both}.\n"
    )


def main() -> None:
    parser = option_parser(__doc__, 3.0, "problem")
    parser.add_argument("--dense", action="store_true", help="what is lost where there is nothing to be found")
    parser.add_argument("--held-out", action="store_true", help="with --dense: of problems that nothing was set on")
    options = parse(parser)
    if options.dense:
        graphs = on_device(held_out_problems if options.held_out else dense_problems, options.device)()
        graphs = {name: on_device(graph, options.device) for name, graph in graphs.items() if options.problems in name}
        rows = measure_losses(options.seconds, graphs)
        publish(options, rows, report_losses(rows))
    else:
        rows = measure(options.seconds, options.problems, options.device)
        publish(options, rows, report(rows))


if __name__ == "__main__":
    main()
