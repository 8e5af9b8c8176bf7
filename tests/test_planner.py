"""The planner: which way to a Jacobian it takes, and that every way has the same values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


CONVOLUTIONS = {
    "by kernels, of few channels": (F.conv2d, (1, 8, 12, 12), (8, 8, 3, 3), {"padding": 1}, 1, 576),
    "by many more kernels than places": (F.conv2d, (1, 32, 8, 8), (3, 32, 7, 7), {}, 1, 12),
    "by transposed kernels": (F.conv_transpose2d, (2, 3, 8, 8), (3, 16, 5, 5), {"padding": 4, "dilation": 2}, 1, 1200),
    "along the stride": (F.conv3d, (1, 2, 6, 6, 6), (64, 2, 3, 3, 3), {"stride": 2}, 0, 432),
    "transposed, along the stride": (F.conv_transpose2d, (1, 16, 6, 6), (16, 8, 3, 3), {"stride": 2}, 0, 1352),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    """Rows or columns, whichever were measured to take less than two thirds of the others."""
    function, image, kernels, options, operand, expected = CONVOLUTIONS[name]
    operands = [leaf(*image).detach().float(), leaf(*kernels).detach().float()]
    x = operands[operand].requires_grad_()
    f = function(*operands, **options)
    assert passes(f, x, create_graph=False, structure="dense") == expected


def test_columns_spare_small_matrices() -> None:
    """Kernels take those of rows one by one."""
    x = leaf(1, 13).detach().float().requires_grad_()
    f = torch.linalg.cholesky(x.mT @ x + torch.eye(13))
    assert passes(f, x, create_graph=False, structure="dense") == x.numel()


def test_rows_of_little_work_are_not_worth_a_recording() -> None:
    x = leaf(26).detach().float().requires_grad_()
    centres = leaf(75, 26).detach().float()
    f = (-(x - centres).square().sum(-1)).exp().log1p()
    assert passes(f, x, create_graph=False, structure="dense") == f.numel()


def test_a_split_writes_into_out_and_takes_several_inputs() -> None:
    x, y = leaf(30, 10), leaf(40)
    z = torch.cat([x.sin().view(-1), y.exp()])
    f = network(340, 300, 4, 300, 300)(z).view(20, 15)
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


W = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5).sin()


@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize(
    "layer",
    {
        "mm": lambda h: h[None] @ W.t(),
        "vector by matrix": lambda h: h @ W.t(),
        "addmm": lambda h: torch.addmm(W[:, 0], h[None], W.t(), alpha=2.0, beta=3.0).view(2, 2),
        "mv": lambda h: W @ h,
        "addmv": lambda h: torch.addmv(W[:, 0], W, h, alpha=2.0),
        "linear": lambda h: nn.functional.linear(h, W, W[:, 1]),
        "elementwise": lambda h: nn.functional.linear(h, W).tanh().view(2, 2).exp() * W[0, :2],
        "broadcast": lambda h: nn.functional.linear(h, W) * W[:, :1],
        "branch": lambda h: nn.functional.linear(h, W).tanh() * nn.functional.linear(h, W),
        "matrix": lambda h: (h.view(5, 1) * W[0, :3]).t() @ W.t(),
        "infinite": lambda h: (nn.functional.linear(h, W) * 0).sqrt(),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("is_leaf", [True, False])
def test_known_heads(layer: Any, is_leaf: bool, chunk_size: int | None, create_graph: bool) -> None:
    x = leaf(5)
    f = layer[1](x if is_leaf else x.exp())
    before = W.clone()
    jacobian = full_jacobian(f, x, create_graph=create_graph, chunk_size=chunk_size, structure="dense")
    expected = full_jacobian_loop(f, x, create_graph=create_graph)
    assert_close(jacobian, expected, equal_nan=True)
    if create_graph and jacobian.requires_grad and layer[0] != "infinite":
        v = torch.randn_like(jacobian)
        got, wanted = (
            torch.autograd.grad((j * v).sum(), x, allow_unused=True, retain_graph=True)[0] for j in (jacobian, expected)
        )
        assert_close(got, wanted)
    if not create_graph:
        jacobian.zero_()
    assert_close(W, before, rtol=0, atol=0)


def test_the_identity_is_not_multiplied() -> None:
    x = leaf(50)
    f = network(50, 40, 30)[:3](x)
    with torch.profiler.profile(record_shapes=True) as profile:
        full_jacobian(f, x, create_graph=False, structure="dense")
    seen = [(event.name, event.input_shapes[:2]) for event in profile.events()]
    assert "highgrad_ext::seed_basis" not in [name for name, _ in seen]
    assert [shapes for name, shapes in seen if name == "aten::mm"] == [[[30, 40], [40, 50]]]


def test_a_head_does_not_write_to_the_weight() -> None:
    class InPlace(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad.mul_(2)

        generate_vmap_rule = True

    x, before = leaf(5), W.clone()
    jacobian = full_jacobian(W @ InPlace.apply(x), x, create_graph=False)
    assert_close(jacobian, 2 * W)
    assert_close(W, before, rtol=0, atol=0)


def test_weights_of_the_head_get_their_derivative() -> None:
    x, weight = leaf(5), W.clone().requires_grad_()
    f = nn.functional.linear(x.sin(), weight).tanh()
    for got, wrt in zip(full_jacobian(f, (x, weight)), (x, weight), strict=True):
        assert_close(got, full_jacobian_loop(f, wrt))
    (jacobian,) = full_jacobian(f, (x,))
    assert_close(
        torch.autograd.grad(jacobian.sum(), weight, retain_graph=True),
        torch.autograd.grad(full_jacobian_loop(f, x, create_graph=True).sum(), weight),
    )


def shared(x: Tensor, weight: Tensor) -> Tensor:
    h = nn.functional.linear(x.view(4, 5), weight)
    return nn.functional.linear(h.tanh().view(-1)[:15].view(3, 5), weight)


LAYERS: dict[str, Any] = {
    "linear": lambda x, w: nn.functional.linear(x, w, x[:4]),
    "batch": lambda x, w: nn.functional.linear(x.sin().view(4, 5), w).tanh(),
    "batches": lambda x, w: nn.functional.linear(x.view(2, 2, 5), w).sum(0),
    "factor": lambda x, w: torch.addmm(x[:4], x.view(4, 5), w.t(), alpha=3.0),
    "mm": lambda x, w: x.view(4, 5) @ w.t(),
    "self": lambda x, w: w @ w.t(),
    "used twice": shared,
    "used otherwise": lambda x, w: nn.functional.linear(x.view(4, 5), w) * w.sum(),
    "transposed twice": lambda x, w: (x.view(4, 5) @ w.t()) * w.t().sum(),
    "not a leaf": lambda x, w: nn.functional.linear(x.view(4, 5), w * w),
    "output": lambda x, w: w,
}


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_layers(name: str, create_graph: bool, chunk_size: int | None) -> None:
    function = LAYERS[name]
    x = leaf(5) if name == "linear" else leaf(20)
    w = W.clone().requires_grad_()
    f = function(x, w)
    blocks = full_jacobian(f, (w, x), create_graph=create_graph, chunk_size=chunk_size, structure="dense")
    for wrt, block in zip((w, x), blocks, strict=True):
        expected = full_jacobian_loop(f, wrt, create_graph=True)
        assert_close(block, expected)
        assert block.is_contiguous()
        if create_graph and expected.requires_grad:
            v = torch.randn_like(expected)
            options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
            for got, wanted in zip(
                torch.autograd.grad((block * v).sum(), (w, x), **options),
                torch.autograd.grad((expected * v).sum(), (w, x), **options),
                strict=True,
            ):
                assert_close(got, wanted)


def test_hooks_of_weights_are_called() -> None:
    x, w = leaf(5), W.clone().requires_grad_()
    w.register_hook(lambda grad: 2 * grad)
    f = nn.functional.linear(x, w)
    assert_close(full_jacobian(f, w), full_jacobian_loop(f, w))
    y = leaf(5)
    h = nn.functional.linear(y, W.clone().requires_grad_())
    h.register_hook(lambda grad: 3 * grad)
    assert_close(full_jacobian(h.sin(), y), full_jacobian_loop(h.sin(), y))
