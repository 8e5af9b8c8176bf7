"""Steps that move elements, by random shapes and indices."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from structured import constant
from torch import Tensor

Step = Callable[[random.Random, Tensor], Tensor]


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


def masked_select(rng: random.Random, x: Tensor) -> Tensor:
    """By a mask of x's shape, or one that is broadcast, or that x is broadcast to."""
    shape = rng.choice((x.shape, x.shape[1:], (2, *x.shape)))
    return x.masked_select(mask(rng, *shape))


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


def segments(rng: random.Random, x: Tensor) -> Tensor:
    """Of rows, some of them empty, by their lengths or by where they begin; some rows may be in none."""
    figures = torch.tensor(sorted(rng.randint(0, x.shape[0]) for _ in range(rng.randint(2, 4))))
    kind = rng.choice(("sum", "mean", "prod"))
    if rng.random() < 0.5:
        return torch.segment_reduce(x, kind, offsets=figures, initial=2.0)
    return torch.segment_reduce(x, kind, lengths=figures.diff(), unsafe=True, initial=2.0)


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
    "segments": segments,
    "pairs": lambda rng, x: F.pdist(x.reshape(x.shape[0], -1), p=rng.choice((1.0, 2.0, 3.0))),
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
    "masked_select": masked_select,
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
