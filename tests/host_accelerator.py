"""Runs every case of gpu_cases.py on an accelerator whose memory is the host's (host_accelerator.cpp, built to the
library that is named), and compares with the CPU.

Graphs are recorded on one stream and functions called on another.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from accelerator import NAME, finish, register
from gpu_cases import CASES, NotOnThisDevice, layers, leaf, network, record, vector
from problems import PROBLEMS
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from highgrad_ext import directional, full_jacobian, laplacian, nth_derivative, partials, plan

FORWARD, CALL = 7, 3  # streams

# f of x, and what is called with both.
ON_ANOTHER_STREAM: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Any]]] = {
    "Jacobian": (network, lambda f, x: full_jacobian(f, x, create_graph=False)),
    "recorded Jacobian": (vector, full_jacobian),
    "plan": (vector, plan),
    "laplacian": (lambda x: layers(x).sum(-1), lambda f, x: laplacian(f, x, batch_dims=1)),
    "directional": (layers, lambda f, x: directional(f, x, torch.ones_like(x), 3)),
    "partials": (layers, lambda f, x: partials(f, x, [(0, 1)], batch_dims=1)),
    "jets": (layers, lambda f, x: nth_derivative(f, x, 3, method="taylor", batch_dims=1)),
}


def heat(x: Tensor) -> Tensor:
    """The residual of u_t = u_xx, of samples (t, x, y)."""
    u = layers(x).sum(-1)
    u_t, u_xx = partials(u, x, [(0,), (1, 1)], batch_dims=1)
    return u_t - u_xx


def heat_by_hand(x: Tensor) -> Tensor:
    def grad(f: Tensor) -> Tensor:
        return torch.autograd.grad(f.sum(), x, create_graph=True)[0]

    first = grad(layers(x).sum(-1))
    return first[:, 0] - grad(first[:, 1])[:, 1]


def has_python(output: Tensor) -> bool:
    """Whether a Node on the graph is a Function of the user's."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, BackwardCFunction):
            return True
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [function for function, _ in node.next_functions]
    return False


class Host:
    """The library."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        for function in ("take_reads", "take_copies", "take_jets", "take_kernels", "take_waits"):
            getattr(self.library, function).restype = ctypes.c_int64

    def set_stream(self, number: int) -> None:
        self.library.set_stream(ctypes.c_int64(number))

    def take_waits(self) -> list[list[int]]:
        """Pairs of streams: who waited, and for whom."""
        pairs = (ctypes.c_int64 * 2000)()
        count = min(1000, self.library.take_waits(pairs, ctypes.c_int64(1000)))
        return [pairs[2 * i : 2 * i + 2] for i in range(count)]

    def compare(self, call: Callable[[], Any], expected: Callable[[], Any]) -> dict[str, Any]:
        """How often a call read a number, and copied a tensor from or to the CPU; and ran a kernel for jets. Constants
        are copied by the first call, which is not counted."""
        try:
            call()
            self.library.take_reads(), self.library.take_copies(), self.library.take_jets()
            results = tree_leaves(call())
            waits = {"read": self.library.take_reads(), "copy": self.library.take_copies()}
            jets = self.library.take_jets()
            devices = {result.device.type for result in results}
            assert devices == {NAME}, devices
            assert_close([one.detach().cpu() for one in results], [one.detach() for one in tree_leaves(expected())])
        except Exception as error:
            if "'Sparse" in str(error):
                return {"unrecorded": "torch has no sparse tensors of such a device"}
            return {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}"}
        return {"waits": {how: times for how, times in waits.items() if times}, "jets": jets}


def main(path: str) -> None:
    register()
    host = Host(path)
    host.library.install()
    found: dict[str, Any] = {"cases": {}, "problems": {}, "streams": {}, "kernels": {}}
    for case, function in CASES.items():
        print(case, file=sys.stderr, flush=True)
        x = leaf(NAME).view(4, 3)
        found["cases"][case] = host.compare(
            lambda function=function, x=x: function(x), lambda function=function: function(leaf("cpu").view(4, 3))
        )
    for problem in PROBLEMS:
        print(problem.name, file=sys.stderr, flush=True)
        try:
            f, x = record(problem, NAME)
        except NotOnThisDevice as error:
            found["problems"][problem.name] = {"unrecorded": str(error).partition("\n")[0]}
            continue
        if has_python(f) or problem.fallback or "checkpoint" in problem.name:
            found["problems"][problem.name] = {"unrecorded": "Python in a backward would end the engine's thread"}
            continue
        found["problems"][problem.name] = host.compare(
            lambda f=f, x=x: full_jacobian(f, x, create_graph=False),
            lambda problem=problem: full_jacobian(*record(problem, "cpu"), create_graph=False),
        )
    for case, (build, call) in ON_ANOTHER_STREAM.items():
        host.set_stream(FORWARD)
        x = leaf(NAME).view(4, 3)
        f = build(x)
        host.set_stream(CALL)
        host.take_waits()
        call(f, x)
        found["streams"][case] = host.take_waits()
    for name, residual in (("heat", heat), ("heat by hand", heat_by_hand)):
        x = leaf(NAME).view(4, 3)
        host.library.take_kernels()
        torch.autograd.grad(residual(x).square().sum(), x)
        found["kernels"][name] = host.library.take_kernels()
    finish(found)


if __name__ == "__main__":
    main(sys.argv[1])
