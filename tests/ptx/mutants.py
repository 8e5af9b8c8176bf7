"""Small changes to a kernel's instructions, each of which a good set of calls should notice."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from launching import Program
from ptx_machine import decode
from ptx_memory import Fault
from ptx_text import Instruction, Kernel, PtxError


@dataclass(frozen=True)
class Mutant:
    """`instruction` instead of the one at `index`, or none at all."""

    kernel: str
    index: int
    before: Instruction
    instruction: Instruction | None

    def __str__(self) -> str:
        return f"{self.index}: {self.before}  ->  {self.instruction or 'nothing'}"

    def program(self, original: Program) -> Program | None:
        """None where the change is not valid PTX."""
        kernel = copy.copy(original.kernel)
        kernel.code = [*kernel.code]
        kernel.code[self.index] = self.instruction or NOTHING
        try:
            return Program(kernel, decode(kernel))
        except (Fault, PtxError):
            return None


# Stands in for what is deleted, so that labels stay in place.
NOTHING = Instruction(None, False, "mov.u32", ("_", "0"))

# Each pair is tried both ways.
OPCODES = [
    ("add", "sub"),
    ("and", "or"),
    ("shl", "shr"),
    ("min", "max"),
    ("div", "rem"),
    ("mul.lo", "add"),
    ("mad.lo", "mad.hi"),
    ("setp.eq", "setp.ne"),
    ("setp.lt", "setp.le"),
    ("setp.gt", "setp.ge"),
    ("setp.lt", "setp.ge"),
    ("setp.gt", "setp.le"),
]
SPECIAL = [("%tid.x", "%ctaid.x"), ("%ntid.x", "%nctaid.x")]


def _other_opcodes(instruction: Instruction) -> Iterator[Instruction]:
    for pair in OPCODES:
        for old, new in (pair, pair[::-1]):
            if instruction.opcode == old or instruction.opcode.startswith(f"{old}."):
                opcode = new + instruction.opcode[len(old) :]
                yield replace(instruction, opcode=re.sub(r"^shl\.[us]", "shl.b", opcode))


def _other_operands(instruction: Instruction) -> Iterator[Instruction]:
    for k, operand in enumerate(instruction.operands):
        changed = None
        if re.fullmatch(r"-?\d+", operand):
            changed = str(int(operand) + 1)
        elif operand.startswith("[%"):
            match = re.fullmatch(r"\[(%\w+)(?:\+(-?\d+))?\]", operand)
            size = int(instruction.opcode.rstrip(".")[-2:].lstrip("usbf") or 8) // 8
            changed = f"[{match[1]}+{int(match[2] or 0) + size}]" if match else None
        for a, b in SPECIAL:
            changed = {a: b, b: a}.get(operand, changed)
        if changed:
            yield replace(instruction, operands=(*instruction.operands[:k], changed, *instruction.operands[k + 1 :]))
    if re.match(r"(sub|div|rem|setp\.[lg]|selp|shl|shr)\b", instruction.opcode):
        destination, a, b, *rest = instruction.operands
        yield replace(instruction, operands=(destination, b, a, *rest))


# nvcc divides 64-bit numbers by 32-bit division where neither has one of these bits.
HIGH_BITS = "-4294967296"


def _only_divides_slowly(code: list[Instruction], index: int, changed: Instruction | None) -> bool:
    """Whether a mutant finds high bits in more numbers than have them: all that changes is that 64-bit division,
    which is always right, is used more often."""
    before = code[index]
    if changed is None:
        return False
    if before.opcode == "and.b64" and before.operands[-1] == HIGH_BITS:
        return changed.opcode == "or.b64" or changed.operands[-1] == str(int(HIGH_BITS) + 1)
    test = code[index - 1]
    if test.opcode != "and.b64" or test.operands[-1] != HIGH_BITS or before.opcode != "setp.eq.s64":
        return False
    return before.operands[1:] == (test.operands[0], "0") and changed.operands[1:] == (test.operands[0], "1")


def mutants(kernel: Kernel) -> list[Mutant]:
    """All mutants of one change, but those that are known to be equivalent."""
    found = []
    for index, instruction in enumerate(kernel.code):
        changed: list[Instruction | None] = [*_other_opcodes(instruction), *_other_operands(instruction)]
        if instruction.predicate:
            changed.append(replace(instruction, negated=not instruction.negated))
        if instruction.opcode != "ret":
            changed.append(None)
        changed = [change for change in changed if not _only_divides_slowly(kernel.code, index, change)]
        found += [Mutant(kernel.name, index, instruction, change) for change in changed]
    return found
