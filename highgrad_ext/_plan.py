"""plan: what full_jacobian would do, as a value that can be looked at, kept and used again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from . import _C
from ._options import check_result_options, check_sweep_options
from ._pattern import braille, to_scipy
from ._tree import TensorTree, flatten

_NAME = "plan"


def _scope(found: _C.Structure) -> str:
    if found.is_global:
        return "holds for all values"
    if found.holds_for_indices:
        return "holds for all values and these indices, and is found anew for others"
    return "holds for these values, and is found anew"


def _reason(output: _C.OutputPlan) -> str:
    return output.reason if output.structure is None else f"structure: {output.structure.reason}"


@dataclass(frozen=True, repr=False)
class Plan:
    """How Jacobians of one graph are computed. It is frozen, holds no graph, can be pickled, and equals another that
    runs the same passes with the same options.

    Attributes:
        outputs: the plan of each tensor of `f`, in order: rows, columns, segments, passes, reason, structure.
        mode, structure, chunk_size, layout, batch_dims: the options that it was made with.
    """

    outputs: tuple[_C.OutputPlan, ...]
    mode: Literal["auto", "reverse", "forward"]
    structure: Literal["auto", "dense"]
    chunk_size: int | None
    layout: torch.layout
    batch_dims: int

    @property
    def passes(self) -> int:
        """Vector-Jacobian or Jacobian-vector products that the Jacobians take, together."""
        return sum(output.passes for output in self.outputs)

    @property
    def reason(self) -> str:
        """Why: one sentence an output, in lines of their own."""
        return "\n".join(map(_reason, self.outputs))

    @property
    def bytes(self) -> int:
        """The most that the cotangents of one sweep take at once, estimated, in bytes."""
        return max((output.bytes_per_row * output.chunk_size for output in self.outputs), default=0)

    @property
    def sparsity_pattern(self) -> tuple[Any, ...]:
        """Of each output, the pattern as a boolean ``scipy.sparse.csr_array`` (f.numel(), wrt.numel()), the columns of
        all `wrt` next to one another; None where it is dense or unknown. Needs SciPy."""
        return tuple(None if o.structure is None else to_scipy(o.structure) for o in self.outputs)

    def assume_global(self) -> Plan:
        """This plan, with your word that its sparsity patterns hold for all values of the tensors.

        A pattern that was found to hold for the values at hand (by probes, behind a mask or an unknown selection) is
        otherwise looked for again on every graph, and one that holds for the indices at hand is compared with those of
        the graph, which on a GPU waits for it. Where it does not hold, entries are missed, and others are wrong,
        without an error; ``full_jacobian(..., verify=True)`` notices.

        Example:
            >>> order = torch.randperm(90)
            >>> x = torch.rand(90, requires_grad=True)
            >>> kept = plan(x[order] ** 2, x).assume_global()  # order never changes
            >>> kept.outputs[0].structure.is_global
            True
        """
        outputs = [o if o.structure is None else o.with_structure(o.structure.as_global()) for o in self.outputs]
        return replace(self, outputs=tuple(outputs))

    def __repr__(self) -> str:
        lines = [f"Plan: {self.passes} passes, {self.bytes / 2**20:.3g} MiB a sweep"]
        for output in self.outputs:
            lines.append(f"  {output.rows} x {output.columns} in {output.passes} passes, {output.chunk_size} a sweep")
            lines.append(f"    {_reason(output)}")
            if output.structure is not None:
                found = output.structure
                lines.append(f"    {len(found.col_ind)} entries; the pattern {_scope(found)}")
                lines.extend(f"    {line}" for line in braille(found).splitlines())
            elif len(output.segments) > 1:
                lines.extend(f"    {mode}: {rows} x {columns}" for mode, rows, columns in output.segments)
        return "\n".join(lines)


def plan(
    f: TensorTree,
    wrt: TensorTree,
    *,
    mode: Literal["auto", "reverse", "forward"] = "auto",
    structure: Literal["auto", "dense"] = "auto",
    chunk_size: int | None = None,
    layout: torch.layout = torch.strided,
    batch_dims: int = 0,
) -> Plan:
    """What :func:`full_jacobian` would do with the same arguments, without doing it.

    Reads the graph, and looks for structure more thoroughly than a single Jacobian is worth: it may run sweeps. A plan
    is worth keeping where Jacobians of the same computation are wanted again and again, as in Newton's method:
    ``full_jacobian(f, wrt, plan=p)`` takes any graph of the same operations, shapes, dtypes and links. If the structure
    holds for all values, it is not looked for again.

    Args:
        f, wrt, mode, structure, chunk_size, layout, batch_dims: as of :func:`full_jacobian`.

    Returns:
        A :class:`Plan`. Its repr tells what would run, and why.

    Raises:
        what :func:`full_jacobian` raises for such arguments.

    Example:
        >>> x = torch.rand(5, requires_grad=True)
        >>> print(plan(torch.outer(torch.rand(4000), x.exp()).sin().sum(1).cumsum(0), x).reason)
        forward: 5 inputs against 4000 outputs
    """
    outputs, _ = flatten(_NAME, "f", f)
    inputs, _ = flatten(_NAME, "wrt", wrt)
    check_sweep_options(_NAME, chunk_size, mode, structure)
    check_result_options(_NAME, batch_dims, layout, False)
    plans = _C.plan_jacobian(outputs, inputs, _NAME, chunk_size, mode, structure, layout, batch_dims)
    return Plan(tuple(plans), mode, structure, chunk_size, layout, batch_dims)


def check_plan(caller: str, plan: object, num_outputs: int, *options: object) -> None:
    """Raises TypeError or ValueError for what is no plan, is of another number of outputs, or comes with options."""
    if not isinstance(plan, Plan):
        raise TypeError(f"{caller}: expected plan to be a Plan, got {type(plan).__name__}")
    if len(plan.outputs) != num_outputs:
        raise ValueError(f"{caller}: expected a plan of {num_outputs} outputs, got one of {len(plan.outputs)}")
    if options != ("auto", "auto", None, torch.strided, 0):
        raise ValueError(
            f"{caller}: expected no mode, structure, chunk_size, layout or batch_dims with a plan, which has them, got "
            f"{options}"
        )
