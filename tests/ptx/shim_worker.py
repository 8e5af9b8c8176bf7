"""Runs calls of launchers in the host shim, in a process whose C library a sanitizer watches. Needs no package.

stdin: a pickled (library, [(symbol, arguments)]). An argument is ("bytes", data, skew) for a pointer to a copy of the
data, so many bytes behind an aligned address; ("inout", data, skew) for one to a result that holds the data;
("out", size, skew) for one to unwritten memory; ("int64", n), ("int32", n), ("struct", data) or ("fields", arguments)
for a reference to a struct of pointers and 64-bit integers. stdout: the pickled results, a list of the outputs' bytes
for each call.
"""

import ctypes
import pickle
import sys

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


class Memory:
    """What the arguments of one call point to."""

    def __init__(self):
        self.allocations = []
        self.outputs = []

    def pointer(self, kind, data, skew):
        size = data if kind == "out" else len(data)
        # Not one byte more than the tensor has, so that the sanitizer sees what is past it.
        start = LIBC.malloc(size + skew)
        self.allocations.append(start)
        if kind != "out":
            ctypes.memmove(start + skew, data, size)
        if kind != "bytes":
            self.outputs.append((start + skew, size))
        return start + skew

    def value(self, kind, *content):
        if kind in ("bytes", "inout", "out"):
            return ctypes.c_void_p(self.pointer(kind, *content))
        if kind == "struct":
            return ctypes.create_string_buffer(*content)
        if kind == "fields":
            fields = [self.value(*field).value or 0 for field in content[0]]
            return (ctypes.c_int64 * len(fields))(*fields)
        return {"int64": ctypes.c_int64, "int32": ctypes.c_int32}[kind](*content)


def main() -> None:
    library, calls = pickle.load(sys.stdin.buffer)
    launchers = ctypes.CDLL(library)
    results = []
    for symbol, arguments in calls:
        memory = Memory()
        launchers[symbol](*[memory.value(*argument) for argument in arguments])
        results.append([ctypes.string_at(start, size) for start, size in memory.outputs])
        for start in memory.allocations:
            LIBC.free(start)
    pickle.dump(results, sys.stdout.buffer)


main()
