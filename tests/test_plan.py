"""plan(): what it says, that full_jacobian does it, and that it takes no other graph."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from structured import constant
from test_planner import leaf, network, passes
from test_structure import tridiagonal
from torch import Tensor, nn
from torch.testing import assert_close

from highgrad_ext import Plan, full_jacobian, plan, spy
from highgrad_ext._reference import full_jacobian_loop

ORDER = torch.randperm(90, generator=torch.Generator().manual_seed(0))

CASES: dict[str, Any] = {
    "reverse": lambda x: network(90, 8)(x),
    "forward": lambda x: (constant(500, 40) * x.exp()).sin().sum(1).cumsum(0),
    "parameters": lambda x: (constant(500, 90) * x).sin().sum(1),
    "split": lambda x: network(90, 300, 3, 300, 200)(x),
    "structure": tridiagonal,
    "masked structure": lambda x: tridiagonal(x.relu()),
    "local structure": lambda x: tridiagonal(x[ORDER]),
    "constant": lambda x: x.detach() * torch.ones(3, 1, requires_grad=True, dtype=x.dtype),
    "hooked": lambda x: hooked(x),
}


def hooked(x: Tensor) -> Tensor:
    y = x.sin()
    y.register_hook(lambda grad: 2 * grad)
    return y.cos()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("create_graph", [True, False])
def test_a_kept_plan_gives_the_same(name: str, create_graph: bool) -> None:
    x, y = leaf(40 if name == "forward" else 90), leaf(40 if name == "forward" else 90)
    y = (y * 0.7 - 0.1).detach().requires_grad_()
    function = CASES[name]
    made = plan(function(x), x)
    kept = pickle.loads(pickle.dumps(made))
    assert kept == made
    assert hash(kept) == hash(made)
    for wrt in (x, y):
        f = function(wrt)
        jacobian = full_jacobian(f, wrt, plan=kept, create_graph=create_graph)
        assert_close(jacobian, full_jacobian_loop(f, wrt))
        assert jacobian.requires_grad == (create_graph and full_jacobian(f, wrt).requires_grad)
        if kept.passes:
            assert passes(f, wrt, plan=kept) == kept.passes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("reverse", "reverse: 90 inputs against 8 outputs"),
        ("forward", "forward: 40 inputs against 500 outputs"),
        ("parameters", "parameters of layers: the rows of 500 samples share passes"),
        ("split", "split where all of the graph passes through 3 elements, with 90 inputs and 200 outputs"),
        ("structure", r"structure: axes that the tape ties to those of the output, and 3 probes in 1 sweep"),
        ("constant", "zero: nothing of wrt is on the graph"),
    ],
)
def test_reasons(name: str, reason: str) -> None:
    x = leaf(40 if name == "forward" else 90)
    p = plan(CASES[name](x), x)
    assert re.fullmatch(reason, p.reason)
    text = repr(p)
    assert p.reason in text and f"in {p.passes} passes" in text
    assert ("\u2801" <= max(text) <= "\u28ff") == (p.outputs[0].structure is not None)


def test_it_is_a_frozen_value() -> None:
    x = leaf(90)
    p = plan((tridiagonal(x), x.sin().sum()), x)
    assert isinstance(p, Plan) and p.passes == 4 and len(p.reason.splitlines()) == 2 and p.bytes > 0
    with pytest.raises(AttributeError):
        p.mode = "forward"  # type: ignore[misc]
    dense = full_jacobian(tridiagonal(x), x, create_graph=False, structure="dense").numpy()
    pattern = p.sparsity_pattern
    assert np.array_equal(pattern[0].toarray(), dense != 0) and pattern[1] is None
    assert spy(p).get_xlim()[1] == pytest.approx(89.5)
    with pytest.raises(ValueError, match="spy: expected a plan with structure"):
        spy(p, output=1)
    with pytest.raises(TypeError, match="spy: expected a Plan, got Tensor"):
        spy(torch.ones(2))  # type: ignore[arg-type]
    assert x.grad is None


OTHERS: dict[str, Any] = {
    "operation": (lambda x: x.sin().cumsum(0), lambda x: x.cos().cumsum(0)),
    "shape": (lambda x: x.sin().cumsum(0), lambda x: x[:50].sin().cumsum(0)),
    "dtype": (lambda x: x.sin().cumsum(0), lambda x: x.float().sin().cumsum(0)),
    "links": (lambda x: x.sin() * x.cumsum(0), lambda x: x * x.sin().cumsum(0)),
    "hook": (lambda x: x.sin().cos(), hooked),
    "split": (CASES["split"], lambda x: network(90, 300, 4, 300, 200)(x)),
    "roll": (lambda x: x.roll(1) * x, lambda x: x.roll(2) * x),
    "no path": (CASES["constant"], lambda x: x * torch.ones(3, 1, dtype=x.dtype)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_graph_is_refused(name: str) -> None:
    planned, other = OTHERS[name]
    x = leaf(90)
    p = plan(planned(x), x)
    assert p != plan(other(x), x) and p != plan(planned(x), x, chunk_size=2) and p != "auto"
    with pytest.raises(ValueError, match="full_jacobian: expected a graph like the one that was planned"):
        full_jacobian(other(x), x, plan=p)
    with pytest.raises(ValueError, match="full_jacobian: expected a graph like the one that was planned"):
        full_jacobian(planned(x), x, plan=plan(other(x), x))


def test_options_of_a_plan() -> None:
    x = leaf(90)
    f = tridiagonal(x)
    expected = full_jacobian_loop(f, x)
    sparse = full_jacobian(f, x, plan=plan(f, x, layout=torch.sparse_csr))
    assert sparse.layout == torch.sparse_csr
    assert_close(sparse.to_dense(), expected)
    assert passes(f, x, plan=plan(f, x, structure="dense", mode="reverse")) == 90
    assert plan(f, x, chunk_size=7, structure="dense").outputs[0].chunk_size == 7
    rows = leaf(9, 10)
    g = rows.sin().cumsum(1)
    assert_close(full_jacobian(g, rows, plan=plan(g, rows, batch_dims=1)), full_jacobian(g, rows, batch_dims=1))
    p = plan(f, x)
    for option in ({"mode": "reverse"}, {"chunk_size": 2}, {"layout": torch.sparse_coo}, {"batch_dims": 1}):
        with pytest.raises(ValueError, match="expected no mode"):
            full_jacobian(f, x, plan=p, **option)
    with pytest.raises(TypeError, match="expected plan to be a Plan, got str"):
        full_jacobian(f, x, plan="auto")
    with pytest.raises(ValueError, match="expected a plan of 2 outputs, got one of 1"):
        full_jacobian((f, f), x, plan=p)
    with pytest.raises(ValueError, match="plan: expected mode to be"):
        plan(f, x, mode="sideways")
    with pytest.raises(RuntimeError, match="plan: "):
        plan(f, torch.ones(2))


def test_newton_keeps_its_plan() -> None:
    """As a loop does: residual of u'' = exp(u) on a line, solved with the plan of the first step."""

    def residual(u: Tensor) -> Tensor:
        padded = nn.functional.pad(u, (1, 1))
        return (padded[2:] - 2 * u + padded[:-2]) * 8100 - u.exp()

    u = torch.zeros(89, dtype=torch.float64, requires_grad=True)
    kept = plan(residual(u), u)
    assert kept.passes == 3
    for _ in range(6):
        r = residual(u)
        step = torch.linalg.solve(full_jacobian(r, u, plan=kept, create_graph=False), r.detach())
        u = (u.detach() - step).requires_grad_()
    assert residual(u).abs().max() < 1e-9


def test_assumed_patterns_are_not_looked_for_again() -> None:
    x, y = leaf(90), leaf(90)
    found = plan(x[ORDER].sin(), x)
    kept = found.assume_global()
    assert not found.outputs[0].structure.is_global and kept.outputs[0].structure.is_global
    assert "asserted to hold for all values" in kept.reason
    assert_close(full_jacobian(y[ORDER].sin(), y, plan=kept), full_jacobian_loop(y[ORDER].sin(), y))
    # The word is taken: of another order, entries are missed, which a check notices.
    other = y[ORDER.flip(0)].sin()
    assert_close(full_jacobian(other, y, plan=found), full_jacobian_loop(other, y))
    with pytest.raises(RuntimeError):
        full_jacobian(other, y, plan=kept, verify=True)
    dense = plan(network(90, 8)(x), x)
    assert dense.assume_global() == dense
