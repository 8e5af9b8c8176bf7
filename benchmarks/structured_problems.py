"""Functions whose Jacobians are mostly zero, as in simulations, estimation and control."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.varied_problems import Function, fixed


def brusselator(state: Tensor) -> Tensor:
    def laplacian(u: Tensor) -> Tensor:
        return u.roll(1, -1) + u.roll(-1, -1) + u.roll(1, -2) + u.roll(-1, -2) - 4 * u

    u, v = state[0], state[1]
    reaction = u * u * v
    return torch.stack([1 + reaction - 4.4 * u, 3.4 * u - reaction]) + 10 * laplacian(state)


def tridiagonal(x: Tensor) -> Tensor:
    return torch.cat([x[:1], x[2:] - 2 * x[1:-1] + x[:-2] + x[1:-1] ** 2, x[-1:]])


def elements_of(n: int) -> Tensor:
    """The corners of the triangles of a square of n x n points."""
    point = torch.arange(n * n).view(n, n)
    lower = torch.stack([point[:-1, :-1], point[1:, :-1], point[:-1, 1:]], -1)
    upper = torch.stack([point[1:, 1:], point[1:, :-1], point[:-1, 1:]], -1)
    return torch.cat([lower, upper]).view(-1, 3)


def finite_elements(n: int) -> Function:
    """The residual of a reaction and a diffusion, assembled of triangles."""
    corners = elements_of(n)
    stiffness = fixed(len(corners), 3, 3)

    def residual(u: Tensor) -> Tensor:
        local = u[corners]
        force = (stiffness @ local.unsqueeze(-1)).squeeze(-1) + local.mean(1, keepdim=True) ** 3
        return torch.zeros_like(u).index_add(0, corners.view(-1), force.view(-1))

    return residual


def bundle_adjustment(cameras: int, points: int, observations: int) -> Function:
    """Where cameras of 9 parameters see points, all in one vector of parameters."""
    camera_of = (torch.arange(observations) * 7) % cameras
    point_of = (torch.arange(observations) * 13) % points

    def residual(x: Tensor) -> Tensor:
        camera = x[: 9 * cameras].view(cameras, 9)[camera_of]
        point = x[9 * cameras :].view(points, 3)[point_of]
        angle = camera[:, :3].norm(dim=1, keepdim=True)
        axis = camera[:, :3] / angle
        turned = point * angle.cos() + torch.linalg.cross(axis, point) * angle.sin()
        turned = turned + axis * (axis * point).sum(1, keepdim=True) * (1 - angle.cos()) + camera[:, 3:6]
        image = -turned[:, :2] / turned[:, 2:]
        square = (image * image).sum(1, keepdim=True)
        return image * (1 + square * camera[:, 7:8] + square * square * camera[:, 8:9]) * camera[:, 6:7]

    return residual


def springs(n: int) -> Function:
    """Forces on n x n points of a cloth, in three axes."""
    point = torch.arange(n * n).view(n, n)
    one = torch.cat([point[1:].reshape(-1), point[:, 1:].reshape(-1)])
    other = torch.cat([point[:-1].reshape(-1), point[:, :-1].reshape(-1)])

    def forces(x: Tensor) -> Tensor:
        difference = x[one] - x[other]
        force = difference * (1 - 1 / (difference.square().sum(1, keepdim=True) + 0.1).sqrt())
        return torch.zeros_like(x).index_add(0, one, -force).index_add(0, other, force)

    return forces


def drawn(high: int, *shape: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(sum(shape))
    return torch.randint(high, shape, generator=generator, device="cpu").to(torch.get_default_device())


def graph_network(nodes: int, edges: int, features: int) -> Function:
    """Two layers of messages along edges, summed where they arrive, of features of the nodes."""
    source, target = drawn(nodes, edges), drawn(nodes, edges, 1).view(-1)
    weights = [(fixed(features, features), fixed(features, features) + 0.1) for _ in range(2)]

    def network(x: Tensor) -> Tensor:
        for own, of_neighbours in weights:
            messages = (x[source] @ of_neighbours).relu()
            x = torch.tanh(x @ own + torch.zeros_like(x).index_add(0, target, messages))
        return x

    return network


def spline(knots: int, points: int) -> Function:
    """Catmull and Rom's cubic through values at even knots, at many points."""
    at = torch.linspace(0, knots - 1, points)
    left = at.floor().clamp(max=knots - 2).long()
    t = at - left

    def values(x: Tensor) -> Tensor:
        a, b, c, d = (x[(left + shift).clamp(0, knots - 1)] for shift in (-1, 0, 1, 2))
        return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))

    return values


def toeplitz(width: int) -> Function:
    kernel = fixed(1, 1, width)
    return lambda x: torch.conv1d(x.view(1, 1, -1), kernel, padding=width // 2).view(-1).tanh()


def neighbours(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms near a lattice of n x n x n points, and the pairs that are close to each other."""
    lattice = torch.cartesian_prod(*[torch.arange(n).float()] * 3)
    atoms = lattice + 0.05 * fixed(n**3, 3)
    pairs = (torch.cdist(atoms, atoms) < 1.3).triu(1).nonzero()
    return atoms, pairs[:, 0], pairs[:, 1]


def lennard_jones(n: int) -> Function:
    """The forces between close atoms, as the recorded gradient of their energy: its Jacobian is the Hessian."""
    _, one, other = neighbours(n)

    def forces(x: Tensor) -> Tensor:
        sixth = (x[one] - x[other]).square().sum(1) ** -3
        (gradient,) = torch.autograd.grad((sixth * sixth - sixth).sum(), x, create_graph=True)
        return gradient

    return forces


def power_flow(buses: int) -> Function:
    """Active and reactive power at buses of a ring with chords, of voltages and angles."""
    bus = torch.arange(buses)
    one = torch.cat([bus, bus[::3]])
    other = torch.cat([(bus + 1) % buses, (bus[::3] * 7 + 5) % buses])
    conductance, susceptance = fixed(len(one)).abs(), fixed(len(one)).abs() + 1

    def power(x: Tensor) -> Tensor:
        voltage, angle = x[0] + 1, x[1]
        turn = angle[one] - angle[other]
        strength = voltage[one] * voltage[other]
        active = strength * (conductance * turn.cos() + susceptance * turn.sin())
        reactive = strength * (conductance * turn.sin() - susceptance * turn.cos())
        flow = torch.stack([active, reactive])
        return torch.zeros_like(x).index_add(1, one, flow).index_add(1, other, -flow)

    return power


def kinetics(species: int, reactions: int) -> Function:
    """Rates of change of concentrations in cells, [cells, species], by mass action."""
    order = drawn(2, reactions, species).float()
    change = drawn(3, species, reactions).float() - 1

    def rates(c: Tensor) -> Tensor:
        return (order @ (c.square() + 1).log().unsqueeze(-1)).squeeze(-1).exp() @ change.T

    return rates


def euler(state: Tensor) -> Tensor:
    """Density, momentum and energy of a gas in cells, [3, cells]: finite volumes, minmod limiter, Rusanov's flux."""
    difference = state[:, 1:] - state[:, :-1]
    before, after = difference[:, :-1], difference[:, 1:]
    least = torch.where(before.abs() < after.abs(), before, after)
    slope = torch.where(before * after > 0, least, torch.zeros_like(least))
    inner = state[:, 1:-1]
    left, right = (inner + slope / 2)[:, :-1], (inner - slope / 2)[:, 1:]

    def flux(u: Tensor) -> tuple[Tensor, Tensor]:
        density, momentum, energy = u.unbind()
        speed = momentum / density
        pressure = 0.4 * (energy - momentum * speed / 2)
        fastest = speed.abs() + (1.4 * pressure.relu() / density).sqrt()
        return torch.stack([momentum, momentum * speed + pressure, (energy + pressure) * speed]), fastest

    (of_left, fast_left), (of_right, fast_right) = flux(left), flux(right)
    through = (of_left + of_right) / 2 - torch.maximum(fast_left, fast_right) * (right - left) / 2
    result = torch.zeros_like(state)
    result[:, 2:-2] = through[:, :-1] - through[:, 1:]
    return result


def gas(cells: int) -> Tensor:
    x = torch.linspace(0, 6.3, cells)
    return torch.stack([1 + 0.2 * x.sin(), 0.3 * x.cos(), 2.5 + 0.2 * (2 * x).sin()])


def runge_kutta_stages(stages: Tensor) -> Tensor:
    """Residual of the two stages, [2, cells], of Gauss's method for a reaction and a diffusion."""
    matrix = torch.tensor([[0.25, 0.25 - 3**0.5 / 6], [0.25 + 3**0.5 / 6, 0.25]])
    u = 1 + 0.1 * torch.tensordot(matrix, stages, 1)
    diffusion = torch.nn.functional.pad(u, (1, 1), mode="replicate").diff(n=2)
    return stages - diffusion - u * (1 - u)


def pendulum_chain(x: Tensor) -> Tensor:
    """Links of length one, [7, links]: positions, velocities, their rates and the tensions that hold them."""
    position, velocity, rate, tension = x[:2], x[2:4], x[4:6], x[6]
    link = torch.diff(position, dim=1, prepend=torch.zeros(2, 1))
    pull = tension * link
    force = torch.cat([pull[:, 1:], torch.zeros(2, 1)], 1) - pull + torch.tensor([[0.0], [-9.81]])
    return torch.cat([velocity - 0.1 * rate, rate - force, rate * 0.5 + velocity, link.square().sum(0)[None] - 1])


def pose_graph(poses: int, closures: int) -> Function:
    """What odometry and loop closures measure between poses [poses, 3] in the plane."""
    pose = torch.arange(poses)
    one = torch.cat([pose[:-1], drawn(poses, closures)])
    other = torch.cat([pose[1:], drawn(poses, closures, 1).view(-1)])

    def residual(x: Tensor) -> Tensor:
        a, b = x[one], x[other]
        cos, sin = a[:, 2].cos(), a[:, 2].sin()
        step = b[:, :2] - a[:, :2]
        turned = torch.stack([cos * step[:, 0] + sin * step[:, 1], cos * step[:, 1] - sin * step[:, 0]], 1)
        turn = b[:, 2] - a[:, 2]
        return torch.cat([turned, torch.atan2(turn.sin(), turn.cos())[:, None]], 1)

    return residual


def collocation(steps: int) -> Function:
    """Defects of the trapezoidal rule: states [steps, 4], controls [steps], and two parameters that all depend on."""

    def defects(x: Tensor) -> Tensor:
        state, control, mass, length = x[: 4 * steps].view(steps, 4), x[4 * steps : -2], x[-2], x[-1]
        angle, speed, turn = state[:, 1], state[:, 2], state[:, 3]
        push = (control + angle.sin() * turn.square() * length) / (mass.exp() + angle.sin().square())
        rates = torch.stack([speed, turn, push, (9.81 * angle.sin() - push * angle.cos()) / length.exp()], 1)
        return state[1:] - state[:-1] - 0.01 * (rates[1:] + rates[:-1])

    return defects


def sparse_design(rows: int, columns: int, each: int) -> Function:
    """Residuals of a Poisson regression whose design matrix is sparse."""
    where = torch.stack([torch.arange(rows).repeat_interleave(each), drawn(columns, rows * each)])
    design = torch.sparse_coo_tensor(where, fixed(rows * each), (rows, columns)).coalesce()
    return lambda x: torch.sparse.mm(design, x.unsqueeze(1)).squeeze(1).exp() - 1
