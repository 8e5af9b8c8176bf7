"""Structure through Nodes that torch.vmap gets wrong or has no rule for, which are looped in the midst of a pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from structured import constant
from test_structure import check_equal, check_structure
from torch import Tensor

from highgrad_ext import full_jacobian, plan
from highgrad_ext._reference import full_jacobian_loop

pytestmark = pytest.mark.filterwarnings("ignore")


def unpooled(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x.view(6, 1, 4, 4), 2, return_indices=True)
    return F.max_unpool2d(pooled.sin(), places, 2)


# Of 96 elements, and the passes that are enough.
LOOPED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "batches of distances": (lambda x: torch.cdist(x.view(12, 4, 2), x.view(12, 4, 2).cos() + 1), 8),
    "masked_select": (lambda x: x.sin().masked_select(torch.arange(96) % 3 == 0) * 2, 1),
    "a mask that is broadcast": (lambda x: x.view(8, 12).masked_select(torch.arange(12) % 2 == 0), 1),
    "elements that are broadcast": (lambda x: x.view(8, 12).exp().masked_select(torch.ones(2, 8, 12).bool()), 2),
    "max_unpool2d": (unpooled, 16),
    "fractional pools": (
        lambda x: F.fractional_max_pool2d(
            x.view(6, 1, 4, 4), 2, 2, _random_samples=x.detach().sigmoid()[:12].view(6, 1, 2)
        ),
        4,
    ),
}


@pytest.mark.parametrize("name", LOOPED)
def test_nodes_that_are_looped_have_structure(name: str) -> None:
    graph, passes = LOOPED[name]
    x = constant(96).requires_grad_()
    structure = check_structure(graph(x), x, full_jacobian_loop(graph(x), x))
    assert structure is not None and structure.num_colors <= passes
    y = constant(96, seed=1).requires_grad_()
    kept = plan(graph(x), x)
    for options in ({}, {"create_graph": False}):
        check_equal(full_jacobian(graph(y), y, plan=kept, **options), full_jacobian_loop(graph(y), y))


def test_loops_of_a_node_are_one_sweep() -> None:
    """Of distances, which are looped, and reflections, for which sweeps need torch's engine."""
    x = constant(96).requires_grad_()

    def graph(x: Tensor) -> Tensor:
        y = x.view(8, 4, 3)
        return torch.linalg.householder_product(torch.cdist(y, y[:, :3].cos() + 1), y[:, 0].sin())

    kept = plan(graph(x), x)
    assert kept.passes == 12
    sweeps: list[tuple[int, int]] = []
    result = full_jacobian(graph(x), x, plan=kept, progress=lambda done, total: sweeps.append((done, total)))
    check_equal(result, full_jacobian_loop(graph(x), x))
    assert sweeps == [(12, 12)]
