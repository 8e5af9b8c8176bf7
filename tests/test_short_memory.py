"""Jets where memory runs out: sweeps of fewer directions, and the error where these do not help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_operators import leaf, net
from torch.testing import assert_close

from highgrad_ext import _C, directional, laplacian, nth_derivative


class ShortMemory:
    """Sweeps of jets that run out of memory beyond `limit` directions."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit = limit
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, outputs: Any, inputs: Any, directions: Any, *options: Any) -> Any:
        self.sizes.append(len(directions[0]))
        if self.sizes[-1] > self.limit:
            raise self.error
        return SWEEP(outputs, inputs, directions, *options)


SWEEP = _C.taylor_coefficients
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("too many rows"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_directions(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    x = leaf(12)
    f = net(12)(x)
    y = leaf(16)
    g = net(16)(y)[0]
    cases: list[tuple[Callable[[], Any], list[int]]] = [
        (lambda: laplacian(f, x), [12, 6, 3, 3, 3, 3]),
        (lambda: laplacian(f, x, create_graph=False), [12, 6, 3, 3, 3, 3]),
        (lambda: directional(f, x, torch.eye(12, dtype=x.dtype), 3)[3], [12, 6, 3, 3, 3, 3]),
        (lambda: nth_derivative(f, x, 3, reduce="diagonal"), [12, 6, 3, 3, 3, 3]),
        (lambda: nth_derivative(f, x, 1, method="taylor", create_graph=False), [12, 6, 3, 3, 3, 3]),
        (lambda: nth_derivative(g, y, 3, create_graph=False), [816, 408, 204, 102, 51, 26, 13, 7, 4, 2]),
    ]

    def no_memory_for_all(*_: Any) -> None:
        raise error

    for run, sizes in cases:
        expected = run()
        short = ShortMemory(3, error)
        with monkeypatch.context() as patched:
            patched.setattr(_C, "taylor_coefficients", short)
            patched.setattr(_C, "taylor_partials", no_memory_for_all)
            assert_close(run(), expected)
        assert short.sizes[: len(sizes)] == sizes


def test_out_of_memory_that_nothing_helps_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    x = leaf(12)
    f = net(12)(x)
    for limit, chunk_size, sizes in ((3, 8, [8]), (0, None, [12, 6, 3, 2, 1])):
        short = ShortMemory(limit, torch.OutOfMemoryError("too many rows"))
        with monkeypatch.context() as patched:
            patched.setattr(_C, "taylor_coefficients", short)
            with pytest.raises(torch.OutOfMemoryError, match="too many rows"):
                laplacian(f, x, chunk_size=chunk_size)
        assert short.sizes == sizes
    wrong = ShortMemory(3, RuntimeError("something else"))
    monkeypatch.setattr(_C, "taylor_coefficients", wrong)
    with pytest.raises(RuntimeError, match="something else"):
        laplacian(f, x)
    assert wrong.sizes == [12]
