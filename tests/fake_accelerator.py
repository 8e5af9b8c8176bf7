"""Runs the cases of gpu_cases.py with sparse tensors on an accelerator that is not there, of tensors without data.

What mixes devices raises, and what waits for the device is counted.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from accelerator import NAME, finish, register
from gpu_cases import CASES, leaf
from torch import Tensor, ops
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import highgrad_ext  # noqa: F401  (registers the ops)

aten = ops.aten
SPARSE = ("stencil", "CSR", "COO", "sparse by a kept plan", "jets of interpolation")


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


def main() -> None:
    register()
    found = {}
    # Tables that are kept for later calls are plain tensors.
    with FakeTensorMode(allow_non_fake_inputs=True):
        for case in SPARSE:
            function = CASES[case]
            x = leaf(NAME).view(4, 3)
            found[case] = outcome(lambda function=function, x=x: function(x))
    finish(found)


if __name__ == "__main__":
    main()
