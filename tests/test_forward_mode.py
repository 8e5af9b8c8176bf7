"""Forward mode: when it is chosen, when it gives way to reverse mode, and that it changes nothing."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian, nth_derivative
from highgrad_ext._reference import full_jacobian_loop, nth_derivative_loop


class DetachedBackward(torch.autograd.Function):
    """Right at first order; its backward records nothing, so double backward would give zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad.detach()


def passes(f: Tensor, x: Tensor, **options: Any) -> int:
    """Passes that a call takes."""
    seen: list[tuple[int, int]] = []
    full_jacobian(f, x, progress=lambda done, total: seen.append((done, total)), **options)
    assert seen[-1][0] == seen[-1][1]
    return seen[-1][1]


def tall(x: Tensor, rows: int = 1000) -> Tensor:
    """Its rows depend on one another, so that none share passes."""
    angles = torch.linspace(0, 1, rows, dtype=x.dtype).unsqueeze(1).mul(x.exp())
    return angles.sin().sum(1).cumsum(0).mul(3 / rows).tanh().exp()


def test_tall_jacobians_take_as_many_passes_as_columns() -> None:
    x = torch.rand(5, requires_grad=True)
    assert passes(tall(x), x) == 5
    assert passes(tall(x), x, mode="reverse") == 1000
    assert passes(tall(x, 20), x) == 20
    assert passes(tall(x, 20), x, mode="forward", chunk_size=2) == 5


@pytest.mark.parametrize("create_graph", [True, False])
def test_values_and_layout(create_graph: bool) -> None:
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    f = tall(x.view(-1), 12).view(4, 3)
    expected = full_jacobian_loop(f, x, create_graph=create_graph)
    jacobian = full_jacobian(f, x, create_graph=create_graph, mode="forward")
    assert_close(jacobian, expected)
    assert jacobian.is_contiguous() and jacobian.requires_grad == create_graph and x.grad is None
    if not create_graph:
        out = torch.full((3, 2, 4, 3), 7.0, dtype=torch.float64).permute(2, 3, 1, 0)
        assert full_jacobian(f, x, create_graph=False, mode="forward", out=out) is out
        assert_close(out, expected)


def test_several_outputs_and_inputs() -> None:
    x = torch.rand(3, requires_grad=True)
    y = torch.rand(2, requires_grad=True)
    f = {"a": (x.sin().sum() * y).exp(), "b": x.cos()}
    forward = full_jacobian(f, (x, y, x), mode="forward")
    reverse = full_jacobian(f, (x, y, x), mode="reverse")
    for name, blocks in reverse.items():
        for block, expected in zip(forward[name], blocks, strict=True):
            assert_close(block, expected)


def test_orders_above_one() -> None:
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    f = (x.sin() * x.prod()).sum()
    assert_close(nth_derivative(f, x, 3, mode="forward"), nth_derivative_loop(f, x, 3))


def test_is_differentiable_twice_more() -> None:
    def jacobian(x: Tensor) -> Tensor:
        return full_jacobian((x * x.roll(1)).tanh(), x, mode="forward")

    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(jacobian, x)
    assert torch.autograd.gradgradcheck(jacobian, x)


def test_custom_functions_go_in_reverse() -> None:
    x = torch.rand(3, requires_grad=True)
    f = DetachedBackward.apply(tall(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jacobian = full_jacobian(f, x, create_graph=False)
    assert_close(jacobian, full_jacobian_loop(f, x))
    with pytest.warns(UserWarning, match=r'mode="forward" cannot be used, and reverse mode is: .*DetachedBackward'):
        assert_close(full_jacobian(f, x, create_graph=False, mode="forward"), jacobian)


def test_hooks_go_in_reverse() -> None:
    x = torch.rand(3, requires_grad=True)
    hidden = x.sin()
    hidden.register_hook(lambda grad: grad.detach() * 2)
    f = tall(hidden)
    assert_close(full_jacobian(f, x, create_graph=False), full_jacobian_loop(f, x))


def test_without_double_backward_it_goes_in_reverse() -> None:
    x = torch.rand(2, requires_grad=True)
    grid = torch.rand(1, 8, 8, 2)
    image = x.view(2, 1, 1).expand(2, 4, 4).unsqueeze(0)
    f = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    expected = full_jacobian_loop(f, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(full_jacobian(f, x, create_graph=False, mode="forward"), expected)
    lstm = torch.nn.LSTM(2, 40)
    f = lstm(x.view(1, 1, 2))[0]
    assert_close(full_jacobian(f, x, create_graph=False, mode="forward"), full_jacobian_loop(f, x))


@pytest.mark.filterwarnings("ignore:full_jacobian")
def test_kink_where_double_backward_takes_the_other_slope() -> None:
    x = torch.tensor([0.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    f = torch.nn.functional.prelu(x.expand(4, 3), torch.tensor([0.2], dtype=x.dtype))
    assert_close(full_jacobian(f, x, mode="forward"), full_jacobian_loop(f, x))


def test_embeddings_scaled_by_frequency_go_in_reverse() -> None:
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([1, 2, 1, 4] * 20)
    f = F.embedding(index, weight, scale_grad_by_freq=True).exp() @ torch.randn(3, 9, dtype=torch.float64)
    expected = full_jacobian_loop(f, weight)
    assert_close(full_jacobian(f, weight, create_graph=False), expected)
    with pytest.warns(UserWarning, match="forward"):
        assert_close(full_jacobian(f, weight, mode="forward"), expected)
    total = f.sum()
    for method in ("nested", "auto"):
        assert_close(nth_derivative(total, weight, 2, method=method), nth_derivative_loop(total, weight, 2))


def test_retain_graph_false_frees_the_graph() -> None:
    x = torch.rand(2, requires_grad=True)
    f = x.exp().sum()
    full_jacobian(f, x, mode="forward", retain_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        full_jacobian(f, x, mode="forward")


def test_errors_of_progress_are_raised() -> None:
    x = torch.rand(3, requires_grad=True)

    def stop(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        full_jacobian(x.sin(), x, mode="forward", progress=stop)


def test_bad_mode() -> None:
    x = torch.rand(3, requires_grad=True)
    with pytest.raises(
        ValueError, match='full_jacobian: expected mode to be "auto", "reverse" or "forward", got "jet"'
    ):
        full_jacobian(x.sin(), x, mode="jet")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="full_jacobian: expected mode to be a str, got int"):
        full_jacobian(x.sin(), x, mode=1)  # type: ignore[arg-type]


def test_double_backward_that_lacks_a_term() -> None:
    """torch's, of a product with a sparse matrix, forgets the matrix."""
    x = torch.rand(6, dtype=torch.float64, requires_grad=True)
    f = torch.sparse.mm(torch.sparse_coo_tensor(torch.tensor([[0, 1, 2], [2, 0, 1]]), x[:3], (3, 3)), x[3:, None])
    cotangent = torch.ones_like(f, requires_grad=True)
    (product,) = torch.autograd.grad(f, x, cotangent, create_graph=True)
    (column,) = torch.autograd.grad(product[0], cotangent)
    expected = full_jacobian_loop(f, x)
    assert not torch.allclose(column, expected[..., 0])
    with pytest.warns(UserWarning, match="no double backward that is known to be right"):
        assert_close(full_jacobian(f, x, create_graph=False, mode="forward"), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_right_columns_are_taken(dtype: torch.dtype) -> None:
    """Of a Node that is not in the table: roundings, and sums that cancel, are not taken for missing terms."""
    x = torch.randn(3, requires_grad=True, dtype=dtype)
    hidden = torch.ops.aten._unsafe_index((torch.randn(200, 3, dtype=dtype) @ x).sin(), [torch.randperm(200)])
    assert hidden.grad_fn is not None and hidden.grad_fn.name() not in _C.known_nodes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (hidden.tanh(), hidden.log_softmax(0), torch.cat([hidden, -hidden])):
            full_jacobian(f, x, create_graph=False, mode="forward")


DECOMPOSITIONS = {
    "cholesky": lambda a: torch.linalg.cholesky(a @ a.mT + torch.eye(3, dtype=a.dtype)),
    "matrix_exp": torch.linalg.matrix_exp,
    "det": lambda a: torch.linalg.det(a) * a,
    "slogdet": lambda a: torch.linalg.slogdet(a)[1] * a,
    "eigh": lambda a: torch.linalg.eigh(a + a.mT)[1] ** 2,
    "qr": lambda a: torch.cat(torch.linalg.qr(a)),
    "svd": lambda a: torch.linalg.svd(a)[0] ** 2,
    "lu": lambda a: torch.cat(torch.linalg.lu(a)[1:]),
    "pinv": lambda a: torch.linalg.pinv(a[:, :2]),
    "lstsq": lambda a: torch.linalg.lstsq(a[:, :2], a)[0],
    "cholesky_solve": lambda a: torch.cholesky_solve(a, a.tril() + 3 * torch.eye(3, dtype=a.dtype)),
    "cholesky_inverse": lambda a: torch.cholesky_inverse(a.tril() + 3 * torch.eye(3, dtype=a.dtype)),
    "lu_solve": lambda a: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), a),
}


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_columns_of_decompositions_can_be_differentiated_again(name: str) -> None:
    x = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    parts = DECOMPOSITIONS[name](x).flatten()
    weight = torch.randn(40, len(parts), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    f = (weight @ parts).tanh()
    assert passes(f, x, mode="forward", structure="dense") == 9
    columns, rows = (full_jacobian(f, x, mode=mode, structure="dense") for mode in ("forward", "reverse"))
    assert_close(columns, rows)
    first = [torch.autograd.grad(jacobian.sin().sum(), x, create_graph=True)[0] for jacobian in (columns, rows)]
    assert_close(*first)
    assert_close(*(torch.autograd.grad(gradient.sin().sum(), x, retain_graph=True)[0] for gradient in first))
