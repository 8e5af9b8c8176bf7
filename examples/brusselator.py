"""Implicit time steps of the Brusselator, a stiff reaction with diffusion, by Newton's method with sparse Jacobians.

The right-hand side is plain PyTorch on a periodic grid. Its Jacobian, 2 n^2 x 2 n^2 with 6 entries a row, takes about
ten passes over the recorded graph and is never dense; SciPy factorizes it. Writes brusselator.png.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from highgrad_ext import full_jacobian

SIDE = 64
STEP = 0.05
STEPS = 40
A, B, DIFFUSION = 1.0, 3.4, 0.1 * SIDE**2 / 576


def laplacian(u: Tensor) -> Tensor:
    return u.roll(1, -1) + u.roll(-1, -1) + u.roll(1, -2) + u.roll(-1, -2) - 4 * u


def rate(state: Tensor) -> Tensor:
    u, v = state[0], state[1]
    reaction = u * u * v
    return torch.stack([A + reaction - (B + 1) * u, B * u - reaction]) + DIFFUSION * laplacian(state)


def implicit_step(state: Tensor) -> tuple[Tensor, Tensor, int]:
    """Backward Euler: the root of y - state - STEP * rate(y), the last Jacobian, and the number of iterations."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    y = state.clone()
    for iteration in range(1, 20):
        y.requires_grad_()
        residual = y - state - STEP * rate(y)
        jacobian = full_jacobian(residual, y, create_graph=False, layout=torch.sparse_coo)
        rows, columns = jacobian.indices()
        factors = splu(csc_array((jacobian.values().numpy(), (rows.numpy(), columns.numpy())), shape=jacobian.shape))
        update = torch.from_numpy(factors.solve(residual.detach().flatten().numpy())).view_as(y)
        y = y.detach() - update
        if update.abs().max() < 1e-9:
            return y, jacobian, iteration
    raise RuntimeError("Newton's method did not converge")


def main() -> None:
    torch.manual_seed(0)
    state = torch.stack([torch.full((SIDE, SIDE), A), torch.full((SIDE, SIDE), B / A)]).double()
    state += 0.5 * torch.rand_like(state)
    started, iterations = time.perf_counter(), 0
    for _ in range(STEPS):
        state, jacobian, count = implicit_step(state)
        iterations += count
    seconds = time.perf_counter() - started
    print(f"{STEPS} implicit steps of {STEP}, {iterations} Newton iterations, {seconds:.1f} s")
    print(f"Jacobian {tuple(jacobian.shape)}, {jacobian.values().numel()} entries")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.set_title(f"u at time {STEP * STEPS:g}")
    figure.colorbar(left.imshow(state[0].numpy(), cmap="viridis"), ax=left)
    rows, columns = jacobian.indices()
    right.set_title("entries of the Jacobian")
    right.scatter(columns, rows, s=0.2, linewidths=0, color="black")
    right.set(xlim=(0, jacobian.shape[1]), ylim=(jacobian.shape[0], 0), aspect="equal")
    figure.savefig("brusselator.png", dpi=120)
    print("wrote brusselator.png")


if __name__ == "__main__":
    main()
