"""LSTM layers, which torch runs by a kernel without batching rule: against the same layers in double precision."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian

KINDS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "batch first": {"batch_first": True},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "two layers, both directions, no bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}


def states(module: nn.LSTM, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Input, hidden and cell state; of three steps and two samples."""
    generator = torch.Generator().manual_seed(1)
    layers = module.num_layers * (2 if module.bidirectional else 1)
    shapes = [(2, 3, 4) if module.batch_first else (3, 2, 4), (layers, 2, 5), (layers, 2, 5)]
    drawn = (torch.rand(*shape, generator=generator) for shape in shapes)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in drawn)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["outputs", "hidden", "cell", "all"])
@pytest.mark.parametrize("create_graph", [True, False])
def test_jacobians(kind: str, part: str, create_graph: bool) -> None:
    torch.manual_seed(0)
    found = []
    module = nn.LSTM(4, 5, **KINDS[kind])
    for dtype in (torch.float32, torch.float64):
        module = module.to(dtype)
        x, h, c = states(module, dtype)
        outputs, (hidden, cell) = module(x, (h, c))
        f = {
            "outputs": outputs[:, :, 1:3],
            "hidden": hidden[:, :, 2],
            "cell": cell[0],
            "all": outputs.sum((0, 1)) + hidden.sin().sum() * cell.sum(),
        }[part]
        wrt = [x, h, c, *module.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("error" if dtype == torch.float32 else "ignore")
            jacobians = full_jacobian(f, wrt, create_graph=create_graph)
        if create_graph:
            loss = sum(jacobian.square().sum() for jacobian in jacobians)
            second = torch.autograd.grad(loss, wrt, allow_unused=True, materialize_grads=True)
            jacobians = [*jacobians, *second]
        found.append([jacobian.double() for jacobian in jacobians])
    scale = max(jacobian.abs().max().item() for jacobian in found[1])
    for single, double in zip(*found, strict=True):
        assert_close(single, double, rtol=1e-4, atol=2e-6 * scale)


def test_samples() -> None:
    """Axes tell that they are kept apart."""
    x = torch.linspace(-1, 1, 24).view(2, 3, 4).requires_grad_()
    outputs, (hidden, _) = nn.LSTM(4, 5, num_layers=2, batch_first=True)(x)
    for f in (outputs, hidden.transpose(0, 1)):
        rows = full_jacobian(f, x, create_graph=False)
        expected = torch.stack([rows[k, ..., k, :, :] for k in range(2)])
        assert_close(full_jacobian(f, x, batch_dims=1), expected)
        assert not rows[0, ..., 1, :, :].any()
        analyzed = _C.analyze_axes(f, [x])
        assert analyzed is not None and analyzed[1]


def test_a_single_number_is_twice_differentiable() -> None:
    """By torch's own backward it is not."""
    x = torch.linspace(-1, 1, 24).view(3, 2, 4).requires_grad_()
    module = nn.LSTM(4, 5)
    gradient = full_jacobian(module(x)[0].square().sum(), x)
    assert_close(torch.autograd.grad(gradient.sum(), x)[0], hessian_of_double(module, x), rtol=1e-4, atol=1e-6)


def hessian_of_double(module: nn.LSTM, x: Tensor) -> Tensor:
    x = x.detach().double().requires_grad_()
    gradient = torch.autograd.grad(module.double()(x)[0].square().sum(), x, create_graph=True)[0]
    return torch.autograd.grad(gradient.sum(), x)[0].float()


def test_a_node_of_the_kernel_is_met() -> None:
    """Else all of this would test nothing."""
    outputs, _ = nn.LSTM(4, 5)(torch.rand(3, 2, 4))
    assert outputs.grad_fn.name() == "MkldnnRnnLayerBackward0"
