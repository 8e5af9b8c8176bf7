"""Derivatives of any order by nested reverse mode: Jacobians of Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _C
from ._progress import Report
from ._symmetric import expand, growing_entries

# Of every backward that is marked with it.
_ONCE = once_differentiable(lambda ctx: None).__code__

# Elements of a Jacobian that unmixed derivatives take the diagonal of at once.
_DIAGONAL_ELEMENTS = 1 << 22


@dataclass
class Orders:
    """The orders of one call, with its options, and the passes of all of them together."""

    name: str
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
            self.name,
            self.create_graph or order < self.n,
            True,
            self.allow_unused or order > 1,
            self.strict,
            self.chunk_size,
            self.mode,
            self.structure,
            torch.strided,
            0,
            [],
            None,
            None if report is None else report_all,
        )

    def all_partials(self, outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        """Blocks in row-major order of (output, input, ..., input). One without a path is zero and takes no pass."""
        blocks = outputs
        for order in range(1, self.n + 1):
            blocks = self.jacobian(blocks, inputs, order)
        return blocks

    def joint_partials(self, output: Tensor, inputs: list[Tensor], batch_dims: int, packed: bool) -> Tensor:
        """All partial derivatives of one output by the elements of all inputs of its sample together, of shape
        [samples, rest, width, ..., width]. Of mixed ones that agree only one is derived again if `packed`."""
        samples = prod(output.shape[:batch_dims])
        with torch.enable_grad():
            block = output.reshape(samples, -1, 1)
        rest = block.shape[1]
        width = sum(prod(x.shape[batch_dims:]) for x in inputs)
        if self.n == 1 and rest == 1 and len(inputs) == 1:
            # One gradient, as torch records it.
            [gradient] = self.jacobian([_sum(output)], inputs, 1)
            with torch.set_grad_enabled(self.create_graph):
                return gradient.reshape(samples, 1, width)
        for order in range(1, self.n + 1):
            # Samples are independent, so that the sum over them loses nothing.
            with torch.enable_grad():
                rows = block.sum(0)
            blocks = self.jacobian([rows], inputs, order)
            with torch.set_grad_enabled(self.create_graph or order < self.n):
                parts = [part.reshape(*rows.shape, samples, -1) for part in blocks]
                joint = torch.cat(parts, 3).permute(2, 0, 1, 3)
                block = joint.reshape(samples, rest, -1)
                if packed:
                    block = block.index_select(2, growing_entries(width, order - 1, device=block.device))
        with torch.set_grad_enabled(self.create_graph):
            if packed:
                return expand(block, width, self.n)
            return block.reshape(samples, rest, *(width for _ in range(self.n)))

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


def jacobian(rows: Tensor, inputs: list[Tensor], create_graph: bool) -> list[Tensor]:
    """First derivatives of `rows` by each input, zeros where it does not depend on it."""
    orders = Orders(
        "nested derivatives",
        1,
        create_graph,
        allow_unused=True,
        strict=False,
        chunk_size=None,
        mode="auto",
        structure="auto",
        report=None,
    )
    return orders.jacobian([rows], inputs, 1)


def check_derivable_again(output: Tensor, inputs: list[Tensor]) -> None:
    """Raises RuntimeError where a custom Function has a first derivative alone: what torch records of it leads nowhere,
    as a constant does."""
    for context in _C.custom_functions(output, inputs):
        function = getattr(type(context), "_forward_cls", None)
        for backward in (getattr(function, "backward", None), getattr(function, "vjp", None)):
            if getattr(backward, "__code__", None) is _ONCE:
                raise RuntimeError(
                    "trying to differentiate twice a function that was marked with @once_differentiable: "
                    f"{getattr(function, '__name__', function)}"
                )


def _sum(tensor: Tensor) -> Tensor:
    with torch.enable_grad():
        return tensor.sum()
