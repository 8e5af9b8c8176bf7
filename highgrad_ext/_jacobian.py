"""full_jacobian: the Jacobian of tensors by tensors, from their recorded graph."""

from __future__ import annotations

from typing import Literal

import torch

from . import _C, _verify
from ._options import check_flags, check_result_options, check_sweep_options
from ._plan import Plan, check_plan
from ._progress import Report, reporter
from ._tree import TensorTree, flatten, flatten_out, nest

_NAME = "full_jacobian"


def full_jacobian(
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
    batch_dims: int = 0,
    layout: torch.layout = torch.strided,
    plan: Plan | None = None,
    verify: bool = False,
    out: TensorTree | None = None,
    progress: bool | Report = False,
) -> TensorTree:
    r"""The Jacobian :math:`J[i, j] = \partial f_i / \partial \mathit{wrt}_j` of tensors that have a recorded graph.

    One reverse sweep over the graph computes many rows at once: its cotangents are a batch (torch.vmap) of rows of the
    identity matrix. Where `f` is much larger than `wrt`, forward mode computes many columns at once instead, by
    differentiating one recorded vector-Jacobian product again ("double backward"). An operation of the graph that vmap
    cannot run goes row by row, in the midst of the batch, with the same values and one warning that names it.

    Args:
        f: real tensor of any shape, or a tuple, list or dict of such. What has no graph has zero derivatives.
        wrt: tensor that requires grad (a leaf or not, real or complex), or a tuple, list or dict of such; an iterator
            (``net.parameters()``) counts as a tuple. It may be `f` itself and may repeat.
        create_graph: whether the result is differentiable again. Without it the rows are written straight into the
            result, which takes less time and memory.
        retain_graph: False frees the graph of `f` with the last pass, as in :func:`torch.autograd.grad`.
        allow_unused: False raises if a `wrt` is not in the graph of `f`, or an `f` has no graph.
        strict: True raises for every pair of `f` and `wrt` without a path, and with create_graph=True for Jacobians
            that are constant, as :func:`torch.autograd.functional.jacobian` does.
        chunk_size: rows a sweep (columns, in forward mode). None takes what fits the memory well, and halves it when
            memory runs out; 1 computes row by row without vmap.
        mode: "auto" takes the cheaper mode; "reverse" and "forward" force one. Forward mode gives way to reverse mode,
            with a warning if it was asked for, where double backward is missing or may be wrong: custom Functions and
            hooks on the graph, layer, batch and group norms, logcumsumexp, mixed dtypes or devices, a complex `wrt`, an
            entry that is not finite, inside of torch.func transforms and anomaly mode.
        structure: "auto" finds out, from the graph and by a few probes, where the Jacobian of something large is zero,
            and computes rows that share no column in one pass: as many passes as a graph colouring has colours. What
            is zero is then exactly zero, also where a row by itself would have 0 * inf = NaN. "dense" computes every
            row. Custom Functions and hooks on the graph, and operations that are not known to let every dependence
            show, mean "dense".
        batch_dims: the first `batch_dims` dims of every `f` and `wrt` count the same samples, each of which depends on
            itself alone: the result has the shape ``batch + rest of f.shape + rest of wrt.shape`` and takes the passes
            of one sample, rows or columns as `mode` says. Proved from the graph, or by 2 ceil(log2(samples)) probes,
            each time; where these may miss a derivative of the Jacobian, with create_graph=False alone.
        layout: torch.sparse_csr or torch.sparse_coo gives matrices of shape ``(f.numel(), wrt.numel())`` with the
            entries that may be nonzero. They are differentiable as far as torch's sparse tensors are.
        plan: from :func:`plan`, of a graph like this one: its mode, structure, chunk_size, layout and batch_dims are
            used, and what it holds is not found out again.
        verify: True compares a random combination of the rows with one backward of torch's own (Freivalds' check), and
            raises if they differ, as they do where a hook or custom Function is not linear. HIGHGRAD_VERIFY=1 in the
            environment, when highgrad_ext is imported, does it always.
        out: contiguous or strided tensor(s) of the structure, shapes, dtypes and devices of the result, with memory of
            their own, to write it to; needs create_graph=False. After an error in the middle of a sweep its content
            is unspecified.
        progress: True shows a bar over passes (if tqdm is installed); a callable is called after every sweep with
            (passes done, all passes).

    Returns:
        For tensors, a tensor of shape ``f.shape + wrt.shape`` with the dtype and device of `wrt`. For containers, `f`'s
        structure outside and `wrt`'s inside. Derivatives by a complex `wrt` follow torch's convention (the conjugate
        Wirtinger derivative). Never shares memory with an argument, and touches no ``.grad``. Hooks on the graph are
        called once a sweep, with batched cotangents. A sweep in which vmap fails is started again, up to two times for
        every kind of operation that it cannot run; if it is a hook that vmap cannot run, all rows are swept by
        themselves.

    Raises:
        TypeError: `f`, `wrt`, `out` or an option is of a wrong type.
        ValueError: a chunk_size below 1, an unknown mode, an `out` that does not fit, a `plan` of another graph.
        torch.OutOfMemoryError: a dense result larger than all memory of its device, before any work.
        RuntimeError: a complex or integer `f`; a `wrt` that does not require grad or was modified in place since; a
            graph that has been freed; a Jacobian that `verify` finds wrong; what `strict` and `allow_unused` forbid;
            whatever a backward raises.

    Example:
        >>> x = torch.arange(3.0, requires_grad=True)
        >>> full_jacobian(x**2, x)
        tensor([[0., 0., 0.],
                [0., 2., 0.],
                [0., 0., 4.]], grad_fn=<UnsafeViewBackward0>)
    """
    outputs, f_spec = flatten(_NAME, "f", f)
    inputs, wrt_spec = flatten(_NAME, "wrt", wrt)
    plans: tuple[_C.OutputPlan, ...] = ()
    if plan is not None:
        check_plan(_NAME, plan, len(outputs), mode, structure, chunk_size, layout, batch_dims)
        plans = plan.outputs
        mode, structure, chunk_size = plan.mode, plan.structure, plan.chunk_size
        layout, batch_dims = plan.layout, plan.batch_dims
    check_flags(
        _NAME,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=allow_unused,
        strict=strict,
        verify=verify,
    )
    check_sweep_options(_NAME, chunk_size, mode, structure)
    check_result_options(_NAME, batch_dims, layout, out is not None)
    results = None if out is None else flatten_out(_NAME, out, f_spec, wrt_spec)
    verify = verify or _verify.ALWAYS
    sweep_options = (_NAME, create_graph, retain_graph or verify, allow_unused, strict, chunk_size, mode)
    options = (*sweep_options, structure, layout, batch_dims, plans, results)
    if progress is False:
        blocks = _C.full_jacobian(outputs, inputs, *options, None)
    else:
        with reporter(_NAME, progress) as report:
            blocks = _C.full_jacobian(outputs, inputs, *options, report)
    if verify:
        _verify.verify(_NAME, blocks, outputs, inputs, batch_dims)
        if not retain_graph:
            _C.release_graph(outputs, inputs)
    if out is not None:
        return out
    return nest(blocks, f_spec, wrt_spec)
