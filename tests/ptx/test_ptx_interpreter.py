"""The interpreter itself: it computes what the PTX ISA says, and notices every fault that is planted."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from ptx_instructions import DTYPES, atomic, fma, operation
from ptx_machine import Machine, decode, pack_parameters
from ptx_memory import FIRST_ADDRESS, Buffer, Fault, GlobalMemory, Traffic
from ptx_text import Kernel, PtxError, parse

# A kernel of one parameter, the address of 4-byte elements: %rd1 is this thread's, %r1 its number, %r9 its block.
TEMPLATE = """
.version 8.0
.target sm_75
.visible .entry kernel(.param .u64 .ptr .align 1 data, .param .align 8 .b8 table[16])
{{
    .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<10>; .reg .f32 %f<9>; .reg .b64 %rd<9>;
    .shared .align 4 .b8 tile[{shared}];
    ld.param.u64 %rd0, [data];
    cvta.to.global.u64 %rd0, %rd0;
    mov.u32 %r1, %tid.x;
    mov.u32 %r9, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mad.lo.s32 %r3, %r9, %r2, %r1;
    mul.wide.u32 %rd2, %r3, 4;
    add.s64 %rd1, %rd0, %rd2;
    shl.b32 %r4, %r1, 2;
    mov.u32 %r5, tile;
    add.s32 %r5, %r5, %r4;
{body}
    ret;
}}
"""


def kernel_of(body: str, shared: int = 256) -> Kernel:
    return parse(TEMPLATE.format(body=body, shared=shared))["kernel"]


def run(
    body: str,
    *,
    grid: int = 2,
    block: int = 64,
    writable: bool = True,
    initialised: bool = True,
    traffic: Traffic | None = None,
    max_steps: int = 10_000,
    spare: int = 0,
) -> np.ndarray:
    """What the elements, one a thread and some to spare, hold after `body`; element i holds i before."""
    memory = GlobalMemory()
    memory.traffic = traffic
    buffer = Buffer(np.arange(grid * block + spare, dtype=np.uint32), writable=writable, initialised=initialised)
    address = memory.add(buffer)
    kernel = kernel_of(body)
    parameters = pack_parameters(kernel, [struct.pack("<Q", address), struct.pack("<QQ", 11, 22)])
    Machine(kernel, memory, (grid, 1, 1), (block, 1, 1), parameters, max_steps=max_steps).run()
    return buffer.data.view(np.uint32)


# ---- What works


def test_each_thread_has_its_element() -> None:
    doubled = run("ld.global.u32 %r6, [%rd1]; add.s32 %r6, %r6, %r6; st.global.u32 [%rd1], %r6;")
    assert (doubled == 2 * np.arange(128)).all()


def test_branches_part_and_join() -> None:
    body = """
    and.b32 %r6, %r1, 1; setp.eq.s32 %p1, %r6, 0; mov.u32 %r7, 5;
    @%p1 bra $even;
    mov.u32 %r7, 7;
    bra.uni $join;
$even:
    @!%p1 mov.u32 %r7, 9;
$join:
    st.global.u32 [%rd1], %r7;"""
    assert run(body).tolist() == [5, 7] * 64


def test_loops_of_different_lengths() -> None:
    body = """
    mov.u32 %r6, 0;
$loop:
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra $done;
    add.u32 %r6, %r6, 1;
    bra.uni $loop;
$done:
    st.global.u32 [%rd1], %r6;"""
    assert run(body).tolist() == 2 * list(range(64))


REVERSE = """
    st.shared.u32 [%r5], %r3;
    {barrier}
    mov.u32 %r6, tile; sub.u32 %r7, 63, %r1; mad.lo.s32 %r6, %r7, 4, %r6;
    ld.shared.u32 %r8, [%r6];
    st.global.u32 [%rd1], %r8;"""


def test_shared_memory_is_a_blocks_own() -> None:
    reversed_blocks = run(REVERSE.format(barrier="bar.sync 0;"))
    assert (reversed_blocks.reshape(2, 64) == np.arange(128).reshape(2, 64)[:, ::-1]).all()


def test_parameters_and_vectors() -> None:
    body = """
    mov.b64 %rd3, table; add.s64 %rd4, %rd3, 8; ld.param.u64 %rd5, [%rd4]; ld.param.v2.u32 {%r6, %r7}, [%rd3];
    cvt.u32.u64 %r8, %rd5; mad.lo.s32 %r6, %r6, 1000, %r8; mad.lo.s32 %r6, %r7, 7, %r6;
    st.global.u32 [%rd1], %r6;"""
    assert set(run(body)) == {11 * 1000 + 22}


def test_packing_and_narrow_registers() -> None:
    body = """
    mov.b32 {%rs1, %rs2}, %r3; mov.b32 %r6, {%rs2, %rs1}; st.global.u32 [%rd1], %r6;
    ld.global.u8 %rs3, [%rd1+2]; cvt.u32.u16 %r7, %rs3; add.s32 %r6, %r6, %r7; st.global.u32 [%rd1], %r6;"""
    assert (run(body) == (np.arange(128) << 16) + np.arange(128)).all()


def test_atomic_additions_to_one_address() -> None:
    got = run("mov.f32 %f1, 0f3F800000; atom.global.add.f32 %f2, [%rd0], %f1; st.global.f32 [%rd1+4], %f2;", spare=1)
    assert got[:1].view(np.float32) == 128
    # Each thread is told another sum of those before it, and the order is not that of the threads.
    seen = got[1:].view(np.float32).tolist()
    assert sorted(seen) == list(range(128))
    assert seen != sorted(seen)


def test_compare_and_swap_until_all_are_counted() -> None:
    body = """
    mov.u32 %r6, 0;
$again:
    mov.u32 %r7, %r6;
    add.u32 %r8, %r7, 2;
    atom.global.cas.b32 %r6, [%rd0], %r7, %r8;
    setp.ne.u32 %p1, %r6, %r7;
    @%p1 bra $again;"""
    assert run(body)[0] == 2 * 128


def test_a_part_of_an_element_is_swapped() -> None:
    body = "mov.u16 %rs1, 0; mov.u16 %rs2, 7; atom.global.cas.b16 %rs3, [%rd1+2], %rs1, %rs2;"
    assert (run(body) == np.arange(128) + (7 << 16)).all()


def test_a_barrier_orders_atomics_of_a_block() -> None:
    run("atom.global.add.f32 %f2, [%rd0], 0f3F800000; bar.sync 0; ld.global.u32 %r6, [%rd0];", grid=1)
    run("st.global.u32 [%rd1], 0; bar.sync 0; atom.global.add.f32 %f2, [%rd0], 0f3F800000;", grid=1)


def test_traffic_of_an_atomic() -> None:
    traffic = Traffic()
    run("atom.global.add.f32 %f2, [%rd1], 0f3F800000;", traffic=traffic)
    assert traffic.requests == {"load": 16, "store": 16}


def test_traffic_is_counted_in_sectors() -> None:
    traffic = Traffic()
    run("ld.global.u32 %r6, [%rd1]; st.global.u32 [%rd1], %r6;", traffic=traffic)
    assert traffic.requests == {"load": 16, "store": 16}
    assert traffic.requested_bytes() == traffic.memory_bytes() == 32 * 32
    scattered = Traffic()
    run("shl.b64 %rd3, %rd2, 3; rem.u64 %rd3, %rd3, 512; add.s64 %rd3, %rd0, %rd3; ld.global.u32 %r6, [%rd3];",
        traffic=scattered)  # fmt: skip
    # Every thread has a sector of its own, and the four warps have 16 in common.
    assert scattered.requested_bytes() == 4 * 16 * 32
    assert scattered.memory_bytes() == 16 * 32


def test_traffic_through_a_cache() -> None:
    """Three blocks that read sectors 0 and 1, 2 and 3, and 0 and 1 again."""
    traffic = Traffic()
    first = FIRST_ADDRESS + 32 * np.array([0, 1, 2, 3, 0, 1])
    blocks = np.array([0, 0, 1, 1, 2, 2])
    traffic.add("load", first, blocks, blocks)
    assert traffic.memory_bytes() == traffic.memory_bytes(4 * 32) == 4 * 32
    assert traffic.memory_bytes(3 * 32) == 6 * 32
    traffic.add("load", first[:1], blocks[:1], blocks[:1] + Traffic.WAVE)
    assert traffic.memory_bytes() == 5 * 32
    traffic.add("store", first[:1], blocks[:1], blocks[:1])
    assert traffic.memory_bytes() == 6 * 32


# ---- Planted faults

FAULTS = {
    "out of bounds, behind": ("ld.global.u32 %r6, [%rd1+4];", "out of bounds"),
    "out of bounds, before": ("st.global.u32 [%rd1+-4], %r1;", "out of bounds"),
    "an address cut to 32 bits": (
        "cvt.u32.u64 %r6, %rd1; cvt.u64.u32 %rd3, %r6; ld.global.u32 %r7, [%rd3];",
        "out of bounds",
    ),
    "shared, out of bounds": ("st.shared.u32 [%r5+4], %r1;", "shared memory out of bounds"),
    "parameter, out of bounds": ("mov.b64 %rd3, table; ld.param.u64 %rd4, [%rd3+16];", "parameter out of bounds"),
    "misaligned": ("ld.global.u32 %r6, [%rd0+2];", "misaligned"),
    "misaligned vector": ("ld.global.v2.u32 {%r6, %r7}, [%rd0+4];", "misaligned"),
    "misaligned, shared": ("mov.u32 %r6, tile; st.shared.u32 [%r6+1], %r1;", "misaligned"),
    "race in shared memory": (
        "mov.u32 %r6, tile; st.shared.u32 [%r6], %r1;",
        "race, two writers at once",
    ),
    "missing barrier": (REVERSE.format(barrier="bar.sync 0; st.shared.u32 [%r5], %r3;"), "race, another thread wrote"),
    "missing barrier before the next turn": (
        REVERSE.format(barrier="bar.sync 0;") + "st.shared.u32 [%r5], %r3;",
        "race, written while another thread reads",
    ),
    "race between blocks": (
        "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd0, %rd3; st.global.u32 [%rd3], %r1;",
        "race, two writers at once",
    ),
    "race between blocks that a barrier does not end": (
        "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd0, %rd3; setp.eq.u32 %p1, %r9, 0;"
        "@%p1 st.global.u32 [%rd3], %r1; bar.sync 0; @!%p1 ld.global.u32 %r6, [%rd3];",
        "race, another thread wrote",
    ),
    "an atomic and a write": (
        "atom.global.add.f32 %f1, [%rd0], 0f3F800000; setp.eq.u32 %p1, %r3, 0; @%p1 st.global.u32 [%rd0], %r1;",
        "race, written while another thread updates it",
    ),
    "a write and an atomic": (
        "st.global.u32 [%rd1], %r1; atom.global.add.f32 %f1, [%rd0], 0f3F800000;",
        "race, another thread wrote",
    ),
    "an atomic and a read": (
        "atom.global.add.f32 %f1, [%rd0], 0f3F800000; ld.global.u32 %r6, [%rd1];",
        "race, while another thread updates it",
    ),
    "a read and an atomic": (
        "ld.global.u32 %r6, [%rd1]; atom.global.add.f32 %f1, [%rd0], 0f3F800000;",
        "race, updated while another thread reads",
    ),
    "an atomic that a barrier does not part from another block": (
        "atom.global.add.f32 %f1, [%rd0], 0f3F800000; bar.sync 0; ld.global.u32 %r6, [%rd0];",
        "race, while another thread updates it",
    ),
    "a sum that is not atomic": (
        "ld.global.f32 %f1, [%rd0]; add.f32 %f1, %f1, 0f3F800000; st.global.f32 [%rd0], %f1;",
        "race, written while another thread reads",
    ),
    "misaligned atomic": ("atom.global.add.f32 %f1, [%rd1+2], 0f3F800000;", "misaligned"),
    "atomic, out of bounds": ("atom.global.add.f32 %f1, [%rd1+4], 0f3F800000;", "out of bounds"),
    "unknown atomic": ("atom.global.add.noftz.f16 %rs1, [%rd0], %rs2;", "unknown instruction"),
    "unwritten shared read": ("ld.shared.u32 %r6, [%r5];", "read of unwritten memory"),
    "divergent barrier": (
        "setp.lt.u32 %p1, %r1, 9; @%p1 bra $a; bar.sync 0; bra.uni $b;\n$a: bar.sync 0;\n$b: mov.u32 %r6, 0;",
        "divergent barrier",
    ),
    "barrier under a guard": ("setp.lt.u32 %p1, %r1, 9; @%p1 bar.sync 0;", "divergent barrier"),
    "unknown instruction": ("popc.b32 %r6, %r1;", "unknown instruction: popc.b32"),
    "unknown rounding": ("cvt.rz.f32.f64 %f1, %rd1;", "unknown instruction"),
    "unknown modifier": ("ld.volatile.global.u32 %r6, [%rd1];", "unknown instruction"),
    "unknown, though it never runs": ("bra.uni $end; popc.b32 %r6, %r1;\n$end: mov.u32 %r6, 0;", "unknown instruction"),
    "division by zero": ("sub.u32 %r6, %r1, %r1; div.u32 %r7, %r1, %r6;", "division by zero"),
    "a loop without an end": ("\n$loop: bra.uni $loop;", "no end after"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault(fault: str) -> None:
    body, message = FAULTS[fault]
    with pytest.raises(Fault, match=message):
        run(body)


def test_missing_barrier_without_a_rewrite() -> None:
    """Read before anyone wrote, or written by another thread: which one depends on the order, either is a fault."""
    with pytest.raises(Fault, match=r"race|unwritten"):
        run(REVERSE.format(barrier=""))


def test_inputs_are_not_written() -> None:
    with pytest.raises(Fault, match="write to an input"):
        run("st.global.u32 [%rd1], %r1;", writable=False)
    with pytest.raises(Fault, match="write to an input"):
        run("atom.global.cas.b32 %r6, [%rd1], %r1, %r1;", writable=False)
    with pytest.raises(Fault, match="read-only load from memory that may be written"):
        run("ld.global.nc.u32 %r6, [%rd1];")
    run("ld.global.nc.u32 %r6, [%rd1];", writable=False)


def test_results_are_not_read_before_they_are_there() -> None:
    with pytest.raises(Fault, match="read of unwritten memory"):
        run("ld.global.u32 %r6, [%rd1];", initialised=False)
    with pytest.raises(Fault, match="read of unwritten memory"):
        run("atom.global.add.f32 %f1, [%rd1], 0f3F800000;", initialised=False)


def test_a_register_never_written_holds_nothing_useful() -> None:
    assert len(set(run("st.global.u32 [%rd1], %r8;"))) > 100


@pytest.mark.parametrize(
    "body",
    [
        ".local .align 4 .b8 spilled[16];",
        "mov.u32 %r6, %clock;",
        "add.s64 %rd3, %r1, %rd2;",
        "cvt.u64.u32 %r6, %r1;",
        "add.s32 %r6, %r1;",
    ],
)
def test_text_that_is_not_understood(body: str) -> None:
    with pytest.raises(PtxError):
        decode(kernel_of(body))
        run(body)


# ---- Values


def compute(opcode: str, *values: object) -> np.ndarray:
    action = operation(opcode)
    arrays = [np.array(value, DTYPES[kind]) for value, kind in zip(values, action.sources, strict=True)]
    with np.errstate(all="ignore"):
        return np.asarray(action.compute(*arrays)).astype(DTYPES[action.destination])


@pytest.mark.parametrize(
    ("opcode", "values", "expected"),
    [
        ("add.s32", ([2**31 - 1], [1]), [-(2**31)]),
        ("sub.u16", ([0], [1]), [65535]),
        ("mul.lo.s64", ([2**40], [2**30]), [0]),
        ("mul.hi.u32", ([2**31], [6]), [3]),
        ("mul.hi.s64", ([-(2**62)], [8]), [-2]),
        ("mul.wide.s32", ([-(2**31)], [2]), [-(2**32)]),
        ("mul.wide.u32", ([2**32 - 1], [2]), [2**33 - 2]),
        ("mad.lo.s32", ([3], [-4], [5]), [-7]),
        ("mad.wide.u32", ([2**31], [4], [1]), [2**33 + 1]),
        ("div.s32", ([-7, 7, -7], [2, -2, -2]), [-3, -3, 3]),
        ("rem.s64", ([-7, 7, -7], [2, -2, -2]), [-1, 1, -1]),
        ("div.u64", ([2**64 - 1], [10]), [(2**64 - 1) // 10]),
        ("shl.b32", ([1, 1, 3], [31, 32, 1]), [2**31, 0, 6]),
        ("shr.u32", ([2**31, 2**31], [31, 40]), [1, 0]),
        ("shr.s32", ([-8, -8, 8], [1, 40, 40]), [-4, -1, 0]),
        ("min.s32", ([-1, 5], [1, 4]), [-1, 4]),
        ("max.u32", ([2**32 - 1], [1]), [2**32 - 1]),
        ("neg.s64", ([5],), [-5]),
        ("not.b32", ([0],), [2**32 - 1]),
        ("not.pred", ([True, False],), [False, True]),
        ("xor.b16", ([0b1100], [0b1010]), [0b0110]),
        ("setp.lt.u32", ([2**32 - 1, 0], [0, 1]), [False, True]),
        ("setp.lt.s32", ([-1, 0], [0, 0]), [True, False]),
        ("setp.neu.f64", ([1.0, 1.0, math.nan], [1.0, 2.0, 1.0]), [False, True, True]),
        ("setp.ne.f32", ([math.nan, 1.0], [1.0, 2.0]), [False, True]),
        ("setp.gt.and.s32", ([2, 2], [1, 1], [True, False]), [True, False]),
        ("selp.b32", ([1, 1], [2, 2], [True, False]), [1, 2]),
        ("cvt.s64.s32", ([-5],), [-5]),
        ("cvt.u64.u32", ([2**32 - 5],), [2**32 - 5]),
        ("cvt.u32.u64", ([2**40 + 7],), [7]),
        ("cvt.rn.f32.s64", ([2**40 + 1],), [2.0**40]),
        ("cvt.rzi.s32.f32", ([-2.7, 1e20, -1e20, math.nan],), [-2, 2**31 - 1, -(2**31), 0]),
        ("cvt.rni.s32.f64", ([2.5, 3.5],), [2, 4]),
        ("cvt.rn.f16.f32", ([1 + 2**-11, 1 + 3 * 2**-11, 65520.0],), [1.0, 1 + 2**-9, math.inf]),
        ("cvt.f32.bf16", ([0x3F80, 0xC000],), [1.0, -2.0]),
        ("cvt.rn.bf16.f32", ([1 + 2**-8, 1 + 3 * 2**-8, math.nan, 3.4e38],), [0x3F80, 0x3F82, 0x7FFF, 0x7F80]),
    ],
)
def test_values(opcode: str, values: tuple[list[object], ...], expected: list[object]) -> None:
    assert compute(opcode, *values).tolist() == expected


def test_atomic_addition_flushes_subnormals_of_float() -> None:
    """To a zero of their sign, what is there, what comes and what is the sum (PTX ISA, atom)."""
    smallest = 2.0**-126
    cases = [
        (1e-40, smallest, smallest),
        (smallest, 1e-40, smallest),
        (1.5 * smallest, -smallest, 0.0),
        (-1e-40, -0.0, -0.0),
        (1.5, 2.0, 3.5),
    ]
    seen, value, expected = np.array(cases, np.float32).T
    got = atomic("atom.global.add.f32").compute(seen, value)
    assert got.tobytes() == expected.tobytes()
    double = atomic("atom.global.add.f64").compute
    assert double(np.array([1e-310]), np.array([1e-310])).tolist() == [2e-310]


def test_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        a, b = (rng.standard_normal(2000).astype(dtype) for _ in range(2))
        # Nearly cancelling, halfway and far apart.
        c = (-a * b * rng.choice([1, 1 + 2**-20, 2.0**-30, 2.0**40], 2000)).astype(dtype)
        got = fma(a, b, c)
        exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
        if dtype == np.float64:
            assert got.tolist() == [float(value) for value in exact]
        else:
            for value, result in zip(exact, got, strict=True):
                error = abs(Fraction(float(result)) - value)
                for neighbour in (np.nextafter(result, np.float32(x)) for x in (-np.inf, np.inf)):
                    assert error <= abs(Fraction(float(neighbour)) - value)
