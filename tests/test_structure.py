"""Structure against the dense Jacobian: random graphs, the table of problems, every known Node, and each part alone."""

from __future__ import annotations

import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from problems import PROBLEMS, Problem, brusselator
from random_ops import CASES, random_case
from second_order import weighted_gradient
from structured import constant, find, jacobian_with, mask_of_ties, pattern, random_graph
from test_distrusted_nodes import count_recorded
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from highgrad_ext import _C, full_jacobian, nth_derivative
from highgrad_ext._reference import full_jacobian_loop

pytestmark = pytest.mark.filterwarnings("ignore")


def dense(f: Tensor, x: Tensor) -> Tensor:
    return full_jacobian(f, x, create_graph=False, structure="dense")


def check_equal(actual: Tensor, expected: Tensor) -> None:
    """Equal values. Where the dense sweep gives 0 * inf = NaN, an exact zero is right as well."""
    actual = torch.where(expected.isnan() & (actual == 0), torch.nan, actual)
    assert_close(actual, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def check_structure(f: Tensor, x: Tensor, expected: Tensor) -> _C.Structure | None:
    """Whatever is found covers all nonzeros and gives the dense Jacobian."""
    structure = find(f, x)
    if structure is None:
        return None
    nonzero = (expected.nan_to_num(0) != 0).reshape(f.numel(), x.numel()).numpy()
    assert not (nonzero & ~pattern(structure)).any(), "a nonzero was missed"
    check_equal(jacobian_with(structure, f, x)[0], expected)
    return structure


GRAPHS = 2400
BATCH = 100


@pytest.mark.parametrize("first", range(0, GRAPHS, BATCH))
def test_random_graphs(first: int) -> None:
    found = 0
    for seed in range(first, first + BATCH):
        f, x, names = random_graph(seed)
        try:
            found += check_structure(f, x, dense(f, x)) is not None
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {names}") from error
    assert found >= BATCH // 5, f"only {found} graphs had structure"


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("awkward", [False, True])
def test_problems(problem: Problem, awkward: bool) -> None:
    x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64)
    x = (x.round() if awkward else x).requires_grad_()
    try:
        f = problem.build(x)
        expected = full_jacobian_loop(f, x).to(x.dtype)
    except RuntimeError:
        assert awkward
        return
    if f.requires_grad and f.grad_fn is not None and f.numel() > 1:
        check_structure(f, x, expected)


@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    """Axes allow every nonzero, and probes find every one, for operators on random shapes."""
    for seed in range(8):
        try:
            f, x = random_case(name, seed)
        except (RuntimeError, ValueError):
            continue
        if not f.requires_grad or not 1 < f.numel() <= 100:
            continue
        expected = dense(f, x)
        check_structure(f, x, expected)
        axes = _C.analyze_axes(f, [x])
        if axes is not None:
            mask = mask_of_ties(f.numel(), axes[0][0][0])
            assert not ((expected.nan_to_num(0) != 0).reshape(mask.shape).numpy() & ~mask).any(), f"seed {seed}"


def colors(f: Tensor, *wrt: Tensor) -> int | None:
    structure = find(f, *wrt)
    return None if structure is None else structure.num_colors


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return constant(*shape, seed=seed).requires_grad_()


def network(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


BY_AXES = {
    "elementwise": (lambda x: x.sin() * x.exp() + 1 / (1 + x**2), (40,), 1),
    "elementwise, 3-d": (lambda x: (x.sin() * 2).sigmoid(), (4, 5, 6), 1),
    "samples": (network(3, 8, 5), (30, 3), 5),
    "samples in two axes": (network(3, 8, 5), (5, 6, 3), 5),
    "samples last": (lambda x: (constant(4, 3) @ x).tanh(), (3, 30), 4),
    "samples, transposed after": (lambda x: network(3, 5)(x).T.exp(), (30, 3), 5),
    "samples, split and merged": (lambda x: network(3, 5)(x.view(15, 2, 3)).reshape(5, 3, 10), (30, 3), 5),
    "matrices": (lambda x: x @ constant(6, 3, 3, seed=1), (6, 2, 3), 3),
    "attention": (lambda x: (x @ x.mT).softmax(-1) @ x, (9, 3, 2), 6),
    "convolution": (lambda x: torch.conv2d(x, constant(2, 1, 3, 3)), (10, 1, 4, 4), 8),
    "convolution of equal channels": (lambda x: torch.conv1d(x, constant(3, 3, 3), padding=1), (10, 3, 4), 9),
    "weight of a convolution": (lambda w: torch.conv2d(constant(1, 2, 4, 4), w), (12, 2, 3, 3), 4),
    "weight of groups": (lambda w: torch.conv1d(constant(1, 6, 8), w, groups=3), (6, 2, 3), 6),
    "weight of a transposed convolution": (
        lambda w: nn.functional.conv_transpose1d(constant(1, 2, 3), w, stride=2),
        (2, 10, 2),
        3,
    ),
    "weight of transposed groups": (
        lambda w: nn.functional.conv_transpose1d(constant(1, 6, 3), w, groups=3),
        (6, 4, 2),
        3,
    ),
    "bias of a convolution": (lambda b: torch.conv1d(constant(1, 2, 4), constant(12, 2, 1), b), (12,), 1),
    "layer norm": (lambda x: nn.functional.layer_norm(x, (4,)), (12, 4), 4),
    "sum over an axis": (lambda x: (x**2).sum(1), (20, 5), 1),
    "sum over two": (lambda x: (x**2).sum((0, 2)), (3, 20, 5), 1),
    "mean kept": (lambda x: x - x.mean(-1, keepdim=True), (20, 4), 4),
    "softmax over the first": (lambda x: x.softmax(0), (4, 20), 4),
    "repeated, by columns": (lambda x: x.expand(3, 20) * constant(3, 20), (20,), 1),
    "permuted": (lambda x: x.permute(2, 0, 1).sin(), (4, 5, 6), 1),
    "selected": (lambda x: x[:, 0] * x[:, 1], (20, 3), 1),
    "stacked": (lambda x: torch.stack([x.sin(), x.cos()], -1), (20,), 2),
    "selected beside equal axes": (lambda x: x[0] * x[1], (2, 12, 12), 1),
    "stacked first": (lambda x: torch.stack([x.sin(), x.cos()]), (12, 12), 2),
}


@pytest.mark.parametrize("name", BY_AXES)
def test_axes(name: str) -> None:
    """Closed forms: so many colours, without a probe, and valid for other values."""
    function, shape, expected = BY_AXES[name]
    x = leaf(*shape)
    f = function(x)
    structure = check_structure(f, x, dense(f, x))
    assert structure is not None and structure.num_colors == expected
    assert structure.is_global and structure.reason.startswith("axes")


def test_convolutions_whose_weight_is_not_read() -> None:
    """Hooks of saved tensors are the user's: not called to see how long a kernel is."""
    x = leaf(10, 3, 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        f = torch.conv1d(x, constant(3, 3, 1))
    mask = mask_of_ties(f.numel(), _C.analyze_axes(f, [x])[0][0][0])
    assert mask.sum() == 10 * 12 * 12 and not ((dense(f, x) != 0).reshape(mask.shape).numpy() & ~mask).any()
    check_structure(f, x, dense(f, x))


DENSE = {
    "network": (network(40, 30, 60), (40,)),
    "softmax": (lambda x: x.softmax(0), (64,)),
    "row of matrices": (lambda x: (x.view(8, 8) @ constant(8, 8)).tanh().view(64) @ constant(64, 64), (64,)),
    "residual": (lambda x: x + x @ constant(64, 64), (64,)),
    "normalized": (lambda x: x / x.sum(), (64,)),
}


@pytest.mark.parametrize("name", DENSE)
def test_axes_prove_dense_tapes_dense(name: str) -> None:
    function, shape = DENSE[name]
    x = leaf(*shape)
    calls = []
    f = function(x)
    ((_, lower),), is_known, *_ = _C.analyze_axes(f, [x])
    assert is_known and lower is not None and all(stride == -1 for _, stride, *_ in lower)
    f.grad_fn.register_hook(lambda *_: calls.append(1))  # a hook would count probes, were it not for the hook
    assert find(function(x), x) is None


def tridiagonal(x: Tensor) -> Tensor:
    return torch.cat([x[:1], x[2:] - 2 * x[1:-1] + x[:-2] + x[1:-1] ** 2, x[-1:]])


PERMUTATION = torch.randperm(90, generator=torch.Generator().manual_seed(0))

BY_PROBES = {
    "tridiagonal": (tridiagonal, (90,), 3, 3),
    "permuted tridiagonal": (lambda x: tridiagonal(x[PERMUTATION])[PERMUTATION.flip(0)], (90,), 3, 6),
    "brusselator": (lambda x: brusselator(x), (18,), None, None),
    "permutation": (lambda x: x[PERMUTATION] ** 2, (90,), 1, 1),
    "roll": (lambda x: x.roll(7) * 2, (90,), 1, 1),
    "stencil along the first axis": (lambda x: x * x.roll(1, 0), (30, 3), 2, 3),
    "finer than the axes": (lambda x: torch.cat([x, x * x], 1), (20, 2), 2, 2),
    "last axis": (lambda x: x.cumsum(0) * x.flip(1), (4, 30), 4, 9),
    "sparse right factor": (
        lambda x: (x[None] @ torch.eye(60).double().to_sparse()).squeeze(0) ** 2,
        (60,),
        None,
        None,
    ),
    "sparse matrix": (
        lambda x: torch.sparse.mm(torch.eye(60).double().to_sparse(), x[:, None]).squeeze(1) ** 2,
        (60,),
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", BY_PROBES)
def test_probes(name: str) -> None:
    function, shape, least, most = BY_PROBES[name]
    x = leaf(*shape)
    f = function(x)
    structure = check_structure(f, x, dense(f, x))
    if least is not None:
        assert structure is not None and least <= structure.num_colors <= most


class LosesNan(TorchDispatchMode):
    """Products lose NaN beside NaN, which no Node of the table does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.mul.Tensor:
            return out
        is_nan = out.isnan()
        return torch.where(is_nan & (is_nan.roll(1, -1) | is_nan.roll(-1, -1)), 0.0, out)


def test_hits_that_no_block_explains_end_the_search() -> None:
    """Blocks of rows lose their NaN, single rows do not."""
    function, shape, *_ = BY_PROBES["sparse right factor"]
    x = leaf(*shape)
    f = function(x)
    structure = find(f, x)
    assert structure is not None and "probes" in structure.reason
    with LosesNan():
        assert find(f, x) is None


def test_only_what_cannot_be_batched_goes_row_by_row() -> None:
    x = leaf(60)
    band = torch.ones(60, 60, dtype=torch.float64).tril(1).triu(-1).to_sparse()
    f = torch.sparse.mm(band, x.sin()[:, None]).squeeze(1)
    structure = find(f, x)
    assert structure is not None and 3 <= structure.num_colors < 60
    (jacobian,) = jacobian_with(structure, f, x, create_graph=True)
    check_equal(jacobian.detach(), dense(f, x))
    assert count_recorded(jacobian, "CosBackward0") == 1


def test_tensors_without_axes() -> None:
    x = leaf(40)
    f = torch.stack([x[0].transpose(0, 0).sin(), *(y.softmax(0) * y for y in x[1:].unbind())])
    check_structure(f, x, dense(f, x))


def test_pattern_is_exact_for_a_stencil() -> None:
    x = leaf(90)
    structure = find(tridiagonal(x), x)
    assert structure is not None
    assert np.array_equal(pattern(structure), dense(tridiagonal(x), x).numpy() != 0)


def test_local_and_global_patterns() -> None:
    x = leaf(90)
    mask = torch.arange(90) % 2 == 0
    assert find(tridiagonal(x), x).is_global
    assert find(tridiagonal(x.relu()), x).is_global
    assert not find(x[torch.arange(90).roll(1)] * 2, x).is_global
    assert find(torch.where(mask, x.roll(1), x), x).is_global
    assert not find(torch.where(mask, x[PERMUTATION], x), x).is_global
    assert find(torch.where(mask, x.view(9, 10).T.reshape(90), x), x).is_global
    assert find(x.roll(1) ** 2, x).is_global


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x > 0, x.roll(1), x.roll(3)),
        lambda x: x.relu().roll(1) + x.roll(3),
        lambda x: torch.maximum(x.roll(1), x.roll(3)),
        lambda x: x.roll(1).view(-1, 2).amax(1),
    ],
)
def test_what_selects_by_value_is_kept_for_no_other_values(function: Any) -> None:
    x = leaf(60)
    y = (-x).detach().requires_grad_()
    assert_close(jacobian_with(find(function(x), x), function(y), y)[0], dense(function(y), y))


def test_kept_structures() -> None:
    """A global pattern is used again; a local one is probed again; another tape is refused."""
    x, y = leaf(90), leaf(90, seed=1)
    structure = find(tridiagonal(x), x)
    check_equal(jacobian_with(structure, tridiagonal(y), y)[0], dense(tridiagonal(y), y))

    def masked(x: Tensor) -> Tensor:
        return tridiagonal(x[PERMUTATION].relu())

    structure = find(masked(x), x)
    assert not structure.is_global
    check_equal(jacobian_with(structure, masked(y), y)[0], dense(masked(y), y))
    for other in (tridiagonal(y.sin()), masked(y).roll(1), tridiagonal(y)):
        with pytest.raises(ValueError, match="a graph like the one that was planned"):
            jacobian_with(structure, other, y)


def written_beside_the_diagonal(x: Tensor, offset: int) -> Tensor:
    """Into a view that lies along two axes at once."""
    out = (x[:81] * 2).view(9, 9)
    out.diagonal(offset).copy_(x[:8].sin())
    return out.roll(1, 0)


def shifted(x: Tensor, start: int) -> Tensor:
    return x[start : start + 60].roll(1) ** 2


def solutions(x: Tensor, *batch: int) -> Tensor:
    """Of right-hand sides that are vectors where there are batches, all of them one matrix where not."""
    return torch.linalg.solve(constant(*batch, 9, 9) + 9 * torch.eye(9), x[:81].view(9, 9))


def least_squares(x: Tensor, *batch: int) -> Tensor:
    return torch.linalg.lstsq(constant(*batch, 9, 9), x[:81].view(9, 9))[0]


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda x: shifted(x, 0), lambda x: shifted(x, 5)),
        (lambda x: x.roll(1), lambda x: x.roll(2)),
        (lambda x: x.view(9, 10).roll(1, 0), lambda x: x.view(9, 10).roll(1, 1)),
        (lambda x: x.view(9, 10).select(1, 0).roll(1), lambda x: x.view(9, 10).select(1, 3).roll(1)),
        (lambda x: nn.functional.pad(x.roll(1), (1, 2)), lambda x: nn.functional.pad(x.roll(1), (2, 1))),
        (lambda x: x.view(9, 10).tril(0).roll(1), lambda x: x.view(9, 10).tril(3).roll(1)),
        (lambda x: x.roll(1) ** 2, lambda x: x.roll(1) ** 0),
        (lambda x: x.view(9, 10).roll(1, 0).flip(0), lambda x: x.view(9, 10).roll(1, 0).flip(1)),
        (
            lambda x: torch.conv1d(x.view(1, 1, 90), constant(1, 1, 3), padding=2, dilation=2),
            lambda x: torch.conv1d(x.view(1, 1, 90), constant(1, 1, 3), padding=1),
        ),
        (lambda x: x.view(3, 30).diagonal(1).roll(1), lambda x: x.view(3, 30).diagonal(2).roll(1)),
        (lambda x: written_beside_the_diagonal(x, 1), lambda x: written_beside_the_diagonal(x, -1)),
        (lambda x: x.sin().roll(1) * x, lambda x: x.cos().roll(1) * x),
        (lambda x: (x.sin() * x.cos()).roll(1) * x, lambda x: x.sin().roll(1) * x.cos()),
        (lambda x: torch.stack([x, constant(90)]), lambda x: torch.stack([constant(90), x])),
        (lambda x: x[:81].view(9, 9) @ constant(9, 9), lambda x: constant(9, 9) @ x[:81].view(9, 9)),
        (lambda x: solutions(x), lambda x: solutions(x, 9)),
        (lambda x: least_squares(x), lambda x: least_squares(x, 9)),
    ],
)
def test_signatures_tell_tapes_apart(one: Any, other: Any) -> None:
    """Tapes of the same shapes whose patterns differ have different signatures; the same tape has the same."""
    x = leaf(90)
    signatures = [_C.analyze_axes(f(x), [x])[3] for f in (one, other, one)]
    assert signatures[0] != signatures[1]
    assert signatures[0] == signatures[2]
    y = leaf(90, seed=3)
    assert _C.analyze_axes(one(y), [y])[3] == signatures[0]


def test_structures_are_pickled() -> None:
    x = leaf(90)
    structure = find(tridiagonal(x), x)
    copy = pickle.loads(pickle.dumps(structure))
    for name in ("shape", "num_colors", "is_global", "signature", "reason", "by_columns"):
        assert getattr(copy, name) == getattr(structure, name)
    assert np.array_equal(copy.colors, structure.colors) and np.array_equal(pattern(copy), pattern(structure))
    check_equal(jacobian_with(copy, tridiagonal(x), x)[0], dense(tridiagonal(x), x))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad.nan_to_num()


def hooked(x: Tensor) -> Tensor:
    hidden = x.sin()
    hidden.register_hook(lambda grad: grad.nan_to_num())
    return hidden * 2


def leaf_hooked(x: Tensor) -> Tensor:
    x.register_hook(lambda grad: grad.nan_to_num())
    return x.roll(1) * 2


def changed_in_place(x: Tensor) -> Tensor:
    out = x.clone()
    out[1:].view(-1, 1).renorm_(2, 0, 1.0)
    return out


@pytest.mark.parametrize(
    "function",
    [
        Doubled.apply,
        hooked,
        leaf_hooked,
        lambda x: x.logcumsumexp(0),
        changed_in_place,
        lambda x: torch.cdist(x[:, None], x[:, None] + 1),
    ],
    ids=["custom Function", "hook", "hook of the leaf", "unknown Node", "unknown Node in place", "distrusted Node"],
)
def test_dense_at_the_first_doubt(function: Any) -> None:
    x = leaf(64)
    assert find(function(x), x) is None


def test_dense_in_anomaly_mode_and_transforms() -> None:
    x = leaf(64)
    with torch.autograd.detect_anomaly(check_nan=False):
        assert find(x.sin(), x) is None

    def row_sum(x: Tensor) -> Tensor:
        x = x * 1
        return full_jacobian(x.sin(), x).sum()

    assert_close(torch.func.grad(row_sum)(x.detach()), -x.detach().sin())


def large(n: int = 600) -> Tensor:
    return leaf(n)


@pytest.mark.parametrize("create_graph", [False, True])
def test_full_jacobian_uses_structure(create_graph: bool) -> None:
    for function in (lambda x: x.sin() * x.exp(), tridiagonal, lambda x: network(4, 16, 3)(x.view(-1, 4))):
        x = large(1000)
        passes: list[tuple[int, int]] = []
        jacobian = full_jacobian(
            function(x), x, create_graph=create_graph, progress=lambda done, total, p=passes: p.append((done, total))
        )
        assert passes[-1][0] == passes[-1][1] <= 12
        check_equal(jacobian.detach(), dense(function(x), x))
        assert jacobian.requires_grad == create_graph and not jacobian._is_view()
        if create_graph:
            expected = full_jacobian(function(x), x, structure="dense")
            assert_close(weighted_gradient(jacobian, x), weighted_gradient(expected, x))


def random_rows(x: Tensor) -> Tensor:
    where = torch.randint(0, len(x), (4, len(x)), generator=torch.Generator().manual_seed(2))
    return (x[where] ** 2).sum(0)


def reaction_and_diffusion(x: Tensor) -> Tensor:
    u, v = x.view(2, 24, 25)
    spread = u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1) - 4 * u
    return torch.stack([u * u * v - 4 * u + spread, 3 * u - u * u * v])


LARGE_ORDER = torch.randperm(1200, generator=torch.Generator().manual_seed(1))

# Name -> function of 1200 elements, and whether a single call is to find structure.
SINGLE_CALLS: dict[str, tuple[Any, bool]] = {
    "tridiagonal": (tridiagonal, True),
    "permuted tridiagonal": (lambda x: tridiagonal(x[LARGE_ORDER])[LARGE_ORDER.flip(0)], True),
    "reversed": (lambda x: x.flip(0) * x.roll(1), True),
    "random rows": (random_rows, True),
    "rows that differ": (lambda x: torch.cat([x[:40] * x[:40].sum(), x[40:] ** 2 * x[39:-1]]), True),
    "reaction and diffusion": (reaction_and_diffusion, True),
    "rolled grid": (lambda x: x.view(30, 40) * x.view(30, 40).roll((1, 1), (0, 1)), True),
    "a quarter full": (lambda x: torch.cat([x[:300] * x.sum(), x[300:] ** 2]), False),
    "lower triangular": (lambda x: x.cumsum(0) ** 2, False),
    "permuted blocks": (lambda x: (x[LARGE_ORDER].view(8, 150) ** 2 @ constant(150, 150)).view(-1)[LARGE_ORDER], False),
}


@pytest.mark.parametrize("name", SINGLE_CALLS)
def test_single_calls(name: str) -> None:
    """Where the price of probes counts: blocks of rows may do, and few probes must show what is dense."""
    function, finds = SINGLE_CALLS[name]
    x = leaf(1200)
    f = function(x)
    passes: list[tuple[int, int]] = []
    jacobian = full_jacobian(f, x, create_graph=False, progress=lambda done, total: passes.append((done, total)))
    check_equal(jacobian, dense(f, x))
    assert passes[-1][0] == passes[-1][1]
    assert not finds or passes[-1][0] <= f.numel() // 4


def test_options_keep_their_meaning() -> None:
    x = large()
    f = x.sin() * x.exp()
    expected = dense(f, x)
    for options in ({"chunk_size": 1}, {"chunk_size": 7}, {"mode": "reverse"}, {"strict": True}):
        check_equal(full_jacobian(f, x, create_graph=False, **options), expected)
    out = torch.full((600, 600), torch.nan, dtype=torch.float64)
    assert full_jacobian(f, x, create_graph=False, out=out) is out
    check_equal(out, expected)
    full_jacobian(f, x, create_graph=False, retain_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        full_jacobian(f, x)


def test_several_outputs_and_inputs() -> None:
    x, y, unused = large(), leaf(600, seed=1), large()
    outputs = (x.sin() * y, tridiagonal(x * y), x[:3].sum() + y.sum(), x[:5] * 1)
    for row, f in zip(full_jacobian(outputs, (x, y, unused), create_graph=False), outputs, strict=True):
        for block, wrt in zip(row, (x, y, unused), strict=True):
            check_equal(block, full_jacobian_loop(f, wrt))


def test_float32_and_complex_inputs() -> None:
    x = torch.randn(800).requires_grad_()
    f = x.sin() * x.exp()
    assert_close(full_jacobian(f, x, create_graph=False), dense(f, x), rtol=0, atol=0)
    z = torch.randn(800, dtype=torch.complex128).requires_grad_()
    f = (z * z).real * z.imag
    assert_close(full_jacobian(f, z, create_graph=False), full_jacobian(f, z, create_graph=False, structure="dense"))


def test_higher_orders() -> None:
    x = leaf(30)
    f = (x.sin() * x).sum()
    assert_close(nth_derivative(f, x, 3), nth_derivative(f, x, 3, structure="dense"))
    g = tridiagonal(leaf(200))
    assert g.shape == (200,)


def test_a_vanished_graph_raises_its_own_error() -> None:
    x = large()
    f = tridiagonal(x)
    f.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        full_jacobian(f, x)


def test_no_warning_and_nothing_touched() -> None:
    x = large()
    f = tridiagonal(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full_jacobian(f, x, create_graph=False)
    assert x.grad is None and x._version == 0


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"structure": "sparse"}, ValueError, 'structure to be "auto" or "dense"'),
        ({"structure": None}, TypeError, "structure to be a str"),
        ({"layout": "csr"}, TypeError, "layout to be a torch.layout"),
        ({"layout": torch.sparse_csc}, ValueError, "layout to be torch.strided"),
        ({"batch_dims": 1.0}, TypeError, "batch_dims to be an int"),
        ({"batch_dims": -1}, ValueError, "batch_dims of at least 0"),
        ({"batch_dims": 2}, ValueError, "at least batch_dims=2"),
        ({"batch_dims": 1, "layout": torch.sparse_csr}, ValueError, "layout=torch.strided with batch_dims"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    x = leaf(5)
    with pytest.raises(error, match=message):
        full_jacobian(x.sin(), x, **options)
