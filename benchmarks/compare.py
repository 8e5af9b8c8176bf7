"""Compares two runs: ``python benchmarks/compare.py before.json after.json`` prints the ratio for each problem.

A change is flagged where the median of highgrad_ext moved by more than 5 % and the middle halves of the calls (first to
third quartile) of the two runs do not overlap. The last column is the same ratio for the other peers (their geometric
mean): where it is far from 1, the machine changed and not only the code.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import Any

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import FROM_TAPE, HIGHGRAD
from benchmarks.report import format_ms, markdown_table

NOISE = 0.05
OURS = (HIGHGRAD, FROM_TAPE)


def verdict(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Whether one peer got "slower" or "faster"; empty for a change within noise."""
    ratio = after["median_ms"] / before["median_ms"]
    if ratio > 1 + NOISE and after["q1_ms"] > before["q3_ms"]:
        return "slower"
    if ratio < 1 / (1 + NOISE) and after["q3_ms"] < before["q1_ms"]:
        return "faster"
    return ""


def _common_peers(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The peers with a time in both runs."""
    return [n for n, row in before.items() if row["status"] == "ok" and after.get(n, {}).get("status") == "ok"]


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The Markdown report on two runs, as loaded from their JSON."""
    later = {problem["name"]: problem["peers"] for problem in after["problems"]}
    rows = []
    for problem in before["problems"]:
        old, new = problem["peers"], later.get(problem["name"], {})
        common = _common_peers(old, new)
        others = [new[name]["median_ms"] / old[name]["median_ms"] for name in common if name not in OURS]
        machine = f"{geometric_mean(others):.2f}" if others else "-"
        for name in OURS:
            if name in common:
                times = (old[name]["median_ms"], new[name]["median_ms"])
                figures = [*map(format_ms, times), f"{times[1] / times[0]:.2f}", verdict(old[name], new[name]), machine]
            else:
                figures = ["-", "-", "-", "no time in one of the runs", machine]
            rows.append([f"{problem['name']}{' (from the tape)' if name == FROM_TAPE else ''}", *figures])
    table = markdown_table(["problem", "before, ms", "after, ms", "ratio", "flag", "other peers' ratio"], rows)
    differences = [
        f"{key} differ: {before[key]} and {after[key]}"
        for key in ("machine", "device", "threads", "versions")
        if before[key] != after[key]
    ]
    return "\n\n".join([*differences, table]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    print(compare(json.loads(options.before.read_text()), json.loads(options.after.read_text())))


if __name__ == "__main__":
    main()
