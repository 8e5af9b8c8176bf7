"""More of tests/problems.py: operators, Functions and modes of torch's that are seldom met, or hard for vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from problems import ItemInBackward, Problem, fixed, seeded, square
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].exp()


class PowerWithContext(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, exponent: int) -> Tensor:
        return x**exponent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.exponent = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.exponent * ctx.saved_tensors[0] ** (ctx.exponent - 1), None


class NonContiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous().view(-1).view(grad.shape).t()


class Dirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class SortWithIndex(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values, index = x.sort()
        ctx.save_for_backward(index)
        ctx.mark_non_differentiable(index)
        return values, index

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        return torch.zeros_like(grad).index_copy(0, ctx.saved_tensors[0], grad)


@torch.library.custom_op("highgrad_tests::scale_by", mutates_args=())
def scale_by(grad: Tensor, x: Tensor) -> Tensor:
    return torch.from_numpy(grad.numpy() * x.numpy())


@torch.library.custom_op("highgrad_tests::half_square", mutates_args=())
def half_square(x: Tensor) -> Tensor:
    return x * x / 2


half_square.register_autograd(
    lambda ctx, grad: scale_by(grad, ctx.saved_tensors[0]),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


def attention(backend: SDPBackend, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    def build(x: Tensor) -> Tensor:
        with sdpa_kernel([backend]):
            return F.scaled_dot_product_attention(*x.view(3, 1, 2, 3, 2), **kwargs)

    return build


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.compile(function, backend="aot_eager")(x)


def recurrent(kind: type[nn.RNNBase], **kwargs: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: seeded(lambda: kind(3, 2, **kwargs))(x.view(3, 1, 3))[0]


def lstm_states(x: Tensor) -> Tensor:
    _, (hidden, memory) = seeded(lambda: nn.LSTM(3, 2, num_layers=2, batch_first=True))(x.view(2, 2, 3))
    return torch.cat([hidden.flatten(), memory.flatten()])


def packed_lstm(x: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x.view(3, 2, 2), torch.tensor([3, 2]))
    return seeded(lambda: nn.LSTM(2, 2))(packed)[0].data


def sparse_matrix(values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[0, 1, 2], [2, 0, 1]]), values, (3, 3))


def nested_padded(x: Tensor) -> Tensor:
    return torch.nested.to_padded_tensor(torch.nested.as_nested_tensor([x[:2].sin(), x[2:].cos()]) * 2, 0.0)


def nested_jagged(x: Tensor) -> Tensor:
    parts = [x.view(3, 2)[:1].sin(), x.view(3, 2)[1:].cos()]
    return (torch.nested.as_nested_tensor(parts, layout=torch.jagged) * 2).values()


def autocast_network(x: Tensor) -> Tensor:
    network = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3))).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return network(x.float().view(1, 4)).double()


def lu(x: Tensor) -> Tensor:
    _, lower, upper = torch.linalg.lu(square(x) + 3 * torch.eye(3))
    return lower @ upper + lower


def eigenvectors(x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(square(x) @ square(x).T)
    return vectors.abs() * values


def singular_vectors(x: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(square(x) + 3 * torch.eye(3), full_matrices=False)
    return left.abs() @ torch.diag(values) @ right.abs()


def module_hooked(x: Tensor) -> Tensor:
    layer = seeded(lambda: nn.Linear(4, 3))
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 2,))
    layer.register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] * 3,))
    return layer(x).tanh()


def hook_in_place(x: Tensor) -> Tensor:
    hidden = x.sin()
    hidden.register_hook(lambda grad: grad.clone().mul_(2))
    return hidden**2


def multi_hooked(x: Tensor) -> Tensor:
    hidden = x.sin(), x.cos()
    torch.autograd.graph.register_multi_grad_hook(hidden, lambda grads: None)
    return hidden[0] * hidden[1].sum()


def checkpoint_chain(x: Tensor) -> Tensor:
    layers = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()))
    return checkpoint_sequential(layers, 2, x.view(1, 4), use_reentrant=False)


def nested_checkpoint(x: Tensor) -> Tensor:
    def inner(x: Tensor) -> Tensor:
        return checkpoint(lambda x: x.sin() * x.sum(), x, use_reentrant=False).exp() * x

    return checkpoint(inner, x * 2, use_reentrant=False)


def saved_as_numpy(x: Tensor) -> Tensor:
    def pack(tensor: Tensor) -> np.ndarray[Any, Any]:
        return tensor.numpy(force=True).copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        return x.sin() * x.exp()


def split_in_place(x: Tensor) -> Tensor:
    left, right = (x * 1).chunk(2)
    return left.clone().mul_(right) + right


def filled(x: Tensor) -> Tensor:
    matrix = square(x).clone()
    matrix.fill_diagonal_(2)
    matrix[0, :] = x[:3] ** 2
    return matrix.cumprod(1)


def indexed(x: Tensor) -> Tensor:
    index = torch.tensor([0, 0, 1])
    return (
        x.clone().index_fill_(0, index[2:], 2.0).index_add(0, index[:2], x[:2]).scatter_reduce(0, index, x[:3], "prod")
    )


def unpooled(x: Tensor) -> Tensor:
    values, index = F.max_pool2d(x.view(1, 1, 4, 4), 2, return_indices=True)
    return F.max_unpool2d(values, index, 2) ** 2


def looped(x: Tensor) -> Tensor:
    y = x
    for _ in range(3):
        y = (y * x).sin()
    return y


def complex_solve(x: Tensor) -> Tensor:
    z = torch.complex(x[:4], x[4:]).view(2, 2)
    return torch.view_as_real(torch.linalg.solve(z, z.conj().T) @ z.exp())


def short_time_fourier(x: Tensor) -> Tensor:
    window = torch.hann_window(4, dtype=x.dtype)
    return torch.istft(torch.stft(x, 4, window=window, return_complex=True) ** 2, 4, window=window)


HARD_PROBLEMS = (
    # networks
    Problem("rnn", 9, recurrent(nn.RNN, nonlinearity="relu")),
    Problem("lstm, two layers, two directions", 9, recurrent(nn.LSTM, num_layers=2, bidirectional=True)),
    Problem("lstm with projections", 9, recurrent(nn.LSTM, proj_size=1)),
    Problem("states of an lstm", 12, lstm_states),
    Problem("packed lstm", 12, packed_lstm),
    Problem("attention, math", 36, attention(SDPBackend.MATH, is_causal=True)),
    Problem("attention, flash", 36, attention(SDPBackend.FLASH_ATTENTION), first_order=True),
    Problem("attention, flash and causal", 36, attention(SDPBackend.FLASH_ATTENTION, is_causal=True), first_order=True),
    Problem("ctc", 12, lambda x: F.ctc_loss(x.view(4, 1, 3).log_softmax(-1), torch.tensor([[1, 2]]), (4,), (2,)), True),
    Problem("embedding_bag", 8, lambda x: F.embedding_bag(torch.tensor([[0, 3], [1, 0]]), x.view(4, 2)), True),
    Problem("unfold and fold", 16, lambda x: F.fold(F.unfold(x.view(1, 1, 4, 4), 2), (4, 4), 2) ** 2),
    Problem("max_unpool2d", 16, unpooled),
    Problem("autocast of a network", 4, autocast_network, first_order=True),
    Problem("fake quantisation", 6, lambda x: torch.fake_quantize_per_tensor_affine(x.sin(), 0.1, 0, -4, 4)),
    # matrices, complex numbers, indices
    Problem("lu", 9, lu),
    Problem("eigenvectors", 9, eigenvectors),
    Problem("singular vectors", 9, singular_vectors),
    Problem("complex solve", 8, complex_solve),
    Problem("stft and istft", 8, short_time_fourier),
    Problem("eigenvalues of any matrix", 9, lambda x: torch.linalg.eigvals(square(x)).abs()),
    Problem("indexed", 5, indexed),
    Problem("filled in place", 9, filled),
    Problem("chunks, in place", 6, split_in_place),
    Problem("as_strided_, in place", 5, lambda x: x.clone().as_strided_((2, 2), (2, 1), 1).mul_(3).sin()),
    Problem("segment_reduce", 5, lambda x: torch.segment_reduce(x, "max", lengths=torch.tensor([2, 3])), True),
    # sparse and nested
    Problem("sparse leaf", 6, lambda x: torch.sparse.mm(sparse_matrix(x[:3]), x[3:].view(3, 1)) ** 2, True, True),
    Problem("sparse addmm", 6, lambda x: torch.sparse.addmm(x.view(3, 2), sparse_matrix(fixed(3)), x.view(3, 2) ** 2)),
    Problem("csr times dense", 6, lambda x: (sparse_matrix(fixed(3)).to_sparse_csr() @ x.view(3, 2)) ** 2),
    Problem("sparse softmax", 3, lambda x: torch.sparse.softmax(sparse_matrix(x), 1).to_dense(), True, True),
    Problem("to_sparse and back", 6, lambda x: (x.view(3, 2).sin().to_sparse() * 2).to_dense()),
    Problem(
        "sampled_addmm",
        6,
        lambda x: torch.sparse.sampled_addmm(
            sparse_matrix(fixed(3)).to_sparse_csr(), x.view(3, 2), x.view(2, 3)
        ).to_dense(),
        fallback=True,
    ),
    Problem("nested, padded", 4, nested_padded),
    Problem("nested, jagged", 6, nested_jagged),
    # Functions
    Problem("once_differentiable", 4, lambda x: OnceDifferentiable.apply(x.sin()), first_order=True),
    Problem("Function with setup_context", 4, lambda x: PowerWithContext.apply(x, 3) * x),
    Problem("non-contiguous Function", 6, lambda x: NonContiguous.apply(x.view(2, 3).sin()) ** 2),
    Problem("Function in place", 4, lambda x: Dirty.apply(x.sin()).exp()),
    Problem("Function with an index", 4, lambda x: SortWithIndex.apply(x.sin())[0].cumsum(0)),
    Problem("custom op", 4, lambda x: half_square(x.sin()).cumsum(0), first_order=True),
    # hooks, checkpoints, modes
    Problem("hooks of a module", 4, module_hooked),
    Problem("hook in place", 4, hook_in_place),
    Problem("multi-grad hook", 4, multi_hooked),
    Problem("chain of checkpoints", 4, checkpoint_chain),
    Problem("nested checkpoints", 4, nested_checkpoint),
    Problem(
        "checkpoint of a Function",
        4,
        lambda x: checkpoint(lambda x: ItemInBackward.apply(x.sin()) * x.sum(), x * 2, use_reentrant=False),
        fallback=True,
    ),
    Problem("saved as numpy", 4, saved_as_numpy),
    Problem("torch.compile of a product", 9, compiled(lambda x: (square(x) @ square(x)).tanh()), True, True),
    Problem("torch.cond", 4, lambda x: torch.cond(x.sum() > 9, torch.sin, lambda x: x.cos() * x.sum(), (x,)), True),
    Problem("torch.jit.script", 4, lambda x: torch.jit.script(looped)(x)),
    Problem("torch.func.grad", 4, torch.func.grad(lambda x: x.sin().prod())),
    Problem("torch.func.vmap", 6, lambda x: torch.vmap(lambda row: row.cumsum(0) * row.sum())(x.view(2, 3))),
    Problem("torch.func.jvp", 4, lambda x: torch.func.jvp(lambda x: x.sin() * x.prod(), (x,), (x.detach(),))[1]),
)
