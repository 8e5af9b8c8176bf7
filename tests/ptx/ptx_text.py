"""PTX text into kernels: parameters, shared variables, labels and instructions. Knows no instruction's meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8}


class PtxError(Exception):
    """Text that is not understood. Nothing is skipped silently."""


@dataclass(frozen=True)
class Instruction:
    """``@!%p1 add.s32 %r1, %r2, 3;`` has predicate ``%p1``, negated, opcode ``add.s32`` and three operands."""

    predicate: str | None
    negated: bool
    opcode: str
    operands: tuple[str, ...]

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.predicate} " if self.predicate else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)};"


@dataclass(frozen=True)
class Place:
    """Where a variable lies in its space, and its size in bytes."""

    offset: int
    size: int


@dataclass
class Kernel:
    name: str
    params: dict[str, Place] = field(default_factory=dict)
    shared: dict[str, Place] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)  # "%r" -> "b32": the prefix before the number
    labels: dict[str, int] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)

    def size_of(self, space: dict[str, Place]) -> int:
        return max((place.offset + place.size for place in space.values()), default=0)

    def register_type(self, name: str) -> str:
        """The declared type of a register, such as ``b32``."""
        declared = self.registers.get(name) or self.registers.get(name.rstrip("0123456789"))
        if declared is None:
            raise PtxError(f"{name} is not declared in {self.name}")
        return declared


def _place(space: dict[str, Place], end: int, align: int, size: int, name: str) -> None:
    space[name] = Place(-(-end // align) * align, size)


VARIABLE = re.compile(r"(?:\.align\s+(\d+)\s+)?\.[busf](8|16|32|64)\s+([\w$]+)(?:\[(\d*)\])?$")


def _declare(kernel: Kernel, space: dict[str, Place], text: str) -> None:
    """``.align 8 .b8 name[16]`` gets the next aligned place in `space`."""
    match = VARIABLE.match(" ".join(text.split()))
    if match is None:
        raise PtxError(f"a variable that is not understood: {text}")
    align, width, name, count = match.groups()
    size = WIDTHS[width]
    _place(space, kernel.size_of(space), int(align or size), size * int(count or 1), name)


def _statements(body: str) -> Iterator[str]:
    """Statements without their semicolon; labels end in a colon. A brace where one starts only opens a scope."""
    rest = body
    while rest := rest.lstrip(" \t\n{}"):
        if label := re.match(r"([\w$]+):", rest):
            yield label[0]
            rest = rest[label.end() :]
            continue
        statement, semicolon, rest = rest.partition(";")
        if not semicolon:
            raise PtxError(f"no semicolon after: {statement[:80]}")
        yield " ".join(statement.split())


OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.]*)\s*(.*)$")


def _parse_statement(kernel: Kernel, statement: str) -> None:
    if statement.endswith(":"):
        kernel.labels[statement[:-1]] = len(kernel.code)
    elif statement.startswith(".reg"):
        _, declared, names = statement.split(None, 2)
        for name in names.split(","):
            kernel.registers[re.sub(r"<\d+>", "", name.strip())] = declared[1:]
    elif statement.startswith(".shared"):
        _declare(kernel, kernel.shared, statement.removeprefix(".shared"))
    elif statement.startswith(".pragma"):
        pass
    elif match := INSTRUCTION.match(statement):
        negated, predicate, opcode, operands = match.groups()
        split = tuple(operand.strip() for operand in OPERAND.findall(operands))
        kernel.code.append(Instruction(predicate, bool(negated), opcode, split))
    else:
        raise PtxError(f"a statement that is not understood: {statement}")


ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)[^{;]*\{")


def _end_of_body(text: str, start: int) -> int:
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.start()
    raise PtxError("a body that does not end")


def parse(text: str) -> dict[str, Kernel]:
    """All kernels of a PTX module, by their mangled names."""
    text = re.sub(r"//[^\n]*", "", text)
    kernels = {}
    for entry in ENTRY.finditer(text):
        kernel = Kernel(entry[1])
        for param in filter(None, (part.strip() for part in entry[2].split(","))):
            declaration = re.sub(r"^\.param\s+|\.ptr(\s+\.(global|shared))?(\s+\.align\s+\d+)?\s+", "", param)
            # `.u64 .ptr .align 16 name`: the alignment is that of what is pointed to.
            _declare(kernel, kernel.params, declaration)
        for statement in _statements(text[entry.end() : _end_of_body(text, entry.end())]):
            _parse_statement(kernel, statement)
        kernels[kernel.name] = kernel
    return kernels
