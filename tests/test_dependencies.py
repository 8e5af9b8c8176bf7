"""Sets of columns that flow along the tape: every rule against the nonzeros of the dense Jacobian.

No nonzero may be missed, whatever the shapes and indices, alone and in chains. Where an operator only moves elements,
there may be no others.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_ops import CASES as OPERATORS
from random_ops import random_case
from structured import constant, find, jacobian_with, random_graph
from test_op_db import DIFFERENTIABLE, problems
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian, plan

pytestmark = pytest.mark.filterwarnings("ignore")

Step = Callable[[random.Random, Tensor], Tensor]
WORK = 10**9
MAX_ELEMENTS = 40_000


def dependencies(f: Tensor, *wrt: Tensor, work: int = WORK) -> np.ndarray | None:
    """Which elements of f depend on which of all `wrt`, as a matrix."""
    found = _C.find_dependencies(f, list(wrt), work)
    if found is None:
        return None
    row_ptr, columns = found
    mask = np.zeros((f.numel(), sum(x.numel() for x in wrt)), dtype=bool)
    mask[np.repeat(np.arange(f.numel()), np.diff(row_ptr)), columns] = True
    forecast, are_alike = _C.forecast_columns(f, list(wrt))
    assert 0 <= forecast <= mask.shape[1]
    assert not are_alike or (mask == mask[0]).all(), "rows are forecast to be alike"
    return mask


def nonzeros(f: Tensor, *wrt: Tensor) -> np.ndarray:
    jacobians = full_jacobian(f, wrt, create_graph=False, structure="dense")
    blocks = [(j.nan_to_num(1) != 0).reshape(f.numel(), -1).numpy() for j in jacobians]
    return np.concatenate(blocks, axis=1)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    """Without zeros."""
    return (constant(*shape, seed=seed).sigmoid() + 0.1).requires_grad_()


def axis(rng: random.Random, x: Tensor) -> int:
    return rng.randrange(-x.dim(), x.dim())


def draw(rng: random.Random, low: int, high: int, *shape: int) -> Tensor:
    count = int(np.prod(shape, initial=1))
    return torch.tensor([rng.randrange(low, high) for _ in range(count)], dtype=torch.long).view(shape)


def mask(rng: random.Random, *shape: int) -> Tensor:
    return draw(rng, 0, 2, *shape).bool()


def index_tuple(rng: random.Random, x: Tensor) -> tuple[Any, ...]:
    """Of tensors that broadcast, negative or not, masks and whole axes; axes that are indexed may be apart."""
    shape = [rng.randint(1, 3) for _ in range(rng.randint(1, 2))]
    parts: list[Any] = []
    d = 0
    while d < x.dim():
        kind = rng.random()
        if kind < 0.5:
            own = [size if rng.random() < 0.6 else 1 for size in shape][rng.randint(0, len(shape) - 1) :]
            parts.append(draw(rng, -x.shape[d], x.shape[d], *own).to(rng.choice((torch.int64, torch.int32))))
        elif kind < 0.6 and not any(isinstance(part, Tensor) for part in parts):
            span = rng.randint(1, x.dim() - d)
            parts.append(mask(rng, *x.shape[d : d + span]))
            d += span - 1
            shape = [1]
        else:
            parts.append(slice(None))
        d += 1
    return tuple(parts) if any(isinstance(part, Tensor) for part in parts) else (draw(rng, 0, x.shape[0], 2),)


def gathered(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    shape = [rng.randint(1, size) for size in x.shape]
    shape[d] = rng.randint(1, 5)
    return x.gather(d, draw(rng, 0, x.shape[d], *shape))


def distinct(rng: random.Random, size: int) -> Tensor:
    return torch.tensor(rng.sample(range(size), rng.randint(1, size)))


def scatter_arguments(rng: random.Random, x: Tensor) -> tuple[int, Tensor, Tensor]:
    """An axis, indices of at most x's sizes but for that axis, and as many elements to scatter."""
    d = axis(rng, x)
    shape = [rng.randint(1, size) for size in x.shape]
    shape[d] = rng.randint(1, 5)
    source = x.sin().reshape(-1)[draw(rng, 0, x.numel(), *shape)]
    return d, draw(rng, 0, x.shape[d], *shape), source


def scattered(rng: random.Random, x: Tensor) -> Tensor:
    d, index, source = scatter_arguments(rng, x)
    base = torch.zeros_like(x) if rng.random() < 0.4 else x * 2
    return base.scatter(d, index, 3.0 if rng.random() < 0.2 else source)


def scattered_sum(rng: random.Random, x: Tensor) -> Tensor:
    d, index, source = scatter_arguments(rng, x)
    base = torch.zeros_like(x) if rng.random() < 0.4 else x * 2
    return base.scatter_add(d, index, source)


def along_axis(write: str) -> Step:
    def step(rng: random.Random, x: Tensor) -> Tensor:
        d = axis(rng, x)
        index = distinct(rng, x.shape[d]) if write == "index_copy" else draw(rng, 0, x.shape[d], rng.randint(1, 4))
        base = torch.zeros_like(x) if rng.random() < 0.4 else x * 2
        source = x.sin().index_select(d, draw(rng, 0, x.shape[d], len(index)))
        return getattr(base, write)(d, index, source)

    return step


def put_by_indices(rng: random.Random, x: Tensor) -> Tensor:
    index = index_tuple(rng, x)
    base = torch.zeros_like(x) if rng.random() < 0.4 else x * 2
    shape = base[index].shape
    values = x.sin().reshape(-1)[draw(rng, 0, x.numel(), *shape)]
    if values.dim() and values.numel() and rng.random() < 0.3:
        values = values.narrow(0, 0, 1) if rng.random() < 0.5 else values[(0,) * values.dim()]
    whole = [None if isinstance(part, slice) else part for part in index]
    return torch.ops.aten.index_put(base, whole, values, rng.random() < 0.5)


def put_elements(rng: random.Random, x: Tensor) -> Tensor:
    accumulates = rng.random() < 0.5
    index = draw(rng, -x.numel(), x.numel(), 4) if accumulates else distinct(rng, x.numel())
    return (x * 2).put(index, x.sin().take(draw(rng, 0, x.numel(), len(index))), accumulate=accumulates)


def assigned(rng: random.Random, x: Tensor) -> Tensor:
    """In place, to views of views, by operators of every kind."""
    out = torch.ones_like(x) if rng.random() < 0.3 else x.cos()
    view = out
    for _ in range(rng.randint(1, 2)):
        if view.dim() == 0:
            break
        d = axis(rng, view)
        change: Callable[[Tensor], Tensor] = rng.choice(
            [
                lambda v, d=d: v.select(d, rng.randrange(v.shape[d])),
                lambda v, d=d: v.narrow(d, rng.randrange(v.shape[d]), 1),
                lambda v, d=d: v[tuple([slice(None)] * (d % v.dim()) + [slice(rng.randrange(2), None, 2)])],
                lambda v, d=d: v.transpose(d, 0),
                lambda v: v.diagonal() if v.dim() > 1 else v,
                lambda v: v.view(-1) if v.is_contiguous() else v,
            ]
        )
        if change(view).numel():
            view = change(view)
    source = x.sin().reshape(-1)[draw(rng, 0, x.numel(), *view.shape)]
    kind = rng.randrange(5)
    if kind == 0:
        view.copy_(source)
    elif kind == 1:
        view.mul_(source.reshape(-1)[0])
    elif kind == 2 and view.dim():
        view[draw(rng, 0, view.shape[0], 2)] = source[0]
    elif kind == 3 and view.dim():
        view.index_add_(0, draw(rng, 0, view.shape[0], view.shape[0]), source)
    else:
        view.add_(source)
    return out


def strided(rng: random.Random, x: Tensor) -> Tensor:
    base = x * 1.0 if rng.random() < 0.5 else (x * 1.0).transpose(0, -1)
    if rng.random() < 0.3:
        base = base.expand(2, *base.shape)
    size, stride = [rng.randint(1, 3) for _ in range(2)], [rng.randint(0, 2) for _ in range(2)]
    start = rng.randrange(3)
    return base.as_strided(size, stride, start) if x.numel() > start + 8 else base


def padded(mode: str) -> Step:
    def step(rng: random.Random, x: Tensor) -> Tensor:
        rank = rng.randint(1, min(3, x.dim()))
        inner = x.reshape(1, -1, *x.shape[x.dim() - rank :])
        return F.pad(
            inner, [rng.randint(-1, min(2, size - 1)) for size in reversed(x.shape[-rank:]) for _ in "ab"], mode
        )

    return step


def patches(rng: random.Random, x: Tensor) -> Tensor:
    x = x.reshape(1, 1, -1, x.shape[-1])
    kernel, padding = rng.randint(1, min(2, x.shape[2], x.shape[3])), rng.randint(0, 1)
    return F.unfold(x, kernel, padding=padding, stride=rng.randint(1, 2), dilation=1)


def folded(rng: random.Random, x: Tensor) -> Tensor:
    return F.fold(x.reshape(-1)[draw(rng, 0, x.numel(), 1, 4, 6)], (3, 4), 2)


def channels(rng: random.Random, x: Tensor) -> Tensor:
    x = x.reshape(-1)[draw(rng, 0, x.numel(), 2, 4, 2, 2)]
    return rng.choice(
        [lambda: F.channel_shuffle(x, 2), lambda: F.pixel_shuffle(x, 2), lambda: F.pixel_unshuffle(x, 2)]
    )()


def diagonals(rng: random.Random, x: Tensor) -> Tensor:
    offset = rng.randint(-1, 1)
    if rng.random() < 0.4:
        return x.diag_embed(offset, *rng.choice(((-2, -1), (0, 1), (-1, 0))))
    x = x.unsqueeze(0).expand(2, *x.shape) if x.dim() < 2 else x
    if rng.random() < 0.5 or x.diagonal(offset).numel() == 0:
        return x.diagonal(offset, *rng.sample(range(x.dim()), 2))
    return x.diagonal_scatter(x.diagonal(offset).sin() * 2, offset)


def written_part(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    base = torch.zeros_like(x) if rng.random() < 0.4 else x * 2
    if rng.random() < 0.5:
        return base.select_scatter(x.select(d, 0).sin(), d, rng.randrange(-x.shape[d], x.shape[d]))
    start = rng.randrange(x.shape[d])
    part = x.transpose(0, d)[start::2].transpose(0, d)
    return base.slice_scatter(part.sin(), d, start, None, 2)


def reduced_scatter(rng: random.Random, x: Tensor) -> Tensor:
    d, index, source = scatter_arguments(rng, x)
    base = torch.zeros_like(x) if rng.random() < 0.4 else x * 2
    return base.scatter_reduce(d, index, source, "mean")


def reduced_index(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    index = draw(rng, 0, x.shape[d], rng.randint(1, 4))
    source = x.sin().index_select(d, draw(rng, 0, x.shape[d], len(index)))
    return (x * 2).index_reduce(d, index, source, "mean")


def filled(rng: random.Random, x: Tensor) -> Tensor:
    """In place, with numbers and with tensors of one element."""
    out = x.cos()
    view = out.narrow(d := axis(rng, x), rng.randrange(x.shape[d]), 1)
    if rng.random() < 0.5:
        view = view.transpose(0, -1)[:1]
    value = x.reshape(-1)[rng.randrange(x.numel())]
    rng.choice([view.zero_, lambda: view.fill_(3.0), lambda: view.fill_(value)])()
    return out + out.flip(0) if rng.random() < 0.3 else out


def sparse_matrix(rng: random.Random, rows: int, columns: int) -> Tensor:
    """Of entries without zeros, some in one place, by coordinates or compressed rows, some of them empty."""
    count = rng.randint(1, 2 * columns)
    places = torch.stack([draw(rng, 0, rows, count), draw(rng, 0, columns, count)])
    matrix = torch.sparse_coo_tensor(places, leaf(count, seed=rng.randrange(9)).detach(), (rows, columns))
    return rng.choice([lambda: matrix, matrix.coalesce, matrix.to_sparse_csr])()


def sparse_product(rng: random.Random, x: Tensor) -> Tensor:
    x = x.reshape(x.shape[0], -1)
    matrix = sparse_matrix(rng, rng.randint(1, 5), x.shape[0])
    kind = rng.randrange(3)
    if kind == 0:
        return matrix @ x
    if kind == 1:
        return matrix @ x[:, 0]
    return torch.sparse.addmm(x[0].expand(matrix.shape[0], x.shape[1]), matrix, x.sin())


def bags(rng: random.Random, x: Tensor) -> Tensor:
    x = x.reshape(x.shape[0], -1)
    starts = sorted(rng.sample(range(6), rng.randint(1, 3)))
    return F.embedding_bag(draw(rng, 0, x.shape[0], 6), x, torch.tensor([0, *starts]), mode=rng.choice(("sum", "mean")))


# Steps that move elements, of which there are to be no dependencies too many.
MOVES: dict[str, Step] = {
    "index": lambda rng, x: x[index_tuple(rng, x)],
    "index_select": lambda rng, x: x.index_select(d := axis(rng, x), draw(rng, 0, x.shape[d], rng.randint(1, 5))),
    "gather": gathered,
    "take": lambda rng, x: x.take(draw(rng, -x.numel(), x.numel(), rng.randint(1, 3), 2)),
    "embedding": lambda rng, x: F.embedding(draw(rng, 0, x.shape[0], 2, 3), x.reshape(x.shape[0], -1)),
    "repeat": lambda rng, x: x.repeat(rng.randint(1, 2), *[rng.randint(1, 3) for _ in x.shape]),
    "repeat_interleave": lambda rng, x: x.repeat_interleave(
        rng.choice((2, draw(rng, 0, 3, x.shape[d := axis(rng, x)]) + 1)), d
    ),
    "as_strided": strided,
    "diagonals": diagonals,
    "triangles": lambda rng, x: (x.tril if rng.random() < 0.5 else x.triu)(rng.randint(-1, 1)),
    "unfold": lambda rng, x: x.unfold(d := axis(rng, x), rng.randint(1, x.shape[d]), rng.randint(1, 2)),
    "patches": patches,
    "fold": folded,
    "reflect": padded("reflect"),
    "replicate": padded("replicate"),
    "circular": padded("circular"),
    "channels": channels,
    "rot90": lambda rng, x: x.rot90(rng.randint(-1, 3), rng.sample(range(x.dim()), 2)),
    "scatter": scattered,
    "scatter_add": scattered_sum,
    "scatter_reduce": reduced_scatter,
    "index_reduce": reduced_index,
    "fill": filled,
    "fill by indices": lambda rng, x: (x * 2).index_fill(
        d := axis(rng, x), distinct(rng, x.shape[d]), x.reshape(-1)[rng.randrange(x.numel())]
    ),
    "sparse product": sparse_product,
    "bags": bags,
    "blocks": lambda rng, x: torch.block_diag(
        *[x.reshape(x.shape[0], -1), x.sin().reshape(-1)][:: rng.choice((1, -1))]
    ),
    "diag": lambda rng, x: torch.diag(x.reshape(x.shape[0], -1), rng.randint(-1, 1)),
    "index_add": along_axis("index_add"),
    "index_copy": along_axis("index_copy"),
    "index_fill": lambda rng, x: (x * 2).index_fill(d := axis(rng, x), distinct(rng, x.shape[d]), 3.0),
    "index_put": put_by_indices,
    "put": put_elements,
    "masked_scatter": lambda rng, x: (x * 2).masked_scatter(mask(rng, *x.shape), x.sin().flip(0)),
    "in place": assigned,
    "part": written_part,
    "select": lambda rng, x: x.select(d := axis(rng, x), rng.randrange(-x.shape[d], x.shape[d])),
    "slice": lambda rng, x: x[..., rng.randrange(x.shape[-1]) :: rng.randint(1, 2)],
    "stack": lambda rng, x: torch.stack([x, x.sin().flip(0)], rng.randrange(-x.dim() - 1, x.dim() + 1)),
    "unbind": lambda rng, x: rng.choice(x.unbind(axis(rng, x))),
    "cat": lambda rng, x: torch.cat([x.flip(0), x.sin()], axis(rng, x)),
    "roll": lambda rng, x: x + x.roll(rng.randint(-2, 2), axis(rng, x)),
    "permute": lambda rng, x: x.permute(rng.sample(range(x.dim()), x.dim())),
    "reshape": lambda rng, x: x.reshape(-1, x.shape[0]),
    "broadcast": lambda rng, x: x * x.select(0, 0).sin(),
    "sum": lambda rng, x: x.sum(axis(rng, x), keepdim=rng.random() < 0.5),
    "product of an axis": lambda rng, x: x.prod(axis(rng, x)),
    "matrix product": lambda rng, x: x.reshape(x.shape[0], -1) @ leaf(x.numel() // x.shape[0], 2).detach(),
}

# Steps that select by value, or may leave out what their rules have.
MIXES: dict[str, Step] = {
    "topk": lambda rng, x: x.topk(rng.randint(1, x.shape[-1])).values,
    "sort": lambda rng, x: x.sort(axis(rng, x)).values,
    "amax": lambda rng, x: x.amax(axis(rng, x), keepdim=True) * x,
    "distances": lambda rng, x: torch.cdist(x.reshape(-1, x.shape[-1]), x.flip(0).reshape(-1, x.shape[-1]) + 1),
    "prod by indices": lambda rng, x: x.reshape(-1).scatter_reduce(
        0, draw(rng, 0, x.numel(), 4), x.reshape(-1)[:4].sin(), rng.choice(("prod", "amax", "amin"))
    ),
    "where": lambda rng, x: torch.where(mask(rng, *x.shape), x.flip(0), x),
    "cumsum": lambda rng, x: x.cumsum(axis(rng, x)),
    "softmax": lambda rng, x: x.softmax(axis(rng, x)),
    "relu": lambda rng, x: (x - 0.5).relu(),
    "masked_fill": lambda rng, x: x.masked_fill(mask(rng, *x.shape), 2.0),
    "convolution": lambda rng, x: F.conv1d(x.reshape(-1, 1, x.shape[-1]), leaf(2, 1, 2).detach(), padding=1),
    "pool": lambda rng, x: F.max_pool1d(x.reshape(1, -1, x.shape[-1]), 2, 1, 1),
}

SHAPES = ((9,), (4, 6), (3, 5, 4), (1, 7), (2, 1, 6))


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
ONCE = {"bags"}


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
    blocks = [(j.nan_to_num(0) != 0).reshape(f.numel(), -1).numpy() for j in jacobians]
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
    assert dependencies(f, x, work=3_000) is None
    assert dependencies(f, x) is not None


def springs(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Forces on points, in three axes, of springs between i and j."""
    difference = x[i] - x[j]
    force = difference * (1 - 1 / (difference.square().sum(1, keepdim=True) + 0.1).sqrt())
    return torch.zeros_like(x).index_add(0, i, -force).index_add(0, j, force)


def chain(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:-1], order[1:]


def test_kept_plans_compare_indices() -> None:
    """A pattern of these indices is kept for equal ones, wherever they are, and found anew for others."""
    x, y = leaf(40, 3), leaf(40, 3, seed=1)
    i, j = chain(40)
    kept = plan(springs(x, i, j), x)
    structure = kept.outputs[0].structure
    assert structure is not None and structure.holds_for_indices and not structure.is_global
    assert "for these indices" in structure.reason and "these indices" in repr(kept)
    for copy in (kept, pickle.loads(pickle.dumps(kept))):
        for one, other in ((i, j), (i.clone(), j.clone()), (j, i), chain(40, seed=1), (i.flip(0), j), (i.int(), j)):
            f = springs(y, one, other)
            expected = full_jacobian(springs(y, one, other), y, create_graph=False, structure="dense")
            assert_close(full_jacobian(f, y, plan=copy, create_graph=False), expected)


def test_indices_changed_in_place() -> None:
    """The plan has copies: the same memory with other indices is noticed."""
    x = leaf(60)
    index = torch.arange(60).roll(7)
    kept = plan(x[index] * x, x)
    assert kept.outputs[0].structure is not None and kept.outputs[0].structure.holds_for_indices
    index.copy_(torch.arange(60).roll(11))
    expected = full_jacobian(x[index] * x, x, create_graph=False, structure="dense")
    assert_close(full_jacobian(x[index] * x, x, plan=kept, create_graph=False), expected)
    row = torch.arange(60).roll(3)
    both = plan(x[row] * x[row].sin() + x, x)
    row.copy_(torch.arange(60).roll(5))
    expected = full_jacobian(x[row] * x[row].sin() + x, x, create_graph=False, structure="dense")
    assert_close(full_jacobian(x[row] * x[row].sin() + x, x, plan=both, create_graph=False), expected)
    one = torch.cat([x[row], x[row]])
    for two in (torch.cat([x[row], x[index]]), torch.cat([x[index], x[row]])):
        expected = full_jacobian(one, x, create_graph=False, structure="dense")
        assert_close(full_jacobian(one, x, plan=plan(two, x), create_graph=False), expected)


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda x, i: x[i], lambda x, i: x[:, i]),
        (lambda x, i: x.index_put((i,), x), lambda x, i: x.index_put((i,), x, accumulate=True)),
        (lambda x, i: x.put(i, x[0]), lambda x, i: x.put(i, x[0], accumulate=True)),
        (lambda x, i: x.gather(0, i.expand(9, 9)), lambda x, i: x.gather(1, i.expand(9, 9))),
        (lambda x, i: x.index_add(0, i, x), lambda x, i: x.index_add(1, i, x)),
        (lambda x, i: x.scatter(0, i.expand(9, 9), x), lambda x, i: x.scatter(1, i.expand(9, 9), x)),
        (lambda x, i: x.diagonal_scatter(x[0]), lambda x, i: x.diagonal_scatter(x[0], 0, 1, 0)),
        (lambda x, i: x.select_scatter(x[0], 0, 1), lambda x, i: x.select_scatter(x[0], 0, 2)),
        (lambda x, i: x.slice_scatter(x[:4], 0, 1, 5), lambda x, i: x.slice_scatter(x[:4], 0, 2, 6)),
        (lambda x, i: x.rot90(1), lambda x, i: x.rot90(3)),
        (lambda x, i: F.unfold(x[None], 3, padding=1), lambda x, i: F.unfold(x[None], 5, padding=2)[:, :81]),
        (lambda x, i: x.as_strided((9, 9), (1, 9)), lambda x, i: x.as_strided((9, 9), (9, 1))),
    ],
)
def test_signatures_tell_picks_apart(one: Any, other: Any) -> None:
    x, i = leaf(9, 9), torch.arange(9)
    signatures = [_C.analyze_axes(f(x * 1, i), [x])[3] for f in (one, other, one)]
    assert signatures[0] == signatures[2] != signatures[1]


def bundle_adjustment(cameras: Tensor, points: Tensor, i: Tensor, j: Tensor) -> Tensor:
    camera, point = cameras[i], points[j]
    rotation = camera[:, :3]
    angle = rotation.norm(dim=1, keepdim=True)
    axes = rotation / angle
    turned = point * angle.cos() + torch.linalg.cross(axes, point) * angle.sin()
    turned = turned + axes * (axes * point).sum(1, keepdim=True) * (1 - angle.cos()) + camera[:, 3:6]
    image = -turned[:, :2] / turned[:, 2:]
    return image * camera[:, 6:7]


def test_bundle_adjustment() -> None:
    cameras, points = leaf(5, 7), leaf(30, 3, seed=1)
    i, j = torch.arange(90) % 5, torch.arange(90) % 30
    f = bundle_adjustment(cameras, points, i, j)
    kept = plan(f, (cameras, points))
    structure = kept.outputs[0].structure
    assert structure is not None and structure.holds_for_indices and structure.num_passes <= 10
    expected = full_jacobian(f, (cameras, points), create_graph=False, structure="dense")
    again = bundle_adjustment(cameras, points, i, j)
    assert_close(full_jacobian(again, (cameras, points), plan=kept, create_graph=False), expected)


def test_hessian_of_pairs() -> None:
    """Of a recorded gradient: what its backward scatters, too."""
    x = leaf(30, 3)
    i, j = chain(30)

    def energy(x: Tensor) -> Tensor:
        return ((x[i] - x[j]).norm(dim=1) - 0.5).square().sum()

    (gradient,) = torch.autograd.grad(energy(x), x, create_graph=True)
    found = dependencies(gradient, x)
    assert found is not None and np.array_equal(found, nonzeros(gradient, x))
    structure = find(gradient, x)
    assert structure is not None and structure.holds_for_indices


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
