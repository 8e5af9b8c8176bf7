"""Calls a launcher of csrc/ops/cuda/launch.h and runs the PTX of whatever it launches."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import toolchain
import torch
from numpy.typing import NDArray
from ptx_machine import Machine, Step, decode, pack_parameters
from ptx_memory import Buffer, FormulaBuffer, GlobalMemory, Ints, Traffic
from ptx_text import Kernel
from torch import Tensor

ELEMENT_TYPES = {
    torch.half: 0,
    torch.bfloat16: 1,
    torch.float32: 2,
    torch.float64: 3,
    torch.complex64: 4,
    torch.complex128: 5,
}
REAL = [torch.half, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]


# ---- What a launcher is given


@dataclass(frozen=True)
class Input:
    """A pointer to the values of the contiguous `tensor`. `needed` are the elements that must be read, if not all."""

    tensor: Tensor
    skew: int = 0  # elements past an aligned address
    needed: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """A pointer to where the values of `expected` shall be. `initial` is what is there before, if anything is.
    `needed` are the elements that must be written, if not all; `updated`: that must be read for it, too. `tolerance`,
    where compilers may fuse products and sums differently: relative to the largest of the values."""

    expected: Tensor
    skew: int = 0
    initial: Tensor | None = None
    needed: Tensor | None = None
    updated: bool = False
    tolerance: float = 0

    def holds(self, got: NDArray[np.uint8]) -> bool:
        """Whether these bytes are the values: to the bit, if there is no tolerance."""
        if self.tolerance == 0:
            return same_bits(got, self.expected)
        values = torch.from_numpy(got.copy()).view(self.expected.dtype).view(self.expected.shape)
        return bool(((values - self.expected).abs() <= self.tolerance * self.expected.abs().max()).all())


def huge_value(index: Ints) -> NDArray[np.int64]:
    """Whole numbers that every dtype holds exactly, and that neighbours do not share."""
    return index * 181 % 251


@dataclass(frozen=True)
class HugeInput:
    """A pointer to more elements than fit, whose values follow a formula of their index."""

    numel: int
    dtype: torch.dtype
    value: Callable[[Ints], NDArray[np.int64]] = huge_value


@dataclass(frozen=True)
class HugeOutput:
    """A pointer to more elements than fit: the ones written are compared with `expected` of their index."""

    numel: int
    dtype: torch.dtype
    expected: Callable[[Ints], NDArray[np.generic]]


class Stream:
    """The stream, which the launch must be given."""

    HANDLE = 0x57AEA


@dataclass(frozen=True)
class Struct:
    """A reference to a struct of pointers (None for a null one) and 64-bit integers."""

    fields: tuple[Input | HugeInput | int | None, ...]


Pointer = Input | Output | HugeInput | HugeOutput
Argument = Pointer | Struct | Stream | torch.dtype | int | ctypes.Structure


@dataclass(frozen=True)
class Call:
    """`op` is the same by torch's dispatcher, on a device. `blocks` picks the blocks to run from the grid's size."""

    label: str
    launcher: str
    arguments: tuple[Argument, ...]
    op: Callable[[str], Tensor | tuple[Tensor, ...]] | None = None
    blocks: Callable[[int], Sequence[int]] | None = None

    def outputs(self) -> list[Output]:
        return [argument for argument in self.arguments if isinstance(argument, Output)]

    def results(self, device: str) -> tuple[Tensor, ...]:
        """Of `op`."""
        assert self.op is not None
        results = self.op(device)
        return results if isinstance(results, tuple) else (results,)


def to_components(values: NDArray[Any], dtype: torch.dtype) -> NDArray[np.generic]:
    """Whole numbers as bytes of `dtype`."""
    return as_bytes(torch.from_numpy(np.ascontiguousarray(values)).to(dtype))


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.contiguous().reshape(-1)
    if flat.dtype.is_complex:
        flat = torch.view_as_real(flat).reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def same_bits(got: NDArray[np.uint8], expected: Tensor) -> bool:
    """Equal to the bit, but that a NaN may have any payload: processors choose different ones."""
    real = expected.dtype.to_real() if expected.dtype.is_complex else expected.dtype
    if np.array_equal(got, as_bytes(expected)):
        return True
    a, b = (torch.from_numpy(data.copy()).view(real) for data in (got, as_bytes(expected)))
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(((a.view(bits) == b.view(bits)) | (a.isnan() & b.isnan())).all())


# ---- Memory of a call


class WrongResult(Exception):
    """The kernel ran, and its result is not the one expected."""


@dataclass
class _Memory:
    """The simulated memory of one call, and what to compare in the end."""

    memory: GlobalMemory = field(default_factory=GlobalMemory)
    checks: list[Callable[[], None]] = field(default_factory=list)

    def pointer(self, argument: Pointer) -> int:
        if isinstance(argument, Input):
            buffer = Buffer(as_bytes(argument.tensor), writable=False)
            return self.memory.add(buffer, argument.skew * argument.tensor.element_size())
        if isinstance(argument, Output):
            return self._output(argument)
        size = argument.numel * argument.dtype.itemsize
        if isinstance(argument, HugeInput):
            return self.memory.add(FormulaBuffer(size, functools.partial(_read_huge, argument)))
        huge = FormulaBuffer(size, None)
        self.checks.append(functools.partial(_check_huge, argument, huge))
        return self.memory.add(huge)

    def _output(self, argument: Output) -> int:
        expected = argument.expected
        garbage = np.random.default_rng(2).integers(1, 255, expected.numel() * expected.element_size(), np.uint8)
        before = garbage if argument.initial is None else as_bytes(argument.initial)
        buffer = Buffer(before, writable=True, initialised=argument.initial is not None)

        def check() -> None:
            if not argument.holds(buffer.data):
                raise WrongResult("another result")

        self.checks.append(check)
        return self.memory.add(buffer, argument.skew * expected.element_size())


def _read_huge(argument: HugeInput, offsets: Ints, component: np.dtype[np.generic]) -> NDArray[np.generic]:
    dtype = argument.dtype
    values = to_components(argument.value(offsets // dtype.itemsize), dtype).view(component)
    per_element = dtype.itemsize // component.itemsize
    index = np.arange(offsets.size) * per_element + offsets % dtype.itemsize // component.itemsize
    return values[index]


def _check_huge(argument: HugeOutput, buffer: FormulaBuffer) -> None:
    if not buffer.stores:
        raise WrongResult("nothing is written")
    offsets = np.concatenate([offsets for offsets, _ in buffer.stores])
    size = argument.dtype.itemsize
    if np.unique(offsets).size != offsets.size:
        raise WrongResult("an element is written twice")
    if offsets.max() // size != argument.numel - 1 or offsets.min() != 0:
        raise WrongResult("the first or the last element is not written")
    for offsets, values in buffer.stores:
        # Byte by byte, since a store may be of a part of an element, or of several.
        places = offsets[:, None] + np.arange(values.dtype.itemsize)
        expected = to_components(argument.expected(places.reshape(-1) // size), argument.dtype).reshape(-1, size)
        expected = np.take_along_axis(expected, places.reshape(-1, 1) % size, 1)
        if not np.array_equal(values.view(np.uint8), expected.reshape(-1)):
            raise WrongResult("another result")


# ---- Launching

HOOK = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
)


@dataclass(frozen=True)
class Program:
    kernel: Kernel
    steps: list[Step]


@functools.cache
def program(name: str, architecture: str) -> Program:
    """The kernel of that mangled name, wherever it was compiled."""
    for source in toolchain.sources():
        kernel = toolchain.kernels(source.name, architecture).get(name)
        if kernel is not None:
            return Program(kernel, decode(kernel))
    raise KeyError(name)


@dataclass
class Run:
    """What happened in a call."""

    kernels: list[str] = field(default_factory=list)
    grids: list[tuple[int, int, int]] = field(default_factory=list)
    reached: list[set[int]] = field(default_factory=list)  # places in the code of each kernel
    instructions: int = 0
    traffic: Traffic | None = None


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(toolchain.launcher_library()))


@functools.cache
def _function(launcher: str) -> Any:
    return getattr(_library(), toolchain.symbol(toolchain.launcher_library(), launcher))


def as_ctypes(argument: Argument, pointer: Callable[[Any], int]) -> Any:
    if isinstance(argument, (Input, Output, HugeInput, HugeOutput)):
        return ctypes.c_void_p(pointer(argument))
    if isinstance(argument, Struct):
        values = [pointer(f) if isinstance(f, (Input, HugeInput)) else f or 0 for f in argument.fields]
        return ctypes.byref((ctypes.c_int64 * len(values))(*values))
    if isinstance(argument, Stream):
        return ctypes.c_void_p(Stream.HANDLE)
    if isinstance(argument, torch.dtype):
        return ctypes.c_int(ELEMENT_TYPES[argument])
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.byref(argument)


def simulate(
    call: Call,
    architecture: str,
    *,
    count_traffic: bool = False,
    replaced: dict[str, Program] | None = None,
    max_steps: int = 1_000_000,
) -> Run:
    """Runs the call. Raises :class:`Fault` for what no kernel may do, :class:`WrongResult` for a wrong one.

    `replaced` gives other programs (mutants) to kernels by their names.
    """
    simulated, done, errors = _Memory(), Run(), []
    if count_traffic:
        done.traffic = simulated.memory.traffic = Traffic()

    def launch(name: bytes, grid: Any, block: Any, shared: int, stream: int | None, parameters: Any) -> None:
        try:
            chosen = (replaced or {}).get(name.decode()) or program(name.decode(), architecture)
            kernel = chosen.kernel
            if shared != 0 or stream != Stream.HANDLE:
                raise WrongResult(f"launched with {shared} bytes of shared memory on stream {stream}")
            values = [ctypes.string_at(parameters[k], place.size) for k, place in enumerate(kernel.params.values())]
            grid_size, block_size = tuple(grid[:3]), tuple(block[:3])
            machine = Machine(
                kernel,
                simulated.memory,
                grid_size,
                block_size,
                pack_parameters(kernel, values),
                blocks=call.blocks(grid_size[0]) if call.blocks else None,
                steps=chosen.steps,
                max_steps=max_steps,
            )
            done.kernels.append(kernel.name)
            done.grids.append(grid_size)
            machine.run()
            done.reached.append(machine.reached)
            done.instructions += machine.instructions
        except Exception as error:  # cannot pass through C
            errors.append(error)

    hook = HOOK(launch)
    _library().set_launch_hook(hook)
    arguments = [as_ctypes(argument, simulated.pointer) for argument in call.arguments]
    _function(call.launcher)(*arguments)
    if errors:
        raise errors[0]
    for check in simulated.checks:
        check()
    return done
