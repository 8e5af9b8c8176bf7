"""Where vmap cannot run a Node: that Node alone goes row by row, with what the row loop gives."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from problems import ItemInBackward, NoVmap, fixed
from second_order import weighted_gradient
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from highgrad_ext import _C, full_jacobian
from highgrad_ext._reference import full_jacobian_loop

quiet = pytest.mark.filterwarnings("ignore")


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


class Values(torch.autograd.Function):
    """Looks at values in its backward. Keeps whether what it got was a batch."""

    seen: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        Values.seen.append(torch._C._functorch.is_batchedtensor(grad))
        return grad * ctx.saved_tensors[0].cos() * (1.0 if bool(grad.isfinite().all()) else 0.0)


class Pair(torch.autograd.Function):
    """Two inputs and three outputs, of which the last is no function of the inputs; leaves out what is not needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, y)
        constant = torch.ones_like(x)
        ctx.mark_non_differentiable(constant)
        ctx.set_materialize_grads(False)
        return x * y.sum(), y.exp(), constant

    @staticmethod
    def backward(ctx: Any, by_product: Tensor | None, by_exp: Tensor | None, _: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        by_x = by_y = None
        if by_product is not None:
            by_x = by_product * y.sum() * (1.0 if by_product.sum().item() > -1e9 else 0.0)
            by_y = (by_product * x).sum().expand(y.shape)
        if by_exp is not None:
            by_y = by_exp * y.exp() + (0 if by_y is None else by_y)
        return by_x, by_y


class Sometimes(torch.autograd.Function):
    """Gives no gradient for cotangents of one kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.cat([x.clone(), x[:1] * 0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        return None if grad[-1].item() != 0 else grad[:-1] * 1


class WritesToCotangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad.mul_(2)
        return grad * (1.0 if grad.sum().item() > -1e9 else 0.0)


class ReadsStorage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * torch.empty(0, dtype=grad.dtype).set_(grad.contiguous().untyped_storage())[: grad.numel()]


class OldFunctionInBackward(torch.autograd.Function):
    """Applies a Function that no level of torch.func takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return NoVmap.apply(grad)


class Expanded(torch.autograd.Function):
    """For some rows its gradient is of a wider shape and another dtype: the engine sums and casts it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.expand(3, *x.shape).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad * 1).float() if grad[0, 0].item() > 0 else grad.sum(0)


class ComplexValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2j

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        assert grad.abs().sum().item() > -1e9
        return grad * -2j


def residual(x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + Values.apply((x @ fixed(4, 4)).tanh())
    return x


def pair(x: Tensor) -> Tensor:
    product, exp, constant = Pair.apply(x[:2].sin(), x.cos())
    return torch.cat([product * constant, exp * product.sum()])


def cell(x: Tensor) -> Tensor:
    state = x.new_zeros(4)
    for step in range(6):
        state = Values.apply(fixed(4, 4) @ state + x.roll(step))
    return state


def views(x: Tensor) -> Tensor:
    base = x.clone()
    base[1:3] = Values.apply(x[1:3] ** 2)
    base[:2].mul_(Values.apply(x[2:]))
    base.view(2, 2)[0].add_(Values.apply(base[2:] * 1))
    return base.sin()


GRAPHS: dict[str, Callable[[Tensor], Tensor]] = {
    "chain": lambda x: Values.apply(x.exp()).cumsum(0),
    "first and last": lambda x: Values.apply(Values.apply(x).cumsum(0)),
    "residual network": residual,
    "around and next to": lambda x: Values.apply(x.sin()) * x.sin() + Values.apply(x) * x.sum(),
    "several inputs and outputs": pair,
    "one input needed": lambda x: Pair.apply(fixed(2), x)[0] * x[:2],
    "one output used": lambda x: Pair.apply(x[:2].cos(), x.sin())[0].cumsum(0),
    "no gradient for some rows": lambda x: Sometimes.apply(x.sin()) * x.sum(),
    "writes to its cotangent": lambda x: WritesToCotangent.apply(x.sin()).cumsum(0),
    "reads the storage": lambda x: ReadsStorage.apply(x.sin()).cumsum(0),
    "old Function in its backward": lambda x: OldFunctionInBackward.apply(x.exp()).cumsum(0),
    "wider gradient": lambda x: Expanded.apply(x.sin()).exp().sum(1),
    "complex": lambda x: (ComplexValues.apply(torch.complex(x, x.sin())) ** 2).abs(),
    "recurrent": cell,
    "views and in-place": views,
    "two kinds": lambda x: ItemInBackward.apply(Values.apply(x.sin()).cumsum(0)) * x,
    "with Functions that can": lambda x: NoVmap.apply(Values.apply(NoVmap.apply(x))).cumsum(0),
    "distrusted as well": lambda x: Values.apply(x).masked_select(torch.tensor([True, False, True, True])) * x.sum(),
    "into unbind and split": lambda x: torch.stack(Values.apply(x.view(2, 2)).unbind(1)[::-1]).cumsum(0) * x[0],
    "0-d": lambda x: Values.apply(x.prod()) * x.sin(),
}
every_graph = pytest.mark.parametrize("graph", GRAPHS)


@quiet
@every_graph
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3])
def test_values(graph: str, chunk_size: int | None) -> None:
    x = leaf(4)
    f = GRAPHS[graph](x)
    expected = full_jacobian_loop(f, x)
    assert_close(full_jacobian(f, x, create_graph=False, chunk_size=chunk_size), expected)
    assert_close(full_jacobian(f, x, chunk_size=chunk_size), expected)


@quiet
@every_graph
def test_second_order(graph: str) -> None:
    x = leaf(4)
    f = GRAPHS[graph](x)
    if graph == "reads the storage":
        pytest.skip("first order alone")
    jacobian, expected = full_jacobian(f, x), full_jacobian_loop(f, x, create_graph=True)
    assert_close(jacobian, expected)
    if expected.requires_grad:
        assert_close(weighted_gradient(jacobian, x), weighted_gradient(expected, x))
        assert_close(full_jacobian(jacobian, x, create_graph=False), full_jacobian_loop(expected, x))


@every_graph
def test_one_warning_names_the_node_once(graph: str) -> None:
    x = leaf(4)
    f = GRAPHS[graph](x)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        full_jacobian(f, x, create_graph=False, chunk_size=3)
    (message,) = (str(warning.message) for warning in seen)
    assert message.startswith("full_jacobian: torch.vmap cannot run ")
    assert message.endswith(", which goes row by row, with the same values but slower")
    names = message.split("cannot run ")[1].split(", which")[0].split(", ")
    assert len(set(names)) == len(names) == (2 if graph == "two kinds" else 1)


@quiet
@every_graph
def test_wrt_at_the_node(graph: str) -> None:
    """The Node's own inputs and outputs as wrt and f, next to the leaf."""
    x = leaf(4)
    before = x * 2
    after = GRAPHS[graph](before)
    f = after * after.sum()
    wrt = (after, before, x, after)
    for jacobian, tensor in zip(full_jacobian(f, wrt, create_graph=False), wrt, strict=True):
        assert_close(jacobian, full_jacobian_loop(f, tensor))


@quiet
def test_only_the_node_is_looped() -> None:
    """All else sees batches: once in vain, once more for two rows, once for all."""
    x = leaf(8)
    hidden = x.sin()
    middle = Values.apply(hidden)
    f = middle.exp()
    above: list[bool] = []
    below: list[bool] = []
    middle.register_hook(lambda grad: above.append(torch._C._functorch.is_batchedtensor(grad)))
    hidden.register_hook(lambda grad: below.append(torch._C._functorch.is_batchedtensor(grad)))
    Values.seen = []
    jacobian = full_jacobian(f, x, create_graph=False)
    assert Values.seen == [True] * 2 + [False] * 8
    assert above == [True] * 3
    assert below == [True]
    assert_close(jacobian, full_jacobian_loop(f, x))
    Values.seen, above[:], below[:] = [], [], []
    full_jacobian(f, x, create_graph=False, chunk_size=4)
    assert Values.seen == [True] * 2 + [False] * 8
    assert (above, below) == ([True] * 4, [True] * 2)


@quiet
@pytest.mark.parametrize("create_graph", [False, True])
def test_hooks_of_the_node(create_graph: bool) -> None:
    x = leaf(4)
    hidden = x.sin()
    f = Values.apply(hidden)
    f.register_hook(lambda grad: grad * 3)
    hidden.register_hook(lambda grad: grad * 5)
    f.grad_fn.register_prehook(lambda grads: (grads[0] * 7,))
    f.grad_fn.register_hook(lambda grad_inputs, grad_outputs: (grad_inputs[0] * grad_outputs[0].sum(),))
    x.register_hook(lambda grad: grad * 11)
    hidden.retain_grad()
    g = f * f.sum()
    for wrt in ((f,), (hidden,), (x,), (f, hidden, x)):
        rows = [torch.autograd.grad(element, wrt, retain_graph=True) for element in g]
        hidden.grad = None
        expected = [torch.stack(of_wrt) for of_wrt in zip(*rows, strict=True)]
        assert_close(list(full_jacobian(g, wrt, create_graph=create_graph)), expected)
        assert hidden.grad is None


@quiet
def test_hook_that_fails_as_well() -> None:
    x = leaf(4)
    hidden = Values.apply(x)
    hidden.register_hook(lambda grad: grad * 2 if grad.sum() > 0 else grad)
    for f in (hidden.exp(), Values.apply(hidden.exp())):
        assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))


def many_kinds(count: int) -> Callable[[Tensor], Tensor]:
    kinds = [type(f"Kind{i}", (ItemInBackward,), {}) for i in range(count)]

    def function(x: Tensor) -> Tensor:
        for kind in kinds:
            x = kind.apply(x.sin())
        return x

    return function


def test_many_kinds() -> None:
    """Beyond a few, rows are swept by themselves; the values stay."""
    x = leaf(4)
    for count, how in ((3, "which goes row by row"), (20, "the Jacobian is computed row by row")):
        f = many_kinds(count)(x)
        with pytest.warns(UserWarning, match=f"Kind{count - 1}Backward, .*{how}") as record:
            jacobian = full_jacobian(f, x)
        assert len(record) == 1
        assert_close(jacobian, full_jacobian_loop(f, x))


class Explodes(torch.autograd.Function):
    """Raises for one row alone."""

    error: ClassVar[type[BaseException]] = ZeroDivisionError
    calls: ClassVar[int] = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if torch._C._functorch.is_batchedtensor(grad):
            raise RuntimeError("no batches")
        Explodes.calls += 1
        if grad[2].item() != 0:
            raise Explodes.error("third row")
        return grad * 2


@quiet
def test_error_of_a_row_is_raised_as_it_is() -> None:
    x = leaf(4)
    f = Explodes.apply(x.sin()).exp()
    Explodes.error, before = ZeroDivisionError, names_of(f)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="third row"):
            full_jacobian(f, x)
    assert names_of(f) == before
    assert_close(full_jacobian(f[:2], x), full_jacobian_loop(f[:2], x))


@quiet
def test_interrupt_in_a_row_is_not_tried_again() -> None:
    x = leaf(4)
    f = Explodes.apply(x.sin()).exp()
    Explodes.error, Explodes.calls = KeyboardInterrupt, 0
    with pytest.raises(KeyboardInterrupt):
        full_jacobian(f, x)
    assert Explodes.calls == 3


@quiet
def test_out_of_memory_in_a_row_halves_the_chunk() -> None:
    """Until single rows are left; they run out of memory by themselves."""
    x = leaf(4)
    f = Explodes.apply(x.sin()).exp()
    Explodes.error = torch.OutOfMemoryError
    sweeps: list[int] = []
    with pytest.raises(torch.OutOfMemoryError, match="third row"):
        full_jacobian(f, x, create_graph=False, progress=lambda done, total: sweeps.append(done))
    assert sweeps == [2]


def names_of(f: Tensor) -> list[str]:
    names, todo, seen = [], [f.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            todo += [child for child, _ in node.next_functions]
    return names


@quiet
def test_graph_and_leaf_are_left_alone() -> None:
    x = leaf(4)
    f = residual(x)
    before, version = names_of(f), x._version
    full_jacobian(f, x)
    assert names_of(f) == before and x._version == version and x.grad is None
    full_jacobian(f, x, retain_graph=False)
    with pytest.raises(RuntimeError, match=r"second time|freed"):
        torch.autograd.grad(f.sum(), x)


@quiet
def test_nothing_is_kept() -> None:
    x = leaf(4)
    middle = Values.apply(x.sin())
    node = weakref.ref(middle.grad_fn)
    jacobian = full_jacobian(middle.exp(), x)
    del middle
    gc.collect()
    assert node() is not None  # by the Jacobian's graph
    del jacobian
    gc.collect()
    assert node() is None


@quiet
def test_checkpoint_around_the_node() -> None:
    """Saved tensors that can be unpacked once a sweep: all rows are swept by themselves."""
    x = leaf(4)
    f = checkpoint(lambda x: Values.apply(x.sin()) * x.sum(), x * 2, use_reentrant=False).exp()
    assert_close(full_jacobian(f, x, create_graph=False), full_jacobian_loop(f, x))
    jacobian, expected = full_jacobian(f, x), full_jacobian_loop(f, x, create_graph=True)
    assert_close(weighted_gradient(jacobian, x), weighted_gradient(expected, x))


@quiet
def test_multi_grad_hook() -> None:
    """It asks the engine which Nodes the sweep will run."""
    x = leaf(4)
    hidden = x.sin()
    outputs = hidden.exp(), Values.apply(hidden)
    calls: list[int] = []
    torch.autograd.graph.register_multi_grad_hook(outputs, lambda grads: calls.append(len(grads)))
    f = outputs[0] * outputs[1]
    assert_close(full_jacobian(f, x, create_graph=False), full_jacobian_loop(f, x))
    assert calls[0] == 2


@quiet
def test_inside_func_transforms() -> None:
    def function(x: Tensor) -> Tensor:
        return x.sin().masked_select(torch.tensor([True, False, True])) * x.prod()

    def jacobian(x: Tensor) -> Tensor:
        return full_jacobian(function(x), x)

    x = torch.randn(3, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(function, x)
    assert_close(torch.func.vjp(jacobian, x)[0], expected)
    plain = torch.autograd.functional.hessian(lambda x: function(x).sum(), x)
    assert_close(torch.func.grad(lambda x: jacobian(x)[0].sum() + jacobian(x)[1].sum())(x), plain.sum(0))
    xs = torch.randn(5, 3, dtype=torch.float64)
    loss = torch.func.grad(lambda x: jacobian(x).square().sum())
    assert_close(torch.vmap(loss)(xs), torch.stack([loss(x) for x in xs]))


@quiet
def test_several_threads_on_one_graph() -> None:
    x = leaf(6)
    f = Values.apply(x.sin()) * x.sum() + x.cos()
    expected = full_jacobian_loop(f, x)
    failures: list[str] = []

    def split() -> None:
        for _ in range(10):
            if not torch.allclose(full_jacobian(f, x, create_graph=False), expected):
                failures.append("split")

    def plain() -> None:
        for _ in range(50):
            if not torch.allclose(torch.autograd.grad(f.sum(), x, retain_graph=True)[0], expected.sum(0)):
                failures.append("plain")

    threads = [threading.Thread(target=target) for target in (split, plain, split)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@quiet
def test_deep_graph() -> None:
    x = leaf(2)
    f = Values.apply(x)
    for _ in range(20000):
        f = f * 1.0001
    assert_close(full_jacobian(f, x, create_graph=False), 1.0001**20000 * torch.diag(x.detach().cos()))


@quiet
def test_sparse_and_conjugate_gradients() -> None:
    weight = leaf(5, 2)
    f = Values.apply(F.embedding(torch.tensor([1, 3, 1]), weight, sparse=True) ** 2)
    assert_close(full_jacobian(f, weight, create_graph=False), full_jacobian_loop(f, weight))


class SparseValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x[:2] * 3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows = torch.tensor([[i for i in range(2) if grad[i].abs().sum().item() > 0]])
        return torch.sparse_coo_tensor(rows, 3 * grad[rows[0]], (4, 2))


@quiet
def test_sparse_rows() -> None:
    x = leaf(4, 2)
    f = SparseValues.apply(x).exp()
    assert_close(full_jacobian(f, x, create_graph=False), full_jacobian_loop(f, x))


@quiet
def test_cotangent_that_is_no_batch() -> None:
    """The Node above ignores its cotangent: what comes down is the same for all rows."""

    class Ignores(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return torch.full(grad.shape, 0.25, dtype=grad.dtype)

    x = leaf(4)
    y = Values.apply(x)
    for f in (Ignores.apply(Pair.apply(x[:2], x)[0]) * x[:2], Ignores.apply(y) + Values.apply(y)):
        assert_close(full_jacobian(f, x), full_jacobian_loop(f, x))


def test_no_warning_of_sweeps_that_failed() -> None:
    """In them, vmap loops over operations of a Node that goes row by row in the end."""
    x = leaf(6)
    pattern = torch.eye(3, dtype=x.dtype).to_sparse_csr()
    f = torch.sparse.sampled_addmm(pattern, x.view(3, 2), x.view(2, 3)).to_dense()
    with pytest.warns(UserWarning, match="cannot run ToDenseBackward0, SparseSampledAddmmBackward0") as record:
        full_jacobian(f, x)
    assert len(record) == 1


def test_distrusted_nodes_are_known_beforehand() -> None:
    """No warning, no second sweep."""
    x = leaf(6)
    hidden = x.sin()
    f = torch.cdist(hidden.view(3, 2), hidden.view(3, 2) + 1).exp()
    calls: list[torch.Size] = []
    hidden.register_hook(lambda grad: calls.append(grad.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jacobian = full_jacobian(f, x, create_graph=False)
    assert calls == [(6,)]
    assert_close(jacobian, full_jacobian_loop(f, x))
    assert "CdistBackward0" in _C.distrusted_nodes()
