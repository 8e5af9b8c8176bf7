"""Graphs with Nodes that only kernels of CUDA record, against what the kernels compute: on a GPU, and by stand-ins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cuda_graphs import GRAPHS, SAMPLES, Graph, constant, leaf
from cuda_operators import on_the_cpu
from structured import names_on
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from highgrad_ext import _C, full_jacobian, nth_derivative
from highgrad_ext._reference import full_jacobian_loop

# torch's vmap has a rule for their backward, and ours would be no better.
BY_VMAP = {"cudnn_grid_sampler"}


@pytest.fixture(autouse=True)
def operators(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.callspec.params.get("device") != "cpu":
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    else:
        with on_the_cpu():
            yield


def record(graph: Graph, device: str) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """The leaf, the result of the kernel, that of what it is made of, and how close they are."""
    if device == "cuda" and graph.dtype is None:
        pytest.skip("its kernel needs another shape")
    dtype = graph.dtype if device == "cuda" and graph.dtype is not None else torch.float64
    x = leaf(device, dtype)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 2e-4}
    return x, graph.fused(x), graph.plain(x), close


def total(jacobian: Tensor) -> Tensor:
    return (jacobian * torch.linspace(-1, 2, jacobian.numel()).view(jacobian.shape).to(jacobian)).sum()


def gradient(jacobian: Tensor, x: Tensor) -> Tensor:
    """Zero for what is constant."""
    by_x = jacobian if jacobian.requires_grad else 0 * x.sum() + jacobian
    return torch.autograd.grad(total(by_x), x, retain_graph=True)[0]


@pytest.mark.parametrize("name", GRAPHS)
def test_jacobian(name: str, device: str) -> None:
    graph = GRAPHS[name]
    x, f, plain, close = record(graph, device)
    assert_close(f, plain, **close)
    expected = full_jacobian_loop(plain, x)
    options: list[dict[str, Any]] = [{}, {"structure": "dense"}, {"chunk_size": 1}, {"chunk_size": 5}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for option in options:
            assert_close(full_jacobian(f, x, create_graph=False, **option), expected, **close)
        for row in (0, f.numel() - 1):
            assert_close(full_jacobian(f.flatten()[row], x, create_graph=False), expected.flatten(0, f.dim() - 1)[row])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(full_jacobian(f, x, create_graph=False, mode="forward"), expected, **close)
    assert_close(full_jacobian(graph.fused(x), x, create_graph=False, retain_graph=False), expected, **close)
    assert (_C.program_vjp(f, torch.ones_like(f)[None], [x], False) is None) == (graph.operator in BY_VMAP)


@pytest.mark.parametrize("name", [name for name in GRAPHS if GRAPHS[name].is_twice_differentiable])
def test_second_derivatives(name: str, device: str) -> None:
    """Also where the kernel's own backward has none."""
    graph = GRAPHS[name]
    x, f, plain, close = record(graph, device)
    expected = full_jacobian_loop(plain, x, create_graph=True)
    jacobian = full_jacobian(f, x)
    assert_close(jacobian, expected, **close)
    assert_close(gradient(jacobian, x), gradient(expected, x), **close)
    single = full_jacobian(f.square().sum(), x)
    assert_close(
        gradient(single, x), gradient(full_jacobian_loop(plain.square().sum(), x, create_graph=True), x), **close
    )


@pytest.mark.parametrize("name", [name for name in GRAPHS if GRAPHS[name].samples is not None])
def test_samples(name: str, device: str) -> None:
    """Axes tell that they are kept apart, so that what is recorded is trusted, too."""
    graph = GRAPHS[name]
    x, f, plain, close = record(graph, device)
    rows = full_jacobian_loop(plain, x)
    expected = torch.stack([rows[k, ..., k, :] for k in range(SAMPLES)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(full_jacobian(f, x, batch_dims=1, create_graph=False), expected, **close)
        assert_close(full_jacobian(f, x, batch_dims=1).detach(), expected, **close)
    analyzed = _C.analyze_axes(f, [x])
    assert analyzed is not None and analyzed[1]


@pytest.mark.parametrize("name", [name for name in GRAPHS if GRAPHS[name].samples is None])
def test_samples_that_mix(name: str, device: str) -> None:
    graph = GRAPHS[name]
    x, f, _, _ = record(graph, device)
    if f.numel() % SAMPLES == 0:
        with pytest.raises(RuntimeError, match="mix"):
            full_jacobian(f.view(SAMPLES, -1), x, batch_dims=1)


JETS = [name for name in GRAPHS if "attention" in name or "batch norm" in name]


@pytest.mark.parametrize("name", JETS)
def test_jets(name: str, device: str) -> None:
    """Or nested derivatives, where a mask depends on x, or heads share keys."""
    graph = GRAPHS[name]
    x, f, plain, close = record(graph, device)
    expected = nth_derivative(plain.flatten()[:5], x, 2, method="nested", create_graph=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = nth_derivative(f.flatten()[:5], x, 2, method="taylor", create_graph=False)
    assert_close(found, expected, **close)
    has_jets = (
        not any(words in name for words in ("by a mask", "by one mask", "share keys")) and name != "attention of cuDNN"
    )
    assert has_jets or "cannot be used" in str(caught[0].message)
    assert not has_jets or not caught


def layer(x: Tensor, kind: Callable[..., Any], *sizes: int, **options: Any) -> Any:
    """Of torch.nn, in whose place CUDA has other kernels than the CPU."""
    made = kind(*sizes, **options).to(x.device, x.dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(constant(x, *parameter.shape))
    return made


def by_cells(x: Tensor) -> Any:
    """By the samples and, once more, by all parameters."""
    gated, long = layer(x, nn.GRUCell, 3, 4), layer(x, nn.LSTMCell, 4, 3)
    h, c = long(gated(x), (x.sin(), x.cos()))
    f = h + gated(h, gated(c))[:, :3]
    by_all = full_jacobian(f, (x, *gated.parameters(), *long.parameters()), create_graph=False)
    return full_jacobian(f, x, batch_dims=1), by_all


def by_layers(x: Tensor, kind: Callable[..., Any]) -> Any:
    """Of 3 steps; trained through, and by the parameters."""
    net = layer(x, kind, 1, 2, num_layers=2, bidirectional=True, batch_first=True)
    f = net(x.unsqueeze(-1))[0].flatten(1)
    jacobian = full_jacobian(f, x, batch_dims=1)
    by_parameters = full_jacobian(f[:, ::5], list(net.parameters()), create_graph=False)
    return jacobian, *by_parameters, torch.autograd.grad(jacobian.square().sum(), x)


LAYERS: dict[str, Callable[[Tensor], Any]] = {
    "cells": by_cells,
    "GRUs": lambda x: by_layers(x, nn.GRU),
    "LSTMs": lambda x: by_layers(x, nn.LSTM),
    "plain networks": lambda x: by_layers(x, nn.RNN),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, device: str) -> None:
    """Of torch.nn, by the CPU's kernels and by those of the device."""
    found, expected = (
        tree_leaves(LAYERS[name](leaf(where)[:, :12].reshape(12, 3)[:4].detach().requires_grad_()))
        for where in (device, "cpu")
    )
    assert_close([part.cpu() for part in found], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    "backend", [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
)
def test_attention_of_halves(backend: SDPBackend, is_causal: bool) -> None:
    """Against that of single precision, which is made of products and a softmax."""

    def derivatives(backend: SDPBackend, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = torch.arange(160.0).mul(1.7).sin().view(2, 2, 5, 8).to("cuda", dtype).requires_grad_()
        with sdpa_kernel(backend):
            f = F.scaled_dot_product_attention(x, x.sin(), x.cos(), is_causal=is_causal)
        jacobian = full_jacobian(f[..., ::3], x)
        return jacobian.float(), gradient(jacobian, x).float()

    found = derivatives(backend, torch.float16)
    for half, single in zip(found, derivatives(SDPBackend.MATH, torch.float32), strict=True):
        assert_close(half, single, rtol=2e-2, atol=2e-2 * single.abs().max().item())


@pytest.mark.parametrize("node", ["NativeDropoutBackward0", "FusedDropoutBackward0"])
def test_dropout(node: str, device: str) -> None:
    """Of which each call drops others."""
    x = leaf(device)
    f = F.dropout(x.sin(), 0.4) if node[0] == "N" else torch.ops.aten._fused_dropout(x.sin(), 0.4)[0]
    f = torch.native_dropout(x.sin(), 0.4, True)[0] if device == "cpu" and node[0] == "N" else f
    assert node in names_on(f)
    expected = full_jacobian_loop(f, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(full_jacobian(f, x, create_graph=False, structure="dense"), expected)
    jacobian = full_jacobian(f, x)
    assert_close(jacobian, expected)
    recorded = torch.autograd.grad(total(jacobian), x)[0]
    by_row = torch.stack([torch.autograd.grad(row, x, create_graph=True)[0] for row in f.flatten()])
    assert_close(recorded, torch.autograd.grad(total(by_row.view_as(jacobian)), x)[0])
