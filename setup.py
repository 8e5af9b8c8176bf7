"""Builds highgrad_ext._C against the installed torch, with the CUDA kernels where torch has CUDA and nvcc is found.

HIGHGRAD_CUDA=0 refuses CUDA, FORCE_CUDA=1 insists on it. TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX and MAX_JOBS are heeded.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NoReturn


def fail(message: str) -> NoReturn:
    raise SystemExit(f"highgrad_ext: {message}")


try:
    import torch
    from setuptools import Command, Extension, setup
    from torch.utils import cpp_extension
except ImportError as error:
    fail(
        f"{error}. The build needs setuptools and torch, and has to see the torch that will load the result: "
        "pip install setuptools torch, then pip install --no-build-isolation ."
    )

ROOT = Path(__file__).resolve().parent
CSRC = (ROOT / "csrc").resolve()
HEADERS = CSRC / "torch_headers.h"
OLDEST_TORCH = "2.11"
CUDA_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# A kernel that spills registers or keeps an array in local memory is an error.
NVCC_STRICT = ("--Werror", "all-warnings", "-Xptxas=-Werror,-warn-spills,-warn-lmem-usage")


def find_toolkit(environ: Mapping[str, str]) -> Path | None:
    """The root of the CUDA toolkit: CUDA_HOME, else what the nvcc on PATH, which may be a wrapper, says of itself."""
    if home := environ.get("CUDA_HOME"):
        return Path(home) if Path(home, "bin", "nvcc").is_file() else None
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    if nvcc is None:
        return None
    dry_run = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else Path(nvcc).resolve().parents[1]


def ask_nvcc(toolkit: Path, question: str) -> str:
    return subprocess.run([toolkit / "bin" / "nvcc", question], capture_output=True, text=True, check=True).stdout


def nvcc_version(toolkit: Path) -> str:
    answer = ask_nvcc(toolkit, "--version")
    release = re.search(r"release (\d+\.\d+)", answer)
    return release[1] if release else fail(f"{toolkit / 'bin' / 'nvcc'} --version names no release: {answer!r}")


def arch_list(supported: str) -> str:
    """Every architecture of ours that this nvcc knows (`nvcc --list-gpu-arch`), the newest with PTX."""
    known = supported.split()
    return ";".join(arch for arch in CUDA_ARCHS if f"compute_{arch.replace('.', '')}" in known) + "+PTX"


def use_cuda(environ: Mapping[str, str], torch_cuda: str | None, nvcc_cuda: str | None) -> bool:
    """Whether to build the CUDA sources. Exits where the environment asks for what cannot be."""
    refused, forced = environ.get("HIGHGRAD_CUDA") == "0", environ.get("FORCE_CUDA") == "1"
    if refused and forced:
        fail("FORCE_CUDA=1 and HIGHGRAD_CUDA=0 contradict each other.")
    if refused:
        return False
    if torch_cuda is None or nvcc_cuda is None:
        if forced:
            lack = "the installed torch has no CUDA" if torch_cuda is None else "nvcc is not found (CUDA_HOME, PATH)"
            fail(f"FORCE_CUDA=1, but {lack}.")
        return False
    if torch_cuda.split(".")[0] != nvcc_cuda.split(".")[0]:
        fail(
            f"nvcc is CUDA {nvcc_cuda}, but torch was built with CUDA {torch_cuda}: the major versions must agree. "
            f"Point CUDA_HOME at a CUDA {torch_cuda} toolkit, or build without CUDA: HIGHGRAD_CUDA=0."
        )
    return True


def check_compiler(environ: Mapping[str, str]) -> None:
    compiler = environ.get("CXX", "c++")
    if shutil.which(shlex.split(compiler)[0], path=environ.get("PATH")) is None:
        fail(f"no C++ compiler: {compiler!r} is not found. Install g++ or clang++, or name one in CXX.")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        fail(f"{header} is missing. Install the headers of this Python (python3-dev on Debian and Ubuntu).")


def extension(cuda: bool) -> Extension:
    host_only = [path for path in sorted(CSRC.rglob("*.cpp")) if CSRC / "ops" / "cuda" not in path.parents]
    cuda_only = sorted(path for path in (CSRC / "ops" / "cuda").rglob("*") if path.suffix in (".cpp", ".cu"))
    sources = [str(path) for path in host_only + cuda_only * cuda]
    kind = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    module: Extension = kind("highgrad_ext._C", sources)
    # The headers of torch and CUDA are system headers: a warning that shows is one of ours. The kernels use no torch.
    system = [f"-isystem{path}" for path in module.include_dirs]
    module.include_dirs = [str(CSRC)]
    module.define_macros += [("HIGHGRAD_CUDA", None)] * cuda
    module.extra_compile_args = {
        "cxx": ["-O3", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", *system],
        "nvcc": ["-O3", *NVCC_STRICT, "-Xcompiler=-fvisibility=hidden"],
    }
    return module


class BuildExt(cpp_extension.BuildExtension):
    """torch's build through ninja, with objects that outlive the command that made them."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # pip's editable build would compile in a new temporary folder each time. Objects of another torch must never be
        # linked, and ninja does not track system headers, so the folder is named after what the objects depend on.
        kind = "cuda" if any(source.endswith(".cu") for source in self.extensions[0].sources) else "cpu"
        objects = ROOT / "build" / f"{sys.implementation.cache_tag}-torch{torch.__version__}-{kind}"
        self.build_temp = str(objects.resolve())
        # A venv's own include folder holds nothing that is included here, and would make every venv compile anew.
        self.include_dirs = [path for path in self.include_dirs if path != os.path.join(sys.exec_prefix, "include")]

    def build_extensions(self) -> None:
        check_compiler(os.environ)
        # Else ccache keeps nothing that is compiled with a precompiled header.
        sloppiness = [os.environ.get("CCACHE_SLOPPINESS", ""), "pch_defines", "time_macros"]
        os.environ["CCACHE_SLOPPINESS"] = ",".join(filter(None, sloppiness))
        super().build_extensions()

    def build_extension(self, module: Extension) -> None:
        """Parses torch's headers, most of what there is to compile, once for all files."""
        self.compiler.src_extensions.append(".h")
        folder = Path(self.build_temp, "headers")
        [compiled] = self.compiler.compile(
            [str(HEADERS)],
            output_dir=str(folder),
            macros=module.define_macros,
            include_dirs=module.include_dirs,
            extra_preargs=["-fpch-preprocess"],
            extra_postargs=module.extra_compile_args,
        )
        # Where it is told to include X, a compiler looks for X.gch first.
        header = folder / HEADERS.name
        for link, target in ((header, HEADERS), (Path(f"{header}.gch"), Path(compiled))):
            link.unlink(missing_ok=True)
            link.symlink_to(target.resolve())
        module.extra_compile_args["cxx"] += ["-fpch-preprocess", "-include", str(header)]
        super().build_extension(module)


class Develop(Command):
    """`setup.py develop` as an editable install that sees this environment's torch: setuptools' own runs isolated."""

    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None: ...

    def finalize_options(self) -> None: ...

    def run(self) -> None:
        install = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", str(ROOT)]
        raise SystemExit(subprocess.call(install))


def main() -> None:
    if torch.__version__ < OLDEST_TORCH:
        fail(f"torch {OLDEST_TORCH} or newer is needed, this is {torch.__version__}.")
    toolkit = find_toolkit(os.environ)
    cuda = use_cuda(os.environ, torch.version.cuda, nvcc_version(toolkit) if toolkit else None)
    if cuda and toolkit:
        cpp_extension.CUDA_HOME = str(toolkit)  # torch would take a wrapper's folder for the toolkit
        if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            os.environ["TORCH_CUDA_ARCH_LIST"] = arch_list(ask_nvcc(toolkit, "--list-gpu-arch"))
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count()))
    # Where pip put ninja, for a venv that is not activated.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    setup(ext_modules=[extension(cuda)], cmdclass={"build_ext": BuildExt, "develop": Develop})


if __name__ == "__main__":
    main()
