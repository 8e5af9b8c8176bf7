"""Times highgrad_ext against other ways to the same derivatives: ``python benchmarks/run.py``.

Prints a Markdown report; ``--json`` keeps all figures for ``benchmarks/compare.py``, ``--png`` draws them. What is
timed, and how, is said in ``benchmarks/README.md``.
"""

import argparse
import gc
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch

import highgrad_ext
from benchmarks import jax_peers, memory, report
from benchmarks.measure import Timing, Turn, WrongResult, check, local_turn, time_in_turns
from benchmarks.options import option_parser, parse, publish
from benchmarks.peers import ALL_TORCH, Prepare, Result, TorchOps, loop_derivative
from benchmarks.problems import PROBLEMS, Case, Problem

# Runs a peer for the first time: its result, to be checked, and its turn, to be timed.
Start = Callable[[], tuple[Result, Turn]]


def _start_local(prepare: Prepare, case: Case, order: int) -> tuple[Result, Turn]:
    call = prepare(case, order)
    return call(), local_turn(call)


def _start_jax(worker: jax_peers.JaxWorker, peer: str, problem: Problem) -> tuple[Result, Turn]:
    return worker.prepare(peer, problem.name), partial(worker.turn, peer, problem.name)


def time_peers(starts: dict[str, Start], oracle: Result, seconds: float) -> dict[str, Any]:
    """Checks every peer, which is its warm-up too, then times the right ones in turns. One row a peer."""
    rows: dict[str, Any] = {}
    turns: dict[str, Turn] = {}
    for name, start in starts.items():
        try:
            result, turn = start()
            rows[name] = {"status": "ok", "error": check(result, oracle)}
            turns[name] = turn
        except WrongResult as error:
            rows[name] = {"status": "wrong", "reason": str(error)}
        except Exception as error:  # whatever a peer raises is its row, not the end of the run
            rows[name] = {"status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    for name, times in time_in_turns(turns, seconds).items():
        rows[name] |= asdict(Timing.of(times))
    return rows


def run_problem(
    problem: Problem,
    seconds: float,
    device: str = "cpu",
    peers: dict[str, Prepare] = ALL_TORCH,
    jax: jax_peers.JaxWorker | None = None,
) -> dict[str, Any]:
    """All figures of one problem."""
    oracle_case = problem.build(TorchOps(dtype=torch.float64))
    oracle = loop_derivative(oracle_case, problem.order)
    case = problem.build(TorchOps(device))
    starts: dict[str, Start] = {
        name: partial(_start_local, prepare, case, problem.order) for name, prepare in peers.items()
    }
    if jax is not None:
        starts |= {name: partial(_start_jax, jax, name, problem) for name in jax_peers.PEERS}
    rows = time_peers(starts, oracle, seconds)
    return {
        "name": problem.name,
        "order": problem.order,
        "f_shape": list(oracle_case.function(oracle_case.wrt).shape),
        "wrt_shape": _shape(oracle_case.wrt),
        "peers": rows,
        "summary": report.summarize(rows),
    }


def _shape(wrt: Result) -> Any:
    return {name: list(leaf.shape) for name, leaf in wrt.items()} if isinstance(wrt, dict) else list(wrt.shape)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    host = {"processor": _processor(), "cores": os.cpu_count(), "platform": platform.platform()}
    return host | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _versions(jax: jax_peers.JaxWorker) -> dict[str, str | None]:
    installed = {package: _version(package) for package in ("torchjd", "numpy")}
    own = {"python": platform.python_version(), "highgrad_ext": highgrad_ext.__version__, "torch": torch.__version__}
    return {**own, **installed, "jax": jax.version()}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a run, as the JSON file keeps them."""
    problems = [problem for problem in PROBLEMS if options.problems in problem.name]
    if not problems:
        raise SystemExit(f"no problem has {options.problems!r} in its name: {[p.name for p in PROBLEMS]}")
    figures: dict[str, Any] = {"machine": machine()}
    figures |= {"device": options.device, "threads": options.threads}
    gc.freeze()  # what is loaded by now needs no collecting between two calls
    with jax_peers.JaxWorker(options.jax_python, options.threads, options.device) as worker:
        figures["versions"] = _versions(worker)
        figures["problems"] = []
        jax = worker if figures["versions"]["jax"] else None
        for number, problem in enumerate(problems, 1):
            print(f"[{number}/{len(problems)}] {problem.name}", file=sys.stderr, flush=True)
            figures["problems"].append(run_problem(problem, options.seconds, options.device, jax=jax))
    print("peak memory", file=sys.stderr, flush=True)
    figures["memory"] = memory.measure_all(options.threads, options.device)
    return figures


def main() -> None:
    parser = option_parser(__doc__, 5.0, "problem")
    parser.add_argument(
        "--jax-python",
        default=os.environ.get("HIGHGRAD_JAX_PYTHON"),
        metavar="PATH",
        help="the Python of an environment with JAX (default: HIGHGRAD_JAX_PYTHON, else this one)",
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the medians (needs matplotlib)")
    options = parse(parser)
    figures = run(options)
    if options.png:
        report.chart(figures, options.png)
    publish(options, figures, report.markdown(figures))


if __name__ == "__main__":
    main()
