"""Results may be changed in place: their memory is neither one another's nor anything that the graph has saved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from highgrad_ext import directional, full_jacobian, nth_derivative, partials

Function = Callable[[Tensor, Tensor], Tensor]
Derivative = Callable[[Tensor, tuple[Tensor, Tensor], bool], tuple[Tensor, ...]]

FUNCTIONS: dict[str, Function] = {
    "gradients of a sum": lambda x, y: ((x + y) ** 2).sum(1),
    "expanded gradients": lambda x, y: (x + y).sum(1),
    "elementwise": lambda x, y: (x + y) ** 3,
    "results that are saved": lambda x, y: (x + y).exp().sum(1),
}


def flat(results: tuple[object, ...]) -> tuple[Tensor, ...]:
    parts = (flat(result) if isinstance(result, tuple) else (result,) for result in results)
    return tuple(tensor for part in parts for tensor in part if isinstance(tensor, Tensor))


DERIVATIVES: dict[str, Derivative] = {
    "full_jacobian": lambda f, wrt, recorded: flat(full_jacobian(f, wrt, create_graph=recorded)),
    "full_jacobian of samples": lambda f, wrt, recorded: flat(
        full_jacobian(f, wrt, batch_dims=1, create_graph=recorded)
    ),
    "nth_derivative": lambda f, wrt, recorded: flat(nth_derivative(f, wrt, 2, batch_dims=1, create_graph=recorded)),
    "first nth_derivative": lambda f, wrt, recorded: flat(
        nth_derivative(f, wrt, 1, batch_dims=1, create_graph=recorded)
    ),
    "partials": lambda f, wrt, recorded: flat(partials(f, wrt, [(0,), (3,)], batch_dims=1, create_graph=recorded)),
    "directional": lambda f, wrt, recorded: flat(
        directional(f, wrt, tuple(torch.ones_like(x) for x in wrt), 2, create_graph=recorded)[1:]
    ),
}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("derivative", DERIVATIVES.values(), ids=list(DERIVATIVES))
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_results_are_their_own(function: Function, derivative: Derivative, recorded: bool) -> None:
    wrt = (torch.rand(5, 3, requires_grad=True), torch.rand(5, 3, requires_grad=True))
    f = function(*wrt)
    expected = [result.detach().clone() for result in derivative(f, wrt, recorded)]
    for place in range(len(expected)):
        results = derivative(f, wrt, recorded)
        results[place].detach().fill_(7.0)
        for index, result in enumerate(results):
            if index != place:
                torch.testing.assert_close(result.detach(), expected[index], rtol=0, atol=0)
    again = derivative(f, wrt, recorded)
    torch.testing.assert_close([result.detach() for result in again], expected, rtol=0, atol=0)
