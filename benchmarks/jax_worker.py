"""JAX's side of the benchmark, run by ``benchmarks/run.py`` in a process of its own, perhaps of another environment.

It reads one request a line from stdin and answers each with one line of JSON:

* ``{"prepare": peer, "problem": name, "result": path}`` compiles the peer, runs it once and saves its result (.npz);
  answers ``{"ok": true, "compile_seconds": ...}``;
* ``{"turn": seconds, "peer": peer, "problem": name}`` runs it for about that long; answers ``{"times": [...]}``;
* ``{"version": true}`` answers ``{"version": ...}``.

What goes wrong is answered as ``{"error": ...}``. Needs JAX and NumPy, not PyTorch.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.problems import PROBLEMS

PEERS = {"JAX jit jacrev": "jacrev", "JAX jit jacfwd": "jacfwd"}


class JaxOps:
    """The array operations of the problems in JAX, single precision."""

    def __init__(self) -> None:
        import jax.numpy as jnp

        self.jnp = jnp
        self.tanh, self.sin, self.exp, self.outer, self.stack = jnp.tanh, jnp.sin, jnp.exp, jnp.outer, jnp.stack
        self.roll = jnp.roll

    def array(self, values: np.ndarray) -> Any:
        return self.jnp.asarray(values, dtype=self.jnp.float32)

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight.T + bias


class Worker:
    """Keeps the compiled function of each peer and problem between requests."""

    def __init__(self) -> None:
        self.prepared: dict[tuple[str, str], Callable[[], Any]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "version" in request:
            import jax

            return {"version": jax.__version__}
        if "prepare" in request:
            return self.prepare(request["prepare"], request["problem"], request["result"])
        return self.turn(self.prepared[request["peer"], request["problem"]], request["turn"])

    def prepare(self, peer: str, problem_name: str, result_path: str) -> dict[str, Any]:
        import jax

        problem = next(problem for problem in PROBLEMS if problem.name == problem_name)
        case = problem.build(JaxOps())
        derivative = case.function
        for _ in range(problem.order):
            derivative = getattr(jax, PEERS[peer])(derivative)
        compiled = jax.jit(derivative)
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(case.wrt))
        seconds = time.perf_counter() - start
        np.savez(result_path, **(result if isinstance(result, dict) else {"result": result}))
        self.prepared[peer, problem_name] = lambda: jax.block_until_ready(compiled(case.wrt))
        return {"ok": True, "compile_seconds": seconds}

    def turn(self, call: Callable[[], Any], seconds: float) -> dict[str, Any]:
        times: list[float] = []
        while not times or sum(times) < seconds:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return {"times": times}


def main(num_threads: int) -> None:
    # XLA takes a thread for every core it may run on, so the number of threads is set by the affinity.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # whatever JAX raises is this peer's row, not the end of the run
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
