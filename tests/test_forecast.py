"""The forecast of how many columns an element of the output depends on, before sets of columns tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from moves import leaf
from structured import random_graph
from torch import Tensor

from highgrad_ext import _C, full_jacobian

pytestmark = pytest.mark.filterwarnings("ignore")

INDEX = torch.arange(12).roll(5)
TWICE = torch.arange(24) % 12
MATRIX = torch.eye(12, dtype=torch.float64) + 1

# Of a function of 12 elements: how many columns are forecast, and whether they are certainly the same for all.
KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], float, bool]] = {
    "elementwise": (lambda x: x.sin() * x + x.exp(), 1, False),
    "a view": (lambda x: x.view(3, 4).sin().flatten(), 1, False),
    "a matrix product": (lambda x: MATRIX @ x.relu(), 12, True),
    "a matrix product of what is picked": (lambda x: MATRIX @ x[INDEX], 12, True),
    "some elements of a matrix product": (lambda x: (MATRIX @ x)[INDEX[:3]], 12, True),
    "a sum": (lambda x: x * x.sum(), 12, True),
    "a sum of rows": (lambda x: x.view(3, 4).sum(1), 4, False),
    "what is picked": (lambda x: x[INDEX] * x, 2, False),
    "what is added": (lambda x: torch.zeros_like(x).index_add(0, TWICE, x.repeat(2)), 2, False),
    "what is added to": (lambda x: x.index_add(0, TWICE, x.repeat(2)), 3, False),
    "neighbours": (lambda x: x[2:] - 2 * x[1:-1] + x[:-2], 3, False),
    "a convolution": (lambda x: F.conv1d(x.view(1, 2, 6), MATRIX[:2, :6].reshape(2, 2, 3)), 6, False),
    "an arrow": (lambda x: torch.cat([x.sum()[None], x[1:] * x[0]]), 1 + 11 / 12 + 11 / 12, False),
    "a sum beside elements": (lambda x: torch.cat([x.sum()[None], x[1:]]), 1 + 11 / 12, False),
    "a full product in one row": (lambda x: torch.cat([(MATRIX @ x).prod()[None], x]), 2 * 12 / 13, False),
    "a triangle": (lambda x: (torch.outer(x, x.new_ones(12)).tril() * MATRIX).sum(1), 1, False),
    "what is written": (lambda x: _written(x), 2, False),
    "what is padded": (lambda x: F.pad(x, (2, 2)), 12 / 16, False),
    "a convolution with a stride": (
        lambda x: F.conv1d(x.view(1, 1, 12), MATRIX[:1, :2].view(1, 1, 2), stride=4),
        2,
        False,
    ),
    "a convolution of groups": (
        lambda x: F.conv1d(x.view(1, 4, 3), MATRIX[:2, :4].reshape(2, 2, 2), groups=2),
        4,
        False,
    ),
    "windows of which some lie in the padding": (
        lambda x: F.conv1d((MATRIX @ x).view(1, 1, 12), MATRIX[:1, :1].view(1, 1, 1), stride=2, padding=1),
        12 * 12 / 14,
        False,
    ),
    "windows that step over a short axis": (
        lambda x: F.conv1d((MATRIX @ x).view(1, 6, 2), MATRIX[:1, :12].view(1, 6, 2), padding=1, dilation=3),
        12,
        False,
    ),
    "windows that lie in the padding in part": (
        lambda x: F.conv1d((MATRIX @ x).view(1, 4, 3), MATRIX[:1, :12].view(1, 4, 3), padding=1),
        12,
        True,
    ),
    "a transposed convolution": (
        lambda x: F.conv_transpose1d(x.view(1, 1, 12), MATRIX[:1, :3].view(1, 1, 3), stride=2),
        3 * 12 / 25,
        False,
    ),
    "kernels of a convolution": (lambda x: F.conv1d(MATRIX.view(1, 12, 12), x.view(1, 12, 1)), 12, True),
    "kernels of several channels": (lambda x: F.conv1d(MATRIX[:, :6].reshape(1, 6, 12), x.view(2, 6, 1)), 6, False),
    "rows that are mixed twice": (
        lambda x: ((x.view(4, 3) @ MATRIX[:3, :3]).relu()[[3, 1, 0]] @ MATRIX[:3, :2]).sin(),
        3,
        False,
    ),
    "rows that are mixed twice, and summed between": (
        lambda x: (
            torch.zeros(2, 3).double().index_add(0, TWICE[:4] % 2, x.view(4, 3) @ MATRIX[:3, :3]) @ MATRIX[:3, :3]
        ),
        6,
        False,
    ),
    "columns that are mixed after rows": (
        lambda x: MATRIX[:4, :4] @ (x.view(4, 3) @ MATRIX[:3, :3]),
        12,
        False,
    ),
    "segments of rows": (
        lambda x: torch.segment_reduce(x.view(6, 2), "sum", lengths=torch.tensor([1, 2, 3])),
        2,
        False,
    ),
    "pairs of rows": (lambda x: F.pdist(x.view(6, 2)), 4, False),
    "bags of rows": (lambda x: F.embedding_bag(TWICE.view(4, 6) // 2, x.view(6, 2), mode="sum"), 6, False),
    "what is turned of a matrix product": (lambda x: (MATRIX @ x).view(3, 4).mT.reshape(12), 12, True),
    "a matrix product of what is turned": (lambda x: MATRIX @ x.view(3, 4).mT.reshape(12), 12, True),
    "a triangle of a product": (lambda x: (MATRIX * (MATRIX @ x)).tril(), 12, False),
}


def _written(x: Tensor) -> Tensor:
    result = torch.zeros_like(x)
    result[:6] = x[6:] * x[:6]
    return result


@pytest.mark.parametrize("name", KNOWN)
def test_known(name: str) -> None:
    function, columns, is_full = KNOWN[name]
    x = leaf(12)
    found = _C.forecast_columns(function(x), [x])
    assert found == (pytest.approx(columns), is_full)


def test_what_is_full_stays_full_where_it_is_turned() -> None:
    """While the other product is yet to come."""
    x, y = leaf(12), leaf(12)
    f = MATRIX @ y + MATRIX @ x.view(3, 4).mT.reshape(12)
    assert _C.forecast_columns(f, [x, y]) == (24, True)


def test_rows_are_alike_now_and_then() -> None:
    """That they are where it is forecast is checked with all sets that are compared with a Jacobian."""
    alike = [_C.forecast_columns(f, [x])[1] for f, x, _ in map(random_graph, range(100)) if f.requires_grad]
    assert 0 < sum(alike) < len(alike)


def passes_of(function: Callable[[Tensor], Tensor], *shape: int) -> tuple[int, int]:
    """Of a single call, and of all rows."""
    x = leaf(*shape)
    f = function(x)
    seen: list[int] = []
    full_jacobian(f, x, create_graph=False, progress=lambda done, total: seen.append(total))
    return seen[-1], f.numel()


def stages(x: Tensor) -> Tensor:
    """Two cells at a time depend on one another, and on their neighbours."""
    y = x + 0.1 * torch.tensordot(x.new_tensor([[1, 2], [3, 4]]), x, 1)
    return x - F.pad(y, (1, 1), mode="replicate").diff(n=2) - y * (1 - y)


def relay(rounds: int) -> Callable[[Tensor], Tensor]:
    """Messages between neighbours on a ring: their paths meet, so that more is forecast than there is."""

    def run(x: Tensor) -> Tensor:
        place = torch.arange(len(x))
        source, target = torch.cat([place, place]), torch.cat([place.roll(1), place.roll(-1)])
        for _ in range(rounds):
            x = x + torch.zeros_like(x).index_add(0, target, (x[source] * x[target]).sin())
        return x

    return run


def test_cheap_jacobians_that_are_forecast_to_be_sparse() -> None:
    passes, rows = passes_of(stages, 2, 500)
    assert passes * 20 < rows


def test_a_few_rows_tell_what_the_forecast_does_not() -> None:
    x = leaf(1500)
    columns, is_full = _C.forecast_columns(relay(9)(x), [x])
    assert columns == 1500
    assert not is_full
    passes, rows = passes_of(relay(9), 1500)
    assert passes * 20 < rows


def test_dense_ones() -> None:
    """All rows, whatever was looked at."""
    place = torch.arange(300)

    def far(x: Tensor) -> Tensor:
        for number in range(5):
            x = torch.zeros_like(x).index_add(0, (place * 7 + number).repeat(4) % 300, x[(place * 11) % 300].repeat(4))
            x = x + x[(place * 13 + 5) % 300] * x[(place * 17 + 9) % 300]
        return x * x.sum()

    assert passes_of(far, 300) == (300, 300)
