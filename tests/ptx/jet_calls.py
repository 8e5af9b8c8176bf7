"""Calls of the launchers of compose_jet and compose_jet_backward."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from call_values import first_and_last, name
from launching import Call, HugeInput, HugeOutput, Input, Output, Stream, Struct, huge_value
from ptx_memory import Ints
from torch import Tensor

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext

# csrc/ops/local_element.h
KINDS = ("given", "solution", "silu", "softplus", "mish", "gelu", "elu")
MOST_SEEDS = 3
MOST_ORDERS = 6
# Sums and products of some tens of terms, which compilers fuse differently.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


class LocalEquation(ctypes.Structure):
    """csrc/ops/local_element.h"""

    _fields_ = [
        ("kind", ctypes.c_int),
        ("slope_is_seed", ctypes.c_bool),
        *((name, ctypes.c_double) for name in ("constant", "linear", "square", "companion", "rate", "threshold")),
    ]


@dataclass(frozen=True)
class Function:
    """What a series comes from: the kind, its constants, and how many seeds."""

    kind: str
    constants: tuple[float, ...] = (0, 0, 0, 0, 1, 0)
    seeds: int = 2

    def equation(self) -> LocalEquation:
        return LocalEquation(KINDS.index(self.kind), self.seeds > 1, *self.constants)

    def threshold(self) -> float:
        """The x above which softplus is linear."""
        return self.constants[5] / self.constants[4]

    def seeds_at(self, x: Tensor, orders: int) -> list[Tensor]:
        """Of values x."""
        rate = self.constants[4]
        return {
            "given": lambda: [torch.stack([(x * (k + 2)).cos() / (k + 1) for k in range(orders)])],
            "solution": lambda: [x.sin(), x.cos()][: self.seeds],
            "silu": lambda: [x, x.sigmoid()],
            "softplus": lambda: [x, (rate * x).sigmoid()],
            "mish": lambda: [x, x.sigmoid()],
            "gelu": lambda: [x, F.gelu(x) + x, (-0.5 * x * x).exp()],
            "elu": lambda: [x, 0.7 * (rate * x).exp()],
        }[self.kind]()


FUNCTIONS = {
    "given": Function("given", seeds=1),
    "tanh": Function("solution", (1, 0, -1, 0, 1, 0), seeds=1),
    "exp": Function("solution", (0, 1, 0, 0, 1, 0), seeds=1),
    "sigmoid": Function("solution", (0, 1, -1, 0, 1, 0), seeds=1),
    "affine": Function("solution", (0.5, -2, 0, 0, 1, 0), seeds=1),
    "sin": Function("solution", (0, 0, 0, -1, 1, 0)),
    "silu": Function("silu"),
    "softplus": Function("softplus", (0, 0, 0, 0, 1.5, 0.6)),
    "mish": Function("mish"),
    "gelu": Function("gelu", seeds=3),
    "elu": Function("elu", (0, 0, 0, 0, 0.5, 1.25)),
}


@dataclass(frozen=True)
class Jet:
    """The jet of a tensor [samples, width]: csrc/ops/compose_jet.h. x repeats for all samples where `repeats`."""

    counts: tuple[int, ...]
    terms: int
    collapsed: bool = False
    weighted: bool = False
    repeats: bool = False
    samples: int = 5
    width: int = 60

    @property
    def order(self) -> int:
        return len(self.counts)

    def rows(self, orders: int) -> int:
        return sum(self.counts[:orders]) - (self.counts[-1] - 1 if self.collapsed and orders == self.order else 0)

    def label(self, dtype: torch.dtype) -> str:
        """Odd where rows start inside of a sector, shared where warps start anywhere in rows that repeat."""
        odd = "odd " if self.samples * self.width * dtype.itemsize % 32 else ""
        shared = "shared " if self.repeats else ""
        return f"{name(dtype)} {odd}{shared}{self}"

    def layout(self, seeds: list[Any], weights: Any, numel: int, period: int) -> Struct:
        """csrc/ops/cuda/launch.h"""
        pointers = [*seeds, *[None] * (MOST_SEEDS - len(seeds)), weights]
        counts = [*self.counts, *[0] * (MOST_ORDERS - self.order)]
        first_rows = [*map(self.rows, range(self.order)), *[0] * (MOST_ORDERS - self.order)]
        highest = self.rows(self.order - 1)
        numbers = (numel, period, self.order, self.terms, int(self.collapsed), highest)
        return Struct((*pointers, *numbers, *counts, *first_rows))


@dataclass(frozen=True)
class Arguments:
    """Of both operators, and as launchers take them."""

    jet: Jet
    function: Function
    dtype: torch.dtype
    x: Tensor
    by_rows: Tensor
    seeds: list[Tensor]
    weights: Tensor | None

    @staticmethod
    def of(jet: Jet, function: Function, dtype: torch.dtype, slope_orders: int) -> Arguments:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        samples = 1 if jet.repeats else jet.samples
        x = draw(jet.rows(jet.terms), samples, jet.width).to(dtype)
        values = draw(jet.samples, jet.width)
        values[0, :2] = torch.tensor([0, function.threshold()], dtype=torch.float64)[: jet.width]  # where pieces meet
        seeds = function.seeds_at(values, jet.order + slope_orders)
        weights = draw(jet.counts[0]).to(dtype) if jet.weighted else None
        by_rows = draw(jet.rows(jet.order), jet.samples, jet.width).to(dtype)
        return Arguments(jet, function, dtype, x, by_rows, [seed.to(dtype) for seed in seeds], weights)

    def of_op(self, device: str) -> tuple[Any, ...]:
        jet, function = self.jet, self.function
        x = self.x.to(device).expand(-1, jet.samples, -1)
        seeds = [seed.to(device) for seed in self.seeds]
        weights = None if self.weights is None else self.weights.to(device)
        kind = KINDS.index(function.kind)
        return x, seeds, kind, function.constants, jet.terms, jet.counts, jet.collapsed, weights

    def of_launcher(self) -> tuple[Any, ...]:
        """What comes after the results."""
        numel = self.jet.samples * self.jet.width
        weights = None if self.weights is None else Input(self.weights)
        layout = self.jet.layout([Input(seed) for seed in self.seeds], weights, numel, self.x[0].numel())
        return Input(self.x), self.dtype, layout, self.function.equation(), Stream()

    def output(self, expected: Tensor) -> Output:
        return Output(expected, tolerance=TOLERANCE[self.dtype])


def compose_call(dtype: torch.dtype, function: str, jet: Jet) -> Call:
    given = Arguments.of(jet, FUNCTIONS[function], dtype, slope_orders=0)

    def op(device: str) -> Tensor:
        return ops.compose_jet(*given.of_op(device))

    arguments = (given.output(op("cpu")), *given.of_launcher())
    return Call(f"compose_jet {function} {jet.label(dtype)}", "launch_compose_jet", arguments, op)


def reverse_call(dtype: torch.dtype, function: str, jet: Jet) -> Call:
    given = Arguments.of(jet, FUNCTIONS[function], dtype, slope_orders=1)

    def op(device: str) -> tuple[Tensor, ...]:
        return tuple(ops.compose_jet_backward(given.by_rows.to(device), *given.of_op(device)))

    by_x, by_x0 = op("cpu")
    arguments = (given.output(by_x), given.output(by_x0), Input(given.by_rows), *given.of_launcher())
    return Call(f"compose_jet_backward {function} {jet.label(dtype)}", "launch_reverse_jet", arguments, op)


REAL = (torch.float32, torch.float64)
JETS = [
    Jet((1,), 1),
    Jet((2,), 1, repeats=True),
    Jet((3, 1), 2),
    Jet((2, 2), 1, repeats=True),
    Jet((3, 3), 2, collapsed=True),
    Jet((3, 3), 1, collapsed=True, weighted=True, repeats=True),
    Jet((2, 2, 1), 3, samples=1, width=1),
    Jet((2, 2, 2), 2, collapsed=True, weighted=True),
    Jet((4, 2, 2, 1), 4),
    Jet((2, 1, 1, 1, 1), 3, samples=9),
    Jet((3,) * 4, 4, collapsed=True, weighted=True),
    Jet((2,) * 6, 6, samples=2),
    Jet((2,) * 6, 1, repeats=True),
]
# Every order: all that directions end at, sums with and without a last row of x, and x of fewer orders.
QUICK = [
    *(Jet(tuple(range(order + 1, 1, -1)), order, samples=2) for order in range(1, MOST_ORDERS + 1)),
    *(Jet((3,) * order, order, collapsed=True, weighted=True, samples=2) for order in range(2, MOST_ORDERS + 1)),
    *(Jet((2,) * order, order - 1, collapsed=True, samples=2) for order in range(2, MOST_ORDERS + 1)),
    *(Jet((2,) * order, 1, repeats=True) for order in (2, MOST_ORDERS)),
    *(Jet((2,) * order, order, repeats=True, samples=3) for order in (2, 3, 5, MOST_ORDERS)),
    *(Jet((2,) * order, order, True, repeats=True, samples=3) for order in (2, 3, 5, MOST_ORDERS)),
    *(Jet((3, 2, 2, 1)[:order], order - 1, samples=2) for order in (3, 4)),
    Jet((2,) * 6, 2, samples=2),
]


def of_all(make: Any) -> Iterator[Call]:
    for dtype in REAL:
        for jet in JETS:
            yield make(dtype, "tanh", jet)
        for function in FUNCTIONS:
            yield make(dtype, function, Jet((2, 2, 1), 3))
            yield make(dtype, function, Jet((1, 1, 1, 1, 1), 5))


def compose_calls() -> Iterator[Call]:
    yield from of_all(compose_call)


def reverse_calls() -> Iterator[Call]:
    yield from of_all(reverse_call)


def of_quick(make: Any) -> Iterator[Call]:
    for dtype in REAL:
        for jet in QUICK:
            yield make(dtype, "tanh", jet)
        for function in FUNCTIONS:
            for order in (1, 2, 3, 4, 5, 6):
                yield make(dtype, function, Jet((1,) * order, min(order, 2), samples=2))


def zero_or_one(index: Ints) -> Ints:
    return index * 5 % 7 % 2


def given_at(index: Ints, numel: int, m: int) -> Ints:
    """c_m of elements."""
    return huge_value(index % numel + (m - 1) * numel)


# Of one order along two directions, and of several along one, x of which is of one order.
HUGE_JETS = (Jet((2,), 1), Jet((1, 1, 1, 1), 1))


def huge_compose_call(dtype: torch.dtype, jet: Jet, numel: int) -> Call:
    """Of whole numbers: coefficient k is the k-th of the given series times a power of zero or one."""

    def expected(index: Ints) -> Ints:
        if jet.order == 1:
            return given_at(index, numel, 1) * zero_or_one(index)
        return huge_value(index) * zero_or_one(index % numel)

    arguments = (
        HugeOutput(jet.rows(jet.order) * numel, dtype, expected),
        HugeInput(jet.rows(1) * numel, dtype, zero_or_one),
        dtype,
        jet.layout([HugeInput(jet.order * numel, dtype)], None, numel, numel),
        FUNCTIONS["given"].equation(),
        Stream(),
    )
    label = f"compose_jet {name(dtype)} huge {numel} {jet}"
    return Call(label, "launch_compose_jet", arguments, blocks=first_and_last(-(-numel // 256)))


def huge_reverse_call(dtype: torch.dtype, jet: Jet, numel: int) -> Call:
    """Likewise: the series of the slope is m c_m."""

    def slope_at(index: Ints, k: int) -> Ints:
        """Coefficient k of the composition of the slope."""
        power = zero_or_one(index) if k else np.ones_like(index)
        return (k + 1) * given_at(index, numel, k + 1) * power

    def cotangent(index: Ints, k: int) -> Ints:
        return huge_value(index + (k - 1) * numel) % 16

    orders = range(1, jet.order + 1)

    def by_x(index: Ints) -> Ints:
        return sum(cotangent(index, k) * slope_at(index, k - 1) for k in orders)

    def by_x0(index: Ints) -> Ints:
        rows = [index + d * numel for d in range(jet.counts[0])]
        return sum(cotangent(row, k) * slope_at(row, k) for row in rows for k in orders)

    arguments = (
        HugeOutput(jet.rows(1) * numel, dtype, by_x),
        HugeOutput(numel, dtype, by_x0),
        HugeInput(jet.rows(jet.order) * numel, dtype, lambda index: huge_value(index) % 16),
        HugeInput(jet.rows(1) * numel, dtype, zero_or_one),
        dtype,
        jet.layout([HugeInput((jet.order + 1) * numel, dtype)], None, numel, numel),
        FUNCTIONS["given"].equation(),
        Stream(),
    )
    label = f"compose_jet_backward {name(dtype)} huge {numel} {jet}"
    return Call(label, "launch_reverse_jet", arguments, blocks=first_and_last(-(-numel // 256)))


HUGE = (2**31 + 5, 2**33 + 700, 2**39 + 700)


def of_huge(make: Any) -> Iterator[Call]:
    for numel in HUGE:
        for jet in HUGE_JETS:
            for dtype in REAL:
                yield make(dtype, jet, numel)


def compose_huge() -> Iterator[Call]:
    yield from of_huge(huge_compose_call)


def reverse_huge() -> Iterator[Call]:
    yield from of_huge(huge_reverse_call)


def compose_quick() -> Iterator[Call]:
    yield from of_quick(compose_call)
    yield from compose_huge()


def reverse_quick() -> Iterator[Call]:
    yield from of_quick(reverse_call)
    yield from reverse_huge()


BUSY = [
    Jet((2, 1), 2, samples=500),
    Jet((3, 3), 2, collapsed=True, samples=501),
    Jet((2, 2), 1, repeats=True, samples=500),
    Jet((1, 1, 1, 1), 4, samples=499),
]


def compose_busy() -> Iterator[Call]:
    for dtype in REAL:
        for jet in BUSY:
            yield compose_call(dtype, "tanh", jet)


def reverse_busy() -> Iterator[Call]:
    for dtype in REAL:
        for jet in BUSY:
            yield reverse_call(dtype, "tanh", jet)


def jet_drawn(rng: Random) -> tuple[torch.dtype, str, Jet]:
    order = rng.randint(1, MOST_ORDERS)
    counts = sorted((rng.randint(1, 4) for _ in range(order)), reverse=True)
    collapsed = order > 1 and rng.random() < 0.4
    if collapsed:
        counts = counts[:1] * order
    terms = rng.randint(1, order)
    samples, width = rng.randint(100, 600), rng.randint(30, 70)
    jet = Jet(tuple(counts), terms, collapsed, collapsed and rng.random() < 0.5, terms == 1, samples, width)
    return rng.choice(REAL), rng.choice(list(FUNCTIONS)), jet


def compose_drawn(rng: Random) -> Call:
    return compose_call(*jet_drawn(rng))


def reverse_drawn(rng: Random) -> Call:
    return reverse_call(*jet_drawn(rng))
