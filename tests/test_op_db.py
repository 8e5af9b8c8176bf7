"""Every differentiable operator in torch's own database: full_jacobian against torch.autograd.functional.jacobian."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from second_order import weighted_gradient
from torch import Tensor
from torch.testing import assert_close
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from highgrad_ext import full_jacobian
from highgrad_ext._reference import full_jacobian_loop

# Samples of an operator that are tried, spread over its list; rows of a result that is larger than this; elements of
# an input, and of a Jacobian that is differentiated once more.
MAX_SAMPLES = 8
MAX_ROWS = 24
MAX_INPUT = 20_000
MAX_SECOND_ORDER = 300

# Operator -> why there is nothing to compare with.
EXCLUDED: dict[str, str] = {}
if torch.__version__ < "2.14":
    EXCLUDED["native_group_norm"] = "torch's own derivative takes its statistics as constants"

DIFFERENTIABLE = [op for op in op_db if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu")]


def is_real_result(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and value.requires_grad


def real_results(output: Any) -> tuple[Tensor, ...]:
    """The differentiable results as real dense tensors of 1 to MAX_ROWS elements."""
    results = []
    for result in filter(is_real_result, tree_flatten(output)[0]):
        if result.layout != torch.strided:
            result = result.to_dense()
        if result.is_complex():
            result = torch.view_as_real(result.resolve_conj())
        if result.numel() > MAX_ROWS:
            chosen = torch.randperm(result.numel(), generator=torch.Generator().manual_seed(0))[:MAX_ROWS]
            result = result.reshape(-1)[chosen.to(result.device)]
        if result.numel() > 0:
            results.append(result)
    return tuple(results)


def problems(op: OpInfo, device: str = "cpu") -> Iterator[tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]]:
    """(function, inputs) of some samples: the function of exactly those inputs that require grad."""
    samples = list(op.sample_inputs(device, torch.float64, requires_grad=True))
    for sample in samples[:: max(1, len(samples) // MAX_SAMPLES)]:
        leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [
            i
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.layout == torch.strided
        ]
        if not places or any(leaves[i].numel() > MAX_INPUT for i in places):
            continue

        def function(
            *inputs: Tensor,
            sample: Any = sample,
            leaves: list[Any] = leaves,
            spec: Any = spec,
            places: list[int] = places,
        ) -> tuple[Tensor, ...]:
            filled = list(leaves)
            for place, value in zip(places, inputs, strict=True):
                filled[place] = value
            first, args, kwargs = tree_unflatten(filled, spec)
            torch.manual_seed(0)  # for operators that draw
            return real_results(sample.output_process_fn_grad(op(first, *args, **kwargs)))

        yield function, tuple(leaves[i].detach().requires_grad_() for i in places)


def scale(block: Tensor) -> float:
    """Largest finite magnitude, at least 1."""
    return max(1.0, block.nan_to_num(0, 0, 0).abs().max().item()) if block.numel() else 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.formatted_name)
def test_op(op: OpInfo, device: str) -> None:
    if op.formatted_name in EXCLUDED:
        pytest.skip(EXCLUDED[op.formatted_name])
    if torch.float64 not in op.supported_backward_dtypes(device):
        pytest.skip(f"torch has none for {device}")
    compared = 0
    for function, inputs in problems(op, device):
        try:
            f = function(*inputs)
        except NotImplementedError as error:
            if device == "cpu":
                raise
            pytest.skip(f"torch has none for {device}: {type(error).__name__}")
        if not f:
            continue
        expected = torch.autograd.functional.jacobian(function, inputs)
        # With structure there are zeros where rows have 0 * nan.
        is_finite = all(block.isfinite().all() for block in tree_leaves(expected))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reverse = full_jacobian(f, inputs, create_graph=False, structure="auto" if is_finite else "dense")
            forward = full_jacobian(f, inputs, create_graph=False, mode="forward")
        for row, forward_row, expected_row in zip(reverse, forward, expected, strict=True):
            assert_close(row, expected_row, equal_nan=True, check_stride=False, rtol=1e-7, atol=1e-9)
            for block, expected_block in zip(forward_row, expected_row, strict=True):
                # Where f is not finite, 0 * nan lands elsewhere.
                known = expected_block.isfinite()
                assert_close(block[known], expected_block[known], rtol=1e-7, atol=1e-8 * scale(expected_block))
        compared += 1
        if op.supports_gradgrad and f[0].numel() * inputs[0].numel() <= MAX_SECOND_ORDER:
            actual_gradient, expected_gradient = (
                weighted_gradient(jacobian, inputs[0])
                for jacobian in (full_jacobian(f[0], inputs[0]), full_jacobian_loop(f[0], inputs[0], create_graph=True))
            )
            assert_close(actual_gradient, expected_gradient, equal_nan=True, rtol=1e-6, atol=1e-8)
    assert compared > 0, f"{op.formatted_name} has no sample that was compared"
