"""The table of operations that jets flow through: each maps one float64 tensor of a given shape to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from problems import fixed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Row:
    """low, high: the range of the input's elements. degree: as a polynomial, None where it is none. oracle: the same
    function for the oracle, where torch's own third derivative is wrong (it takes saved moments for constants)."""

    name: str
    function: Callable[[Tensor], Any]
    shape: tuple[int, ...] = (2, 3)
    low: float = -1.0
    high: float = 1.0
    degree: int | None = None
    oracle: Callable[[Tensor], Any] | None = None


def attention(x: Tensor) -> Tensor:
    """Which kernel torch would take by itself differs between its releases; this one is made of others' operations."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(x[None], x[None].sin(), x[None])


# Functions of one number, with the name that mpmath has for them.
SCALAR = {
    "exp": (torch.exp, -1, 1),
    "exp2": (torch.exp2, -1, 1),
    "expm1": (torch.expm1, -1, 1),
    "log": (torch.log, 0.5, 2),
    "log1p": (torch.log1p, -0.5, 1),
    "log2": (torch.log2, 0.5, 2),
    "log10": (torch.log10, 0.5, 2),
    "sin": (torch.sin, -2, 2),
    "cos": (torch.cos, -2, 2),
    "tan": (torch.tan, -1, 1),
    "sinh": (torch.sinh, -2, 2),
    "cosh": (torch.cosh, -2, 2),
    "tanh": (torch.tanh, -2, 2),
    "asin": (torch.asin, -0.7, 0.7),
    "acos": (torch.acos, -0.7, 0.7),
    "atan": (torch.atan, -2, 2),
    "asinh": (torch.asinh, -2, 2),
    "acosh": (torch.acosh, 1.5, 3),
    "atanh": (torch.atanh, -0.7, 0.7),
    "sqrt": (torch.sqrt, 0.5, 2),
    "rsqrt": (torch.rsqrt, 0.5, 2),
    "reciprocal": (torch.reciprocal, 0.5, 2),
    "sigmoid": (torch.sigmoid, -2, 2),
    "logsigmoid": (F.logsigmoid, -2, 2),
    "softplus": (F.softplus, -2, 2),
    "softplus_sharp": (lambda x: F.softplus(x, beta=3.0, threshold=2.0), -2, 2),
    "silu": (F.silu, -2, 2),
    "mish": (F.mish, -2, 2),
    "gelu": (F.gelu, -2, 2),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), -2, 2),
    "elu": (lambda x: F.elu(x, alpha=1.3), -2, 2),
    "selu": (F.selu, -2, 2),
    "celu": (lambda x: F.celu(x, alpha=0.5), -2, 2),
    "erf": (torch.erf, -2, 2),
    "erfc": (torch.erfc, -2, 2),
    "pow_2": (lambda x: x**2, -2, 2),
    "pow_5": (lambda x: x**5, -2, 2),
    "pow_-2": (lambda x: x**-2, 0.5, 2),
    "pow_2.5": (lambda x: x**2.5, 0.5, 2),
    "pow_base": (lambda x: 1.7**x, -2, 2),
    "square": (torch.square, -2, 2),
    "erfinv": (torch.erfinv, -0.8, 0.8),
    "ndtri": (torch.special.ndtri, 0.1, 0.9),
    "erfcx": (torch.special.erfcx, -1, 2),
    "log_ndtr": (torch.special.log_ndtr, -3, 2),
    "sinc": (torch.sinc, -1.5, 3),
    "logit": (torch.logit, 0.1, 0.9),
    "logit_eps": (lambda x: torch.logit(x, eps=0.3), 0.1, 0.9),
    "entr": (torch.special.entr, 0.5, 2),
    "polygamma": (lambda x: torch.polygamma(2, x), 0.7, 2),
    "mvlgamma": (lambda x: torch.mvlgamma(x, 3), 2, 3),
}


def rows() -> list[Row]:
    w, b, m = fixed(3, 4), fixed(4), fixed(2, 3, seed=3)
    cube = fixed(2, 3, 4, seed=1)
    image = fixed(1, 2, 5, 5, seed=2)
    kernel = fixed(3, 2, 3, 3, seed=4)
    weight = torch.linspace(0.5, 1.5, 3, dtype=torch.float64)
    mask = m > 0
    table = [Row(name, function, (5,), low, high) for name, (function, low, high) in SCALAR.items()]
    table += [
        # products
        Row("mul", lambda x: x * x.flip(0), degree=2),
        Row("mul_constant", lambda x: x * m, degree=1),
        Row("mul_broadcast", lambda x: x[0] * x, degree=2),
        Row("mul_broadcast_constant", lambda x: x[0] * m, degree=1),
        Row("mul_outer", lambda x: x[:, :1] * x[:1], degree=2),
        Row("mul_0d", lambda x: x * x[0, 0], degree=2),
        Row("mul_scalar", lambda x: 3 * x - 1, degree=1),
        Row("div", lambda x: x.sin() / (2 + x), low=-0.5),
        Row("div_constant", lambda x: x / m, degree=1),
        Row("div_of_constant", lambda x: m / (2 + x)),
        Row("div_broadcast", lambda x: x[0] / (2 + x)),
        Row("div_scalar", lambda x: x / 4, degree=1),
        Row("mm_left", lambda x: x @ w, degree=1),
        Row("mm_right", lambda x: w.t() @ x.t(), degree=1),
        Row("mm", lambda x: x.sin() @ x.t()),
        Row("mm_polynomial", lambda x: (x @ x.t()) @ (x * x), degree=4),
        Row("addmm", lambda x: torch.addmm(b[:2], x.sin(), x.t(), beta=0.5, alpha=2.0)),
        Row("addmm_bias", lambda x: torch.addmm(x[:, :1], x, w, beta=0.5, alpha=2.0), degree=1),
        Row("linear_3d", lambda x: F.linear(x.sin().unsqueeze(1).expand(2, 2, 3), w.t(), b)),
        Row("linear_weight", lambda x: F.linear(m, x.sin(), x[:, 0])),
        Row("bmm_left", lambda x: x.exp().view(2, 1, 3).bmm(cube)),
        Row("bmm_inner_left", lambda x: x.exp().view(2, 1, 3).bmm(cube.view(-1, 3, 1)[:2]).squeeze(2)),
        Row("bmm_inner_right", lambda x: cube.view(-1, 1, 3)[:2].bmm(x.exp().view(2, 3, 1)).squeeze(2)),
        Row("bmm_inner", lambda x: x.sin().view(2, 1, 3).bmm(x.view(2, 3, 1)).squeeze(2)),
        Row("bmm_right", lambda x: cube.transpose(1, 2).bmm(x.view(2, 3, 1)), degree=1),
        Row("bmm", lambda x: x.sin().view(2, 3, 1).bmm(x.view(2, 1, 3))),
        Row(
            "baddbmm", lambda x: torch.baddbmm(x.view(2, 3, 1), x.view(2, 3, 1), x.sin().view(2, 1, 3), beta=2, alpha=3)
        ),
        Row("mv", lambda x: x.sin() @ x[0]),
        Row("mv_left", lambda x: x @ weight, degree=1),
        Row("mv_right", lambda x: m @ x[1].cos()),
        Row("addmv", lambda x: torch.addmv(x[:, 0], x, x[1].sin(), beta=0.5, alpha=2)),
        Row("dot", lambda x: x[0].sin().dot(x[1])),
        Row("dot_constant", lambda x: x[0].dot(weight), degree=1),
        Row("einsum", lambda x: torch.einsum("ij,jk,ik->ik", x.sin(), w, x @ w)),
        Row("bilinear", lambda x: F.bilinear(x, x.sin(), fixed(2, 3, 3))),
        Row(
            "bilinear_by_one",
            lambda x: F.bilinear(x.sin(), m, fixed(2, 3, 3)) + F.bilinear(m, m, fixed(2, 3, 3) * x.sin().sum()),
        ),
        Row("attention", attention),
        Row("pow_zero", lambda x: x**0 + x, degree=1),
        Row("pow_negative_base", lambda x: (x - 3) ** 3, degree=3),
        Row("pow_tensor", lambda x: (x + 2) ** m),
        Row("pow_tensor_natural", lambda x: x ** torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)),
        Row("pow_exponent", lambda x: (m.abs() + 0.1) ** x),
        Row("pow_both", lambda x: (x + 2) ** x.flip(1)),
        Row("mse", lambda x: F.mse_loss(x * x, m), degree=4),
        Row("mse_none", lambda x: F.mse_loss(x.sin(), x.flip(1), reduction="none")),
        Row("mse_sum", lambda x: F.mse_loss(x.sin(), m, reduction="sum")),
        Row("conv2d", lambda x: F.conv2d(x.sin(), kernel, fixed(3), padding=1, stride=2), (1, 2, 5, 5)),
        Row("conv2d_weight", lambda x: F.conv2d(image, x, x[:, 0, 0, 0]), (3, 2, 3, 3), degree=1),
        Row("conv1d_unbatched", lambda x: F.conv1d(x, fixed(2, 2, 2)).tanh(), (2, 4)),
        Row(
            "conv_transpose", lambda x: F.conv_transpose2d(x, kernel.transpose(0, 1), groups=1), (1, 2, 3, 3), degree=1
        ),
        Row("conv_groups", lambda x: F.conv1d(x, fixed(4, 1, 2), groups=2), (3, 2, 4), degree=1),
        # reductions
        Row("sum", lambda x: x.sin().sum()),
        Row("sum_dim", lambda x: x.sum(-1, keepdim=True) * x, degree=2),
        Row("sum_dims", lambda x: x.sum((0, 2)).sin(), (2, 3, 2)),
        Row("sum_0d", lambda x: x.sum(0).sin(), ()),
        Row("mean", lambda x: x.exp().mean()),
        Row("mean_dim", lambda x: x.exp().mean(0)),
        Row("softmax", lambda x: x.softmax(-1)),
        Row("softmax_0", lambda x: x.softmax(0)),
        Row("log_softmax", lambda x: x.log_softmax(1)),
        Row("logsumexp", lambda x: x.logsumexp(1)),
        Row("logsumexp_dims", lambda x: x.logsumexp((0, 1), keepdim=True)),
        Row("cross_entropy", lambda x: -F.log_softmax(x, 1).gather(1, torch.tensor([[0], [2]]))),
        Row("layer_norm", lambda x: F.layer_norm(x, (3,)), oracle=lambda x: normalized(x, 1)),
        Row(
            "layer_norm_affine",
            lambda x: F.layer_norm(x, (3,), weight, -weight),
            oracle=lambda x: normalized(x, 1) * weight - weight,
        ),
        Row(
            "layer_norm_weight",
            lambda x: F.layer_norm(x, (3,), x[0].sin(), x[1]),
            oracle=lambda x: normalized(x, 1) * x[0].sin() + x[1],
        ),
        Row("layer_norm_2", lambda x: F.layer_norm(x, (2, 3), eps=0.1), oracle=lambda x: normalized(x, (0, 1), 0.1)),
        Row("norm", lambda x: x.norm()),
        Row("norm_dim", lambda x: x.norm(dim=1, keepdim=True)),
        Row("vector_norm", lambda x: torch.linalg.vector_norm(x, dim=0)),
        Row("prod", lambda x: x.prod(), degree=6),
        Row("prod_dim", lambda x: x.prod(1), degree=3),
        Row("prod_dim_keep", lambda x: x.sin().prod(0, keepdim=True), (5, 2)),
        Row("var", lambda x: x.var(), degree=2),
        Row("var_dim", lambda x: x.sin().var(1, correction=0)),
        Row("std", lambda x: x.std(1)),
        Row("cumsum", lambda x: x.sin().cumsum(1)),
        # piecewise linear
        Row("relu", lambda x: x.relu() * x),
        Row("leaky_relu", lambda x: F.leaky_relu(x, 0.1), degree=1),
        Row("relu6", lambda x: F.relu6(3 * x) * x),
        Row("hardtanh", lambda x: F.hardtanh(2 * x), degree=1),
        Row("threshold", lambda x: F.threshold(x, 0.1, 3.0), degree=1),
        Row("abs", lambda x: x.abs() * x, degree=2),
        Row("clamp", lambda x: x.clamp(-0.5, 0.5) * x, degree=2),
        Row("clamp_min", lambda x: x.clamp_min(0.1), degree=1),
        Row("max", lambda x: x.max() * x, degree=2),
        Row("max_dim", lambda x: x.max(1).values.sin()),
        Row("amin", lambda x: x.amin((0, 1)).sin()),
        Row("maximum", lambda x: torch.maximum(x, x.flip(0).sin())),
        Row("maximum_tie", lambda x: torch.maximum(x, x.detach()), degree=1),
        Row("minimum_broadcast", lambda x: torch.minimum(x, x[0])),
        Row("where", lambda x: torch.where(mask, x.sin(), x[0])),
        Row("where_scalar", lambda x: torch.where(x > 0, x, 2.0) * x),
        Row("max_pool", lambda x: F.max_pool2d(x.sin(), 2), (1, 2, 4, 4)),
        Row("avg_pool", lambda x: F.avg_pool2d(x.sin(), 2), (1, 2, 4, 4)),
        Row("sort", lambda x: x.sort(1).values.sin()),
        # views and moves
        Row("views", lambda x: x.t().reshape(1, 6).squeeze(0).unsqueeze(-1).sin()),
        Row("permute", lambda x: x.permute(2, 0, 1).transpose(-1, -2).sin(), (2, 3, 2)),
        Row("expand", lambda x: x[:, None].expand(2, 4, 3).sin()),
        Row("select_slice", lambda x: x.select(-1, 1).sin() * x[:, 0::2].t()),
        Row("cat", lambda x: torch.cat([x.sin(), m, x[:1]], 0)),
        Row("cat_last", lambda x: torch.cat([m, x * x], -1), degree=2),
        Row("stack", lambda x: torch.stack([x.sin(), m, x], -1)),
        Row("unbind", lambda x: x.unbind(1)[1] * x.unbind(1)[0].sin()),
        Row("split", lambda x: x.split(2, -1)[1].sin() * x.split([1, 2], 1)[1]),
        Row("chunk", lambda x: x.chunk(2)[1].sin()),
        Row("index", lambda x: x[torch.tensor([0, 1, 1]), torch.tensor([2, 0, 0])].sin()),
        Row("index_select", lambda x: x.index_select(1, torch.tensor([2, 0])).sin()),
        Row("gather", lambda x: x.gather(1, torch.tensor([[0, 2], [1, 1]])).sin()),
        Row(
            "scatter_add", lambda x: torch.zeros_like(x).scatter_add(1, torch.tensor([[0, 2], [1, 1]]), x[:, :2].sin())
        ),
        Row("roll_flip_pad", lambda x: F.pad(x.roll(1, 1).flip(0), (1, 0)).sin()),
        Row("repeat_diag", lambda x: x.sin().repeat(3, 2).diagonal(1)),
        Row("tril", lambda x: x.sin().tril()),
        Row("upsample", lambda x: F.interpolate(x.sin(), scale_factor=2, mode="bilinear"), (1, 1, 2, 2)),
        Row("in_place", lambda x: x.sin().mul_(2).add_(x)),
        Row("in_place_slice", in_place_slice),
        Row("masked_fill", lambda x: x.sin().masked_fill(mask, 2.0)),
        Row("float_inside", lambda x: (x.float() * 2).double().sin()),
        Row("checkpoint_of_views", lambda x: x.clone().view(-1)[1:5].reshape(2, 2).contiguous() @ m),
        Row("mlp", lambda x: F.gelu(torch.tanh(x @ w + b) @ w.t()) @ w),
        # compound
        Row("atan2", lambda x: torch.atan2(x.sin() + 2, x.flip(1) - 3)),
        Row("atan2_constant", lambda x: torch.atan2(m.abs() + 0.1, x) + torch.atan2(x + 2, m)),
        Row("hypot", lambda x: torch.hypot(x + 2, x[0].exp())),
        Row("hypot_constant", lambda x: torch.hypot(torch.hypot(x, fixed(*x.shape)), fixed(*x.shape))),
        Row("hypot_of_constant", lambda x: torch.hypot(fixed(*x.shape), x)),
        Row("logaddexp", lambda x: torch.logaddexp(x, x[0].sin())),
        Row("logaddexp_constant", lambda x: torch.logaddexp(m, x)),
        Row("lgamma", lambda x: torch.lgamma(x + 2)),
        Row("digamma", lambda x: torch.digamma(x + 2)),
        Row("addcmul", lambda x: torch.addcmul(x[0], x, x.flip(1), value=0.5), degree=2),
        Row("addcmul_constant", lambda x: torch.addcmul(x, m, x) + torch.addcmul(x, m, m), degree=1),
        Row("addcdiv", lambda x: torch.addcdiv(x[0], x, x.flip(1) + 3, value=0.5)),
        Row("addcdiv_constant", lambda x: torch.addcdiv(x, x[0], m) + torch.addcdiv(x, m, m), degree=1),
        Row("lerp_tensor", lambda x: torch.lerp(x, x.flip(1), x.sin())),
        Row("lerp_tensor_constant", lambda x: torch.lerp(m, x, m) + torch.lerp(m, 2 * m, x), degree=1),
        Row("lerp_scalar", lambda x: torch.lerp(x.sin(), x, 0.3)),
        Row("cross", lambda x: torch.linalg.cross(x, x[:1].sin())),
        Row("cross_constant", lambda x: torch.linalg.cross(m.t(), x.t(), dim=0), degree=1),
        Row("batch_norm", lambda x: F.batch_norm(x.sin(), weight, weight.square(), weight, -weight)),
        Row("batch_norm_2d", lambda x: F.batch_norm(x.sin(), weight, weight.square()), (1, 3, 2, 2)),
        Row("glu", lambda x: F.glu(x.sin(), 0)),
        Row("hardswish", lambda x: F.hardswish(2 * x)),
        Row("prelu", lambda x: F.prelu(x, weight[:1]) * x),
        Row("shrink", lambda x: F.softshrink(x, 0.2) * x + F.hardshrink(x, 0.2).sin()),
        Row("remainders", lambda x: torch.fmod(x, 0.3) * x + torch.remainder(x, 0.3) + torch.frac(x).sin()),
        Row("degrees", lambda x: torch.deg2rad(x).sin() + torch.rad2deg(x), low=-0.1, high=0.1),
        Row("nan_to_num", lambda x: torch.nan_to_num(x).sin()),
        Row("cummax", lambda x: x.cummax(1).values.sin() + x.cummin(0).values),
        Row("embedding", lambda x: F.embedding(torch.tensor([1, 0, 1]), x.sin())),
        Row("nll_loss", lambda x: F.cross_entropy(x, torch.tensor([0, 2]))),
        Row("gradient_of_tanh", gradient_of(torch.tanh)),
        Row("gradient_of_sigmoid", gradient_of(torch.sigmoid)),
        Row("gradient_of_softplus", gradient_of(lambda x: F.softplus(x, beta=2.0, threshold=1.0))),
        Row("gradient_of_relu", gradient_of(torch.relu)),
        Row("gradient_of_sine", gradient_of(torch.sin)),
        Row("xlogy", lambda x: torch.xlogy(x.sin(), x.flip(1) + 2)),
        Row("xlogy_constants", lambda x: torch.xlogy(m, x + 2) + torch.xlogy(x, m.abs())),
        Row("xlog1py", lambda x: torch.special.xlog1py(x, x.flip(1))),
        Row("logaddexp2", lambda x: torch.logaddexp2(x, x[0].sin())),
        Row("steps", lambda x: (x.sign() + x.round() + x.floor() + x.ceil() + x.trunc()) * x, degree=1),
        # losses
        Row("huber", lambda x: F.huber_loss(x * 2, m, delta=0.7, reduction="none"), degree=2),
        Row("huber_mean", lambda x: F.huber_loss(x.sin() * 2, x.flip(1), delta=0.7)),
        Row("smooth_l1", lambda x: F.smooth_l1_loss(x.sin(), m, beta=0.5, reduction="sum")),
        Row("smooth_l1_of_zero", lambda x: F.smooth_l1_loss(x, m, beta=0.0), degree=1),
        Row("bce", lambda x: F.binary_cross_entropy(x.sigmoid(), m.sigmoid(), weight=m.abs())),
        Row("bce_target", lambda x: F.binary_cross_entropy(m.sigmoid(), x.sigmoid(), reduction="none")),
        Row("bce_logits", lambda x: F.binary_cross_entropy_with_logits(x.sin(), m.sigmoid(), weight=m)),
        Row(
            "bce_logits_positive",
            lambda x: F.binary_cross_entropy_with_logits(
                x.sin(), x.flip(1).sigmoid(), pos_weight=weight, reduction="none"
            ),
        ),
        Row("soft_margin", lambda x: F.soft_margin_loss(x.sin(), m.sign())),
        Row("kl_div", lambda x: F.kl_div(x.log_softmax(1), m.softmax(1), reduction="batchmean")),
        Row("gaussian_nll", lambda x: F.gaussian_nll_loss(x.sin(), m, x.exp())),
        Row("cosine_similarity", lambda x: F.cosine_similarity(x, x.flip(0).exp(), dim=1)),
        # norms and normalizations
        Row("norm_1", lambda x: x.norm(p=1, dim=1) * x[:, 0], degree=None),
        Row("norm_3", lambda x: torch.linalg.vector_norm(x.sin() + 2, 3, dim=1)),
        Row("cdist", lambda x: torch.cdist(x.sin(), m), oracle=lambda x: pairwise(x.sin(), m)),
        Row(
            "cdist_self",
            lambda x: torch.cdist(x[None], x[None, :1] + 3),
            oracle=lambda x: pairwise(x[None], x[None, :1] + 3),
        ),
        Row(
            "cdist_batches",
            lambda x: torch.cdist(x.view(2, 1, 1, 3), m + 2),
            oracle=lambda x: pairwise(x.view(2, 1, 1, 3), m + 2),
        ),
        Row("cdist_1", lambda x: torch.cdist(x.sin(), m, p=1.0), oracle=lambda x: pairwise(x.sin(), m, 1)),
        Row("cdist_3", lambda x: torch.cdist(x.sin(), m, p=3.0), oracle=lambda x: pairwise(x.sin(), m, 3)),
        Row("pdist", lambda x: F.pdist(x.sin()), (4, 3), oracle=lambda x: pairs_of(x.sin())),
        Row("euclidean_dist", lambda x: torch.cdist(x, fixed(40, 3)), oracle=lambda x: pairwise(x, fixed(40, 3))),
        Row("lerp_broadcast", lambda x: torch.lerp(m, x[:1], x[0, :1]), degree=2),
        Row("dist", lambda x: torch.dist(x.sin(), m)),
        Row("dist_of_a_number", lambda x: torch.dist(x.sin().sum(), m) + torch.dist(m + 2, x.prod(), p=3)),
        Row("dist_broadcast", lambda x: torch.dist(x[None, :1].sin(), x[:, None] + 2, p=1) + torch.dist(x[1], m)),
        Row(
            "weight_norm",
            lambda x: torch._weight_norm(x, x[:, :1].sin(), 0),
            oracle=lambda x: x * x[:, :1].sin() / x.norm(dim=1, keepdim=True),
        ),
        Row(
            "weight_norm_last",
            lambda x: torch._weight_norm(x, fixed(1, 3), -1 + x.dim()),
            oracle=lambda x: x * fixed(1, 3) / x.norm(dim=0, keepdim=True),
        ),
        Row(
            "group_norm",
            lambda x: F.group_norm(x, 2, fixed(4), fixed(4)),
            (2, 4, 3),
            oracle=lambda x: grouped(x, 2, fixed(4), fixed(4)),
        ),
        Row(
            "group_norm_weight",
            lambda x: F.group_norm(x, 3, x[0].sin(), x[1]),
            (2, 3),
            oracle=lambda x: grouped(x, 3, x[0].sin(), x[1]),
        ),
        Row("group_norm_of_constant", lambda x: F.group_norm(cube, 3, x[0].sin(), x[1])),
        Row("layer_norm_of_constant", lambda x: F.layer_norm(m, (3,), x[0].sin(), x[1])),
        Row(
            "batch_norm_training",
            lambda x: F.batch_norm(x.sin(), None, None, weight, x[1], training=True),
            (4, 3),
            oracle=lambda x: normalized(x.sin(), 0) * weight + x[1],
        ),
        Row("batch_norm_weight", lambda x: F.batch_norm(x.sin(), weight, weight.square(), x[0].exp(), x[1])),
        # matrices
        Row("solve", lambda x: torch.linalg.solve(regular(x.sin()), x @ x.t()), (3, 3)),
        Row("solve_right", lambda x: torch.linalg.solve(regular(x), x[:2] * m, left=False), (3, 3)),
        Row("solve_vector", lambda x: torch.linalg.solve(regular(x), x[0].exp()), (3, 3)),
        Row("solve_constant_matrix", lambda x: torch.linalg.solve(regular(m.t() @ m), x), (3, 3), degree=1),
        Row("solve_constant_side", lambda x: torch.linalg.solve(regular(x), fixed(2, 3, 1)), (3, 3)),
        Row("solve_batches", lambda x: torch.linalg.solve(regular(x.sin()), fixed(2, 3)), (2, 3, 3)),
        Row("solve_broadcast", lambda x: torch.linalg.solve(regular(x[0]), x), (2, 3, 3)),
        Row("inv", lambda x: torch.linalg.inv(regular(x)), (2, 3, 3)),
        Row("matrix_power", lambda x: torch.linalg.matrix_power(regular(x), -2) + x.matrix_power(3), (3, 3)),
        Row(
            "matrix_exp",
            lambda x: torch.matrix_exp(3 * x.sin()),
            (2, 2, 2),
            oracle=lambda x: polynomial_exp(3 * x.sin()),
        ),
        Row("matrix_exp_small", lambda x: torch.matrix_exp(x / 9), (3, 3), oracle=lambda x: polynomial_exp(x / 9)),
        Row("det_1", lambda x: torch.linalg.det(x.view(6, 1, 1)), degree=1),
        Row("det_2", lambda x: torch.linalg.det(x), (3, 2, 2), degree=2, oracle=expanded),
        Row("det_3", lambda x: torch.linalg.det(x), (3, 3), degree=3, oracle=expanded),
        Row("det_4", lambda x: torch.linalg.det(regular(x.sin())), (4, 4)),
        Row("det_singular", lambda x: torch.linalg.det(singular(x)), degree=3, oracle=lambda x: expanded(singular(x))),
        Row("slogdet", lambda x: torch.linalg.slogdet(regular(x))[1], (2, 3, 3)),
        Row("logdet", lambda x: torch.logdet(positive(x)), (3, 3)),
        Row("cholesky", lambda x: torch.linalg.cholesky(positive(x)), (3, 3)),
        Row("cholesky_upper", lambda x: torch.linalg.cholesky(positive(x), upper=True), (3, 3)),
        Row("cholesky_asymmetric", lambda x: torch.linalg.cholesky(x / 9 + torch.eye(3).double()), (3, 3)),
        Row("cholesky_solve", lambda x: torch.cholesky_solve(x, torch.linalg.cholesky(positive(x))), (3, 3)),
        Row("solve_triangular", lambda x: torch.linalg.solve_triangular(regular(x), x.sin(), upper=True), (3, 3)),
        Row(
            "solve_unitriangular",
            lambda x: torch.linalg.solve_triangular(
                regular(x), x[:2].sin(), upper=False, left=False, unitriangular=True
            ),
            (3, 3),
        ),
        Row("gaussian_process", gaussian_process, (4, 2)),
        # attention
        Row(
            "attention_fused",
            lambda x: fused(F.scaled_dot_product_attention, x),
            (4, 3),
            oracle=lambda x: fused(softmax_of_scores, x),
        ),
        Row(
            "attention_causal",
            lambda x: fused(F.scaled_dot_product_attention, x, is_causal=True, scale=0.3),
            (4, 3),
            oracle=lambda x: fused(softmax_of_scores, x, mask=torch.ones(4, 4).tril().bool(), scale=0.3),
        ),
        Row(
            "attention_masked",
            lambda x: fused(F.scaled_dot_product_attention, x, attn_mask=fixed(4, 4) > -1.2),
            (4, 3),
            oracle=lambda x: fused(softmax_of_scores, x, mask=fixed(4, 4) > -1.2),
        ),
        # scans, and what is affine
        Row("cumprod", lambda x: x.cumprod(1), degree=3),
        Row("cumprod_0", lambda x: x.sin().cumprod(0), (7, 2)),
        Row("logcumsumexp", lambda x: x.logcumsumexp(0), (7, 2), oracle=running),
        Row("var_mean", lambda x: torch.var_mean(x, 1)[0] + torch.var_mean(x, 1)[1], degree=None),
        Row("std_mean", lambda x: torch.std_mean(x.sin(), 0)[0] * torch.std_mean(x.sin(), 0)[1]),
        Row("conv_both", lambda x: F.conv1d(x[None].sin(), x[:, :2].view(2, 2, 1), x[:, 0], padding=1), (2, 4)),
        Row("conv_both_groups", lambda x: F.conv1d(x, x[0].exp().view(4, 1, 2), groups=2, stride=2), (3, 2, 4)),
        Row("addbmm", lambda x: torch.addbmm(x[:, :1], x.sin().view(2, 3, 1)[:, :2], x.view(2, 1, 3), beta=2, alpha=3)),
        Row("addr", lambda x: torch.addr(x, x[:, 0].sin(), x[0].exp(), beta=2, alpha=3)),
        Row("vecdot", lambda x: torch.linalg.vecdot(x.sin(), x.flip(1))),
        Row("masked_select", lambda x: x.masked_select(mask).sin()),
        Row("masked_select_broadcast", lambda x: x[0].masked_select(mask).sin()),
        Row("unsafe_split", lambda x: x.unsafe_split(2, 1)[0].sin()),
        Row("slice_scatter", lambda x: m.slice_scatter(x[:, :2].sin(), 1, 0, 2), degree=None),
        Row("block_diag", lambda x: torch.block_diag(x.sin(), x)),
        Row("clamp_tensors", lambda x: x.clamp(-weight / 2, weight / 2) * x),
        Row("upsample_exact", lambda x: F.interpolate(x.sin(), scale_factor=2, mode="nearest-exact"), (1, 1, 2, 2)),
        Row("scatter_reduce", lambda x: m.scatter_reduce(1, torch.tensor([[0, 2], [1, 1]]), x[:, :2].sin(), "mean")),
        Row("gru", recurrent, (3, 2)),
        Row("as_strided", lambda x: torch.as_strided(x.sin(), (2, 2), (1, 2))),
        Row("unfold", lambda x: x.unfold(1, 2, 1).sin()),
    ]
    if torch.__version__ >= "2.13":  # torch 2.11 cannot batch its transpose, and derivatives are nested
        points = fixed(1, 2, 2, 2).tanh()
        table.append(Row("grid_sample", lambda x: F.grid_sample(x.sin(), points, align_corners=True), (1, 1, 3, 3)))
    return table


def regular(x: Tensor) -> Tensor:
    return x + 3 * torch.eye(x.shape[-1], dtype=x.dtype)


def singular(x: Tensor) -> Tensor:
    """At the point where it is taken, of rank one."""
    return torch.ones(3, 3, dtype=x.dtype) + torch.cat([x - x.detach(), x[:1] - x[:1].detach()])


def polynomial_exp(x: Tensor) -> Tensor:
    """Taylor's series of the exponential of small matrices."""
    result = term = torch.eye(x.shape[-1], dtype=x.dtype).expand_as(x)
    for degree in range(1, 60):
        term = term @ x / degree
        result = result + term
    return result


def expanded(x: Tensor) -> Tensor:
    """The determinant of matrices of two or three rows."""
    if x.shape[-1] == 2:
        return x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0]
    return (x[..., 0, :] * torch.linalg.cross(x[..., 1, :], x[..., 2, :])).sum(-1)


def running(x: Tensor) -> Tensor:
    return torch.stack([x[: i + 1].logsumexp(0) for i in range(len(x))])


def positive(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


def gaussian_process(x: Tensor) -> Tensor:
    """The marginal likelihood of values at four points, by the points."""
    kernel = torch.exp(-(x[:, None] - x[None]).square().sum(-1)) + 0.5 * torch.eye(4, dtype=x.dtype)
    factor = torch.linalg.cholesky(kernel)
    values = fixed(4, 1)
    return (values * torch.cholesky_solve(values, factor)).sum() / 2 + factor.diagonal().log().sum()


def pairwise(x: Tensor, y: Tensor, p: float = 2) -> Tensor:
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).abs().pow(p).sum(-1).pow(1 / p)


def pairs_of(x: Tensor) -> Tensor:
    first, second = torch.triu_indices(len(x), len(x), 1)
    return (x[first] - x[second]).square().sum(1).sqrt()


def grouped(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    return normalized(x.reshape(len(x), groups, -1), 2).view(x.shape) * weight.view(shape) + bias.view(shape)


def fused(attention: Callable[..., Tensor], x: Tensor, **options: Any) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attention(
            x.expand(2, 1, *x.shape),
            x.sin()[None, None].expand(2, 1, *x.shape),
            x[None, None].exp().expand(2, 1, *x.shape),
            **options,
        )


def softmax_of_scores(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


def recurrent(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return nn.GRU(2, 2).double()(x)[0]


def gradient_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A first derivative that is on the tape, as torch records it; constant in the input where that is no leaf."""

    def gradient(x: Tensor) -> Tensor:
        weights = x.sin()
        with torch.enable_grad():
            return torch.autograd.grad((function(x) * weights).sum(), x, create_graph=True)[0]

    return gradient


def in_place_slice(x: Tensor) -> Tensor:
    y = x.sin()
    y[:, 0] = x[:, 1] * 3
    return y * y


ROWS = rows()


def normalized(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-5) -> Tensor:
    centered = x - x.mean(dim, keepdim=True)
    return centered / (centered.square().mean(dim, keepdim=True) + eps).sqrt()
