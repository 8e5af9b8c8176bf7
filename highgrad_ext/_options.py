"""Options that both public functions take: their types, checked before any work."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _C

_P = ParamSpec("_P")
_R = TypeVar("_R")


def warn(message: str) -> None:
    """A UserWarning at the line that called into this package."""
    package = str(Path(__file__).parent)
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def in_any_mode(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function`, for callers in inference mode, which records no graphs, or with a default device, for which each of
    torch's functions calls Python once more: that is no use to what names its devices."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch._C._len_torch_function_stack() and _has_default_device_alone():
            with _C.WithoutModes():
                return run(*args, **kwargs)
        return run(*args, **kwargs)

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return call


def _has_default_device_alone() -> bool:
    """Whether the only mode of torch's functions is that."""
    from torch.utils._device import DeviceContext  # which torch loads with the first default device

    count = torch._C._len_torch_function_stack()
    return all(isinstance(torch._C._get_function_stack_at(i), DeviceContext) for i in range(count))


# Of sizes, which are int64 in C++.
_LARGEST = (1 << 63) - 1


def check_flags(caller: str, **flags: object) -> None:
    """Raises TypeError for what is not a bool: None may mean many things."""
    for name, flag in flags.items():
        if flag is not True and flag is not False:
            raise TypeError(f"{caller}: expected {name} to be a bool, got {type(flag).__name__}")


def check_sweep_options(caller: str, chunk_size: object, mode: object, structure: object) -> None:
    """Raises TypeError for an option of a wrong type; their values are checked in C++."""
    if chunk_size is not None:
        if not isinstance(chunk_size, int) or isinstance(chunk_size, bool):
            raise TypeError(f"{caller}: expected chunk_size to be None or an int, got {type(chunk_size).__name__}")
        if abs(chunk_size) > _LARGEST:
            raise ValueError(f"{caller}: expected chunk_size to be None or an int64, got {chunk_size}")
    for name, option in (("mode", mode), ("structure", structure)):
        if not isinstance(option, str):
            raise TypeError(f"{caller}: expected {name} to be a str, got {type(option).__name__}")


def check_fits(caller: str, entries: int, like: Tensor, hint: str) -> None:
    """Raises torch.OutOfMemoryError for a result that is larger than all memory of its device."""
    if entries <= _C.SMALL_RESULT or like.is_meta or isinstance(like, FakeTensor):
        return
    size = entries * like.element_size()
    if like.is_cuda:
        memory = torch.cuda.get_device_properties(like.device).total_memory
    elif like.device.type == "cpu" and hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory = _LARGEST
    if size > memory:
        raise torch.OutOfMemoryError(
            f"{caller}: the result has {_readable(entries)} entries, {_readable(size)} bytes, more than the "
            f"{_readable(memory)} bytes of memory of the device {like.device}; {hint}"
        )


def _readable(number: int) -> str:
    return str(number) if number < 1e15 else f"about 10^{math.log10(number):.0f}"


def check_real(caller: str, inputs: Sequence[Tensor]) -> None:
    """Raises RuntimeError for a complex wrt, of which there is no gradient of a gradient or derivative along a line."""
    for x in inputs:
        if x.is_complex():
            raise RuntimeError(
                f"{caller}: expected a real wrt, got {x.dtype}; a complex one has first derivatives alone, by "
                "full_jacobian"
            )


def check_result_options(caller: str, batch_dims: object, layout: object, has_out: bool) -> None:
    """Raises TypeError or ValueError for a batch_dims or layout of a wrong type, unknown, or with what excludes it."""
    if not isinstance(batch_dims, int) or isinstance(batch_dims, bool):
        raise TypeError(f"{caller}: expected batch_dims to be an int, got {type(batch_dims).__name__}")
    if abs(batch_dims) > _LARGEST:
        raise ValueError(f"{caller}: expected batch_dims to be an int64, got {batch_dims}")
    if not isinstance(layout, torch.layout):
        raise TypeError(f"{caller}: expected layout to be a torch.layout, got {type(layout).__name__}")
    if layout not in (torch.strided, torch.sparse_csr, torch.sparse_coo):
        raise ValueError(
            f"{caller}: expected layout to be torch.strided, torch.sparse_csr or torch.sparse_coo, got {layout}"
        )
    if layout != torch.strided and batch_dims:
        raise ValueError(f"{caller}: expected layout=torch.strided with batch_dims, got {layout}")
    if has_out and (layout != torch.strided or batch_dims):
        raise ValueError(f"{caller}: expected no out with batch_dims or a sparse layout")
