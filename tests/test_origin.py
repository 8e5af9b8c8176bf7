"""The snippet that the library answers, as its author wrote it, with only the import replaced."""

from __future__ import annotations

import torch

from highgrad_ext import full_jacobian, nth_derivative


def test_snippet() -> None:
    s = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    op = torch.ger(s, s)
    jacobian = full_jacobian(op, s)
    assert jacobian.shape == (3, 3, 3)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                assert jacobian[i, j, k] == (i == k) * s[j] + (j == k) * s[i]
    deep = nth_derivative(op, s, 5)
    assert deep.shape == op.shape + s.shape * 5
    assert not deep.any()


def test_contracted_answer() -> None:
    x = torch.arange(4, dtype=torch.float).reshape(2, 2).requires_grad_()
    non_leaf = x.clone()
    grads = nth_derivative((non_leaf**4).sum(), non_leaf, 3, reduce="sum")
    assert torch.equal(grads, torch.tensor([[0.0, 24.0], [48.0, 72.0]]))


def test_agrees_with_the_functional_api() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x.sum()).exp()

    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    f = function(x)
    torch.testing.assert_close(full_jacobian(f, x), torch.autograd.functional.jacobian(function, x))
    torch.testing.assert_close(
        nth_derivative(f.sum(), x, 2), torch.autograd.functional.hessian(lambda x: function(x).sum(), x)
    )
