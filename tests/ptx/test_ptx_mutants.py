"""The calls of the table notice when a kernel is changed: at least 90 % of sampled mutants are caught."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import toolchain
from kernel_table import TABLE, Row
from launching import Call, Program, WrongResult, program, simulate
from mutants import Mutant, mutants
from ptx_memory import Fault

pytestmark = pytest.mark.skipif(toolchain.NVCC is None, reason="no nvcc")

SAMPLE = 300
# Those that survive are nearly all equivalent: where nvcc divides 64-bit numbers that fit by 32-bit division, a mutant
# that never takes that shortcut is right (the plainest of these are left out); so is one that checks twice what another
# check makes sure of.
LEAST_CAUGHT = 0.9
# Of a block, in which every call has to end.
MAX_STEPS = 20_000
# What is tested here are the calls, which are the same for all.
ARCHITECTURE = toolchain.ARCHITECTURES[-1]


# A call, and the places in a kernel's code that it reaches.
Reaching = tuple[Call, set[int]]


def calls_by_kernel(row: Row) -> dict[str, list[Reaching]]:
    calls = defaultdict(list)
    for call in row.quick():
        done = simulate(call, ARCHITECTURE, max_steps=MAX_STEPS)
        for kernel, reached in zip(done.kernels, done.reached, strict=True):
            calls[kernel].append((call, reached))
    return dict(calls)


def is_caught(mutant: Mutant, changed: Program, calls: list[Reaching]) -> bool:
    for call, reached in calls:
        if mutant.index not in reached:
            continue
        try:
            simulate(call, ARCHITECTURE, replaced={mutant.kernel: changed}, max_steps=MAX_STEPS)
        except (Fault, WrongResult):
            return True
    return False


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.launcher)
def test_mutants_are_caught(row: Row) -> None:
    calls = calls_by_kernel(row)
    every = [mutant for kernel in calls for mutant in mutants(program(kernel, ARCHITECTURE).kernel)]
    sample = random.Random(0).sample(every, min(SAMPLE, len(every)))
    tried, survivors = 0, []
    for mutant in sample:
        changed = mutant.program(program(mutant.kernel, ARCHITECTURE))
        if changed is not None:
            tried += 1
            if not is_caught(mutant, changed, calls[mutant.kernel]):
                survivors.append(mutant)
    caught = 1 - len(survivors) / tried
    print(f"{row.launcher}, sm_{ARCHITECTURE}: {caught:.1%} of {tried} mutants caught, of {len(every)} that there are")
    assert tried >= 0.9 * len(sample)
    assert caught >= LEAST_CAUGHT, "\n".join(str(mutant) for mutant in survivors)
