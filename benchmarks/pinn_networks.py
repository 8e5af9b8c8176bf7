"""Networks that physics-informed learning uses, other than layers of tanh."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class _Layers(nn.Module):
    """Three hidden layers of one width, and a last one."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)


class Bell(_Layers):
    """exp(-x * x), written as users write it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            h = layer(x)
            x = torch.exp(-h * h)
        return self.last(x)


class Siren(_Layers):
    """Sitzmann et al., "Implicit neural representations with periodic activation functions", 2020."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = torch.sin(3.0 * layer(x))
        return self.last(x)


class Gated(_Layers):
    """Wang, Teng, Perdikaris, "Understanding and mitigating gradient flow pathologies", 2021."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.low, self.high = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        low, high = torch.tanh(self.low(x)), torch.tanh(self.high(x))
        h = torch.tanh(self.first(x))
        for layer in (self.second, self.third):
            z = torch.tanh(layer(h))
            h = (1 - z) * low + z * high
        return self.last(h)


class BranchAndTrunk(nn.Module):
    """A DeepONet (Lu et al., 2021), with a function of its own for each sample, given at ten points."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, width * outputs))
        trunk: list[nn.Module] = [nn.Linear(inputs, width), nn.Tanh()]
        for _ in range(2):
            trunk += [nn.Linear(width, width), nn.Tanh()]
        self.trunk = nn.Sequential(*trunk)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        points = torch.linspace(0, 1, 10, dtype=x.dtype, device=x.device)
        functions = self.branch(points.expand(*x.shape[:-1], 10))
        return torch.einsum("...mw,...w->...m", functions.unflatten(-1, (self.outputs, -1)), self.trunk(x))


class Chebyshev(nn.Module):
    """Chebyshev polynomials in place of activations (Sidharth et al., "Chebyshev polynomial-based Kolmogorov-Arnold
    networks", 2024), of degree four, on half as many functions."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs, width // 2, width // 2, outputs]
        self.layers = nn.ParameterList(torch.randn(a, b, 5) / (5 * a) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for coefficients in self.layers:
            x = torch.tanh(x)
            values = [torch.ones_like(x), x]
            for _ in range(3):
                values.append(2 * x * values[-1] - values[-2])
            x = torch.einsum("...id,iod->...o", torch.stack(values, -1), coefficients)
        return x
