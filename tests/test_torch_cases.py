"""Cases that PyTorch's own tests hold its Jacobians and Hessians to, as graphs of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian as functional_hessian
from torch.autograd.functional import jacobian as functional_jacobian
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.checkpoint import checkpoint

from highgrad_ext import full_jacobian, hessian

Function = Callable[..., Any]


def leaves(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


# Name: shapes of the arguments, and a function of them.
FUNCTIONS: dict[str, tuple[tuple[tuple[int, ...], ...], Function]] = {
    "one": (((2, 3, 5),), lambda x: 3 * x**2),
    "several inputs": (((2, 3), (3, 5)), lambda x, y: (x.cos() * x) @ y.sin()),
    "several outputs": (((5, 3), (3, 5)), lambda x, y: ((x * x) @ y, x @ (x.sum(1) * y), y.sum())),
    "unrelated outputs": (((2,), (3,)), lambda x, y: (x, y, x, y)),
    "0-d outputs": (((3,), (3,)), lambda x, y: (x.sum(), y.sum(), x * y)),
    "0-d input": (((),), lambda x: torch.stack([x, x, x])),
    "0-d both": (((), (1,)), lambda x, y: (y.sum(), x * y)),
    "0-d alone": (((),), lambda x: x.clone()),
    "equal outputs": (((3,),), lambda x: (x, x)),
    "other number of elements": (((2, 4),), lambda x: x[0, 1:].unsqueeze(-1)),
    "take": (((5,),), lambda x: x.take(torch.ones(3, dtype=torch.long))),
    "constant output": (((2, 3),), lambda _: torch.ones(2, 3, dtype=torch.float64)),
    "views of one base": (((4, 4),), lambda x: (x.view(2, 8).t(), x.diagonal(), x[1::2])),
    "copy in place": (((2,), (2,)), lambda x, y: y.clone().copy_(x)),
    "part written in place": (((3,), (2,)), lambda x, y: torch.cat([x[2:] ** 2, y**2]).sum().expand(2, 1)),
    "permuted": (((3, 4),), lambda x: (x.t() * 2).contiguous().t()),
}


@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_functional_jacobian(name: str, create_graph: bool) -> None:
    shapes, function = FUNCTIONS[name]
    inputs = leaves(*shapes)
    expected = functional_jacobian(function, inputs if len(inputs) > 1 else inputs[0])
    actual = full_jacobian(function(*inputs), inputs if len(inputs) > 1 else inputs[0], create_graph=create_graph)
    assert_close(tree_map(torch.detach, actual), expected)


SCALARS: dict[str, tuple[tuple[tuple[int, ...], ...], Function]] = {
    "one": (((2, 3, 5),), lambda x: (3 * x**2).sum()),
    "several": (((2, 3), (3, 5), (5, 5)), lambda x, y, z: ((x.relu() * x) @ y.sin() @ z).sum()),
    "unrelated to one": (((2,), (3,)), lambda x, _: (x**2).sum()),
    "unrelated to all": (((2,), (3,)), lambda *_: torch.ones((), dtype=torch.float64)),
    "of one element": (((2,),), lambda x: x.pow(3).sum().view(1)),
    "linear": (((2, 2),), lambda x: (3 * x).sum()),
}


@pytest.mark.parametrize("name", SCALARS)
def test_as_functional_hessian(name: str) -> None:
    shapes, function = SCALARS[name]
    inputs = leaves(*shapes)
    expected = functional_hessian(lambda *args: function(*args), inputs if len(inputs) > 1 else inputs[0])
    f = function(*inputs)
    actual = hessian(f.reshape(()), inputs if len(inputs) > 1 else inputs[0])
    assert_close(tree_map(torch.detach, actual), expected)


def test_containers_nest_as_in_jacrev() -> None:
    x, y = leaves((3,), (2,))

    def function(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"c": inputs["a"].sin(), "d": (inputs["b"][0].cos() * inputs["a"].sum(), [inputs["a"].prod()])}

    inputs = {"a": x, "b": (y,)}
    expected = torch.func.jacrev(function)(inputs)
    actual = full_jacobian(function(inputs), inputs)
    assert tree_flatten(actual)[1] == tree_flatten(expected)[1]
    assert_close(tree_map(torch.detach, actual), tree_map(torch.detach, expected))


def test_gradients_through_a_jacobian() -> None:
    x, y = leaves((3,), (3,))

    def jacobians(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        of_x, of_y = full_jacobian((x * y).exp() * x.sum(), (x, y))
        return of_x, of_y

    assert torch.autograd.gradcheck(jacobians, (x, y))
    assert torch.autograd.gradgradcheck(jacobians, (x, y))


def saved_on_other_side(x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True), torch.from_numpy):
        return (x.sin() * x).exp()


def on_cpu(x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return x.tanh() * x


def parametrized(x: Tensor) -> Tensor:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4).double())
    return nn.functional.dropout(layer(x), 0.5).relu()


GRAPHS: dict[str, Function] = {
    "hooks on saved tensors": saved_on_other_side,
    "saved on the CPU": on_cpu,
    "checkpoint": lambda x: checkpoint(lambda t: (t.sin() * t).exp(), x, use_reentrant=False),
    "weight norm and dropout": parametrized,
    "BatchNorm in training": lambda x: nn.BatchNorm1d(4).double()(torch.stack([x, x**2, x.sin()])),
    "LSTM": lambda x: nn.LSTM(4, 3).double()(x.view(1, 1, 4))[0],
    "attention": lambda x: nn.functional.scaled_dot_product_attention(*[torch.outer(x, x)[None]] * 3, is_causal=True),
    "complex inside": lambda x: torch.fft.rfft(x).abs(),
    "half inside": lambda x: x.half().float().sin(),
}


@pytest.mark.filterwarnings("ignore:full_jacobian")
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_every_kind(name: str) -> None:
    (x,) = leaves((4,))
    f = GRAPHS[name](x)
    rows = [torch.autograd.grad(row, x, retain_graph=True)[0] for row in f.flatten()]
    jacobian = full_jacobian(f, x, create_graph=False)
    assert_close(jacobian, torch.stack(rows).view(*f.shape, 4))
    assert x.grad is None


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in SqrtBackward0")
def test_nothing_is_left_in_grad() -> None:
    x, y = leaves((3,), (3,))
    middle = x * y
    middle.retain_grad()
    seen: list[Tensor] = []
    y.register_post_accumulate_grad_hook(seen.append)
    with torch.autograd.set_detect_anomaly(True):
        full_jacobian(middle.exp(), (x, y))
        with pytest.raises(RuntimeError, match="returned nan values"):
            full_jacobian((x * 0).sqrt() * 0, x)
    assert x.grad is None and y.grad is None and middle.grad is None and not seen
    assert middle.retains_grad
