"""Graphs of operators that torch has on CUDA alone: each by its kernel, and by what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cuda_operators import KERNELS
from torch import Tensor

SAMPLES, ELEMENTS = 3, 16


def constant(like: Tensor, *shape: int) -> Tensor:
    numel = torch.Size(shape).numel()
    return torch.linspace(-0.9, 1.2, numel, dtype=torch.float64).sin().view(shape).to(like)


@dataclass(frozen=True)
class Graph:
    operator: str
    arguments: Callable[[Tensor], tuple[Any, ...]]  # of SAMPLES x ELEMENTS numbers
    outputs: tuple[int, ...] = (0,)
    options: tuple[tuple[str, Any], ...] = ()
    samples: int | None = 0  # their dimension in all outputs, or None where they are mixed
    is_twice_differentiable: bool = True  # by what it is made of
    dtype: torch.dtype | None = torch.float64  # on CUDA, or None where its kernel needs another shape

    def join(self, found: Any) -> Tensor:
        found = [found] if isinstance(found, Tensor) else [found[k] for k in self.outputs]
        if self.samples is None:
            return torch.cat([output.flatten() for output in found])
        return torch.cat([output.movedim(self.samples, 0).reshape(SAMPLES, -1) for output in found], 1)

    def fused(self, x: Tensor) -> Tensor:
        return self.join(getattr(torch.ops.aten, self.operator)(*self.arguments(x), **dict(self.options)))

    def plain(self, x: Tensor) -> Tensor:
        """Not by cuDNN, whose layers have no backward in eval mode."""
        with torch.backends.cudnn.flags(enabled=False):
            return self.join(KERNELS[self.operator](*self.arguments(x), **dict(self.options)))


def gru_arguments(x: Tensor, *biases: Tensor | None) -> tuple[Any, ...]:
    return x[:, :9], x[:, 7:].sin(), x[:, 4:7].cos(), *biases


def lstm_arguments(x: Tensor, *biases: Tensor | None) -> tuple[Any, ...]:
    return x, x.sin() * x.flip(1), x[:, 4:8].cos(), *biases


def parts(x: Tensor, heads: int = 2) -> tuple[Tensor, ...]:
    """Query, key and value of 2 heads, or 4 that share 2 of the keys, 2 steps and 4 numbers."""
    query = x.view(SAMPLES, 2, 2, 4)
    query = query if heads == 2 else torch.cat([query, query.cos()], 1)
    return query, query[:, :2].sin(), query[:, :2] ** 2


def longer(x: Tensor) -> tuple[Tensor, ...]:
    query, key, value = parts(x)
    return query, torch.cat([key, key[..., :1, :].cos()], 2), torch.cat([value, value[..., :1, :].cos()], 2)


def closed(x: Tensor) -> Tensor:
    """A mask that closes some keys, and to one query all of them."""
    mask = torch.zeros(SAMPLES, 2, 2, 2, dtype=x.dtype, device=x.device)
    mask[:, 1, 0] = -torch.inf
    mask[1, :, :, 1] = -torch.inf
    return mask


def normalized(x: Tensor) -> tuple[Tensor, ...]:
    return x.view(SAMPLES, 4, 4), constant(x, 4), constant(x, 4).cos()


def recurrent(
    x: Tensor, mode: int, layers: int = 1, directions: int = 1, biases: bool = True, batch_first: bool = True
) -> tuple[Any, ...]:
    """Of 4 steps of 4 numbers, with states of 2, from x, too."""
    gates = (1, 1, 4, 3)[mode] * 2
    weights = []
    for layer in range(layers):
        for direction in range(directions):
            shapes: list[tuple[int, ...]] = [(gates, 2 * directions if layer else 4), (gates, 2)]
            shapes += [(gates,), (gates,)] if biases else []
            weights += [constant(x, *shape) * (1 - 0.3 * direction) for shape in shapes]
    steps = x.view(SAMPLES, 4, 4)
    state = torch.stack([x[:, 2 * k : 2 * k + 2].sin() for k in range(layers * directions)])
    return (
        *(steps if batch_first else steps.transpose(0, 1), weights, 4 if biases else 2, None, state),
        *(state.cos() if mode == 2 else None, mode, 2, 0, layers, batch_first, 0.0, True, directions == 2, [], None),
    )


def by_weights(x: Tensor, mode: int, biases: bool) -> tuple[Any, ...]:
    """Two layers in both directions, whose weights depend on x."""
    arguments = list(recurrent(x, mode, 2, 2, biases))
    arguments[1] = [weight * x.flatten()[k] + weight.cos() * x.sum() for k, weight in enumerate(arguments[1])]
    return tuple(arguments)


GRU, LSTM, RNN = "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "_cudnn_rnn"
EFFICIENT, FLASH = "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention"
CUDNN = "_scaled_dot_product_cudnn_attention"
SINGLE: dict[str, Any] = {"dtype": torch.float32}
CTC: dict[str, Any] = {"is_twice_differentiable": False, "dtype": None}

GRAPHS: dict[str, Graph] = {
    "GRU cell": Graph(GRU, lambda x: gru_arguments(x, constant(x, 9), constant(x, 9).cos())),
    "GRU cell without biases": Graph(GRU, lambda x: gru_arguments(x, None, None)),
    "GRU cell by biases": Graph(GRU, lambda x: gru_arguments(x, x[0, :9], x[1, :9].sin()), samples=None),
    "LSTM cell": Graph(LSTM, lambda x: lstm_arguments(x, constant(x, 16), constant(x, 16).cos()), (0, 1)),
    "LSTM cell without biases": Graph(LSTM, lambda x: lstm_arguments(x, None, None), (0, 1)),
    "LSTM cell by biases": Graph(LSTM, lambda x: lstm_arguments(x, x[0], x[1].sin()), (0, 1), samples=None),
    "hidden state of an LSTM cell": Graph(LSTM, lambda x: lstm_arguments(x, None, None)),
    "state of an LSTM cell": Graph(LSTM, lambda x: lstm_arguments(x, None, None), (1,)),
    "attention": Graph(EFFICIENT, lambda x: (*parts(x), None, True), **SINGLE),
    "causal attention": Graph(EFFICIENT, lambda x: (*parts(x), None, True, 0.0, True), **SINGLE),
    "causal attention to more keys": Graph(EFFICIENT, lambda x: (*longer(x), None, True, 0.0, True), **SINGLE),
    "attention of a scale": Graph(EFFICIENT, lambda x: (*parts(x), None, True), (0,), (("scale", 0.3),), **SINGLE),
    "attention by a mask": Graph(
        EFFICIENT, lambda x: (*parts(x), x[:, :8].reshape(SAMPLES, 2, 2, 2).exp(), True), dtype=None
    ),
    "attention by one mask": Graph(
        EFFICIENT, lambda x: (*parts(x), x[0, :4].view(2, 2).expand(SAMPLES, 2, 2, 2), True), samples=None, dtype=None
    ),
    "attention with a mask": Graph(EFFICIENT, lambda x: (*parts(x), closed(x), True), dtype=None),
    "attention in flashes": Graph(FLASH, parts, dtype=None),
    "causal attention in flashes": Graph(FLASH, lambda x: (*parts(x), 0.0, True), dtype=None),
    "attention of heads that share keys": Graph(FLASH, lambda x: parts(x, 4), dtype=None),
    "causal attention of heads that share keys": Graph(FLASH, lambda x: (*parts(x, 4), 0.0, True), dtype=None),
    "attention of cuDNN": Graph(CUDNN, lambda x: (*parts(x, 4), None, True), dtype=None),
    "attention of cuDNN with a mask": Graph(CUDNN, lambda x: (*parts(x), closed(x), True, 0.0), dtype=None),
    "causal attention of cuDNN": Graph(CUDNN, lambda x: (*parts(x), None, True, 0.0, True), dtype=None),
    "batch norm": Graph(
        "cudnn_batch_norm", lambda x: (*normalized(x), None, None, True, 0.1, 1e-5), samples=None, dtype=torch.float64
    ),
    "batch norm by its parameters": Graph(
        "cudnn_batch_norm",
        lambda x: (x.view(SAMPLES, 4, 4), x[0, :4], x[1, :4].sin(), None, None, True, 0.1, 1e-5),
        samples=None,
    ),
    "batch norm by running statistics": Graph(
        "cudnn_batch_norm",
        lambda x: (*normalized(x), constant(x, 4), constant(x, 4).square() + 0.5, False, 0.1, 1e-5),
    ),
    "pictures at places": Graph(
        "cudnn_grid_sampler",
        lambda x: (x.view(SAMPLES, 1, 4, 4), x[:, :8].reshape(SAMPLES, 2, 2, 2).sin()),
        is_twice_differentiable=False,
        dtype=torch.float32,
    ),
    "classification of sequences": Graph(
        "_cudnn_ctc_loss",
        lambda x: (
            *(x.view(SAMPLES, 4, 4).transpose(0, 1).log_softmax(-1), torch.tensor([1, 2, 1, 3], dtype=torch.int32)),
            *([4] * SAMPLES, [1, 2, 1], 0, False, False),
        ),
        **CTC,
    ),
    "classification of sequences, one of them too short": Graph(
        "_cudnn_ctc_loss",
        lambda x: (
            *(x.view(SAMPLES, 4, 4).transpose(0, 1).log_softmax(-1), torch.tensor([1, 1, 1, 1, 3], dtype=torch.int32)),
            *([4] * SAMPLES, [1, 3, 1], 0, False, True),
        ),
        **CTC,
    ),
    "GRU": Graph(RNN, lambda x: recurrent(x, 3)),
    "LSTM": Graph(RNN, lambda x: recurrent(x, 2)),
    "tanh network": Graph(RNN, lambda x: recurrent(x, 1)),
    "relu network": Graph(RNN, lambda x: recurrent(x, 0)),
    "GRU, steps first": Graph(RNN, lambda x: recurrent(x, 3, batch_first=False), (0, 1), samples=1),
    "LSTM, steps first": Graph(RNN, lambda x: recurrent(x, 2, batch_first=False), (0, 1, 2), samples=1),
    "LSTM, two layers, both directions": Graph(RNN, lambda x: recurrent(x, 2, 2, 2)),
    "GRU, states of two layers": Graph(RNN, lambda x: recurrent(x, 3, 2), (1,), samples=1),
    "LSTM, states of two layers": Graph(RNN, lambda x: recurrent(x, 2, 2), (1, 2), samples=1),
    "LSTM, cells of two layers": Graph(RNN, lambda x: recurrent(x, 2, 2, biases=False), (2,), samples=1),
    "LSTM by weights": Graph(RNN, lambda x: by_weights(x, 2, True), (0, 1, 2), samples=None),
    "GRU by weights": Graph(RNN, lambda x: by_weights(x, 3, True), (0, 1), samples=None),
    "tanh network by weights": Graph(RNN, lambda x: by_weights(x, 1, False), (0, 1), samples=None),
}


def leaf(device: str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.arange(SAMPLES * ELEMENTS, dtype=torch.float64).mul(1.7).sin()
    return numbers.view(SAMPLES, ELEMENTS).to(device, dtype).requires_grad_()
