"""What the compiled kernels take. ``python tests/cuda_resources.py`` writes docs/cuda_kernels.md of the built one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import highgrad_ext

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cuda_kernels.md"
BLOCK = 256  # csrc/ops/launch_plan.h


@dataclass(frozen=True)
class Multiprocessor:
    """The limits of one multiprocessor (CUDA Programming Guide, "Technical Specifications per Compute Capability")."""

    threads: int
    blocks: int
    shared: int  # bytes
    reserved: int  # bytes of shared memory that the system takes a block, where a kernel's figure is without them
    registers: int = 65536

    def occupancy(self, registers: int, shared: int) -> float:
        """The share of its threads that can run at once, in blocks of BLOCK threads."""
        warps = BLOCK // 32
        per_warp = -(-registers * 32 // 256) * 256
        by_registers = self.registers // per_warp // warps
        by_shared = self.shared // (shared + self.reserved) if shared else self.blocks
        return min(self.threads // BLOCK, self.blocks, by_registers, by_shared) * BLOCK / self.threads


MULTIPROCESSORS = {
    "75": Multiprocessor(1024, 16, 64 << 10, 0),
    "80": Multiprocessor(2048, 32, 164 << 10, 1 << 10),
    "86": Multiprocessor(1536, 16, 100 << 10, 1 << 10),
    "89": Multiprocessor(1536, 24, 100 << 10, 1 << 10),
    "90": Multiprocessor(2048, 32, 228 << 10, 0),
    "100": Multiprocessor(2048, 32, 228 << 10, 0),
    "120": Multiprocessor(1536, 24, 100 << 10, 0),
}


@dataclass(frozen=True)
class Resources:
    registers: int
    shared: int
    local: int


def cuobjdump() -> str | None:
    """On PATH, or where its PyPI package (nvidia-cuda-cuobjdump) puts it."""
    installed = [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/cu*/bin")]
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=":".join(installed))


def ask(*question: str) -> str:
    tool = cuobjdump()
    assert tool is not None
    # It finds its disassembler beside itself.
    answer = subprocess.run(
        [tool, *question, highgrad_ext._C.__file__], capture_output=True, text=True, check=True, cwd=Path(tool).parent
    )
    return answer.stdout


def architectures() -> tuple[set[str], set[str]]:
    """Of the machine code, and of the PTX, in the built module."""
    return set(re.findall(r"\.sm_(\d+)\.cubin", ask("--list-elf"))), set(
        re.findall(r"\.sm_(\d+)\.ptx", ask("--list-ptx"))
    )


def compiler() -> str:
    """The PTX version of the nvcc that built the module, which differs from release to release."""
    (version,) = set(re.findall(r"^\.version (\d+\.\d+)", ask("--dump-ptx"), re.MULTILINE))
    return f"PTX {version}"


def resources() -> dict[str, dict[str, list[Resources]]]:
    """By kernel and architecture: one entry an instantiation."""
    found: dict[str, dict[str, list[Resources]]] = defaultdict(lambda: defaultdict(list))
    architecture = ""
    name = ""
    for line in ask("--dump-resource-usage").splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            architecture = match[1]
        elif match := re.search(r"Function \S*?\d+([a-z_]+_kernel)", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found[name][architecture].append(Resources(registers, shared, stack + local))
    return found


def table() -> str:
    """Markdown. Each figure is the worst of a kernel's instantiations."""
    lines = [
        "# Resources of the CUDA kernels",
        "",
        f"Written by `python tests/cuda_resources.py` from a module built by the nvcc of {compiler()}; a test",
        "compares. Most registers a thread, most bytes of shared memory a block, and least occupancy (the share of a",
        f"multiprocessor's threads that can run at once, in blocks of {BLOCK}) of all instantiations of a kernel. None",
        "uses local memory.",
        "",
        "| kernel | " + " | ".join(f"sm_{a}" for a in MULTIPROCESSORS) + " |",
        "|---" * (len(MULTIPROCESSORS) + 1) + "|",
    ]
    for name, by_architecture in sorted(resources().items()):
        cells = []
        for architecture, limits in MULTIPROCESSORS.items():
            every = by_architecture[architecture]
            least = min(limits.occupancy(r.registers, r.shared) for r in every)
            registers, shared = max(r.registers for r in every), max(r.shared for r in every)
            cells.append(f"{registers}, {shared} B, {least:.0%}")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCS.write_text(table())
    print(table(), end="")
