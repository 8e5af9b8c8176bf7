"""nth_derivative: derivatives of any order, by Jacobians of Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from . import _C
from ._options import check_sweep_options
from ._progress import Report, reporter
from ._tree import TensorTree, flatten, nest

_NAME = "nth_derivative"

# Elements of a Jacobian that unmixed derivatives take the diagonal of at once.
_DIAGONAL_ELEMENTS = 1 << 22


def nth_derivative(
    f: TensorTree,
    wrt: TensorTree,
    n: int,
    *,
    reduce: Literal["sum", "diagonal"] | None = None,
    create_graph: bool = True,
    retain_graph: bool = True,
    allow_unused: bool = True,
    strict: bool = False,
    chunk_size: int | None = None,
    mode: Literal["auto", "reverse", "forward"] = "auto",
    structure: Literal["auto", "dense"] = "auto",
    out: TensorTree | None = None,
    progress: bool | Report = False,
) -> TensorTree:
    r"""The n-th derivative of tensors that have a recorded graph, by nested reverse mode.

    Past the degree of a polynomial the result is exactly zero and costs nothing.

    Args:
        f, wrt: as in :func:`full_jacobian`.
        n: order, at least 0. Order 0 is `f` itself, whatever `reduce` is.
        reduce: None gives all partial derivatives. "sum" gives the contracted form: each order sums the last gradient
            over its elements before it differentiates again, so every order has the shape of `wrt`; it costs n sweeps.
            "diagonal" gives the unmixed ones, :math:`\partial^n f_i / \partial \mathit{wrt}_j^n`.
        create_graph, retain_graph, out, progress: as in :func:`full_jacobian`, for the last order; the orders below it
            always record their graph.
        chunk_size, mode, structure: as in :func:`full_jacobian`, for every order.
        allow_unused: as in :func:`full_jacobian`, for the first order.
        strict: as in :func:`full_jacobian`, for every order.

    Returns:
        For tensors, a tensor of `wrt`'s dtype and device, of shape ``f.shape + wrt.shape * n``; with reduce="sum"
        ``wrt.shape``; with reduce="diagonal" ``f.shape + wrt.shape``. For containers, `f`'s structure outside and
        `wrt`'s inside, n times for reduce=None, once otherwise (every `wrt` is then reduced by itself).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`full_jacobian`; a negative n or unknown `reduce` is a ValueError.

    Example:
        >>> x = torch.arange(4.0, requires_grad=True).view(2, 2)
        >>> nth_derivative((x**4).sum(), x, 3, reduce="sum")
        tensor([[ 0., 24.],
                [48., 72.]], grad_fn=<UnsafeViewBackward0>)
    """
    _check_options(n, reduce, chunk_size, mode, structure)
    outputs, f_spec = flatten(_NAME, "f", f)
    inputs, wrt_spec = flatten(_NAME, "wrt", wrt)
    if n == 0:
        return f
    nesting = n if reduce is None else 1
    results = None
    if out is not None:
        if create_graph:
            raise ValueError(f"{_NAME}: expected create_graph=False with out, got create_graph=True")
        results = flatten(_NAME, "out", out)[0]
        paths = list(product(inputs, repeat=nesting))
        shapes = [
            [*(output.shape if reduce != "sum" else ()), *(size for input in path for size in input.shape)]
            for output in outputs
            for path in paths
        ]
        _C.check_out(_NAME, shapes, [path[-1] for _ in outputs for path in paths], results, outputs + inputs)
    with reporter(_NAME, progress) as report:
        orders = _Orders(n, create_graph, allow_unused, strict, chunk_size, mode, structure, report)
        if reduce is None:
            blocks = orders.all_partials(outputs, inputs)
        else:
            derive = orders.contracted if reduce == "sum" else orders.unmixed
            blocks = [block for output in outputs for block in derive(output, inputs)]
    if not retain_graph:
        _C.release_graph(outputs, inputs)
    if results is None:
        return nest(blocks, f_spec, wrt_spec, nesting)
    for result, block in zip(results, blocks, strict=True):
        result.copy_(block)
    return out


def _check_options(n: object, reduce: object, chunk_size: object, mode: object, structure: object) -> None:
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"{_NAME}: expected n to be an int, got {type(n).__name__}")
    if n < 0:
        raise ValueError(f"{_NAME}: expected n to be at least 0, got {n}")
    if reduce not in (None, "sum", "diagonal"):
        raise ValueError(f'{_NAME}: expected reduce to be None, "sum" or "diagonal", got {reduce!r}')
    check_sweep_options(_NAME, chunk_size, mode, structure)


@dataclass
class _Orders:
    """The orders of one call, with its options, and the passes of all of them together."""

    n: int
    create_graph: bool
    allow_unused: bool
    strict: bool
    chunk_size: int | None
    mode: str
    structure: str
    report: Report | None
    passes: int = 0

    def jacobian(self, outputs: list[Tensor], inputs: list[Tensor], order: int) -> list[Tensor]:
        """First derivatives of `outputs`, which are of order `order - 1`, by `inputs`."""
        before = self.passes
        report = self.report

        def report_all(done: int, total: int) -> None:
            self.passes = before + done
            if report is not None:
                report(before + done, before + total)

        return _C.full_jacobian(
            outputs,
            inputs,
            _NAME,
            self.create_graph or order < self.n,
            True,
            self.allow_unused or order > 1,
            self.strict,
            self.chunk_size,
            self.mode,
            self.structure,
            [],
            torch.strided,
            0,
            None,
            None if report is None else report_all,
        )

    def all_partials(self, outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        """Blocks in row-major order of (output, input, ..., input). One without a path is zero and takes no pass."""
        blocks = outputs
        for order in range(1, self.n + 1):
            blocks = self.jacobian(blocks, inputs, order)
        return blocks

    def contracted(self, output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        """For each input, the gradient of the sum of the gradient of ... of the sum of `output`."""
        blocks = self.jacobian([_sum(output)], inputs, 1)
        for order in range(2, self.n + 1):
            blocks = [self.jacobian([_sum(block)], [i], order)[0] for block, i in zip(blocks, inputs, strict=True)]
        return blocks

    def unmixed(self, output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        """For each input, the derivatives by one of its elements n times."""
        blocks = self.jacobian([output], inputs, 1)
        for order in range(2, self.n + 1):
            blocks = [self._diagonal(block, i, order) for block, i in zip(blocks, inputs, strict=True)]
        return blocks

    def _diagonal(self, block: Tensor, wrt: Tensor, order: int) -> Tensor:
        """Entry [..., i] of `block` derived by wrt[i], some rows of their Jacobian at a time."""
        width = wrt.numel()
        if block.numel() == 0 or not (block.requires_grad or self.strict):
            return torch.zeros_like(block)
        with torch.enable_grad():
            slices = torch.split(block.reshape(-1), max(1, _DIAGONAL_ELEMENTS // width))
        parts, first = [], 0
        for rows in slices:
            columns = torch.arange(first, first + rows.numel(), device=wrt.device) % width
            full = self.jacobian([rows], [wrt], order)[0].reshape(-1, width)
            parts.append(full.gather(1, columns.unsqueeze(1)))
            first += rows.numel()
        with torch.set_grad_enabled(self.create_graph or order < self.n):
            return torch.cat(parts).view(block.shape)


def _sum(tensor: Tensor) -> Tensor:
    with torch.enable_grad():
        return tensor.sum()
