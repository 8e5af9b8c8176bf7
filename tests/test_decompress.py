"""decompress and compress: samples -> correctness -> gradients -> opcheck, on every device there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import highgrad_ext  # noqa: F401  (registers the ops)

ops = torch.ops.highgrad_ext
DTYPES = [torch.half, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]

Sample = tuple[Tensor, Tensor, "Tensor | None", list[int]]


def decompress_reference(compressed: Tensor, source: Tensor, target: Tensor | None, shape: list[int]) -> Tensor:
    flat = compressed.reshape(-1)
    result = [flat.new_zeros(()) for _ in range(torch.Size(shape).numel())]
    for k, place in enumerate(source.tolist()):
        result[k if target is None else int(target[k])] = flat[place]
    return torch.stack(result).reshape(shape) if result else flat.new_zeros(shape)


def compress_reference(values: Tensor, source: Tensor, target: Tensor | None, shape: list[int]) -> Tensor:
    flat = values.reshape(-1)
    result = [flat.new_zeros(()) for _ in range(torch.Size(shape).numel())]
    for k, place in enumerate(source.tolist()):
        result[place] = result[place] + flat[k if target is None else int(target[k])]
    return torch.stack(result).reshape(shape) if result else flat.new_zeros(shape)


def samples(device: str, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> list[Sample]:
    """Arguments of decompress; compress takes the same with the two shapes swapped."""

    def compressed(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device).requires_grad_(requires_grad)

    def index(*places: int) -> Tensor:
        return torch.tensor(places, dtype=torch.int64, device=device)

    return [
        (compressed(2, 3), index(0, 5, 2), index(4, 1, 7), [3, 4]),
        (compressed(2, 3), index(0, 5, 2, 2), index(4, 1, 7, 0), [2, 2, 3]),
        (compressed(3, 2).t(), index(1, 1, 4), None, [3]),
        (compressed(6)[::2], index(2, 0), index(0, 1), [2]),
        (compressed(1), index(0), None, []),
        (compressed(2, 3), index(), index(), [2, 2]),
        (compressed(0, 3), index(), None, [0]),
    ]


CASES = range(7)


def adjoint(sample: Sample, requires_grad: bool = False) -> Sample:
    compressed, source, target, shape = sample
    values = torch.randn(shape, dtype=compressed.dtype, device=compressed.device).requires_grad_(requires_grad)
    return values, source, target, list(compressed.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_values(case: int, dtype: torch.dtype, device: str) -> None:
    sample = samples(device, dtype)[case]
    assert_close(ops.decompress(*sample), decompress_reference(*sample), rtol=0, atol=0)
    swapped = adjoint(sample)
    assert_close(ops.compress(*swapped), compress_reference(*swapped))


@pytest.mark.parametrize("case", CASES)
def test_each_is_the_others_adjoint(case: int, device: str) -> None:
    sample = samples(device)[case]
    values, *rest = adjoint(sample)
    left = (ops.decompress(*sample) * values).sum()
    assert_close(left, (sample[0] * ops.compress(values, *rest)).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("case", range(4))
def test_gradients(case: int, dtype: torch.dtype, device: str) -> None:
    compressed, *rest = samples(device, dtype, requires_grad=True)[case]
    values, *swapped = adjoint((compressed, *rest), requires_grad=True)
    for op, argument, others in ((ops.decompress, compressed, rest), (ops.compress, values, swapped)):

        def function(x: Tensor, op: Any = op, others: list[Any] = others) -> Tensor:
            return op(x, *others)

        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x * x), argument)


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case: int, device: str) -> None:
    sample = samples(device, requires_grad=True)[case]
    torch.library.opcheck(ops.decompress.default, sample)
    torch.library.opcheck(ops.compress.default, adjoint(sample, requires_grad=True))


@pytest.mark.parametrize("with_target", [True, False])
def test_vmap(with_target: bool, device: str) -> None:
    batch = torch.randn(4, 2, 3, device=device)
    source = torch.tensor([0, 5, 2], device=device)
    target = torch.tensor([4, 1, 7], device=device) if with_target else None
    shape = [3, 4] if with_target else [3]

    def forth(x: Tensor) -> Tensor:
        return ops.decompress(x, source, target, shape)

    def back(y: Tensor) -> Tensor:
        return ops.compress(y, source, target, [2, 3])

    for function, over in ((forth, batch), (back, torch.randn(4, *shape, device=device))):
        assert_close(torch.vmap(function)(over), torch.stack([function(x) for x in over]))
        assert_close(
            torch.vmap(torch.vmap(function))(over.unflatten(0, (2, 2))).flatten(0, 1), torch.vmap(function)(over)
        )
    assert_close(torch.func.jacrev(forth)(batch[0]), torch.autograd.functional.jacobian(forth, batch[0]))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(1, 30), numel=st.integers(1, 40))
def test_random_entries(data: st.DataObject, size: int, numel: int) -> None:
    targets = data.draw(st.lists(st.integers(0, numel - 1), unique=True))
    sources = data.draw(st.lists(st.integers(0, size - 1), min_size=len(targets), max_size=len(targets)))
    sample = torch.randn(size), torch.tensor(sources, dtype=torch.int64), torch.tensor(targets).long(), [numel]
    assert_close(ops.decompress(*sample), decompress_reference(*sample))
    assert_close(ops.compress(*adjoint(sample)).shape, torch.Size([size]))


def test_large_tensors_are_shared_by_threads(device: str) -> None:
    count = 200_000
    order = torch.randperm(count, device=device)
    compressed = torch.randn(count, device=device)
    result = ops.decompress(compressed, order, order * 3, [3 * count])
    assert torch.equal(result[::3], compressed) and not result[1::3].any()
    assert torch.equal(ops.compress(result, order, order * 3, [count]), compressed)


def test_lazy_conjugates_are_resolved(device: str) -> None:
    compressed = torch.randn(3, dtype=torch.complex128, device=device)
    index = torch.arange(3, device=device)
    assert_close(ops.decompress(compressed.conj(), index, None, [3]), compressed.conj().resolve_conj())
    assert_close(ops.compress(compressed.conj(), index, None, [3]), compressed.conj().resolve_conj())


def test_entries_changed_in_place_are_noticed(device: str) -> None:
    compressed = torch.randn(3, device=device, requires_grad=True)
    source = torch.tensor([0, 1], device=device)
    result = ops.decompress(compressed, source, None, [2])
    source.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_a_freed_graph_raises(device: str) -> None:
    compressed = torch.randn(3, device=device, requires_grad=True)
    result = ops.decompress(compressed, torch.tensor([0, 1], device=device), None, [2]).sum()
    result.backward()
    with pytest.raises(RuntimeError, match="second time"):
        result.backward()


def test_compile() -> None:
    source, target = torch.tensor([0, 3]), torch.tensor([2, 1])

    def function(x: Tensor) -> Tensor:
        return ops.decompress(x * 2, source, target, [4]).sin()

    x = torch.randn(2, 2, requires_grad=True)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), function(x))
    assert_close(torch.autograd.grad(compiled(x).sum(), x), torch.autograd.grad(function(x).sum(), x))


ZERO = torch.tensor([0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.decompress(torch.ones(2), ZERO.int(), None, [1]), RuntimeError, "source to be a 1-D int64"),
        (lambda: ops.decompress(torch.ones(2), ZERO, ZERO[None], [1]), RuntimeError, "target to be a 1-D int64"),
        (lambda: ops.decompress(torch.ones(2), ZERO, None, [2]), RuntimeError, "each of the 2 entries, got 1"),
        (lambda: ops.decompress(torch.ones(2).long(), ZERO, None, [1]), RuntimeError, "floating point or complex"),
        (lambda: ops.decompress(torch.ones(2), ZERO + 2, None, [1]), IndexError, "a place in its tensor"),
        (lambda: ops.decompress(torch.ones(2), ZERO, ZERO - 1, [1]), IndexError, "a place in its tensor"),
        (lambda: ops.compress(torch.ones(1), ZERO + 2, None, [2]), IndexError, "a place in its tensor"),
        (lambda: ops.compress(torch.ones(1), ZERO, ZERO + 1, [2]), IndexError, "a place in its tensor"),
        (lambda: ops.compress(torch.ones(1), ZERO, torch.tensor([0, 0]), [2]), RuntimeError, "each of the 2 entries"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
