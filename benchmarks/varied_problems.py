"""Problems of all shapes and sizes for ``benchmarks/regret.py``: functions of one tensor, most of them dense."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def fixed(*shape: int) -> Tensor:
    """The same on every device."""
    generator = torch.Generator("cpu").manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, device="cpu").to(torch.get_default_device()) / shape[-1] ** 0.5


def mlp(*widths: int, activation: Function = torch.tanh) -> Function:
    layers = [(fixed(fan_out, fan_in), fixed(fan_out)) for fan_in, fan_out in pairwise(widths)]

    def network(x: Tensor) -> Tensor:
        for weight, bias in layers[:-1]:
            x = activation(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])

    return network


def residual_net(width: int, depth: int) -> Function:
    weights = [fixed(width, width) for _ in range(depth)]

    def network(x: Tensor) -> Tensor:
        for weight in weights:
            x = x + torch.tanh(F.linear(x, weight))
        return x

    return network


def convolution(channels: int, kernels: int) -> Function:
    first, second = fixed(kernels, channels, 3, 3), fixed(4, kernels, 3, 3)
    return lambda x: F.conv2d(F.conv2d(x, first, padding=1).relu(), second, stride=2)


def attention(x: Tensor) -> Tensor:
    return (x @ x.mT / x.shape[-1] ** 0.5).softmax(-1) @ x


def recurrent(steps: int, width: int) -> Function:
    weight = fixed(width, width)

    def run(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = torch.tanh(weight @ x) + 0.1 * x.sin()
        return x

    return run


def robot_arm(x: Tensor) -> Tensor:
    """Where each of the joints of a planar arm is."""
    angle = x.cumsum(0)
    return torch.stack([angle.cos().cumsum(0), angle.sin().cumsum(0)])


def heat(x: Tensor) -> Tensor:
    inner = F.pad(x, (1, 1))
    return inner[2:] - 2 * x + inner[:-2] + x**3


def wide_stencil(x: Tensor) -> Tensor:
    return sum((x.roll(k, -1) * x.roll(-k, -2) for k in range(1, 4)), x.sin())


def lorenz(x: Tensor) -> Tensor:
    return torch.roll(x, 1) * (torch.roll(x, -1) - torch.roll(x, 2)) - x + 8


def least_squares(rows: int, columns: int) -> Function:
    a, b = fixed(rows, columns), fixed(rows)
    return lambda x: (a @ x).exp() - b


def heads(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x.sin(), x.cos())


def frozen(module: nn.Module) -> nn.Module:
    """With weights of its own, whatever was drawn before."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = fixed(*parameter.shape) + 0.01 * number
    return module.eval()


def gated_recurrence(steps: int, width: int) -> Function:
    cell = frozen(nn.GRUCell(4, width))
    signal = fixed(steps, 1, 4)

    def run(x: Tensor) -> Tensor:
        for value in signal:
            x = cell(value, x)
        return x

    return run


def residual_block(channels: int) -> Function:
    convolutions = [frozen(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2)]
    norms = [frozen(nn.BatchNorm2d(channels)) for _ in range(2)]
    last = frozen(nn.Linear(channels, 10))

    def block(x: Tensor) -> Tensor:
        y = norms[1](convolutions[1](norms[0](convolutions[0](x)).relu()))
        return last((x + y).relu().mean((2, 3)))

    return block


def u_net(x: Tensor) -> Tensor:
    first, middle, last = fixed(8, 1, 3, 3), fixed(8, 8, 3, 3), fixed(1, 16, 3, 3)
    fine = F.conv2d(x, first, padding=1).relu()
    coarse = F.conv2d(F.max_pool2d(fine, 2), middle, padding=1).relu()
    return F.conv2d(torch.cat([F.interpolate(coarse, scale_factor=2, mode="bilinear"), fine], 1), last, padding=1)


def rotations(x: Tensor) -> Tensor:
    """The end of an arm of joints that turn about their own axes."""
    end = torch.eye(4)
    for number, angle in enumerate(x):
        cos, sin = angle.cos(), angle.sin()
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rows = [(cos, -sin, zero, zero), (sin, cos, zero, zero), (zero, zero, one, zero), (zero, zero, zero, one)]
        end = end @ torch.stack([torch.stack(row) for row in rows]) @ (torch.eye(4) + fixed(4, 4) / (number + 2))
    return end[:3, 3]


def runge_kutta(steps: int, width: int) -> Function:
    weight, h = fixed(width, width), 0.01

    def run(x: Tensor) -> Tensor:
        for _ in range(steps):
            a = torch.tanh(weight @ x)
            b = torch.tanh(weight @ (x + h / 2 * a))
            c = torch.tanh(weight @ (x + h / 2 * b))
            d = torch.tanh(weight @ (x + h * c))
            x = x + h / 6 * (a + 2 * b + 2 * c + d)
        return x

    return run


def gaussian_process(x: Tensor) -> Tensor:
    """Both terms of the log-likelihood, by length scales, amplitude and noise."""
    places, values = fixed(20, 2), fixed(20)
    distances = ((places[:, None] - places) / x[:2]).square().sum(-1)
    factor = torch.linalg.cholesky(x[2] * (-distances / 2).exp() + x[3] * torch.eye(20))
    weights = torch.cholesky_solve(values[:, None], factor)[:, 0]
    return torch.stack([-values @ weights / 2, -factor.diagonal().log().sum()])


def kalman_filter(x: Tensor) -> Tensor:
    """The state after six measurements, by the first one."""
    step, see, covariance = torch.eye(4) + fixed(4, 4) / 5, fixed(2, 4), torch.eye(4) * x.square().mean()
    for value in fixed(6, 2):
        x, covariance = step @ x, step @ covariance @ step.mT + torch.eye(4) / 10
        gain = torch.linalg.solve(see @ covariance @ see.mT + torch.eye(2) / 5, see @ covariance).mT
        x, covariance = x + gain @ (value - see @ x), covariance - gain @ see @ covariance
    return x


def sinkhorn(x: Tensor) -> Tensor:
    f = g = torch.zeros(len(x))
    for _ in range(8):
        f = -torch.logsumexp(g - 5 * x, 1)
        g = -torch.logsumexp(f[:, None] - 5 * x, 0)
    return (f[:, None] + g - 5 * x).exp()


def random_field(x: Tensor) -> Tensor:
    """Forward messages of a chain of five tags, by scores of ten words."""
    transitions, message = fixed(5, 5), x[0]
    messages = [message]
    for scores in x[1:]:
        message = torch.logsumexp(message[:, None] + transitions, 0) + scores
        messages.append(message)
    return torch.stack(messages)


def couplings(x: Tensor) -> Tensor:
    """A normalizing flow."""
    networks = [mlp(4, 16, 8), mlp(4, 16, 8)] * 2
    for network in networks:
        kept, changed = x.chunk(2)
        scale, shift = network(kept).chunk(2)
        x = torch.cat([changed * scale.tanh().exp() + shift, kept])
    return x


def quaternions(x: Tensor) -> Tensor:
    """Where an arm of joints ends, and how it is turned."""
    axes, links = F.normalize(fixed(len(x), 3), dim=1), fixed(len(x), 3)
    turn, place = torch.tensor([1.0, 0, 0, 0]), torch.zeros(3)
    for angle, axis, link in zip(x, axes, links, strict=True):
        a, b, cos, sin = turn[0], turn[1:], (angle / 2).cos(), (angle / 2).sin()
        real, imaginary = a * cos - b @ axis * sin, a * axis * sin + b * cos + torch.linalg.cross(b, axis) * sin
        turn = torch.cat([real[None], imaginary])
        twice = 2 * torch.linalg.cross(imaginary, link)
        place = place + link + real * twice + torch.linalg.cross(imaginary, twice)
    return torch.cat([place, turn])


def messages(x: Tensor) -> Tensor:
    """A graph network of one layer, of 30 nodes with two edges each."""
    edges = torch.arange(60)
    first, last = fixed(8, 4), fixed(2, 8)
    hidden = F.relu(x @ first.mT)
    return torch.index_add(hidden, 0, (7 * edges + 3) % 30, hidden[edges % 30]) @ last.mT


def warped_picture(x: Tensor) -> Tensor:
    grid = F.affine_grid(x.view(1, 2, 3), [1, 1, 8, 8], align_corners=False)
    return F.grid_sample(fixed(1, 1, 8, 8), grid, align_corners=False)


def filtered(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(fixed(len(x))), n=len(x))


def bag_of_words(x: Tensor) -> Tensor:
    bags = torch.tensor([[1, 3, 3], [0, 11, 7]])
    return F.embedding_bag(bags, x, mode="mean") @ fixed(4, 5).mT


def bilinear_layer(x: Tensor) -> Tensor:
    return F.bilinear(x, fixed(4, 5), fixed(7, 6, 5))


def connectionist(x: Tensor) -> Tensor:
    """The losses of two sequences."""
    targets = torch.tensor([[1, 2, 0], [3, 1, 2]])
    return F.ctc_loss(x.log_softmax(2), targets, [6, 6], [2, 3], reduction="none")


def alignment(count: int) -> Function:
    """Where points are after a turn and a shift."""
    points, zero = fixed(count, 3), torch.zeros(())

    def move(x: Tensor) -> Tensor:
        turn = torch.stack([zero, -x[2], x[1], x[2], zero, -x[0], -x[1], x[0], zero]).view(3, 3)
        return points @ torch.linalg.matrix_exp(turn).mT + x[3:]

    return move


def van_der_pol(x: Tensor) -> Tensor:
    return torch.stack([x[:, 1], 10 * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], 1)


def hires(x: Tensor) -> Tensor:
    """Eight stiff reactions of a plant."""
    a, b, c, d, e, f, g, h = x.unbind(1)
    bound = 280 * f * h
    return torch.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * (f + g),
            -bound + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            bound - 1.81 * g,
            -bound + 1.81 * g,
        ],
        1,
    )


def bicycle(x: Tensor) -> Tensor:
    """Place, heading and speed, of which steering and acceleration are the last two."""
    heading, speed, steering, acceleration = x[:, 2:].unbind(1)
    return torch.stack([speed * heading.cos(), speed * heading.sin(), speed * steering.tan(), acceleration], 1)


def distance_field(*widths: int) -> Function:
    network = mlp(*widths, 1, activation=F.softplus)
    return lambda x: network(x)[:, 0]


def sample_problems() -> dict[str, tuple[tuple[int, ...], Function]]:
    """Likewise, of samples that do not mix."""
    return {
        "Van der Pol, 20000 samples": ((20000, 2), van_der_pol),
        "HIRES, 3000 samples": ((3000, 8), hires),
        "bicycles, 5000 samples": ((5000, 6), bicycle),
        "decoder 8-64-200, 32 samples": ((32, 8), mlp(8, 64, 200, activation=torch.relu)),
        "distance field, 2000 samples": ((2000, 3), distance_field(3, 32, 32)),
    }


def problems() -> dict[str, tuple[tuple[int, ...], Function]]:
    """Shape of the input, and the function."""
    transformer = frozen(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)).train()
    picture, kernels, numbers = fixed(1, 8, 12, 12), fixed(3, 2, 3, 3), fixed(30)
    circular = frozen(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"))
    a, b = fixed(40, 60), fixed(30, 30)
    return {
        "exp of 1": ((1,), torch.exp),
        "square of 3": ((3,), lambda x: x**2),
        "ger of 3": ((3,), lambda x: torch.ger(x, x)),
        "Rosenbrock residuals, 2": ((2,), lambda x: torch.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])),
        "robot arm of 7 joints": ((7,), robot_arm),
        "robot arm of 60 joints": ((60,), robot_arm),
        "Lorenz 96, 40": ((40,), lorenz),
        "Lorenz 96, 1000": ((1000,), lorenz),
        "linear 100 -> 100": ((100,), mlp(100, 100)),
        "linear 1000 -> 1000": ((1000,), mlp(1000, 1000)),
        "matrix product 40x60 @ 60x10": ((60, 10), lambda x: a @ x),
        "inverse of 8x8": ((8, 8), lambda x: torch.linalg.inv(x + 4 * torch.eye(8))),
        "matrix square of 12x12": ((12, 12), lambda x: x @ x),
        "quadratic forms, 30": ((20, 30), lambda x: (x @ b * x).sum(1)),
        "softmax of 10": ((10,), lambda x: x.softmax(0)),
        "softmax of 500": ((500,), lambda x: x.softmax(0)),
        "softmax of 50 x 20": ((50, 20), lambda x: x.softmax(1)),
        "cumsum of 300": ((300,), lambda x: x.sin().cumsum(0)),
        "sort of 200": ((200,), lambda x: x.sort().values ** 2),
        "layer norm of 16 x 32": ((16, 32), lambda x: F.layer_norm(x, (32,)).tanh()),
        "elementwise, 100": ((100,), lambda x: x.sin() * x.exp()),
        "elementwise, 2000": ((2000,), lambda x: x.sin() * x.exp()),
        "heat equation, 200": ((200,), heat),
        "heat equation, 1000": ((1000,), heat),
        "wide stencil, 24 x 24": ((24, 24), wide_stencil),
        "attention of 8 x 16": ((8, 16), attention),
        "attention of 4 x 6 x 8": ((4, 6, 8), attention),
        "convolutions, 3 x 12 x 12": ((1, 3, 12, 12), convolution(3, 16)),
        "convolutions, 1 x 24 x 24": ((1, 1, 24, 24), convolution(1, 8)),
        "least squares 500 x 10": ((10,), least_squares(500, 10)),
        "least squares 5000 x 50": ((50,), least_squares(5000, 50)),
        "least squares 50 x 500": ((500,), least_squares(50, 500)),
        "recurrence, 10 steps of 20": ((20,), recurrent(10, 20)),
        "recurrence, 50 steps of 8": ((8,), recurrent(50, 8)),
        "scalar MLP 100-64-64-1": ((100,), mlp(100, 64, 64, 1)),
        "MLP 2-16-16-2": ((2,), mlp(2, 16, 16, 2)),
        "MLP 10-64-64-10": ((10,), mlp(10, 64, 64, 10)),
        "MLP 64-256-256-32": ((64,), mlp(64, 256, 256, 32)),
        "relu MLP 200-300-300-100": ((200,), mlp(200, 300, 300, 100, activation=torch.relu)),
        "MLP 512-512-512-512": ((512,), mlp(512, 512, 512, 512)),
        "MLP 1024-1024-1024-512": ((1024,), mlp(1024, 1024, 1024, 512)),
        "MLP 784-64-10": ((784,), mlp(784, 64, 10)),
        "MLP 10-256-256-3000": ((10,), mlp(10, 256, 256, 3000)),
        "autoencoder 784-256-16-256-784": ((784,), mlp(784, 256, 16, 256, 784)),
        "autoencoder 300-8-300": ((300,), mlp(300, 8, 300)),
        "residual net of 128, 4 deep": ((128,), residual_net(128, 4)),
        "200 samples of 3-32-32-2": ((200, 3), mlp(3, 32, 32, 2)),
        "32 samples of 20-64-5": ((32, 20), mlp(20, 64, 5)),
        "bilinear, 8 x 8 to 16 x 16": ((1, 1, 8, 8), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
        "bicubic, 8 x 8 to 16 x 16": ((1, 1, 8, 8), lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
        "Kronecker square of 4x4": ((4, 4), lambda x: torch.kron(x, x)),
        "heads of attention, 2 x 8 x 8": ((1, 2, 8, 8), heads),
        "GRU cell, 30 steps of 12": ((1, 12), gated_recurrence(30, 12)),
        "residual block, 4 x 8 x 8": ((1, 4, 8, 8), residual_block(4)),
        "U-net, 8 x 8": ((1, 1, 8, 8), u_net),
        "arm of 7 rotations": ((7,), rotations),
        "Runge-Kutta, 25 steps of 6": ((6,), runge_kutta(25, 6)),
        "Gaussian process, likelihood": ((4,), gaussian_process),
        "Kalman filter, 6 steps of 4": ((4,), kalman_filter),
        "solve by matrix, 30": ((30, 30), lambda x: torch.linalg.solve(x + 10 * torch.eye(30), numbers)),
        "cumprod of 30": ((30,), lambda x: x.cumprod(0)),
        "traces of powers of 6x6": ((6, 6), lambda x: torch.stack([torch.trace(x @ x), torch.trace(x @ x @ x)])),
        "Sinkhorn, 8 steps of 8x8": ((8, 8), sinkhorn),
        "random field of 10 x 5": ((10, 5), random_field),
        "coupling flow of 8": ((8,), couplings),
        "arm of 6 quaternions": ((6,), quaternions),
        "graph network of 30 nodes": ((30, 4), messages),
        "affine warp of 8 x 8": ((2, 3), warped_picture),
        "convolution by FFT, 64": ((64,), filtered),
        "kernels, 8 x 8 x 3 x 3": ((8, 8, 3, 3), lambda x: F.conv2d(picture, x, padding=1)),
        "transposed convolution, 3 x 4 x 4": ((1, 3, 4, 4), lambda x: F.conv_transpose2d(x, kernels, stride=2)),
        "circular convolution, 2 x 6 x 6": ((1, 2, 6, 6), circular),
        "bag of embeddings, 12 x 5": ((12, 5), bag_of_words),
        "bilinear layer, 4 samples": ((4, 6), bilinear_layer),
        "transformer layer of 6 x 8": ((1, 6, 8), transformer),
        "losses of two sequences (CTC)": ((6, 2, 5), connectionist),
        "alignment of 500 points": ((6,), alignment(500)),
    }
