"""The memory that a simulated kernel sees: bounds, alignment, races and unwritten bytes are checked at each access."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Ints = NDArray[np.int64]

# Above what 32 bits hold, so that a truncated address is out of bounds; the gap keeps buffers apart.
FIRST_ADDRESS = 1 << 42
GAP = 1 << 12


class Fault(Exception):
    """The kernel did what no kernel may do."""


@dataclass(frozen=True)
class Access:
    """What one instruction does to memory: which threads, in which blocks, since how many barriers."""

    what: str
    threads: Ints
    blocks: Ints
    epoch: int


class Marks:
    """Which thread did something to each unit last, or that several did, since the last barrier or in other blocks."""

    NOBODY, MANY = -1, -2

    def __init__(self, units: int) -> None:
        self.thread, self.block, self.epoch = (np.full(units, self.NOBODY) for _ in range(3))

    def add(self, units: Ints, access: Access) -> None:
        # What was before the last barrier matters to other blocks alone.
        self.thread[units[self.epoch[units] != access.epoch]] = self.NOBODY
        for last, now in ((self.thread, access.threads), (self.block, access.blocks)):
            seen = last[units]
            last[units] = now
            # Of several at once, those that lost find another name than theirs.
            many = ((seen != self.NOBODY) & (seen != now)) | (last[units] != now)
            last[units[many]] = self.MANY
        self.epoch[units] = access.epoch

    def unordered(self, units: Ints, access: Access) -> bool:
        """Whether any other thread is marked that no barrier parts from this access."""
        block, thread = self.block[units], self.thread[units]
        elsewhere = (block != self.NOBODY) & (block != access.blocks)
        beside = (thread != self.NOBODY) & (thread != access.threads) & (self.epoch[units] == access.epoch)
        return bool((elsewhere | beside).any())


class Shadow:
    """Who touched each unit of some memory last. A unit is the smallest size that the kernel accesses."""

    NOBODY = Marks.NOBODY

    def __init__(self, units: int, initialised: bool) -> None:
        self.written = np.full(units, initialised)
        self.writer, self.writer_block, self.writer_epoch = (np.full(units, self.NOBODY) for _ in range(3))
        self.readers, self.updaters = Marks(units), Marks(units)

    def load(self, units: Ints, access: Access) -> None:
        self._refuse_unwritten(units, access)
        self._refuse_other_writer(units, access)
        self._refuse(self.updaters, units, access, "while another thread updates it")
        self.readers.add(units, access)

    def store(self, units: Ints, access: Access) -> None:
        self._refuse_other_writer(units, access)
        self._refuse(self.updaters, units, access, "written while another thread updates it")
        self._refuse(self.readers, units, access, "written while another thread reads")
        self.writer[units] = access.threads
        if (self.writer[units] != access.threads).any():
            raise Fault(f"race, two writers at once: {access.what}")
        self.writer_block[units] = access.blocks
        self.writer_epoch[units] = access.epoch
        self.written[units] = True

    def update(self, units: Ints, access: Access) -> None:
        """An atomic access: in no order with other atomic ones, and a race with all else that no barrier parts."""
        self._refuse_unwritten(units, access)
        self._refuse_other_writer(units, access)
        self._refuse(self.readers, units, access, "updated while another thread reads")
        self.updaters.add(units, access)

    def _refuse_unwritten(self, units: Ints, access: Access) -> None:
        if not self.written[units].all():
            raise Fault(f"read of unwritten memory: {access.what}")

    def _refuse(self, others: Marks, units: Ints, access: Access, how: str) -> None:
        if others.unordered(units, access):
            raise Fault(f"race, {how}: {access.what}")

    def _refuse_other_writer(self, units: Ints, access: Access) -> None:
        writer = self.writer[units]
        other = (writer != self.NOBODY) & (writer != access.threads)
        unordered = (self.writer_block[units] != access.blocks) | (self.writer_epoch[units] == access.epoch)
        if (other & unordered).any():
            raise Fault(f"race, another thread wrote: {access.what}")


def turns(places: Ints) -> Iterator[Ints]:
    """Threads in the order in which they go at their places: no two of a turn share one, and chance decides who is
    first, since a device promises nothing."""
    shuffled = np.random.default_rng(0).permutation(places.size)
    order = shuffled[np.argsort(places[shuffled], kind="stable")]
    count = np.arange(places.size)
    is_first = np.append(True, np.diff(places[order]) != 0)
    turn = count - np.maximum.accumulate(np.where(is_first, count, 0))
    for k in range(int(turn.max()) + 1):
        yield order[turn == k]


class Buffer:
    """Bytes at an address. `writable` is false for inputs, which may be read through the read-only cache."""

    def __init__(self, data: Array, *, writable: bool, initialised: bool = True) -> None:
        self.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8).copy()
        self.size = self.data.size
        self.writable = writable
        self.initialised = initialised
        self.shadow: Shadow | None = None

    def watch(self, unit: int) -> None:
        """Before a launch. What an earlier launch wrote stays written, and its races are over."""
        written = None if self.shadow is None else np.repeat(self.shadow.written, self.unit)
        self.unit = unit
        self.shadow = Shadow(self.size // unit, self.initialised)
        if written is not None:
            self.shadow.written = written.reshape(-1, unit).all(axis=1)

    def load(self, offsets: Ints, dtype: np.dtype[np.generic], access: Access) -> Array:
        self._touch(Shadow.load, offsets, dtype, access)
        return self._view(dtype)[offsets // dtype.itemsize]

    def store(self, offsets: Ints, values: Array, access: Access) -> None:
        self._touch(Shadow.store, offsets, values.dtype, access)
        self._view(values.dtype)[offsets // values.dtype.itemsize] = values

    def update(self, offsets: Ints, operands: list[Array], compute: Callable[..., Array], access: Access) -> Array:
        dtype = operands[0].dtype
        self._touch(Shadow.update, offsets, dtype, access)
        values, index = self._view(dtype), offsets // dtype.itemsize
        seen = np.empty(index.size, dtype)
        for now in turns(index):
            seen[now] = values[index[now]]
            values[index[now]] = compute(seen[now], *(operand[now] for operand in operands))
        return seen

    def _view(self, dtype: np.dtype[np.generic]) -> Array:
        return self.data[: self.size // dtype.itemsize * dtype.itemsize].view(dtype)

    def _touch(
        self,
        touch: Callable[[Shadow, Ints, Access], None],
        offsets: Ints,
        dtype: np.dtype[np.generic],
        access: Access,
    ) -> None:
        assert self.shadow is not None
        first = offsets // self.unit
        for k in range(dtype.itemsize // self.unit):
            touch(self.shadow, first + k, access)


class FormulaBuffer:
    """A buffer too large to exist: loads follow a formula of the element's index, stores are kept as a list. Atomic
    updates find zeros, so each element may have one."""

    def __init__(self, size: int, read: Callable[[Ints, np.dtype[np.generic]], Array] | None) -> None:
        self.size = size
        self.read = read
        self.writable = read is None
        self.stores: list[tuple[Ints, Array]] = []

    def watch(self, unit: int) -> None:
        pass

    def load(self, offsets: Ints, dtype: np.dtype[np.generic], access: Access) -> Array:
        if self.read is None:
            raise Fault(f"read of unwritten memory: {access.what}")
        return self.read(offsets, dtype)

    def store(self, offsets: Ints, values: Array, access: Access) -> None:
        self.stores.append((offsets.copy(), values.copy()))

    def update(self, offsets: Ints, operands: list[Array], compute: Callable[..., Array], access: Access) -> Array:
        seen = np.zeros(offsets.size, operands[0].dtype)
        self.store(offsets, compute(seen, *operands), access)
        return seen


@dataclass
class Traffic:
    """Sectors of 32 bytes that a launch moves. See docs/cuda.md for what each figure stands for."""

    SECTOR = 32
    # Blocks that a large device runs at once at the least, one on each of its multiprocessors: what they share is
    # still in the second-level cache.
    WAVE = 132

    requests: dict[str, int] = field(default_factory=lambda: {"load": 0, "store": 0})
    # By kind, which blocks touched which sectors, in one number each.
    touched: dict[str, list[Ints]] = field(default_factory=lambda: {"load": [], "store": []})

    def add(self, kind: str, addresses: Ints, warps: Ints, blocks: Ints) -> None:
        sectors = addresses // self.SECTOR - FIRST_ADDRESS // self.SECTOR
        self.requests[kind] += np.unique(warps << 40 | sectors).size
        self.touched[kind].append(np.unique(blocks << 40 | sectors))

    def requested_bytes(self) -> int:
        """Between multiprocessors and second-level cache: each warp's access on its own."""
        return sum(self.requests.values()) * self.SECTOR

    def memory_bytes(self, cache: int = 0) -> int:
        """Between second-level cache and memory: each sector once a wave. With `cache`, each sector again where since
        its last use so many bytes of others were used, blocks one after the other."""
        touched = {kind: np.unique(np.concatenate(keys)) for kind, keys in self.touched.items() if keys}
        if cache == 0:
            waves = [(keys >> 40) // self.WAVE << 40 | keys & ((1 << 40) - 1) for keys in touched.values()]
            return sum(np.unique(keys).size for keys in waves) * self.SECTOR
        # Loads and stores of a sector are two.
        keys = np.concatenate([keys << 1 | (kind == "store") for kind, keys in touched.items()])
        in_order = keys[np.argsort(keys >> 41, kind="stable")] & ((1 << 41) - 1)
        return _misses(in_order.tolist(), cache // self.SECTOR) * self.SECTOR


def _misses(places: list[int], capacity: int) -> int:
    """Of a cache of so many places, which forgets what was not used for the longest time."""
    kept: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for place in places:
        if place in kept:
            kept.move_to_end(place)
            continue
        misses += 1
        kept[place] = None
        if len(kept) > capacity:
            kept.popitem(last=False)
    return misses


class GlobalMemory:
    def __init__(self) -> None:
        self.buffers: list[tuple[int, Buffer | FormulaBuffer]] = []
        self.end = FIRST_ADDRESS
        self.traffic: Traffic | None = None

    def add(self, buffer: Buffer | FormulaBuffer, skew: int = 0) -> int:
        """The buffer's address: aligned to 256 bytes, but for a skew that tests what aligned pointers would hide."""
        address = self.end + skew
        self.buffers.append((address, buffer))
        self.end = -(-(address + buffer.size + GAP) // 256) * 256
        return address

    def watch(self, unit: int) -> None:
        for _, buffer in self.buffers:
            buffer.watch(unit)

    def find(self, addresses: Ints, size: int, what: str) -> tuple[Buffer | FormulaBuffer, int]:
        if (addresses % size).any():
            raise Fault(f"misaligned: {what}")
        lowest, highest = int(addresses.min()), int(addresses.max())
        for base, buffer in self.buffers:
            if base <= lowest and highest + size <= base + buffer.size:
                return buffer, base
        raise Fault(f"out of bounds: {what}")

    def load(
        self, addresses: Ints, dtype: np.dtype[np.generic], count: int, cached: bool, access: Access
    ) -> list[Array]:
        """`count` neighbouring values a thread. `cached` is the read-only cache, which must not see what is written."""
        buffer, base = self.find(addresses, dtype.itemsize * count, access.what)
        if cached and buffer.writable:
            raise Fault(f"read-only load from memory that may be written: {access.what}")
        return [buffer.load(addresses - base + k * dtype.itemsize, dtype, access) for k in range(count)]

    def store(self, addresses: Ints, values: list[Array], access: Access) -> None:
        size = values[0].dtype.itemsize
        buffer, base = self.find(addresses, size * len(values), access.what)
        if not buffer.writable:
            raise Fault(f"write to an input: {access.what}")
        for k, value in enumerate(values):
            buffer.store(addresses - base + k * size, value, access)

    def update(self, addresses: Ints, operands: list[Array], compute: Callable[..., Array], access: Access) -> Array:
        """What was there before `compute` of it and the operands took its place, one thread after the other."""
        buffer, base = self.find(addresses, operands[0].dtype.itemsize, access.what)
        if not buffer.writable:
            raise Fault(f"write to an input: {access.what}")
        return buffer.update(addresses - base, operands, compute, access)


class SharedMemory:
    """The shared memory of all blocks at once: a block's bytes start at its number times `size`."""

    def __init__(self, size: int, blocks: int, unit: int) -> None:
        self.size = size
        self.stride = -(-size // 16) * 16
        self.buffer = Buffer(np.zeros(self.stride * blocks, np.uint8), writable=True, initialised=False)
        self.buffer.watch(unit)

    def _offsets(self, addresses: Ints, size: int, access: Access) -> Ints:
        if (addresses % size).any():
            raise Fault(f"misaligned: {access.what}")
        if (addresses < 0).any() or (addresses + size > self.size).any():
            raise Fault(f"shared memory out of bounds: {access.what}")
        return addresses + access.blocks * self.stride

    def load(self, addresses: Ints, dtype: np.dtype[np.generic], count: int, access: Access) -> list[Array]:
        offsets = self._offsets(addresses, dtype.itemsize * count, access)
        return [self.buffer.load(offsets + k * dtype.itemsize, dtype, access) for k in range(count)]

    def store(self, addresses: Ints, values: list[Array], access: Access) -> None:
        size = values[0].dtype.itemsize
        offsets = self._offsets(addresses, size * len(values), access)
        for k, value in enumerate(values):
            self.buffer.store(offsets + k * size, value, access)
