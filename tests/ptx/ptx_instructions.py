"""What each PTX instruction computes, on vectors of threads. An opcode that no row matches in full is unknown.

The rows follow the PTX ISA. Memory, branches and barriers are the machine's (ptx_machine.py); here are values alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptx_memory import Fault

Array = NDArray[np.generic]
Compute = Callable[..., Array]

DTYPES: dict[str, np.dtype[np.generic]] = {
    **{f"{kind}{width}": np.dtype(f"u{width // 8}") for kind in "bu" for width in (8, 16, 32, 64)},
    **{f"s{width}": np.dtype(f"i{width // 8}") for width in (8, 16, 32, 64)},
    **{f"f{width}": np.dtype(f"f{width // 8}") for width in (16, 32, 64)},
    "bf16": np.dtype("u2"),  # as bits
    "pred": np.dtype(bool),
}


@dataclass(frozen=True)
class Operation:
    """Types of the sources and of the destination, and the function from the ones to the other."""

    sources: tuple[str, ...]
    destination: str
    compute: Compute


Row = tuple[re.Pattern[str], Callable[[re.Match[str]], Operation]]
ROWS: list[Row] = []


def row(pattern: str) -> Callable[[Callable[[re.Match[str]], Operation]], Callable[[re.Match[str]], Operation]]:
    def add(build: Callable[[re.Match[str]], Operation]) -> Callable[[re.Match[str]], Operation]:
        ROWS.append((re.compile(pattern), build))
        return build

    return add


def operation(opcode: str) -> Operation:
    for pattern, build in ROWS:
        if match := pattern.fullmatch(opcode):
            return build(match)
    raise Fault(f"unknown instruction: {opcode}")


# ---- Atomic updates


def _flush(value: Array) -> Array:
    return np.where(np.abs(value) < np.finfo(value.dtype).tiny, np.copysign(value.dtype.type(0), value), value)


def _flushing_add(seen: Array, value: Array) -> Array:
    """The PTX ISA on atom.add.f32: on global memory, subnormal inputs and results become zero."""
    return _flush(np.add(_flush(seen), _flush(value)))


def _swap_if_equal(seen: Array, expected: Array, value: Array) -> Array:
    return np.where(seen == expected, value, seen)


def atomic(opcode: str) -> Operation:
    """The operands after the address, the type of what is returned (what was there before), and the function from what
    is there and the operands to what takes its place."""
    if opcode == "atom.global.add.f32":
        return Operation(("f32",), "f32", _flushing_add)
    if opcode == "atom.global.add.f64":
        return Operation(("f64",), "f64", np.add)
    if match := re.fullmatch(r"atom\.global\.cas\.(b16|b32|b64)", opcode):
        return Operation((match[1], match[1]), match[1], _swap_if_equal)
    raise Fault(f"unknown instruction: {opcode}")


# ---- Integers and bits

BINARY: dict[str, Compute] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "mul": np.multiply,
    "div": np.divide,
}


@row(r"(add|sub|min|max)\.([us](?:16|32|64))")
@row(r"(and|or|xor)\.(b16|b32|b64|pred)")
@row(r"(add|sub|mul|div)(?:\.rn)?\.(f16|f32|f64)")
@row(r"(min|max)\.(f32|f64)")
def _binary(match: re.Match[str]) -> Operation:
    return Operation((match[2], match[2]), match[2], BINARY[match[1]])


UNARY: dict[str, Compute] = {"neg": np.negative, "abs": np.abs, "not": np.invert, "sqrt": np.sqrt}


@row(r"(neg|abs)\.(s16|s32|s64|f32|f64)")
@row(r"(not)\.(b16|b32|b64|pred)")
@row(r"(sqrt)\.rn\.(f32|f64)")
def _unary(match: re.Match[str]) -> Operation:
    return Operation((match[2],), match[2], UNARY[match[1]])


def _high_product(a: Array, b: Array) -> Array:
    bits = a.dtype.itemsize * 8
    exact = np.asarray(a, object) * np.asarray(b, object) >> bits
    return (exact & ((1 << bits) - 1)).astype(f"u{bits // 8}").view(a.dtype)


@row(r"(mul|mad)\.(lo|hi|wide)\.([us])(16|32|64)")
def _product(match: re.Match[str]) -> Operation:
    name, half, kind, width = match.groups()
    source = kind + width
    destination = kind + str(2 * int(width)) if half == "wide" else source
    if destination not in DTYPES:
        raise Fault(f"unknown instruction: {match[0]}")
    wide = DTYPES[destination]

    def multiply(a: Array, b: Array) -> Array:
        if half == "hi":
            return _high_product(*np.broadcast_arrays(a, b))
        return np.multiply(a.astype(wide), b.astype(wide))

    if name == "mul":
        return Operation((source, source), destination, multiply)
    return Operation((source, source, destination), destination, lambda a, b, c: np.add(multiply(a, b), c))


@row(r"(div|rem)\.([us](?:16|32|64))")
def _quotient(match: re.Match[str]) -> Operation:
    def divide(a: Array, b: Array) -> Array:
        if np.any(b == 0):
            raise Fault(f"division by zero: {match[0]}")
        remainder = np.fmod(a, b)
        return remainder if match[1] == "rem" else (a - remainder) // b

    return Operation((match[2], match[2]), match[2], divide)


@row(r"(shl)\.(b16|b32|b64)")
@row(r"(shr)\.([bus](?:16|32|64))")
def _shift(match: re.Match[str]) -> Operation:
    bits = int(match[2][1:])

    def shift(value: Array, count: Array) -> Array:
        steps = np.minimum(count, bits - 1).astype(value.dtype)
        if match[1] == "shl":
            return np.where(count >= bits, 0, value << steps).astype(value.dtype)
        return np.where((count >= bits) & (value >= 0), 0, value >> steps).astype(value.dtype)

    return Operation((match[2], "u32"), match[2], shift)


# ---- Comparing and choosing

COMPARE: dict[str, Compute] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@row(r"setp\.(eq|ne|lt|le|gt|ge)(u?)(?:\.(and|or|xor))?\.([busf](?:16|32|64))")
def _compare(match: re.Match[str]) -> Operation:
    test, unordered, combine, kind = match.groups()
    if unordered and kind[0] != "f":
        raise Fault(f"unknown instruction: {match[0]}")

    def compare(a: Array, b: Array, *other: Array) -> Array:
        result = COMPARE[test](a, b)
        if kind[0] == "f":
            result = np.where(np.isnan(a) | np.isnan(b), bool(unordered), result)
        return BINARY[combine](result, *other) if combine else result

    return Operation((kind, kind, "pred")[: 3 if combine else 2], "pred", compare)


@row(r"selp\.([busf](?:16|32|64))")
def _select(match: re.Match[str]) -> Operation:
    return Operation((match[1], match[1], "pred"), match[1], lambda a, b, c: np.where(c, a, b))


@row(r"mov\.([busf](?:16|32|64)|pred)")
@row(r"cvta\.to\.global\.(u64)")
def _move(match: re.Match[str]) -> Operation:
    return Operation((match[1],), match[1], lambda a: np.array(a))


# ---- Fused multiply-add


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum and its exact error (Knuth, TAOCP 4.2.2, theorem B)."""
    total = np.add(a, b)
    shadow = np.subtract(total, a)
    return total, np.add(np.subtract(a, np.subtract(total, shadow)), np.subtract(b, shadow))


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded product and its exact error (Dekker 1971), for factors far from overflow."""

    def split(x: Array) -> tuple[Array, Array]:
        scaled = np.multiply(x, 134217729.0)
        high = np.subtract(scaled, np.subtract(scaled, x))
        return high, np.subtract(x, high)

    product = np.multiply(a, b)
    (ah, al), (bh, bl) = split(a), split(b)
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def _odd_sum(a: Array, b: Array) -> Array:
    """The sum in double, rounded to odd: a later rounding to nearest is then that of the exact sum."""
    total, error = _two_sum(a, b)
    bits = np.asarray(total).view(np.int64)
    towards = np.where((error > 0) == (total > 0), 1, -1)
    inexact = np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    return np.where(inexact, bits + towards, bits).view(np.float64)


def fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c, rounded once (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008)."""
    if a.dtype == np.float32:
        return _odd_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)).astype(np.float32)
    high, low = _two_product(a, b)
    sum_high, sum_low = _two_sum(c, low)
    total, rest = _two_sum(high, sum_high)
    result = np.add(total, _odd_sum(sum_low, rest))
    return np.where(np.isfinite(result), result, a * b + c)


@row(r"fma\.rn\.(f32|f64)")
def _fma(match: re.Match[str]) -> Operation:
    return Operation((match[1],) * 3, match[1], fma)


# ---- Conversions


def _to_bfloat16(value: Array) -> Array:
    bits = value.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint16)


def _from_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@row(r"cvt(?:\.rn)?\.bf16\.(f32)")
def _convert_to_bfloat16(match: re.Match[str]) -> Operation:
    return Operation(("f32",), "bf16", _to_bfloat16)


@row(r"cvt\.f32\.bf16")
def _convert_from_bfloat16(match: re.Match[str]) -> Operation:
    return Operation(("bf16",), "f32", _from_bfloat16)


@row(r"cvt\.([us](?:8|16|32|64))\.([us](?:8|16|32|64))")
@row(r"cvt\.(f32)\.(f16)")
@row(r"cvt\.(f64)\.(f16|f32)")
@row(r"cvt\.rn\.(f16)\.(f32|f64)")
@row(r"cvt\.rn\.(f32)\.(f64)")
@row(r"cvt\.rn\.(f32|f64)\.([us](?:8|16|32|64))")
def _convert(match: re.Match[str]) -> Operation:
    dtype = DTYPES[match[1]]
    return Operation((match[2],), match[1], lambda a: a.astype(dtype))


@row(r"cvt\.(rzi|rni|rmi|rpi)\.([us](?:32|64))\.(f32|f64)")
def _round_to_integer(match: re.Match[str]) -> Operation:
    rounding = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[match[1]]
    limits = np.iinfo(DTYPES[match[2]])

    def convert(value: Array) -> Array:
        rounded = rounding(value.astype(np.float64))
        inside = (rounded > float(limits.min)) & (rounded < float(limits.max))
        whole = np.where(inside, rounded, 0).astype(limits.dtype)
        whole = np.where(rounded >= float(limits.max), limits.max, whole)
        return np.where(rounded <= float(limits.min), limits.min, whole).astype(limits.dtype)

    return Operation((match[3],), match[2], convert)
