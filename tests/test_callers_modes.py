"""Modes of torch's functions that a caller is under: its own Python runs in them, and this package's does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._device import DeviceContext

from highgrad_ext import (
    biharmonic,
    curl,
    directional,
    divergence,
    full_jacobian,
    hessian,
    laplacian,
    nth_derivative,
    partials,
)

made_there: list[torch.device] = []


class Noted(torch.autograd.Function):
    """The sine, whose backward notes where a tensor is made that names no device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        made_there.append(torch.empty(1).device)
        return grad * ctx.saved_tensors[0].cos()


def noted(x: Tensor) -> Tensor:
    made_there.append(torch.empty(1).device)
    return x


def field(x: Tensor) -> Tensor:
    return (x.sin() * x.flip(-1).exp()).tanh()


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "biharmonic": lambda f, x: biharmonic(f.sum(-1), x, batch_dims=1),
    "curl": lambda f, x: curl(f, x, batch_dims=1),
    "directional": lambda f, x: directional(f, x, torch.ones_like(x), 3),
    "divergence": lambda f, x: divergence(f, x, batch_dims=1),
    "full_jacobian": full_jacobian,
    "full_jacobian, verified": lambda f, x: full_jacobian(f, x, batch_dims=1, verify=True),
    "hessian": lambda f, x: hessian(f.sum(-1), x, batch_dims=1),
    "laplacian": lambda f, x: laplacian(f.sum(-1), x, batch_dims=1),
    "nth_derivative": lambda f, x: nth_derivative(f.sum(-1), x, 3, batch_dims=1),
    "nth_derivative, nested": lambda f, x: nth_derivative(f.sum(-1), x, 3, batch_dims=1, method="nested"),
    "partials": lambda f, x: partials(f, x, [(0, 1), (2, 2)], batch_dims=1),
}


def record(inner: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    return field(inner(x)), x


@pytest.mark.parametrize("call", CALLS)
def test_values_under_a_default_device(call: str) -> None:
    expected = CALLS[call](*record(torch.sin))
    f, x = record(torch.sin)
    with torch.device("meta"):
        found = CALLS[call](f, x)
    assert_close(found, expected)


# Of f with one element a sample.
OF_SCALARS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "biharmonic": lambda f, x: biharmonic(f, x, batch_dims=1),
    "directional": lambda f, x: directional(f, x, x, 3),
    "hessian": lambda f, x: hessian(f, x, batch_dims=1),
    "laplacian": lambda f, x: laplacian(f, x, batch_dims=1),
    "nth_derivative": lambda f, x: nth_derivative(f, x, 3, batch_dims=1),
    "nth_derivative, nested": lambda f, x: nth_derivative(f, x, 3, batch_dims=1, method="nested"),
    "partials": lambda f, x: partials(f, x, [(0, 1), (2, 2)], batch_dims=1),
}


@pytest.mark.parametrize("call", OF_SCALARS)
def test_own_python_runs_without_the_mode(call: str) -> None:
    class Counting(DeviceContext):
        calls = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return super().__torch_function__(func, types, args, kwargs)

    f, x = record(torch.sin)
    f = f.sum(-1)
    mode = Counting(torch.device("cpu"))
    with mode:
        OF_SCALARS[call](f, x)
    assert mode.calls == 0


@pytest.mark.parametrize("call", [call for call in CALLS if call != "full_jacobian, verified"])
def test_a_function_of_the_caller_runs_in_it(call: str) -> None:
    f, x = record(Noted.apply)
    made_there.clear()
    with torch.device("meta"):
        CALLS[call](f, x)
    assert made_there and set(made_there) == {torch.device("meta")}


@pytest.mark.parametrize("call", ["full_jacobian", "laplacian", "nth_derivative", "partials"])
def test_hooks_run_in_it(call: str) -> None:
    def hooked(x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, noted):
            y = x.sin()
        y.register_hook(lambda grad: noted(grad.clone()))
        return y

    f, x = record(hooked)
    made_there.clear()
    with torch.device("meta"):
        CALLS[call](f, x)
    assert made_there and set(made_there) == {torch.device("meta")}


def test_other_modes_see_everything() -> None:
    class Doubling(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return func(*args, **(kwargs or {}))

    f, x = record(torch.sin)
    f = f.sum(-1)
    with torch.device("cpu"), Doubling() as mode:
        laplacian(f, x, batch_dims=1)
    assert mode.seen > 5


def test_the_mode_is_on_again_after_an_error() -> None:
    f, x = record(torch.sin)
    with torch.device("meta"):
        with pytest.raises(ValueError, match="got -1"):
            nth_derivative(f, x, -1)
        assert torch.empty(1).device.type == "meta"
