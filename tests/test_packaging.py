"""Every documented way to build and install gives a working package, and what cannot work is refused in one line."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from torch.torch_version import TorchVersion

import highgrad_ext

ROOT = Path(__file__).resolve().parents[1]

OUTER_PRODUCT = """
import highgrad_ext, torch
s = torch.arange(3.0, requires_grad=True)
assert highgrad_ext.full_jacobian(torch.outer(s, s), s).sum().item() == 18
print(highgrad_ext.__version__, highgrad_ext.__file__, highgrad_ext._C.__file__, sep="\\n")
"""

# A torch that only setup.py can tell from a real one.
FAKE_TORCH = {
    "__init__.py": "__version__ = '2.13.0'\nclass version:\n    cuda = {cuda!r}\n",
    "utils/__init__.py": "",
    "utils/cpp_extension.py": "from setuptools import Extension as CppExtension\n"
    "from setuptools.command.build_ext import build_ext as BuildExtension\n",
}


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs without what this process was told about CUDA, Python's path or the index; `environ` is added."""
    told = ("FORCE_CUDA", "HIGHGRAD_CUDA", "CUDA_HOME", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in told}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def write_script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def write_toolkit(root: Path, release: str) -> Path:
    """A CUDA toolkit of nothing but an nvcc that answers questions about itself."""
    answers = [
        f'--version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;',
        f'--dryrun) echo "#$ TOP={root}/bin/.." >&2 ;;',
        '--list-gpu-arch) echo "compute_75 compute_90" ;;',
    ]
    write_script(root / "bin" / "nvcc", "\n".join(['case "$1" in', *answers, "esac"]))
    return root


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("highgrad_ext_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Installing


@pytest.fixture
def tree(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what is built from, one at a time. The sources and objects are links, so that nothing compiles anew."""
    copy = tmp_path / "tree"
    shutil.copytree(ROOT / "highgrad_ext", copy / "highgrad_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "csrc").symlink_to(ROOT / "csrc")
    (copy / "build").mkdir()
    for objects in (ROOT / "build").glob(f"{sys.implementation.cache_tag}-torch*"):
        (copy / "build" / objects.name).symlink_to(objects)
    with (tmp_path_factory.getbasetemp().parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield copy


@pytest.fixture
def fresh_python(tmp_path: Path) -> Path:
    """The Python of an empty venv that sees this one's packages, but not its editable installs."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "shared.pth").write_text("\n".join(shared))
    return home / "bin" / "python"


def build(*command: str | Path, tree: Path) -> None:
    """Runs with the ninja, and for the kind of build, that the objects were made with."""
    kind = {} if highgrad_ext.cuda_built else {"HIGHGRAD_CUDA": "0"}
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = run(*command, cwd=tree, PATH=path, **kind)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_works(python: Path, folder: Path) -> None:
    """highgrad_ext works in a new process, and both its halves come from `folder`."""
    done = run(python, "-I", "-c", OUTER_PRODUCT, cwd=folder)
    assert done.returncode == 0, done.stderr
    version, package, extension = done.stdout.splitlines()
    assert version == highgrad_ext.__version__
    assert Path(package).is_relative_to(folder)
    assert Path(extension).parent == Path(package).parent


def test_a_fresh_python_has_no_highgrad_ext(fresh_python: Path, tmp_path: Path) -> None:
    done = run(fresh_python, "-I", "-c", "import torch, highgrad_ext", cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'highgrad_ext'"


@pytest.mark.build
@pytest.mark.parametrize(
    "command", [("setup.py", "develop"), ("-m", "pip", "install", "-e", ".", "--no-build-isolation")], ids=" ".join
)
def test_install_in_place(command: tuple[str, ...], tree: Path, fresh_python: Path) -> None:
    build(fresh_python, *command, tree=tree)
    assert_works(fresh_python, tree)


@pytest.mark.build
def test_install(tree: Path, fresh_python: Path) -> None:
    build(fresh_python, "-m", "pip", "install", ".", "--no-build-isolation", tree=tree)
    assert_works(fresh_python, fresh_python.parents[1])


@pytest.mark.build
def test_wheel(tree: Path, fresh_python: Path) -> None:
    build(fresh_python, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps", "-w", "dist", tree=tree)
    (wheel,) = (tree / "dist").iterdir()
    contents = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in contents} == {
        "highgrad_ext",
        f"highgrad_ext-{highgrad_ext.__version__}.dist-info",
    }
    in_tree = {path.relative_to(tree).as_posix() for path in (tree / "highgrad_ext").iterdir()}
    assert {"highgrad_ext/py.typed", "highgrad_ext/_C.pyi"} < in_tree
    packed = {name for name in contents if name.startswith("highgrad_ext/")}
    (extension,) = packed - in_tree
    assert extension.startswith("highgrad_ext/_C.")
    assert in_tree < packed
    build(fresh_python, "-m", "pip", "install", "--no-deps", wheel, tree=tree)
    assert_works(fresh_python, fresh_python.parents[1])


# ---- Refusals


@pytest.mark.parametrize("command", ["develop", "build", "bdist_wheel"])
def test_missing_torch(command: str) -> None:
    done = run(sys.executable, "-S", "setup.py", command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("highgrad_ext: No module named 'torch'. The build needs setuptools and torch")


def test_old_torch(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_py.torch, "__version__", TorchVersion("2.9.1"))
    with pytest.raises(SystemExit, match=r"^highgrad_ext: torch 2\.11 or newer is needed, this is 2\.9\.1\.$"):
        setup_py.main()


def test_missing_compiler(tmp_path: Path) -> None:
    build_lib = f"--build-lib={tmp_path}"
    done = run(sys.executable, "setup.py", "build_ext", build_lib, CXX="no-such-compiler -pipe", HIGHGRAD_CUDA="0")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("highgrad_ext: no C++ compiler: 'no-such-compiler -pipe' is not")


def test_missing_python_headers(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup_py.sysconfig, "get_path", lambda name: str(tmp_path / name))
    compiler = write_script(tmp_path / "compiler", "")
    with pytest.raises(SystemExit, match=r"^highgrad_ext: .*/include/Python\.h is missing\."):
        setup_py.check_compiler({"CXX": str(compiler)})


@pytest.mark.parametrize(
    ("torch_cuda", "nvcc", "environ", "message"),
    [
        (
            "13.0",
            "12.8",
            {},
            "highgrad_ext: nvcc is CUDA 12.8, but torch was built with CUDA 13.0: the major versions must agree. "
            "Point CUDA_HOME at a CUDA 13.0 toolkit, or build without CUDA: HIGHGRAD_CUDA=0.",
        ),
        ("13.0", None, {"FORCE_CUDA": "1"}, "highgrad_ext: FORCE_CUDA=1, but nvcc is not found (CUDA_HOME, PATH)."),
        (None, "13.0", {"FORCE_CUDA": "1"}, "highgrad_ext: FORCE_CUDA=1, but the installed torch has no CUDA."),
        (
            "13.0",
            "13.0",
            {"FORCE_CUDA": "1", "HIGHGRAD_CUDA": "0"},
            "highgrad_ext: FORCE_CUDA=1 and HIGHGRAD_CUDA=0 contradict each other.",
        ),
    ],
)
def test_refused_cuda_is_one_line(
    torch_cuda: str | None, nvcc: str | None, environ: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, text in FAKE_TORCH.items():
        path = tmp_path / "torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(cuda=torch_cuda))
    toolkit = write_toolkit(tmp_path / "toolkit", nvcc) if nvcc else tmp_path / "no-toolkit"
    environ = environ | {"CUDA_HOME": str(toolkit), "PYTHONPATH": str(tmp_path)}
    done = run(sys.executable, "setup.py", "--version", **environ)
    assert (done.returncode, done.stderr) == (1, message + "\n")


# ---- Choosing CUDA


@pytest.mark.parametrize(
    ("environ", "torch_cuda", "nvcc", "expected"),
    [
        ({}, "13.0", "13.0", True),
        ({}, "13.0", "13.2", True),
        ({"FORCE_CUDA": "1"}, "12.6", "12.8", True),
        ({}, None, "13.0", False),
        ({}, "13.0", None, False),
        ({"HIGHGRAD_CUDA": "0"}, "13.0", "13.0", False),
        ({"HIGHGRAD_CUDA": "0"}, "13.0", "12.8", False),
    ],
)
def test_use_cuda(
    setup_py: ModuleType, environ: dict[str, str], torch_cuda: str | None, nvcc: str | None, expected: bool
) -> None:
    assert setup_py.use_cuda(environ, torch_cuda, nvcc) is expected


@pytest.mark.parametrize("nvcc_is", ["in CUDA_HOME", "on PATH", "a link", "a wrapper"])
def test_find_toolkit(setup_py: ModuleType, nvcc_is: str, tmp_path: Path) -> None:
    toolkit = write_toolkit(tmp_path / "cuda-12.8", "12.8")
    other_folder = tmp_path / "bin"
    if nvcc_is == "in CUDA_HOME":
        environ = {"CUDA_HOME": str(toolkit), "PATH": str(write_toolkit(tmp_path / "cuda-11.8", "11.8") / "bin")}
    elif nvcc_is == "on PATH":
        environ = {"PATH": str(toolkit / "bin")}
    else:
        environ = {"PATH": str(other_folder)}
        if nvcc_is == "a link":
            other_folder.mkdir()
            (other_folder / "nvcc").symlink_to(toolkit / "bin" / "nvcc")
        else:
            write_script(other_folder / "nvcc", f'exec {toolkit}/bin/nvcc "$@"')
    found = setup_py.find_toolkit(environ)
    assert found == toolkit
    assert setup_py.nvcc_version(found) == "12.8"


def test_no_toolkit_is_found(setup_py: ModuleType, tmp_path: Path) -> None:
    assert setup_py.find_toolkit({"PATH": str(tmp_path)}) is None
    on_path = write_toolkit(tmp_path / "toolkit", "13.0") / "bin"
    assert setup_py.find_toolkit({"CUDA_HOME": str(tmp_path), "PATH": str(on_path)}) is None


def test_arch_list_is_what_nvcc_knows(setup_py: ModuleType) -> None:
    every = "compute_75 compute_80 compute_86 compute_87 compute_89 compute_90 compute_100 compute_120 compute_121"
    assert setup_py.arch_list(every.replace(" ", "\n")) == "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
    assert setup_py.arch_list("compute_50\ncompute_75\ncompute_80\ncompute_90\n") == "7.5;8.0;9.0+PTX"


@pytest.mark.parametrize("cuda", [False, True])
def test_sources(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: bool) -> None:
    monkeypatch.setattr(setup_py.cpp_extension, "CUDA_HOME", str(tmp_path))
    module = setup_py.extension(cuda)
    sources = {Path(source) for source in module.sources}
    cuda_only = set((ROOT / "csrc" / "ops" / "cuda").iterdir())
    every = {path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".cu")}
    assert len(sources) == len(module.sources)
    assert sources == (every if cuda else every - cuda_only)
    assert (("HIGHGRAD_CUDA", None) in module.define_macros) is cuda
    assert ("cudart" in module.libraries) is cuda


# ---- Metadata


def test_one_version(setup_py: ModuleType) -> None:
    said_by_setup = run(sys.executable, "setup.py", "--version", HIGHGRAD_CUDA="0").stdout.splitlines()[-1]
    installed = importlib.metadata.version("highgrad_ext")
    assert highgrad_ext.__version__ == installed == said_by_setup
    assert f"torch>={setup_py.OLDEST_TORCH}" in (importlib.metadata.requires("highgrad_ext") or [])


def test_import_brings_in_torch_alone() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import highgrad_ext; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; print(*new - sys.stdlib_module_names)"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["highgrad_ext"]


def test_import_needs_no_torch_imported_first() -> None:
    done = run(sys.executable, "-c", "import highgrad_ext; print(highgrad_ext.cuda_built)")
    assert done.stdout == f"{highgrad_ext.cuda_built}\n", done.stderr
