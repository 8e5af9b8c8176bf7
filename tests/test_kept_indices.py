"""Kept plans whose pattern holds for the indices on the graph alone."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from moves import leaf
from structured import dependencies, find, nonzeros
from torch import Tensor
from torch.testing import assert_close

from highgrad_ext import _C, full_jacobian, plan


def springs(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Forces on points, in three axes, of springs between i and j."""
    difference = x[i] - x[j]
    force = difference * (1 - 1 / (difference.square().sum(1, keepdim=True) + 0.1).sqrt())
    return torch.zeros_like(x).index_add(0, i, -force).index_add(0, j, force)


def chain(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:-1], order[1:]


def test_kept_plans_compare_indices() -> None:
    """A pattern of these indices is kept for equal ones, wherever they are, and found anew for others."""
    x, y = leaf(40, 3), leaf(40, 3, seed=1)
    i, j = chain(40)
    kept = plan(springs(x, i, j), x)
    structure = kept.outputs[0].structure
    assert structure is not None and structure.holds_for_indices and not structure.is_global
    assert "for these indices" in structure.reason and "these indices" in repr(kept)
    for copy in (kept, pickle.loads(pickle.dumps(kept))):
        for one, other in ((i, j), (i.clone(), j.clone()), (j, i), chain(40, seed=1), (i.flip(0), j), (i.int(), j)):
            f = springs(y, one, other)
            expected = full_jacobian(springs(y, one, other), y, create_graph=False, structure="dense")
            assert_close(full_jacobian(f, y, plan=copy, create_graph=False), expected)


def test_indices_changed_in_place() -> None:
    """The plan has copies: the same memory with other indices is noticed."""
    x = leaf(60)
    index = torch.arange(60).roll(7)
    kept = plan(x[index] * x, x)
    assert kept.outputs[0].structure is not None and kept.outputs[0].structure.holds_for_indices
    index.copy_(torch.arange(60).roll(11))
    expected = full_jacobian(x[index] * x, x, create_graph=False, structure="dense")
    assert_close(full_jacobian(x[index] * x, x, plan=kept, create_graph=False), expected)
    row = torch.arange(60).roll(3)
    both = plan(x[row] * x[row].sin() + x, x)
    row.copy_(torch.arange(60).roll(5))
    expected = full_jacobian(x[row] * x[row].sin() + x, x, create_graph=False, structure="dense")
    assert_close(full_jacobian(x[row] * x[row].sin() + x, x, plan=both, create_graph=False), expected)
    one = torch.cat([x[row], x[row]])
    for two in (torch.cat([x[row], x[index]]), torch.cat([x[index], x[row]])):
        expected = full_jacobian(one, x, create_graph=False, structure="dense")
        assert_close(full_jacobian(one, x, plan=plan(two, x), create_graph=False), expected)


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda x, i: x[i], lambda x, i: x[:, i]),
        (lambda x, i: x.index_put((i,), x), lambda x, i: x.index_put((i,), x, accumulate=True)),
        (lambda x, i: x.put(i, x[0]), lambda x, i: x.put(i, x[0], accumulate=True)),
        (lambda x, i: x.gather(0, i.expand(9, 9)), lambda x, i: x.gather(1, i.expand(9, 9))),
        (lambda x, i: x.index_add(0, i, x), lambda x, i: x.index_add(1, i, x)),
        (lambda x, i: x.scatter(0, i.expand(9, 9), x), lambda x, i: x.scatter(1, i.expand(9, 9), x)),
        (lambda x, i: x.diagonal_scatter(x[0]), lambda x, i: x.diagonal_scatter(x[0], 0, 1, 0)),
        (lambda x, i: x.select_scatter(x[0], 0, 1), lambda x, i: x.select_scatter(x[0], 0, 2)),
        (lambda x, i: x.slice_scatter(x[:4], 0, 1, 5), lambda x, i: x.slice_scatter(x[:4], 0, 2, 6)),
        (lambda x, i: x.rot90(1), lambda x, i: x.rot90(3)),
        (lambda x, i: F.unfold(x[None], 3, padding=1), lambda x, i: F.unfold(x[None], 5, padding=2)[:, :81]),
        (lambda x, i: x.as_strided((9, 9), (1, 9)), lambda x, i: x.as_strided((9, 9), (9, 1))),
    ],
)
def test_signatures_tell_picks_apart(one: Any, other: Any) -> None:
    x, i = leaf(9, 9), torch.arange(9)
    signatures = [_C.analyze_axes(f(x * 1, i), [x])[3] for f in (one, other, one)]
    assert signatures[0] == signatures[2] != signatures[1]


def bundle_adjustment(cameras: Tensor, points: Tensor, i: Tensor, j: Tensor) -> Tensor:
    camera, point = cameras[i], points[j]
    rotation = camera[:, :3]
    angle = rotation.norm(dim=1, keepdim=True)
    axes = rotation / angle
    turned = point * angle.cos() + torch.linalg.cross(axes, point) * angle.sin()
    turned = turned + axes * (axes * point).sum(1, keepdim=True) * (1 - angle.cos()) + camera[:, 3:6]
    image = -turned[:, :2] / turned[:, 2:]
    return image * camera[:, 6:7]


def test_bundle_adjustment() -> None:
    cameras, points = leaf(5, 7), leaf(30, 3, seed=1)
    i, j = torch.arange(90) % 5, torch.arange(90) % 30
    f = bundle_adjustment(cameras, points, i, j)
    kept = plan(f, (cameras, points))
    structure = kept.outputs[0].structure
    assert structure is not None and structure.holds_for_indices and structure.num_passes <= 10
    expected = full_jacobian(f, (cameras, points), create_graph=False, structure="dense")
    again = bundle_adjustment(cameras, points, i, j)
    assert_close(full_jacobian(again, (cameras, points), plan=kept, create_graph=False), expected)


def test_hessian_of_pairs() -> None:
    """Of a recorded gradient: what its backward scatters, too."""
    x = leaf(30, 3)
    i, j = chain(30)

    def energy(x: Tensor) -> Tensor:
        return ((x[i] - x[j]).norm(dim=1) - 0.5).square().sum()

    (gradient,) = torch.autograd.grad(energy(x), x, create_graph=True)
    found = dependencies(gradient, x)
    assert found is not None and np.array_equal(found, nonzeros(gradient, x))
    structure = find(gradient, x)
    assert structure is not None and structure.holds_for_indices
