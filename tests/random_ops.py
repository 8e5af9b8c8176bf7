"""Ops on arguments of random shape, memory order and origin, all taken from one flat leaf.

Rules of vmap are written per op and go wrong for some shapes only: a size that equals the batch size, a 0-d argument,
two arguments that share memory. A case draws all of these from a seed. Every argument is cut from one leaf, so
arguments may overlap and the Jacobian has a single wrt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAF_SIZE = 24


class Draw:
    """Seeded source of sizes, shapes, index tensors and of differentiable arguments cut from `leaf`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.leaf = torch.randn(LEAF_SIZE, dtype=torch.float64, generator=self.generator).requires_grad_()
        self.shared = self.rng.random() < 0.3
        self.next = 0

    def size(self, low: int = 1, high: int = 5) -> int:
        return self.rng.randint(low, high)

    def shape(self, low: int = 0, high: int = 3) -> tuple[int, ...]:
        return tuple(self.rng.choice((1, 2, 3, 4)) for _ in range(self.rng.randint(low, high)))

    def dim(self, shape: tuple[int, ...]) -> int:
        return self.rng.randint(-len(shape), len(shape) - 1) if shape else 0

    def dims(self, shape: tuple[int, ...]) -> list[int]:
        return self.rng.sample(range(len(shape)), self.rng.randint(1, len(shape)))

    def pick(self, *options):  # type: ignore[no-untyped-def]
        return self.rng.choice(options)

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def arg(self, *shape: int) -> Tensor:
        """A differentiable argument, in a random order of memory; now and then a constant."""
        count = math.prod(shape)
        if self.shared:
            self.next = 0
        positions = (torch.arange(count) + self.next) % LEAF_SIZE
        self.next += count
        order = self.rng.sample(range(len(shape)), len(shape))
        stored = self.leaf[positions].reshape([shape[d] for d in order])
        value = stored.permute([order.index(d) for d in range(len(shape))])
        if self.rng.random() < 0.3:
            value = value * 1.5 + 0.1  # an argument that is not a view of the leaf
        if self.next > count and self.rng.random() < 0.15:
            value = value.detach()
        return value

    def positive(self, *shape: int) -> Tensor:
        return self.arg(*shape).square() + 0.3

    def matrix(self, *batch: int, n: int) -> Tensor:
        """A well-conditioned batch of n x n matrices."""
        return self.arg(*batch, n, n) * 0.3 + torch.eye(n, dtype=torch.float64) * 2

    def symmetric(self, *batch: int, n: int) -> Tensor:
        a = self.arg(*batch, n, n) * 0.3
        return a + a.mT + torch.diag(torch.arange(2.0, n + 2, dtype=torch.float64))

    def broadcast(self, count: int) -> list[tuple[int, ...]]:
        """`count` shapes that broadcast with one another."""
        full = self.shape(0, 3)
        shapes = []
        for _ in range(count):
            shape = tuple(1 if self.rng.random() < 0.25 else size for size in full)
            shapes.append(shape[self.rng.randint(0, len(shape)) :] if self.rng.random() < 0.3 else shape)
        return shapes

    def args(self, count: int) -> list[Tensor]:
        return [self.arg(*shape) for shape in self.broadcast(count)]

    def index(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator)

    def distinct(self, high: int, count: int) -> Tensor:
        return torch.randperm(high, generator=self.generator)[:count]

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < 0.5


Case = Callable[[Draw], Tensor]


def over_shape(op: Callable[[Draw, Tensor], Tensor], low: int = 0, high: int = 3) -> Case:
    return lambda d: op(d, d.arg(*d.shape(low, high)))


def over_dim(op: Callable[[Draw, Tensor, int], Tensor], low: int = 1, high: int = 3) -> Case:
    return over_shape(lambda d, x: op(d, x, d.dim(tuple(x.shape))), low, high)


def pointwise(op: Callable[..., Tensor], count: int) -> Case:
    return lambda d: op(*d.args(count))


def convolution(rank: int, transposed: bool) -> Case:
    op = getattr(F, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")

    def case(d: Draw) -> Tensor:
        groups, kernel = d.pick(1, 1, 2), d.size(1, 2)
        inside, outside = groups * d.size(1, 2), groups * d.size(1, 2)
        batch = () if d.flag() else (d.size(1, 3),)
        x = d.arg(*batch, inside, *[d.size(2, 3) for _ in range(rank)])
        weight_shape = (inside, outside // groups) if transposed else (outside, inside // groups)
        weight = d.arg(*weight_shape, *[kernel] * rank)
        bias = d.arg(outside) if d.flag() else None
        return op(x, weight, bias, stride=d.size(1, 2), padding=d.size(0, kernel - 1), groups=groups)

    return case


def pooling(op: Callable[[Draw, Tensor], Tensor], rank: int) -> Case:
    return lambda d: op(d, d.arg(*(() if d.flag() else (d.size(1, 3),)), d.size(1, 3), *[d.size(2, 4)] * rank))


def channels(op: Callable[[Draw, Tensor, int], Tensor]) -> Case:
    def case(d: Draw) -> Tensor:
        count = d.pick(2, 4)
        return op(d, d.arg(d.size(2, 3), count, *d.shape(1, 2)), count)

    return case


def lookup(op: Callable[[Draw, Tensor, int, Tensor], Tensor]) -> Case:
    """An op that takes (x, dim, index along dim)."""

    def case(d: Draw) -> Tensor:
        x = d.arg(*d.shape(1, 3))
        dim = d.dim(tuple(x.shape))
        return op(d, x, dim, d.index(x.shape[dim], d.size(1, 4)))

    return case


def scattered(op: Callable[[Draw, Tensor, int, Tensor, Tensor], Tensor]) -> Case:
    """An op that takes (x, dim, index of x's shape, source of x's shape), distinct indices."""

    def case(d: Draw) -> Tensor:
        x = d.arg(*d.shape(1, 3))
        dim = d.dim(tuple(x.shape))
        index = torch.rand(x.shape, generator=d.generator).argsort(dim)
        return op(d, x, dim, index, d.arg(*x.shape))

    return case


def into_view(d: Draw) -> Tensor:
    """An in-place op on a view of a view: the tape holds CopySlices."""
    base = d.arg(*d.shape(1, 3)) * 1.0
    view = base
    for _ in range(d.size(1, 2)):
        if view.dim() == 0:
            break
        dim = d.dim(tuple(view.shape))
        change: Callable[[Tensor, int], Tensor] = d.pick(
            lambda v, dim: v.select(dim, 0),
            lambda v, dim: v.narrow(dim, 0, 1),
            lambda v, dim: v.transpose(dim, 0),
            lambda v, dim: v.diagonal() if v.dim() > 1 else v,
            lambda v, dim: v.reshape(-1),
        )
        view = change(view, dim)
    if view._is_view():
        view.mul_(d.arg(*view.shape))
    return base * base


def group(d: Draw, op: Callable[..., Tensor], *tail: int) -> Tensor:
    batch = d.shape(0, 1)
    return op(*[d.arg(*batch, *tail) for _ in range(3)])


def attention(d: Draw) -> Tensor:
    batch, heads, length, width = d.size(1, 2), d.size(1, 2), d.size(2, 3), d.size(1, 3)
    q, k, v = (d.arg(batch, heads, length, width) for _ in range(3))
    return F.scaled_dot_product_attention(q, k, v, is_causal=d.flag())


def bag(d: Draw) -> Tensor:
    mode = d.pick("sum", "mean", "max")
    return F.embedding_bag(d.index(4, d.size(1, 3), d.size(1, 3)), d.arg(4, d.size(1, 3)), mode=mode)


def matmul(d: Draw) -> Tensor:
    n, (left, right) = d.size(), d.broadcast(2)
    if d.rng.random() < 0.3:
        return d.arg(n) @ d.arg(*right[-1:], n, d.size())
    if d.rng.random() < 0.3:
        return d.arg(*left, d.size(), n) @ d.arg(n)
    return d.arg(*left[-1:], d.size(), n) @ d.arg(*right[-1:], n, d.size())


def distance(d: Draw) -> Tensor:
    batch, width = d.shape(0, 1), d.size(1, 3)
    return torch.cdist(d.arg(*batch, d.size(), width), d.arg(*batch, d.size(), width) + 1, p=d.pick(1.0, 1.5, 2.0, 3.0))


def grid_sample(d: Draw) -> Tensor:
    batch = d.size(1, 2)
    x, grid = d.arg(batch, d.size(1, 3), 3, d.size(2, 4)), d.arg(batch, d.size(1, 3), 2, 2) * 0.4
    return F.grid_sample(x, grid, mode=d.pick("bilinear", "bicubic"), align_corners=d.flag())


def interpolate(d: Draw) -> Tensor:
    mode, rank = d.pick(("nearest", 1), ("linear", 1), ("nearest", 2), ("bilinear", 2), ("bicubic", 2), ("area", 2))
    x = d.arg(d.size(1, 2), d.size(1, 3), *[d.size(2, 3) for _ in range(rank)])
    return F.interpolate(x, scale_factor=2, mode=mode)


def padded(d: Draw) -> Tensor:
    x = d.arg(*d.shape(0, 1)[:1], d.size(2, 3), d.size(2, 4), d.size(2, 4))
    return F.pad(x, [d.size(0, 1) for _ in range(4)], mode=d.pick("constant", "reflect", "replicate", "circular"))


def put(d: Draw) -> Tensor:
    x = d.arg(*d.shape(1, 3))
    count = d.size(1, 4)
    index = tuple(d.index(size, count) for size in x.shape[: d.size(1, x.dim())])
    values = d.arg(*torch.broadcast_shapes(x[index].shape))
    return x.index_put(index, values, accumulate=True)


def rolled(d: Draw) -> Tensor:
    shape = d.shape(0, 3)
    x = d.arg(*shape)
    if not shape or d.flag():
        return torch.roll(x, d.size(-3, 3)) * d.arg(2, *shape)
    dims = d.dims(shape)
    return torch.roll(x, [d.size(-3, 3) for _ in dims], dims)


def strided(d: Draw) -> Tensor:
    x = d.arg(d.size(3, 4), d.size(3, 4)) * 1.0
    return x.as_strided((2, d.size(1, 3)), (d.size(1, 2), d.size(0, 2)), d.size(0, 2))


CASES: dict[str, Case] = {
    # pointwise, broadcast
    "mul": pointwise(torch.mul, 2),
    "div": lambda d: torch.div(d.arg(*d.shape()), d.positive(*d.shape(0, 0))),
    "atan2": pointwise(torch.atan2, 2),
    "maximum": pointwise(torch.maximum, 2),
    "addcmul": pointwise(torch.addcmul, 3),
    "lerp": pointwise(torch.lerp, 3),
    "pow": lambda d: torch.pow(d.positive(*d.shape()), d.arg(1)),
    "where": lambda d: torch.where(d.mask(*d.shape(0, 1)), d.arg(1), d.arg(2, 1)),
    "xlogy": lambda d: torch.xlogy(d.arg(*d.shape(1, 2)), d.positive(1)),
    "tanh": over_shape(lambda d, x: torch.tanh(x)),
    "gelu": over_shape(lambda d, x: F.gelu(x, approximate=d.pick("none", "tanh"))),
    "silu": over_shape(lambda d, x: F.silu(x)),
    "mish": over_shape(lambda d, x: F.mish(x)),
    "logit": over_shape(lambda d, x: torch.logit(x.sigmoid())),
    "hardshrink": over_shape(lambda d, x: F.hardshrink(x, 0.2)),
    "prelu": lambda d: F.prelu(d.arg(d.size(1, 3), 3, *d.shape(0, 1)), d.arg(d.pick(1, 3))),
    "glu": over_shape(lambda d, x: F.glu(torch.cat([x, x * x], -1)), 1),
    # reductions and scans
    "sum": over_shape(lambda d, x: x.sum(d.dims(tuple(x.shape)), keepdim=d.flag()), 1),
    "prod": over_dim(lambda d, x, dim: x.prod(dim, keepdim=d.flag())),
    "var": over_shape(lambda d, x: x.var(d.dims(tuple(x.shape)), correction=0), 1),
    "std": over_dim(lambda d, x, dim: torch.cat([x, 2 * x], dim).std(dim)),
    "norm": over_dim(lambda d, x, dim: x.norm(d.pick(1, 2, 3, math.inf), dim)),
    "logsumexp": over_dim(lambda d, x, dim: x.logsumexp(dim, keepdim=d.flag())),
    "amax": over_dim(lambda d, x, dim: x.amax(dim, keepdim=d.flag())),
    "max": over_dim(lambda d, x, dim: x.max(dim, keepdim=d.flag()).values),
    "median": over_dim(lambda d, x, dim: x.median(dim).values),
    "kthvalue": over_dim(lambda d, x, dim: x.kthvalue(1, dim).values),
    "sort": over_dim(lambda d, x, dim: x.sort(dim).values),
    "topk": over_dim(lambda d, x, dim: x.topk(1, dim).values),
    "cumsum": over_dim(lambda d, x, dim: x.cumsum(dim)),
    "cumprod": over_dim(lambda d, x, dim: x.cumprod(dim)),
    "cummax": over_dim(lambda d, x, dim: x.cummax(dim).values),
    "logcumsumexp": over_dim(lambda d, x, dim: x.logcumsumexp(dim)),
    "softmax": over_dim(lambda d, x, dim: x.softmax(dim), 0),
    "log_softmax": over_dim(lambda d, x, dim: x.log_softmax(dim), 0),
    "trapezoid": over_dim(lambda d, x, dim: torch.trapezoid(x, dim=dim)),
    "renorm": over_dim(lambda d, x, dim: torch.renorm(x, 2, dim, 1.0), 2),
    # views and rearrangements
    "roll": rolled,
    "as_strided": strided,
    "flip": over_shape(lambda d, x: x.flip(d.dims(tuple(x.shape))), 1),
    "permute": over_shape(lambda d, x: x.permute(d.rng.sample(range(x.dim()), x.dim())) * 2),
    "expand": over_shape(lambda d, x: x.expand(d.size(), *x.shape)),
    "repeat": over_shape(lambda d, x: x.repeat(d.size(1, 2), *[d.size(1, 2) for _ in x.shape])),
    "repeat_interleave": over_dim(lambda d, x, dim: x.repeat_interleave(d.size(1, 3), dim)),
    "diagonal": over_shape(lambda d, x: x.diagonal(d.size(-1, 1)), 2),
    "diag_embed": over_shape(lambda d, x: x.diag_embed(d.size(-1, 1)), 1, 2),
    "tril": over_shape(lambda d, x: x.tril(d.size(-1, 1)), 2),
    "unfold": over_dim(lambda d, x, dim: x.unfold(dim, 1, d.size(1, 2))),
    "cat": over_dim(lambda d, x, dim: torch.cat([x, d.arg(*x.shape), x], dim)),
    "stack": over_dim(lambda d, x, dim: torch.stack([x, d.arg(*x.shape)], dim)),
    "im2col": lambda d: F.unfold(d.arg(d.size(1, 2), d.size(1, 2), 3, 4), 2, padding=d.size(0, 1), stride=d.size(1, 2)),
    "col2im": lambda d: F.fold(d.arg(d.size(1, 2), 4 * d.size(1, 2), 4), 3, 2),
    "pixel_shuffle": lambda d: F.pixel_shuffle(d.arg(*d.shape(0, 1), 4, d.size(1, 3), d.size(1, 3)), 2),
    "pad": padded,
    "copy_slices": into_view,
    # indexing
    "index_select": lookup(lambda d, x, dim, index: x.index_select(dim, index)),
    "gather": scattered(lambda d, x, dim, index, source: x.gather(dim, index)),
    "scatter": scattered(lambda d, x, dim, index, source: x.scatter(dim, index, source)),
    "scatter_add": scattered(lambda d, x, dim, index, source: x.scatter_add(dim, index, source)),
    "scatter_reduce": scattered(
        lambda d, x, dim, index, source: x.scatter_reduce(dim, index, source, d.pick("sum", "mean", "amax"))
    ),
    "take_along_dim": scattered(lambda d, x, dim, index, source: x.take_along_dim(index, dim)),
    "index_add": lookup(lambda d, x, dim, index: x.index_add(dim, index, x.index_select(dim, index) * 2)),
    "index_fill": lookup(lambda d, x, dim, index: x.index_fill(dim, index, d.arg())),
    "index_put": put,
    "masked_fill": over_shape(lambda d, x: x.masked_fill(d.mask(*x.shape), d.arg())),
    "masked_select": over_shape(lambda d, x: x.masked_select(d.mask(*x.shape)), 1),
    "masked_scatter": over_shape(lambda d, x: x.masked_scatter(d.mask(*x.shape), d.arg(*x.shape))),
    "take": over_shape(lambda d, x: x.take(d.index(x.numel(), *d.shape(0, 2)))),
    "put": over_shape(lambda d, x: x.put(d.distinct(x.numel(), 1), d.arg(1)), 1),
    "embedding": lambda d: F.embedding(d.index(4, *d.shape(0, 2)), d.arg(4, d.size(1, 3))),
    "embedding_bag": bag,
    # products
    "matmul": matmul,
    "mm": lambda d: (lambda n: torch.mm(d.arg(d.size(), n), d.arg(n, d.size())))(d.size()),
    "bmm": lambda d: (lambda b, n: torch.bmm(d.arg(b, d.size(), n), d.arg(b, n, d.size())))(d.size(1, 3), d.size()),
    "addmm": lambda d: (lambda n, m: torch.addmm(d.arg(m), d.arg(d.size(), n), d.arg(n, m)))(d.size(), d.size()),
    "baddbmm": lambda d: (lambda b, n: torch.baddbmm(d.arg(b, n, n), d.arg(b, n, 2), d.arg(b, 2, n)))(
        d.size(1, 3), d.size()
    ),
    "mv": lambda d: (lambda n: torch.mv(d.arg(d.size(), n), d.arg(n)))(d.size()),
    "dot": lambda d: (lambda n: torch.dot(d.arg(n), d.arg(n)))(d.size()),
    "outer": lambda d: torch.outer(d.arg(d.size()), d.arg(d.size())),
    "einsum": lambda d: (lambda n: torch.einsum("bij,jk,bk->bi", d.arg(2, 3, n), d.arg(n, 2), d.arg(2, 2)))(
        d.size(1, 3)
    ),
    "kron": lambda d: torch.kron(d.arg(*d.shape(1, 2)), d.arg(*d.shape(1, 2))),
    "bilinear": lambda d: (lambda b: F.bilinear(d.arg(b, 2), d.arg(b, 3), d.arg(2, 2, 3), d.arg(2)))(d.size()),
    "linear": lambda d: (lambda n, m: F.linear(d.arg(*d.shape(0, 2), n), d.arg(m, n), d.arg(m)))(d.size(), d.size()),
    "cross": lambda d: (lambda b: torch.linalg.cross(d.arg(*b, 3), d.arg(*b, 3)))(d.shape(0, 2)),
    "cdist": distance,
    "pdist": lambda d: F.pdist(d.arg(d.size(2, 5), d.size(2, 3)), p=d.pick(1.5, 2.0, 3.0)),
    "pairwise_distance": lambda d: group(d, lambda a, b, c: F.pairwise_distance(a, b + 1), 3),
    "cosine_similarity": lambda d: group(d, lambda a, b, c: F.cosine_similarity(a, b, -1), 3),
    "triplet_margin": lambda d: group(d, lambda a, b, c: F.triplet_margin_loss(a, b, c, reduction="none"), 3),
    "attention": attention,
    # networks
    "conv1d": convolution(1, False),
    "conv2d": convolution(2, False),
    "conv3d": convolution(3, False),
    "conv_transpose1d": convolution(1, True),
    "conv_transpose2d": convolution(2, True),
    "max_pool1d": pooling(lambda d, x: F.max_pool1d(x, 2, stride=d.size(1, 2)), 1),
    "max_pool2d": pooling(lambda d, x: F.max_pool2d(x, 2, stride=d.size(1, 2), padding=d.size(0, 1)), 2),
    "avg_pool2d": pooling(lambda d, x: F.avg_pool2d(x, 2, stride=d.size(1, 2), padding=d.size(0, 1)), 2),
    "avg_pool3d": pooling(lambda d, x: F.avg_pool3d(x, 2), 3),
    "adaptive_avg_pool2d": pooling(lambda d, x: F.adaptive_avg_pool2d(x, d.size(1, 3)), 2),
    "adaptive_max_pool2d": pooling(lambda d, x: F.adaptive_max_pool2d(x, d.size(1, 2)), 2),
    "lp_pool2d": pooling(lambda d, x: F.lp_pool2d(x * x + 1, 2.0, 2), 2),
    "batch_norm": channels(lambda d, x, c: F.batch_norm(x, None, None, d.arg(c), d.arg(c), training=True)),
    "batch_norm_eval": channels(
        lambda d, x, c: F.batch_norm(x, torch.ones(c).double(), torch.ones(c).double(), d.arg(c))
    ),
    "instance_norm": channels(lambda d, x, c: F.instance_norm(torch.cat([x, x * x], -1), weight=d.arg(c))),
    "group_norm": channels(lambda d, x, c: F.group_norm(x, d.pick(1, 2), d.arg(c) if d.flag() else None)),
    "layer_norm": over_shape(lambda d, x: F.layer_norm(x, x.shape[-1:], d.arg(x.shape[-1]) if d.flag() else None), 1),
    "rms_norm": over_shape(lambda d, x: F.rms_norm(x, x.shape[-1:], d.arg(x.shape[-1])), 1),
    "local_response_norm": channels(lambda d, x, c: F.local_response_norm(x, 2)),
    "interpolate": interpolate,
    "grid_sample": grid_sample,
    "affine_grid": lambda d: (lambda b: F.affine_grid(d.arg(b, 2, 3), (b, 1, 2, 3), align_corners=False))(d.size(1, 3)),
    "cross_entropy": lambda d: (
        lambda b, c: F.cross_entropy(d.arg(b, c), d.index(c, b), reduction=d.pick("none", "mean"))
    )(d.size(), d.size()),
    "huber": lambda d: F.huber_loss(*[d.arg(3, 2), d.arg(3, 2)], reduction=d.pick("none", "mean")),
    "binary_cross_entropy": over_shape(
        lambda d, x: F.binary_cross_entropy(x.sigmoid(), d.arg(*x.shape).sigmoid(), reduction="none")
    ),
    "kl_div": over_shape(lambda d, x: F.kl_div(x, d.positive(*x.shape), reduction=d.pick("none", "sum"))),
    "soft_margin": over_shape(lambda d, x: F.soft_margin_loss(x, torch.ones_like(x), reduction="none")),
    "multi_margin": lambda d: (lambda b: F.multi_margin_loss(d.arg(b, 3), d.index(3, b), reduction="none"))(d.size()),
    "ctc": lambda d: F.ctc_loss(
        d.arg(5, 2, 4).log_softmax(-1),
        torch.tensor([[1, 2], [2, 3]]),
        torch.tensor([5, 4]),
        torch.tensor([2, 2]),
        reduction="none",
    ),
    # linear algebra and FFT
    "inv": lambda d: torch.linalg.inv(d.matrix(*d.shape(0, 1), n=d.size(1, 3))),
    "solve": lambda d: (lambda n, b: torch.linalg.solve(d.matrix(*b, n=n), d.arg(*b, n, d.size(1, 2))))(
        d.size(1, 3), d.shape(0, 1)
    ),
    "det": lambda d: torch.linalg.det(d.matrix(*d.shape(0, 2), n=d.size(1, 3))),
    "slogdet": lambda d: torch.linalg.slogdet(d.matrix(*d.shape(0, 1), n=d.size(1, 3))).logabsdet,
    "cholesky": lambda d: torch.linalg.cholesky(torch.matrix_exp(d.symmetric(*d.shape(0, 1), n=2) * 0.3)),
    "eigvalsh": lambda d: torch.linalg.eigvalsh(d.symmetric(*d.shape(0, 1), n=d.size(1, 3))),
    "svdvals": lambda d: torch.linalg.svdvals(
        d.matrix(*d.shape(0, 1), n=d.size(1, 3)) * torch.arange(1.0, 2.0, 1.0).double()
    ),
    "qr": lambda d: torch.linalg.qr(d.matrix(*d.shape(0, 1), n=d.size(1, 3))).R,
    "pinv": lambda d: torch.linalg.pinv(torch.cat([d.matrix(n=2), d.arg(2, 2)])),
    "lu": lambda d: torch.linalg.lu(d.matrix(*d.shape(0, 1), n=d.size(1, 3))).L,
    "solve_triangular": lambda d: (
        lambda n: torch.linalg.solve_triangular(d.matrix(n=n).triu(), d.arg(n, 2), upper=True)
    )(d.size(1, 3)),
    "matrix_exp": lambda d: torch.matrix_exp(d.matrix(*d.shape(0, 1), n=d.size(1, 3)) * 0.3),
    "matrix_power": lambda d: torch.linalg.matrix_power(d.matrix(*d.shape(0, 1), n=2), d.size(0, 3)),
    "rfft": over_dim(lambda d, x, dim: torch.view_as_real(torch.fft.rfft(x, dim=dim))),
    "fftn": over_shape(lambda d, x: torch.fft.fftn(x, dim=d.dims(tuple(x.shape))).abs(), 1),
    "irfft": over_dim(lambda d, x, dim: torch.fft.irfft(x * 1j + x, n=4, dim=dim)),
}


def random_case(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """(f, wrt) of one drawn case; f may be mixed once more after the op, so that its cotangent is not a plain basis."""
    draw = Draw(seed)
    f = CASES[name](draw)
    after = draw.rng.random()
    if after < 0.2 and f.dim():
        f = f.sum(draw.dim(tuple(f.shape)))
    elif after < 0.4 and f.dim() > 1:
        f = f.movedim(0, -1) * 2
    elif after < 0.6:
        f = f * draw.leaf.prod().tanh()
    elif after < 0.7:
        f = f.expand(2, *f.shape)
    return f, draw.leaf
