"""Runs calls of launchers in the host shim, in a process whose C library a sanitizer watches. Needs no package.

stdin: a pickled (library, [(symbol, arguments)]). An argument is ("bytes", data, skew) for a pointer to a copy of the
data, so many bytes behind an aligned address; ("out", size, skew) for one to unwritten memory; ("int64", n), ("int32",
n) or ("struct", data). stdout: the pickled results, a list of the outputs' bytes for each call.
"""

import ctypes
import pickle
import sys

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


def main() -> None:
    library, calls = pickle.load(sys.stdin.buffer)
    launchers = ctypes.CDLL(library)
    results = []
    for symbol, arguments in calls:
        values, allocations, outputs = [], [], []
        for kind, *content in arguments:
            if kind in ("bytes", "out"):
                data, skew = content
                size = data if kind == "out" else len(data)
                # Not one byte more than the tensor has, so that the sanitizer sees what is past it.
                start = LIBC.malloc(size + skew)
                allocations.append(start)
                if kind == "out":
                    outputs.append((start + skew, size))
                else:
                    ctypes.memmove(start + skew, data, size)
                values.append(ctypes.c_void_p(start + skew))
            elif kind == "struct":
                values.append(ctypes.create_string_buffer(*content))
            else:
                values.append({"int64": ctypes.c_int64, "int32": ctypes.c_int32}[kind](*content))
        launchers[symbol](*values)
        results.append([ctypes.string_at(start, size) for start, size in outputs])
        for start in allocations:
            LIBC.free(start)
    pickle.dump(results, sys.stdout.buffer)


main()
