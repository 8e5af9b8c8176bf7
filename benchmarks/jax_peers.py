"""Talks to the JAX worker: JAX is shown beside the PyTorch peers, and never needed."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.jax_worker import PEERS as PEERS
from benchmarks.peers import Result


class JaxWorker:
    """A process that runs JAX with its own Python, one request at a time. Use as a context manager."""

    def __init__(self, python: str | None, num_threads: int, device: str) -> None:
        command = [python or sys.executable, str(Path(__file__).with_name("jax_worker.py")), str(num_threads)]
        environment = {**os.environ, "JAX_PLATFORMS": device}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> "JaxWorker":
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def request(self, **message: Any) -> dict[str, Any]:
        """One request and its answer; raises RuntimeError with the worker's error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the JAX process ended"}
        if "error" in answer:
            raise RuntimeError(f"JAX: {answer['error']}")
        return answer

    def version(self) -> str | None:
        """JAX's version, or None where it is not installed."""
        try:
            return str(self.request(version=True)["version"])
        except RuntimeError:
            return None

    def prepare(self, peer: str, problem: str) -> Result:
        """Compiles a peer for a problem and returns its result for the check."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "result.npz")
            self.request(prepare=peer, problem=problem, result=path)
            with np.load(path) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return tensors["result"] if list(tensors) == ["result"] else tensors

    def turn(self, peer: str, problem: str, seconds: float) -> list[float]:
        """Times of the calls that fit into about that many seconds (at least one), in seconds."""
        times: list[float] = self.request(peer=peer, problem=problem, turn=seconds)["times"]
        return times
