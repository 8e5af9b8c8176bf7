"""One table of graphs on which a Jacobian must be right, easy and hard.

Every problem records its graph in `build(x)` from one flat float64 leaf of `size` elements: the oracle is a plain
loop over rows. Tests add further views of the same table (chunks, second order, several wrt).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Problem:
    """`build` maps a leaf of `size` elements to f.

    first_order: the backward is not differentiable again.
    fallback: torch.vmap cannot run the backward, so a warning is due; None where that depends on torch.
    """

    name: str
    size: int
    build: Callable[[Tensor], Tensor]
    first_order: bool = False
    fallback: bool | None = None


def fixed(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(module: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return module().double()


class NoVmap(torch.autograd.Function):
    """Says nothing of vmap: its backward, in tensor operations alone, can be batched all the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class GeneratedVmap(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 3 * ctx.saved_tensors[0] ** 2


class WrittenVmap(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        return WrittenVmap.apply(x), in_dims[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return WrittenVmap.apply(grad)


class ItemInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        scale = 1.0 if grad.abs().max().item() >= 0 else 0.0
        return grad * 2 * ctx.saved_tensors[0] * scale


class BranchInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2 if grad.sum() > 0 else -(grad * -2)


class InPlaceInBackward(torch.autograd.Function):
    """Writes its cotangent, batched, into a tensor that is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 5

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        result = torch.zeros(grad.shape, dtype=grad.dtype)
        result.copy_(grad)
        return result.mul_(5)


class NumpyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.from_numpy(grad.detach().numpy() * 3)


class NoneBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class ImplicitRoot(torch.autograd.Function):
    """y with y + y^3 = x, by Newton; its backward solves the linearised equation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        for _ in range(30):
            y = y - (y + y**3 - x) / (1 + 3 * y**2)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.linalg.solve(torch.diag_embed(1 + 3 * y**2), grad)


class GradInBackward(torch.autograd.Function):
    """Records a graph of its own in its backward and sweeps it; not differentiable again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin().cumsum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            y = x.sin().cumsum(0)
        return torch.autograd.grad(y, x, grad)[0]


class FuncVjpInBackward(torch.autograd.Function):
    """Enters a level of torch.func inside ours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin().cumsum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.func.vjp(lambda x: x.sin().cumsum(0), ctx.saved_tensors[0])[1](grad)[0]


class GradIndependentBackward(torch.autograd.Function):
    """Ignores its cotangent: what comes back is not a batch, and is added to what is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.full(grad.shape, 0.25, dtype=grad.dtype)


def square(x: Tensor) -> Tensor:
    side = int(x.numel() ** 0.5)
    return x.view(side, side)


def positive_definite(x: Tensor) -> Tensor:
    matrix = square(x)
    return matrix @ matrix.T + 3 * torch.eye(len(matrix), dtype=x.dtype)


def attention(x: Tensor) -> Tensor:
    q, k, v = (x.view(3, 4) @ fixed(4, 4, seed=i) for i in range(3))
    return (q @ k.T / 2).softmax(-1) @ v


def hooked(x: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = x.sin()
    hidden.register_hook(hook)
    return hidden * hidden.sum()


def node_hooked(x: Tensor) -> Tensor:
    hidden = x.sin()
    assert hidden.grad_fn is not None
    hidden.grad_fn.register_prehook(lambda grads: (2 * grads[0],))
    hidden.grad_fn.register_hook(lambda grad_inputs, grad_outputs: (grad_inputs[0] * 3,))
    return hidden.exp()


def retained(x: Tensor) -> Tensor:
    hidden = x.sin()
    hidden.retain_grad()
    return hidden * hidden.sum()


def in_place(x: Tensor) -> Tensor:
    hidden = x.clone()
    hidden.mul_(2).add_(x).sin_()
    hidden[1:3] += x[0]
    hidden.neg_()
    return hidden


def in_place_on_a_view(x: Tensor) -> Tensor:
    base = x.view(2, 3).clone()
    base[0].sin_()
    base.view(-1)[::2].add_(x[:3] ** 2)
    return base


def brusselator(x: Tensor) -> Tensor:
    u, v = x.view(2, 3, 3)

    def laplacian(w: Tensor) -> Tensor:
        return w.roll(1, 0) + w.roll(-1, 0) + w.roll(1, 1) + w.roll(-1, 1) - 4 * w

    return torch.stack([1 + u**2 * v - 4.4 * u + laplacian(u), 3.4 * u - u**2 * v + laplacian(v)])


def runge_kutta(x: Tensor) -> Tensor:
    for _ in range(5):
        k1 = x.flip(0).sin()
        k2 = (x + 0.05 * k1).flip(0).sin()
        x = x + 0.1 * k2
    return x


def deep_chain(x: Tensor) -> Tensor:
    for _ in range(1000):
        x = x * 1.001
    return x


def diamonds(x: Tensor) -> Tensor:
    for _ in range(12):
        x = x.sin() + x.cos()
    return x


def mixed_dtypes(x: Tensor) -> Tensor:
    return (x.float().sin().double() * x).half().double()


def saved_on_cpu(x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return x.sin() * x.exp()


def autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (square(x.float()) @ fixed(3, 3).float()).tanh()


def compiled(x: Tensor) -> Tensor:
    return torch.compile(lambda x: (x.sin() * x.sum()).exp(), backend="aot_eager")(x)


def lstm(x: Tensor) -> Tensor:
    return seeded(lambda: nn.LSTM(3, 4))(x.view(4, 1, 3))[0][-1]


def gru(x: Tensor) -> Tensor:
    return seeded(lambda: nn.GRU(3, 4, bidirectional=True))(x.view(4, 1, 3))[0][-1]


def encoder_layer(x: Tensor) -> Tensor:
    return seeded(lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True))(x.view(1, 3, 4))


def network_by_weights(x: Tensor) -> Tensor:
    return (x[:12].view(3, 4) @ fixed(4, 5)).tanh().T @ x[12:].view(3, 2)


PROBLEMS = (
    # elementwise, broadcasting, reductions
    Problem("elementwise", 6, lambda x: x.sin() * x.exp() + x.sigmoid().log1p() / (1 + x**2)),
    Problem("broadcast", 6, lambda x: x[:2, None] * x[None, 2:] + x.mean()),
    Problem("0-d", 1, lambda x: x.squeeze().exp()),
    Problem("empty", 3, lambda x: x[:0].exp()),
    Problem("no path", 3, lambda x: x.detach().exp().requires_grad_()),
    Problem("constant", 3, lambda x: torch.ones(2, dtype=x.dtype)),
    Problem("reductions", 6, lambda x: torch.stack([x.sum(), x.prod(), x.std(), x.norm(), x.logsumexp(0), x.var()])),
    Problem("relu and where", 6, lambda x: torch.where(x > 0, x.relu() ** 2, x.abs().clamp(max=0.5))),
    Problem(
        "max, sort, topk", 6, lambda x: torch.cat([x.max()[None], x.sort().values, x.topk(2).values, x.cummax(0)[0]])
    ),
    Problem("cumulative", 5, lambda x: x.cumsum(0) * x.cumprod(0) + x.logcumsumexp(0)),
    Problem("prelu, celu, gelu", 6, lambda x: F.prelu(x, x[:1]) + F.celu(x) + F.gelu(x) + F.silu(x)),
    # matrices
    Problem("ger", 3, lambda x: torch.ger(x, x)),
    Problem("matmul", 8, lambda x: x.view(2, 4) @ x.view(4, 2)),
    Problem(
        "bmm and einsum",
        8,
        lambda x: torch.einsum("bij,bjk->ik", x.view(2, 2, 2), x.view(2, 2, 2).bmm(x.view(2, 2, 2))),
    ),
    Problem("addmm", 9, lambda x: torch.addmm(x[:3], square(x), square(x), beta=0.5, alpha=2)),
    Problem("mlp by inputs", 8, lambda x: torch.tanh(x @ fixed(8, 16)) @ fixed(16, 5)),
    Problem("mlp by weights", 18, network_by_weights),
    Problem(
        "inv, solve, det",
        9,
        lambda x: torch.linalg.solve(positive_definite(x), square(x)) + positive_definite(x).inverse().det(),
    ),
    Problem(
        "cholesky, slogdet",
        9,
        lambda x: torch.linalg.cholesky(positive_definite(x)) * torch.linalg.slogdet(positive_definite(x))[1],
    ),
    Problem(
        "eigh, svdvals",
        9,
        lambda x: torch.cat([torch.linalg.eigvalsh(positive_definite(x)), torch.linalg.svdvals(square(x))]),
    ),
    Problem("qr, matrix_exp", 9, lambda x: torch.linalg.qr(square(x)).R + torch.matrix_exp(square(x))),
    Problem(
        "more rows than a matrix_exp has elements", 4, lambda x: torch.outer(x, torch.matrix_exp(square(x)).ravel())
    ),
    Problem(
        "rows of two of matrix_exp, 6 times",
        6,
        lambda x: torch.matrix_exp(torch.einsum("i,j,k->ijk", x[:2], x[2:4], x[4:])) * x[:, None, None, None],
    ),
    Problem("cdist", 6, lambda x: torch.cdist(x.view(3, 2), x.view(3, 2) + 1), first_order=True, fallback=False),
    Problem("pairwise distance", 6, lambda x: F.pairwise_distance(x.view(3, 2), x.view(3, 2).flip(0) + 1)),
    Problem(
        "lstsq and pinv",
        12,
        lambda x: torch.linalg.pinv(x[:6].view(3, 2)) @ torch.linalg.lstsq(x.view(4, 3), fixed(4, 1))[0],
    ),
    Problem("kron and trace", 4, lambda x: torch.kron(square(x), square(x)) * square(x).trace()),
    # networks
    Problem("conv1d", 8, lambda x: F.conv1d(x.view(1, 1, 8), x[:3].view(1, 1, 3), padding=1)),
    Problem("conv2d", 18, lambda x: F.conv2d(x.view(1, 2, 3, 3), fixed(3, 2, 2, 2), stride=1)),
    Problem("conv_transpose2d", 8, lambda x: F.conv_transpose2d(x.view(1, 2, 2, 2), fixed(2, 1, 2, 2))),
    Problem(
        "pooling", 16, lambda x: torch.cat([F.max_pool2d(x.view(1, 1, 4, 4), 2), F.avg_pool2d(x.view(1, 1, 4, 4), 2)])
    ),
    Problem("layer_norm", 9, lambda x: F.layer_norm(x[:6].view(2, 3), (3,), x[6:])),
    Problem("batch_norm in training", 8, lambda x: F.batch_norm(x[:6].view(3, 2), None, None, x[6:], training=True)),
    Problem(
        "group and instance norm", 16, lambda x: F.group_norm(x.view(1, 4, 4), 2) + F.instance_norm(x.view(1, 4, 4))
    ),
    Problem("softmax", 6, lambda x: x.view(2, 3).softmax(1) * x.view(2, 3).log_softmax(0)),
    Problem("cross entropy", 6, lambda x: F.cross_entropy(x.view(2, 3), torch.tensor([0, 2]), reduction="none")),
    Problem("attention", 12, attention),
    Problem(
        "scaled_dot_product_attention",
        24,
        lambda x: F.scaled_dot_product_attention(*x.view(3, 1, 2, 4)),
        first_order=True,
    ),
    Problem("transformer layer", 12, encoder_layer, first_order=True),
    Problem("lstm", 12, lstm),
    Problem("gru", 12, gru),
    Problem("dropout", 8, lambda x: F.dropout(x, 0.5) * x),
    Problem(
        "interpolate and pad",
        8,
        lambda x: F.pad(F.interpolate(x.view(1, 2, 4), scale_factor=2.0, mode="linear"), (1, 1), "reflect"),
    ),
    Problem(
        "grid_sample",
        17,
        lambda x: F.grid_sample(x[:9].view(1, 1, 3, 3), x[9:].view(1, 2, 2, 2).tanh(), align_corners=False),
        first_order=True,  # not twice in torch 2.11
    ),
    # indexing
    Problem(
        "gather and scatter",
        6,
        lambda x: x.gather(0, torch.tensor([0, 0, 5])).scatter_add(0, torch.tensor([1, 1, 2]), x[:3] ** 2),
    ),
    Problem(
        "index_select and index_put",
        6,
        lambda x: x.clone().index_put_(
            (torch.tensor([0, 2, 2]),), x.index_select(0, torch.tensor([5, 1, 1])) ** 2, accumulate=True
        ),
    ),
    Problem("masked_select", 6, lambda x: (x**2).masked_select(torch.tensor([True, False] * 3))),
    Problem(
        "masked_scatter, take_along_dim",
        6,
        lambda x: x.masked_scatter(torch.tensor([True, False] * 3), x[:3] ** 2).take_along_dim(torch.tensor([1, 0, 3])),
    ),
    Problem("embedding", 8, lambda x: F.embedding(torch.tensor([[0, 3], [3, 1]]), x.view(4, 2)) ** 2),
    Problem(
        "sparse times dense", 6, lambda x: torch.sparse.mm(torch.eye(3, dtype=x.dtype).to_sparse(), x.view(3, 2)) ** 2
    ),
    # views and in-place
    Problem("views", 6, lambda x: x.view(2, 3).T.unsqueeze(0).expand(2, 3, 2).diagonal(0, 1, 2).flip(0) ** 2),
    Problem(
        "as_strided_scatter, which reads its cotangent's storage",
        9,
        lambda x: torch.as_strided_scatter(x.view(3, 3), x[:4].view(2, 2) ** 2, (2, 2), (2, 1), 0),
    ),
    Problem("as_strided and unfold", 6, lambda x: x.as_strided((3, 2), (1, 2)) * x.unfold(0, 2, 2)),
    Problem(
        "unbind, stack, split",
        6,
        lambda x: torch.stack(x.view(3, 2).unbind()[::-1]) * torch.cat(x.split([1, 2, 3])[::-1]).view(3, 2),
    ),
    Problem("in-place", 4, in_place),
    Problem("in-place on a view", 6, in_place_on_a_view),
    # complex inside
    Problem("fft", 6, lambda x: torch.view_as_real(torch.fft.rfft(x * x))),
    Problem(
        "complex intermediate",
        4,
        lambda x: (torch.complex(x[:2], x[2:]).exp() * torch.complex(x[2:], x[:2]).conj()).abs(),
    ),
    # structure, physics
    Problem("brusselator", 18, brusselator),
    Problem("runge-kutta", 3, runge_kutta),
    Problem("deep chain", 2, deep_chain),
    Problem("diamonds", 2, diamonds),
    Problem("wide fan-out", 3, lambda x: sum((x * k).sin() for k in range(200))),
    Problem("mixed dtypes", 4, mixed_dtypes, first_order=True),
    # custom Functions
    Problem("Function without vmap", 4, lambda x: NoVmap.apply(x) * x),
    Problem("Function with a generated vmap", 4, lambda x: GeneratedVmap.apply(x) * x),
    Problem("Function with its own vmap", 4, lambda x: WrittenVmap.apply(x) * x, fallback=False),
    Problem("item in a backward", 4, lambda x: ItemInBackward.apply(x) * x, fallback=True),
    Problem("branch in a backward", 4, lambda x: BranchInBackward.apply(x) * x, fallback=True),
    Problem("in-place in a backward", 4, lambda x: InPlaceInBackward.apply(x) * x, fallback=True),
    Problem("numpy in a backward", 4, lambda x: NumpyBackward.apply(x.sin()), first_order=True, fallback=True),
    Problem("None from a backward", 4, lambda x: NoneBackward.apply(x.sin(), x.cos())),
    Problem("implicit root", 4, lambda x: ImplicitRoot.apply(x) * x.sum()),
    Problem("grad inside a backward", 4, lambda x: GradInBackward.apply(x) * x, first_order=True, fallback=True),
    Problem("torch.func.vjp inside a backward", 4, lambda x: FuncVjpInBackward.apply(x) * x, fallback=False),
    Problem("backward that ignores its cotangent", 4, lambda x: GradIndependentBackward.apply(x) * x.sin()),
    # hooks, checkpoints, modes
    Problem("tensor hook", 4, lambda x: hooked(x, lambda grad: 2 * grad), fallback=False),
    Problem(
        "tensor hook that branches",
        4,
        lambda x: hooked(x, lambda grad: grad * 2 if grad.sum() > 0 else grad),
        fallback=True,
    ),
    Problem("node hooks", 4, node_hooked),
    Problem("retain_grad", 4, retained),
    Problem("checkpoint", 4, lambda x: checkpoint(lambda x: x.sin() * x.sum(), x * 2, use_reentrant=False)),
    Problem(
        "checkpoint of dropout",
        4,
        lambda x: checkpoint(lambda x: F.dropout(x, 0.5) * x.sum(), x * 2, use_reentrant=False),
    ),
    Problem("saved tensors on the CPU", 4, saved_on_cpu),
    Problem("autocast", 9, autocast, first_order=True),
    Problem("torch.compile", 4, compiled, first_order=True),
)
