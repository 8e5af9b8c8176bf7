"""Compiles the kernels three ways: to PTX, to the launchers' own host code, and to plain C++ under a sanitizer.

Results are kept in build/ptx, in a folder named after what they were made from, so that test processes share them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ptx_text import Kernel, parse
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CUDA_SOURCES = CSRC / "ops" / "cuda"
HERE = Path(__file__).resolve().parent
NVCC = shutil.which("nvcc")
ARCHITECTURES = ("75", "90")
FLAGS = ["-std=c++20", "-O3", f"-I{CSRC}", *COMMON_NVCC_FLAGS]


@functools.cache
def cuda_include() -> Path:
    """The toolkit's headers, for a host compiler; nvcc may be a wrapper, so it is asked."""
    assert NVCC is not None
    dry_run = subprocess.run([NVCC, "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
    assert top is not None, dry_run.stderr
    return Path(top[1]) / "include"


def _fingerprint() -> str:
    digest = hashlib.sha256(repr((NVCC, FLAGS)).encode())
    inputs = [*(CSRC / "ops").glob("*.h"), *CUDA_SOURCES.iterdir(), *HERE.glob("*.?pp"), Path(__file__)]
    for path in sorted(inputs):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def built(name: str, make: Callable[[Path], object]) -> Path:
    """The file `name`, made at most once for all test processes."""
    folder = ROOT / "build" / "ptx" / _fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f"unfinished.{path.name}")
            make(unfinished)
            unfinished.rename(path)
    return path


def run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(word) for word in command)}\n{(done.stdout + done.stderr)[:4000]}")


def sources() -> list[Path]:
    return sorted(CUDA_SOURCES.glob("*.cu"))


@functools.cache
def kernels(source: str, architecture: str) -> dict[str, Kernel]:
    """All kernels in the PTX that nvcc makes of csrc/ops/cuda/`source`."""

    def make(path: Path) -> None:
        assert NVCC is not None
        run(NVCC, *FLAGS, f"-arch=compute_{architecture}", "-ptx", CUDA_SOURCES / source, "-o", path)

    return parse(built(f"{source}.{architecture}.ptx", make).read_text())


def launcher_library() -> Path:
    """The launchers as nvcc compiles them for the host, on a runtime of ours that starts no kernel."""

    def make(path: Path) -> None:
        assert NVCC is not None
        only_ptx = "-gencode=arch=compute_75,code=compute_75"
        # The real runtime may be loaded as well, by torch's CUDA build: calls must stay within this library.
        link = ["-shared", "-Xcompiler=-fPIC", "-Xlinker=-Bsymbolic", "--cudart=none"]
        run(NVCC, *FLAGS, only_ptx, *link, *sources(), HERE / "cudart_stub.cpp", "-o", path)

    return built("launchers.so", make)


LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)\s*<<<([^,>]+),([^,>]+),[^>]*>>>\s*\(([^;]*)\);")


def rewrite_launches(text: str) -> str:
    """``kernel<T><<<grid, block, 0, stream>>>(x);`` becomes a call of the host shim's launch()."""
    rewritten = LAUNCH.sub(r"host_shim::launch(\2, \3, [&] { \1(\4); });", text)
    if "<<<" in rewritten:
        raise ValueError("a launch that is not understood")
    return rewritten


def compile_shim(texts: Mapping[str, str], sanitizers: Sequence[str], library: Path) -> Path:
    """Kernels and their launchers as plain C++ with the host shim, under g++'s sanitizers."""
    sources = []
    for name, text in texts.items():
        source = library.with_name(f"{library.name}.{name}.cpp")
        source.write_text(rewrite_launches(text))
        sources.append(source)
    flags = ["-std=c++20", "-O1", "-g", "-shared", "-fPIC", "-pthread", "-fno-sanitize-recover=all"]
    # The kernels' own pragmas are nvcc's.
    flags += ["-Wno-unknown-pragmas", f"-I{CSRC}", f"-isystem{cuda_include()}"]
    run(
        "g++", *flags, f"-fsanitize={','.join(sanitizers)}", "-include", HERE / "host_shim.hpp", *sources, "-o", library
    )
    return library


def shim_library(sanitizers: Sequence[str]) -> Path:
    """All of csrc/ops/cuda so."""
    texts = {source.stem: source.read_text() for source in sources()}
    return built(f"shim-{'-'.join(sanitizers)}.so", lambda path: compile_shim(texts, sanitizers, path))


def symbol(library: Path, launcher: str) -> str:
    """The mangled name of a launcher, which is found by its plain one."""
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    (name,) = [name for name in names if re.match(rf"_Z.*{len(launcher)}{launcher}", name)]
    return name


def walks_library() -> Path:
    """walks.cpp, which needs no nvcc."""
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{CSRC}"]
    return built("walks.so", lambda path: run("g++", *flags, HERE / "walks.cpp", "-o", path))
