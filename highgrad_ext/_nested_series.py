"""Taylor coefficients along directions by nested gradients, for graphs that jets do not know."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ._nested import check_derivable_again, jacobian

# Elements of a Jacobian that are contracted with directions at once.
_JACOBIAN_ELEMENTS = 1 << 22

# By input: [D, *input.shape], or None where no direction moves it.
Directions = Sequence[Tensor | None]
# Of the inputs that directions move.
_Moved = Sequence[tuple[Tensor, Tensor]]


def nested_series(
    output: Tensor,
    inputs: Sequence[Tensor],
    moved: Directions,
    order: int,
    batch_dims: int,
    create_graph: bool,
    is_served: bool,
) -> Tensor:
    """The coefficients c_1, ..., c_order along every direction: [order, D, *output.shape]. is_served: whether the Nodes
    are known to be linear in their cotangents, and to have enough derivatives right."""
    count = next(len(v) for v in moved if v is not None)
    pairs = [(x, v) for x, v in zip(inputs, moved, strict=True) if v is not None and x.numel() > 0]
    shape = (order, count, *output.shape)
    if count == 0 or output.numel() == 0 or not pairs or not output.requires_grad:
        return torch.zeros(shape, dtype=output.dtype, device=output.device)
    if order > 1:
        check_derivable_again(output, list(inputs))
    samples = prod(output.shape[:batch_dims])
    columns = output.numel() // samples
    # Where cotangents of all elements would be carried, one dummy cotangent serves.
    series = _forward(output, pairs, order, create_graph) if is_served and columns > 1 else None
    if series is None:
        series = _reverse(output, samples, pairs, order, create_graph)
    with torch.set_grad_enabled(create_graph):
        return torch.stack(series).reshape(shape)


def _forward(output: Tensor, pairs: _Moved, order: int, create_graph: bool) -> list[Tensor] | None:
    """By order, [D, *output.shape], as vector-Jacobian products differentiated by their cotangent; None where the graph
    cannot be differentiated so often."""
    directions = []
    for d in range(len(pairs[0][1])):
        coefficient = output
        series = []
        for k in range(1, order + 1):
            found = _derivative_along(coefficient, [(x, v[d]) for x, v in pairs], k, create_graph or k < order)
            if found is None:
                return None
            coefficient = found
            series.append(coefficient)
        directions.append(series)
    with torch.set_grad_enabled(create_graph):
        return [torch.stack(parts) for parts in zip(*directions, strict=True)]


def _derivative_along(tensor: Tensor, pairs: _Moved, order: int, create_graph: bool) -> Tensor | None:
    """The derivative along directions, divided by `order`, or None where the graph has no second derivative."""
    if not tensor.requires_grad:
        return torch.zeros_like(tensor)
    inputs = [x for x, _ in pairs]
    try:
        with torch.enable_grad():
            cotangent = torch.ones_like(tensor, requires_grad=True)
            total = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
            grads = jacobian((tensor * cotangent).sum(), inputs, create_graph=True)
            for grad, (_, v) in zip(grads, pairs, strict=True):
                total = total + (grad * v.to(grad.dtype)).sum().to(total.dtype)
            if not total.requires_grad:
                return torch.zeros_like(tensor)
            (derivative,) = torch.autograd.grad(
                total, cotangent, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None
    with torch.set_grad_enabled(create_graph):
        return derivative / order


def _reverse(output: Tensor, samples: int, pairs: _Moved, order: int, create_graph: bool) -> list[Tensor]:
    """By order, [D, samples, elements of a sample], from the Jacobians of the orders below."""
    inputs = [x for x, _ in pairs]
    moved = [v.reshape(len(v), samples, -1) for _, v in pairs]
    with torch.enable_grad():
        coefficient = output.reshape(1, samples, -1)
    series = []
    for k in range(1, order + 1):
        recorded = create_graph or k < order
        # Samples are independent, so that the sum over them loses nothing.
        with torch.enable_grad():
            rows = coefficient.sum(1).reshape(-1)
        parts = []
        size = max(1, _JACOBIAN_ELEMENTS // sum(x.numel() for x in inputs))
        for first in range(0, len(rows), size):
            with torch.enable_grad():
                part = rows[first : first + size]
            blocks = jacobian(part, inputs, recorded)
            with torch.set_grad_enabled(recorded):
                number = torch.arange(first, first + len(part), device=part.device) // coefficient.shape[2]
                total = torch.zeros((), dtype=output.dtype, device=output.device)
                for block, v in zip(blocks, moved, strict=True):
                    by_sample = block.reshape(len(part), samples, -1)
                    along = v[:, None] if k == 1 else v[number][None]
                    total = total + (by_sample * along.to(block.dtype)).sum(-1).to(output.dtype)
                parts.append(total)
        with torch.set_grad_enabled(recorded):
            # [D or 1, rows, samples]
            coefficient = torch.cat(parts, 1).reshape(-1, coefficient.shape[2], samples).transpose(1, 2) / k
        series.append(coefficient)
    return series


def is_out_of_memory(error: Exception) -> bool:
    """Whether fewer directions may help. The CPU's allocator has no exception of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
