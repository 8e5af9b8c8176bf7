"""All ops on inputs that nobody thought of, against plain torch; forward mode; and what no kernel may be given."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.testing import assert_close

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext
DTYPES = [torch.half, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "expanded": lambda t: t[:1].expand_as(t),
    "conjugated": lambda t: t.conj(),
    "negated": lambda t: torch._neg_view(t),
}


@st.composite
def tensors(draw: st.DrawFn, rows: int, columns: int) -> Tensor:
    """Whole numbers, so that sums are exact."""
    dtype, layout = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(sorted(LAYOUTS)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    values = torch.randint(-4, 5, (rows, columns), generator=generator).to(dtype)
    if dtype.is_complex:
        values = torch.complex(values.real, values.flip(-1).real)
    return LAYOUTS[layout](values)


def ranks(size: int, order: int) -> Tensor:
    """By brute force: the sorted multi-indices in colexicographic order, and where each multi-index is among them."""
    packed = sorted(combinations_with_replacement(range(size), order), key=lambda index: index[::-1])
    place = {index: rank for rank, index in enumerate(packed)}
    every = product(range(size), repeat=order)
    return torch.tensor([place[tuple(sorted(index))] for index in every], dtype=torch.int64)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), shape=st.sampled_from([(0, 2), (1, 5), (2, 6), (3, 3), (5, 4), (7, 2), (40, 2), (5, 1), (4, 0)]))
def test_symmetric(data: st.DataObject, shape: tuple[int, int]) -> None:
    size, order = shape
    places = ranks(size, order)
    packed_size = int(places.max()) + 1 if len(places) else 0
    rows = data.draw(st.integers(0, 5))
    packed, full = data.draw(tensors(rows, packed_size)), data.draw(tensors(rows, len(places)))
    assert_close(ops.expand_symmetric(packed, size, order), packed.index_select(1, places), rtol=0, atol=0)
    expected = full.new_zeros(rows, packed_size).index_add(1, places, full.resolve_conj().resolve_neg())
    assert_close(ops.fold_symmetric(full, size, order), expected, rtol=0, atol=0)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(0, 6), columns=st.integers(0, 6), numel=st.integers(0, 50))
def test_entries(data: st.DataObject, rows: int, columns: int, numel: int) -> None:
    compressed, dense = data.draw(tensors(rows, columns)), data.draw(tensors(1, numel))
    most = numel if rows * columns else 0
    targets = data.draw(st.permutations(range(numel)))[: data.draw(st.integers(0, most))]
    sources = [data.draw(st.integers(0, rows * columns - 1)) for _ in targets]
    source, target = torch.tensor(sources, dtype=torch.int64), torch.tensor(targets, dtype=torch.int64)
    expected = compressed.new_zeros(numel).index_put((target,), compressed.reshape(-1)[source].resolve_neg())
    assert_close(ops.decompress(compressed, source, target, [1, numel]).view(-1), expected, rtol=0, atol=0)
    assert_close(ops.decompress(compressed, source, None, [len(targets)]), compressed.reshape(-1)[source])
    summed = dense.new_zeros(rows * columns).index_add(0, source, dense.reshape(-1)[target].resolve_neg())
    assert_close(ops.compress(dense, source, target, [rows, columns]).view(-1), summed, rtol=0, atol=0)


# ---- Forward mode: all ops are linear, so that a tangent goes the same way

PLACES = torch.tensor([0, 3, 3])
LINEAR: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "assemble_rows": (lambda x: ops.assemble_rows([x, None, x * 2], [2, 1, 2], [5], x[0]), (2, 3)),
    "decompress": (lambda x: ops.decompress(x, PLACES, torch.tensor([1, 0, 4]), [5]), (2, 3)),
    "compress": (lambda x: ops.compress(x, PLACES, None, [2, 2]), (3,)),
    "expand_symmetric": (lambda x: ops.expand_symmetric(x, 3, 2), (2, 6)),
    "fold_symmetric": (lambda x: ops.fold_symmetric(x, 3, 2), (2, 9)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_forward_mode(name: str) -> None:
    function, shape = LINEAR[name]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: function(x * x), x, check_fwd_over_rev=True)
    tangent = torch.randn(shape, dtype=torch.float64)
    assert_close(torch.func.jvp(function, (x.detach(),), (tangent,))[1], function(tangent))
    assert_close(torch.func.jacfwd(function)(x.detach()), torch.func.jacrev(function)(x.detach()))


def test_tangents_of_some_blocks() -> None:
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(torch.ones(1, 3), torch.full((1, 3), 2.0))
        result = ops.assemble_rows([torch.ones(1, 3), moving], [1, 1], [2], torch.ones(3))
        assert forward_ad.unpack_dual(result).tangent.tolist() == [[0.0] * 3, [2.0] * 3]


def test_in_place_refuses_tangents() -> None:
    with forward_ad.dual_level():
        block = forward_ad.make_dual(torch.ones(2, 3), torch.ones(2, 3))
        with pytest.raises(RuntimeError, match="have no tangent"):
            ops.assemble_rows_(torch.zeros(2, 3), block)


# ---- What is refused

ONE = torch.tensor([0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex32, torch.float8_e4m3fn])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.seed_basis(x, 1, 0),
        lambda x: ops.assemble_rows([x[None]], [1], [1], x),
        lambda x: ops.assemble_rows_(x.clone(), x),
        lambda x: ops.decompress(x, ONE, None, [1]),
        lambda x: ops.compress(x[:1], ONE, None, [1]),
        lambda x: ops.expand_symmetric(x[None, :3], 2, 2),
        lambda x: ops.fold_symmetric(x[None], 2, 2),
    ],
)
def test_other_dtypes(call: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
    """A float of one byte, moved as one of sixteen, would be written past the end."""
    with pytest.raises((RuntimeError, NotImplementedError), match=r"expected a floating point|not implemented for"):
        call(torch.zeros(4, dtype=dtype))


def test_a_block_that_overlaps_its_rows() -> None:
    rows = torch.arange(4.0).view(2, 2)
    with pytest.raises(RuntimeError, match="shares no memory with the rows"):
        ops.assemble_rows_(rows, rows.t())
    assert rows.tolist() == [[0, 1], [2, 3]]


def test_checks_under_vmap() -> None:
    batch = torch.zeros(4, 2, 3)
    with pytest.raises(RuntimeError, match="each of the 1 entries, got 2"):
        torch.vmap(lambda x: ops.decompress(x, torch.tensor([0, 1]), ONE, [6]))(batch)
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        torch.vmap(lambda x: ops.decompress(x, torch.tensor([0, 6]), None, [2]))(batch)


@pytest.mark.parametrize("size, order", [(2, 64), (3, 41), (1 << 33, 2)])
def test_symmetric_sizes_past_int64(size: int, order: int) -> None:
    with pytest.raises(RuntimeError, match="expected size\\^order to be an int64"):
        ops.expand_symmetric(torch.zeros(1, 1), size, order)


def test_huge_shapes_without_data() -> None:
    compressed, place = torch.empty(1, 3, device="meta"), torch.empty(1 << 33, dtype=torch.int64, device="meta")
    assert ops.decompress(compressed, place, None, [1 << 33]).numel() == 1 << 33
    assert ops.expand_symmetric(torch.empty(1, 5_000_050_000, device="meta"), 100_000, 2).shape == (1, 10**10)
    assert ops.seed_basis(torch.empty(1 << 17, device="meta"), 1 << 17, 0).numel() == 1 << 34


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, None), (0, 0, None), (None, None, 1), (2, 0, 1)])
def test_vmap_over_every_argument(in_dims: tuple[int | None, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(6, (4, 3), generator=generator)
    target = torch.stack([torch.randperm(7, generator=generator)[:3] for _ in range(4)], 1)
    values = torch.randn(2, 3, 4).movedim(2, 0 if in_dims[0] == 0 else 2)
    every = [values, source, target]
    arguments = [
        tensor if dim is not None else tensor.select(where, 0)
        for tensor, dim, where in zip(every, in_dims, (2, 0, 1), strict=True)
    ]

    def function(values: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return ops.decompress(values, source, target, [7])

    looped = [
        function(*(a if dim is None else a.select(dim, k) for a, dim in zip(arguments, in_dims, strict=True)))
        for k in range(4)
    ]
    assert_close(torch.vmap(function, in_dims)(*arguments), torch.stack(looped))
