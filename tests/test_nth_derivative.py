"""nth_derivative: every order, every reduction, and zeros past the degree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import directional, full_jacobian, laplacian, nth_derivative, partials
from highgrad_ext._reference import nth_derivative_loop


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("f_shape", [(), (2,)])
def test_against_nested_loops(n: int, f_shape: tuple[int, ...], device: str) -> None:
    x = torch.randn(2, 2, dtype=torch.float64, device=device, requires_grad=True)
    f = (torch.randn((*f_shape, 4), dtype=x.dtype, device=device) @ x.reshape(-1)).sin()
    derivative = nth_derivative(f, x, n)
    assert derivative.shape == f_shape + x.shape * n
    assert_close(derivative, nth_derivative_loop(f, x, n))


def test_order_zero_is_f() -> None:
    x = leaf(3)
    f = x.sin()
    assert nth_derivative(f, x, 0) is f


def test_zeros_past_the_degree() -> None:
    s = torch.arange(1.0, 4.0, requires_grad=True)
    op = torch.ger(s, s)
    derivative = nth_derivative(op, s, 5)
    assert derivative.shape == (3,) * 7
    assert torch.count_nonzero(derivative) == 0
    hessian = nth_derivative(op, s, 2)
    for i, j, k, m in itertools.product(range(3), repeat=4):
        assert hessian[i, j, k, m] == (i == k) * (j == m) + (i == m) * (j == k)


def test_zeros_past_the_degree_cost_no_pass() -> None:
    x = leaf(4)
    passes: list[tuple[int, int]] = []
    derivative = nth_derivative(3 * x, x, 4, progress=lambda *seen: passes.append(seen))
    assert derivative.shape == (4,) * 5 and torch.count_nonzero(derivative) == 0
    assert passes == []


class Once(torch.autograd.Function):
    """Torch records of its backward nothing that reaches x, as of a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 3 * ctx.saved_tensors[0] ** 2


@pytest.mark.parametrize(
    "derive",
    [
        lambda f, x: nth_derivative(f, x, 2),
        lambda f, x: nth_derivative(f, x, 2, strict=True),
        lambda f, x: nth_derivative(f, x, 3, method="nested", create_graph=False),
        lambda f, x: nth_derivative(f, x, 2, reduce="sum"),
        lambda f, x: nth_derivative(f, x, 2, reduce="diagonal"),
        laplacian,
        lambda f, x: directional(f, x, torch.ones_like(x), 2),
        lambda f, x: partials(f, x, [(0, 1)]),
    ],
)
@pytest.mark.parametrize("outer", [lambda y: y, torch.sin, lambda y: y.exp().sum()])
def test_what_has_no_second_derivative_raises(
    derive: Callable[[Tensor, Tensor], Any], outer: Callable[[Tensor], Tensor]
) -> None:
    x = leaf(3)
    f = outer(Once.apply(x)) + x.prod()
    with pytest.raises(RuntimeError, match=r"trying to differentiate twice .* @once_differentiable: Once"):
        derive(f, x)
    assert nth_derivative(f, x, 1).shape == (*f.shape, 3)
    # Not on the way to wrt.
    y = leaf(3)
    assert_close(nth_derivative((f * y.square()).sum(), y, 2), 2 * (f * torch.eye(3, dtype=f.dtype)))


@pytest.mark.parametrize("method", ["auto", "nested"])
def test_norms_of_weights_have_second_derivatives(method: Literal["auto", "nested"]) -> None:
    """Torch's own take the norm for a constant."""
    v, g, x = leaf(3, 2), leaf(3, 1), torch.randn(2, dtype=torch.float64)
    f, written_out = (torch._weight_norm(v, g, 0) @ x).sin(), ((v * g / v.norm(dim=1, keepdim=True)) @ x).sin()
    assert_close(nth_derivative(f, v, 2, method=method), nth_derivative_loop(written_out, v, 2))
    hessian = nth_derivative_loop(written_out.sum(), v, 2)
    assert_close(nth_derivative(f.sum(), v, 2, method=method), hessian)
    assert_close(full_jacobian(full_jacobian(f.sum(), v), v), hessian)


def test_contracted_form_of_a_non_leaf() -> None:
    x = torch.arange(4.0, requires_grad=True).reshape(2, 2)
    derivative = nth_derivative((x**4).sum(), x, 3, reduce="sum")
    assert_close(derivative, torch.tensor([[0.0, 24.0], [48.0, 72.0]]))


def contracted_loop(f: Tensor, wrt: Tensor, n: int) -> Tensor:
    for _ in range(n):
        (f,) = torch.autograd.grad(f.sum(), wrt, create_graph=True)
    return f


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_reduce_sum(n: int) -> None:
    x = leaf(3)
    f = x.sin() * x.prod()
    derivative = nth_derivative(f, x, n, reduce="sum")
    assert_close(derivative, contracted_loop(f, x, n))
    assert derivative.requires_grad


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("slice_elements", [1, 7, 1 << 22])
def test_reduce_diagonal(n: int, slice_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("highgrad_ext._nested._DIAGONAL_ELEMENTS", slice_elements)
    x = leaf(2, 2)
    f = torch.stack([x.sin().prod(), x.exp().sum()])
    full = nth_derivative_loop(f, x, n).reshape((2,) + (4,) * n)
    expected = torch.stack([full[(slice(None),) + (i,) * n] for i in range(4)], dim=-1)
    derivative = nth_derivative(f, x, n, reduce="diagonal")
    assert_close(derivative, expected.view(2, 2, 2))
    (grad,) = torch.autograd.grad(derivative.sum(), x)
    assert grad.shape == x.shape


@pytest.mark.parametrize("reduce", ["sum", "diagonal"])
def test_reductions_past_the_degree(reduce: Any) -> None:
    x = leaf(3)
    assert_close(nth_derivative(x.square().sum(), x, 3, reduce=reduce), torch.zeros(3, dtype=x.dtype))


def test_mixed_blocks_of_several_f_and_wrt() -> None:
    x, y = leaf(2), leaf(3)
    f = {"a": x.prod() * y.exp().sum(), "b": x.sin()}
    derivative = nth_derivative(f, (x, y), 2)
    mixed = derivative["a"][0][1]
    assert mixed.shape == (2, 3)
    expected = x.flip(0)[:, None] * y.exp()[None, :]
    assert_close(mixed, expected)
    assert derivative["b"][1][1].shape == (2, 3, 3)
    assert torch.count_nonzero(derivative["b"][1][1]) == 0
    assert_close(nth_derivative(f, [x, y], 2, reduce="sum")["b"][0], -x.sin())


def test_empty_and_scalar() -> None:
    x = leaf()
    assert_close(nth_derivative(x**3, x, 3), torch.tensor(6.0, dtype=x.dtype))
    empty = leaf(0)
    assert nth_derivative(empty.exp(), empty, 2).shape == (0, 0, 0)
    assert nth_derivative(x * torch.ones(0, dtype=x.dtype), x, 2).shape == (0,)
    assert nth_derivative(empty.sum() * 2, empty, 2, reduce="diagonal").shape == (0,)


@pytest.mark.parametrize("create_graph", [False, True])
def test_create_graph(create_graph: bool) -> None:
    x = leaf(2)
    for reduce in (None, "sum", "diagonal"):
        assert (
            nth_derivative(x.exp().prod(), x, 2, reduce=reduce, create_graph=create_graph).requires_grad == create_graph
        )


@pytest.mark.parametrize("reduce", [None, "sum", "diagonal"])
def test_retain_graph(reduce: Any) -> None:
    x, y = leaf(2), leaf(2)
    f = x.exp() * y.sin()
    first = nth_derivative(f, (x, y), 2, reduce=reduce, create_graph=False)
    second = nth_derivative(f, (x, y), 2, reduce=reduce, create_graph=False, retain_graph=False)
    assert_close(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        nth_derivative(f, (x, y), 2, reduce=reduce)


@pytest.mark.parametrize("reduce", [None, "sum", "diagonal"])
def test_out(reduce: Any) -> None:
    x = leaf(3)
    f = x.sin() * x.prod()
    expected = nth_derivative(f, x, 2, reduce=reduce, create_graph=False)
    out = torch.full_like(expected, torch.nan)
    assert nth_derivative(f, x, 2, reduce=reduce, create_graph=False, out=out) is out
    assert_close(out, expected)
    zeros = torch.ones((3,) * 3, dtype=x.dtype)
    nth_derivative(2 * x, x, 2, create_graph=False, out=zeros)
    assert torch.count_nonzero(zeros) == 0
    with pytest.raises(ValueError, match="nth_derivative: expected out of shape"):
        nth_derivative(f, x, 2, reduce=reduce, create_graph=False, out=torch.empty(2, dtype=x.dtype))
    with pytest.raises(ValueError, match="create_graph=False"):
        nth_derivative(f, x, 2, reduce=reduce, out=out)


def test_works_under_no_grad() -> None:
    x = leaf(2)
    f = x.exp().prod()
    for reduce in (None, "sum", "diagonal"):
        expected = nth_derivative(f, x, 2, reduce=reduce)
        with torch.no_grad():
            assert_close(nth_derivative(f, x, 2, reduce=reduce), expected)


def test_progress_counts_all_passes(capfd: pytest.CaptureFixture[str]) -> None:
    x = leaf(2)
    passes: list[tuple[int, int]] = []
    nth_derivative(x.exp().prod(), x, 3, progress=lambda *seen: passes.append(seen))
    assert passes == [(9, 9)]  # one sweep of all different partial derivatives up to order 3
    passes.clear()
    nth_derivative(x.exp().prod(), x, 3, method="nested", progress=lambda *seen: passes.append(seen))
    assert passes == [(1, 1), (3, 3), (6, 6)]
    passes.clear()
    nth_derivative(x.exp().prod(), x, 3, symmetric=False, progress=lambda *seen: passes.append(seen))
    assert passes == [(1, 1), (3, 3), (7, 7)]
    pytest.importorskip("tqdm")
    nth_derivative(x.exp().prod(), x, 3, symmetric=False, progress=True)
    assert "7/7" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((-1,), {}, ValueError, "nth_derivative: expected n to be at least 0, got -1"),
        ((1.5,), {}, TypeError, "nth_derivative: expected n to be an int, got float"),
        ((2,), {"reduce": "mean"}, ValueError, "nth_derivative: expected reduce to be"),
        ((2,), {"chunk_size": 0}, ValueError, "nth_derivative: expected chunk_size"),
        ((2,), {"chunk_size": "all"}, TypeError, "nth_derivative: expected chunk_size"),
        ((2,), {"progress": "yes"}, TypeError, "nth_derivative: expected progress"),
    ],
)
def test_errors(arguments: tuple[Any], options: dict[str, Any], error: type[Exception], message: str) -> None:
    x = leaf(2)
    with pytest.raises(error, match=message):
        nth_derivative(x.exp(), x, *arguments, **options)


def test_too_large_for_memory_is_said_before_any_work() -> None:
    x, y, z = leaf(1), leaf(1), leaf(1)
    f = (x * y).sin() * z
    with pytest.raises(torch.OutOfMemoryError, match=r"nth_derivative: the result has about 10\^477 entries"):
        nth_derivative(f, (x, y, z), 1000)
    with pytest.raises(torch.OutOfMemoryError, match="about 10"):
        nth_derivative(leaf(2, 3).sin(), leaf(2, 3), 60, batch_dims=1)
    wide = torch.zeros(1, requires_grad=True).expand(1 << 21)
    with pytest.raises(torch.OutOfMemoryError, match=r"has 4398046511104 entries.*sparse_csr"):
        full_jacobian(wide.sin(), wide)
    assert nth_derivative(x.sin(), x, 30).shape == (1,) * 31


def test_errors_of_the_engine_name_this_function() -> None:
    with pytest.raises(RuntimeError, match="nth_derivative: expected every wrt to require grad"):
        nth_derivative(leaf(2).exp(), torch.ones(2), 2)
    with pytest.raises(RuntimeError, match="nth_derivative: expected a real f"):
        nth_derivative(torch.complex(leaf(2), leaf(2)), leaf(2), 2)


def test_allow_unused_and_strict() -> None:
    x = leaf(2)
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        nth_derivative(leaf(2).exp(), x, 2, allow_unused=False)
    assert torch.count_nonzero(nth_derivative(2 * x, x, 2, allow_unused=False)) == 0
    weight = leaf(2)
    assert torch.count_nonzero(nth_derivative(weight * x, x, 2, allow_unused=False)) == 0
    with pytest.raises(RuntimeError, match="independent of input 0"):
        nth_derivative(2 * x, x, 2, strict=True)


def test_gradcheck() -> None:
    x = leaf(2)
    assert torch.autograd.gradcheck(lambda x: nth_derivative(x.sin().prod(), x, 2), (x,))
    assert torch.autograd.gradcheck(lambda x: nth_derivative(x.sin().prod(), x, 2, reduce="diagonal"), (x,))


@pytest.mark.parametrize("method", ["nested", "taylor"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_wrt_without_elements(n: int, method: Literal["nested", "taylor"]) -> None:
    x, empty = leaf(2), leaf(0, 2)
    f = x.prod() * (x.exp() + empty.sum())
    assert nth_derivative(f, empty, n, method=method).shape == (2, *(0, 2) * n)
    both = nth_derivative(f, (x, empty), n, method=method)
    for _ in range(n - 1):
        both = both[0]
    assert_close(both[0], nth_derivative(f, x, n))
    assert both[1].shape == (2, *(2,) * (n - 1), 0, 2)


def test_no_second_derivative_by_complex_wrt() -> None:
    z = torch.rand(3, dtype=torch.complex128, requires_grad=True)
    assert nth_derivative(z.abs(), z, 1).dtype == z.dtype
    with pytest.raises(RuntimeError, match="nth_derivative: expected a real wrt, got torch"):
        nth_derivative(z.abs(), z, 2)
    with pytest.raises(RuntimeError, match="directional: expected a real wrt"):
        directional(z.abs(), z, torch.ones_like(z), 1)
    with pytest.raises(RuntimeError, match="laplacian: expected a real wrt"):
        laplacian(z.abs(), z)


@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize(("width", "n"), [(1, 25), (1, 60), (2, 12), (2, 16), (3, 10)])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_high_orders_keep_their_digits(width: int, n: int, create_graph: bool, chunk_size: int | None) -> None:
    x = torch.full((width,), 0.3, dtype=torch.float64, requires_grad=True)
    f = x.sum().exp()
    options: dict[str, Any] = {"create_graph": create_graph, "chunk_size": chunk_size}
    everything = nth_derivative(f, x, n, **options)
    assert_close(everything, f.expand_as(everything), rtol=1e-12, atol=0, check_stride=False)
    for reduce in ("diagonal", "sum"):
        result = nth_derivative(f, x, n, reduce=reduce, **options)
        scale = width ** (n - 1) if reduce == "sum" else 1
        assert_close(result, (f * scale).expand(width), rtol=1e-12, atol=0)
    last = directional(f, x, torch.ones_like(x), n, create_graph=create_graph)[-1]
    assert_close(last, f * width**n, rtol=1e-12, atol=0)


SINGULAR: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda x: x.abs() ** 1.5,
    "root": lambda x: x.abs().sqrt(),
    "length": lambda x: torch.hypot(x[:, 0], x[:, 1]),
    "angle": lambda x: torch.atan2(x[:, 0], x[:, 1]),
    "entropy": lambda x: torch.special.entr(x.abs()),
    "deviation": lambda x: torch.cat([x.std(1), *torch.std_mean(x, 1)]),
    "logsumexp": lambda x: torch.where(x == 0, -torch.inf, x).logsumexp(1),
}


@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_element_spoils_no_other(name: str, create_graph: bool) -> None:
    x = torch.tensor([[0.0, 0, 0], [1, 2, 3], [1, 1, 1]], dtype=torch.float64, requires_grad=True)
    f = SINGULAR[name](x).sum()
    expected = nth_derivative_loop(f, x, 2)
    assert_close(nth_derivative(f, x, 2, create_graph=create_graph).detach(), expected, equal_nan=True)
    assert expected.isfinite().any()


def test_a_singular_element_of_values_whose_sum_overflows() -> None:
    x = torch.tensor([-1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    f = (x / x.relu()).nan_to_num() * x.sin()
    assert_close(nth_derivative(f, x, 2).detach(), nth_derivative_loop(f, x, 2), equal_nan=True)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_first_order_of_samples(shape: tuple[int, ...], create_graph: bool) -> None:
    """Of one element a sample, by gradients; of several, by rows. Each result has memory of its own."""
    torch.manual_seed(0)
    t, x, unused = (torch.rand(4, 2, dtype=torch.float64).requires_grad_() for _ in range(3))
    f = {
        "f": (
            torch.tanh(t * x + t).sum(1, keepdim=True) * torch.rand(1, 3).double()[:, : math.prod(shape[1:])]
        ).reshape(shape)
    }
    every = full_jacobian(f, (t, x, unused))["f"]
    for reduce in (None, "diagonal"):
        found = nth_derivative(f, (t, x, unused), 1, reduce=reduce, batch_dims=1, create_graph=create_graph)["f"]
        for block, dense in zip(found, every, strict=True):
            assert block.shape == (*shape, 2)
            assert_close(block.detach(), dense[torch.arange(4), ..., torch.arange(4), :].detach())
    assert all(block.requires_grad == create_graph for block in found[:2])
    total = (t + x).sum(1)
    by_t, by_x = nth_derivative(total, (t, x), 1, batch_dims=1, create_graph=create_graph)
    by_t.mul_(torch.full((), 2.0, dtype=torch.float64, requires_grad=True))
    assert_close(by_x, torch.ones(4, 2, dtype=torch.float64))


def test_operands_that_broadcast() -> None:
    x, target = torch.rand(2, 3, dtype=torch.float64).requires_grad_(), torch.rand(4, 1, 3, dtype=torch.float64)
    for f in (
        torch.lerp(target, x, x[:1, :1]),
        torch.dist(x[:1], target),
        # As torch.nn.functional never leaves them to torch's operators.
        torch.ops.aten.mse_loss(x, target),
        torch.ops.aten.huber_loss(x, target),
    ):
        assert_close(nth_derivative(f, x, 2), nth_derivative(f, x, 2, method="nested"))
