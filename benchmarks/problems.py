"""The problems that the benchmark times.

A problem is written once, against a small set of array operations (:class:`ArrayOps`), so that PyTorch and JAX run the
same function on the same numbers. This file needs NumPy alone: the JAX worker imports it in its own environment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np


class ArrayOps(Protocol):
    """The array operations that the problems are made of, for one array library, dtype and device."""

    def array(self, values: np.ndarray) -> Any: ...
    def linear(self, x: Any, weight: Any, bias: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def sin(self, x: Any) -> Any: ...
    def exp(self, x: Any) -> Any: ...
    def outer(self, x: Any, y: Any) -> Any: ...
    def roll(self, x: Any, shift: int, axis: int) -> Any: ...
    def stack(self, arrays: list[Any]) -> Any: ...


@dataclass(frozen=True)
class Case:
    """A problem in one array library: what to differentiate by (an array or a dict of them), and the function of it."""

    wrt: Any
    function: Callable[[Any], Any]


@dataclass(frozen=True)
class Problem:
    """``build`` makes the case for an array library; ``order`` is how often its function is differentiated."""

    name: str
    build: Callable[[ArrayOps], Case]
    order: int = 1


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _parameters(ops: ArrayOps, widths: tuple[int, ...]) -> dict[str, Any]:
    """Weights and biases of a fully connected network, scaled to keep activations of order one."""
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        parameters[f"{layer}.weight"] = ops.array(_random(fan_out, fan_in, seed=layer + 1) / np.sqrt(fan_in))
        parameters[f"{layer}.bias"] = ops.array(0.1 * _random(fan_out, seed=layer + 101))
    return parameters


def _mlp(ops: ArrayOps, parameters: dict[str, Any], x: Any, linear_layers: tuple[int, ...] = ()) -> Any:
    """The network: tanh after each layer but the last and those in ``linear_layers``."""
    num_layers = len(parameters) // 2
    for layer in range(num_layers):
        x = ops.linear(x, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])
        if layer < num_layers - 1 and layer not in linear_layers:
            x = ops.tanh(x)
    return x


def _mlp_by_input(*widths: int, batch: tuple[int, ...] = ()) -> Callable[[ArrayOps], Case]:
    def build(ops: ArrayOps) -> Case:
        parameters = _parameters(ops, widths)
        return Case(ops.array(_random(*batch, widths[0])), lambda x: _mlp(ops, parameters, x))

    return build


def _scalar_mlp(ops: ArrayOps) -> Case:
    parameters = _parameters(ops, (3, 64, 64, 1))
    return Case(ops.array(_random(3)), lambda x: _mlp(ops, parameters, x).reshape(()))


def _ger(ops: ArrayOps) -> Case:
    return Case(ops.array(np.array([1.0, 2.0, 3.0])), lambda s: ops.outer(s, s))


def _elementwise(ops: ArrayOps) -> Case:
    return Case(ops.array(_random(2000)), lambda x: ops.sin(x) * ops.exp(x))


def _brusselator(ops: ArrayOps) -> Case:
    """The right-hand side of the Brusselator with diffusion on a periodic grid of 24 x 24 points, for both species."""
    a, b, diffusion = 1.0, 3.4, 10.0

    def laplacian(u: Any) -> Any:
        return ops.roll(u, 1, -1) + ops.roll(u, -1, -1) + ops.roll(u, 1, -2) + ops.roll(u, -1, -2) - 4 * u

    def rate(state: Any) -> Any:
        u, v = state[0], state[1]
        reaction = u * u * v
        return ops.stack([a + reaction - (b + 1) * u, b * u - reaction]) + diffusion * laplacian(state)

    return Case(ops.array(1 + 0.1 * _random(2, 24, 24)), rate)


_DIGITS_WIDTHS = (64, 64, 2, 64, 10)
_DIGITS_LATENT = 1  # the layer whose two outputs are the latent; it has no activation


def _digits_by_pixels(ops: ArrayOps) -> Case:
    parameters = _parameters(ops, _DIGITS_WIDTHS)
    return Case(
        ops.array(np.abs(_random(64, 8, 8))),
        lambda images: _mlp(ops, parameters, images.reshape(64, 64), (_DIGITS_LATENT,)),
    )


def _digits_by_parameters(ops: ArrayOps) -> Case:
    images = ops.array(np.abs(_random(64, 64)))
    return Case(_parameters(ops, _DIGITS_WIDTHS), lambda parameters: _mlp(ops, parameters, images, (_DIGITS_LATENT,)))


def _digits_by_latent(ops: ArrayOps) -> Case:
    parameters = _parameters(ops, _DIGITS_WIDTHS[2:])
    return Case(ops.array(_random(2)), lambda latent: _mlp(ops, parameters, latent)[3])


PROBLEMS = (
    Problem("ger of 3", _ger),
    Problem("tanh MLP 64-256-256-32", _mlp_by_input(64, 256, 256, 32)),
    Problem("MLP 1024-1024-1024-512", _mlp_by_input(1024, 1024, 1024, 512)),
    Problem("MLP 8-256-256-4096", _mlp_by_input(8, 256, 256, 4096)),
    Problem("1024 samples of 3-64-64-1", _mlp_by_input(3, 64, 64, 1, batch=(1024,))),
    Problem("sin(x) exp(x), 2000", _elementwise),
    Problem("Brusselator 2x24x24, periodic", _brusselator),
    Problem("MLP 784-256-16-256-784", _mlp_by_input(784, 256, 16, 256, 784)),
    Problem("scalar MLP 3-64-64-1, order 4", _scalar_mlp, order=4),
    Problem("digits: logits by pixels", _digits_by_pixels),
    Problem("digits: logits by all parameters", _digits_by_parameters),
    Problem("digits: logit by 2-D latent, order 3", _digits_by_latent, order=3),
)
