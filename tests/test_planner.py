"""The planner: which way to a Jacobian it takes, and that every way has the same values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import full_jacobian
from highgrad_ext._reference import full_jacobian_loop


def network(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*layers).requires_grad_(False)


def passes(f: Tensor, wrt: Any, **options: Any) -> int:
    seen: list[tuple[int, int]] = []
    full_jacobian(f, wrt, progress=lambda done, total: seen.append((done, total)), **options)
    assert seen[-1][0] == seen[-1][1]
    return seen[-1][1]


def leaf(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).view(shape).requires_grad_()


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((300, 200, 5, 200, 300), 5 + 5),
        ((300, 200, 5, 200, 6, 200, 300), 6 + 6),
        ((2000, 64, 3, 64, 2000), 3 + 3),
        ((300, 300, 300), 300),
        ((4, 64, 64, 900), 4),
        ((900, 64, 64, 4), 4),
    ],
)
@pytest.mark.parametrize("create_graph", [True, False])
def test_passes_and_values(widths: tuple[int, ...], expected: int, create_graph: bool) -> None:
    x = leaf(widths[0])
    f = network(*widths)(x)
    assert passes(f, x, create_graph=create_graph) <= expected
    jacobian = full_jacobian(f, x, create_graph=create_graph)
    assert_close(jacobian, full_jacobian(f, x, create_graph=False, mode="reverse", structure="dense"))
    assert jacobian.requires_grad == create_graph and jacobian.is_contiguous() and not jacobian._is_view()


def test_a_split_writes_into_out_and_takes_several_inputs() -> None:
    x, y = leaf(30, 10), leaf(40)
    z = torch.cat([x.sin().view(-1), y.exp()])
    f = network(340, 4, 300)(z).view(20, 15)
    expected = full_jacobian(f, (x, y), mode="reverse", structure="dense", create_graph=False)
    assert passes(f, (x, y)) < 20
    out = tuple(torch.full_like(e, 7.0) for e in expected)
    assert full_jacobian(f, (x, y), create_graph=False, out=out) is out
    assert_close(out, expected)
    assert_close(full_jacobian(f, {"y": y}, create_graph=False)["y"], expected[1])


def test_a_split_is_differentiable() -> None:
    torch.manual_seed(0)
    x, weight = leaf(120), torch.randn(2, 120, dtype=torch.float64, requires_grad=True)

    def jacobian(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        z = torch.tanh(weight @ x / 30)
        return full_jacobian(torch.sin(weight.t() @ z), x, **options)

    plain, split = (jacobian(x, weight, mode=mode, structure="dense") for mode in ("reverse", "auto"))
    v = torch.randn_like(plain)
    for got, wanted in zip(
        torch.autograd.grad((split * v).sum(), (x, weight)),
        torch.autograd.grad((plain * v).sum(), (x, weight)),
        strict=True,
    ):
        assert_close(got, wanted)


def test_what_is_not_finite_is_what_rows_give() -> None:
    x = torch.cat([torch.zeros(1, dtype=torch.float64), torch.ones(199, dtype=torch.float64)]).requires_grad_()
    z = torch.stack([x.sqrt().sum(), x.sum()])
    f = torch.outer(torch.linspace(0, 1, 200, dtype=torch.float64), z).sin().sum(1)
    assert_close(full_jacobian(f, x), full_jacobian_loop(f, x), equal_nan=True)


@pytest.mark.parametrize("how", ["hook", "function"])
def test_a_cotangent_that_is_changed_on_its_way_is_not_split(how: str) -> None:
    class Clip(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad.clamp(-0.01, 0.01)

        generate_vmap_rule = True

    x = leaf(300)
    z = network(300, 4)(x)
    if how == "hook":
        z.register_hook(lambda grad: grad.clamp(-0.01, 0.01))
    else:
        z = Clip.apply(z)
    f = network(4, 300)(z)
    assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))


def test_a_bottleneck_of_another_dtype_is_not_cut() -> None:
    x = leaf(300)
    z = network(300, 4)(x)
    f = network(4, 300)(z.to(torch.float16).double())
    assert passes(f, x) == 300
    assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))


def test_a_skip_connection_is_no_bottleneck() -> None:
    x = leaf(300)
    f = network(300, 4, 300)(x) + x.flip(0)
    assert passes(f, x, structure="dense") == 300
    assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))
