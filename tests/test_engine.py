"""The engine: where vmap cannot go, memory runs out, or the call comes from inside of something else."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from problems import ItemInBackward
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian
from highgrad_ext._reference import full_jacobian_loop


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def test_fallback_has_the_same_values_and_names_the_node() -> None:
    x = leaf(4)
    f = ItemInBackward.apply(x.sin()).exp()
    with pytest.warns(UserWarning, match="full_jacobian: torch.vmap cannot run ItemInBackwardBackward") as record:
        jacobian = full_jacobian(f, x)
    assert len(record) == 1
    assert ".cpp" not in str(record[0].message)
    assert_close(jacobian, full_jacobian_loop(f, x))


def test_fallback_names_an_op_of_torch() -> None:
    x = leaf(4)
    f = torch.masked_select(x * x, torch.tensor([True, False, True, True]))
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        jacobian = full_jacobian(f, x)
    assert_close(jacobian, full_jacobian_loop(f, x))
    assert all(str(warning.message).startswith("full_jacobian: ") for warning in record)


def test_missing_batching_rule_is_one_warning_of_ours() -> None:
    x = leaf(6)
    f = torch.nn.functional.max_unpool1d(*torch.nn.functional.max_pool1d(x.view(1, 1, 6), 2, return_indices=True), 2)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        jacobian = full_jacobian(f, x)
    assert_close(jacobian, full_jacobian_loop(f, x))
    messages = [str(warning.message) for warning in record]
    assert not any("performance drop" in message for message in messages)
    assert len(messages) <= 1


def test_row_loop_gives_no_warning() -> None:
    x = leaf(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full_jacobian(ItemInBackward.apply(x), x, chunk_size=1)


def test_warning_as_error_is_raised() -> None:
    x = leaf(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="ItemInBackward"):
            full_jacobian(ItemInBackward.apply(x), x)
    assert_close(full_jacobian(x.sin(), x), full_jacobian_loop(x.sin(), x))


def test_error_of_a_backward_is_raised_as_it_is() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise ZeroDivisionError("in backward")

    x = leaf(3)
    with pytest.raises(ZeroDivisionError, match="in backward"):
        full_jacobian(Broken.apply(x), x)


def test_keyboard_interrupt_is_not_tried_again() -> None:
    calls = []

    class Interrupted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            calls.append(grad)
            raise KeyboardInterrupt

    x = leaf(3)
    with pytest.raises(KeyboardInterrupt):
        full_jacobian(Interrupted.apply(x), x)
    assert len(calls) == 1


class BoundedBatch(torch.autograd.Function):
    """Runs out of memory for batches of more than `limit` rows."""

    limit = 3
    sizes: ClassVar[list[int]] = []

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Scale.apply(grad)


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        BoundedBatch.sizes.append(info.batch_size)
        if info.batch_size > BoundedBatch.limit:
            raise torch.OutOfMemoryError("too many rows")
        return x * 3, in_dims[0]


def test_out_of_memory_halves_the_chunk() -> None:
    BoundedBatch.sizes = []
    x = leaf(12)
    f = BoundedBatch.apply(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jacobian = full_jacobian(f, x, create_graph=False)
    assert_close(jacobian, 3 * torch.eye(12, dtype=x.dtype))
    assert BoundedBatch.sizes == [12, 6, 3, 3, 3, 3]


def test_out_of_memory_with_a_given_chunk_size_is_raised() -> None:
    x = leaf(12)
    with pytest.raises(torch.OutOfMemoryError, match="full_jacobian: out of memory in a sweep of chunk_size=8"):
        full_jacobian(BoundedBatch.apply(x), x, chunk_size=8)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="no RLIMIT_AS")
def test_finishes_where_memory_is_short() -> None:
    """In a process whose memory is too small for all rows at once, as the vectorised peers need it."""
    code = """
        import resource, torch
        from highgrad_ext import full_jacobian
        torch.set_num_threads(1)
        weight = torch.randn(8, 1 << 15)
        x = torch.randn(8, requires_grad=True)
        hidden = x @ weight
        for _ in range(6):
            hidden = hidden.sin()
        f = hidden.view(128, -1).sum(1)[:, None] * x.new_ones(8)
        full_jacobian(f[:1], x, create_graph=False)
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (192 << 20),) * 2)
        try:
            torch.autograd.grad(f, x, torch.eye(1024).view(1024, 128, 8), is_grads_batched=True, retain_graph=True)
        except RuntimeError:
            print("peer died")
        print(tuple(full_jacobian(f, x, create_graph=False).shape))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert run.stdout.splitlines() == ["peer died", "(128, 8, 8)"], run.stderr


def test_distrusted_nodes_go_row_by_row() -> None:
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    f = torch.cdist(x.view(3, 2), x.view(3, 2) + 1)
    assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))


def test_anomaly_mode() -> None:
    x = leaf(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            f = x.exp()
            assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))


def test_hooks_see_cotangents_once_a_sweep() -> None:
    x = leaf(4)
    hidden = x.sin()
    shapes = []

    def double(grad: Tensor) -> Tensor:
        shapes.append(grad.shape)
        return 2 * grad

    hidden.register_hook(double)
    f = hidden.exp()
    jacobian = full_jacobian(f, x, create_graph=False)
    assert shapes == [(4,)]
    assert_close(jacobian, full_jacobian_loop(f, x))


def test_hook_that_looks_at_values() -> None:
    x = leaf(4)
    hidden = x.sin()
    hidden.register_hook(lambda grad: grad * 2 if grad.sum() > 0 else grad)
    f = hidden * hidden.sum()
    with pytest.warns(UserWarning, match="cannot run a hook on the graph"):
        jacobian = full_jacobian(f, x)
    assert_close(jacobian, full_jacobian_loop(f, x))


def test_inside_a_backward() -> None:
    class InnerJacobian(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.pow(3)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                jacobian = full_jacobian(x.pow(3), x, create_graph=False)
            return grad @ jacobian

    x = leaf(3)
    (grad,) = torch.autograd.grad(InnerJacobian.apply(x).sum(), x)
    assert_close(grad, 3 * x.detach() ** 2)
    f = InnerJacobian.apply(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(full_jacobian(f, x, create_graph=False), torch.diag(3 * x.detach() ** 2))


def test_fallback_inside_a_fallback_does_not_wait_for_itself() -> None:
    inner = leaf(2)
    inner_f = ItemInBackward.apply(inner)
    inner_calls = []

    class InnerFallback(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            inner_calls.append(full_jacobian(inner_f, inner, create_graph=False))
            return grad * 2 * (1.0 if grad.sum().item() >= 0 else -1.0)

    x = leaf(3)
    f = InnerFallback.apply(x)
    results = []

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(full_jacobian(f, x, create_graph=False))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert_close(results, [2 * torch.eye(3, dtype=x.dtype)])
    for jacobian in inner_calls:
        assert_close(jacobian, torch.diag(2 * inner.detach()))
    assert len(inner_calls) == 5  # a batched try, the search for the Node, three rows


def test_inside_a_hook() -> None:
    x, y = leaf(3), leaf(3)
    seen = []
    hidden = x.sin()
    f = y.exp()
    hidden.register_hook(lambda grad: seen.append(full_jacobian(f, y, create_graph=False)))
    hidden.sum().backward()
    assert_close(seen[0], torch.diag(y.detach().exp()))


def jacobian_of(function: Callable[[Tensor], Tensor], create_graph: bool = True) -> Callable[[Tensor], Tensor]:
    return lambda x: full_jacobian(function(x), x, create_graph=create_graph)


def test_inside_func_transforms() -> None:
    def function(x: Tensor) -> Tensor:
        return x.sin() * x.prod()

    x = torch.randn(3, dtype=torch.float64)
    jacrev = torch.func.jacrev
    assert_close(
        torch.func.grad(lambda x: jacobian_of(function)(x).square().sum())(x),
        torch.func.grad(lambda x: jacrev(function)(x).square().sum())(x),
    )
    assert_close(jacrev(jacobian_of(function))(x), jacrev(jacrev(function))(x))
    _, vjp = torch.func.vjp(jacobian_of(function), x)
    cotangent = torch.randn(3, 3, dtype=torch.float64)
    assert_close(vjp(cotangent), torch.func.vjp(jacrev(function), x)[1](cotangent))


def test_inside_vmap_of_grad() -> None:
    def loss(x: Tensor) -> Tensor:
        return full_jacobian(x.sin() * x.prod(), x).square().sum()

    xs = torch.randn(5, 3, dtype=torch.float64)
    expected = torch.stack([torch.func.grad(loss)(x) for x in xs])
    assert_close(torch.vmap(torch.func.grad(loss))(xs), expected)


def test_inside_vmap_is_a_clear_error() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"full_jacobian: expected \w+ to .* got a tensor inside torch.vmap"):
        torch.vmap(jacobian_of(torch.sin))(x)


def test_captured_tensor_of_a_transform_is_a_clear_error() -> None:
    """The graph of the captured tensor is another one: zeros would be silently wrong."""
    captured = leaf(3)
    with pytest.raises(RuntimeError, match=r"full_jacobian: expected f and wrt of the same torch\.func transform"):
        torch.func.grad(lambda x: full_jacobian(x * captured, captured).sum())(torch.randn(3, dtype=torch.float64))


def test_from_several_threads() -> None:
    results: dict[int, Tensor] = {}
    inputs = [leaf(20) for _ in range(8)]

    def work(i: int) -> None:
        x = inputs[i]
        for _ in range(20):
            results[i] = full_jacobian(x.sin() * x.sum(), x, chunk_size=7)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(inputs):
        assert_close(results[i], full_jacobian_loop(x.sin() * x.sum(), x))


def test_one_graph_from_several_threads() -> None:
    x = leaf(20)
    f = x.sin() * x.sum()
    expected = full_jacobian_loop(f, x)
    failures = []

    def work() -> None:
        for _ in range(20):
            if not torch.allclose(full_jacobian(f, x, create_graph=False), expected):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_deep_graph() -> None:
    """Tapes are walked without recursion."""
    x = leaf(2)
    f = x
    for _ in range(20000):
        f = f * 1.0001
    assert_close(full_jacobian(f, x, create_graph=False), 1.0001**20000 * torch.eye(2, dtype=x.dtype))


def test_zero_rows_of_another_output_do_not_leak() -> None:
    """0 * inf of an output's derivative must not reach the rows of the other output."""
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    _, linear = full_jacobian((x.sqrt(), 3 * x), x)
    assert_close(linear, 3 * torch.eye(2, dtype=x.dtype))


def test_sparse_gradients() -> None:
    weight = leaf(5, 2)
    f = torch.nn.functional.embedding(torch.tensor([1, 3]), weight, sparse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(full_jacobian(f, weight, create_graph=False), full_jacobian_loop(f, weight))


def test_batched_vjp_of_several_outputs_and_inputs() -> None:
    x, y, unused = leaf(3), leaf(2), leaf(2)
    outputs = [x.sin() * y.sum(), x.sum() * y.exp()]
    cotangents = [torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)]
    rows = _C.batched_vjp(outputs, cotangents, [x, y, unused], False)
    assert rows[2] is None
    for b in range(4):
        expected = torch.autograd.grad(outputs, (x, y), [c[b] for c in cotangents], retain_graph=True)
        assert_close([rows[0][b], rows[1][b]], list(expected))
