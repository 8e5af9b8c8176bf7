"""Axes that slide over one another: what their windows allow, for every operator with such geometry, and its chains."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from structured import find, jacobian_with, mask_of_ties, pattern
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian

pytestmark = pytest.mark.filterwarnings("ignore")

Step = Callable[[random.Random, Tensor], Tensor]


def weights(*shape: int) -> Tensor:
    """Positive, so that no entry is zero by chance."""
    return 0.5 + torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def axis(rng: random.Random, x: Tensor) -> int:
    return rng.randrange(-x.dim(), x.dim())


def sliced(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    size = x.shape[d]
    start, step = rng.randrange(size), rng.choice((1, 1, 2, 3))
    index = [slice(None)] * x.dim()
    index[d] = slice(start - size if rng.random() < 0.5 else start, rng.randrange(start + 1, size + 1), step)
    return x[tuple(index)]


def padded(rng: random.Random, x: Tensor) -> Tensor:
    count = rng.randint(1, x.dim())
    pad = [rng.randint(-1, 2) for _ in range(2 * count)]
    for k in range(count):
        if x.shape[-1 - k] + pad[2 * k] + pad[2 * k + 1] < 1:
            pad[2 * k] = pad[2 * k + 1] = 1
    return F.pad(x, pad)


def joined(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    other = list(x.shape)
    other[d] = rng.randint(1, 3)
    parts = [x.sin(), x[:0].reshape(-1)[:0], weights(*other), x.narrow(d, 0, 1), x]
    return torch.cat(rng.sample(parts, 4), d)


def parted(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    size = x.shape[d]
    parts = x.split(rng.randint(1, size), d) if rng.random() < 0.5 else x.split([size // 2, size - size // 2], d)
    return rng.choice([part for part in parts if part.numel()])


def rolled(rng: random.Random, x: Tensor) -> Tensor:
    count = rng.randint(1, x.dim())
    dims = [axis(rng, x) for _ in range(count)]
    return x.roll([rng.randint(-4, 4) for _ in dims], dims)


def flipped(rng: random.Random, x: Tensor) -> Tensor:
    return x.flip(rng.sample(range(x.dim()), rng.randint(1, x.dim())))


def convolved(rng: random.Random, x: Tensor) -> Tensor:
    """Over the last axes of a tensor whose axes before them count channels and samples."""
    rank = rng.randint(1, min(3, x.dim()))
    sizes = x.shape[x.dim() - rank :]
    groups = rng.choice((1, 2))
    x = x.reshape(-1, 1, *sizes).expand(-1, groups, *sizes) * weights(groups, *[1] * rank)
    kernel = [rng.randint(1, min(3, size)) for size in sizes]
    stride, padding = rng.randint(1, 2), rng.randint(0, min(kernel) - 1)
    if rng.random() < 0.4:
        op = getattr(F, f"conv_transpose{rank}d")
        more = rng.randint(0, stride - 1)
        return op(
            x, weights(groups, 1, *kernel), None, stride=stride, padding=padding, groups=groups, output_padding=more
        )
    op = getattr(F, f"conv{rank}d")
    dilation = 2 if all(2 * k - 1 <= size for k, size in zip(kernel, sizes, strict=True)) else 1
    return op(
        x, weights(2 * groups, 1, *kernel), None, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def pooled(rng: random.Random, x: Tensor) -> Tensor:
    rank = rng.randint(1, min(3, x.dim()))
    sizes = x.shape[x.dim() - rank :]
    kernel = [rng.randint(1, min(3, size)) for size in sizes]
    op = getattr(F, f"{rng.choice(('max', 'avg'))}_pool{rank}d")
    padding = [k // 2 for k in kernel]
    return op(
        x.reshape(-1, 1, *sizes),
        kernel if rng.random() < 0.8 else min(kernel),
        stride=rng.choice((None, 1, 2)),
        padding=padding if rng.random() < 0.3 else 0,
        ceil_mode=rng.random() < 0.5,
    )


def written(rng: random.Random, x: Tensor) -> Tensor:
    """Into views of a base: strided slices, single positions, transposed or not."""
    out = torch.zeros_like(x) if rng.random() < 0.5 else x.cos()
    view = out.transpose(0, -1) if rng.random() < 0.3 else out
    for d in range(view.dim()):
        size = view.shape[d]
        start, step = rng.randrange(size), rng.choice((1, 1, 2))
        if rng.random() < 0.2:
            view = view.narrow(d, start, 1)
        elif rng.random() < 0.7:
            view = view[tuple([slice(None)] * d + [slice(start, None, step)])]
    source = x.transpose(0, -1) if view.dim() == x.dim() and rng.random() < 0.3 else x
    if source.dim() != view.dim():
        source = source.reshape(-1)[:1]
    else:
        source = source[tuple(slice(0, size) for size in view.shape)]
    if rng.random() < 0.5:
        view.copy_(source) if source.shape == view.shape else view.copy_(source.reshape(-1)[0])
    else:
        view.mul_(source.reshape(-1)[rng.randrange(source.numel())] if source.shape != view.shape else source)
    return out


def by_elements(rng: random.Random, x: Tensor) -> Tensor:
    """As a loop over the first axis would write it."""
    rows = x.unbind(0) if rng.random() < 0.5 else [x[i - x.shape[0]] for i in range(x.shape[0])]
    shift, d = rng.randint(0, 2), rng.randrange(x.dim())
    return torch.stack([row * rows[(i + shift) % len(rows)].sin() for i, row in enumerate(rows)], d)


def positions(rng: random.Random, x: Tensor) -> Tensor:
    """A boundary written position by position."""
    out = x.roll(1, 0) + x
    out = out.clone()
    out[0] = x[0]
    out[-1] = x[rng.randrange(x.shape[0])]
    return out


def unfolded(rng: random.Random, x: Tensor) -> Tensor:
    d = axis(rng, x)
    u = x.unfold(d, rng.randint(1, min(3, x.shape[d])), rng.randint(1, 2))
    return u.sum(-1) if rng.random() < 0.5 else u


def resampled(rng: random.Random, x: Tensor) -> Tensor:
    """Its last two axes."""
    mode = rng.choice(["nearest", "nearest-exact", "bilinear", "bicubic"])
    images = x.reshape(1, -1, x.shape[-2] if x.dim() > 1 else 1, x.shape[-1])
    return F.interpolate(images, scale_factor=[rng.randint(1, 3), rng.randint(1, 2)], mode=mode)


def resized(rng: random.Random, x: Tensor) -> Tensor:
    """Its last two axes, to any size."""
    mode = rng.choice(["nearest", "nearest-exact", "bilinear", "bilinear, corners"])
    images = x.reshape(1, -1, *[1] * (2 - x.dim()), *x.shape[-2:])
    size = [rng.randint(1, 2 * n + 1) for n in images.shape[2:]]
    corners = True if "corners" in mode else None
    return F.interpolate(images, size=size, mode=mode.split(",")[0], align_corners=corners)


def scanned(rng: random.Random, x: Tensor) -> Tensor:
    kind = rng.choice(["cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"])
    result = getattr(x, kind)(axis(rng, x) if x.dim() > 0 else 0)
    return result if isinstance(result, Tensor) else result[0]


def shared(rng: random.Random, x: Tensor) -> Tensor:
    """Adaptive pools of its last axes."""
    rank = rng.randint(1, 3)
    images = x.reshape(-1, *[1] * (rank - x.dim()), *x.shape[-rank:])
    pool = getattr(F, f"adaptive_{rng.choice(['avg', 'max'])}_pool{rank}d")
    return pool(images, [rng.randint(1, n + 2) for n in images.shape[1:]])


STEPS: dict[str, Step] = {
    "resample": resampled,
    "resize": resized,
    "scan": scanned,
    "adaptive pool": shared,
    "write": written,
    "elements": by_elements,
    "positions": positions,
    "unfold": unfolded,
    "slice": sliced,
    "pad": padded,
    "cat": joined,
    "split": parted,
    "roll": rolled,
    "flip": flipped,
    "convolution": convolved,
    "pool": pooled,
    "permute": lambda rng, x: x.permute(rng.sample(range(x.dim()), x.dim())),
    "view": lambda rng, x: x.reshape(x.shape[0], -1) if rng.random() < 0.5 else x.squeeze(),
    "unsqueeze": lambda rng, x: x.unsqueeze(axis(rng, x)),
    "difference": lambda rng, x: x - x.roll(1, axis(rng, x)).sin(),
    "sum": lambda rng, x: x + x.sum(axis(rng, x), keepdim=True) if rng.random() < 0.3 else x.sin(),
}


def leaf(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (x.round() if seed % 3 == 0 else x).requires_grad_()


def check(f: Tensor, x: Tensor) -> bool:
    """No nonzero is outside of the windows, nor in rows and columns that the structure takes to be apart."""
    expected = full_jacobian(f, x, create_graph=False, structure="dense")
    nonzero = (expected != 0).reshape(f.numel(), x.numel()).numpy()
    axes = _C.analyze_axes(f, [x])
    if axes is None:
        return False
    mask = mask_of_ties(f.numel(), axes[0][0][0])
    assert not (nonzero & ~mask).any(), "a nonzero was missed"
    structure = find(f, x)
    if structure is not None:
        assert not (nonzero & ~pattern(structure)).any(), "a nonzero was missed by the structure"
        assert_close(jacobian_with(structure, f, x)[0], expected)
    return not mask.all()


@pytest.mark.parametrize("name", STEPS)
def test_one_step(name: str) -> None:
    """Alone, on several shapes."""
    tied = 0
    for seed in range(120):
        rng = random.Random(seed)
        x = leaf(*rng.choice(((9,), (4, 6), (3, 5, 4), (1, 7), (2, 1, 6))), seed=seed)
        try:
            f = STEPS[name](rng, x)
        except (RuntimeError, ValueError):
            continue  # a geometry that the operator does not take
        if f.requires_grad and 0 < f.numel() <= 400:
            tied += check(f, x)
    assert tied >= 20, f"only {tied} were tied"


@pytest.mark.parametrize("first", range(0, 1200, 100))
def test_chains(first: int) -> None:
    tied = 0
    for seed in range(first, first + 100):
        rng = random.Random(seed)
        x = leaf(*rng.choice(((24,), (6, 8), (3, 5, 4), (2, 3, 3, 4))), seed=seed)
        f, names = x * 1.0, []
        for _ in range(rng.randint(2, 7)):
            name = rng.choice([*STEPS])
            try:
                g = STEPS[name](rng, f)
            except (RuntimeError, ValueError):
                continue
            if g.requires_grad and 0 < g.numel() <= 300:
                f = g
                names.append(name)
        if f.dim() > 0 and f.numel() > 1:
            try:
                tied += check(f, x)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {names}") from error
    assert tied >= 30, f"only {tied} were tied"


def stencil(x: Tensor) -> Tensor:
    return x.roll(1, 0) + x.roll(-1, 0) + x.roll(1, 1) + x.roll(-1, 1) - 4 * x + x**3


def boundaries(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[0], out[-1] = x[0] * 2, x[-1] - 1
    out[1:-1] = x[2:] - 2 * x[1:-1] + x[:-2]
    return out


def inner(x: Tensor) -> Tensor:
    out = x.clone()
    out[1:-1, 1:-1] = x[2:, 1:-1] + x[:-2, 1:-1] + x[1:-1, 2:] + x[1:-1, :-2] - 4 * x[1:-1, 1:-1]
    return out


def test_windows_of_other_sizes() -> None:
    """One axis that lies along all elements of the output, and along its last axis."""
    x = leaf(4)
    check(F.pad(x, (0, 20)).view(6, 4) + x.roll(1), x)
    check(x.roll(1) + F.pad(x, (0, 20)).view(6, 4), x)


def test_one_figure_for_all_axes() -> None:
    """A convolution keeps a stride of one figure as it was given."""
    x = leaf(1, 1, 9, 8)
    f = F.conv2d(x, weights(1, 1, 3, 3), stride=(2,), padding=(1,), dilation=(2,))
    assert check(f, x) and f.grad_fn._saved_stride == (2,)


RESAMPLED = {
    "nearest": (1, 3),
    "nearest-exact": (1, 3),
    "linear": (1, 1),
    "bilinear": (2, 2),
    "bicubic": (2, 2),
    "trilinear": (3, 3),
}


@pytest.mark.parametrize("mode", RESAMPLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resampling(mode: str, dtype: torch.dtype) -> None:
    """By whole factors, told by sizes or by scales; and by others."""
    fewest, most = RESAMPLED[mode]
    for rank in range(fewest, most + 1):
        size = {1: 9, 2: 5, 3: 3}[rank]
        for factor in (1, 2, 3, 4, 5, 6, 7) if rank == 1 else (2, 3, 5) if rank == 2 else (2, 3):
            x = leaf(1, 1, *[size] * rank).detach().to(dtype).requires_grad_()
            by_size = F.interpolate(x, size=[factor * size] * rank, mode=mode)
            by_scale = F.interpolate(x, scale_factor=factor, mode=mode)
            for f in (by_size, by_scale):
                assert check(f, x) != (mode == "bicubic")
            for scale in (0.6, 1.5):
                check(F.interpolate(x, scale_factor=scale, mode=mode), x)
            assert check(F.interpolate(x, size=[2 * size + 1] * rank, mode=mode), x) != (mode == "bicubic")
            if "linear" in mode or "cubic" in mode:
                check(F.interpolate(x, scale_factor=factor, mode=mode, align_corners=True), x)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.9, 2.0, 3.0, -1.0])
def test_scales_that_contradict_the_sizes(scale: float) -> None:
    x = leaf(1, 1, 9)
    ops = torch.ops.aten
    check(ops.upsample_nearest1d(x, [18], scale), x)
    check(ops.upsample_linear1d(x, [18], False, scale), x)


EXACT = {
    "resampled to the nearest": (lambda x: F.interpolate(x, scale_factor=2), (1, 1, 8, 8), 1),
    "resampled between two": (lambda x: F.interpolate(x, scale_factor=2, mode="linear"), (1, 1, 40), 5),
    "convolution": (lambda x: F.conv2d(x, weights(1, 1, 3, 3), padding=1), (1, 1, 9, 9), 9),
    "of what is valid": (lambda x: F.conv3d(x, weights(1, 1, 2, 1, 3), padding="valid"), (1, 1, 4, 1, 9), 6),
    "of rows alone": (lambda x: F.conv2d(x, weights(1, 1, 1, 3)), (1, 1, 9, 9), 3),
    "strided": (lambda x: F.conv1d(x, weights(1, 1, 3), stride=3), (4, 1, 30), 1),
    "two, with relu": (
        lambda x: F.conv2d(F.conv2d(x, weights(4, 1, 3, 3)).relu(), weights(2, 4, 3, 3), stride=2),
        (1, 1, 24, 24),
        2 * 9,
    ),
    "groups": (lambda x: F.conv1d(x, weights(6, 2, 3), groups=3, padding=1), (1, 6, 20), 2 * 3),
    "transposed": (lambda x: F.conv_transpose1d(x, weights(1, 1, 4), stride=2, padding=1), (1, 1, 30), 4),
    "pooled": (lambda x: F.max_pool2d(x, 2), (1, 2, 12, 12), 1),
    "cut": (lambda x: x[3:-2:2] ** 2, (40,), 1),
    "differences": (lambda x: x[1:] - x[:-1], (40,), 2),
    "tridiagonal": (lambda x: torch.cat([x[:1], x[2:] - 2 * x[1:-1] + x[:-2], x[-1:]]), (40,), 3),
    "periodic": (stencil, (12, 12), 9),
    "samples of channels": (lambda x: F.conv1d(x, weights(2, 3, 3), padding=1), (5, 3, 12), 6),
    "unfolded": (lambda x: (F.pad(x, (1, 1)).unfold(0, 3, 1) * weights(3)).sum(-1), (40,), 3),
    "a loop": (lambda x: torch.stack([x[i] * x[i - 1] for i in range(40)]), (40,), 2),
    "boundaries": (boundaries, (40,), 3),
    "inner points": (inner, (9, 9), 9),
    "flipped twice": (lambda x: x.flip(0).roll(3, 0).flip(0) * x, (40,), 2),
}


@pytest.mark.parametrize("name", EXACT)
def test_colors(name: str) -> None:
    """So many at most; probes within the windows may leave fewer."""
    function, shape, colors = EXACT[name]
    x = leaf(*shape, seed=1)
    f = function(x)
    assert check(f, x)
    structure = find(f, x)
    assert structure is not None and structure.is_global
    assert structure.num_colors <= colors and structure.reason.startswith("axes")


@pytest.mark.parametrize("size", [7, 24, 25, 50, 200])
def test_colors_of_wide_windows(size: int) -> None:
    """The chromatic number of a power of a cycle or a path, for windows of all widths that save anything."""
    for width in range(2, size // 2, 1 if size < 60 else 9):
        x = weights(size).requires_grad_()
        turned = F.conv1d(F.pad(x.view(1, 1, -1), (width - 1, 0), mode="circular"), weights(1, 1, width)).view(-1)
        for f, passes in ((turned, math.ceil(size / (size // width))), (x.unfold(0, width, 1).prod(1), width)):
            if 2 * passes <= f.numel():
                structure = find(f, x)
                assert structure is not None and structure.num_passes == passes, (width, structure)
                expected = full_jacobian(f, x, create_graph=False, structure="dense")
                assert_close(jacobian_with(structure, f, x)[0], expected)


def test_patterns_of_windows_hold_for_all_values() -> None:
    def network(x: Tensor) -> Tensor:
        return F.conv2d(F.max_pool2d(F.conv2d(x, weights(2, 1, 3, 3), padding=1).relu(), 2), weights(1, 2, 3, 3))

    x, y = leaf(1, 1, 20, 20, seed=1), leaf(1, 1, 20, 20, seed=2)
    structure = find(network(x), x)
    assert structure is not None and structure.is_global
    assert_close(
        jacobian_with(structure, network(y), y)[0],
        full_jacobian(network(y), y, create_graph=False, structure="dense"),
    )


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda x: F.max_pool1d(x, 2, 1), lambda x: F.max_pool1d(F.pad(x, (1, 0)), 3, 1)),
        (lambda x: F.avg_pool1d(x, 2), lambda x: F.avg_pool1d(x, 3, 2, padding=1)),
        (lambda x: F.conv1d(x, weights(1, 1, 3)), lambda x: F.conv1d(x, weights(1, 1, 5), padding=1)),
        (lambda x: F.conv1d(x, weights(1, 1, 3), padding=1), lambda x: F.conv1d(x, weights(1, 1, 5), padding=2)),
        (lambda x: x.roll(1, 2), lambda x: x.roll(2, 2)),
        (lambda x: torch.cat([x, x[..., :1]], 2), lambda x: torch.cat([x[..., :1], x], 2)),
    ],
)
def test_signatures_tell_geometry_apart(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    x = leaf(1, 1, 12)
    signatures = [_C.analyze_axes(f(x), [x])[3] for f in (one, other, one)]
    assert signatures[0] == signatures[2] != signatures[1]
