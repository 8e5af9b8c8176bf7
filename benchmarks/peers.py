"""The ways to a Jacobian that the benchmark compares, all on PyTorch.

A peer's ``prepare(case, order)`` returns a function without arguments that does the whole work once: the forward pass
and the derivative of ``order``, without a graph of the result. What it cannot do, it raises. Peers that differentiate a
*function* run the forward pass in any case, so those that take *tensors* are timed with theirs. The one exception is
:data:`FROM_TAPE`, which is no contestant: it is highgrad_ext's time for the derivative alone, from a tape that is
already recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev
from torch.nn import functional as F

import highgrad_ext
from benchmarks.problems import Case

Result = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class TorchOps:
    """The array operations of the problems in PyTorch."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def array(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    def tanh(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def sin(self, x: Tensor) -> Tensor:
        return torch.sin(x)

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.ger(x, y)

    def roll(self, x: Tensor, shift: int, axis: int) -> Tensor:
        return torch.roll(x, shift, axis)

    def stack(self, arrays: list[Tensor]) -> Tensor:
        return torch.stack(arrays)


def _leaves(wrt: Result) -> list[Tensor]:
    return list(wrt.values()) if isinstance(wrt, dict) else [wrt]


def _like(wrt: Result, leaves: Any) -> Result:
    """The leaves in the structure of wrt."""
    return dict(zip(wrt, leaves, strict=True)) if isinstance(wrt, dict) else next(iter(leaves))


def _recorded(wrt: Result) -> Result:
    """Leaves that record a graph, as a user of the tensor peers holds them."""
    return _like(wrt, [leaf.detach().clone().requires_grad_() for leaf in _leaves(wrt)])


def _highgrad(f: Tensor, wrt: Result, order: int) -> Any:
    if order == 1:
        return highgrad_ext.full_jacobian(f, wrt, create_graph=False)
    return highgrad_ext.nth_derivative(f, wrt, order, create_graph=False)


def _prepare_highgrad(case: Case, order: int) -> Callable[[], Result]:
    wrt = _recorded(case.wrt)
    return lambda: _highgrad(case.function(wrt), wrt, order)


def _prepare_from_tape(case: Case, order: int) -> Callable[[], Result]:
    wrt = _recorded(case.wrt)
    f = case.function(wrt)
    return lambda: _highgrad(f, wrt, order)


def loop_jacobian(f: Tensor, wrt: Result, create_graph: bool = False) -> Result:
    """The plain loop: one ``torch.autograd.grad`` for every element of f, the rows stacked and viewed."""
    flat, leaves = f.reshape(-1), _leaves(wrt)
    rows = [
        torch.autograd.grad(flat[i], leaves, retain_graph=True, create_graph=create_graph) for i in range(f.numel())
    ]
    columns = zip(*rows, strict=True)
    return _like(wrt, [torch.stack(c).view(f.shape + w.shape) for c, w in zip(columns, leaves, strict=True)])


def loop_derivative(case: Case, order: int) -> Result:
    """The derivative of any order by the loop, forward pass included."""
    wrt = _recorded(case.wrt)
    derivative = case.function(wrt)
    for remaining in range(order - 1, -1, -1):
        derivative = loop_jacobian(derivative, wrt, create_graph=remaining > 0)
    return derivative


def _prepare_loop(case: Case, order: int) -> Callable[[], Result]:
    return lambda: loop_derivative(case, order)


def _prepare_functional(**options: Any) -> Callable[[Case, int], Callable[[], Result]]:
    def prepare(case: Case, order: int) -> Callable[[], Result]:
        def function(*leaves: Tensor) -> Tensor:
            return case.function(_like(case.wrt, leaves))

        def differentiate(inner: Callable[..., Any], create_graph: bool) -> Callable[..., Any]:
            def jacobian(*leaves: Tensor) -> Any:
                inputs = leaves if isinstance(case.wrt, dict) else leaves[0]
                return torch.autograd.functional.jacobian(inner, inputs, create_graph=create_graph, **options)

            return jacobian

        derivative: Callable[..., Any] = function
        for remaining in range(order - 1, -1, -1):
            derivative = differentiate(derivative, create_graph=remaining > 0)
        leaves = _leaves(case.wrt)
        if isinstance(case.wrt, dict):
            return lambda: _like(case.wrt, derivative(*leaves))
        return lambda: derivative(*leaves)

    return prepare


def _prepare_func(transform: Callable[..., Any]) -> Callable[[Case, int], Callable[[], Result]]:
    def prepare(case: Case, order: int) -> Callable[[], Result]:
        derivative = case.function
        for _ in range(order):
            derivative = transform(derivative)
        return lambda: derivative(case.wrt)

    return prepare


def _prepare_torchjd(case: Case, order: int) -> Callable[[], Result]:
    if order > 1:
        raise NotImplementedError("TorchJD's Jacobian has no graph to differentiate again")
    from torchjd.autojac import jac  # optional: an ImportError is this peer's row

    wrt = _recorded(case.wrt)
    leaves = _leaves(wrt)

    def jacobian() -> Result:
        f = case.function(wrt)
        return _like(wrt, [j.view(f.shape + w.shape) for j, w in zip(jac(f, leaves), leaves, strict=True)])

    return jacobian


Prepare = Callable[[Case, int], Callable[[], Result]]

HIGHGRAD = "highgrad_ext"
FROM_TAPE = "highgrad_ext, from the tape"
LOOP = "loop of autograd.grad"

TORCH_PEERS: dict[str, Prepare] = {
    LOOP: _prepare_loop,
    "functional, loop": _prepare_functional(),
    "functional, vectorized": _prepare_functional(vectorize=True),
    "functional, forward": _prepare_functional(vectorize=True, strategy="forward-mode"),
    "func.jacrev": _prepare_func(jacrev),
    "func.jacfwd": _prepare_func(jacfwd),
    "TorchJD": _prepare_torchjd,
}
ALL_TORCH: dict[str, Prepare] = {HIGHGRAD: _prepare_highgrad, FROM_TAPE: _prepare_from_tape, **TORCH_PEERS}
