"""Taylor coefficients over the recorded graph: directions and polynomials, in chunks of what memory holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial, prod
from typing import TypeVar

import torch
from torch import Tensor

from . import _C
from ._nested_series import Directions, is_out_of_memory, nested_series
from ._progress import Report
from ._symmetric import directions, expand, interpolate, packed_size

_T = TypeVar("_T")

# Elements of all inputs of a sample up to which polynomials in all of them are cheaper than nested sweeps, whatever the
# operations, and where all of these contract: measured on networks and on functions without matrix products.
_NARROW = 32
_WIDE = 100
# Of one output a sample, second derivatives take two sweeps: the width up to which polynomials are cheaper.
_WIDE_SECOND = 48
# Bytes of the coefficients of highest order of all tensors on the graph, from which on cotangents, one sweep for every
# element of f in a sample, are cheaper than they; and directions that are few: measured on networks of 2 to 50 inputs.
_CONTRACTED_BYTES = 1 << 20
_FEW_DIRECTIONS = 32
# Recorded jets are contracted where that leaves less than one row in so many.
_COTANGENTS = 3

# Bytes of polynomials that are alive at once, past which directions are taken some at a time: they are interpolated in
# float64, at several times the cost. An accelerator's are those of any sweep.
_POLYNOMIAL_BYTES = 1 << 30

# Past this order, interpolation in float64 keeps less than 11 digits: not by choice.
_INTERPOLATED = 8

# By degree from 1: each as the numbers of its variables, ascending.
Monomials = Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Outlook:
    """What the graph tells of one output before any work.

    degree: as a polynomial in all inputs, `UNBOUNDED` if it is none. reaches: which inputs it depends on. obstacle: why
    jets cannot flow, or "". regular: whether mixed partials certainly agree (no custom Function, no hook). bytes: of
    one row of all that is alive at once. nested_orders: how many derivatives torch's own Nodes have, and have right.
    """

    degree: int
    reaches: list[bool]
    obstacle: str
    regular: bool
    bytes: int
    all_bytes: int
    contracts: bool
    nested_orders: int


UNBOUNDED = 1 << 40


def inspect(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Outlook]:
    """The outlook of every output."""
    return [Outlook(*outlook) for outlook in _C.taylor_inspect(outputs, inputs)]


class Obstacle(Exception):
    """Jets met what they do not know."""


@dataclass(frozen=True)
class Sweeps:
    """Sweeps of jets from some inputs to some outputs, with the options of one call. inspected: the outlooks, or None
    to look only where they are needed."""

    outputs: list[Tensor]
    inputs: list[Tensor]
    inspected: list[Outlook] | None
    batch_dims: int
    create_graph: bool
    chunk_size: int | None
    report: Report | None
    # Whether jets that meet an obstacle on their way are replaced by nested gradients, direction by direction.
    replaced: bool = True

    @cached_property
    def outlooks(self) -> list[Outlook]:
        return inspect(self.outputs, self.inputs) if self.inspected is None else self.inspected

    @property
    def widths(self) -> list[int]:
        """Elements of each input of one sample."""
        return [prod(x.shape[self.batch_dims :]) for x in self.inputs]

    @property
    def width(self) -> int:
        """Elements of all inputs of one sample."""
        return sum(self.widths)

    def coefficients(self, moved: Directions, order: int, in_double: bool = False) -> list[Tensor]:
        """By output: the coefficients c_1, ..., c_order along every direction, [order, D, *output.shape]."""
        chunks = self._in_chunks(moved, order, lambda _, part: self._sweep(part, order, False, None, in_double))
        return [join(parts, 1) for parts in zip(*chunks, strict=True)]

    def coefficients_by_order(self, moved: Directions, orders: Sequence[int]) -> list[list[Tensor]]:
        """By output, by order k = 1, ..., orders[0]: the coefficients along those directions, the first ones, that
        reach it. orders: of every direction, the highest first."""
        counts = [sum(n >= k for n in orders) for k in range(1, orders[0] + 1)]
        if counts[-1] == len(orders):
            return [list(result.unbind(0)) for result in self.coefficients(moved, orders[0])]
        rows = None
        if self.chunk_size is None or self.chunk_size >= len(orders):
            rows = self._in_one_sweep(moved, len(counts), sum(counts), counts=counts)
        if rows is not None:
            with torch.set_grad_enabled(self.create_graph):
                return [list(torch.split(result, counts)) for result in rows]
        groups = []
        for n in sorted(set(orders), reverse=True):
            first, last = sum(m > n for m in orders), sum(m >= n for m in orders)
            groups.append(self.coefficients([None if v is None else v[first:last] for v in moved], n))
        with torch.set_grad_enabled(self.create_graph):
            return [
                [join([group[i][k] for group in groups if len(group[i]) > k], 0) for k in range(orders[0])]
                for i in range(len(self.outputs))
            ]

    def polynomials(self, moved: Directions, monomials: Monomials) -> list[Tensor] | None:
        """By output: the coefficients of these monomials in the coordinates along all directions, one row for each; or
        None where memory does not hold all of them at once."""
        return self._in_one_sweep(moved, len(monomials), sum(map(len, monomials)), monomials=monomials)

    def _in_one_sweep(
        self, moved: Directions, order: int, count: int, counts: Sequence[int] = (), monomials: Monomials = ()
    ) -> list[Tensor] | None:
        """The rows of all orders, `count` of them, or None where jets do not serve, or not all directions at once."""
        if not self.create_graph:
            bytes = 2 * max((outlook.bytes for outlook in self.outlooks), default=0)
            if _C.automatic_chunk_size(count, bytes, self.inputs[0]) < count:
                return None
        try:
            found = _C.taylor_coefficients(
                self.outputs, self.inputs, moved, order, False, None, False, self.create_graph, counts, monomials
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        if isinstance(found, str):
            return None
        if self.report is not None:
            total = next(len(v) for v in moved if v is not None)
            self.report(total, total)
        results = []
        for output, rows in zip(self.outputs, found, strict=True):
            rows = output.new_zeros((count, *output.shape)) if rows is None else rows
            results.append(rows.to(self.inputs[0].dtype))
        return results

    def collapsed(self, moved: Directions, order: int, weights: Tensor | None) -> list[Tensor]:
        """By output: the sum of c_order over all directions, weighted, of output's shape."""

        def sweep(rows: slice, part: Directions) -> list[Tensor]:
            return self._sweep(part, order, True, None if weights is None else weights[rows], False)

        chunks = self._in_chunks(moved, order, sweep)
        with torch.set_grad_enabled(self.create_graph):
            return [sum(parts[1:], parts[0]) for parts in zip(*chunks, strict=True)]

    def partials(self, order: int) -> list[Tensor]:
        """By output: all partial derivatives by the elements of all inputs of its sample together, of shape
        [samples, rest, width, ..., width]."""
        results = []
        for output, outlook in zip(self.outputs, self.outlooks, strict=True):
            alone = replace(self, outputs=[output], inspected=[outlook])
            packed = alone._partials_of_polynomials(order)
            if packed is None:
                packed = alone._partials_along_directions(order)
            with torch.set_grad_enabled(self.create_graph):
                results.append(expand(packed, self.width, order))
        return results

    def _monomials(self, order: int) -> int:
        """Of all orders from one to this."""
        return packed_size(self.width + 1, order) - 1

    def prefers_jets(self, order: int) -> bool:
        """Whether all partial derivatives of the outputs are better found by jets than by nested sweeps."""
        if any(order > outlook.nested_orders for outlook in self.outlooks):
            return True
        samples = prod(self.outputs[0].shape[: self.batch_dims])
        if order == 2 and all(output.numel() == samples for output in self.outputs):
            # Two sweeps, the second of a batch of gradients, read and write less than polynomials do: in torch's
            # operations, in memory behind the caches, and where polynomials are differentiated again.
            rows, lower = self._monomials(2), self._monomials(1)
            if not self.outputs[0].is_cpu or any(
                rows >= _COTANGENTS * lower and rows * outlook.all_bytes > _CONTRACTED_BYTES
                if self.create_graph
                else _C.automatic_chunk_size(lower, 3 * outlook.bytes, self.outputs[0]) < lower
                for outlook in self.outlooks
            ):
                return False
            if self.width > _WIDE_SECOND:
                return False
            # All pairs of variables go through what does not contract; without samples, two sweeps start at once.
            if any(
                not outlook.contracts and (self.batch_dims == 0 or rows * outlook.all_bytes > _CONTRACTED_BYTES)
                for outlook in self.outlooks
            ):
                return False
        return self.width <= _NARROW or (self.width <= _WIDE and all(outlook.contracts for outlook in self.outlooks))

    def _partials_of_polynomials(self, order: int) -> Tensor | None:
        """By multivariate jets: packed [samples, rest, packed_size], or None where directions serve better."""
        [output], [outlook] = self.outputs, self.outlooks
        if outlook.obstacle:
            raise Obstacle(outlook.obstacle)
        samples = prod(output.shape[: self.batch_dims])
        size = packed_size(self.width, order)
        # Recorded products of polynomials take more operations than those along directions: not where these are few.
        if self.create_graph and 3 < order <= _INTERPOLATED and size < _FEW_DIRECTIONS:
            return None
        rows, lower = self._monomials(order), self._monomials(order - 1)
        contracted = (
            order > 1
            and output.dtype in (torch.float32, torch.float64)
            and size * outlook.all_bytes > _CONTRACTED_BYTES * (output.numel() // max(samples, 1))
            # Recorded cotangents are derivatives of torch's own, and cost as much as some orders of jets.
            and not (self.create_graph and (outlook.nested_orders < UNBOUNDED or rows <= _COTANGENTS * lower))
            and (samples == 1 or _C.keeps_samples_apart([output], self.inputs, samples, everywhere=True))
        )
        rows = lower if contracted else rows
        if order <= _INTERPOLATED:
            bytes = 3 * outlook.bytes
            if not self.create_graph and (
                rows * bytes > _POLYNOMIAL_BYTES
                if output.is_cpu
                else _C.automatic_chunk_size(rows, bytes, output) < rows
            ):
                return None
            if self.chunk_size is not None and self.chunk_size < rows:
                return None
        try:
            found = _C.taylor_partials(output, self.inputs, self.batch_dims, order, contracted, self.create_graph)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        if isinstance(found, str):
            raise Obstacle(found)
        if self.report is not None:
            self.report(rows, rows)
        shape = (samples, output.numel() // max(samples, 1), size)
        return output.new_zeros(shape) if found is None else found

    def _alone(self, output: Tensor) -> Sweeps:
        outlook = next(o for f, o in zip(self.outputs, self.outlooks, strict=True) if f is output)
        return replace(self, outputs=[output], inspected=[outlook])

    def _partials_along_directions(self, order: int) -> Tensor:
        """By interpolation, in float64, of the coefficients along as many directions as there are different partial
        derivatives: as many of them at a time as memory or the caller allows. Packed [samples, rest, packed_size]."""
        [output] = self.outputs
        moved = basis(self.inputs, self.batch_dims, directions(self.width, order, device=self.inputs[0].device))
        coefficients = self.coefficients(moved, order, in_double=True)[0][-1]
        with torch.set_grad_enabled(self.create_graph):
            samples = prod(output.shape[: self.batch_dims])
            packed = interpolate(coefficients, self.width, order).reshape(len(coefficients), samples, -1)
            return packed.permute(1, 2, 0)

    def unmixed(self, order: int) -> list[Tensor]:
        """By output: the derivatives of `order` by each element of the inputs, [*output.shape, width]."""
        eye = torch.eye(self.width, dtype=torch.float64, device=self.inputs[0].device)
        if self.width == 0:
            return [output.new_zeros(*output.shape, 0) for output in self.outputs]
        results = self.coefficients(basis(self.inputs, self.batch_dims, eye), order)
        with torch.set_grad_enabled(self.create_graph):
            return [result[-1].movedim(0, -1) * float(factorial(order)) for result in results]

    def contracted(self, order: int) -> list[list[Tensor]]:
        """By output, by input: the gradient of the sum of the gradient of ... of the sum of the output. That is the
        gradient of a derivative along ones, hence the derivative of the next one by that direction."""
        rows = []
        for output in self.outputs:
            recorded = replace(self._alone(output), create_graph=True)
            row = []
            for j, x in enumerate(self.inputs):
                ones = torch.ones_like(x, requires_grad=True)
                with torch.enable_grad():
                    moved = [ones.unsqueeze(0) if i == j else None for i in range(len(self.inputs))]
                    total = recorded._sweep(moved, order, True, None, False)[0].sum()
                grad = torch.zeros_like(x)
                if total.requires_grad:
                    (grad,) = torch.autograd.grad(
                        total, ones, create_graph=self.create_graph, allow_unused=True, materialize_grads=True
                    )
                with torch.set_grad_enabled(self.create_graph):
                    row.append(grad * float(factorial(order - 1)))
            rows.append(row)
        return rows

    def _in_chunks(self, moved: Directions, order: int, sweep: Callable[[slice, Directions], _T]) -> list[_T]:
        """The results of sweeps along some directions at a time. Where memory runs out, half as many are tried, unless
        the caller chose their number."""
        total = next(len(v) for v in moved if v is not None)
        size = self.chunk_size
        if size is None:
            # What is recorded stays alive whatever the chunks.
            size = total if self.create_graph else self._automatic_chunk_size(total, order)
        results: list[_T] = []
        first = 0
        while first < total or not results:
            rows = slice(first, min(first + size, total))
            try:
                results.append(sweep(rows, [None if v is None else v[rows] for v in moved]))
            except (MemoryError, RuntimeError) as error:
                count = rows.stop - first
                if self.chunk_size is not None or count == 1 or not is_out_of_memory(error):
                    raise
                size = (count + 1) // 2
                continue
            first = rows.stop
            if self.report is not None:
                self.report(first, total)
        return results

    def _automatic_chunk_size(self, total: int, order: int) -> int:
        if total <= 1:
            return total
        bytes = order * max((outlook.bytes for outlook in self.outlooks), default=0)
        return _C.automatic_chunk_size(total, 2 * bytes, self.inputs[0])

    def _sweep(
        self, moved: Directions, order: int, collapsed: bool, weights: Tensor | None, in_double: bool
    ) -> list[Tensor]:
        found = _C.taylor_coefficients(
            self.outputs, self.inputs, moved, order, collapsed and order > 1, weights, in_double, self.create_graph
        )
        count = next(len(v) for v in moved if v is not None)
        dtype = torch.float64 if in_double else self.inputs[0].dtype
        if isinstance(found, str):
            if not self.replaced:
                raise Obstacle(found)
            results = [self._nested(output, moved, order).to(dtype) for output in self.outputs]
        else:
            results = []
            for output, coefficient in zip(self.outputs, found, strict=True):
                if coefficient is None:
                    shape = output.shape if collapsed and order > 1 else (order, count, *output.shape)
                    coefficient = torch.zeros(shape, dtype=dtype, device=output.device)
                results.append(coefficient.to(dtype))
            if order > 1:
                return results
        if not collapsed:
            return results
        with torch.set_grad_enabled(self.create_graph):
            last = [result[-1] for result in results]
            if weights is None:
                return [result.sum(0) for result in last]
            return [torch.tensordot(weights.to(dtype), result, dims=1) for result in last]

    def _nested(self, output: Tensor, moved: Directions, order: int) -> Tensor:
        """The coefficients of one output by nested gradients: [order, D, *output.shape]."""
        outlook = self._alone(output).outlooks[0]
        # Each order derives the Nodes twice, and what is recorded may be derived again.
        is_served = outlook.regular and 2 * order + self.create_graph <= outlook.nested_orders
        return nested_series(output, self.inputs, moved, order, self.batch_dims, self.create_graph, is_served)


def join(parts: Sequence[Tensor], dim: int) -> Tensor:
    """The parts as one tensor, without a copy where there is one only."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def basis(inputs: Sequence[Tensor], batch_dims: int, selection: Tensor) -> Directions:
    """Directions given by their coordinates in all inputs of one sample together, [D, width], the same for all samples:
    [D, *input.shape] by input, without memory of their own for every sample."""
    moved: list[Tensor | None] = []
    first = 0
    for x in inputs:
        rest = x.shape[batch_dims:]
        width = prod(rest)
        part = selection if len(inputs) == 1 else selection.narrow(1, first, width)
        first += width
        shaped = part.to(device=x.device, dtype=x.dtype).reshape(len(selection), *(1 for _ in range(batch_dims)), *rest)
        moved.append(shaped.expand(len(selection), *x.shape))
    return moved


def take_directions(directions: Tensor, position: list[int]) -> Tensor:
    """directions[position], without memory of their own for every sample where they have none."""
    index = tuple(
        slice(0, 1) if dim > 0 and directions.stride(dim) == 0 else slice(None) for dim in range(directions.dim())
    )
    return directions[index][position].expand(len(position), *directions.shape[1:])
