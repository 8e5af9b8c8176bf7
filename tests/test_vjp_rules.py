"""The table of Nodes whose batched product is computed without engine and vmap: every row, against the row loop.

Values, what is recorded for second derivatives, and where NaN arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from cuda_graphs import GRAPHS, leaf
from cuda_operators import on_the_cpu
from problems import PROBLEMS
from random_ops import CASES, random_case
from structured import names_on
from test_op_db import DIFFERENTIABLE, EXCLUDED, problems, scale
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from highgrad_ext import _C, directional, full_jacobian, laplacian, nth_derivative
from highgrad_ext._reference import full_jacobian_loop

BATCH = 3
MAX_SECOND_ORDER = 400

MATRIX = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4) ** 3
RUNNING = torch.tensor([0.5, 1.5], dtype=torch.float64)
NOISE = torch.tensor([0.25, 1.0, 0.3, 1.0], dtype=torch.float64)
WIDE = torch.linspace(0.5, 2, 25, dtype=torch.float64)
SPARSE = torch.tensor([[0, 2.0], [0, 0], [-1, 3], [1, 0]], dtype=torch.float64).to_sparse()
PICTURES = torch.linspace(-1, 1.2, 40, dtype=torch.float64).sin().view(2, 2, 5, 2)


def jets(x: Tensor) -> Tensor:
    """Of compositions and products, along directions of different orders, summed, and all partial derivatives."""
    y = F.gelu(x @ MATRIX) * x.sin()
    _, first, second = directional(y, x, MATRIX[:2], (2, 1))
    all_second = nth_derivative(y.tanh().sum(), x, 2, method="taylor")
    assert isinstance(all_second, Tensor)
    parts = [*first, *second, laplacian(y.sigmoid(), x), nth_derivative(all_second.sum(), x, 1)]
    return torch.cat([part.reshape(-1) for part in (*parts, all_second)])


def written(x: Tensor) -> Tensor:
    """Copies, broadcast ones too, into views of views, and what is done to views in place."""
    y = x.new_zeros(3, 4).t()
    y[:, 1] = x
    y[1:3, ::2] = x[:2].sin()
    y.t()[2].mul_(x.cos())
    z = y.clone(memory_format=torch.contiguous_format)
    z.view(-1)[3:9].view(2, 3)[1].add_(x[:3], alpha=2).zero_()
    return y * z + z.exp()


def recorded_convolution(x: Tensor, groups: int, transposed: bool) -> Tensor:
    """The products of a convolution's backward by its input, its weight and its bias, as functions of the cotangent."""
    function = F.conv_transpose1d if transposed else F.conv1d
    inputs = torch.linspace(-1, 1, 8, dtype=x.dtype).view(1, 2, 4).requires_grad_()
    weight = torch.linspace(0.5, 2, 8 // groups, dtype=x.dtype).view(2, 2 // groups, 2).requires_grad_()
    bias = torch.zeros(2, dtype=x.dtype, requires_grad=True)
    y = function(inputs, weight, bias, stride=2, padding=1, groups=groups)
    cotangent = torch.cat([x, x.sin(), x.cos()])[: y.numel()].view(y.shape)
    products = torch.autograd.grad(y, (inputs, weight, bias), cotangent, create_graph=True)
    return torch.cat([product.flatten() for product in products])


# What neither of the databases records: here with a branch or a shape that they leave out.
EXTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "alias": lambda x: torch.ops.aten.alias(x).sin(),
    "clamp_max": lambda x: x.clamp_max(0.3),
    "scalar minus x": lambda x: 1 - x,
    "alpha": lambda x: torch.sub(torch.rsub(x, x.sin(), alpha=2), x, alpha=-3),
    "pow of exponents": lambda x: x**2 + x**3 + x**0 + (x * x) ** 1.5 + x**-1,
    "broadcast": lambda x: (x[:, None] * x + x[:1] / (x[:, None, None] ** 2 + 1)).sum(1),
    "several uses": lambda x: (y := x.sin()) * y + y.exp() * x,
    "unbind of which one is used": lambda x: x.view(2, 2).unbind(1)[1] ** 2,
    "split of which two are used": lambda x: torch.cat(x.split([1, 1, 2])[1:]) * x.split(3)[0][:1],
    "cat with nothing": lambda x: torch.cat([x.new_zeros(0), x, 2 * x.view(2, 2)[0]]),
    "addmm": lambda x: torch.addmm(x[:2], x.view(2, 2), x.view(2, 2).t(), beta=2, alpha=-3),
    "baddbmm": lambda x: torch.baddbmm(x.view(2, 1, 2), x.view(2, 2, 1), x.view(2, 1, 2).sin(), beta=2, alpha=-3),
    "addmv": lambda x: torch.addmv(x[:2], x.view(2, 2), x[2:], beta=2, alpha=-3),
    "index with a slice between": lambda x: x.view(1, 2, 2)[[0, 0, 0], :, [1, 0, 1]],
    "index of the middle": lambda x: x.view(2, 2, 1)[:, [1, 1, 0]] ** 2,
    "index of much at once": lambda x: (x.view(2, 2, 1) * WIDE)[:, [1, -2, 1]] ** 2,
    "indices of much at once": lambda x: (x.view(2, 2, 1) * WIDE)[torch.tensor([[0], [-1]]).int()] ** 2,
    "mask of much at once": lambda x: (x.view(2, 2, 1) * WIDE)[torch.tensor([False, True])] ** 2,
    "two indices of much at once": lambda x: (x.view(2, 2, 1) * WIDE)[[0, -1, 0], [1, 1, 1]] ** 2,
    "much put at indices": lambda x: (x.view(2, 2, 1) * WIDE).index_put(
        (torch.tensor([[1, -2]]),), x.view(2, 2, 1) * WIDE**2
    ),
    "much added at indices": lambda x: (x.view(2, 2, 1) * WIDE).index_put(
        (torch.tensor([-1, 1]),), x.view(2, 2, 1) * WIDE**2, accumulate=True
    ),
    "mask": lambda x: x[x > -0.5] ** 2,
    "roll in row-major order": lambda x: x.view(2, 2).roll(1) ** 2,
    "reductions of all dims": lambda x: x.view(2, 2).sum((0, 1)) * x.view(2, 2).mean((-1, 0), keepdim=True),
    "ties": lambda x: torch.maximum(x, x.clone()) + torch.minimum(x, x.abs()),
    "clamp at its bounds": lambda x: x.clamp(0.0, 0.4) + x.clamp(min=0.8) + x.clamp(max=-1.3) + x.clamp(0.4, 0.4),
    "clamp_min and clamp_max at their bounds": lambda x: x.clamp_min(0.4) * x.clamp_max(0.8),
    "kinks": lambda x: F.hardtanh(x, 0.0, 0.8) + F.relu6(x) + F.threshold(x, 0.4, 0.1) + x.abs() + F.leaky_relu(x),
    "ties of reductions": lambda x: (y := torch.stack([x, x.clone(), -x])).amax(0) * y.amin(0) + y.max(0).values,
    "f is its wrt": lambda x: x,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.6),
    "softplus past its threshold": lambda x: F.softplus(x, beta=2, threshold=1),
    "weight norm by its length": lambda x: torch._weight_norm(MATRIX, x.view(4, 1), 0),
    "batch norm by its parameters": lambda x: F.batch_norm(MATRIX, None, None, x, x.sin(), True),
    "batch norm by running statistics": lambda x: F.batch_norm(x.view(1, 2, 2), RUNNING, RUNNING, RUNNING, RUNNING),
    "batch norm of one channel": lambda x: F.batch_norm(x.view(2, 1, 2), None, None, x[:1], x[1:2], True),
    "group norm by all": lambda x: F.group_norm(x.view(1, 4), 2, x, x.cos()),
    "layer norm of everything": lambda x: F.layer_norm(x.view(2, 2), (2, 2), x.view(2, 2), x.view(2, 2).cos()),
    "overlapping max pool of an image": lambda x: F.max_pool2d(x.view(1, 2, 2), 2, stride=1, padding=1) ** 2,
    "average pool of an image": lambda x: F.avg_pool2d(x.view(1, 2, 2), 2, stride=1, padding=1) ** 2,
    "adaptive pool of an image": lambda x: F.adaptive_avg_pool2d(x.view(1, 2, 2), (2, 1)) ** 2,
    "two pictures, interpolated": lambda x: F.interpolate(x.view(2, 1, 2), scale_factor=1.5, mode="linear") ** 2,
    "native dropout": lambda x: torch.native_dropout(x, 0.5, True)[0] * torch.native_dropout(x, 0.5, False)[0],
    "dropout of everything": lambda x: torch.native_dropout(x, 1.0, True)[0] + x,
    "attention with a mask": lambda x: F.scaled_dot_product_attention(
        x.view(1, 1, 2, 2), x.view(1, 1, 2, 2).sin(), x.view(1, 1, 2, 2), attn_mask=MATRIX[:2, :2]
    ),
    "attention to nothing": lambda x: F.scaled_dot_product_attention(
        x.view(1, 1, 2, 2),
        x.view(1, 1, 2, 2).sin(),
        x.view(1, 1, 2, 2),
        attn_mask=torch.tensor([[True, True], [False] * 2]),
    ),
    "causal attention": lambda x: F.scaled_dot_product_attention(
        x.view(1, 2, 2, 1), x.view(1, 2, 2, 1), x.view(1, 2, 2, 1).sin(), is_causal=True
    ),
    "attention by keys": lambda x: F.scaled_dot_product_attention(
        MATRIX[None, None], x.view(1, 1, 1, 4), MATRIX[:1][None, None]
    ),
    "padded embedding": lambda x: F.embedding(torch.tensor([[0, 1], [3, 1]]), x.view(4, 1), padding_idx=1) ** 2,
    "ignored classes": lambda x: F.cross_entropy(x.view(2, 2), torch.tensor([1, -100]), weight=RUNNING),
    "a class for each": lambda x: F.nll_loss(x.view(2, 2), torch.tensor([1, -100]), reduction="none") * x[0],
    "a number's squared error": lambda x: F.mse_loss(x[0], x[1]) + F.mse_loss(x[2], x[3], reduction="none"),
    "distances of equal points": lambda x: torch.cdist(x.view(4, 1), x.detach().view(4, 1)),
    "multiplied by a number": lambda x: torch.ops.aten.mul.Scalar(x, -2.5),
    "divided by a number": lambda x: torch.ops.aten.div.Scalar(x, -2.5),
    "a vector by a matrix": lambda x: MATRIX @ x + x @ MATRIX,
    "squeezed in place": lambda x: x.view(1, 4, 1).sin().squeeze_() * x.view(1, 4).sin().squeeze_((0,)),
    "transposed in place": lambda x: x.view(1, 2, 2).sin().transpose_(-1, 0) ** 2,
    "recorded convolution": lambda x: recorded_convolution(x, 1, transposed=False),
    "recorded convolution of groups": lambda x: recorded_convolution(x, 2, transposed=False),
    "recorded transposed convolution": lambda x: recorded_convolution(x, 1, transposed=True),
    "recorded transposed convolution of groups": lambda x: recorded_convolution(x, 2, transposed=True),
    "kernels of groups": lambda x: F.conv2d(PICTURES, x.view(2, 1, 1, 2), None, (2, 1), 1, (1, 2), groups=2),
    "transposed kernels of groups": lambda x: F.conv_transpose2d(
        PICTURES, x.view(2, 1, 1, 2), x[:2], (2, 1), (0, 1), (1, 0), 2, (2, 1)
    ),
    "kernels with more padding than kernel": lambda x: F.conv1d(PICTURES[..., 0], x.view(1, 2, 2).sin(), padding=3),
    "bilinear layer": lambda x: F.bilinear(x.view(2, 2), x.view(2, 2).sin(), MATRIX[:1].view(1, 2, 2) * x[0], x[:1]),
    "solve by a vector": lambda x: torch.linalg.solve(x.view(2, 2) + MATRIX[:2, :2], x[:2]),
    "solve from the right": lambda x: torch.linalg.solve(x.view(2, 2).t(), x.view(2, 2).sin(), left=False),
    "solve stored column by column": lambda x: torch.linalg.solve((x.view(2, 2) + MATRIX[2:, 2:]).mT, x.view(2, 2)),
    "solves of a batch": lambda x: torch.linalg.solve(x.view(2, 1, 2) + MATRIX.view(2, 4, 2)[:, :2], x.view(2, 2, 1)),
    "upper triangles from the right": lambda x: torch.linalg.solve_triangular(
        x.view(2, 2) + 2, x.view(1, 2, 2)[0].sin(), upper=True, left=False
    ),
    "upper Cholesky factor": lambda x: torch.linalg.cholesky(x.outer(x) + 2 * torch.eye(4, dtype=x.dtype), upper=True),
    "solved by an upper Cholesky factor": lambda x: torch.cholesky_solve(
        x.view(2, 2).sin(), x.view(2, 2).triu() + 2 * torch.eye(2, dtype=x.dtype), upper=True
    ),
    "determinants": lambda x: torch.linalg.det(torch.stack([x.view(2, 2), x.view(2, 2).sin().mT])),
    "determinants, one of them zero": lambda x: torch.linalg.det(torch.stack([x.view(2, 2), x.view(2, 2) * 0])),
    "products with a zero": lambda x: x.prod() + x.view(2, 2).prod(1) + x.cumprod(0)[:2],
    "products without zeros": lambda x: (
        (x + 3).prod() + (x + 3).view(2, 2).prod(0, keepdim=True).T + (x + 3).view(2, 2).cumprod(0)
    ),
    "norms of order 1 and 2": lambda x: x.norm(1) + torch.ops.aten.norm.Scalar(x, 2) + x.view(2, 2).norm(dim=0),
    "deviations": lambda x: torch.stack([x, x.sin()]).std(1, correction=0) * x.std(),
    "largest of all": lambda x: torch.cat([x, x]).max() * x.min(),
    "trace of a wide matrix": lambda x: x.outer(x)[:2, 1:].trace(),
    "mean of bags, one of them empty": lambda x: F.embedding_bag(
        torch.tensor([1, 0, 0]), x.view(2, 2).sin(), torch.tensor([0, 2, 2]), mode="mean"
    ),
    "bags with the last offset": lambda x: F.embedding_bag(
        torch.tensor([1, 0, 1]), x.view(2, 2), torch.tensor([0, 1, 3]), mode="sum", include_last_offset=True
    ),
    "kinks of hard functions": lambda x: F.hardshrink(x, 0.4) + F.softshrink(x, 0.4) + F.hardsigmoid(x * 7.5),
    "prelu": lambda x: F.prelu(x.view(2, 2) + 0.1, x[:2]) + F.prelu(x[1], x[:1]),
    "random relu": lambda x: F.rrelu(x, 0.2, 0.4) + torch.ops.aten.rrelu_with_noise(x, NOISE, 0.2, 0.4, True),
    "losses of single numbers": lambda x: F.smooth_l1_loss(x[0], x[1]) + F.huber_loss(x[1], x[3], reduction="sum"),
    "logits with weights": lambda x: F.binary_cross_entropy_with_logits(
        x, MATRIX[0] ** 2, MATRIX[1] ** 2, pos_weight=MATRIX[2] ** 2, reduction="sum"
    ),
    "classes of pixels": lambda x: F.nll_loss(x.view(1, 2, 1, 2), torch.tensor([[[1, -100]]]), RUNNING),
    "added at places": lambda x: x.scatter_add(0, torch.tensor([1, 1]), x[1:] ** 2).index_add(
        0, torch.tensor([3, 0]), x[:2].sin(), alpha=-2
    ),
    "pixels of an image": lambda x: F.pixel_shuffle(x.view(4, 1, 1), 2) * F.pixel_unshuffle(x.view(1, 2, 2), 2).sum(),
    "padding of an image": lambda x: F.pad(x.view(1, 2, 2), (1, 0, 1, 1), mode="reflect") ** 2,
    "writes into views": lambda x: written(x),
    "writes of numbers": lambda x: (y := x.sin())[1:3].fill_(2.0) * (y * y)[2:].mul_(x[2:]) + y.clone().fill_(x[0])[:2],
    "filled": lambda x: torch.fill(x.sin(), x[0]) * x + x.sin().fill_(2.0) * x,
    "writes by indices": lambda x: (
        x.sin()
        .index_put((torch.tensor([2, 0]),), x[:2] ** 2)
        .index_put((torch.tensor([1, 1]),), x[2:] ** 3, accumulate=True)
    ),
    "mirrored kernels": lambda x: (
        F.conv2d(x.view(1, 1, 2, 2), PICTURES[:, :1, :3], padding=(1, 1), dilation=(1, 1))
        + F.conv2d(x.view(1, 1, 2, 2), PICTURES[:1, 1:, :2], padding=(2, 2), dilation=(3, 3)).sum()
    ),
    "taken from the end": lambda x: x.take(torch.tensor([[-1, 0], [0, 2]])) ** 2,
    "put": lambda x: (
        x.sin().put(torch.tensor([-1, 0, 0]), x[:3] ** 2, accumulate=True)
        * x.view(2, 2).put(torch.tensor([[1, -2]]), x[2:].view(2, 1).sin()).flatten()
    ),
    "scattered by a mask": lambda x: x.view(2, 2).masked_scatter(torch.tensor([True, False]), x.sin()) ** 2,
    "largest and smallest so far": lambda x: x.view(2, 2).cummax(1).values * x.view(2, 2).sin().cummin(-2).values,
    "unpooled": lambda x: (
        F.max_unpool2d(x.view(1, 2, 2), torch.tensor([[[3, 0], [8, 5]]]), 2, stride=1)
        * F.max_unpool3d(x.view(1, 1, 1, 2, 2), torch.tensor([[[[[1, 0], [8, 5]]]]]), (1, 2, 2), stride=1)[0, 0]
    ),
    "largest of bags, one of them empty": lambda x: F.embedding_bag(
        torch.tensor([1, 0, 0]), x.view(2, 2).sin(), torch.tensor([0, 2, 2]), mode="max"
    ),
    "weighted bags": lambda x: F.embedding_bag(
        torch.tensor([[1, 0], [1, 1]]), x.view(2, 2).sin(), per_sample_weights=x.view(2, 2).cos(), mode="sum"
    ),
    "grid of an affine map": lambda x: F.affine_grid(
        x.view(1, 2, 2) @ MATRIX[:2, :3], [1, 1, 2, 2], align_corners=False
    ),
    "by a sparse matrix": lambda x: (
        torch.sparse.mm(SPARSE, x.view(2, 2)) * (SPARSE.to_sparse_csr() @ x.view(2, 2).sin())
    ),
    "sum with a sparse product": lambda x: torch.sparse.addmm(x.view(4, 1), SPARSE, x[:2, None], beta=3, alpha=-2),
    "normalized without aliasing": lambda x: torch.ops.aten._native_batch_norm_legit(
        x.view(2, 2), x[:2], x[2:], RUNNING.clone(), RUNNING.clone(), True, 0.1, 1e-5
    )[0],
    "derivative by a spectrum": lambda x: (
        torch.fft.irfft(1j * torch.arange(3) * torch.fft.rfft(x), n=4)
        + torch.fft.irfft(torch.fft.rfft(x, norm="ortho"), n=4, norm="forward") * x
    ),
    "spectra of odd length": lambda x: (
        torch.fft.irfft((y := torch.fft.rfft(x[:3])) * y + (2 - 1j) * y, n=3, norm="ortho") * torch.fft.hfft(y, n=3)
    ),
    "spectra of planes": lambda x: (
        torch.fft.irfft2((y := torch.fft.rfft2((plane := x.outer(x.sin())[:, :3]).T, dim=(1, 0))) * y.conj(), s=(4, 3))
        + torch.fft.ifft2(torch.fft.fft2(plane, norm="forward") * (0.5 - 2j)).real
        + torch.fft.fft(plane, dim=0).imag
    ),
    "parts of complex numbers": lambda x: (
        (y := torch.complex(x, x.cos()))[:3].abs()
        * (y[1:] / torch.view_as_complex(x.view(2, 2))[:1] - y[:3].exp() * x[0]).real
        + torch.view_as_real(y.conj()[:3] - 3 * y[1:]).sum(1)
        - (y / (2 + 1j) + 1).imag[:3]
        + torch.sub(y, y * y, alpha=2 - 1j).real[:3]
    ),
    "complex matrices": lambda x: torch.view_as_real(
        (y := torch.complex(x, x.exp()).view(2, 2)) @ y.mH
        + torch.bmm(y.view(2, 1, 2), torch.stack([y, x.view(2, 2) * y])).mT
    ),
    "a number times a logarithm": lambda x: torch.special.xlogy(2.0, x + 2) * x,
    "clamped by tensors at their bounds": lambda x: (
        x.sin().clamp(x.sin(), x.view(2, 2).t().reshape(4))
        + x.clamp_min(torch.stack([x, x.flip(0)]))
        + x.clamp_max(x.relu())
        + x.clamp(min=x.abs() - 0.4) * x.clamp(max=x.cos())
    ),
    "ties of fmax": lambda x: torch.fmax(x, x.clone()) * torch.fmin(x.view(2, 2), x[:2]).flatten(),
    "filled twice": lambda x: x.sin().index_fill(0, torch.tensor([1, 3, 1]), x[0]) ** 2,
    "filled where a mask is": lambda x: x.view(2, 2).sin().masked_fill(torch.tensor([True, False]), x[3]) ** 2,
    "ties of scattered extrema": lambda x: (
        x.scatter_reduce(0, torch.tensor([2, 1, 2, 2]), x.view(2, 2).t().reshape(4), "amax")
        * x.scatter_reduce(0, torch.tensor([0, 0, 0, 3]), x.sin(), "amin", include_self=False)
    ),
    "scattered means": lambda x: (
        x.view(2, 2).scatter_reduce(1, torch.tensor([[1, 1]]), x[:2].view(1, 2).sin(), "mean", include_self=False)
        * x.view(2, 2).scatter_reduce(0, torch.tensor([[1, 1], [1, 0]]), x.view(2, 2).cos(), "mean")
    ),
    "blocks": lambda x: torch.block_diag(x[:2].sin(), x.view(2, 2), x[3]) ** 2,
    "singular vectors of wide and tall matrices": lambda x: torch.cat(
        [
            (product := torch.linalg.svd(torch.outer(x[:2], x[1:] + 3) + MATRIX[:2, :3], full_matrices=False)).S,
            (product.U @ MATRIX[:2, :2]).pow(2).flatten(),
            torch.linalg.svd(x.view(4, 1) + MATRIX[:, :2], full_matrices=False).U.abs().flatten(),
            torch.linalg.svd(x + MATRIX[:2], full_matrices=False).Vh.abs().flatten(),
        ]
    ),
    "factors of tall matrices": lambda x: (
        (factors := torch.linalg.qr(x.view(4, 1) * MATRIX[:, 1:3] + MATRIX[:, :2])).Q @ factors.R.sin()
    ),
    "jets": jets,
    "overlapping adaptive max pool": lambda x: F.adaptive_max_pool2d(x.view(1, 1, 4), (1, 3)) ** 2,
}


def graphs() -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    for name, function in EXTRA.items():
        x = torch.tensor([-1.3, 0.4, 0.0, 0.8], dtype=torch.float64, requires_grad=True)
        yield name, function(x), [x]
    for problem in PROBLEMS:
        x = torch.linspace(-1.3, 1.1, problem.size, dtype=torch.float64).requires_grad_()
        yield problem.name, problem.build(x), [x]
    for name in CASES:
        for seed in range(3):
            try:
                f, x = random_case(name, seed)
            except (RuntimeError, ValueError):
                continue
            yield name, f, [x]
    for op in DIFFERENTIABLE:
        if op.formatted_name in EXCLUDED:
            continue
        for function, inputs in problems(op):
            for f in function(*inputs):
                yield op.formatted_name, f, list(inputs)


def cotangents_of(f: Tensor) -> Tensor:
    values = torch.linspace(0.5, 1.5, BATCH * f.numel(), dtype=f.dtype)
    return values.view(BATCH, *f.shape)


def compare(name: str, f: Tensor, inputs: list[Tensor], met: set[str]) -> None:
    """One batch of products, recorded, and the gradient of a sum of them."""
    if not f.requires_grad or f.numel() == 0:
        return
    cotangents = cotangents_of(f).requires_grad_()
    rows = _C.program_vjp(f, cotangents, inputs, True)
    plain = _C.program_vjp(f, cotangents.detach(), inputs, False)
    if plain is None:
        assert rows is None
        return
    met |= names_on(f)
    loop = [torch.autograd.grad(f, inputs, cotangent, create_graph=True, allow_unused=True) for cotangent in cotangents]
    for j, row in enumerate(plain):
        assert (row is None) == (loop[0][j] is None), name
        if row is not None:
            expected = torch.stack([grads[j] for grads in loop])
            for got in (row, row if rows is None else rows[j]):
                assert_close(got, expected, equal_nan=True, rtol=1e-9, atol=1e-11 * scale(expected), msg=name)
    check_nan(name, f, inputs)
    if rows is None or "LogcumsumexpBackward0" in names_on(f):
        return  # torch has no second derivatives of the latter: they are compared with others below
    check_second_order(name, rows, loop, [cotangents, *inputs])
    products = [row for row in rows if row is not None and row.requires_grad]
    for product in products[:1]:
        if name != "recorded" and product.numel() <= MAX_SECOND_ORDER:
            single = torch.autograd.grad(f, inputs, cotangents[0], create_graph=True, allow_unused=True)
            for g in single:
                if g is not None and g.requires_grad:
                    compare("recorded", g, [cotangents, *inputs], met)


def check_second_order(
    name: str, rows: list[Tensor | None], loop: list[tuple[Tensor | None, ...]], by: list[Tensor]
) -> None:
    def weighted(products: list[Tensor]) -> list[Tensor | None]:
        total = sum((p * torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view(p.shape)).sum() for p in products)
        if not isinstance(total, Tensor) or not total.requires_grad:
            return [None] * len(by)
        return list(torch.autograd.grad(total, by, allow_unused=True, retain_graph=True))

    defined = [j for j, row in enumerate(rows) if row is not None]
    try:
        expected = weighted([torch.stack([grads[j] for grads in loop]) for j in defined])
    except RuntimeError:
        return  # no double backward
    got = weighted([row for row in rows if row is not None])
    for a, b in zip(got, expected, strict=True):
        if b is None:
            assert a is None or not a.any(), name
        else:
            a = torch.zeros_like(b) if a is None else a
            assert_close(a, b, equal_nan=True, rtol=1e-8, atol=1e-10 * scale(b), msg=name)


def check_nan(name: str, f: Tensor, inputs: list[Tensor]) -> None:
    """NaN in one element of the cotangent arrives wherever the loop's NaN arrives, and where the value is not zero."""
    if f.numel() > 40:
        return
    eye = torch.eye(f.numel(), dtype=f.dtype).view(f.numel(), *f.shape)
    values = _C.program_vjp(f, eye, inputs, False)
    probes = _C.program_vjp(f, torch.where(eye == 1, torch.nan, eye), inputs, False)
    assert values is not None and probes is not None
    for value, probe in zip(values, probes, strict=True):
        if value is not None and probe is not None:
            assert not ((value != 0) & ~probe.isnan()).any(), name


@pytest.mark.filterwarnings("ignore")
def test_every_rule() -> None:
    met: set[str] = set()
    for name, f, inputs in graphs():
        compare(name, f, inputs, met)
    with on_the_cpu():
        for name, graph in GRAPHS.items():
            x = leaf()
            compare(name, graph.fused(x), [x], met)
        compare("fused dropout", torch.ops.aten._fused_dropout(x.sin(), 0.4)[0], [x], met)
    # Of single precision alone, test_recurrent_layers.py; and of CUDA alone, test_cuda_nodes.py.
    met |= {"MkldnnRnnLayerBackward0", "CtcLossBackward1", "CudnnCtcLossBackward1", "FusedRmsNormBackward0"}
    assert set(_C.vjp_rules()) - met == set(), "rules that no graph meets"


def test_weight_norm() -> None:
    """torch's own double backward takes the norm for a constant."""
    v = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    for dim in (0, 1):
        g = torch.linspace(1, 2, v.shape[dim], dtype=v.dtype).view(v.shape[dim], 1).requires_grad_()
        length = g if dim == 0 else g.t()
        got = full_jacobian(torch._weight_norm(v, length, dim), (v, g))
        expected = full_jacobian(v * (length / v.norm(dim=1 - dim, keepdim=True)), (v, g))
        assert_close(got, expected)
        assert_close(*(torch.autograd.grad(j[0].pow(2).sum() + j[1].sum(), (v, g)) for j in (got, expected)))


@pytest.mark.parametrize(
    "first",
    [
        lambda f, v: full_jacobian(f, v, batch_dims=1),
        lambda f, v: nth_derivative(f, v, 1, batch_dims=1),
        lambda f, v: torch.stack(list(directional(f, v, torch.eye(2).unsqueeze(1), 1, batch_dims=1)[1]), 1),
    ],
)
def test_weight_norm_of_samples(first: Callable[[Tensor, Tensor], Tensor]) -> None:
    v = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    length = torch.linspace(1, 2, 3, dtype=v.dtype).view(3, 1)
    got = first(torch._weight_norm(v, length, 0).sin().sum(1), v)
    expected = first((v * (length / v.norm(dim=1, keepdim=True))).sin().sum(1), v)
    assert_close(got, expected)
    assert_close(*(torch.autograd.grad(j.pow(2).sum(), v)[0] for j in (got, expected)))


def test_the_deviation_of_equal_elements() -> None:
    """torch's own double backward has NaN by the cotangents."""
    x = torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    jacobian = full_jacobian(x.std(1), x)
    assert_close(jacobian, full_jacobian_loop(x.std(1), x))
    got = torch.autograd.grad(jacobian[0, 0, 0] + jacobian[1].sum(), x)[0]
    assert_close(got[0], torch.autograd.grad(full_jacobian(x[0].std(), x)[0, 0], x)[0][0])
    assert got.isfinite().all()


ROOTS_AT_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: x.max().sqrt() * x.new_ones(3),
    "min": lambda x: x.neg().min().sqrt() * x.new_ones(3),
    "median": lambda x: x[3:].median().sqrt() * x.new_ones(3),
    "nanmedian": lambda x: x[3:].nanmedian().sqrt() * x.new_ones(3),
    "cdist": lambda x: torch.cdist(x.view(3, 2), x.view(3, 2)).sqrt(),
    "hardswish": lambda x: F.hardswish(x - 3.5).sqrt(),
    "cdist of two": lambda x: torch.cdist(x.view(3, 2), x.detach().view(3, 2)).sqrt(),
    "deviation": lambda x: (x[3:] - x[3:].detach()).std().sqrt() * x.new_ones(3),
}


@pytest.mark.parametrize("name", ROOTS_AT_ZERO)
def test_infinite_cotangents_of_what_is_chosen(name: str) -> None:
    """What is not chosen, is flat, or has no direction, has zero, as torch's row loop has it."""
    x = torch.tensor([0.0, -1.0, -3.0, 0.0, -2.0, 0.0], dtype=torch.float64).requires_grad_()
    f = ROOTS_AT_ZERO[name](x)
    expected = full_jacobian_loop(f, x)
    assert_close(full_jacobian(f, x, create_graph=False), expected)
    assert_close(full_jacobian(f, x), expected)


@pytest.mark.parametrize("choose", [torch.max, torch.min, torch.median, torch.nanmedian])
def test_nan_is_chosen(choose: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([1.0, torch.nan, 2.0, torch.nan, 5.0], dtype=torch.float64).requires_grad_()
    f = torch.stack([choose(x), 2 * choose(x), choose(x[1:2])])
    expected = full_jacobian_loop(f, x)
    assert_close(full_jacobian(f, x, create_graph=False), expected)


@pytest.mark.parametrize("function", [F.hardtanh, F.relu6, F.hardshrink, F.softshrink, F.hardsigmoid, F.hardswish])
def test_nan_in_vectors(function: Callable[[Tensor], Tensor]) -> None:
    """Kernels of torch do to NaN in whole vectors other than to NaN behind the last of them."""
    x = torch.linspace(-4, 7, 21, dtype=torch.float64)
    x[::3] = torch.nan
    x = x.requires_grad_()
    f = function(x)
    assert_close(full_jacobian(f, x, structure="dense").detach(), full_jacobian_loop(f, x), equal_nan=True)


@pytest.mark.parametrize("beside", [lambda x: x, torch.special.i1], ids=["alone", "beside an unknown Node"])
@pytest.mark.parametrize("dim", [0, 1])
def test_cumulative_logsumexp_is_differentiable_again(beside: Callable[[Tensor], Tensor], dim: int) -> None:
    """torch's own backward takes logarithms of its cotangents, and loses the derivatives by those that are zero."""
    x = torch.linspace(-3, 2, 12, dtype=torch.float64).view(4, 3).sin().requires_grad_()
    weight = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)

    def jacobian(f: Tensor) -> Tensor:
        return full_jacobian(((f * x.sin()) @ weight) * x.relu().sum() + beside(x).sum(), x)

    running = [x.narrow(dim, 0, i + 1).logsumexp(dim, keepdim=True) for i in range(x.shape[dim])]
    got, expected = jacobian(x.logcumsumexp(dim)), jacobian(torch.cat(running, dim))
    assert_close(got, expected)
    assert_close(*(torch.autograd.grad(j.pow(2).sum(), x)[0] for j in (got, expected)))


def test_attention_is_differentiable_again() -> None:
    """torch's own backward of it is not."""
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(1, 2, 4, 3).requires_grad_()

    def hessian(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            f = F.scaled_dot_product_attention(x, x.sin(), x.cos(), is_causal=True)
        return torch.autograd.grad(full_jacobian(f.sum(-1), x).pow(2).sum(), x)[0]

    assert_close(hessian(SDPBackend.FLASH_ATTENTION), hessian(SDPBackend.MATH))


inf, nan = float("inf"), float("nan")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 6.0, 88.0, inf, -inf, nan, 1e-200, -1e200]
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt")
    },
    **{name: getattr(torch, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh")},
    **{
        name: getattr(torch, name) for name in ("acosh", "atanh", "tanh", "sigmoid", "erf", "abs", "reciprocal", "relu")
    },
    **{name: getattr(F, name) for name in ("leaky_relu", "elu", "gelu", "softplus", "silu", "hardtanh", "relu6")},
    **{f"to the power of {n}": lambda x, n=n: x**n for n in (0, 0.5, 1, 1.5, 2, 3, 4, -1, -2)},
    "threshold": lambda x: F.threshold(x, 0.5, 1.0),
    "clamp": lambda x: x.clamp(-1, 1),
    "where": lambda x: torch.where(x > 0, x.log(), x),
    "softmax": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp(0, keepdim=True),
}
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    name: getattr(torch, name) for name in ("atan2", "mul", "div", "pow", "maximum", "minimum")
}


@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_arguments(name: str, create_graph: bool) -> None:
    for argument in SPECIAL:
        for others in ([0.3], [argument, -0.7]):
            x = torch.tensor([argument, *others], dtype=torch.float64, requires_grad=True)
            f = FUNCTIONS[name](x)
            actual = full_jacobian(f, x, create_graph=create_graph, structure="dense", mode="reverse")
            assert_close(actual, full_jacobian_loop(f, x), rtol=1e-12, atol=0, equal_nan=True, msg=f"at {argument}")


@pytest.mark.parametrize("name", PAIRS)
def test_special_pairs(name: str) -> None:
    for first in SPECIAL:
        for second in SPECIAL:
            x = torch.tensor([first, 0.3], dtype=torch.float64, requires_grad=True)
            y = torch.tensor([second, 0.6], dtype=torch.float64, requires_grad=True)
            f = PAIRS[name](x, y)
            jacobians = full_jacobian(f, (x, y), create_graph=False, structure="dense", mode="reverse")
            for actual, wrt in zip(jacobians, (x, y), strict=True):
                expected = full_jacobian_loop(f, wrt).detach()
                assert_close(actual, expected, rtol=1e-12, atol=0, equal_nan=True, msg=f"at {first}, {second}")


def test_a_loss_without_classes_has_zeros() -> None:
    """As in torch's first derivatives; its second ones, of a mean over nothing, are NaN."""
    x = torch.ones(2, 3, requires_grad=True)
    loss = F.cross_entropy(x, torch.tensor([1, 1]), ignore_index=1)
    for create_graph in (False, True):
        assert_close(full_jacobian(loss, x, create_graph=create_graph), torch.zeros(2, 3))


def test_more_rows_than_a_matrix_exponential_has_elements() -> None:
    x = torch.linspace(-1.3, 1.1, 12, dtype=torch.float64).sin().view(3, 2, 2).requires_grad_()
    f = torch.matrix_exp(x)
    cotangents = torch.linspace(0.5, 1.5, 7 * 12, dtype=torch.float64).cos().view(7, 3, 2, 2).requires_grad_()
    rows = _C.program_vjp(f, cotangents, [x], True)
    assert rows is not None
    loop = [torch.autograd.grad(f, [x], cotangent, create_graph=True) for cotangent in cotangents]
    assert_close(rows[0], torch.stack([row for (row,) in loop]))
    check_second_order("matrix_exp", rows, loop, [cotangents, x])
