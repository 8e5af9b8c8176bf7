"""Every differentiable operator in torch's own database: derivatives along a direction against nested autograd."""

from __future__ import annotations

import warnings
from itertools import islice

import pytest
import torch
from test_op_db import DIFFERENTIABLE, problems, scale
from torch import Tensor
from torch.testing import assert_close
from torch.testing._internal.opinfo.core import OpInfo

from highgrad_ext import directional

ORDER = 3
# Samples of an operator that are tried, and elements of their inputs.
MAX_SAMPLES = 2
MAX_INPUT = 500

# Operator -> why nested autograd is no oracle for it.
WRONG_ORACLE = {
    "chalf": "it computes in half precision",
    "_batch_norm_with_update": "its third derivative takes saved moments for constants",
    "_native_batch_norm_legit": "its third derivative takes saved moments for constants",
    "native_batch_norm": "its third derivative takes saved moments for constants",
    "native_layer_norm": "its third derivative takes saved moments for constants",
    "nn_functional_batch_norm": "its third derivative takes saved moments for constants",
    "nn_functional_instance_norm": "its third derivative takes saved moments for constants",
    "nn_functional_layer_norm": "its third derivative takes saved moments for constants",
}


def nested(f: Tensor, inputs: list[Tensor], directions: list[Tensor]) -> list[Tensor]:
    """The derivatives of a sum `f` along the directions, as far as torch goes: up to ORDER of them."""
    found = []
    for _ in range(ORDER):
        total = torch.zeros((), dtype=torch.float64)
        if f.requires_grad:
            try:
                grads = torch.autograd.grad(f, inputs, create_graph=True, allow_unused=True)
            except RuntimeError:
                break
            total = sum(((g * v).sum() for g, v in zip(grads, directions, strict=True) if g is not None), total)
        f = total
        found.append(f.detach())
    return found


def test_exclusions_are_in_the_database() -> None:
    assert WRONG_ORACLE.keys() <= {op.formatted_name for op in DIFFERENTIABLE}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.formatted_name)
def test_derivatives_along_a_direction(op: OpInfo) -> None:
    for function, leaves in islice(problems(op), MAX_SAMPLES):
        inputs = [x for x in leaves if x.is_floating_point()]
        f = function(*leaves)
        if not f or not inputs or sum(x.numel() for x in inputs) > MAX_INPUT or not f[0].requires_grad:
            continue
        generator = torch.Generator().manual_seed(1)
        directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
        expected = nested(f[0].sum(), inputs, directions)
        if not expected or op.formatted_name in WRONG_ORACLE:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            series = directional(f[0], inputs, directions, len(expected), create_graph=False)
        for actual, oracle in zip(series[1:], expected, strict=True):
            if oracle.isfinite():
                assert_close(actual.sum(), oracle, rtol=1e-6, atol=1e-8 * scale(actual))
