"""Jacobians through whatever structure is found, however small the problem, and random graphs to find some in."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from highgrad_ext import _C, full_jacobian, plan


def find(f: Tensor, *wrt: Tensor) -> _C.Structure | None:
    return plan(f, wrt).outputs[0].structure


def jacobian_with(
    structure: _C.Structure | None, f: Tensor, *wrt: Tensor, layout: torch.layout = torch.strided, **options: bool
) -> list[Tensor]:
    """full_jacobian of f by each of wrt with a structure that was found before, of whatever size."""
    planned = plan(f, wrt, layout=layout)
    planned = dataclasses.replace(planned, outputs=(planned.outputs[0].with_structure(structure),))
    return full_jacobian(f, wrt, plan=planned, create_graph=options.get("create_graph", False))


def pattern(structure: _C.Structure) -> np.ndarray:
    """The pattern as a matrix of booleans."""
    mask = np.zeros(structure.shape, dtype=bool)
    rows = np.repeat(np.arange(structure.shape[0]), np.diff(structure.row_ptr))
    mask[rows, structure.col_ind] = True
    return mask


def dependencies(f: Tensor, *wrt: Tensor, work: int = 10**9) -> np.ndarray | None:
    """Which elements of f depend on which of all `wrt`, as a matrix; what is forecast of it holds."""
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
    """Of the dense Jacobians, next to one another; NaN counts."""
    jacobians = full_jacobian(f, wrt, create_graph=False, structure="dense")
    blocks = [(j.nan_to_num(1) != 0).reshape(f.numel(), -1).numpy() for j in jacobians]
    return np.concatenate(blocks, axis=1)


def mask_of_ties(rows: int, ties: list[_C.Digit]) -> np.ndarray:
    """Which entries the digits of an input allow: (size, stride in the output's index or -1, size there, windows)."""
    columns = int(np.prod([size for size, *_ in ties], initial=1))
    mask = np.ones((rows, columns), dtype=bool)
    i, j = np.arange(rows)[:, None], np.arange(columns)[None, :]
    place = 1
    for size, stride, out_size, arcs in reversed(ties):
        mine, theirs = j // place % size, i // stride % out_size
        if arcs:
            first, count = np.array(arcs).T[:, mine]
            mask &= (theirs - first) % out_size < count
        elif stride != -1:
            mask &= theirs == mine
        place *= size
    return mask


def names_on(f: Tensor) -> set[str]:
    seen, names, stack = set(), set(), [f.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(node.name().removeprefix("torch::autograd::"))
            stack.extend(edge[0] for edge in node.next_functions)
    return names


Step = Callable[[random.Random, list[Tensor]], Tensor]


def pick(rng: random.Random, pool: list[Tensor]) -> Tensor:
    return rng.choice(pool[-4:])


def axis(rng: random.Random, x: Tensor) -> int:
    return rng.randrange(-x.dim(), x.dim())


def same_shape(rng: random.Random, pool: list[Tensor], x: Tensor) -> Tensor:
    others = [y for y in pool if y.shape == x.shape]
    return rng.choice(others)


def split_shape(rng: random.Random, numel: int) -> list[int]:
    shape = []
    for factor in (2, 3, 4):
        if numel % factor == 0 and rng.random() < 0.6:
            shape.append(factor)
            numel //= factor
    shape.append(numel)
    rng.shuffle(shape)
    return shape


def unary(function: Callable[[Tensor], Tensor]) -> Step:
    return lambda rng, pool: function(pick(rng, pool))


def along(function: Callable[[random.Random, Tensor, int], Tensor]) -> Step:
    def step(rng: random.Random, pool: list[Tensor]) -> Tensor:
        x = pick(rng, pool)
        return function(rng, x, axis(rng, x))

    return step


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Step:
    def step(rng: random.Random, pool: list[Tensor]) -> Tensor:
        x = pick(rng, pool)
        return function(x, same_shape(rng, pool, x))

    return step


def constant(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def index(rng: random.Random, size: int, count: int) -> Tensor:
    return torch.tensor([rng.randrange(size) for _ in range(count)])


def matrix_product(rng: random.Random, pool: list[Tensor]) -> Tensor:
    x = pick(rng, pool)
    weight = constant(x.shape[-1], x.shape[-1], seed=rng.randrange(5))
    return x @ weight if x.dim() > 1 or rng.random() < 0.2 else x * 2


def self_product(rng: random.Random, pool: list[Tensor]) -> Tensor:
    x = pick(rng, pool)
    if x.dim() < 3:
        return x * x
    return (x @ x.transpose(-1, -2)) @ x * 0.1


def broadcast(rng: random.Random, pool: list[Tensor]) -> Tensor:
    x = pick(rng, pool)
    return x * x.select(0, rng.randrange(x.shape[0])) if x.dim() > 1 else x * x[rng.randrange(x.numel())]


def reduced(function: Callable[[Tensor, int], Tensor]) -> Step:
    return along(lambda rng, x, d: x + function(x, d) if x.dim() > 1 or rng.random() < 0.2 else x.sin())


def convolved(rng: random.Random, pool: list[Tensor]) -> Tensor:
    x = pick(rng, pool)
    return F.conv1d(x.reshape(-1, 1, x.shape[-1]), constant(1, 1, 3), padding=1).reshape(x.shape)


def cut_and_joined(rng: random.Random, x: Tensor, d: int) -> Tensor:
    size = x.shape[d]
    cut = rng.randrange(size + 1)
    parts = [x.narrow(d, cut, size - cut), x.narrow(d, 0, cut)]
    return torch.cat([part.sin() if rng.random() < 0.5 else part for part in parts], d)


def scattered(rng: random.Random, x: Tensor, d: int) -> Tensor:
    where = index(rng, x.shape[d], x.shape[d])
    return x.index_add(d, where, x.tanh())


def written(rng: random.Random, x: Tensor, d: int) -> Tensor:
    """A copy of x of which a part was written to in place: by index, by mask, to a view, or with a number."""
    out = x * 1.5
    first = rng.randrange(x.shape[d])
    part = out.narrow(d, first, rng.randint(1, x.shape[d] - first))
    source = x.narrow(d, x.shape[d] - part.shape[d], part.shape[d]).sin()
    mask = torch.tensor([rng.random() < 0.5 for _ in range(part.numel())]).view(part.shape)
    rng.choice(
        [
            lambda: part.copy_(source),
            lambda: part.add_(source),
            part.zero_,
            lambda: part.fill_(2.0),
            lambda: part.masked_fill_(mask, 0.5),
            lambda: part.index_put_((mask,), source[mask]),
            lambda: part.index_put_((index(rng, part.shape[0], part.shape[0]),), source.cos(), accumulate=True),
        ]
    )()
    return out


def scattered_by(rng: random.Random, x: Tensor, d: int) -> Tensor:
    where = torch.tensor([rng.randrange(x.shape[d]) for _ in range(x.numel())]).view(x.shape)
    return rng.choice(
        [
            lambda: x.scatter_add(d, where, x.tanh()),
            lambda: x.scatter_reduce(d, where, x.tanh(), rng.choice(("mean", "amax"))),
            lambda: torch.zeros_like(x).scatter(d, torch.argsort(where, d), x.sin()),
            lambda: x.index_reduce(d, index(rng, x.shape[d], x.shape[d]), x.tanh(), "mean"),
        ]
    )()


def looked_up(rng: random.Random, x: Tensor, d: int) -> Tensor:
    where = torch.tensor([rng.randrange(x.numel()) for _ in range(x.numel())]).view(x.shape)
    return rng.choice(
        [
            lambda: x.take(where),
            lambda: x.reshape(-1)[where],
            lambda: x.gather(d, where % x.shape[d]),
            lambda: x.take_along_dim(where % x.shape[d], d),
        ]
    )()


def sparse_product(rng: random.Random, x: Tensor, d: int) -> Tensor:
    flat = x.reshape(x.shape[0], -1)
    places = torch.stack([index(rng, x.shape[0], 2 * x.shape[0]) for _ in range(2)])
    matrix = torch.sparse_coo_tensor(places, constant(places.shape[1]) + 3, (x.shape[0], x.shape[0]))
    return (matrix @ flat).reshape(x.shape)


def in_axes(rng: random.Random, pool: list[Tensor]) -> Tensor:
    x = pick(rng, pool)
    order = list(range(x.dim()))
    rng.shuffle(order)
    return x.permute(order)


STEPS: dict[str, Step] = {
    "sin": unary(torch.sin),
    "tanh": unary(torch.tanh),
    "square": unary(torch.square),
    "exp": unary(lambda x: (x.clamp(max=2)).exp()),
    "relu": unary(torch.relu),
    "abs": unary(torch.abs),
    "sqrt": unary(lambda x: x.abs().sqrt()),
    "reciprocal": unary(lambda x: 1 / x),
    "softplus": unary(F.softplus),
    "hardshrink": unary(lambda x: F.hardshrink(x, 0.3)),
    "detach half": unary(lambda x: x * x.detach()),
    "add": binary(torch.add),
    "mul": binary(torch.mul),
    "div": binary(lambda x, y: x / (1 + y * y)),
    "maximum": binary(torch.maximum),
    "where": binary(lambda x, y: torch.where(x > y, x, y * y)),
    "where a constant": binary(lambda x, y: torch.where(x > 0, y, 0.0)),
    "sub": binary(torch.sub),
    "broadcast": broadcast,
    "view": lambda rng, pool: (lambda x: x.reshape(split_shape(rng, x.numel())))(pick(rng, pool)),
    "flatten": unary(lambda x: x.reshape(-1)),
    "permute": in_axes,
    "transpose": along(lambda rng, x, d: x.transpose(d, 0)),
    "unsqueeze": along(lambda rng, x, d: x.unsqueeze(d).squeeze(d).cos()),
    "roll": along(lambda rng, x, d: x.roll(rng.randrange(4), d)),
    "flip": along(lambda rng, x, d: x.flip(d)),
    "cut and join": along(cut_and_joined),
    "stack of unbound": along(lambda rng, x, d: torch.stack([y.sin() for y in x.unbind(d)], d)),
    "select": along(lambda rng, x, d: x.select(d, rng.randrange(x.shape[d])).unsqueeze(d).expand(x.shape) + x),
    "pad": along(lambda rng, x, d: F.pad(x, (1, 1))[..., 1 : x.shape[-1] + 1]),
    "split": along(lambda rng, x, d: torch.cat(x.split(max(1, x.shape[d] // 2), d)[::-1], d)),
    "tril": unary(lambda x: x.tril() if x.dim() > 1 else x),
    "index_select": along(lambda rng, x, d: x.index_select(d, index(rng, x.shape[d], x.shape[d]))),
    "gather": along(lambda rng, x, d: x.gather(d, torch.argsort(x.detach(), d))),
    "sort": along(lambda rng, x, d: x.sort(d).values),
    "scatter": along(scattered),
    "write": along(written),
    "scatter by index": along(scattered_by),
    "look up": along(looked_up),
    "sparse product": along(sparse_product),
    "difference": along(lambda rng, x, d: x - x.roll(1, d)),
    "softmax": along(lambda rng, x, d: x.softmax(d) if x.dim() > 1 else x.sigmoid()),
    "cumsum": along(lambda rng, x, d: x.cumsum(d) if x.dim() > 1 else x.sigmoid()),
    "layer_norm": unary(lambda x: F.layer_norm(x, x.shape[-1:]) if x.dim() > 1 else x.sin()),
    "sum": reduced(lambda x, d: x.sum(d, keepdim=True)),
    "mean": reduced(lambda x, d: x.mean(d, keepdim=True).expand(x.shape)),
    "amax": reduced(lambda x, d: x.amax(d, keepdim=True)),
    "logsumexp": reduced(lambda x, d: x.logsumexp(d, keepdim=True)),
    "var": reduced(lambda x, d: x.var(d, keepdim=True, correction=0)),
    "norm": reduced(lambda x, d: x.norm(dim=d, keepdim=True)),
    "matrix product": matrix_product,
    "self product": self_product,
    "convolution": convolved,
}

# What mixes more than it keeps comes less often, so that structure is left to find.
MIXING = {"sum", "mean", "amax", "logsumexp", "var", "norm", "matrix product", "self product", "softmax", "cumsum"}


def random_graph(seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """(f, x, names of the steps): 5 to 40 steps from a leaf whose values may be zero, equal or infinite."""
    rng = random.Random(seed)
    numel = rng.choice((12, 24, 48))
    x = constant(numel, seed=seed)
    awkward = rng.random()
    if awkward < 0.2:
        x = x.round()  # zeros and ties
    elif awkward < 0.25:
        x[rng.randrange(numel)] = torch.inf
    x = x.reshape(split_shape(rng, numel)).contiguous().requires_grad_()
    pool = [x * 1.0]
    names = []
    for _ in range(rng.randint(5, 40)):
        name = rng.choice([*STEPS])
        if name in MIXING and rng.random() < 0.8:
            continue
        result = STEPS[name](rng, pool)
        if result.numel() == numel:
            names.append(name)
            pool.append(result)
    return pool[-1], x, names
