"""How many bytes a call must move, and how many it does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from launching import Call, Input, Output, Struct, simulate
from ptx_memory import Traffic

# What moves for what must: see docs/cuda.md.
MOST = 1.1
# Of the second-level cache, where elements are used again that are far apart: all that the smallest of the devices has.
CACHE = 4 << 20


def most_of_large_rows(op: str, order: int, itemsize: int) -> float:
    """Of rows of symmetric tensors that are much larger than the cache: MOST, or why not in docs/cuda.md."""
    if order == 3:
        return {"expand": {2: 1.2, 4: 1.12}, "fold": {2: 1.15}}[op].get(itemsize, MOST)
    if op == "expand":
        return 1.2
    by_itemsize = {2: 2.0, 4: 1.4, 8: 1.3, 16: 1.15} if order == 4 else {2: 5.0, 4: 3.0, 8: 2.0, 16: 1.3}
    return by_itemsize[itemsize]


@dataclass(frozen=True)
class Moved:
    """Bytes in whole sectors of 32."""

    must: int  # every needed sector of the inputs and every sector of the result once
    memory: int  # between second-level cache and memory
    requested: int  # by the warps, each access on its own
    instructions: int  # of single threads

    def ratio(self) -> float:
        return self.memory / self.must


def _sectors(elements: torch.Tensor, size: int, skew: int) -> int:
    return int(((elements + skew) * size // Traffic.SECTOR).unique().numel())


def must_move(call: Call) -> int:
    arguments = [
        part
        for argument in call.arguments
        for part in (argument.fields if isinstance(argument, Struct) else [argument])
    ]
    sectors = 0
    for argument in arguments:
        if isinstance(argument, (Input, Output)):
            tensor = argument.tensor if isinstance(argument, Input) else argument.expected
            needed = torch.arange(tensor.numel()) if argument.needed is None else argument.needed
            times = 2 if isinstance(argument, Output) and argument.updated else 1
            sectors += times * _sectors(needed, tensor.element_size(), argument.skew)
    return sectors * Traffic.SECTOR


def measure(call: Call, architecture: str, cache: int = 0) -> Moved:
    """`cache` is what Traffic.memory_bytes takes."""
    done = simulate(call, architecture, count_traffic=True)
    assert done.traffic is not None
    return Moved(must_move(call), done.traffic.memory_bytes(cache), done.traffic.requested_bytes(), done.instructions)
