"""nvcc's own PTX of every kernel, started by the project's own launchers, against the CPU op: equal to the bit."""

from __future__ import annotations

import re
from random import Random

import pytest
import toolchain
from kernel_table import TABLE, Row
from launching import Call, simulate
from traffic import CACHE, MOST, measure

pytestmark = pytest.mark.skipif(toolchain.NVCC is None, reason="no nvcc")

rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.launcher)
architectures = pytest.mark.parametrize("architecture", toolchain.ARCHITECTURES)


def plain_name(mangled: str) -> str:
    (name,) = re.findall(r"\d+([a-z_]+_kernel)", mangled)
    return str(name)


@architectures
@rows
def test_equal_to_the_cpu_op(row: Row, architecture: str) -> None:
    """Every dtype, and shapes from empty to several blocks. Every instantiation that was compiled is used."""
    used = set()
    for call in row.calls():
        try:
            used.update(simulate(call, architecture).kernels)
        except Exception as error:
            raise AssertionError(f"{call.label}: {error}") from error
    compiled = {
        name
        for source in toolchain.sources()
        for name in toolchain.kernels(source.name, architecture)
        if plain_name(name) in row.kernels
    }
    assert used == compiled


@architectures
@rows
def test_sizes_past_two_to_the_31(row: Row, architecture: str) -> None:
    for call in row.huge():
        try:
            assert simulate(call, architecture).kernels
        except Exception as error:
            raise AssertionError(f"{call.label}: {error}") from error


def test_every_kernel_has_a_row() -> None:
    compiled = {plain_name(name) for source in toolchain.sources() for name in toolchain.kernels(source.name, "90")}
    assert compiled == {name for row in TABLE for name in row.kernels}


def most_requested(call: Call) -> float:
    """More is requested where rows start inside of a sector, since neighbouring tiles or warps share it, where warps
    read from any place of rows that repeat, and where the two parts of a complex number are added one after the other.
    Where a warp's reads lie apart, most of a sector is left to others.
    """
    if "gathered" in call.label:
        return 11.0
    return 1.7 if any(word in call.label for word in ("odd", "narrow", "shared", "in parts", "tiled")) else MOST


@rows
def test_traffic(row: Row) -> None:
    """What is shared by blocks far apart in number counts again."""
    for call in row.busy():
        moved = measure(call, "90")
        assert moved.memory <= MOST * moved.must, call.label
        assert moved.requested <= most_requested(call) * moved.must, call.label


def most_moved(call: Call) -> float:
    """Sums of order 5 read sectors several times where rows are larger than the cache: see docs/cuda.md."""
    return 2.1 if call.label.startswith("fold_symmetric") and "^5" in call.label else MOST


@pytest.mark.parametrize("seed", range(4))
@rows
def test_traffic_of_drawn_shapes(row: Row, seed: int) -> None:
    call = row.drawn(Random(seed))
    moved = measure(call, "90", CACHE if "gathered" in call.label else 0)
    assert moved.memory <= most_moved(call) * moved.must, call.label
