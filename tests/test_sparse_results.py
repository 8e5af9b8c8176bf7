"""Sparse Jacobians, Jacobians of independent samples, and patterns to look at."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from problems import PROBLEMS, Problem
from structured import constant, random_graph
from test_structure import leaf, network, tridiagonal
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian, plan, spy
from highgrad_ext._pattern import braille, to_scipy
from highgrad_ext._reference import full_jacobian_loop

pytestmark = pytest.mark.filterwarnings("ignore")
LAYOUTS = [torch.sparse_csr, torch.sparse_coo]


def matrix(f: Tensor, x: Tensor) -> Tensor:
    return full_jacobian(f, x, create_graph=False, structure="dense").reshape(f.numel(), x.numel())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_problems(problem: Problem, layout: torch.layout) -> None:
    x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64).requires_grad_()
    f = problem.build(x)
    sparse = full_jacobian(f, x, create_graph=False, layout=layout)
    assert sparse.layout == layout and sparse.shape == (f.numel(), x.numel())
    assert_close(sparse.to_dense(), full_jacobian_loop(f, x).to(x.dtype).reshape(sparse.shape))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_graphs(layout: torch.layout) -> None:
    for seed in range(200):
        f, x, _ = random_graph(seed)
        expected = matrix(f, x)
        sparse = full_jacobian(f, x, create_graph=False, layout=layout).to_dense()
        assert_close(torch.where(expected.isnan() & (sparse == 0), torch.nan, sparse), expected, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_entries_of_the_pattern_are_held(layout: torch.layout) -> None:
    x = leaf(90)
    sparse = full_jacobian(tridiagonal(x), x, create_graph=False, layout=layout)
    assert sparse._nnz() == 3 * 88 + 2
    expected = matrix(tridiagonal(x), x)
    vector = constant(90)
    assert_close(sparse @ vector, expected @ vector)
    assert_close((sparse @ vector[:, None]).squeeze(1), expected @ vector)
    if layout == torch.sparse_coo:
        assert sparse.is_coalesced() and torch.equal(sparse.coalesce().indices(), sparse._indices())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", [tridiagonal, lambda x: x.sin() * x.sum(), lambda x: x.logcumsumexp(0) ** 2])
def test_differentiable(function: Any, layout: torch.layout) -> None:
    x = leaf(12)
    vector = constant(12, 1)
    sparse = full_jacobian(function(x), x, layout=layout)
    (actual,) = torch.autograd.grad((sparse @ vector).square().sum(), x)
    dense = full_jacobian(function(x), x, structure="dense")
    (expected,) = torch.autograd.grad((dense @ vector).square().sum(), x)
    assert_close(actual, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives_of_zeros_are_kept(layout: torch.layout) -> None:
    x = torch.tensor([2.0, 3.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    f = x.prod()
    sparse = full_jacobian(f, x, layout=layout)
    assert_close(sparse.to_dense().detach(), torch.zeros(1, 4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((sparse @ constant(4)).sum(), x)
    assert_close(gradient, full_jacobian_loop(full_jacobian_loop(f, x, create_graph=True), x) @ constant(4))
    assert full_jacobian(f, x, create_graph=False, layout=layout)._nnz() == 0
    assert full_jacobian(x[:2].sum() + 0 * x, x, layout=layout)._nnz() == 8  # whose derivatives are constant


@pytest.mark.parametrize("product", [torch.prod, lambda x: x.cumprod(0)[-1]])
def test_a_product_with_several_zeros_is_not_probed(product: Any) -> None:
    x = torch.ones(40, dtype=torch.float64)
    x[[3, 17]] = 0
    x.requires_grad_()
    f = torch.stack([product(row * x) for row in 1 + constant(40, 40) / 40])
    jacobian = full_jacobian(f, x, plan=plan(f, x))
    expected = full_jacobian(f, x, structure="dense")
    (actual,) = torch.autograd.grad((jacobian @ constant(40)).sum(), x, retain_graph=True)
    assert actual.abs().max() > 0
    assert_close(actual, torch.autograd.grad((expected @ constant(40)).sum(), x)[0])
    with pytest.raises(RuntimeError, match="samples"):
        full_jacobian(product(x) * torch.arange(1.0, 41), x, batch_dims=1)


def test_no_path_empty_and_several() -> None:
    x, y, empty = leaf(6), leaf(5, seed=1), leaf(0)
    rows = full_jacobian((x.sin(), x[:0] * 1), (x, y, empty), create_graph=False, layout=torch.sparse_csr)
    assert [[block.shape for block in row] for row in rows] == [[(6, 6), (6, 5), (6, 0)], [(0, 6), (0, 5), (0, 0)]]
    assert_close(rows[0][0].to_dense(), torch.diag(x.detach().cos()))
    assert rows[0][1]._nnz() == 0
    both = full_jacobian(tridiagonal(x) * y.sum(), (y, x), create_graph=False, layout=torch.sparse_coo)
    assert_close(both[0].to_dense(), matrix(tridiagonal(x) * y.sum(), y))
    assert_close(both[1].to_dense(), matrix(tridiagonal(x) * y.sum(), x))


def test_with_scipy() -> None:
    """A Newton step with SciPy's sparse solver."""
    x = leaf(50)
    f = tridiagonal(x) + 5 * x
    jacobian = full_jacobian(f, x, create_graph=False, layout=torch.sparse_csr)
    matrix_ = scipy.sparse.csr_array((jacobian.values(), jacobian.col_indices(), jacobian.crow_indices()))
    step = scipy.sparse.linalg.spsolve(matrix_, f.detach().numpy())
    assert_close(matrix(f, x) @ torch.from_numpy(step), f.detach())


def test_large_and_never_dense() -> None:
    """400000 x 400000: the dense matrix would take 1.28 terabytes."""
    x = torch.rand(400_000).requires_grad_()
    sparse = full_jacobian(tridiagonal(x), x, create_graph=False, layout=torch.sparse_csr)
    assert sparse._nnz() == 3 * (len(x) - 2) + 2
    diagonal = sparse.values()[1:-1].view(-1, 3)
    assert_close(diagonal[:, 1], 2 * x.detach()[1:-1] - 2)
    assert_close(diagonal[:, 0], torch.ones(len(x) - 2))


def by_sample(f: Tensor, x: Tensor, batch_dims: int = 1) -> Tensor:
    """The diagonal blocks of the dense Jacobian, one sample after the other."""
    batch = f.shape[:batch_dims]
    samples, rest = batch.numel(), f.shape[batch_dims:].numel()
    full = full_jacobian_loop(f, x).reshape(samples, rest, samples, -1)
    blocks = torch.stack([full[i, :, i] for i in range(samples)])
    return blocks.reshape(f.shape + x.shape[batch_dims:])


PER_SAMPLE = {
    "network": (network(3, 8, 5), (6, 3), 1),
    "two batch dims": (network(3, 8, 5), (2, 4, 3), 2),
    "scalar samples": (lambda x: x.sin() * x.exp(), (7,), 1),
    "attention": (lambda x: (x @ x.mT).softmax(-1) @ x, (4, 3, 2), 1),
    "convolution": (lambda x: torch.conv1d(x, constant(2, 1, 3)), (5, 1, 6), 1),
    "group norm": (lambda x: nn.functional.group_norm(x, 1), (5, 2, 3), 1),
    "cut and joined": (lambda x: torch.cat([x[:2].sin(), x[2:].cos()]), (5, 3), 1),
    "indexed": (lambda x: x[torch.arange(5)] ** 2, (5, 3), 1),
    "batch norm, evaluated": (
        lambda x: nn.functional.batch_norm(x, constant(3), constant(3).square() + 1),
        (6, 3),
        1,
    ),
    "one sample": (network(3, 5), (1, 3), 1),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_batch_dims(name: str, create_graph: bool) -> None:
    function, shape, batch_dims = PER_SAMPLE[name]
    x = leaf(*shape)
    f = function(x)
    passes: list[int] = []
    jacobian = full_jacobian(
        f, x, batch_dims=batch_dims, create_graph=create_graph, progress=lambda done, total: passes.append(total)
    )
    assert_close(jacobian.detach(), by_sample(f, x, batch_dims))
    assert jacobian.is_contiguous() and not jacobian._is_view()
    assert passes[-1] == f.shape[batch_dims:].numel()
    if create_graph and jacobian.requires_grad:
        full = full_jacobian(f, x, structure="dense")
        actual, expected = (
            torch.autograd.grad(j.square().sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for j in (jacobian, full)
        )
        assert_close(actual, expected)


def wide(*batch: int) -> tuple[Tensor, Tensor]:
    """Samples of three elements, with four times as many results."""
    x = leaf(*batch, 3)
    return network(3, 200)(x).unflatten(-1, (50, 4)).tanh() * x.sum(-1)[..., None, None], x


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("batch", [(5,), (2, 3), (1,)])
def test_batch_dims_by_columns(batch: tuple[int, ...], create_graph: bool) -> None:
    f, x = wide(*batch)
    expected = by_sample(f, x, len(batch))
    results = {}
    for mode, passes in (("auto", None), ("forward", 3), ("reverse", 200)):
        seen: list[tuple[int, int]] = []
        result = full_jacobian(
            f,
            x,
            batch_dims=len(batch),
            mode=mode,
            create_graph=create_graph,
            progress=lambda *counts, seen=seen: seen.append(counts),
        )
        assert_close(result.detach(), expected)
        assert result.is_contiguous() and not result._is_view() and result.requires_grad == create_graph
        assert seen[-1][0] == seen[-1][1] and passes in (None, seen[-1][1])
        results[mode] = result
    if create_graph:
        second = [torch.autograd.grad(r.sin().sum(), x, retain_graph=True)[0] for r in results.values()]
        assert_close(second[0], second[2])
        assert_close(second[1], second[2])


def test_batch_dims_take_columns_where_they_are_fewer() -> None:
    x = leaf(40, 3)
    f = network(3, 60)(x).sin() @ constant(60, 2000)
    seen: list[int] = []
    full_jacobian(f, x, batch_dims=1, create_graph=False, progress=lambda done, total: seen.append(total))
    assert seen[-1] == 3
    x, y = leaf(8, 3), leaf(8, 2)
    f = network(3, 60)(x).sin() * (y.exp() @ constant(2, 60))
    by_x, by_y = full_jacobian(f, (x, y), batch_dims=1, create_graph=False, mode="forward")
    assert_close(by_x, by_sample(f, x))
    assert_close(by_y, by_sample(f, y))


@pytest.mark.filterwarnings("ignore:full_jacobian")
def test_batch_dims_without_double_backward() -> None:
    x = leaf(5, 3)
    f = nn.functional.layer_norm(x, (3,)).repeat(1, 80)
    with pytest.warns(UserWarning, match='mode="forward" cannot be used, and reverse mode is'):
        assert_close(full_jacobian(f, x, batch_dims=1, mode="forward"), full_jacobian(f, x, batch_dims=1))


@pytest.mark.parametrize(
    "function, node",
    [
        (lambda x: nn.functional.batch_norm(x, None, None, training=True), "BatchNorm"),
        (lambda x: (x - x.mean(0)).sin(), "Mean"),
        (lambda x: x * x.var(0).sqrt().exp(), "Var"),
        (lambda x: (x.sum().sin() + x) * 2, "Sum"),
        (lambda x: x.roll(1, 0) + x, "Roll"),
        (lambda x: (x @ x.T)[:, :3], "Mm"),
        (lambda x: x.flip(0), "Flip"),
        (lambda x: x[torch.tensor([1, 0, 2, 3])], "Index"),
    ],
)
def test_samples_that_mix_are_named(function: Any, node: str) -> None:
    x = leaf(4, 3)
    with pytest.raises(RuntimeError, match=f"got samples that mix.*{node}"):
        full_jacobian(function(x), x, batch_dims=1)


@pytest.mark.parametrize("samples", [2, 3, 5, 8])
def test_any_two_samples_that_mix(samples: int) -> None:
    x = leaf(samples, 2)
    for i, j in itertools.permutations(range(samples), 2):
        f = x.sin().index_add(0, torch.tensor([i]), x[j : j + 1])
        with pytest.raises(RuntimeError, match="got samples that mix"):
            full_jacobian(f, x, batch_dims=1)


def renormed(x: Tensor) -> Tensor:
    """Of a Node that is in no table."""
    return x.renorm(2, 0, 0.5) * 2


@pytest.mark.parametrize("vmap", [True, False])
def test_batch_dims_of_unknown_nodes(vmap: bool) -> None:
    """Of which axes tell nothing: numbers and NaN do."""
    x = leaf(5, 3)
    f = renormed(x) if vmap else (x * 1).to_sparse().to_dense()
    axes = _C.analyze_axes(f, [x])
    assert axes is None or not axes[1]
    for create_graph in (False, True):
        assert_close(full_jacobian(f, x, batch_dims=1, create_graph=create_graph), by_sample(f, x))
        with pytest.raises(RuntimeError, match="got samples that mix"):
            full_jacobian(f - f.flip(0), x, batch_dims=1, create_graph=create_graph)


def test_batch_dims_in_anomaly_mode() -> None:
    x = leaf(4, 3)
    f = (x.sin() @ constant(3, 3)).exp()
    with torch.autograd.detect_anomaly(check_nan=True):
        assert_close(full_jacobian(f, x, batch_dims=1, create_graph=False), by_sample(f, x))
        with pytest.raises(RuntimeError, match="outside of anomaly mode"):
            full_jacobian(x[torch.arange(4)], x, batch_dims=1)


def test_batch_dims_of_several() -> None:
    x, y, unused = leaf(4, 3), leaf(4, 2, seed=1), leaf(4, 5)
    f, g = network(3, 2)(x) * y, y.sum(1)
    rows = full_jacobian({"f": f, "g": g}, (x, y, unused), batch_dims=1, create_graph=False)
    assert_close(rows["f"][0], by_sample(f, x))
    assert_close(rows["f"][1], by_sample(f, y))
    assert_close(rows["g"][1], by_sample(g, y))
    assert rows["g"][0].shape == (4, 3) and rows["f"][2].shape == (4, 2, 5) and not rows["f"][2].any()
    with pytest.raises(ValueError, match="every wrt to begin with the same 1 dims"):
        full_jacobian(f, (x, leaf(3)), batch_dims=1)
    assert full_jacobian(leaf(0, 3) * 2, leaf(0, 2), batch_dims=1).shape == (0, 3, 2)


def test_patterns_to_look_at() -> None:
    x = leaf(90)
    structure = plan(tridiagonal(x), x).outputs[0].structure
    assert structure is not None
    scipy_pattern = to_scipy(structure)
    assert np.array_equal(scipy_pattern.toarray(), matrix(tridiagonal(x), x).numpy() != 0)
    picture = braille(structure, width=10)
    lines = picture.splitlines()
    assert all(len(line) == 10 for line in lines) and len(lines) == 5
    assert lines[0][0] != "\u2800" and lines[0][-1] == "\u2800" and lines[-1][-1] != "\u2800"
    axes = spy(plan(tridiagonal(x), x))
    assert axes.get_xlim()[1] == pytest.approx(89.5) and axes.collections
    assert pickle.loads(pickle.dumps(structure)).num_colors == 3


def test_braille_of_small_patterns() -> None:
    x = leaf(4)
    structure = plan(x.sin(), x).outputs[0].structure
    assert structure is not None
    assert braille(structure) == "\u2811\u2884"


def test_progress_without_structure() -> None:
    x, y = leaf(3), leaf(4, seed=1)
    seen: list[tuple[int, int]] = []
    full_jacobian(
        (x.sum() * y, x.sin(), x.new_ones(2)),
        (x, y),
        layout=torch.sparse_coo,
        structure="dense",
        progress=lambda *passes: seen.append(passes),
    )
    assert seen == [(4, 7), (7, 7)]


@pytest.mark.parametrize("options", [{"layout": torch.sparse_coo}, {"layout": torch.sparse_csr}, {"batch_dims": 1}])
def test_strict_takes_no_constant(options: dict[str, Any]) -> None:
    x = leaf(3)
    full_jacobian(x.sin(), x, strict=True, **options)
    full_jacobian(2 * x, x, strict=True, create_graph=False, **options)
    with pytest.raises(RuntimeError, match="jacobian of the user-provided function is independent of input 0"):
        full_jacobian(2 * x, x, strict=True, **options)


def test_complex_wrt_has_no_differentiable_csr() -> None:
    z = torch.view_as_complex(leaf(6).view(3, 2).detach()).requires_grad_()
    f = (z * z.conj()).real
    assert_close(full_jacobian(f, z, layout=torch.sparse_coo).to_dense(), full_jacobian(f, z))
    with pytest.raises(RuntimeError, match="full_jacobian: expected create_graph=False or layout=torch"):
        full_jacobian(f, z, layout=torch.sparse_csr)
