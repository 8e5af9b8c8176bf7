"""Runs one launch of a PTX kernel: all its threads at once, as numpy vectors.

Threads that are at the same instruction run it together; those that are furthest behind run first, so that a group that
a branch has parted finds together again. Any order is one that a GPU might choose, since blocks and warps promise none.
What must not depend on the order, memory between barriers, is checked by ptx_memory.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptx_instructions import DTYPES, Compute, atomic, operation
from ptx_memory import Access, Fault, GlobalMemory, SharedMemory
from ptx_text import Instruction, Kernel, Place, PtxError

Array = NDArray[np.generic]
Ints = NDArray[np.int64]
# The threads that run: indices, or None for all of them.
Active = Ints | None
Get = Callable[["Machine", Active], Array]

WARP = 32
NOWHERE = 1 << 60


@dataclass(frozen=True)
class Step:
    """A decoded instruction: exactly one of the three actions."""

    text: str
    guard: Get | None = None
    run: Callable[[Machine, Active], None] | None = None
    target: int | None = None  # of a branch; past the end for a return
    barrier: bool = False


# ---- Operands


def _register(name: str, kind: str, kernel: Kernel) -> Get:
    declared = DTYPES[kernel.register_type(name)]
    wanted = DTYPES[kind]
    if (declared.kind == "b") != (wanted.kind == "b") or declared.itemsize < wanted.itemsize:
        raise PtxError(f"{name} is a {kernel.register_type(name)}, read as {kind}")
    if declared.itemsize == wanted.itemsize:
        return lambda machine, active: machine.read(name, declared, active).view(wanted)
    narrow = np.dtype(f"u{wanted.itemsize}")
    return lambda machine, active: machine.read(name, declared, active).astype(narrow).view(wanted)


def _constant(text: str, kind: str) -> Array:
    dtype = DTYPES[kind]
    if text[:2] in ("0f", "0F"):
        return np.uint32(int(text[2:], 16)).view(np.float32).astype(dtype)
    if text[:2] in ("0d", "0D"):
        return np.uint64(int(text[2:], 16)).view(np.float64).astype(dtype)
    number = int(text, 0)
    if dtype.kind == "b":
        return np.bool_(number)
    bits = np.dtype(f"u{dtype.itemsize}").type(number & (1 << 8 * dtype.itemsize) - 1)
    return bits.view(dtype)


def _source(text: str, kind: str, kernel: Kernel) -> Get:
    """How to read one operand as a value of type `kind`."""
    if text.startswith("!"):
        inner = _source(text[1:], kind, kernel)
        return lambda machine, active: np.logical_not(inner(machine, active))
    if match := re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.([xyz])", text):
        return lambda machine, active: machine.special(match[1], "xyz".index(match[2]), active).astype(DTYPES[kind])
    if text.startswith("%"):
        return _register(text, kind, kernel)
    if text in kernel.params or text in kernel.shared:
        place = kernel.params.get(text) or kernel.shared[text]
        return lambda machine, active: DTYPES[kind].type(place.offset)
    if text.startswith("{"):
        parts = [part.strip() for part in text.strip("{}").split(",")]
        part_kind = f"b{8 * DTYPES[kind].itemsize // len(parts)}"
        gets = [_source(part, part_kind, kernel) for part in parts]

        def pack(machine: Machine, active: Active) -> Array:
            halves = np.broadcast_arrays(*(get(machine, active) for get in gets))
            return np.ascontiguousarray(np.stack(halves, -1)).view(DTYPES[kind])[..., 0]

        return pack
    value = _constant(text, kind)
    return lambda machine, active: value


def _address(text: str, kind: str, kernel: Kernel) -> Get:
    match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
    if match is None:
        raise PtxError(f"an address that is not understood: {text}")
    base, offset = _source(match[1], kind, kernel), np.int64(int(match[2] or 0))
    return lambda machine, active: base(machine, active).astype(np.int64) + offset


Put = Callable[["Machine", Active, Array], None]


def _destination(text: str, kernel: Kernel) -> Put:
    """How to write one register. A value narrower than the register is extended by its own sign."""
    if text == "_":
        return lambda machine, active, value: None
    declared = DTYPES[kernel.register_type(text)]

    def put(machine: Machine, active: Active, value: Array) -> None:
        if value.dtype.itemsize != declared.itemsize:
            if value.dtype.kind not in "iu" or value.dtype.itemsize > declared.itemsize:
                raise PtxError(f"{text} is a {kernel.register_type(text)}, given a {value.dtype}")
            value = value.astype(np.dtype(f"{value.dtype.kind}{declared.itemsize}"))
        machine.write(text, declared, active, value.view(declared))

    return put


# ---- Decoding


def _split_move(instruction: Instruction, kernel: Kernel) -> Callable[[Machine, Active], None]:
    """``mov.b32 {%rs1, %rs2}, %r1``: the low half goes first."""
    kind = instruction.opcode.removeprefix("mov.")
    get = _source(instruction.operands[1], kind, kernel)
    names = instruction.operands[0].strip("{}").split(",")
    part = np.dtype(f"u{DTYPES[kind].itemsize // len(names)}")
    puts = [_destination(name.strip(), kernel) for name in names]

    def run(machine: Machine, active: Active) -> None:
        parts = np.atleast_1d(get(machine, active)).view(part).reshape(-1, len(puts))
        for k, put in enumerate(puts):
            put(machine, active, parts[:, k].copy())

    return run


MEMORY = re.compile(r"(ld|st)\.(param|global|shared)((?:\.nc)?)(?:\.v([24]))?\.([busf])(8|16|32|64)")


def _memory(instruction: Instruction, kernel: Kernel) -> Callable[[Machine, Active], None]:
    match = MEMORY.fullmatch(instruction.opcode)
    if match is None or (match[3] and match[2] != "global") or (match[1] == "st" and match[2] == "param"):
        raise Fault(f"unknown instruction: {instruction.opcode}")
    name, space, cached, vector, letter, width = match.groups()
    kind, count = letter + width, int(vector or 1)
    is_load = name == "ld"
    place, values = reversed(instruction.operands) if is_load else instruction.operands
    address = _address(place, "u32" if space == "shared" and not _is_wide(place, kernel) else "u64", kernel)
    registers = [part.strip() for part in values.strip("{}").split(",")]
    if len(registers) != count:
        raise PtxError(f"{count} values expected: {instruction}")
    dtype = DTYPES[kind]
    if is_load:
        puts = [_destination(register, kernel) for register in registers]

        def load(machine: Machine, active: Active) -> None:
            loaded = machine.load(space, address(machine, active), dtype, count, bool(cached), active)
            for put, value in zip(puts, loaded, strict=True):
                put(machine, active, value)

        return load
    gets = [_source(register, kind, kernel) for register in registers]

    def store(machine: Machine, active: Active) -> None:
        machine.store(space, address(machine, active), [get(machine, active) for get in gets], active)

    return store


def _atomic(instruction: Instruction, kernel: Kernel) -> Callable[[Machine, Active], None]:
    action = atomic(instruction.opcode)
    destination, place, *operands = instruction.operands
    if len(operands) != len(action.sources):
        raise PtxError(f"{len(action.sources)} values expected: {instruction}")
    put, address = _destination(destination, kernel), _address(place, "u64", kernel)
    gets = [_source(operand, kind, kernel) for operand, kind in zip(operands, action.sources, strict=True)]

    def update(machine: Machine, active: Active) -> None:
        values = [get(machine, active) for get in gets]
        put(machine, active, machine.update(address(machine, active), values, action.compute, active))

    return update


def _is_wide(address: str, kernel: Kernel) -> bool:
    base = re.split(r"[\[+\]]", address)[1].strip()
    return base.startswith("%") and DTYPES[kernel.register_type(base)].itemsize == 8


def _decode(instruction: Instruction, kernel: Kernel) -> Step:
    text = str(instruction)
    opcode, operands = instruction.opcode, instruction.operands
    guard = None
    if instruction.predicate:
        guard = _source("!" * instruction.negated + instruction.predicate, "pred", kernel)
    if opcode in ("bra", "bra.uni"):
        return Step(text, guard, target=kernel.labels[operands[0]])
    if opcode in ("ret", "exit"):
        return Step(text, guard, target=len(kernel.code))
    if opcode == "bar.sync" and operands == ("0",):
        return Step(text, guard, barrier=True)
    if opcode.startswith(("ld.", "st.")):
        return Step(text, guard, _memory(instruction, kernel))
    if opcode.startswith("atom."):
        return Step(text, guard, _atomic(instruction, kernel))
    if opcode.startswith("mov.b") and operands[0].startswith("{"):
        return Step(text, guard, _split_move(instruction, kernel))
    action = operation(opcode)
    if len(operands) != len(action.sources) + 1:
        raise PtxError(f"{len(action.sources)} sources expected: {text}")
    put = _destination(operands[0], kernel)
    gets = [_source(operand, kind, kernel) for operand, kind in zip(operands[1:], action.sources, strict=True)]
    compute, dtype = action.compute, DTYPES[action.destination]

    def run(machine: Machine, active: Active) -> None:
        put(machine, active, np.asarray(compute(*(get(machine, active) for get in gets)), dtype))

    return Step(text, guard, run)


def decode(kernel: Kernel) -> list[Step]:
    """Raises :class:`Fault` for an instruction that is unknown, whether or not it would run."""
    return [_decode(instruction, kernel) for instruction in kernel.code]


def smallest_access(kernel: Kernel, space: str) -> int:
    widths = [int(m[6]) // 8 for i in kernel.code if (m := MEMORY.fullmatch(i.opcode)) and m[2] == space]
    atomics = [i.opcode for i in kernel.code if i.opcode.startswith(f"atom.{space}.")]
    return min(widths + [DTYPES[atomic(opcode).destination].itemsize for opcode in atomics], default=1)


# ---- Running


class Machine:
    """One launch. `blocks` picks some of the grid's; `max_steps` ends what would not end."""

    def __init__(
        self,
        kernel: Kernel,
        memory: GlobalMemory,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: bytes,
        *,
        blocks: Sequence[int] | None = None,
        steps: list[Step] | None = None,
        max_steps: int = 1_000_000,
    ) -> None:
        self.code = decode(kernel) if steps is None else steps
        self.kernel, self.memory, self.max_steps = kernel, memory, max_steps
        self.params = np.frombuffer(parameters, np.uint8)
        chosen = np.arange(grid[0] * grid[1] * grid[2]) if blocks is None else np.array(blocks, np.int64)
        in_block = block[0] * block[1] * block[2]
        self.num_blocks, self.threads = chosen.size, chosen.size * in_block
        self.everyone = np.arange(self.threads)
        self.block_of = self.everyone // in_block
        thread = self.everyone % in_block
        self.warp_of = self.block_of * -(-in_block // WARP) + thread // WARP
        self.specials = {
            "tid": _coordinates(thread, block),
            "ctaid": _coordinates(chosen[self.block_of], grid),
            "ntid": [np.uint32(n) for n in block],
            "nctaid": [np.uint32(n) for n in grid],
        }
        self.registers: dict[str, Array] = {}
        # What a register holds before it is written: nothing that a kernel could mean.
        self.garbage = np.random.default_rng(1).integers(0, 1 << 63, self.threads, np.uint64)
        memory.watch(smallest_access(kernel, "global"))
        size = kernel.size_of(kernel.shared)
        self.shared = SharedMemory(size, self.num_blocks, smallest_access(kernel, "shared"))
        self.epoch = 0
        self.pending: dict[int, Active] = {}
        self.instructions = 0  # of single threads
        self.reached: set[int] = set()  # places in the code

    def special(self, name: str, axis: int, active: Active) -> Array:
        value = self.specials[name][axis]
        return value if value.ndim == 0 or active is None else value[active]

    def read(self, name: str, dtype: np.dtype[np.generic], active: Active) -> Array:
        values = self.registers.get(name)
        if values is None:
            values = self.registers[name] = self._garbage(dtype)
        return values if active is None else values[active]

    def write(self, name: str, dtype: np.dtype[np.generic], active: Active, value: Array) -> None:
        if active is None:
            self.registers[name] = value if value.shape == (self.threads,) else np.full(self.threads, value)
            return
        if name not in self.registers:
            self.registers[name] = self._garbage(dtype)
        self.registers[name][active] = value

    def _garbage(self, dtype: np.dtype[np.generic]) -> Array:
        if dtype.kind == "b":
            return (self.garbage & np.uint64(1)).astype(bool)
        return self.garbage.astype(f"u{dtype.itemsize}").view(dtype)

    def _access(self, active: Active) -> Access:
        if active is None:
            return Access(self.text, self.everyone, self.block_of, self.epoch)
        return Access(self.text, active, self.block_of[active], self.epoch)

    def _count_traffic(self, kind: str, addresses: Ints, access: Access) -> None:
        if self.memory.traffic is not None:
            self.memory.traffic.add(kind, addresses, self.warp_of[access.threads], access.blocks)

    def load(
        self, space: str, addresses: Ints, dtype: np.dtype[np.generic], count: int, cached: bool, active: Active
    ) -> list[Array]:
        if space == "param":
            return [self._load_param(addresses + k * dtype.itemsize, dtype) for k in range(count)]
        access = self._access(active)
        addresses = np.broadcast_to(addresses, access.threads.shape)
        if space == "shared":
            return self.shared.load(addresses, dtype, count, access)
        loaded = self.memory.load(addresses, dtype, count, cached, access)
        self._count_traffic("load", addresses, access)
        return loaded

    def store(self, space: str, addresses: Ints, values: list[Array], active: Active) -> None:
        access = self._access(active)
        addresses = np.broadcast_to(addresses, access.threads.shape)
        values = [np.broadcast_to(value, addresses.shape) for value in values]
        if space == "shared":
            self.shared.store(addresses, values, access)
            return
        self.memory.store(addresses, values, access)
        self._count_traffic("store", addresses, access)

    def update(self, addresses: Ints, operands: list[Array], compute: Compute, active: Active) -> Array:
        access = self._access(active)
        addresses = np.broadcast_to(addresses, access.threads.shape)
        operands = [np.broadcast_to(operand, addresses.shape) for operand in operands]
        seen = self.memory.update(addresses, operands, compute, access)
        for kind in ("load", "store"):  # at the second-level cache, which reads the sector and writes it back
            self._count_traffic(kind, addresses, access)
        return seen

    def _load_param(self, offsets: Ints, dtype: np.dtype[np.generic]) -> Array:
        places = self.kernel.params.values()
        lowest, highest = offsets.min(), offsets.max() + dtype.itemsize
        if not any(p.offset <= lowest and highest <= p.offset + p.size for p in places):
            raise Fault(f"parameter out of bounds: {self.text}")
        if (offsets % dtype.itemsize).any():
            raise Fault(f"misaligned: {self.text}")
        at = offsets[..., None] + np.arange(dtype.itemsize)
        return self.params[at].view(dtype)[..., 0]

    def run(self) -> None:
        with np.errstate(all="ignore"):
            waiting: list[tuple[int, Active]] = []
            self.pending = {0: None} if self.threads else {}
            steps = 0
            while self.pending or waiting:
                if not self.pending:
                    self._release(waiting)
                    waiting = []
                pc = min(self.pending)
                active = self.pending.pop(pc)
                others = min(self.pending, default=NOWHERE)
                while pc < len(self.code):
                    if pc >= others:
                        self._park(pc, active)
                        break
                    steps += 1
                    if steps > self.max_steps:
                        raise Fault(f"no end after {steps} steps")
                    self.reached.add(pc)
                    step = self.code[pc]
                    self.text = step.text
                    self.instructions += self.threads if active is None else active.size
                    if step.run is not None and step.guard is None:
                        step.run(self, active)
                        pc += 1
                        continue
                    taken, rest = self._divide(step, active)
                    if step.run is not None:
                        if _size(taken) != 0:
                            step.run(self, taken)
                        pc += 1
                        continue
                    if step.barrier:
                        if _size(rest) != 0:
                            raise Fault(f"divergent barrier: {step.text}")
                        waiting.append((pc + 1, taken))
                        break
                    assert step.target is not None
                    if _size(taken) == 0:
                        pc += 1
                    elif _size(rest) == 0:
                        pc = step.target
                    else:
                        self._park(step.target, taken)
                        others = min(others, step.target)
                        active = rest
                        pc += 1

    def _divide(self, step: Step, active: Active) -> tuple[Active, Active]:
        """Those whose guard is true, and the others."""
        nobody = np.empty(0, np.int64)
        if step.guard is None:
            return active, nobody
        chosen = step.guard(self, active)
        if chosen.all():
            return active, nobody
        if not chosen.any():
            return nobody, active
        everyone = self.everyone if active is None else active
        return everyone[chosen], everyone[~chosen]

    def _park(self, pc: int, active: Active) -> None:
        other = self.pending.get(pc)
        if pc not in self.pending:
            self.pending[pc] = active
            return
        assert active is not None and other is not None
        merged = np.concatenate([other, active])
        self.pending[pc] = None if merged.size == self.threads else merged

    def _release(self, waiting: list[tuple[int, Active]]) -> None:
        """All threads that still run are at a barrier: those of a block must be at the same one."""
        at = np.full(self.threads, NOWHERE)
        for pc, active in waiting:
            at[self.everyone if active is None else active] = pc
        by_block = at.reshape(self.num_blocks, -1)
        first = by_block.min(axis=1, keepdims=True)
        if ((by_block != first) & (by_block != NOWHERE)).any():
            raise Fault("divergent barrier: threads of a block wait at different ones")
        self.epoch += 1
        for pc, active in waiting:
            self._park(pc, active)


def _size(active: Active) -> int:
    return -1 if active is None else active.size


def _coordinates(linear: Ints, extent: tuple[int, int, int]) -> list[Array]:
    x, y, _ = extent
    return [(part).astype(np.uint32) for part in (linear % x, linear // x % y, linear // (x * y))]


def pack_parameters(kernel: Kernel, values: Sequence[bytes]) -> bytes:
    """The parameter block of a launch, from the bytes of each parameter."""
    block = bytearray(kernel.size_of(kernel.params))
    places: list[Place] = list(kernel.params.values())
    for place, value in zip(places, values, strict=True):
        if len(value) != place.size:
            raise PtxError(f"a parameter of {place.size} bytes expected, got {len(value)}")
        block[place.offset : place.offset + place.size] = value
    return bytes(block)
