"""Would the tests notice? One small fault at a time in the code of structure, in a copy; the tests have to fail.

``python tools/mutate_structure.py [words]`` after ``make build``; with words, only the faults whose name has one of
them. Each fault is compiled by the command that built the file, linked with the other objects, and the tests of
structure run against it until the first failure. The tree itself is left as it is. Takes about a minute a fault, and
exits with 1 if one was missed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from torch.utils.cpp_extension import library_paths

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# Those that most faults break come first.
TESTS = ["windows", "dependencies", "structure", "columns", "pde_codes", "coloring", "sparse_results", "node_table"]
SECONDS = 300


@dataclass(frozen=True)
class Mutant:
    """In `file` of csrc/, `old`, which is there once, becomes `new`. A header is part of the one file in PARTS."""

    name: str
    file: str
    old: str
    new: str


AXES, DIGITS, COMPRESSION = "structure/axes.cpp", "structure/digits.cpp", "structure/compression.cpp"
TABLE, ROWS, READERS = "structure/node_table.cpp", "structure/node_rows.cpp", "structure/node_readers.h"
WINDOWS = "structure/windows.cpp"
PROBES, PROBE, FIND = "structure/nan_probes.cpp", "engine/probe.cpp", "engine/find_structure.cpp"
COLORING, COMPRESSED = "structure/coloring.cpp", "engine/compressed.cpp"
SETS, FLOWS, PICKS = "structure/column_sets.cpp", "structure/dependencies.cpp", "structure/picks.cpp"
STAR, FULL = "structure/star_coloring.cpp", "structure/bicoloring.cpp"

PARTS = {READERS: ROWS}

MUTANTS = [
    Mutant("axes: broadcast from the first axis", AXES, "out.size() - in.size() + axis; // wraps", "axis; // wraps"),
    Mutant("axes: permuted backwards", AXES, "result[dims[axis]] = ", "result[axis] = "),
    Mutant("axes: reduced axes are kept", AXES, "is_reduced = contains(dims, axis)", "is_reduced = false"),
    Mutant("axes: inner axis of the left factor", AXES, "is_left ? is_last :", "is_left ? !is_last :"),
    Mutant(
        "axes: sizes are not compared", AXES, "from < shape.size() && shape[from] == size ?", "from < shape.size() ?"
    ),
    Mutant(
        "axes: mixing does not mix",
        AXES,
        "along == nullptr ? all_free(in[axis])",
        "along == nullptr ? axis_of_size(axes, out, axis, in[axis])",
    ),
    Mutant("axes: select counts from the wrong axis", AXES, "(d > dim ? 1 : 0)", "0"),
    Mutant("axes: stack counts from the wrong axis", AXES, "(axis >= dim ? 1 : 0)", "(axis > dim ? 1 : 0)"),
    Mutant("axes: convolution keeps channels", AXES, "return axis == 0 ? 0 : -1;", "return axis <= 1 ? axis : -1;"),
    Mutant(
        "axes: of two paths the last one counts",
        AXES,
        "common_ties(state.ties.upper, ties.upper)",
        "std::move(ties.upper)",
    ),
    Mutant("digits: any two are neighbours", DIGITS, "&& digit.stride == low.stride * low.size", ""),
    Mutant("digits: the high part keeps its stride", DIGITS, "    digit.stride *= size;\n", ""),
    Mutant("digits: of two ties the first counts", DIGITS, "|| a.stride != b.stride ", ""),
    Mutant("digits: windows of other sizes", DIGITS, " || a.out_size() != b.out_size()", ""),
    Mutant(
        "digits: a window has parts", DIGITS, "  if (digit.window != nullptr) {\n    digit = {digit.size};\n  }\n", ""
    ),
    Mutant("ties: rows of one colour share a digit", COMPRESSION, "all.num_colors *= digit.coloring.num_colors;", ""),
    Mutant("ties: columns are not shifted", COMPRESSION, "% digit_.size * place_;", "% digit_.size;"),
    Mutant(
        "ties: inputs share their columns' colours",
        COMPRESSION,
        "push_back(all.num_colors + color)",
        "push_back(color)",
    ),
    Mutant("ties: windows of one input count for all", COMPRESSION, "is_free |= !tie.has_value();", ""),
    Mutant("windows: ends of an arc are not turned", WINDOWS, "(ahead < 0 ? ahead + size : ahead)", "ahead"),
    Mutant("windows: kernels are shorter", WINDOWS, "(slide.kernel - 1) * slide.dilation", "(slide.kernel - 1)"),
    Mutant("windows: padded on the other side", WINDOWS, "position + slide.padding;", "position - slide.padding;"),
    Mutant(
        "windows: of two paths the first one counts", WINDOWS, "hull(joint.arcs[k], b.arcs[k], a.size)", "joint.arcs[k]"
    ),
    Mutant(
        "windows: the first of several windows counts",
        WINDOWS,
        "k < reached.count; ++k",
        "k < std::min<int64_t>(reached.count, 1); ++k",
    ),
    Mutant("windows: what is rolled twice is rolled once", AXES, "is_once ? slide(", "is_once || true ? slide("),
    Mutant(
        "windows: parts begin at the first",
        AXES,
        "const size_t part = std::max<size_t>(k, nr);",
        "const size_t part = 0;",
    ),
    Mutant("windows: written at the beginning", TABLE, "1, step, -starts[d]}", "1, step, 0}"),
    Mutant("windows: a written axis has no step", TABLE, "1, step, -starts[d]}", "1, 1, -starts[d]}"),
    Mutant(
        "windows: groups of channels mix",
        AXES,
        "split_by_axis(axes[1], {attributes.groups, out[1] / attributes.groups})[0]",
        "split_by_axis(axes[1], {out[1] / attributes.groups, attributes.groups})[1]",
    ),
    Mutant("windows: slices start at the first", READERS, "{shifted_by(-start)}", "{shifted_by(0)}"),
    Mutant("windows: transposed convolutions are not", READERS, "convolution.transposed ? Slide::Kind::kUnder :", ""),
    Mutant("windows: pools have no padding", READERS, "stride[axis], padding[axis],", "stride[axis], 0,"),
    Mutant(
        "windows: joined tensors start together",
        READERS,
        "start += sizes.size() == 1",
        "start += true ? 0 : sizes.size() == 1",
    ),
    Mutant("table: softmax is elementwise", ROWS, '{"SoftmaxBackward0", kMixing', '{"SoftmaxBackward0", kSmooth'),
    Mutant("table: cumsum is elementwise", ROWS, '{"CumsumBackward0", kMoving', '{"CumsumBackward0", kSmooth'),
    Mutant(
        "table: where is the same for all values", ROWS, '{"WhereBackward0", kChosen}', '{"WhereBackward0", kSmooth}'
    ),
    Mutant("table: relu is the same for all values", ROWS, '{"ReluBackward0", kMasked}', '{"ReluBackward0", kSmooth}'),
    Mutant(
        "table: roll's shifts are not read",
        READERS,
        "{Slide::Kind::kTurn, 1, 1, shift}",
        "{Slide::Kind::kTurn, 1, 1, 0}",
    ),
    Mutant(
        "table: logcumsumexp lets NaN through",
        ROWS,
        '{"CumsumBackward0"',
        '{"LogcumsumexpBackward0", kAnyLocal},\n    {"CumsumBackward0"',
    ),
    Mutant(
        "table: sparse factors are dense", READERS, "!factor->defined() || factor->layout() == at::kStrided", "true"
    ),
    Mutant("table: hooks are ignored", TABLE, "!node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() ||", ""),
    Mutant(
        "table: a view may be changed by anything",
        TABLE,
        "if (facts == nullptr) {\n      return nullptr;",
        "if (facts == nullptr) {\n      return &kAnyGlobal;",
    ),
    Mutant("table: where a view lies is not read", TABLE, "  reader.append(others, slices.view);\n", ""),
    Mutant(
        "probes: unexplained hits are accepted",
        PROBES,
        "if (finer.nnz() != hits->count(probes)",
        "if (finer.nnz() > hits->count(probes)",
    ),
    Mutant("probes: all blocks are probed together", PROBES, "coloring.colors[b] * budget_.split + q);", "q);"),
    Mutant(
        "probes: hits of the colour before",
        PROBES,
        "probe = coloring.colors[b] * budget_.split",
        "probe = coloring.colors[std::max<int64_t>(b - 1, 0)] * budget_.split",
    ),
    Mutant(
        "probes: a block's last row is in no part",
        PROBES,
        "length * (q + 1) / parts;",
        "length * (q + 1) / parts - (length > parts && q + 1 == parts ? 1 : 0);",
    ),
    Mutant(
        "probes: samples do not count for their block",
        PROBES,
        "        hits->merge(b, sample_of[b]);\n",
        "",
    ),
    Mutant(
        "probes: full columns are left out",
        PROBES,
        "          full.begin(),\n          full.end(),",
        "          full.end(),\n          full.end(),",
    ),
    Mutant(
        "probes: blocks are in the order of rows",
        PROBES,
        "block_of[row_at_.empty() ? position : row_at_[position]] = b",
        "block_of[position] = b",
    ),
    Mutant("probes: the first input takes all hits", PROBE, "      first_column += columns;", ""),
    Mutant(
        "probes: infinities instead of NaN",
        PROBE,
        "numeric_limits<double>::quiet_NaN()",
        "numeric_limits<double>::infinity()",
    ),
    Mutant(
        "colouring: a column's last row is overlooked",
        COLORING,
        "; ++l) {\n        const int64_t color",
        " - 1; ++l) {\n        const int64_t color",
    ),
    Mutant("colouring: bands may touch", COLORING, "first(apart) <= last(row)", "first(apart) < last(row)"),
    Mutant("colouring: rows descend", COLORING, " || last(row) < last(row - 1)", ""),
    Mutant("star colouring: ends of a path may agree", STAR, "forbid(colors[far], row);\n          return;", "return;"),
    Mutant(
        "star colouring: entries of the twin",
        STAR,
        "sources[k] = colors[row] * pattern.rows + column;",
        "sources[k] = colors[column] * pattern.rows + row;",
    ),
    Mutant(
        "full columns: taken from rows",
        "structure/passes.cpp",
        "passes.colors[column] = passes.num_colors++;",
        "passes.num_colors++;",
    ),
    Mutant("full columns: not left out", FULL, "if (!is_left_out[pattern.col_ind[k]])", "if (true)"),
    Mutant(
        "decompression: columns of the first input",
        COMPRESSED,
        "* columns + *column - first);",
        "* columns + *column % columns);",
    ),
    Mutant(
        "decompression: passes over columns come first",
        COMPRESSED,
        "row_elements + pass * pattern.rows + row",
        "pass * pattern.rows + row",
    ),
    Mutant(
        "decompression: a pass of columns too early",
        COMPRESSED,
        "pass * pattern.rows + row",
        "pass * pattern.rows + std::max<int64_t>(row - 1, 0)",
    ),
    Mutant("decompression: all colours in every seed", COMPRESSED, "at::eq(colors.narrow", "at::le(colors.narrow"),
    Mutant("decompression: seeds of the first input", COMPRESSED, "    first_row += map.rows[k];\n", ""),
    Mutant(
        "decompression: values that are not finite",
        COMPRESSED,
        "if (!columns.defined() || !is_finite(columns))",
        "if (!columns.defined())",
    ),
    Mutant("sets: a union has the first alone", SETS, "known = {a, b, intern(begin)};", "known = {a, b, a};"),
    Mutant("sets: unions of one hash are one", SETS, "if (known.a == a && known.b == b)", "if (known.a != 0)"),
    Mutant("sets: sets of one size are one", SETS, "if (hashes_[set] == hash)", "if (set > 0)"),
    Mutant(
        "sets: the largest union loses a set",
        SETS,
        "for (const int32_t set : sets) {",
        "sets.pop_back();\n  for (const int32_t set : sets) {",
    ),
    Mutant(
        "sets: of two ins the last counts",
        FLOWS,
        "all = flows_.united(all, flows_.along_ties(",
        "all = (flows_.along_ties(",
    ),
    Mutant(
        "sets: an input's own elements are forgotten", FLOWS, "sets = flows_.united(sets, numbers(", "sets = (numbers("
    ),
    Mutant("sets: free digits are one position", FLOWS, "(k + 1) * each);", "k * each + 1);"),
    Mutant(
        "sets: windows are one position",
        FLOWS,
        "for (int64_t k = 0; k < arc.count; ++k) {",
        "for (int64_t k = 0; k < std::min<int64_t>(arc.count, 1); ++k) {",
    ),
    Mutant("sets: what is added to is lost", FLOWS, "some.push_back(to[target - 1]);", ""),
    Mutant(
        "sets: the last of several written counts",
        FLOWS,
        "some.size() == 1 ? some[0] : sets_.unite(some)",
        "some.back()",
    ),
    Mutant("sets: all writes replace", FLOWS, "facts.placing == Placing::kAdded ||", ""),
    Mutant(
        "sets: writes to views begin at the first",
        PICKS,
        "memory.as_strided(view.sizes, view.strides, view.offset)",
        "memory.as_strided(view.sizes, view.strides, base.offset)",
    ),
    Mutant("sets: elements in one place are apart", PICKS, "return own.equal(labels) ?", "return true ?"),
    Mutant(
        "sets: masks are not cut", FLOWS, "slice(0, 0, picked->numel())", "slice(0, values.numel() - picked->numel())"
    ),
    Mutant(
        "sets: rows of an embedding in order",
        PICKS,
        "at::index_select(labels, 0, index().reshape({-1}))",
        "labels.slice(0, 0, 1).expand({index().numel(), -1})",
    ),
    Mutant(
        "sets: gather along another axis",
        PICKS,
        "at::gather(labels, dim(), index())",
        "at::gather(labels, labels.dim() - 1 - dim(), index())",
    ),
    Mutant("sets: triangles end early", PICKS, "labels.tril(others.at(0))", "labels.tril(others.at(0) - 1)"),
    Mutant(
        "sets: reflects where it replicates", PICKS, "pick == Pick::kReflected, all", "pick != Pick::kReflected, all"
    ),
    Mutant(
        "sets: patches have no padding",
        PICKS,
        "const auto padding = figures.next(2);",
        "const auto padding = std::vector<int64_t>{0, 0};\n  figures.next(2);",
    ),
    Mutant("kept: indices are not compared", PICKS, "!at::equal(kept[k], indices[k])", "false"),
    Mutant("kept: indices are not copied", PICKS, "indices[k].detach().clone()", "indices[k].detach()"),
    Mutant(
        "kept: one memory of the new graph is enough",
        PICKS,
        "!is_new && are_one(kept[entry->second], kept[k]) &&",
        "!is_new &&",
    ),
    Mutant("kept: tensors of other columns", COMPRESSED, "made.first_column == first &&", ""),
    Mutant("kept: any tape will do", FIND, "axes->signature == kept->signature &&", ""),
    Mutant("kept: local patterns are kept", FIND, "return kept->is_global ||", "return kept != nullptr ||"),
    Mutant("doubt: anomaly mode is ignored", FIND, " && !torch::autograd::AnomalyMode::is_enabled()", ""),
    Mutant(
        "doubt: unknown Nodes are trusted",
        FIND,
        "return axes.has_value() && axes->is_known ?",
        "return axes.has_value() ?",
    ),
]


class Tree:
    """A copy of the package and its tests, and the commands that build it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("highgrad_ext", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        builds = sorted((ROOT / "build").glob("*/build.ninja"), key=lambda path: path.stat().st_mtime)
        if not builds:
            raise SystemExit("mutate_structure: expected a tree that is built; make build")
        database = subprocess.check_output(["ninja", "-C", builds[-1].parent, "-t", "compdb", "compile"])
        self.commands = {
            Path(entry["file"]).relative_to(ROOT / "csrc").as_posix(): entry for entry in json.loads(database)
        }

    def build(self, mutant: Mutant) -> None:
        file = PARTS.get(mutant.file, mutant.file)
        source = (ROOT / "csrc" / mutant.file).read_text()
        if source.count(mutant.old) != 1 and mutant.old != mutant.new:
            raise SystemExit(f"mutate_structure: {mutant.name}: expected once in {mutant.file}: {mutant.old}")
        changed, compiled = self.folder / "mutant.cpp", self.folder / "mutant.o"
        changed.write_text((ROOT / "csrc" / file).read_text())
        # A header is found first beside the file that includes it.
        shutil.rmtree(self.folder / "structure", ignore_errors=True)
        place = changed if file == mutant.file else self.folder / mutant.file
        place.parent.mkdir(exist_ok=True)
        place.write_text(source.replace(mutant.old, mutant.new))
        entry = self.commands[file]
        output = entry["output"]
        command = entry["command"].replace(entry["file"], str(changed)).replace(output, str(compiled))
        subprocess.run(shlex.split(command), check=True, capture_output=True, text=True)
        objects = [compiled if e is entry else e["output"] for e in self.commands.values()]
        paths = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
        libraries = ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
        target = self.folder / "highgrad_ext" / f"_C{SUFFIX}"
        linker = shlex.split(os.environ.get("CXX", "c++"))
        subprocess.run([*linker, "-shared", *objects, *paths, *libraries, "-o", target], check=True)

    def failing_test(self) -> str | None:
        """The first test that fails, or what else went wrong."""
        for name in TESTS:
            test = f"tests/test_{name}.py"
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", test]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            try:
                run = subprocess.run(
                    command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=SECONDS
                )
            except subprocess.TimeoutExpired:
                return f"{test} does not end"
            if run.returncode != 0:
                failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0].split(" - ")[0] if failed else f"{test} ends with {run.returncode}"
        return None


def main(words: list[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.build(Mutant("nothing", AXES, "namespace highgrad::structure {", "namespace highgrad::structure {"))
        if failed := tree.failing_test():
            raise SystemExit(f"mutate_structure: expected tests that pass without a fault, got {failed}")
        for mutant in chosen:
            begin = time.perf_counter()
            try:
                tree.build(mutant)
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"mutate_structure: {mutant.name} does not compile:\n{error.stderr}") from error
            caught = tree.failing_test()
            missed += [mutant.name] if caught is None else []
            seconds = time.perf_counter() - begin
            print(
                f"{mutant.name}: {'MISSED' if caught is None else f'caught by {caught}'} ({seconds:.0f} s)", flush=True
            )
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
