"""Whether the first dimensions of tensors are independent samples (`batch_dims`), for the operators."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from . import _C


def check_batch(caller: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor], batch_dims: int) -> None:
    """Raises unless the first `batch_dims` dimensions of all tensors are the same independent samples: the graph proves
    it where every Node is known to keep samples apart; where it does not, probes show what mixes."""
    shape = check_batch_dims(caller, [*outputs, *inputs], batch_dims)
    count = prod(shape)
    if count > 1 and not _C.keeps_samples_apart(outputs, inputs, count):
        _C.check_samples_apart(caller, outputs, inputs, batch_dims)


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
