"""Sets of columns that flow along the tape: every rule against the nonzeros of the dense Jacobian.

No nonzero may be missed, whatever the shapes and indices, alone and in chains. Where an operator only moves elements,
there may be no others.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from moves import MIXES, MOVES, SHAPES, Step, draw, leaf
from random_ops import CASES as OPERATORS
from random_ops import random_case
from structured import dependencies, find, jacobian_with, nonzeros, random_graph
from test_op_db import DIFFERENTIABLE, problems
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian

pytestmark = pytest.mark.filterwarnings("ignore")

MAX_ELEMENTS = 40_000


def one_step(step: Step, seed: int) -> tuple[Tensor, Tensor] | None:
    rng = random.Random(seed)
    x = leaf(*rng.choice(SHAPES), seed=seed)
    try:
        f = step(rng, x)
    except (RuntimeError, ValueError, IndexError):
        return None  # arguments that the operator does not take
    return (f, x) if f.requires_grad and 0 < f.numel() <= 400 else None


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str) -> None:
    """All nonzeros, and no others; by a batch of one matrix, too."""
    exact = 0
    for seed in range(80):
        case = one_step(MOVES[name], seed)
        if case is None:
            continue
        f, x = case
        found, expected = dependencies(f, x), nonzeros(f, x)
        assert found is not None
        assert not (expected & ~found).any(), f"seed {seed}: a nonzero was missed"
        if name == "as_strided" and f.numel() and not np.array_equal(found, expected):
            continue  # memory that several elements share
        assert np.array_equal(found, expected), f"seed {seed}: too many"
        exact += 1
    assert exact >= 20, f"only {exact} were tried"


# Whose gradient cannot be differentiated again.
ONCE = {"bags", "segments", "pairs"}


@pytest.mark.parametrize("name", [name for name in MOVES if name not in ONCE])
def test_recorded_moves(name: str) -> None:
    """What a backward records of each: the Jacobian of a gradient, by the inputs and by the cotangent."""
    tried = 0
    for seed in range(30):
        case = one_step(MOVES[name], seed)
        if case is None:
            continue
        f, x = case
        cotangent = leaf(*f.shape, seed=seed + 1)
        (gradient,) = torch.autograd.grad((f.sin() * cotangent).sum(), x, create_graph=True)
        found = dependencies(gradient, x, cotangent)
        if found is not None:
            assert not (nonzeros(gradient, x, cotangent) & ~found).any(), f"seed {seed}: a nonzero was missed"
            tried += 1
    assert tried >= 8, f"only {tried} were tried"


def check_many_columns(f: Tensor, wrt: list[Tensor], found: np.ndarray[Any, Any]) -> None:
    """The same sets as lists of columns, of which there are too many for bits."""
    many = leaf(2100)
    both = dependencies(f * many[: f.numel()].view(f.shape), *wrt, many)
    assert both is not None
    assert np.array_equal(both[:, : found.shape[1]], found)
    assert np.array_equal(both[:, found.shape[1] :], np.eye(f.numel(), many.numel(), dtype=bool))


@pytest.mark.parametrize("first", range(0, 1600, 100))
def test_chains(first: int) -> None:
    steps = {**MOVES, **MIXES}
    sparse = 0
    for seed in range(first, first + 100):
        rng = random.Random(seed)
        x = leaf(*rng.choice(SHAPES), seed=seed)
        pool, names = [x * 1.0], []
        for _ in range(rng.randint(2, 8)):
            name = rng.choice([*steps])
            try:
                g = steps[name](rng, pool[-1])
            except (RuntimeError, ValueError, IndexError):
                continue
            if g.requires_grad and 0 < g.numel() <= 200 and g.dim() > 0:
                same = [y for y in pool if y.shape == g.shape]
                pool.append(g * rng.choice(same) if same and rng.random() < 0.4 else g)
                names.append(name)
        f, wrt = pool[-1], [x, rng.choice(pool[:-1])] if len(pool) > 1 and rng.random() < 0.3 else [x]
        found = dependencies(f, *wrt)
        if found is None:
            continue  # a tensor on the way is empty
        assert not (nonzeros(f, *wrt) & ~found).any(), f"seed {seed}: {names}: a nonzero was missed"
        sparse += not found.all()
        if seed % 4 == 0:
            check_many_columns(f, wrt, found)
        if f.numel() > 1:
            structure = find(f, *wrt)
            if structure is not None:
                expected = full_jacobian(f, wrt, create_graph=False, structure="dense")
                assert_close(jacobian_with(structure, f, *wrt), list(expected), msg=f"seed {seed}: {names}")
    assert sparse >= 30, f"only {sparse} were sparse"


def test_elements_that_share_memory() -> None:
    """Each place of memory depends on all elements of the unfolded axis that lie there."""
    x = leaf(6)
    y = x.sin().unfold(0, 3, 1)
    f = y.as_strided((6,), (1,), 0)
    found = dependencies(f, y)
    assert found is not None and not (nonzeros(f, y) & ~found).any()


def test_blocks_without_elements() -> None:
    """torch's backward has the rows of the next block where such a vector has one."""
    shapes = [(), (0,), (2,), (0, 2), (2, 0), (3, 2)]
    for sizes in itertools.product(shapes, shapes, shapes):
        blocks = [leaf(*size) for size in sizes]
        f = torch.block_diag(*blocks)
        wrt = [block for block in blocks if block.numel()]
        if f.numel() and wrt:
            found = dependencies(f, *wrt)
            assert found is not None and not (nonzeros(f, *wrt) & ~found).any(), sizes


def test_nothing_is_known_of_hooks() -> None:
    x = leaf(5)
    y = x.sin()
    y.register_hook(lambda cotangent: cotangent.flip(0))
    f = y * 2
    found = dependencies(f, x)
    assert found is not None and not (nonzeros(f, x) & ~found).any()


def check_superset(f: Tensor, *wrt: Tensor) -> bool:
    if f.grad_fn is None or f.numel() == 0 or f.is_complex() or f.numel() * sum(x.numel() for x in wrt) > MAX_ELEMENTS:
        return False
    axes = _C.analyze_axes(f, list(wrt))
    found = dependencies(f, *wrt)
    if axes is None or not axes[1] or found is None:
        return False
    jacobians = full_jacobian(f, wrt, create_graph=False, structure="dense")
    if any(j.layout != torch.strided for j in jacobians):
        return False
    blocks = [(j.nan_to_num(0) != 0).reshape(f.numel(), -1).cpu().numpy() for j in jacobians]
    assert not (np.concatenate(blocks, axis=1) & ~found).any(), "a nonzero was missed"
    return True


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    for seed in range(8):
        try:
            f, x = random_case(name, seed)
        except (RuntimeError, ValueError):
            continue
        check_superset(f, x)


def test_random_graphs() -> None:
    for seed in range(0, 2400, 8):
        f, x, names = random_graph(seed)
        try:
            check_superset(f, x)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {names}") from error


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.formatted_name)
def test_database(op: Any) -> None:
    """Every operator of torch's own database, and what its backward records."""
    for function, inputs in problems(op):
        for f in function(*inputs):
            if not all(x.is_floating_point() for x in inputs):
                continue
            check_superset(f, *inputs)
            if f.grad_fn is None or f.is_complex() or f.numel() == 0 or f.layout != torch.strided:
                continue
            cotangent = torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype).view(f.shape).requires_grad_()
            try:
                products = torch.autograd.grad(f, inputs, cotangent, create_graph=True, allow_unused=True)
            except RuntimeError:
                continue
            for product in products:
                if product is not None and product.layout == torch.strided and product.dtype == f.dtype:
                    check_superset(product, cotangent, *inputs)


def test_work_is_limited() -> None:
    x = leaf(50)
    f = (x[:, None] * x[draw(random.Random(0), 0, 50, 50)]).sum(0)
    for wrt in ([x], [x, leaf(2100)]):
        g = f * wrt[-1][:50]
        assert dependencies(g, *wrt, work=10_000) is None
        assert dependencies(g, *wrt) is not None


def test_masks_of_modes_and_transforms() -> None:
    """Neither torch's modes nor its transforms see the sets."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = leaf(40)
    f = x[torch.arange(40).roll(1)] * x
    with Record():
        assert dependencies(f, x) is not None
    assert not seen
    assert torch.func.vmap(lambda y: y * dependencies(f, x).sum().item())(torch.ones(3)).sum() == 3 * 80
