"""Packed symmetric tensors: their multi-indices, and full tensors of derivatives from derivatives along directions.

A multi-index is sorted, and packed in colexicographic order: its rank is the sum of C(i_k + k, k + 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, wraps
from itertools import product
from math import comb
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

_T = TypeVar("_T")
_CPU = torch.device("cpu")


def packed_size(width: int, order: int) -> int:
    """How many entries of a symmetric tensor with `order` dimensions of `width` differ."""
    return comb(width + order - 1, order) if order else 1


def constant(maxsize: int) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """A cache of tensors that serve every later caller: plain ones, whatever modes and default device the first caller
    is under. They are on the CPU, or on the `device` that a call names: there, only the first caller waits for a copy,
    and a CUDA graph can be captured after it. A caller under a mode, such as FakeTensorMode, gets them as the constants
    of that mode."""

    def cached(function: Callable[..., _T]) -> Callable[..., _T]:
        @lru_cache(maxsize=maxsize)
        def compute(device: torch.device, *args: Any) -> _T:
            with torch.inference_mode(False), torch.no_grad(), no_dispatch(), torch.device("cpu"):
                constants = function(*args)
                return cast(_T, tree_map_only(Tensor, lambda constant: constant.to(device), constants))

        @wraps(function)
        def call(*args: Any, device: torch.device = _CPU) -> _T:
            if torch._C._len_torch_dispatch_stack() == 0:
                return compute(device, *args)
            lift = torch.ops.aten.lift_fresh.default
            return cast(_T, tree_map_only(Tensor, lambda x: lift(x).to(device), compute(_CPU, *args)))

        return call

    return cached


@constant(maxsize=64)
def growth(width: int, order: int) -> tuple[Tensor, Tensor]:
    """Every multi-index of `order` + 1 as the rank of one of `order` and a last index that is none of its smaller."""
    last = torch.arange(width)
    counts = torch.tensor([comb(j + order, order) for j in range(width)], dtype=torch.int64)
    first = torch.cumsum(counts, 0) - counts
    last = torch.repeat_interleave(last, counts)
    return torch.arange(len(last)) - first[last], last


@constant(maxsize=64)
def growing_entries(width: int, order: int) -> Tensor:
    """The same as the places of entries [rank, last]."""
    ranks, last = growth(width, order)
    return ranks * width + last


@constant(maxsize=64)
def multi_indices(width: int, order: int) -> Tensor:
    """All multi-indices in order of rank, [packed_size, order]."""
    indices = torch.zeros(1, 0, dtype=torch.int64)
    for k in range(order):
        ranks, last = growth(width, k)
        indices = torch.cat([indices[ranks], last[:, None]], 1)
    return indices


@constant(maxsize=64)
def directions(width: int, order: int) -> Tensor:
    """The directions of the interpolation, [packed_size, width]: how often each index occurs in a multi-index."""
    return torch.nn.functional.one_hot(multi_indices(width, order), max(width, 1)).sum(1).double()[:, :width]


@constant(maxsize=16)
def interpolation(width: int, order: int) -> Tensor:
    r"""The matrix that takes Taylor coefficients c_j of `order` along all :func:`directions` to partial derivatives.

    .. math:: \partial^i f = \sum_{|j| = n} \gamma(i, j) c_j, \quad \gamma(i, j) = \sum_{0 < m \le i} (-1)^{|i - m|}
        \binom{i}{m} \binom{n m / |m|}{j} \left(\frac{|m|}{n}\right)^n

    (Griewank, Utke, Walther, "Evaluating higher derivative tensors by forward propagation of univariate Taylor series",
    Math. Comp. 69, 2000.) Float64, [packed_size, packed_size], in compressed rows: gamma(i, j) is zero unless j lies in
    the support of i.
    """
    indices = multi_indices(width, order)
    size = len(indices)
    is_new = torch.ones_like(indices, dtype=torch.bool)
    is_new[:, 1:] = indices[:, 1:] != indices[:, :-1]
    kinds = (is_new.long() << torch.arange(order)).sum(1)
    rows, columns, values = [], [], []
    for kind in sorted(set(kinds.tolist())):
        members = (kinds == kind).nonzero()[:, 0]
        starts = [k for k in range(order) if kind >> k & 1]
        exponents = [b - a for a, b in zip(starts, [*starts[1:], order], strict=True)]
        support = indices[members][:, starts]
        local = multi_indices(len(starts), order)
        weights = _weights(exponents, local, order)
        ranks = _ranks(support[:, local], width)
        rows.append(members[:, None].expand_as(ranks).reshape(-1))
        columns.append(ranks.reshape(-1))
        values.append(weights.expand(ranks.shape).reshape(-1))
    if not rows:
        return torch.zeros(size, size, dtype=torch.float64)
    places = torch.stack([torch.cat(rows), torch.cat(columns)])
    gamma = torch.sparse_coo_tensor(places, torch.cat(values), (size, size), check_invariants=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return gamma.coalesce().to_sparse_csr()


def _weights(exponents: list[int], local: Tensor, order: int) -> Tensor:
    """gamma(i, j) for an i of these exponents and every j over the same support."""
    m = torch.tensor([m for m in product(*(range(e + 1) for e in exponents)) if any(m)], dtype=torch.float64)
    norm = m.sum(1)
    factors = (-1.0) ** (order - norm) * (norm / order) ** order
    for column, exponent in enumerate(exponents):
        factors *= torch.tensor([comb(exponent, int(k)) for k in m[:, column]], dtype=torch.float64)
    upper = order * m / norm[:, None]
    binomials = torch.ones(*m.shape, order + 1, dtype=torch.float64)
    for k in range(order):
        binomials[..., k + 1] = binomials[..., k] * (upper - k) / (k + 1)
    counts = torch.nn.functional.one_hot(local, len(exponents)).sum(1)
    table = torch.ones(len(m), len(local), dtype=torch.float64)
    for column in range(len(exponents)):
        table *= binomials[:, column, counts[:, column]]
    return factors @ table


def _ranks(indices: Tensor, width: int) -> Tensor:
    order = indices.shape[-1]
    terms = torch.tensor([[comb(i + k, k + 1) for i in range(width)] for k in range(order)], dtype=torch.int64)
    return sum((terms[k][indices[..., k]] for k in range(order)), torch.zeros(indices.shape[:-1], dtype=torch.int64))


def interpolate(coefficients: Tensor, width: int, order: int) -> Tensor:
    """Packed partial derivatives [packed_size, ...] from Taylor coefficients [packed_size, ...] in float64."""
    if order == 1 or coefficients.is_meta:
        return coefficients
    gamma = interpolation(width, order, device=coefficients.device)
    flat = coefficients.reshape(len(coefficients), -1)
    packed: Tensor = torch.sparse.mm(gamma, flat)
    return packed.view(coefficients.shape)


def expand(packed: Tensor, width: int, order: int) -> Tensor:
    """Rows of packed entries [..., packed_size] as symmetric tensors [..., width, ..., width]."""
    shape = packed.shape[:-1]
    full: Tensor = torch.ops.highgrad_ext.expand_symmetric(packed.reshape(-1, packed.shape[-1]), width, order)
    return full.view(*shape, *(width for _ in range(order)))
