"""Several outputs that share sweeps: the Jacobians of each by itself, and no more sweeps than one vector takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import full_jacobian

Outputs = list[Tensor]


def network(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    first, last = (torch.randn(*shape, dtype=x.dtype, generator=generator) / 3 for shape in ((16, 3), (12, 16)))
    return (last @ (first @ x).tanh()).sin()


FUNCTIONS: dict[str, Callable[[Tensor], Outputs]] = {
    "scalars": lambda x: list(network(x).unbind()),
    "vectors": lambda x: list(network(x).split([5, 1, 6])),
    "shapes": lambda x: [network(x)[0], network(x)[:6].view(2, 3), network(x).view(3, 1, 4)],
    "an input itself": lambda x: [x, network(x), x.sum()],
    "twice the same": lambda x: [y := network(x), y],
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_values(function: Callable[[Tensor], Outputs], create_graph: bool, chunk_size: int | None) -> None:
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    outputs = function(x)
    own = full_jacobian(outputs, x, create_graph=create_graph, chunk_size=chunk_size)
    for jacobian, output in zip(own, outputs, strict=True):
        expected = full_jacobian(output, x)
        assert jacobian.shape == output.shape + x.shape
        assert create_graph or not jacobian.requires_grad
        assert_close(jacobian, expected.detach() if not create_graph else expected)
    if create_graph:
        loss = sum(jacobian.square().sum() for jacobian in own)
        expected = sum(full_jacobian(output, x).square().sum() for output in outputs)
        assert_close(*(torch.autograd.grad(value, x, retain_graph=True)[0] for value in (loss, expected)))
        own[-1].zero_()  # each is a tensor of its own, as far as writing goes


def test_sweeps_are_shared() -> None:
    x = torch.rand(3, requires_grad=True)
    sweeps: list[tuple[int, int]] = []
    full_jacobian(list(network(x).unbind()), x, progress=lambda *state: sweeps.append(state))
    assert sweeps == [(12, 12)]


def test_outputs_that_share_nothing_are_not_joined() -> None:
    x = torch.rand(3, requires_grad=True)
    sweeps: list[tuple[int, int]] = []
    full_jacobian([network(x), network(x)], x, progress=lambda *state: sweeps.append(state))
    assert len(sweeps) == 2


def test_infinite_slopes_stay_where_they_are() -> None:
    """0 * inf of one output's Nodes shows in no row of another."""
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    y = network(x)
    outputs = [*y.unbind(), *(x.sqrt() + y[:3]).unbind()]
    own = full_jacobian(outputs, x, create_graph=False)
    for jacobian, output in zip(own, outputs, strict=True):
        assert_close(jacobian, full_jacobian(output, x, create_graph=False), equal_nan=True)
    assert all(jacobian.isfinite().all() for jacobian in own[:12])


def test_pairs_without_a_path_are_exact_zeros() -> None:
    x, z = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y = network(x)
    outputs = [*y.unbind(), y[0] * z.sum()]
    own = full_jacobian(outputs, (x, z), create_graph=False)
    for by_x, by_z in own[:12]:
        assert by_x.any() and not by_z.any()
    assert_close(own[12][1], y[0].detach().expand(3))
    with pytest.raises(RuntimeError, match=r"Output 0 .* is independent of input 1"):
        full_jacobian(outputs, (x, z), strict=True)


def test_a_freed_graph_raises() -> None:
    x = torch.rand(3, requires_grad=True)
    outputs = list(network(x).unbind())
    full_jacobian(outputs, x, retain_graph=False, create_graph=False)
    with pytest.raises(RuntimeError, match="freed"):
        full_jacobian(outputs, x)


def test_hooks_and_dtypes() -> None:
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    seen: list[Tensor] = []
    outputs = list(network(x).unbind())
    outputs[1].register_hook(lambda grad: seen.append(grad))
    outputs.append(outputs[0].float())
    own = full_jacobian(outputs, x, create_graph=False)
    for jacobian, output in zip(own, outputs, strict=True):
        assert_close(jacobian, full_jacobian(output, x, create_graph=False))
    assert len(seen) >= 1
