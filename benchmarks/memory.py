"""Peak memory of one Jacobian, measured in a process of its own: ``python benchmarks/memory.py func.jacrev``.

The Jacobian is that of a network with 1000 inputs and 10000 outputs, 40 MB in single precision. The figure is the peak
of the resident memory (of the allocated memory on a GPU) over what the process held just before, with the tape
recorded, divided by the bytes of the result: 1 would be the result and nothing else. Peak resident memory is read from
Linux's /proc; elsewhere there is no figure.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import highgrad_ext

PEERS = ("highgrad_ext", "func.jacrev")
WIDTHS = (1000, 256, 10000)


def _call(peer: str, widths: tuple[int, int, int], device: str) -> Callable[[], Tensor]:
    inputs, hidden, outputs = widths
    network = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, outputs))
    network.to(device).requires_grad_(False)
    x = torch.randn(inputs, device=device)
    if peer == "func.jacrev":
        return lambda: torch.func.jacrev(network)(x)
    f = network(x.requires_grad_())
    return lambda: highgrad_ext.full_jacobian(f, x, create_graph=False)


def _resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _reset_peak() -> None:
    """Brings VmHWM down to VmRSS; where this is not allowed, the peak of the start-up stays, close to VmRSS."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure(peer: str, device: str) -> dict[str, float]:
    """Bytes of the result, bytes of the peak over the baseline, and their ratio, for one peer in this process."""
    _call(peer, (10, 10, 10), device)()  # loads what is loaded on first use
    call = _call(peer, WIDTHS, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        baseline = torch.cuda.memory_allocated()
        result = call()
        peak = torch.cuda.max_memory_allocated()
    else:
        _reset_peak()
        baseline = _resident("VmRSS")
        result = call()
        peak = _resident("VmHWM")
    size = result.nbytes
    return {"result_bytes": size, "peak_bytes": peak - baseline, "ratio": (peak - baseline) / size}


def measure_all(num_threads: int, device: str) -> dict[str, dict[str, float | str]]:
    """The figures of all peers, each from a fresh process; an ``error`` where there is none."""
    figures: dict[str, dict[str, float | str]] = {}
    for peer in PEERS:
        command = [sys.executable, __file__, peer, "--threads", str(num_threads), "--device", device]
        process = subprocess.run(command, capture_output=True, text=True)
        failed = {"error": (process.stderr.strip().splitlines() or ["no output"])[-1]}
        figures[peer] = failed if process.returncode else json.loads(process.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options.peer, options.device)))


if __name__ == "__main__":
    main()
