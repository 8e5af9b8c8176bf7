"""Whether a peer's choice of mode ever beats the planner's: 82 problems of all shapes and sizes, as a Markdown table.

    python benchmarks/regret.py [--seconds 0.6] [--create-graph] [--problems MLP]

Every figure is the median, in milliseconds, of forward pass and Jacobian in turns with the peers'. The best torch peer
is the fastest of torch.func's and torch.autograd.functional's modes on that problem; the ratio is to that one. Of many
samples that do not mix (batch_dims=1), peers are vmap of torch.func's modes, and rows of all samples at once, by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import geometric_mean, median

from torch import Tensor
from torch.autograd.functional import jacobian

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import local_turn, time_in_turns
from benchmarks.options import on_device, option_parser, parse, publish
from benchmarks.report import format_ms, markdown_table
from benchmarks.torch_modes import contestants, contestants_of_samples, usable
from benchmarks.varied_problems import fixed, problems, sample_problems

LARGEST = 4_000_000  # entries of a Jacobian that the slowest peers still manage


def measure(seconds: float, create_graph: bool, chosen: str = "", device: str = "cpu") -> list[dict[str, str | float]]:
    """Of the problems whose names contain `chosen`."""
    rows: list[dict[str, str | float]] = []
    alone, of_samples = (on_device(make, device)() for make in (problems, sample_problems))
    for name, (shape, function) in (alone | of_samples).items():
        if chosen not in name:
            continue
        x = 1 + 0.3 * fixed(*shape).to(device)
        function = on_device(function, device)
        if name in alone:
            assert x.numel() * function(x).numel() <= LARGEST, name
            calls = contestants(function, x, create_graph)
            expected = jacobian(function, x)
        else:
            calls = contestants_of_samples(function, x, create_graph)
            expected = calls["vmap of jacrev"]()
        assert isinstance(expected, Tensor)
        expected = expected.detach()
        calls = {peer: call for peer, call in calls.items() if usable(call, expected)}
        assert "highgrad_ext" in calls, name
        times = time_in_turns({peer: local_turn(call) for peer, call in calls.items()}, seconds)
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
    parser = option_parser(__doc__, 0.6, "problem")
    parser.add_argument("--create-graph", action="store_true", help="results are differentiable again")
    options = parse(parser)
    rows = measure(options.seconds, options.create_graph, options.problems, options.device)
    publish(options, rows, report(rows))


if __name__ == "__main__":
    main()
