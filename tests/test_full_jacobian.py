"""full_jacobian: what it takes, what it returns, what it refuses, and that nothing changes on the way."""

from __future__ import annotations

import gc
import re
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from highgrad_ext import directional, full_jacobian, nth_derivative, plan
from highgrad_ext._reference import full_jacobian_loop


def leaf(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device, requires_grad=True)


@pytest.mark.parametrize("f_shape", [(), (1,), (3,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("wrt_shape", [(), (1,), (4,), (3, 2), (1, 2, 1)])
@pytest.mark.parametrize("create_graph", [False, True])
def test_shape_and_values(
    f_shape: tuple[int, ...], wrt_shape: tuple[int, ...], create_graph: bool, device: str
) -> None:
    x = leaf(*wrt_shape, device=device)
    mixing = torch.randn((*f_shape, x.numel()), dtype=x.dtype, device=device)
    f = (mixing @ x.reshape(-1).sin()).exp()
    jacobian = full_jacobian(f, x, create_graph=create_graph)
    assert jacobian.shape == f_shape + wrt_shape
    assert jacobian.requires_grad == create_graph
    assert_close(jacobian, full_jacobian_loop(f, x, create_graph=create_graph))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float32, torch.float64])
def test_real_dtypes(dtype: torch.dtype, device: str) -> None:
    x = leaf(5, dtype=dtype, device=device)
    f = x.unsqueeze(0) * x.unsqueeze(1)
    jacobian = full_jacobian(f, x)
    assert jacobian.dtype == dtype and jacobian.device == x.device
    assert_close(jacobian, full_jacobian_loop(f, x))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_real_f_of_complex_wrt(dtype: torch.dtype) -> None:
    z = leaf(3, dtype=dtype)
    f = torch.stack([(z * z).real.sum(), z.abs().sum(), z.imag.prod(), (z.conj() * z).real.sum()])
    jacobian = full_jacobian(f, z, create_graph=False)
    assert jacobian.dtype == dtype and not jacobian.is_conj()
    assert_close(jacobian, full_jacobian_loop(f, z))


def test_dtype_is_that_of_wrt() -> None:
    x, y = leaf(2, dtype=torch.float32), leaf(2, dtype=torch.float64)
    jacobians = full_jacobian(x.double() * y, (x, y))
    assert [jacobian.dtype for jacobian in jacobians] == [torch.float32, torch.float64]


Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    "wrap",
    [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}, Pair, lambda a, b: OrderedDict(a=a, b=b)],
)
def test_structure_of_wrt(wrap: Callable[..., Any]) -> None:
    a, b = leaf(2), leaf(3)
    f = a.sum() * b.exp()
    jacobian = full_jacobian(f, wrap(a, b))
    expected = wrap(full_jacobian_loop(f, a), full_jacobian_loop(f, b))
    assert type(jacobian) is type(expected)
    assert_close(
        tuple(jacobian.values() if isinstance(jacobian, dict) else jacobian),
        tuple(expected.values() if isinstance(expected, dict) else expected),
        check_stride=False,
    )


def test_f_is_outside_and_wrt_inside() -> None:
    a, b = leaf(2), leaf(3)
    f = {"sum": a.sum() * b, "product": [a.prod() * b.sum()]}
    jacobian = full_jacobian(f, (a, b))
    assert jacobian["sum"][1].shape == (3, 3)
    assert jacobian["product"][0][0].shape == (2,)
    assert_close(jacobian["sum"][0], full_jacobian_loop(f["sum"], a))


def test_one_element_containers_stay_containers() -> None:
    x = leaf(2)
    assert isinstance(full_jacobian((x * 2,), x), tuple)
    assert isinstance(full_jacobian(x * 2, [x]), list)
    assert full_jacobian((), x) == ()
    assert full_jacobian(x * 2, ()) == ()


def test_iterators_count_as_tuples() -> None:
    net = torch.nn.Linear(3, 2)
    f = net(torch.ones(3))
    expected = full_jacobian(f, tuple(net.parameters()))
    assert_close(full_jacobian(f, net.parameters()), expected)
    assert_close(full_jacobian(f, dict(net.named_parameters()).values(), plan=plan(f, net.parameters())), expected)
    value, slope = directional(iter([f]), net.parameters(), map(torch.ones_like, net.parameters()), 1)
    assert_close(value, (f,))
    assert_close(slope, (torch.full((2,), 4.0),))


def test_non_leaf_and_intermediate_wrt() -> None:
    x = leaf(3)
    hidden = x.sin()
    f = hidden.exp() * x
    assert_close(full_jacobian(f, hidden), full_jacobian_loop(f, hidden))


def test_wrt_is_f() -> None:
    x = leaf(2, 2)
    f = x.exp()
    assert_close(full_jacobian(f, f), torch.eye(4, dtype=f.dtype).view(2, 2, 2, 2))
    assert_close(full_jacobian(x, x), torch.eye(4, dtype=f.dtype).view(2, 2, 2, 2))


def test_repeated_wrt() -> None:
    x = leaf(3)
    f = x.sin()
    first, second = full_jacobian(f, (x, x), create_graph=False)
    assert_close(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_one_of_several_results_of_an_op() -> None:
    x = leaf(3)
    a, b, _ = x.unbind()
    assert_close(full_jacobian(a * 2, (a, b)), (torch.tensor(2.0, dtype=a.dtype), torch.tensor(0.0, dtype=a.dtype)))
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        full_jacobian(a * 2, b, allow_unused=False)


@pytest.mark.parametrize("f_shape, wrt_shape", [((0,), (3,)), ((3,), (0,)), ((2, 0), (0, 4)), ((0,), ())])
@pytest.mark.parametrize("create_graph", [False, True])
def test_empty(f_shape: tuple[int, ...], wrt_shape: tuple[int, ...], create_graph: bool) -> None:
    x = leaf(*wrt_shape)
    f = x.sum().expand(f_shape) * 2
    assert full_jacobian(f, x, create_graph=create_graph).shape == f_shape + wrt_shape


def test_no_path_gives_zeros() -> None:
    x, other = leaf(3), leaf(2)
    for f in (other.exp(), torch.ones(2, dtype=torch.float64), other.detach().exp()):
        jacobian = full_jacobian(f, x)
        assert_close(jacobian, torch.zeros(2, 3, dtype=torch.float64))
        assert not jacobian.requires_grad


def test_differentiable_again() -> None:
    x = leaf(3)

    def jacobian(x: Tensor) -> Tensor:
        return full_jacobian(x.sin() * x.prod(), x)

    assert torch.autograd.gradcheck(jacobian, (x,))
    assert torch.autograd.gradgradcheck(jacobian, (x,))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 6, 100])
@pytest.mark.parametrize("create_graph", [False, True])
def test_chunk_size(chunk_size: int, create_graph: bool, device: str) -> None:
    x = leaf(4, device=device)
    f = (x.view(2, 2) @ x.view(2, 2)).sin()
    jacobian = full_jacobian(f, x, chunk_size=chunk_size, create_graph=create_graph)
    assert_close(jacobian, full_jacobian_loop(f, x))
    if create_graph:
        (grad,) = torch.autograd.grad(jacobian.square().sum(), x, retain_graph=True)
        (expected,) = torch.autograd.grad(full_jacobian_loop(f, x, create_graph=True).square().sum(), x)
        assert_close(grad, expected)


def test_graph_grows_linearly_in_the_chunks() -> None:
    """One Node joins all chunks, instead of a chain that copies the whole result for each."""
    x = leaf(40)
    jacobian = full_jacobian(x.sin() * x.sum(), x, chunk_size=2)
    node = jacobian.grad_fn
    children = [child for child, _ in node.next_functions if child is not None]
    assert "AssembleRows" in node.name() and len(children) == 20
    assert not any("AssembleRows" in child.name() for child in children)


def test_retain_graph() -> None:
    x = leaf(3)
    f = x.sin()
    full_jacobian(f, x, create_graph=False)
    full_jacobian(f, x, create_graph=False, retain_graph=False)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        full_jacobian(f, x, create_graph=False)


@pytest.mark.parametrize("f_shape", [(), (3,)])
def test_retain_graph_false_frees_what_was_saved(f_shape: tuple[int, ...]) -> None:
    x = leaf(3)
    f = x.sin().sum() if f_shape == () else x.sin()
    node = f.grad_fn.next_functions[0][0] if f_shape == () else f.grad_fn
    full_jacobian(f, x, create_graph=False, retain_graph=False)
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = node._saved_self


def test_works_under_no_grad() -> None:
    x = leaf(3)
    f = x.sin()
    with torch.no_grad():
        jacobian = full_jacobian(f, x, chunk_size=2)
        assert not torch.is_grad_enabled()
    assert jacobian.requires_grad
    assert_close(torch.autograd.grad(jacobian.sum(), x)[0], -x.detach().sin())


class TestOut:
    @pytest.mark.parametrize("chunk_size", [None, 1, 2])
    def test_is_written_and_returned(self, chunk_size: int | None, device: str) -> None:
        x = leaf(4, device=device)
        f = x.sin() * x.sum()
        out = torch.full((4, 4), torch.nan, dtype=x.dtype, device=device)
        assert full_jacobian(f, x, create_graph=False, chunk_size=chunk_size, out=out) is out
        assert_close(out, full_jacobian_loop(f, x))

    def test_may_be_strided(self) -> None:
        x = leaf(4)
        f = x.sin() * x.sum()
        out = torch.empty(4, 4, dtype=x.dtype).t()
        full_jacobian(f, x, create_graph=False, out=out)
        assert_close(out, full_jacobian_loop(f, x), check_stride=False)

    def test_zeros_are_written(self) -> None:
        x = leaf(3)
        out = torch.ones(2, 3, dtype=x.dtype)
        full_jacobian(torch.ones(2), x, create_graph=False, out=out)
        assert_close(out, torch.zeros_like(out))

    def test_structure(self) -> None:
        x, y = leaf(2), leaf(3)
        out = {"x": torch.empty(2, 2, dtype=x.dtype), "y": torch.empty(2, 3, dtype=x.dtype)}
        full_jacobian(x * y.sum(), {"x": x, "y": y}, create_graph=False, out=out)
        assert_close(out["y"], full_jacobian_loop(x * y.sum(), y))

    @pytest.mark.parametrize(
        "make_out, message",
        [
            (lambda x, f: torch.empty(2, 3), "expected out of shape"),
            (lambda x, f: torch.empty(3, 3), "wrt's dtype Double, got Float"),
            (lambda x, f: torch.empty(3, 3, dtype=x.dtype, device="meta"), "wrt's device cpu"),
            (lambda x, f: torch.empty(3, 3, dtype=x.dtype, requires_grad=True), "does not require grad"),
            (lambda x, f: torch.empty(1, 1, dtype=x.dtype).expand(3, 3), "memory of its own"),
            (lambda x, f: x.detach().as_strided((3, 3), (1, 1)), "memory of its own|shares it"),
            (lambda x, f: (torch.empty(3, 3), torch.empty(3, 3)), "1 tensors, got 2"),
        ],
    )
    def test_is_refused(self, make_out: Callable[[Tensor, Tensor], Any], message: str) -> None:
        x = leaf(5)[:3]
        f = x.sin()
        with pytest.raises(ValueError, match=f"full_jacobian: .*({message})"):
            full_jacobian(f, x, create_graph=False, out=make_out(x, f))

    def test_alias_of_another_out_is_refused(self) -> None:
        x, y = leaf(3), leaf(3)
        shared = torch.empty(3, 3, dtype=x.dtype)
        with pytest.raises(ValueError, match="another out"):
            full_jacobian(x * y, (x, y), create_graph=False, out=(shared, shared))

    def test_needs_no_graph(self) -> None:
        x = leaf(3)
        with pytest.raises(ValueError, match="create_graph=False"):
            full_jacobian(x.sin(), x, out=torch.empty(3, 3, dtype=x.dtype))


def complex_f(x: Tensor) -> tuple[Any, Any]:
    return torch.complex(x, x), x


def integer_f(x: Tensor) -> tuple[Any, Any]:
    return torch.arange(3), x


def freed_graph(x: Tensor) -> tuple[Any, Any]:
    f = x.sin()
    torch.autograd.grad(f.sum(), x)
    return f, x


def modified_non_leaf(x: Tensor) -> tuple[Any, Any]:
    hidden = x.clone()
    f = hidden.sin()
    hidden.add_(1)
    return f, hidden


def modified_saved_leaf(x: Tensor) -> tuple[Any, Any]:
    f = x.sin()
    with torch.no_grad():
        x.add_(1)
    return f, x


ERRORS: list[tuple[Callable[[Tensor], tuple[Any, Any]], dict[str, Any], type[Exception], str]] = [
    (complex_f, {}, RuntimeError, "expected a real f, got ComplexDouble"),
    (integer_f, {}, RuntimeError, "expected f of a floating point dtype, got Long"),
    (lambda x: (x.sin(), torch.ones(2)), {}, RuntimeError, "expected every wrt to require grad, got one of shape [2]"),
    (lambda x: (x.sin(), torch.arange(3)), {}, RuntimeError, "floating point or complex dtype, got Long"),
    (lambda x: (3.0, x), {}, TypeError, "expected f to be a tensor or a tuple, list or dict of tensors, got float"),
    (lambda x: ((x, None), x), {}, TypeError, "got a NoneType inside a tuple"),
    (lambda x: (x.sin(), "x"), {}, TypeError, "expected wrt to be a tensor"),
    (freed_graph, {}, RuntimeError, "backward through the graph a second time"),
    (modified_non_leaf, {}, RuntimeError, "modified by an inplace operation"),
    (modified_saved_leaf, {}, RuntimeError, "modified by an inplace operation"),
    (lambda x: (x.sin().to("meta"), x), {}, RuntimeError, "got f on meta and wrt on cpu"),
    (
        lambda x: (x.sin().to_sparse(), x),
        {},
        RuntimeError,
        "expected f to be a dense (strided) tensor, got layout Sparse",
    ),
    (lambda x: (x.sin(), x), {"chunk_size": 0}, ValueError, "chunk_size to be None or at least 1, got 0"),
    (lambda x: (x.sin(), x), {"chunk_size": 2.5}, TypeError, "chunk_size to be None or an int, got float"),
    (lambda x: (x.sin(), x), {"create_graph": None}, TypeError, "create_graph to be a bool, got NoneType"),
    (lambda x: (x.sin(), x), {"retain_graph": None}, TypeError, "retain_graph to be a bool, got NoneType"),
    (lambda x: (x.sin(), x), {"strict": 1}, TypeError, "strict to be a bool, got int"),
    (lambda x: (x.sin(), x), {"allow_unused": "no"}, TypeError, "allow_unused to be a bool, got str"),
    (lambda x: (x.sin(), x), {"verify": None}, TypeError, "verify to be a bool, got NoneType"),
    (lambda x: (x.sin(), x), {"chunk_size": True}, TypeError, "chunk_size to be None or an int, got bool"),
    (lambda x: (x.sin(), x), {"chunk_size": 1 << 70}, ValueError, "chunk_size to be None or an int64, got"),
    (lambda x: (x.sin(), x), {"batch_dims": 1 << 70}, ValueError, "batch_dims to be an int64, got"),
    (lambda x: (x.sin(), x), {"progress": 3}, TypeError, "progress to be a bool or callable, got int"),
    (
        lambda x: (torch.ones(2), x),
        {"allow_unused": False},
        RuntimeError,
        "does not require grad and does not have a grad_fn",
    ),
    (lambda x: (leaf(2).exp(), x), {"allow_unused": False}, RuntimeError, "appears to not have been used in the graph"),
    (
        lambda x: (torch.ones(2), x),
        {"strict": True},
        RuntimeError,
        "Output 0 of the user-provided function does not require gradients",
    ),
    (
        lambda x: (leaf(2).exp(), x),
        {"strict": True},
        RuntimeError,
        "Output 0 of the user-provided function is independent of input 0",
    ),
    (
        lambda x: (x * 2, x),
        {"strict": True},
        RuntimeError,
        "jacobian of the user-provided function is independent of input 0",
    ),
]


@pytest.mark.parametrize("make, options, error, message", ERRORS, ids=[message[:40] for *_, message in ERRORS])
def test_errors_change_nothing(
    make: Callable[[Tensor], tuple[Any, Any]], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    x = leaf(3)
    f, wrt = make(x)
    before = (x.detach().clone(), x._version, torch.is_grad_enabled(), torch._C._functorch.maybe_current_level())
    with pytest.raises(error, match=re.escape(message)) as info:
        full_jacobian(f, wrt, **options)
    if "graph a second time" not in message and "modified" not in message:
        assert str(info.value).startswith("full_jacobian: ")
    after = (x.detach().clone(), x._version, torch.is_grad_enabled(), torch._C._functorch.maybe_current_level())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert x.grad is None
    # The library works on as before.
    good = x.cos()
    assert_close(full_jacobian(good, x), full_jacobian_loop(good, x))


def test_strict_without_graph_allows_constants() -> None:
    x = leaf(3)
    assert_close(full_jacobian(x * 2, x, strict=True, create_graph=False), 2 * torch.eye(3, dtype=x.dtype))


def test_modified_in_place_before_f_is_fine() -> None:
    x = leaf(3)
    hidden = x.clone()
    hidden.mul_(2)
    f = hidden.sin()
    assert_close(full_jacobian(f, hidden), full_jacobian_loop(f, hidden))
    assert_close(full_jacobian(x.sin(), hidden), torch.zeros(3, 3, dtype=x.dtype))


def test_versions_without_a_node_are_no_earlier_value() -> None:
    """Changes under no_grad count as versions, but put no Node on the graph: the leaf behind is not one of them."""
    x = leaf(3)
    hidden = x.clone()
    with torch.no_grad():
        hidden.add_(1)
    hidden.mul_(2)
    assert_close(full_jacobian(x.sin(), hidden), torch.zeros(3, 3, dtype=x.dtype))


def test_never_an_alias() -> None:
    """The backward of this Function returns a tensor that the user holds."""
    held = torch.randn(3, dtype=torch.float64)

    class Dot(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x @ held

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return held

    x = leaf(3)
    jacobian = full_jacobian(Dot.apply(x), x, create_graph=False)
    jacobian.zero_()
    assert held.abs().sum() > 0


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_result_may_be_changed_in_place(chunk_size: int | None) -> None:
    """Also by what requires grad, which torch forbids for views that were made without grad mode."""
    x = leaf(4)
    jacobian = full_jacobian(x.view(2, 2) @ x.view(2, 2), x, create_graph=False, chunk_size=chunk_size)
    assert not jacobian._is_view()
    jacobian.mul_(x)
    jacobian.sum().backward()


def test_grad_is_never_touched() -> None:
    x = leaf(3)
    hidden = x.sin()
    hidden.retain_grad()
    f = hidden.exp()
    f.retain_grad()
    for chunk_size in (None, 1):
        full_jacobian(f, (x, hidden), chunk_size=chunk_size)
    assert x.grad is None and hidden.grad is None and f.grad is None
    f.sum().backward()
    assert_close(hidden.grad, f.detach())


def test_plans_touch_no_grad() -> None:
    x = leaf(8, 8)
    hidden = x.sin()
    hidden.retain_grad()
    plan(torch.nn.functional.glu(hidden), x)
    assert hidden.grad is None


def test_grad_is_not_touched_by_two_threads() -> None:
    """One is still sweeping a graph when the other has finished with it."""
    x = leaf(4)
    hidden = x.sin()
    hidden.retain_grad()
    f = hidden.cumprod(0)
    first_sweeps, second_sweeps = Event(), Event()

    def first_goes_on(done: int, total: int) -> None:
        first_sweeps.set()
        assert second_sweeps.wait(60)

    def second_waits(done: int, total: int) -> None:
        second_sweeps.set()
        first.join(60)

    first = Thread(target=lambda: full_jacobian(f, x, chunk_size=2, progress=first_goes_on))
    first.start()
    assert first_sweeps.wait(60)
    jacobian = full_jacobian(f, x, chunk_size=2, progress=second_waits)
    assert hidden.grad is None
    assert_close(jacobian, full_jacobian_loop(f, x))
    f.sum().backward()
    assert hidden.grad is not None


def test_result_that_fits_no_memory() -> None:
    """With create_graph, rows are joined at the end: it fails before the first of them."""
    x = torch.zeros(6_000_000, requires_grad=True)
    f = x.cumsum(0)
    calls: list[int] = []
    with pytest.raises(RuntimeError, match=r"memory|Storage size|size"):
        full_jacobian(f, x, chunk_size=1, progress=lambda done, total: calls.append(done))
    assert not calls
    f.sum().backward()


def test_warnings_point_at_the_caller() -> None:
    x = leaf(3)
    y = x * 2
    y.register_hook(lambda grad: grad)
    with pytest.warns(UserWarning, match='mode="forward" cannot be used') as first:
        full_jacobian(y.sin(), x, mode="forward")
    with pytest.warns(UserWarning, match='method="taylor" cannot be used') as second:
        nth_derivative(y.sin(), x, 2, method="taylor")
    assert [warning.filename for warning in (*first, *second)] == [__file__] * 2


def test_progress_calls() -> None:
    x = leaf(5)
    seen: list[tuple[int, int]] = []
    full_jacobian(x.sin(), x, chunk_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    x = leaf(5)
    full_jacobian(x.sin(), x, chunk_size=2, progress=True)
    assert "5/5" in capfd.readouterr().err


def test_error_in_progress_reaches_the_caller() -> None:
    x = leaf(5)

    def fail(done: int, total: int) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        full_jacobian(x.sin(), x, progress=fail)


def test_out_has_the_structure_of_the_result() -> None:
    x = torch.ones(2, requires_grad=True)
    f = {"a": x.sin(), "b": x.sum()}
    buffers = {"b": torch.empty(2), "a": torch.empty(2, 2)}
    for out in (buffers, list(buffers.values())):
        with pytest.raises(ValueError, match="full_jacobian: expected out to have the structure of the result"):
            full_jacobian(f, x, create_graph=False, out=out)
    out = {"a": buffers["a"], "b": buffers["b"]}
    assert full_jacobian(f, x, create_graph=False, out=out) is out
    assert_close(buffers["a"], torch.diag(x.detach().cos()))


@pytest.mark.parametrize("derive", [full_jacobian, lambda f, x: nth_derivative(f, x, 2)])
def test_results_go_with_their_last_name(derive: Callable[[Any, Any], Any]) -> None:
    """And not when the garbage collector comes: they may be large."""
    x = torch.rand(3, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        derivative = derive((x.sin(), {"g": x.prod()}), [x])
        block = weakref.ref(tree_leaves(derivative)[-1])
        del derivative
        assert block() is None
    finally:
        gc.enable()


class Kept(torch.autograd.Function):
    """Whose gradient is a tensor that the user holds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return x @ gradient

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0], None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_recorded_row_of_one_element(shape: tuple[int, ...]) -> None:
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    f = ((x.sin() * x.roll(1)).sum() * y.exp().sum() + x.sum()).view(shape)
    by_x, by_y = full_jacobian(f, (x, y))
    assert_close(by_x, full_jacobian_loop(f, x))
    assert_close(by_y, full_jacobian_loop(f, y))
    for jacobian in (by_x, by_y):
        assert jacobian.is_contiguous() and not jacobian._is_view() and jacobian.requires_grad
    assert_close(full_jacobian(by_x, y), full_jacobian_loop(full_jacobian_loop(f, x, create_graph=True), y))
    summed = full_jacobian(x.sum().view(shape), x)
    assert summed.is_contiguous() and torch.equal(summed, torch.ones(*shape, 3, dtype=x.dtype))
    gradient = torch.rand(3, dtype=torch.float64)
    kept = full_jacobian(Kept.apply(x, gradient).view(shape), x)
    assert torch.equal(kept.view(3), gradient) and kept.data_ptr() != gradient.data_ptr()
