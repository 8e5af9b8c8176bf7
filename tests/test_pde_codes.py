"""Stencils as people write them: slices, rolls, padding, convolutions, assembly in place, scattered sums, energies.

Each has its structure found, so many passes at most, with all nonzeros in it and the dense Jacobian's values.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from structured import constant, find, jacobian_with
from test_structure import check_equal, check_structure, dense, leaf
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore")

N = 144
SIDE = 12
LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)[None, None]


def grid(x: Tensor) -> Tensor:
    return x.view(1, 1, SIDE, SIDE)


def second_difference(p: Tensor) -> Tensor:
    return p[..., 2:] - 2 * p[..., 1:-1] ** 2 + p[..., :-2]


def padded(mode: str) -> Callable[[Tensor], Tensor]:
    return lambda x: second_difference(F.pad(x[None, None], (1, 1), mode=mode))


def into_zeros(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[1:-1] = second_difference(x)
    out[0], out[-1] = x[0], x[-1]
    return out


def into_empty(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[0], out[-1] = x[0] ** 2, x[-1]
    out[1:-1] = x[1:-1] ** 3 - x[2:]
    return out


def into_clone(x: Tensor) -> Tensor:
    out = x.clone()
    out[1:-1] += x[2:] * x[:-2]
    out[::2] *= x[::2]
    return out


def into_grid(x: Tensor) -> Tensor:
    u = x.view(SIDE, SIDE)
    out = torch.zeros_like(u)
    inner = (slice(1, -1), slice(1, -1))
    out[inner] = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[inner]
    out[:, 0] = u[:, 0]
    return out


def point_by_point(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for i in range(1, len(x) - 1):
        out[i] = x[i - 1] - 2 * x[i] * x[i + 1]
    return out


def stacked(x: Tensor) -> Tensor:
    return torch.stack([x[i - 1] * x[i] + x[(i + 1) % N] for i in range(N)])


def index_put(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    i = torch.arange(1, N - 1)
    out[i] = x[i + 1] - x[i - 1] ** 2
    return out


def fluxes(x: Tensor) -> Tensor:
    i = torch.arange(N - 1)
    flux = (x[1:] - x[:-1]) ** 2
    out = torch.zeros_like(x).index_add(0, i, flux)
    out.scatter_add_(0, i + 1, -flux)
    return out


def elements(x: Tensor) -> Tensor:
    """Finite elements of three neighbours each, assembled by index_put."""
    nodes = torch.stack([torch.arange(k, N - 2 + k) for k in range(3)], 1)
    local = x[nodes]
    local = (local * local.sum(1, keepdim=True)).sin()
    return torch.zeros_like(x).index_put((nodes.reshape(-1),), local.reshape(-1), accumulate=True)


def upwind(x: Tensor) -> Tensor:
    return torch.where(x > 0, x * (x - x.roll(1)), x * (x.roll(-1) - x))


def limited(x: Tensor) -> Tensor:
    return torch.minimum(x - x.roll(1), x.roll(-1) - x).clamp(min=0)


def gradient(energy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of a scalar, whose Jacobian is the Hessian."""
    return lambda x: torch.autograd.grad(energy(x), x, create_graph=True)[0]


SPARSE = torch.eye(N).double().roll(1, 0) + torch.eye(N).double()

# Name -> what is computed, and the most passes.
CODES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "roll": (lambda x: x.roll(1) - 2 * x * x + x.roll(-1), 3),
    "slices joined": (lambda x: torch.cat([x[:1], second_difference(x), x[-1:]]), 3),
    "padded with zeros": (padded("constant"), 3),
    "padded periodically": (padded("circular"), 4),
    "padded by reflection": (padded("reflect"), 4),
    "padded by replication": (padded("replicate"), 3),
    "conv1d": (lambda x: F.conv1d(x[None, None], LAPLACE[:, :, 1], padding=1).view(-1) * x, 3),
    "conv2d": (lambda x: F.conv2d(grid(x), LAPLACE, padding=1), 9),
    "conv2d, one sample": (lambda x: F.conv2d(x.view(1, SIDE, SIDE), LAPLACE, padding=1), 9),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(grid(x), LAPLACE, stride=2), 9),
    "average pool": (lambda x: F.avg_pool2d(grid(x), 2) ** 2, 1),
    "adaptive pool": (lambda x: F.adaptive_avg_pool2d(grid(x), 6) ** 2, 1),
    "max pool": (lambda x: F.max_pool2d(grid(x), 2) ** 2, 1),
    "bilinear": (lambda x: F.interpolate(grid(x), scale_factor=2, mode="bilinear"), 16),
    "bicubic": (lambda x: F.interpolate(grid(x), scale_factor=2, mode="bicubic"), 130),
    "nearest": (lambda x: F.interpolate(grid(x), scale_factor=2) ** 2, 4),
    "unfold": (lambda x: F.pad(x, (1, 1)).unfold(0, 3, 1).prod(1), 3),
    "unfold of images": (lambda x: F.unfold(grid(x), 3, padding=1).sum(1) ** 2, 9),
    "into zeros": (into_zeros, 3),
    "into empty": (into_empty, 3),
    "into a clone": (into_clone, 3),
    "into a grid": (into_grid, 9),
    "point by point": (point_by_point, 3),
    "stacked": (stacked, 4),
    "index_put": (index_put, 3),
    "fluxes": (fluxes, 3),
    "elements": (elements, 6),
    "gathered": (lambda x: x.gather(0, torch.arange(N - 1, -1, -1)) ** 2, 1),
    "indexed": (lambda x: x.view(SIDE, SIDE)[torch.arange(SIDE).roll(1)][:, torch.arange(SIDE).roll(2)] ** 2, 1),
    "upwind": (upwind, 4),
    "limited": (limited, 4),
    "torch.diff": (lambda x: x.diff() ** 2, 2),
    "torch.gradient": (lambda x: torch.gradient(x.view(SIDE, SIDE))[0] * x.view(SIDE, SIDE), 4),
    "sparse matrix": (lambda x: (SPARSE.to_sparse() @ x) ** 2, 3),
    "sparse CSR matrix": (lambda x: (SPARSE.to_sparse_csr() @ x) ** 2, 3),
    "sparse.mm": (lambda x: torch.sparse.mm(SPARSE.to_sparse(), x[:, None]) ** 2, 3),
    "small inverses": (lambda x: torch.linalg.inv(x.view(36, 2, 2) + 3 * torch.eye(2).double()), 4),
    "small systems": (
        lambda x: torch.linalg.solve(x.view(36, 2, 2) + 3 * torch.eye(2).double(), constant(36, 2, 1)),
        2,
    ),
    "cross products": (lambda x: torch.linalg.cross(x.view(48, 3), x.view(48, 3).roll(1, 0)), 6),
    "lines of a spectral method": (lambda x: torch.fft.irfft(torch.fft.rfft(x.view(18, 8)) * torch.arange(5), n=8), 8),
    "semi-Lagrangian": (
        lambda x: F.grid_sample(grid(x), constant(1, SIDE, SIDE, 2).tanh(), align_corners=True),
        60,
    ),
    "energy": (gradient(lambda x: ((x.diff() ** 2) / 2 + (1 - x[1:] ** 2) ** 2 / 4).sum()), 3),
    "energy, padded": (gradient(lambda x: (F.pad(x, (1, 1))[2:] * x * x).sum()), 3),
    "energy, rolled": (gradient(lambda x: (x * x.roll(1)).sin().sum()), 4),
    "energy, convolved": (gradient(lambda x: (F.conv1d(x[None, None], LAPLACE[:, :, 1]) ** 3).sum()), 5),
    "energy, indexed": (gradient(lambda x: (x[torch.arange(N - 1)] ** 2 * x[torch.arange(1, N)]).sum()), 3),
    "energy, unfolded": (gradient(lambda x: x.unfold(0, 3, 1).prod(1).sum()), 5),
    "energy, in place": (gradient(lambda x: (into_zeros(x) ** 3).sum()), 5),
    "energy of a network": (gradient(lambda x: torch.tanh(x.view(48, 3) @ constant(3, 5)).sum()), 3),
    "energy, sigmoid and relu": (gradient(lambda x: ((x - x.roll(1)).sigmoid() * x.relu()).sum()), 4),
    "energy, gelu": (gradient(lambda x: F.gelu(x * x.roll(1)).sum()), 4),
    "energy, softplus": (gradient(lambda x: F.mse_loss(F.softplus(x.roll(1)) * x, torch.ones_like(x))), 4),
    "energy, softmax": (gradient(lambda x: (x.view(48, 3).softmax(1) ** 2).sum()), 3),
}


@pytest.mark.parametrize("name", CODES)
def test_code(name: str) -> None:
    function, most = CODES[name]
    x = leaf(N)
    f = function(x)
    structure = check_structure(f, x, dense(f, x))
    assert structure is not None, "no structure was found"
    assert structure.num_passes <= most, structure.num_passes


@pytest.mark.parametrize("name", ["into zeros", "into a clone", "into a grid", "energy, in place"])
def test_writing_in_place_is_global(name: str) -> None:
    """Where a view lies does not depend on values, but tells tapes apart."""
    function, _ = CODES[name]
    x = leaf(N)
    structure = find(function(x), x)
    assert structure is not None and structure.is_global


def test_views_written_to_tell_tapes_apart() -> None:
    def shifted(x: Tensor, start: int) -> Tensor:
        out = torch.zeros_like(x)
        out[start : start + 40] = x[:40] ** 2
        return out.roll(1)

    x = leaf(N)
    one, other, again = (find(shifted(x, start), x) for start in (3, 4, 3))
    assert one.signature == again.signature != other.signature


def test_sparse_factors_are_local() -> None:
    """Two matrices of one shape, whose nonzeros are elsewhere, give tapes that nothing tells apart."""
    x = leaf(N)
    matrices = [torch.eye(N).double().roll(shift, 0) for shift in (1, 5)]
    products = [
        lambda m: m.to_sparse() @ x,
        lambda m: m.to_sparse_csr() @ x,
        lambda m: (m.to_sparse() @ x[:, None]) ** 2,
        lambda m: torch.sparse.mm(m.to_sparse(), x[:, None]),
        lambda m: torch.bmm(m[None].to_sparse(), x.view(1, N, 1)),
        lambda m: torch.addmv(x * 0, m.to_sparse_csr(), x),
    ]
    for product in products:
        structure = find(product(matrices[0]), x)
        assert structure is None or not structure.is_global
        other = product(matrices[1])
        check_equal(jacobian_with(structure, other, x)[0], dense(other, x))
