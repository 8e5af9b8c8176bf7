"""Turns the figures of a run into a Markdown report and a chart."""

import math
from pathlib import Path
from typing import Any

from benchmarks.jax_worker import PEERS as JAX_PEERS
from benchmarks.peers import FROM_TAPE, HIGHGRAD, LOOP, TORCH_PEERS

Figures = dict[str, Any]


def format_ms(ms: float) -> str:
    """Milliseconds with three significant digits and without an exponent."""
    if ms <= 0:
        return "0"
    decimals = 2 - math.floor(math.log10(ms))
    rounded = round(ms, decimals)
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right, padded to be read as text too."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (w + 1) + ':' for w in widths[1:])}|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def summarize(peers: Figures) -> Figures:
    """The best torch peer of a problem, and highgrad_ext's time as a ratio to it and to the loop."""
    ok = {name: row for name, row in peers.items() if row["status"] == "ok"}
    ours = ok.get(HIGHGRAD)
    torch_peers = [name for name in TORCH_PEERS if name in ok]
    if ours is None or not torch_peers:
        return {"best_torch_peer": None}
    best = min(torch_peers, key=lambda name: float(ok[name]["median_ms"]))
    summary = {
        "best_torch_peer": best,
        "ratio_median": ours["median_ms"] / ok[best]["median_ms"],
        "ratio_min": ours["min_ms"] / min(ok[name]["min_ms"] for name in torch_peers),
    }
    if LOOP in ok:
        summary["ratio_to_loop_median"] = ours["median_ms"] / ok[LOOP]["median_ms"]
    return summary


def _cell(row: Figures | None, key: str = "median_ms") -> str:
    if row is None or row["status"] == "failed":
        return "-"
    return format_ms(row[key]) if row["status"] == "ok" else row["status"]


def _ratio(summary: Figures, key: str) -> str:
    return f"{summary[key]:.3g}" if key in summary else "-"


_SUMMARY_HEADER = (
    "problem",
    "highgrad_ext min",
    "median",
    "from the tape",
    "best torch peer",
    "its min",
    "its median",
    "ratio of min",
    "ratio of medians",
    "to the loop",
)


def _summary_row(problem: Figures) -> list[str]:
    peers, summary = problem["peers"], problem["summary"]
    best = summary["best_torch_peer"]
    return [
        problem["name"],
        _cell(peers.get(HIGHGRAD), "min_ms"),
        _cell(peers.get(HIGHGRAD)),
        _cell(peers.get(FROM_TAPE)),
        best or "-",
        _cell(peers.get(best), "min_ms"),
        _cell(peers.get(best)),
        _ratio(summary, "ratio_min"),
        _ratio(summary, "ratio_median"),
        _ratio(summary, "ratio_to_loop_median"),
    ]


def _peer_table(problems: list[Figures]) -> str:
    names = [HIGHGRAD, *TORCH_PEERS, *JAX_PEERS]
    rows = [[problem["name"], *(_cell(problem["peers"].get(name)) for name in names)] for problem in problems]
    return markdown_table(["problem", *names], rows)


def _reasons(problems: list[Figures]) -> list[str]:
    """One line for each distinct reason why a peer has no time, with the problems it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        for name, row in problem["peers"].items():
            if row["status"] != "ok":
                reasons.setdefault((name, f"{row['status']}: {row['reason']}"), []).append(problem["name"])
    everywhere = len(problems)
    return [
        f"* {name}, {'all problems' if len(where) == everywhere > 1 else '; '.join(where)}: {reason}"
        for (name, reason), where in reasons.items()
    ]


def _memory_lines(memory: Figures) -> list[str]:
    lines = []
    for peer, row in memory.items():
        if "error" in row:
            lines.append(f"* {peer}: - ({row['error']})")
        else:
            size, peak = row["result_bytes"] / 1e6, row["peak_bytes"] / 1e6
            lines.append(f"* {peer}: {row['ratio']:.2f} times the result ({peak:.0f} MB for {size:.0f} MB)")
    return lines


def hardware(figures: Figures) -> str:
    """The machine of a run, in a line."""
    machine = figures["machine"]
    return f"{machine.get('gpu', machine['processor'])}, {machine['cores']} cores, {figures['threads']} threads"


_PREAMBLE = """\
Milliseconds for the forward pass and the derivative together, single precision, no graph of the result; peers in turns
in one run, each checked against a float64 loop first. *From the tape* is highgrad_ext without the forward pass
(median). Ratios are highgrad_ext to the best torch peer (to the loop: of medians), smaller is better; JAX does not
count for them."""


def markdown(figures: Figures) -> str:
    """The whole report."""
    problems = figures["problems"]
    software = ", ".join(f"{name} {version}" for name, version in figures["versions"].items() if version)
    parts = [
        f"{hardware(figures)}; {software}",
        _PREAMBLE,
        markdown_table(list(_SUMMARY_HEADER), [_summary_row(problem) for problem in problems]),
        "Medians of all peers, milliseconds:",
        _peer_table(problems),
    ]
    if reasons := _reasons(problems):
        parts.append("\n".join(["No time:", "", *reasons]))
    if figures["memory"]:
        heading = "Peak memory over the baseline, Jacobian of a network with f 10000 and wrt 1000:"
        parts.append("\n".join([heading, "", *_memory_lines(figures["memory"])]))
    return "\n\n".join(parts) + "\n"


_COLORS = {
    HIGHGRAD: "#d62728",
    LOOP: "#8c8c8c",
    "functional, loop": "#c7c7c7",
    "functional, vectorized": "#9ecae1",
    "functional, forward": "#c5b0d5",
    "func.jacrev": "#1f77b4",
    "func.jacfwd": "#9467bd",
    "TorchJD": "#2ca02c",
    "JAX jit jacrev": "#ff9f1c",
    "JAX jit jacfwd": "#ffd08a",
}


def chart(figures: Figures, path: Path) -> None:
    """Writes the medians as a PNG: a group of bars for each problem, on a log scale."""
    from matplotlib.figure import Figure  # optional, and without pyplot no display is needed

    problems = figures["problems"]
    names = [name for name in _COLORS if any(_timed(problem, name) for problem in problems)]
    bar = 0.86 / max(len(names), 1)
    figure = Figure(figsize=(9.5, 1.4 + 0.95 * len(problems)), layout="constrained")
    axes = figure.add_subplot()
    medians = [row["median_ms"] for problem in problems for row in problem["peers"].values() if row["status"] == "ok"]
    left = 10 ** math.floor(math.log10(min(medians)))
    for index, problem in enumerate(problems):
        if index % 2:
            axes.axhspan(index - 0.5, index + 0.5, color="#f4f4f4", zorder=0)
        for slot, name in enumerate(names):
            if _timed(problem, name):
                ms = problem["peers"][name]["median_ms"]
                y = index - 0.43 + bar * (slot + 0.5)
                axes.barh(y, ms - left, bar * 0.9, left, color=_COLORS[name], zorder=2)
                axes.annotate(
                    format_ms(ms), (ms, y), (3, 0), textcoords="offset points", va="center", fontsize=6.5,
                    color=_COLORS[HIGHGRAD] if name == HIGHGRAD else "#555555",
                    fontweight="bold" if name == HIGHGRAD else "normal",
                )  # fmt: skip
    handles = [axes.barh(0, 0, 0, left, color=_COLORS[name], label=name) for name in names]
    axes.set_xscale("log")
    axes.set_xlim(left, max(medians) * 2.5)
    axes.set_ylim(len(problems) - 0.5, -0.5)
    labels = [problem["name"].replace(", ", ",\n").replace(": ", ":\n") for problem in problems]
    axes.set_yticks(range(len(problems)), labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major", color="#dddddd", zorder=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        "milliseconds for the forward pass and the derivative, median, log scale; shorter is better\n"
        + hardware(figures)
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)


def _timed(problem: Figures, name: str) -> bool:
    return problem["peers"].get(name, {}).get("status") == "ok"
