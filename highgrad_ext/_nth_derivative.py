"""nth_derivative: derivatives of any order, by jets over the recorded graph or by Jacobians of Jacobians."""

from __future__ import annotations

from itertools import product
from math import isfinite, prod
from typing import Literal

import torch
from torch import Tensor

from . import _C
from ._nested import Orders, check_derivable_again
from ._options import check_fits, check_flags, check_real, check_sweep_options, in_any_mode, warn
from ._progress import Report, reporter
from ._samples import check_batch
from ._taylor import Obstacle, Outlook, Sweeps, inspect
from ._tree import TensorTree, flatten, flatten_out, nest

_NAME = "nth_derivative"

# Up to which jets that are not finite are replaced by nested sweeps; these take too long beyond it.
_CHECKED_ORDERS = 3


@in_any_mode
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
    method: Literal["auto", "nested", "taylor"] = "auto",
    batch_dims: int = 0,
    symmetric: bool = True,
    out: TensorTree | None = None,
    progress: bool | Report = False,
) -> TensorTree:
    r"""The n-th derivative of tensors that have a recorded graph.

    Past the degree of a polynomial, which is read from the graph, the result is exactly zero and costs nothing. Orders
    above one go by Taylor coefficients (jets) over the recorded graph where all its Nodes are known: by polynomials in
    all elements of `wrt`, with one coefficient for every different partial derivative of every order. For an `f` of few
    elements, those of the highest order do not flow through the graph: one reverse sweep gives the weights with which
    its operations add to them. Where memory or `chunk_size` does not hold all coefficients at once, jets flow along
    some directions at a time, from which derivatives are interpolated in float64 (Griewank, Utke, Walther, Math.
    Comp. 69, 2000). Otherwise by Jacobians of Jacobians, of which only those of sorted multi-indices are derived again.

    Args:
        f, wrt: as in :func:`full_jacobian`.
        n: order, at least 0. Order 0 is `f` itself, whatever `reduce` is.
        reduce: None gives all partial derivatives. "sum" gives the contracted form: each order sums the last gradient
            over its elements before it differentiates again, so every order has the shape of `wrt`; it costs n sweeps.
            With `batch_dims`, the same: other samples add nothing.
            "diagonal" gives the unmixed ones, :math:`\partial^n f_i / \partial \mathit{wrt}_j^n`.
        create_graph, retain_graph, out, progress: as in :func:`full_jacobian`, for the last order; the orders below it
            always record their graph.
        chunk_size, mode, structure: as in :func:`full_jacobian`, for every order of nested sweeps; of jets, chunk_size
            is the most coefficients of one element, or directions, in a sweep.
        allow_unused: as in :func:`full_jacobian`, for the first order.
        strict: as in :func:`full_jacobian`, for every order, which are then nested.
        method: "nested" and "taylor" force one of the two; "taylor" warns where it cannot be used.
        batch_dims: the first `batch_dims` dimensions of `f` and `wrt` are the same independent samples, and derivatives
            of one sample by another are left out.
        symmetric: False derives mixed partials in every order of their indices, for graphs on which they differ. That
            also holds for graphs with a custom Function or a hook. It turns jets off.

    Returns:
        For tensors, a tensor of `wrt`'s dtype and device, of shape ``f.shape + wrt.shape * n``; with reduce="sum"
        ``wrt.shape``; with reduce="diagonal" ``f.shape + wrt.shape``. With `batch_dims`,
        ``batch + f_rest + wrt_rest * n`` or, with reduce="diagonal", ``batch + f_rest + wrt_rest``. For containers,
        `f`'s structure outside and `wrt`'s inside, n times for reduce=None, once otherwise (every `wrt` is then reduced
        by itself).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`full_jacobian`; a complex `wrt` for n > 1 is a RuntimeError; a
            negative n, an unknown `reduce` or `method` and a `batch_dims` that the shapes do not have are ValueErrors;
            samples that are not independent a RuntimeError.
        torch.OutOfMemoryError: a result larger than all memory of its device, before any work.

    Example:
        >>> x = torch.arange(4.0, requires_grad=True).view(2, 2)
        >>> nth_derivative((x**4).sum(), x, 3, reduce="sum")
        tensor([[ 0., 24.],
                [48., 72.]], grad_fn=<MulBackward0>)
    """
    _check_options(n, reduce, chunk_size, mode, structure, method)
    outputs, f_spec = flatten(_NAME, "f", f)
    inputs, wrt_spec = flatten(_NAME, "wrt", wrt)
    check_flags(
        _NAME,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=allow_unused,
        strict=strict,
        symmetric=symmetric,
    )
    if n == 0:
        return f
    _C.check_arguments(_NAME, outputs, inputs, create_graph, chunk_size)
    check_batch(_NAME, outputs, inputs, batch_dims)
    if n > 1:
        check_real(_NAME, inputs)
    if reduce is None and inputs:
        samples = prod(inputs[0].shape[:batch_dims])
        width = sum(prod(x.shape[batch_dims:]) for x in inputs)
        of_sample = sum(prod(output.shape[batch_dims:]) for output in outputs)
        check_fits(
            _NAME,
            samples * of_sample * width**n,
            inputs[0],
            'reduce="diagonal", reduce="sum", batch_dims or directional() may be enough',
        )
    shapes = _Shapes(outputs, inputs, n, reduce, batch_dims)
    results = None
    if out is not None:
        if create_graph:
            raise ValueError(f"{_NAME}: expected create_graph=False with out, got create_graph=True")
        results = flatten_out(_NAME, out, f_spec, wrt_spec, n if reduce is None else 1)
        paths = [path for _ in outputs for path in shapes.paths]
        _C.check_out(_NAME, shapes.all(), [inputs[path[-1]] for path in paths], results, outputs + inputs)
    with reporter(_NAME, progress) as report:
        orders = Orders(_NAME, n, create_graph, allow_unused, strict, chunk_size, mode, structure, report)
        blocks = _first(shapes, orders, method) if n == 1 else None
        if blocks is None:
            blocks = _derive(shapes, orders, method, symmetric)
    if not retain_graph:
        _C.release_graph(outputs, inputs)
    if results is None:
        return nest(blocks, f_spec, wrt_spec, n if reduce is None else 1)
    for result, block in zip(results, blocks, strict=True):
        result.copy_(block)
    return out


class _Shapes:
    """The blocks of one result: of every output, by every path of inputs."""

    def __init__(
        self, outputs: list[Tensor], inputs: list[Tensor], n: int, reduce: str | None, batch_dims: int
    ) -> None:
        self.outputs = outputs
        self.inputs = inputs
        self.n = n
        self.reduce = reduce
        self.batch_dims = batch_dims
        self.paths = list(product(range(len(inputs)), repeat=n if reduce is None else 1))

    def block(self, output: Tensor, path: tuple[int, ...]) -> list[int]:
        if self.reduce == "sum":
            return list(self.inputs[path[0]].shape)
        return [*output.shape, *(size for j in path for size in self.inputs[j].shape[self.batch_dims :])]

    def all(self) -> list[list[int]]:
        return [self.block(output, path) for output in self.outputs for path in self.paths]

    def zeros(self, output: Tensor) -> list[Tensor]:
        return [self.inputs[path[-1]].new_zeros(self.block(output, path)) for path in self.paths]

    def cut(self, output: Tensor, joint: Tensor) -> list[Tensor]:
        """The blocks of a tensor whose last dimensions, one for each of a path, run over the elements of all inputs."""
        if len(self.inputs) == 1:
            return [joint.reshape(self.block(output, self.paths[0])).to(self.inputs[0].dtype)]
        widths = [x[(0,) * self.batch_dims].numel() if x.numel() else 0 for x in self.inputs]
        first = [sum(widths[:j]) for j in range(len(widths))]
        blocks = []
        for path in self.paths:
            part = joint
            for k, j in enumerate(path):
                part = part.narrow(k - len(path), first[j], widths[j])
            blocks.append(part.reshape(self.block(output, path)).to(self.inputs[path[-1]].dtype))
        return blocks


def _first(shapes: _Shapes, orders: Orders, method: str) -> list[Tensor] | None:
    """All blocks of first order, where one call of the engine gives them as they are."""
    if shapes.reduce == "sum" or method == "taylor" or not shapes.outputs or not shapes.inputs:
        return None
    if shapes.batch_dims == 0:
        return orders.jacobian(shapes.outputs, shapes.inputs, 1)
    options = (orders.strict, orders.allow_unused, orders.chunk_size, orders.mode, orders.structure, orders.report)
    if options != (False, True, None, "auto", "auto", None):
        return None
    return _C.sample_jacobians(shapes.outputs, shapes.inputs, shapes.batch_dims, orders.create_graph)


def _derive(shapes: _Shapes, orders: Orders, method: str, symmetric: bool) -> list[Tensor]:
    """All blocks, output by output, each in the way that suits it."""
    outputs, inputs = shapes.outputs, shapes.inputs
    outlooks = inspect(outputs, inputs)
    unused = not all(any(outlook.reaches[j] for outlook in outlooks) for j in range(len(inputs)))
    if orders.strict or unused:
        # The errors and checks that these cases need are those of first-order Jacobians.
        return [block for output in outputs for block in _nested(shapes, orders, output, False)]
    blocks = []
    for output, outlook in zip(outputs, outlooks, strict=True):
        if outlook.degree < shapes.n or output.numel() == 0 or all(x.numel() == 0 for x in inputs):
            blocks += shapes.zeros(output)
            continue
        regular = symmetric and outlook.regular and len({(x.dtype, x.device) for x in inputs}) == 1
        obstacle = outlook.obstacle if symmetric else "symmetric=False asks for every mixed partial derivative"
        found = None
        if method != "nested" and not obstacle and regular:
            found = _by_jets(shapes, orders, output, outlook, method == "taylor")
            if found is not None and method == "auto" and shapes.n <= min(outlook.nested_orders, _CHECKED_ORDERS):
                found = None if _are_spoilt(found, output) else found
        elif method == "taylor":
            _warn(obstacle or "the wrt differ in dtype or device")
        blocks += _nested(shapes, orders, output, regular) if found is None else found
    return blocks


def _by_jets(shapes: _Shapes, orders: Orders, output: Tensor, outlook: Outlook, forced: bool) -> list[Tensor] | None:
    """The blocks of one output by jets, or None where nested sweeps are cheaper, or alone are possible."""
    n, inputs = shapes.n, shapes.inputs
    if n == 1 and not forced:
        return None
    sweeps = Sweeps(
        [output],
        inputs,
        [outlook],
        shapes.batch_dims,
        orders.create_graph,
        orders.chunk_size,
        orders.report,
        replaced=False,
    )
    needed = forced or n > outlook.nested_orders
    try:
        with torch.set_grad_enabled(orders.create_graph):
            if shapes.reduce == "sum":
                return sweeps.contracted(n)[0] if n > 2 or needed else None
            if shapes.reduce == "diagonal":
                return shapes.cut(output, sweeps.unmixed(n)[0])
            if not needed and not sweeps.prefers_jets(n):
                return None
            return shapes.cut(output, sweeps.partials(n)[0])
    except Obstacle as obstacle:
        if forced:
            _warn(str(obstacle))
        return None


def _are_spoilt(blocks: list[Tensor], output: Tensor) -> bool:
    """Whether jets met a singular element, such as the root of zero, which spoils all that is summed with it; of nested
    sweeps only its own entries are not finite. A GPU is not waited for."""

    def is_finite(tensor: Tensor) -> bool:
        # The sum of finite elements may overflow.
        return isfinite(tensor.detach().sum().item()) or bool(tensor.isfinite().all())

    return type(output) is Tensor and output.is_cpu and not all(map(is_finite, blocks)) and is_finite(output)


def _warn(reason: str) -> None:
    warn(f'{_NAME}: method="taylor" cannot be used, and nested reverse mode is: {reason}')


def _nested(shapes: _Shapes, orders: Orders, output: Tensor, packed: bool) -> list[Tensor]:
    inputs = shapes.inputs
    if shapes.n > 1 and not packed:
        check_derivable_again(output, inputs)
    if shapes.reduce == "sum":
        return orders.contracted(output, inputs)
    if shapes.batch_dims == 0 and shapes.reduce == "diagonal":
        return orders.unmixed(output, inputs)
    # Up to the second order, what is packed is all that is derived.
    packed = packed and shapes.n > 2
    if shapes.batch_dims == 0 and not packed:
        return orders.all_partials([output], inputs)
    joint = orders.joint_partials(output, inputs, shapes.batch_dims, packed)
    with torch.set_grad_enabled(orders.create_graph):
        if shapes.reduce == "diagonal":
            for _ in range(shapes.n - 1):
                joint = joint.diagonal(dim1=2, dim2=3) if joint.dim() == 4 else joint.diagonal(dim1=-2, dim2=-1)
        return shapes.cut(output, joint)


def _check_options(
    n: object, reduce: object, chunk_size: object, mode: object, structure: object, method: object
) -> None:
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"{_NAME}: expected n to be an int, got {type(n).__name__}")
    if n < 0:
        raise ValueError(f"{_NAME}: expected n to be at least 0, got {n}")
    if reduce not in (None, "sum", "diagonal"):
        raise ValueError(f'{_NAME}: expected reduce to be None, "sum" or "diagonal", got {reduce!r}')
    if method not in ("auto", "nested", "taylor"):
        raise ValueError(f'{_NAME}: expected method to be "auto", "nested" or "taylor", got {method!r}')
    check_sweep_options(_NAME, chunk_size, mode, structure)
    # Jets do not use these two, so that nothing else would look at them.
    if mode not in ("auto", "reverse", "forward"):
        raise ValueError(f'{_NAME}: expected mode to be "auto", "reverse" or "forward", got "{mode}"')
    if structure not in ("auto", "dense"):
        raise ValueError(f'{_NAME}: expected structure to be "auto" or "dense", got "{structure}"')
