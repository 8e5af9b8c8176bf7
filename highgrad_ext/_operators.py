"""The differential operators of PDEs, by jets over the recorded graph."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, prod
from typing import Literal

import torch
from torch import Tensor

from . import _C
from ._nth_derivative import nth_derivative
from ._options import check_flags, check_real, check_sweep_options, in_any_mode
from ._progress import Report, reporter
from ._samples import check_batch, check_batch_dims
from ._taylor import Sweeps, basis, join, take_directions
from ._tree import TensorTree, flatten, nest_outputs


def laplacian(
    f: TensorTree,
    wrt: TensorTree,
    *,
    batch_dims: int = 0,
    create_graph: bool = True,
    retain_graph: bool = True,
    chunk_size: int | None = None,
    progress: bool | Report = False,
) -> TensorTree:
    r"""The Laplacian :math:`\sum_j \partial^2 f / \partial \mathit{wrt}_j^2` of tensors that have a recorded graph.

    By collapsed Taylor mode: one first-order coefficient for every element of `wrt`, and the sum of all second-order
    ones, flow over the recorded graph once (Dangel, Siebert, Zeinhofer, Walther, "Collapsing Taylor mode automatic
    differentiation", 2025). Where the graph holds a Node that jets do not know, by nested gradients.

    Args:
        f: a tensor, or a tuple, list or dict of tensors, of any shape.
        wrt: a tensor, or a container of tensors, that `f` was computed from. The sum runs over all their elements.
        batch_dims: the first `batch_dims` dimensions of `f` and `wrt` are the same independent samples: the sum runs
            over the elements of wrt that belong to the same sample as the element of f.
        create_graph: record the result, so that it can be differentiated, by `wrt` and by parameters.
        retain_graph: keep the graph of `f`.
        chunk_size: elements of wrt in one sweep. None sizes it by memory.
        progress: True for a tqdm bar over directions, or a callable `(done, total)`.

    Returns:
        A tensor of `f`'s shape, for every tensor of `f`, in `wrt`'s dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`full_jacobian`; also for a complex `wrt`, a `batch_dims` that the
            shapes do not have, and for samples that are not independent (such as by BatchNorm in training).

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        >>> laplacian((x**3).sum(1), x, batch_dims=1, create_graph=False)
        tensor([18., 42.])
    """
    return _collapsed("laplacian", f, wrt, 2, batch_dims, create_graph, retain_graph, chunk_size, progress)


def biharmonic(
    f: TensorTree,
    wrt: TensorTree,
    *,
    batch_dims: int = 0,
    create_graph: bool = True,
    retain_graph: bool = True,
    chunk_size: int | None = None,
    progress: bool | Report = False,
) -> TensorTree:
    r"""The biharmonic operator :math:`\Delta^2 f = \sum_{ij} \partial^4 f / \partial x_i^2 \partial x_j^2`.

    By collapsed jets of order 4 along :math:`e_i` and :math:`e_i \pm e_j`: with :math:`D_v` the fourth derivative along
    v, :math:`\Delta^2 = \frac16 \sum_{i<j} (D_{e_i+e_j} + D_{e_i-e_j}) + (1 - \frac{N-1}{3}) \sum_i D_{e_i}`.

    Arguments, result and errors as :func:`laplacian`'s.
    """
    return _collapsed("biharmonic", f, wrt, 4, batch_dims, create_graph, retain_graph, chunk_size, progress)


@in_any_mode
def directional(
    f: TensorTree,
    wrt: TensorTree,
    directions: TensorTree,
    order: int | Sequence[int],
    *,
    batch_dims: int = 0,
    create_graph: bool = True,
    retain_graph: bool = True,
    chunk_size: int | None = None,
    progress: bool | Report = False,
) -> tuple[TensorTree, ...]:
    r"""All derivatives along directions, :math:`d^k/dt^k f(\mathit{wrt} + t v)` at t = 0 for k up to `order`.

    Args:
        f, wrt: as in :func:`laplacian`.
        directions: v, of `wrt`'s structure, of shapes that broadcast to its; or several at once, with one more
            dimension in front: ``torch.eye(2).unsqueeze(1)`` are both unit vectors for a `wrt` of shape (samples, 2).
        order: the highest order, at least 1; or, for several directions, one for each of them. Derivatives that are
            not asked for are not computed.
        batch_dims: the first `batch_dims` dimensions of `f` and `wrt` are the same independent samples. Values are the
            same without it, but samples that are not independent raise, and a graph that jets do not know costs what
            one sample costs.
        create_graph, retain_graph, progress: as in :func:`laplacian`.
        chunk_size: directions in one sweep. None sizes it by memory.

    Returns:
        ``order + 1`` values of `f`'s structure: entry k is the k-th derivative, of shape ``f.shape``, or
        ``[D, *f.shape]`` for D directions. Entry 0 is `f` itself. With an order for each direction, entry k has only
        those directions whose order is at least k, as they come, and there are ``max(order) + 1`` entries.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`full_jacobian`; also for directions of wrong shapes.

    Example:
        >>> x = torch.tensor([0.5, 1.0], requires_grad=True)
        >>> u, u_x, u_xx = directional(x**3, x, torch.ones(2), 2, create_graph=False)
        >>> u_xx
        tensor([3., 6.])

        >>> u = x[0] * x[1] ** 2
        >>> _, (by_0, by_1), (twice_by_1,) = directional(u, x, torch.eye(2), (1, 2), create_graph=False)
        >>> by_0, by_1, twice_by_1
        (tensor(1.), tensor(1.), tensor(1.))
    """
    name = "directional"
    for n in order if isinstance(order, Sequence) else [order]:
        if not isinstance(n, int) or isinstance(n, bool):
            raise TypeError(f"{name}: expected order to be an int, or one for each direction, got {order!r}")
        if n < 1:
            raise ValueError(f"{name}: expected order to be at least 1, got {order}")
    outputs, f_spec = flatten(name, "f", f)
    inputs, _ = flatten(name, "wrt", wrt)
    vectors, _ = flatten(name, "directions", directions)
    if len(vectors) != len(inputs):
        raise ValueError(f"{name}: expected one direction for each of {len(inputs)} wrt, got {len(vectors)}")
    single = all(v.dim() <= x.dim() for v, x in zip(vectors, inputs, strict=True))
    try:
        moved = [_expand_directions(v, x, single) for v, x in zip(vectors, inputs, strict=True)]
    except RuntimeError:
        moved = []
    if len({len(v) for v in moved}) != 1:
        raise ValueError(
            f"{name}: expected directions of wrt's shapes {[tuple(x.shape) for x in inputs]}, or with one more "
            f"dimension in front, and size 1 where they repeat, got {[tuple(v.shape) for v in vectors]}"
        )
    check_operator(name, outputs, inputs, create_graph, retain_graph, chunk_size)
    count = len(moved[0])
    orders = [order] * count if isinstance(order, int) else list(order)
    if len(orders) != count or not (isinstance(order, int) or orders):
        raise ValueError(f"{name}: expected an order for each of {count} directions, at least one, got {len(orders)}")
    highest = max(orders, default=order if isinstance(order, int) else 0)
    check_batch(name, outputs, inputs, batch_dims)
    if highest == 1 and orders and chunk_size is None and progress is False:
        first = _C.first_along(outputs, inputs, moved, batch_dims, create_graph)
        if first is not None:
            release(outputs, inputs, retain_graph)
            if single:
                with torch.set_grad_enabled(create_graph):
                    first = [rows[0] for rows in first]
            return nest_outputs(outputs, f_spec), nest_outputs(first, f_spec)
    # Directions of the highest order first.
    position = sorted(range(count), key=lambda d: -orders[d])
    series: list[list[Tensor]] = [[] for _ in outputs]
    with reporter(name, progress) as report:
        sweeps = Sweeps(outputs, inputs, None, batch_dims, create_graph, chunk_size, report)
        if position != sorted(position):
            moved = [take_directions(v, position) for v in moved]
        if orders:
            coefficients = sweeps.coefficients_by_order(moved, [orders[d] for d in position])
        else:
            coefficients = [list(rows.unbind()) for rows in sweeps.coefficients(moved, highest)]
    with torch.set_grad_enabled(create_graph):
        for k in range(1, highest + 1):
            reaching = [d for d in position if orders[d] >= k]
            for i, by_order in enumerate(coefficients):
                derivative = by_order[k - 1]
                if reaching != sorted(reaching):
                    derivative = torch.stack([derivative[reaching.index(d)] for d in sorted(reaching)])
                derivative = derivative[0] if single else derivative
                series[i].append(derivative if k == 1 else derivative * float(factorial(k)))
    release(outputs, inputs, retain_graph)
    values = (outputs, *([row[k] for row in series] for k in range(highest)))
    return tuple(nest_outputs(of_order, f_spec) for of_order in values)


def _expand_directions(v: Tensor, x: Tensor, single: bool) -> Tensor:
    """[D, *x.shape], without memory of their own for what broadcasts."""
    if single:
        return v.expand(x.shape).unsqueeze(0)
    return v.expand(len(v) if v.dim() > x.dim() else -1, *x.shape)


def hessian(
    f: TensorTree,
    wrt: TensorTree,
    *,
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
    """All second derivatives: ``nth_derivative(f, wrt, 2, ...)`` with the same options, of shape
    ``f.shape + wrt.shape * 2``; with `batch_dims`, ``batch + f_rest + wrt_rest * 2``."""
    return nth_derivative(
        f,
        wrt,
        2,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=allow_unused,
        strict=strict,
        chunk_size=chunk_size,
        mode=mode,
        structure=structure,
        method=method,
        batch_dims=batch_dims,
        symmetric=symmetric,
        out=out,
        progress=progress,
    )


@in_any_mode
def divergence(
    f: TensorTree,
    wrt: TensorTree,
    *,
    batch_dims: int = 0,
    create_graph: bool = True,
    retain_graph: bool = True,
    chunk_size: int | None = None,
    progress: bool | Report = False,
) -> Tensor:
    r"""The divergence :math:`\sum_i \partial f_i / \partial \mathit{wrt}_i` of a vector field `f` of `wrt`'s shape.

    Args:
        f, wrt: tensors of one shape; or containers of equally many, each of `f` of the shape of its `wrt`, whose
            elements are the components together.

    Returns:
        A tensor of shape ``f.shape[:batch_dims]``, 0-d without `batch_dims`.

    Other arguments and errors as :func:`laplacian`'s; also a ValueError for an `f` of another shape than `wrt`'s.
    """
    field = _Field("divergence", f, wrt, batch_dims)
    jacobian = field.jacobian(create_graph, retain_graph, chunk_size, progress)
    with torch.set_grad_enabled(create_graph):
        return jacobian.diagonal(dim1=-2, dim2=-1).sum(-1).reshape(field.outputs[0].shape[:batch_dims])


@in_any_mode
def curl(
    f: TensorTree,
    wrt: TensorTree,
    *,
    batch_dims: int = 0,
    create_graph: bool = True,
    retain_graph: bool = True,
    chunk_size: int | None = None,
    progress: bool | Report = False,
) -> TensorTree:
    r"""The curl of a field `f` of three components by a `wrt` of three, of `f`'s structure and shapes.

    Component i is :math:`\partial f_k / \partial \mathit{wrt}_j - \partial f_j / \partial \mathit{wrt}_k` for (i, j, k)
    cyclic. Arguments and errors as :func:`divergence`'s; one sample of f and wrt has 3 elements.
    """
    field = _Field("curl", f, wrt, batch_dims)
    if sum(prod(output.shape[batch_dims:]) for output in field.outputs) != 3:
        shapes = ", ".join(str(tuple(output.shape)) for output in field.outputs)
        raise ValueError(f"curl: expected f and wrt of 3 elements a sample, got shape {shapes}")
    jacobian = field.jacobian(create_graph, retain_graph, chunk_size, progress, by_rows=True)
    with torch.set_grad_enabled(create_graph):
        # By views: lists of places would be copied to a GPU, and waited for.
        components = [jacobian[:, k, j] - jacobian[:, j, k] for j, k in ((1, 2), (2, 0), (0, 1))]
        sizes = [prod(output.shape[batch_dims:]) for output in field.outputs]
        parts = torch.split(torch.stack(components, 1), sizes, 1)
        values = [part.reshape(output.shape) for part, output in zip(parts, field.outputs, strict=True)]
        return nest_outputs(values, field.spec)


class _Field:
    """A vector field whose components are the elements of all outputs of a sample, by those of all inputs."""

    def __init__(self, name: str, f: TensorTree, wrt: TensorTree, batch_dims: int) -> None:
        self.name = name
        self.outputs, self.spec = flatten(name, "f", f)
        self.inputs, _ = flatten(name, "wrt", wrt)
        self.batch_dims = batch_dims
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (self.outputs, self.inputs)]
        if shapes[0] != shapes[1] or not self.outputs:
            got = [str(found[0]) if len(found) == 1 else str(found) for found in shapes]
            raise ValueError(f"{name}: expected f of wrt's shape {got[1]}, got {got[0]}")
        check_batch_dims(name, self.outputs + self.inputs, batch_dims)

    def jacobian(
        self,
        create_graph: bool,
        retain_graph: bool,
        chunk_size: int | None,
        progress: bool | Report,
        by_rows: bool = False,
    ) -> Tensor:
        """[samples, N, N], by first-order jets along every element of a sample; or by rows, which cost the same, and
        less where they are differentiated again."""
        outputs, inputs = self.outputs, self.inputs
        check_operator(self.name, outputs, inputs, create_graph, retain_graph, chunk_size)
        check_batch(self.name, outputs, inputs, self.batch_dims)
        samples = prod(inputs[0].shape[: self.batch_dims])
        if by_rows and chunk_size is None and progress is False:
            blocks = _C.sample_jacobians(outputs, inputs, self.batch_dims, create_graph)
            if blocks is not None:
                release(outputs, inputs, retain_graph)
                with torch.set_grad_enabled(create_graph):
                    sizes = [prod(x.shape[self.batch_dims :]) for x in inputs] * len(outputs)
                    parts = [block.reshape(samples, -1, size) for block, size in zip(blocks, sizes, strict=True)]
                    rows = [join(parts[first : first + len(inputs)], 2) for first in range(0, len(parts), len(inputs))]
                    return join(rows, 1)
        with reporter(self.name, progress) as report:
            sweeps = Sweeps(outputs, inputs, None, self.batch_dims, create_graph, chunk_size, report)
            width = sweeps.width
            eye = torch.eye(width, dtype=inputs[0].dtype, device=inputs[0].device)
            columns = sweeps.coefficients(basis(inputs, self.batch_dims, eye), 1)
        release(outputs, inputs, retain_graph)
        with torch.set_grad_enabled(create_graph):
            sizes = [prod(output.shape[self.batch_dims :]) for output in outputs]
            rows = [column[0].reshape(width, samples, size) for column, size in zip(columns, sizes, strict=True)]
            return join(rows, 2).permute(1, 2, 0)


@in_any_mode
def _collapsed(
    name: str,
    f: TensorTree,
    wrt: TensorTree,
    order: int,
    batch_dims: int,
    create_graph: bool,
    retain_graph: bool,
    chunk_size: int | None,
    progress: bool | Report,
) -> TensorTree:
    """The Laplacian (order 2) or the biharmonic operator (order 4)."""
    outputs, f_spec = flatten(name, "f", f)
    inputs, _ = flatten(name, "wrt", wrt)
    check_operator(name, outputs, inputs, create_graph, retain_graph, chunk_size)
    check_batch(name, outputs, inputs, batch_dims)
    with reporter(name, progress) as report:
        sweeps = Sweeps(outputs, inputs, None, batch_dims, create_graph, chunk_size, report)
        vectors, weights = (_unit_vectors if order == 2 else _pairs)(sweeps.width, inputs[0])
        if len(vectors) > 0:
            totals = sweeps.collapsed(basis(inputs, batch_dims, vectors), order, weights)
        else:
            totals = [torch.zeros(output.shape, dtype=inputs[0].dtype, device=output.device) for output in outputs]
    release(outputs, inputs, retain_graph)
    with torch.set_grad_enabled(create_graph):
        factor = 2 if weights is None else 24
        return nest_outputs([total * factor for total in totals], f_spec)


def _unit_vectors(width: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.eye(width, dtype=like.dtype, device=like.device), None


def _pairs(width: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Directions and weights whose weighted sum of fourth derivatives is the biharmonic operator."""
    eye, _ = _unit_vectors(width, like)
    first, second = (eye.index_select(0, row) for row in torch.triu_indices(width, width, 1, device=like.device))
    weights = torch.full((width + 2 * len(first),), 1 / 6, dtype=torch.float64, device=like.device)
    weights[:width] = 1 - (width - 1) / 3
    return torch.cat([eye, first + second, first - second]), weights


def check_operator(
    name: str,
    outputs: list[Tensor],
    inputs: list[Tensor],
    create_graph: bool,
    retain_graph: bool,
    chunk_size: int | None,
) -> None:
    check_flags(name, create_graph=create_graph, retain_graph=retain_graph)
    check_sweep_options(name, chunk_size, "auto", "auto")
    _C.check_arguments(name, outputs, inputs, create_graph, chunk_size)
    check_real(name, inputs)


def release(outputs: list[Tensor], inputs: list[Tensor], retain_graph: bool) -> None:
    if not retain_graph:
        _C.release_graph(outputs, inputs)
