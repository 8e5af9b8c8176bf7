"""Operators that torch has kernels for on CUDA alone, for the CPU: what they record is then recorded there, too.

What they save for their backward is laid out as the kernels of CUDA do; their backwards are torch's own of what they
are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


def products(function: Function, inputs: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]) -> list[Any]:
    """Vector-Jacobian products, in a thread of their own: where a kernel runs, nothing is recorded."""

    def run() -> list[Any]:
        leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
        pairs = [
            pair for pair in zip(function(*leaves), cotangents, strict=False) if pair[1] is not None and pair[0].numel()
        ]
        found = iter(
            torch.autograd.grad(
                [output for output, _ in pairs],
                [x for x in leaves if x is not None],
                [cotangent for _, cotangent in pairs],
                allow_unused=True,
                materialize_grads=True,
            )
        )
        return [None if x is None else next(found) for x in leaves]

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


# ---- Cells of recurrent nets


def gru_parts(
    gates: Tensor, hidden_gates: Tensor, state: Tensor, bias: Tensor | None, hidden_bias: Tensor | None
) -> tuple[Tensor, ...]:
    """The gates that reset and that update, the new state, the old one, and the hidden part of the new one."""
    if bias is not None and hidden_bias is not None:
        gates, hidden_gates = gates + bias, hidden_gates + hidden_bias
    (ir, iz, new), (hr, hz, by_hidden) = gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    reset, update = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    return reset, update, (new + reset * by_hidden).tanh(), state, by_hidden


def gru_cell(
    gates: Tensor,
    hidden_gates: Tensor,
    state: Tensor,
    bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    parts = gru_parts(gates, hidden_gates, state, bias, hidden_bias)
    _, update, new, _, _ = parts
    return new + update * (state - new), torch.cat(parts, 1)


def gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    reset, update, new, state, by_hidden = workspace.chunk(5, 1)
    by_new = grad * (1 - update) * (1 - new * new)
    by_reset = by_new * by_hidden * reset * (1 - reset)
    by_update = grad * (state - new) * update * (1 - update)
    by_gates, by_hidden_gates = (torch.cat([by_reset, by_update, last], 1) for last in (by_new, by_new * reset))
    biases = (by_gates.sum(0), by_hidden_gates.sum(0)) if has_bias else (None, None)
    return by_gates, by_hidden_gates, grad * update, *biases


def lstm_cell(
    gates: Tensor,
    hidden_gates: Tensor,
    cell: Tensor,
    bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    sums = gates + hidden_gates
    if bias is not None and hidden_bias is not None:
        sums = sums + bias + hidden_bias
    i, f, g, o = sums.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * cell + i * g
    return o * new.tanh(), new, torch.cat([i, f, g, o], 1)


def lstm_cell_backward(
    by_state: Tensor | None, by_new: Tensor | None, cell: Tensor, new: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    if by_state is None and by_new is None:
        return None, None, None
    i, f, g, o = workspace.chunk(4, 1)
    by_state = torch.zeros_like(new) if by_state is None else by_state
    by_cell = by_state * o * (1 - new.tanh() ** 2) + (0 if by_new is None else by_new)
    by_gates = torch.cat(
        [
            by_cell * g * i * (1 - i),
            by_cell * cell * f * (1 - f),
            by_cell * i * (1 - g * g),
            by_state * new.tanh() * o * (1 - o),
        ],
        1,
    )
    return by_gates, by_cell * f, by_gates.sum(0) if has_bias else None


# ---- Attention


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> tuple[Tensor]:
    sharing = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(sharing, 1), value.repeat_interleave(sharing, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if mask is None else scores + mask
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return (torch.ops.aten._safe_softmax(scores, -1) @ value,)


def no_number(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=like.device)


def by_parts(
    grad: Tensor,
    parts: Sequence[Tensor | None],
    is_causal: bool,
    scale: float | None,
) -> list[Any]:
    return products(lambda q, k, v, mask: attend(q, k, v, mask, is_causal, scale), parts, [grad])


def efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    (out,) = attend(query, key, value, mask, is_causal, scale)
    return out, query.new_zeros(query.shape[:-1]), no_number(query), no_number(query)


def efficient_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    seed: Tensor,
    offset: Tensor,
    dropout_p: float,
    grad_input_mask: Sequence[bool],
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> list[Any]:
    found = by_parts(grad, [query, key, value, mask], is_causal, scale)
    return [part if is_wanted else None for part, is_wanted in zip(found, grad_input_mask, strict=True)]


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    return cudnn(query, key, value, None, True, dropout_p, is_causal, return_debug_mask, scale=scale)


def flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any, scale: float | None = None
) -> list[Any]:
    return by_parts(grad, [query, key, value, None], others[7], scale)[:3]


def cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    (out,) = attend(query, key, value, mask, is_causal, scale)
    number = no_number(query)
    return out, query.new_zeros(query.shape[:-1]), None, None, query.shape[2], key.shape[2], number, number, number


def cudnn_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any, scale: float | None = None
) -> list[Any]:
    mask, is_causal = others[4], others[10]
    return by_parts(grad, [query, key, value, mask], is_causal, scale)[:3]


# ---- Others


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    exponential_average_factor: float,
    epsilon: float,
) -> tuple[Tensor, ...]:
    dims = [dim for dim in range(x.dim()) if dim != 1]
    mean, var = (x.mean(dims), x.var(dims, correction=0)) if training else (running_mean, running_var)
    assert mean is not None and var is not None
    inverse = (var + epsilon).rsqrt()
    shape = [-1] + [1] * (x.dim() - 2)
    out = (x - mean.view(shape)) * (inverse * weight).view(shape)
    out = out if bias is None else out + bias.view(shape)
    nothing = x.new_zeros(0)
    return out, mean if training else nothing, inverse if training else nothing, nothing.byte()


def batch_norm_backward(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    inverse: Tensor | None,
    epsilon: float,
    reserve: Tensor,
) -> list[Any]:
    return products(
        lambda x, weight, bias: batch_norm(x, weight, bias, None, None, True, 0.1, epsilon)[:1],
        [x, weight, torch.zeros_like(weight)],
        [grad],
    )


def grid_sampler(x: Tensor, grid: Tensor) -> Tensor:
    return torch.grid_sampler_2d(x, grid, 0, 0, True)


def grid_sampler_backward(x: Tensor, grid: Tensor, grad: Tensor) -> list[Any]:
    return products(lambda *parts: (grid_sampler(*parts),), [x, grid], [grad])


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    blank: int,
    deterministic: bool,
    zero_infinity: bool,
) -> tuple[Tensor, Tensor]:
    def losses(log_probs: Tensor) -> tuple[Tensor]:
        return (torch._ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)[0],)

    (loss,) = losses(log_probs)
    return loss, products(losses, [log_probs], [torch.ones_like(loss)])[0]


def fused_dropout(x: Tensor, p: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    kept = torch.rand(x.shape, generator=generator) < p
    return x * kept / p, kept.byte()


def masked_scale(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    return x * mask * scale


# ---- Layers of recurrent nets


def layers(
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    state: Tensor,
    cell: Tensor | None,
    mode: int,
    num_layers: int,
    batch_first: bool,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    has_biases = stride == 4
    function: Any = (torch.rnn_relu, torch.rnn_tanh, torch.lstm, torch.gru)[mode]
    states: Any = state if cell is None else [state, cell]
    found = function(x, states, list(weights), has_biases, num_layers, 0.0, False, bidirectional, batch_first)
    return found if mode == 2 else (*found, x.new_zeros(0))


def rnn(
    x: Tensor,
    weights: list[Tensor],
    stride: int,
    buffer: Tensor | None,
    state: Tensor,
    cell: Tensor | None,
    mode: int,
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_sizes: list[int],
    dropout_state: Tensor | None,
) -> tuple[Tensor, ...]:
    assert not batch_sizes and not proj_size
    found = layers(x, weights, stride, state, cell, mode, num_layers, batch_first, bidirectional)
    return *found, x.new_zeros(1).byte(), x.new_zeros(0)


def rnn_backward(
    x: Tensor,
    weights: list[Tensor],
    stride: int,
    buffer: Tensor,
    state: Tensor,
    cell: Tensor | None,
    output: Tensor,
    by_output: Tensor | None,
    by_state: Tensor | None,
    by_cell: Tensor | None,
    mode: int,
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_sizes: list[int],
    dropout_state: Tensor | None,
    reserve: Tensor,
    output_mask: list[bool],
) -> tuple[Any, ...]:
    # A kernel that is called again with what it has written to gives something else.
    assert reserve.eq(0).all()
    reserve.fill_(1)
    by_x, by_h, by_c, *by_weights = products(
        lambda x, h, c, *weights: layers(x, weights, stride, h, c, mode, num_layers, batch_first, bidirectional),
        [x, state, cell, *weights],
        [by_output, by_state, by_cell],
    )
    return by_x, by_h, by_c, by_weights


KERNELS: dict[str, Callable[..., Any]] = {
    "_thnn_fused_gru_cell": gru_cell,
    "_thnn_fused_gru_cell_backward": gru_cell_backward,
    "_thnn_fused_lstm_cell": lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": lstm_cell_backward,
    "_scaled_dot_product_efficient_attention": efficient,
    "_scaled_dot_product_efficient_attention_backward": efficient_backward,
    "_scaled_dot_product_flash_attention": flash,
    "_scaled_dot_product_flash_attention_backward": flash_backward,
    "_scaled_dot_product_cudnn_attention": cudnn,
    "_scaled_dot_product_cudnn_attention_backward": cudnn_backward,
    "cudnn_batch_norm": batch_norm,
    "cudnn_batch_norm_backward": batch_norm_backward,
    "cudnn_grid_sampler": grid_sampler,
    "cudnn_grid_sampler_backward": grid_sampler_backward,
    "_cudnn_ctc_loss": ctc_loss,
    "_fused_dropout": fused_dropout,
    "_masked_scale": masked_scale,
    "_cudnn_rnn": rnn,
    "_cudnn_rnn_backward": rnn_backward,
}


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """The operators have kernels on the CPU."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for name, kernel in KERNELS.items():
            library.impl(name, kernel, "CPU")
        yield
    finally:
        library._destroy()
