"""Whether the first dimensions of tensors are independent samples (`batch_dims`), for the operators."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from . import _C


def check_batch(caller: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor], batch_dims: int) -> None:
    """Raises unless the first `batch_dims` dimensions of all tensors are the same independent samples.

    The graph proves it where every Node is known to keep samples apart. Where it does not, cotangents of NaN on half of
    the samples, one for each bit of a sample's number and its complement, show what they mix: NaN survives every sum
    and product, and two samples differ in some bit.
    """
    shape = check_batch_dims(caller, [*outputs, *inputs], batch_dims)
    count = prod(shape)
    if count > 1 and not _C.keeps_samples_apart(outputs, inputs, count):
        _probe_batch(caller, outputs, inputs, count)


def check_batch_dims(caller: str, tensors: Sequence[Tensor], batch_dims: int) -> tuple[int, ...]:
    """The first `batch_dims` sizes, which all tensors share. Raises if they do not."""
    if not isinstance(batch_dims, int) or isinstance(batch_dims, bool):
        raise TypeError(f"{caller}: expected batch_dims to be an int, got {type(batch_dims).__name__}")
    if batch_dims < 0:
        raise ValueError(f"{caller}: expected batch_dims to be at least 0, got {batch_dims}")
    shape = tensors[0].shape[:batch_dims]
    for tensor in tensors:
        if tensor.dim() < batch_dims or tensor.shape[:batch_dims] != shape:
            raise ValueError(
                f"{caller}: expected the first {batch_dims} dimensions of f and wrt to be the same samples, got shapes "
                f"{', '.join(str(tuple(t.shape)) for t in tensors)}"
            )
    return tuple(shape)


def _probe_batch(caller: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor], count: int) -> None:
    for output in outputs:
        if not output.requires_grad:
            continue
        number = torch.arange(count, device=output.device)
        bits = torch.stack([(number >> bit) & 1 for bit in range((count - 1).bit_length())])
        seeded = torch.cat([bits, 1 - bits]).bool()
        zeros = torch.zeros(len(seeded), count, output.numel() // count, dtype=output.dtype, device=output.device)
        cotangents = zeros.masked_fill(seeded.unsqueeze(2), torch.nan).view(len(seeded), *output.shape)
        mixed = torch.zeros((), dtype=torch.bool, device=output.device)  # read once, since a GPU is waited for
        for x in inputs:
            for mask, cotangent in zip(seeded, cotangents, strict=True):
                (grad,) = torch.autograd.grad(output, x, cotangent, retain_graph=True, allow_unused=True)
                if grad is not None:
                    arrived = grad.reshape(count, -1).isnan().any(1)
                    mixed = mixed | (arrived & ~mask.to(grad.device)).any().to(output.device)
        if mixed:
            raise RuntimeError(
                f"{caller}: expected independent samples in the first dimensions of f and wrt (batch_dims), "
                "but a sample of f depends on another sample of wrt, as BatchNorm in training makes it"
            )
