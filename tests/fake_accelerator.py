"""Runs the cases of gpu_cases.py with sparse tensors on an accelerator that is not there; prints what came of each, as
JSON.

torch's backend in Python (PrivateUse1) gives libtorch's engine a device with streams, and FakeTensor gives the tensors
shapes without data. What mixes devices raises, and what waits for the device is counted.
"""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from gpu_cases import CASES, leaf
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import highgrad_ext  # noqa: F401  (registers the ops)

NAME = "elsewhere"
aten = torch.ops.aten
SPARSE = ("stencil", "CSR", "COO", "sparse by a kept plan", "jets of interpolation")


class Generator(torch.Generator):
    """Of the CPU: the backend in Python has none, and numbers without values need none."""

    def __new__(cls, device: object = None) -> Generator:
        return super().__new__(cls)


class Waits(TorchDispatchMode):
    """How often what the CPU has to wait for: a number or places read, a tensor copied from or to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (aten._local_scalar_dense.default, aten.nonzero.default):
            self.seen["read"] += 1
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, result)) if isinstance(value, Tensor)]
        if func in (aten._to_copy.default, aten.copy_.default) and len({t.device.type for t in tensors}) > 1:
            self.seen["copy"] += 1
        return result


def outcome(call: Callable[[], Any]) -> dict[str, Any]:
    """What is read stops a call, unless it goes another way then."""
    with Waits() as waits:
        try:
            results = tree_leaves(call())
        except (DataDependentOutputException, DynamicOutputShapeException):
            return {"waits": waits.seen}
        except Exception as error:
            return {"waits": waits.seen, "error": f"{type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}"}
    return {"waits": waits.seen, "devices": sorted({str(result.device) for result in results})}


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


def main() -> None:
    warnings.simplefilter("ignore")
    _setup_privateuseone_for_python_backend(NAME)
    torch.Generator = Generator
    found = {}
    # Tables that are kept for later calls are plain tensors.
    with FakeTensorMode(allow_non_fake_inputs=True):
        for case in SPARSE:
            function = CASES[case]
            x = leaf(NAME).view(4, 3)
            found[case] = outcome(lambda function=function, x=x: function(x))
    print(json.dumps(found), flush=True)
    os._exit(0)  # the engine's threads of the device would outlive the interpreter that their guard is written in


if __name__ == "__main__":
    main()
