"""Inference mode, and default devices that are not those of the tensors: same values, and nothing is left behind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from test_structure import leaf, tridiagonal
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from highgrad_ext import (
    biharmonic,
    directional,
    divergence,
    full_jacobian,
    hessian,
    laplacian,
    nth_derivative,
    partials,
    plan,
)

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR")

Call = Callable[[Tensor, Tensor], Tensor]
DIRECTION = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)


def function(x: Tensor) -> Tensor:
    return (x.sin() * x.prod()).exp()


CALLS: dict[str, Call] = {
    "reverse": lambda f, x: full_jacobian(f, x, mode="reverse"),
    "forward": lambda f, x: full_jacobian(f, x, mode="forward"),
    "plan": lambda f, x: full_jacobian(f, x, plan=plan(f, x)),
    "verify": lambda f, x: full_jacobian(f, x, verify=True),
    "sparse": lambda f, x: full_jacobian(f, x, layout=torch.sparse_coo),
    "hessian": hessian,
    "nested hessian": lambda f, x: nth_derivative(f, x, 2, method="nested"),
    "order 3": lambda f, x: nth_derivative(f, x, 3),
    "contracted": lambda f, x: nth_derivative(f, x, 3, reduce="sum"),
    "unmixed": lambda f, x: nth_derivative(f, x, 3, reduce="diagonal"),
    "laplacian": laplacian,
    "biharmonic": biharmonic,
    "divergence": divergence,
    "directional": lambda f, x: directional(f, x, DIRECTION, 2)[-1],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_inference_mode(call: Call) -> None:
    x = leaf(4)
    f = function(x)
    expected = call(f, x)
    with torch.inference_mode():
        actual = call(f, x)
    assert not actual.is_inference() and actual.requires_grad
    assert_close(actual, expected)
    torch.autograd.grad(actual.to_dense().sum(), x)


def test_reverse_over_jets_in_inference_mode() -> None:
    x = leaf(20)
    f = function(x).sum()
    expected = nth_derivative(f, x, 3)
    with torch.inference_mode():
        actual = nth_derivative(f, x, 3)
    assert_close(actual, expected)
    torch.autograd.grad(actual.sum(), x)


def test_structure_in_inference_mode() -> None:
    x = leaf(90)
    f = tridiagonal(x)
    with torch.inference_mode():
        sparse = full_jacobian(f, x, layout=torch.sparse_csr, create_graph=False)
        kept = plan(f, x)
    assert sparse._nnz() == 3 * 88 + 2 and kept.outputs[0].structure is not None
    assert_close(sparse.to_dense(), full_jacobian(f, x, create_graph=False, structure="dense"))


def test_out_of_inference_mode() -> None:
    x = leaf(4)
    f = function(x)
    with torch.inference_mode():
        out = torch.empty(4, 4, dtype=x.dtype)
        assert full_jacobian(f, x, create_graph=False, out=out) is out
    assert_close(out, full_jacobian(f, x, create_graph=False))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_default_device(call: Call) -> None:
    x = leaf(4)
    f = function(x)
    expected = call(f, x)
    with torch.device("meta"):
        actual = call(f, x)
    assert_close(actual, expected)


FIRST_CALLS = {
    "inference": "torch.inference_mode()",
    "meta": "torch.device('meta')",
    "fake": "__import__('torch._subclasses.fake_tensor')._subclasses.fake_tensor.FakeTensorMode()",
}


@pytest.mark.parametrize("mode", FIRST_CALLS.values(), ids=FIRST_CALLS.keys())
def test_what_the_first_call_keeps_serves_all(mode: str) -> None:
    program = f"""if True:
        import contextlib, torch
        from highgrad_ext import nth_derivative
        def third():
            x = torch.full((3,), 0.5, requires_grad=True, device="cpu")
            return nth_derivative((x.sin() * x.prod()).exp(), x, 3)
        with {mode}, contextlib.suppress(Exception):
            third()
        result = third()
        assert type(result) is torch.Tensor and result.device.type == "cpu" and not result.is_inference()
        result.sum().backward()
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_fake_tensors() -> None:
    def shapes() -> list[torch.Size]:
        x = torch.ones(3, 2, requires_grad=True)
        f = (x.exp() * x.sin()).cumsum(0)
        results = [nth_derivative(f, x, 3, method=method) for method in ("auto", "nested", "taylor")]
        results += [nth_derivative(f, x, 4, create_graph=False), hessian(f[0, 0], x), biharmonic(f, x)]
        return [result.shape for result in (*results, *partials(f[:, 0], x, [(0,), (0, 1), (0, 1, 2)]))]

    # Which keeps what the first caller is given for all later ones.
    with FakeTensorMode():
        fake = shapes()
    assert fake == shapes()


def test_traced_orders() -> None:
    """What does not depend on values may be traced, with constants of its own, and run again for other values."""

    def third(x: Tensor) -> Tensor:
        return nth_derivative((x.sin() * x.prod()).exp(), x, 3)

    traced = make_fx(third, tracing_mode="fake")(leaf(3))
    x = leaf(3, seed=1)
    assert_close(traced(x), third(x))


def test_meta_tensors() -> None:
    x = torch.empty(3, 2, requires_grad=True, device="meta")
    f = (x.exp() * x).sum(0)
    for method in ("nested", "taylor"):
        result = nth_derivative(f, x, 2, method=method)
        assert result.is_meta and result.shape == (2, 3, 2, 3, 2)


@pytest.mark.parametrize("mode", [contextlib.nullcontext, FakeTensorMode], ids=["meta", "fake"])
def test_what_needs_values_says_so(mode: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
    with mode():
        x = torch.empty(4, 3, requires_grad=True, device="meta" if mode is contextlib.nullcontext else "cpu")
        assert full_jacobian(x.sin(), x, batch_dims=1, create_graph=False).shape == (4, 3, 3)
        with pytest.raises(RuntimeError, match="full_jacobian: expected with batch_dims tensors with values"):
            full_jacobian(x.cumsum(0), x, batch_dims=1, create_graph=False)
        if mode is contextlib.nullcontext:
            with pytest.raises(RuntimeError, match="for tensors on the meta device"):
                full_jacobian(x.sin(), x, create_graph=False, layout=torch.sparse_csr)
