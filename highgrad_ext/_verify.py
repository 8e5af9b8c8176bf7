"""verify=True: a Jacobian against one vector-Jacobian product that torch's engine computes without any of our means.

R. Freivalds, "Probabilistic machines can use less running time", IFIP 1977: if J is wrong, then so is v^T J for all
random v but a set of measure zero.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _C
from ._options import in_any_mode

ALWAYS = os.environ.get("HIGHGRAD_VERIFY") == "1"


def _rows_product(v: Tensor, jacobian: Tensor, batch_dims: int) -> Tensor:
    """v^T J, by sample: v has f's shape, the result one entry an element of wrt."""
    if jacobian.layout != torch.strided:
        # Not as a product of matrices, which torch has not for all dtypes.
        entries = jacobian.to_sparse(layout=torch.sparse_coo).coalesce()
        row, column = entries.indices()
        return v.new_zeros(jacobian.shape[1], dtype=jacobian.dtype).index_add_(
            0, column, entries.values() * v.reshape(-1)[row].to(jacobian.dtype)
        )
    samples = v.shape[:batch_dims].numel()
    rows = v.reshape(samples, 1, -1).to(jacobian.dtype)
    return (rows @ jacobian.reshape(samples, rows.shape[2], -1)).reshape(-1)


def _coarsest_epsilon(output: Tensor) -> float:
    """The largest machine epsilon among the dtypes on the graph of `output`."""
    epsilon = torch.finfo(output.dtype).eps
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for metadata in node._input_metadata:
            if metadata.dtype.is_floating_point or metadata.dtype.is_complex:
                epsilon = max(epsilon, torch.finfo(metadata.dtype).eps)
        waiting.extend(function for function, _ in node.next_functions)
    return epsilon


def _backward(caller: str, output: Tensor, v: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """By input: v^T J, by torch's own backward."""
    with torch.enable_grad():
        weighted = (output * v).sum()
    options = (caller, False, True, True, False, 1, "reverse", "dense", torch.strided, 0, (), None, None)
    return _C.full_jacobian([weighted], inputs, *options)


@in_any_mode
def verify(
    caller: str, blocks: Sequence[Tensor], outputs: Sequence[Tensor], inputs: Sequence[Tensor], batch_dims: int
) -> None:
    """Raises RuntimeError, with the error that was measured, if a block is wrong. The graph must still be there.

    `blocks` are those of every output by every input, outputs outside. Entries of the product that are not finite are
    not compared. An entry may be off by the square root of the dtype's epsilon, relative to its |v|^T |J|;
    that dtype is the coarsest on the graph. A backward that is not linear in its cotangent is found wrong, as it is.
    """
    for i, output in enumerate(outputs):
        if not output.requires_grad or output.numel() == 0:
            continue
        generator = torch.Generator(output.device).manual_seed(i)
        v = torch.randn(output.shape, generator=generator, device=output.device).to(output.dtype)
        epsilon = _coarsest_epsilon(output)
        products = _backward(caller, output, v, inputs)
        for j, product in enumerate(products):
            block = blocks[i * len(inputs) + j].detach()
            expected = product.reshape(-1)
            got = _rows_product(v, block, batch_dims)
            scale = _rows_product(v.abs(), block.abs(), batch_dims).real
            # Tiny columns may be what is left of large terms.
            largest = scale.max() if scale.numel() else 0
            allowed = epsilon**0.5 * scale + 100 * epsilon * largest
            error = (got - expected).abs()
            wrong = (error > allowed) & error.isfinite()
            if wrong.any():
                # Where large terms cancel on their way, all that is left changes with how they are rounded. What
                # changes more is no rounding, but a backward that is not linear.
                again = _backward(caller, output, 0.7 * v, [inputs[j]])[0].reshape(-1) / 0.7
                noise = (again - expected).abs().max()
                if noise < 1e4 * epsilon * v.abs().max():
                    wrong &= error > allowed + 100 * noise
            if wrong.any():
                worst = int((error * wrong).argmax())
                raise RuntimeError(
                    f"{caller}: verify=True found a wrong Jacobian of output {i} by input {j}: a random combination of "
                    f"its rows has {got[worst].item():.6g} at element {worst}, where torch's own backward has "
                    f"{expected[worst].item():.6g}"
                )
