"""Jacobians by the parameters of layers that take samples: the rows of all samples share sweeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from highgrad_ext import directional, full_jacobian, plan
from highgrad_ext._reference import full_jacobian_loop

Params = dict[str, Tensor]
SAMPLES = 5


def leaf(*shape: int) -> Tensor:
    numel = torch.Size(shape).numel()
    return torch.linspace(-1.1, 1.3, numel, dtype=torch.float64).sin().view(shape).requires_grad_()


def mlp(x: Tensor, p: Params) -> Tensor:
    return F.linear(F.linear(x, p["w"], p["b"]).tanh(), p["v"])


def tokens(x: Tensor, p: Params) -> Tensor:
    h = F.linear(x.view(SAMPLES, 2, 3), p["w"], p["b"]).relu()
    return F.linear(h, p["v"]).flatten(1)


def products(x: Tensor, p: Params) -> Tensor:
    return (((x @ p["w"].t().contiguous().detach() + p["b"]) * p["c"]).sin() - p["d"]) @ p["u"]


def norms(x: Tensor, p: Params) -> Tensor:
    return F.layer_norm(F.linear(x, p["w"]), (4,), p["b"], p["c"]).exp()


def convolutions(x: Tensor, p: Params) -> Tensor:
    h = F.conv2d(x.view(SAMPLES, 1, 3, 2), p["k"], p["e"], padding=1, stride=(2, 1)).tanh()
    return F.conv1d(h.flatten(2), p["l"], p["e"][:2].detach(), dilation=2).flatten(1)


def scaled(x: Tensor, p: Params) -> Tensor:
    return torch.addmm(p["b"], x, p["w"].t(), beta=0.5, alpha=3.0).exp().sum(1)


def leading_one(x: Tensor, p: Params) -> Tensor:
    return torch.add(x[:, :2] * p["g"], p["h"], alpha=2).sin() * x[:, 1:]


def vectors(x: Tensor, p: Params) -> Tensor:
    return torch.addmv((x @ p["y"]).exp(), x, p["z"], alpha=-2)


def used_twice(x: Tensor, p: Params) -> Tensor:
    return F.linear(F.linear(x, p["w"], p["b"])[:, :3].sin(), p["w"])


def second_derivatives(x: Tensor, p: Params) -> Tensor:
    """Of which each weight is used in several sweeps, and turned back and forth."""
    points = x.clone().requires_grad_()
    u = F.linear(F.linear(points, p["w"], p["b"]).tanh(), p["v"])
    gradient = grad(u[:, 0].sum(), points)
    return grad(gradient[:, 1].sum(), points)[:, :2] * u + gradient[:, 2:]


def grad(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y, x, create_graph=True)[0]


def jets(x: Tensor, p: Params) -> Tensor:
    """Of which the coefficients of all samples follow one another."""
    points = x.clone().requires_grad_()
    u = F.linear(F.linear(F.linear(points, p["u"]).sin(), p["w"].detach() @ p["u"].t().detach(), p["b"]).tanh(), p["v"])
    _, first, second = directional(u, points, torch.eye(3, dtype=x.dtype).unsqueeze(1), 2, batch_dims=1)
    return first[0] * u + second.sum(0)


def of_inputs_too(x: Tensor, p: Params) -> Tensor:
    return F.linear(x * p["d"], p["w"], p["b"]) ** 2 + p["d"].exp()


def both_factors(x: Tensor, p: Params) -> Tensor:
    return x[:, :1] + (p["w"][:3, :3] @ p["w"][1:4, :3]).sum()


def low_rank(x: Tensor, p: Params) -> Tensor:
    """A weight that is a product, taken as it is and by its transpose."""
    weight = p["v"].t() @ (p["v"] @ p["w"])
    return F.linear(F.linear(x, weight, p["b"]).tanh() @ weight, p["w"].exp())


def divided(x: Tensor, p: Params) -> Tensor:
    return (p["d"] / (2 + x.sin())) * (x / p["y"].cosh()) - p["g"].sum() / (x + 3)


def expanded(x: Tensor, p: Params) -> Tensor:
    """Samples in the second dimension, of what is broadcast along the first, too."""
    rows = (x * p["y"]).sin().expand(2, SAMPLES, 3) * p["w"][:2].unsqueeze(1).exp()
    return (rows + p["d"] ** 2).transpose(0, 1).reshape(SAMPLES, 6) * torch.cat(
        [p["z"].expand(SAMPLES, 3), x * p["z"].tanh().view(1, 3)], 1
    )


def batched(x: Tensor, p: Params) -> Tensor:
    """Products with two matrices each: of a row a sample, and of two."""
    features = torch.stack([x, x.cos()])
    one = torch.bmm(features, p["m"])
    two = torch.bmm(features.repeat_interleave(2, dim=1).sin(), p["m"].exp())
    return torch.cat([one[0] * one[1], two.view(2, SAMPLES, 2, 2).sum(2).transpose(0, 1).flatten(1)], 1)


def contracted(x: Tensor, p: Params) -> Tensor:
    """As Chebyshev networks are written."""
    return torch.einsum("nid,iod->no", torch.stack([x, x**2], 2), p["n"]).tanh().cumsum(1)


def both_ways(x: Tensor, p: Params) -> Tensor:
    h = F.linear(x, p["w"], p["b"]).tanh()
    return (h * p["c"] - p["c"]).sin() @ p["w"] + (h + p["b"]) @ p["w"].t().t()


PARAMETERS = {
    "y": (3,),
    "z": (3,),
    "w": (4, 3),
    "b": (4,),
    "v": (2, 4),
    "c": (4,),
    "d": (1,),
    "u": (4, 3),
    "k": (2, 1, 2, 2),
    "e": (2,),
    "l": (2, 2, 2),
    "g": (1, 2),
    "h": (1, 1),
    "m": (2, 3, 2),
    "n": (3, 4, 2),
}
SHARED: dict[str, tuple[Callable[[Tensor, Params], Tensor], str, int]] = {
    "mlp": (mlp, "wbv", 3),
    "some of the parameters": (mlp, "v", 3),
    "several rows a sample": (tokens, "wbv", 6),
    "products": (products, "bcdu", 3),
    "norms": (norms, "wbc", 3),
    "convolutions": (convolutions, "kel", 6),
    "one number a sample": (scaled, "wb", 3),
    "vectors": (vectors, "yz", 3),
    "used twice": (used_twice, "wb", 3),
    "used both ways": (both_ways, "wbc", 3),
    "second derivatives": (second_derivatives, "wbv", 3),
    "jets": (jets, "bv", 3),
    "parameters with a leading one": (leading_one, "gh", 3),
    "of inputs too": (of_inputs_too, "dwb", 3),
    "both factors": (both_factors, "w", 3),
    "low rank": (low_rank, "wvb", 3),
    "divided": (divided, "dyg", 3),
    "expanded": (expanded, "ywdz", 3),
    "batched": (batched, "m", 3),
    "contracted": (contracted, "n", 3),
}


def build(function: Callable[[Tensor, Params], Tensor], names: str, width: int) -> tuple[Tensor, Params]:
    parameters = {name: leaf(*PARAMETERS[name]) for name in names}
    others = {name: leaf(*shape).detach() for name, shape in PARAMETERS.items() if name not in names}
    x = torch.linspace(-1, 1.4, SAMPLES * width, dtype=torch.float64).cos().view(SAMPLES, width)
    return function(x, {**others, **parameters}), parameters


def check(f: Tensor, parameters: Params, chunk_size: int | None, create_graph: bool) -> None:
    # A single call shares passes only where that saves enough.
    p = plan(f, parameters, chunk_size=chunk_size)
    jacobians = full_jacobian(f, parameters, create_graph=create_graph, plan=p)
    expected = [full_jacobian_loop(f, q, create_graph=create_graph) for q in parameters.values()]
    for got, want in zip(jacobians.values(), expected, strict=True):
        assert_close(got, want)
        assert got.is_contiguous() and got.requires_grad == (create_graph and want.requires_grad)
        if got.requires_grad:
            weights = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view(got.shape)
            grads = [
                torch.autograd.grad(
                    (j * weights).sum(), list(parameters.values()), allow_unused=True, retain_graph=True
                )
                for j in (got, want)
            ]
            for a, b in zip(*grads, strict=True):
                zero = torch.zeros(())
                assert_close(zero if a is None else a, zero if b is None else b) if b is not None else None


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("problem", SHARED)
def test_samples_share_passes(problem: str, chunk_size: int | None, create_graph: bool) -> None:
    function, names, width = SHARED[problem]
    f, parameters = build(function, names, width)
    p = plan(f, parameters)
    assert p.passes == f[0].numel()
    assert "samples share passes" in p.reason
    check(f, parameters, chunk_size, create_graph)


def per_sample(x: Tensor, p: Params) -> Tensor:
    return x[:, :4] * p["own"] + p["b"]


def mixing(x: Tensor, p: Params) -> Tensor:
    h = F.linear(x, p["w"], p["b"])
    return (h - h.mean(0)).tanh()


def samples_last(x: Tensor, p: Params) -> Tensor:
    return F.linear(x, p["w"], p["b"]).t()[:, :4]


def samples_in_columns(x: Tensor, p: Params) -> Tensor:
    return (p["w"] @ x.t()).t().sin()


def square_weight(x: Tensor, p: Params) -> Tensor:
    return p["w"].t().exp() @ p["v"].t()


ALONE: dict[str, tuple[Callable[[Tensor, Params], Tensor], str]] = {
    "samples in the columns": (samples_in_columns, "w"),
    "mixing": (mixing, "wb"),
    "samples last": (samples_last, "wb"),
    "a product of parameters": (square_weight, "wv"),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("problem", ALONE)
def test_other_graphs(problem: str, create_graph: bool) -> None:
    function, names = ALONE[problem]
    f, parameters = build(function, names, 3)
    assert "samples share passes" not in plan(f, parameters).reason
    check(f, parameters, None, create_graph)


def complex_layers(x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """f and wrt: whatever multiplies a layer's parameter is conjugated, and a real parameter has a real derivative."""
    z = torch.complex(x, x.flip(0) + 0.5)
    v, m = (torch.complex(leaf(*shape), leaf(*shape).cos()).detach().requires_grad_() for shape in ((3,), (2, 3)))
    real = leaf(3)
    return {
        "weight": (torch.view_as_real(F.linear(z, m)), m),
        "weight, samples mixed": (torch.view_as_real(F.linear(z, m).cumsum(0)), m),
        "vector": ((z @ v).abs(), v),
        "factor": ((z * v).real, v),
        "scaled addend": (torch.view_as_real(torch.sub(z, v, alpha=2j)), v),
        "real factor": (torch.view_as_real(z * real), real),
        "real addend": (torch.add(z, real, alpha=1 + 2j).abs(), real),
    }


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("layer", complex_layers(leaf(SAMPLES, 3).detach()))
def test_complex_layers(layer: str, create_graph: bool) -> None:
    f, parameter = complex_layers(leaf(SAMPLES, 3).detach())[layer]
    assert_close(
        full_jacobian(f, parameter, create_graph=create_graph, plan=plan(f, parameter)),
        full_jacobian_loop(f, parameter, create_graph=create_graph),
    )


def test_parameters_of_one_sample_each() -> None:
    own = leaf(SAMPLES, 4)
    f = per_sample(leaf(SAMPLES, 4).detach(), {"own": own, "b": leaf(4)})
    assert "samples share passes" not in plan(f, own).reason
    assert_close(full_jacobian(f, own), full_jacobian_loop(f, own))


def test_hooks_see_every_row() -> None:
    f, parameters = build(mlp, "wb", 3)
    parameters["w"].register_hook(lambda grad: 2 * grad)
    assert "samples share passes" not in plan(f, parameters).reason
    check(f, parameters, None, False)


def test_saved_tensors_with_hooks_are_left_to_the_engine() -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x * 1, lambda x: x):
        f, parameters = build(mlp, "wbv", 3)
    assert "samples share passes" not in plan(f, parameters).reason
    check(f, parameters, None, True)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    f = checkpoint(net, torch.linspace(-1, 1, 3 * SAMPLES, dtype=torch.float64).view(SAMPLES, 3), use_reentrant=False)
    assert isinstance(f, Tensor)
    check(f, dict(net.named_parameters()), None, False)


def test_out_and_a_kept_plan() -> None:
    f, parameters = build(mlp, "wbv", 3)
    p = plan(f, parameters)
    again, others = build(lambda x, q: mlp(x + 1, q), "wbv", 3)
    out = {name: torch.full((*again.shape, *q.shape), torch.nan, dtype=q.dtype) for name, q in others.items()}
    full_jacobian(again, others, create_graph=False, out=out, plan=p)
    for got, want in zip(out.values(), [full_jacobian_loop(again, q) for q in others.values()], strict=True):
        assert_close(got, want)
    kept = full_jacobian(build(mlp, "wbv", 3)[0], {}, create_graph=False)
    assert kept == {}
    for got, want in zip(
        full_jacobian(f, parameters, plan=p).values(), full_jacobian(f, parameters).values(), strict=True
    ):
        assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize(("samples", "passes"), [(4, 8), (512, 2)])
def test_a_single_call_shares_passes_where_that_saves_enough(samples: int, passes: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    f, parameters = net(torch.randn(samples, 3)), dict(net.named_parameters())
    totals: list[int] = []
    jacobians = full_jacobian(f, parameters, create_graph=False, progress=lambda done, total: totals.append(total))
    assert totals[-1] == passes
    expected = full_jacobian(f, parameters, create_graph=False, structure="dense")
    for got, want in zip(jacobians.values(), expected.values(), strict=True):
        assert_close(got, want)


def test_a_module() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 6),
        nn.LayerNorm(6),
        nn.GELU(),
        nn.Linear(6, 4),
    ).double()
    f = net(torch.randn(SAMPLES, 1, 4, 4, dtype=torch.float64))
    parameters = dict(net.named_parameters())
    assert plan(f, parameters).passes == 4
    check(f, parameters, None, False)
