"""Rows of the table that keep samples apart by axes alone: proved without a probe, and right for batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from structured import constant, find, mask_of_ties, names_on
from test_sparse_results import by_sample
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian, plan
from highgrad_ext._reference import full_jacobian_loop

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLES = 5
la = torch.linalg


def module(kind: Callable[..., nn.Module], *arguments: int, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments, **options).double()


def symmetric(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


def in_place(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: change(x * 1).sin()


def index_of(x: Tensor) -> Tensor:
    return torch.arange(x.numel()).view(x.shape) % x.shape[-1]


# The Node that the row is of, and what records it from [SAMPLES, 3, 3].
BATCHED: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("LinalgDet", la.det),
    ("LinalgSlogdet", lambda x: la.slogdet(x)[1]),
    ("LinalgCholeskyEx", lambda x: la.cholesky(symmetric(x))),
    ("LinalgEigh", lambda x: la.eigh(symmetric(x))[1].abs()),
    ("LinalgEigh", lambda x: la.eigvalsh(symmetric(x))),
    ("LinalgEig", lambda x: la.eigvals(x).abs()),
    ("LinalgEig", lambda x: la.eig(x)[1].abs()),
    ("LinalgSvd", lambda x: torch.cat([part.abs().flatten(1) for part in la.svd(x)], 1)),
    ("LinalgSvd", la.svdvals),
    ("LinalgQr", lambda x: torch.cat(la.qr(x), 1)),
    ("LinalgPinv", la.pinv),
    ("LinalgLstsq", lambda x: la.lstsq(x, x[..., :2].sin())[0]),
    ("LinalgLstsq", lambda x: la.lstsq(x, x[..., 0].sin())[0]),
    ("LinalgMatrixExp", torch.matrix_exp),
    ("LinalgLuFactorEx", lambda x: la.lu_factor(x)[0]),
    ("LinalgLuBackward", lambda x: torch.cat(la.lu(x)[1:], 1)),
    ("LinalgLuSolve", lambda x: la.lu_solve(*la.lu_factor(x), x.sin())),
    ("LuUnpack", lambda x: torch.lu_unpack(*la.lu_factor(x))[1]),
    ("LinalgHouseholderProduct", lambda x: la.householder_product(x.tril(), constant(SAMPLES, 3))),
    ("Ormqr", lambda x: torch.ormqr(constant(SAMPLES, 3, 3), constant(SAMPLES, 3), x)),
    ("LinalgHouseholderProduct", lambda x: la.householder_product(x.tril(), x[..., 0].sin())),
    ("Ormqr", lambda x: torch.ormqr(x.tril(), x[..., 0].sin(), x.cos())),
    ("LinalgSolveEx", lambda x: la.solve(x.sin(), symmetric(x), left=False)),
    ("CholeskySolve", lambda x: torch.cholesky_solve(x.sin(), la.cholesky(symmetric(x)))),
    ("CholeskyInverse", lambda x: torch.cholesky_inverse(la.cholesky(symmetric(x)))),
    ("TriangularSolve", lambda x: torch.triangular_solve(x.sin(), symmetric(x))[0]),
    ("LinalgSolveEx", lambda x: la.solve(symmetric(x), x[..., 0])),
    ("LinalgInvEx", la.inv),
    ("LinalgSolveTriangular", lambda x: la.solve_triangular(symmetric(x).tril(), x.sin(), upper=False)),
    ("Cdist", lambda x: torch.cdist(x, x + 1)),
    ("Logcumsumexp", lambda x: x.logcumsumexp(-1)),
    ("FlashAttentionForCpu", lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None].sin(), x[:, None])),
    ("TransposeBackward1", in_place(lambda y: y.transpose_(1, 2))),
    ("SqueezeBackward3", in_place(lambda y: y[:, :, :1].clone().squeeze_())),
    ("SqueezeBackward5", in_place(lambda y: y[:, :1, :1].clone().squeeze_((1, 2)))),
    ("UnsqueezeBackward1", in_place(lambda y: y.unsqueeze_(-1))),
    ("EluBackward1", in_place(lambda y: F.elu(y, inplace=True))),
    ("CeluBackward1", in_place(lambda y: F.celu(y, inplace=True))),
    ("LeakyReluBackward1", in_place(lambda y: F.leaky_relu(y, inplace=True))),
    ("ThresholdBackward1", in_place(lambda y: F.threshold(y, 0.1, 0.2, inplace=True))),
    ("TransposeBackward1", lambda x: module(nn.RNN, 3, 2, batch_first=True)(x)[0]),
    ("Stack", lambda x: module(nn.LSTM, 3, 2, batch_first=True)(x)[0]),
    ("", lambda x: module(nn.MultiheadAttention, 3, 1, batch_first=True)(x, x, x)[0]),
    ("Diagonal", lambda x: x.diagonal(0, -2, -1) * 2),
    ("Diagonal", lambda x: x.diagonal(1, 1, 2) * 2),
    ("DiagEmbed", lambda x: x[:, 0].diag_embed().sin()),
    ("Repeat", lambda x: x.repeat(1, 2, 1).sin()),
    ("PixelShuffle", lambda x: F.pixel_shuffle(x[:, None].expand(-1, 4, -1, -1), 2).sin()),
    ("PixelUnshuffle", lambda x: F.pixel_unshuffle(x[:, None, :2, :2], 2).sin()),
    ("ChannelShuffle", lambda x: F.channel_shuffle(x[..., None].expand(-1, -1, -1, 2).transpose(1, 3), 2).sin()),
    ("SelectScatter", lambda x: x.select_scatter(constant(SAMPLES, 3), 2, 1)),
    ("SliceScatter", lambda x: x.slice_scatter(x[:, :, :1].sin(), 2, 1, 2)),
    ("IndexBackward0", lambda x: x[:, [0, 0, 2]]),
    ("IndexBackward0", lambda x: x[:, [0, 2, 1, 1], [1, 0, 2, 2]]),
    ("IndexBackward0", lambda x: x.transpose(0, 1)[torch.tensor([[0, 2], [1, 1]]), :, 1].permute(2, 0, 1)),
    (
        "IndexBackward0",
        lambda x: x.transpose(0, 1)[torch.tensor([[0, 2]]), :, torch.tensor([[1], [1]])].permute(2, 0, 1),
    ),
    ("IndexBackward0", lambda x: x[:, torch.tensor([True, False, True])]),
    ("IndexBackward0", lambda x: x[:, torch.eye(3, dtype=torch.bool)]),
    ("IndexAdd", lambda x: x.index_add(1, torch.tensor([0, 0]), x[:, :2].sin())),
    ("IndexCopy", lambda x: x.index_copy(1, torch.tensor([0, 2]), x[:, :2].sin())),
    ("IndexFill", lambda x: x.index_fill(1, torch.tensor([0]), 2.0)),
    ("ScatterAdd", lambda x: x.scatter_add(2, index_of(x), x.sin())),
    ("ScatterBackward0", lambda x: x.scatter(2, index_of(x), x.sin())),
    ("ScatterBackward1", lambda x: x.scatter(2, index_of(x)[..., :1], 2.0)),
    ("Topk", lambda x: x.topk(2, -1)[0]),
    ("NormBackward3", lambda x: torch.ops.aten.norm(x, 2, [1, 2], False, dtype=torch.double)),
    ("Nansum", lambda x: x.nansum((1, 2))),
    ("Nanmedian", lambda x: x.nanmedian(1)[0]),
    ("Mode", lambda x: x.mode(1)[0]),
    ("NativeGroupNorm", lambda x: F.group_norm(x, 3)),
    ("NativeBatchNorm", lambda x: F.batch_norm(x, constant(3), constant(3).square() + 1)),
    ("AffineGrid", lambda x: F.affine_grid(x[:, :2], [SAMPLES, 1, 2, 2], align_corners=False)),
    (
        "GridSampler2D",
        lambda x: F.grid_sample(x[:, None], x[:, None, :, :2].sin(), align_corners=False),
    ),
    (
        "GridSampler3D",
        lambda x: F.grid_sample(x[:, None, None], x[:, None, None].sin(), align_corners=False),
    ),
    ("Im2Col", lambda x: F.unfold(x[:, None], 2)),
    ("Col2Im", lambda x: F.fold(x[:, :, :1].expand(-1, 3, 4).repeat(1, 4, 1), (3, 3), 2)),
    ("AdaptiveMaxPool2D", lambda x: F.adaptive_max_pool2d(x[:, None], 2)),
    ("AdaptiveMaxPool3D", lambda x: F.adaptive_max_pool3d(x[:, None, None], (1, 2, 2))),
    ("UpsampleBilinear2DAa", lambda x: F.interpolate(x[:, None], 2, mode="bilinear", antialias=True)),
    ("UpsampleBicubic2DAa", lambda x: F.interpolate(x[:, None], 2, mode="bicubic", antialias=True)),
    ("UpsampleNearestExact3D", lambda x: F.interpolate(x[:, None, None], (1, 2, 5), mode="nearest-exact")),
    ("NllLossBackward0", lambda x: F.nll_loss(x[:, 0], torch.arange(SAMPLES) % 3, reduction="none")),
    ("NllLoss2D", lambda x: F.nll_loss(x[:, :, None], torch.zeros(SAMPLES, 1, 3, dtype=torch.long), reduction="none")),
    (
        "CtcLoss",
        lambda x: F.ctc_loss(
            x.transpose(0, 1).log_softmax(-1),
            torch.ones(SAMPLES, 1, dtype=torch.long),
            torch.full((SAMPLES,), 3),
            torch.ones(SAMPLES, dtype=torch.long),
            reduction="none",
        ),
    ),
    ("MseLoss", lambda x: F.mse_loss(x, x.detach() * 2, reduction="none").sum((1, 2))),
    ("HuberLoss", lambda x: F.huber_loss(x, x.detach() * 2, reduction="none")),
    ("SmoothL1Loss", lambda x: F.smooth_l1_loss(x, x.detach() * 2, reduction="none")),
    ("SoftMarginLoss", lambda x: F.soft_margin_loss(x, x.detach() * 2, reduction="none")),
    ("BinaryCrossEntropyBackward", lambda x: F.binary_cross_entropy(x.sigmoid(), x.detach() * 0, reduction="none")),
    ("BinaryCrossEntropyWithLogits", lambda x: F.binary_cross_entropy_with_logits(x, x.detach() * 0, reduction="none")),
    ("ViewAsReal", lambda x: torch.view_as_real(torch.complex(x, x.sin()).exp())),
    ("ViewAsComplex", lambda x: torch.view_as_complex(x[..., :2].clone()).abs()),
    ("Polar", lambda x: torch.polar(x.exp(), x).real),
    ("Conj", lambda x: torch.complex(x, x.sin()).conj().exp().real),
]


@pytest.mark.parametrize("number", range(len(BATCHED)), ids=lambda i: f"{i}-{BATCHED[i][0]}")
def test_batched(number: int) -> None:
    name, function = BATCHED[number]
    x = (constant(SAMPLES, 3, 3, seed=number) + 2 * torch.eye(3)).requires_grad_()
    f = function(x)
    assert any(name in node for node in names_on(f)), names_on(f)
    (((upper, _),), is_known, *_) = _C.analyze_axes(f, [x])
    assert is_known
    mask = mask_of_ties(f.numel(), upper).reshape(SAMPLES, f[0].numel(), SAMPLES, 9)
    assert not mask[~np.eye(SAMPLES, dtype=bool).repeat(f[0].numel(), 0).reshape(SAMPLES, -1, SAMPLES)].any()
    loop = full_jacobian_loop(f, x).reshape(f.numel(), -1)
    assert not ((loop != 0).numpy() & ~mask.reshape(loop.shape)).any()
    expected = by_sample(f, x)
    assert_close(full_jacobian(f, x, batch_dims=1, create_graph=False), expected)
    # What is recorded is differentiable again; and structure is found without a probe.
    assert_close(full_jacobian(f, x, batch_dims=1).detach(), expected)
    structure = find(f, x)
    assert name == "Cdist" or structure is not None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.mse_loss(x, x.detach() * 2).expand(SAMPLES),
        lambda x: F.nll_loss(x[:, 0], torch.arange(SAMPLES) % 3).expand(SAMPLES),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: x.diagonal(0, 0, 1).mT[:, :1].expand(3, 3)[:1].expand(SAMPLES, 3),
        lambda x: x.scatter_add(0, torch.zeros(SAMPLES, 3, 3, dtype=torch.long), x),
        lambda x: la.det(x.transpose(0, 1)[:, :3].contiguous())[:1].expand(SAMPLES),
        lambda x: x.logcumsumexp(0),
        lambda x: x[[1, 0, 2, 3, 4]],
        lambda x: torch.cat([x, x])[torch.arange(10) % 2 == 0],
        lambda x: torch.cholesky_solve(constant(SAMPLES, SAMPLES, 3, 2), la.cholesky(symmetric(x))).sum(1),
        lambda x: F.group_norm(constant(SAMPLES, SAMPLES, 2), SAMPLES, x[:, 0, 0])[:, 1:],
        lambda x: F.unfold(x[None], 2)[0, :SAMPLES],
    ],
)
def test_samples_that_mix(function: Callable[[Tensor], Tensor]) -> None:
    x = constant(SAMPLES, 3, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="mix: at the latest in"):
        full_jacobian(function(x), x, batch_dims=1)


# Of [3, 3] matrices and [3, 4] right-hand sides, or [4, 3] where these are rows.
SIDES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: la.solve(a, b),
    lambda a, b: la.solve(a, b.mT, left=False),
    lambda a, b: la.solve_triangular(a.tril(), b, upper=False),
    lambda a, b: la.solve_triangular(a.tril(), b.mT, upper=False, left=False),
    lambda a, b: la.lu_solve(*la.lu_factor(a), b),
    lambda a, b: la.lu_solve(*la.lu_factor(a), b.mT, left=False, adjoint=True),
    lambda a, b: torch.cholesky_solve(b, la.cholesky(symmetric(a))),
    lambda a, b: torch.triangular_solve(b, a)[0],
    lambda a, b: la.lstsq(a, b)[0],
]


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("number", range(len(SIDES)))
def test_right_hand_sides_stay_apart(number: int, batch: tuple[int, ...]) -> None:
    a, b = constant(*batch, 3, 3) + 2 * torch.eye(3), constant(*batch, 3, 4, seed=1).requires_grad_()
    f = SIDES[number](a, b.sin())
    kept = plan(f, b)
    assert kept.passes == 3
    assert_close(full_jacobian(f, b, plan=kept), full_jacobian_loop(f, b))
    # The matrix is tied to all of them.
    x = constant(*batch, 3, 3, seed=2).requires_grad_()
    f = SIDES[number](x + 2 * torch.eye(3), torch.cat([x, x[..., :1]], -1))
    assert_close(full_jacobian(f, x, plan=plan(f, x)), full_jacobian_loop(f, x))


def test_a_vector_is_no_row_of_right_hand_sides() -> None:
    a, b = constant(3, 3, 3) + 2 * torch.eye(3), constant(3, 3, seed=1).requires_grad_()
    f = la.solve(a, b.sin())
    assert_close(full_jacobian(f, b, plan=plan(f, b)), full_jacobian_loop(f, b))
