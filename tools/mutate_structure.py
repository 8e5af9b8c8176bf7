"""Would the tests notice? One small fault at a time in the code of structure, in a copy; the tests have to fail.

``python tools/mutate_structure.py [words]`` after ``make build``; with words, only the faults whose name has one of
them. Each fault is compiled by the command that built the file, linked with the other objects, and the tests of
structure run against it until the first failure. The tree itself is left as it is. Takes half a minute
a fault, two where the last test notices or none, and exits with 1 if one was missed.
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
from pathlib import Path

from torch.utils.cpp_extension import library_paths

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# The quickest first, but for faults whose name begins with a key of FIRST, the longest that fits. The second group
# takes long to collect.
TESTS = [
    [
        "windows",
        "columns",
        "pde_codes",
        "batched_nodes",
        "looped_nodes",
        "samples",
        "sparse_results",
        "structure",
        "coloring",
        "nan_probes",
    ],
    ["dependencies", "kept_indices", "node_table", "forecast"],
]
FIRST = {
    "sets": "dependencies",
    "sets: kept": "kept_indices",
    "sets: one memory": "kept_indices",
    "forecast": "forecast",
    "forecast: does not count": "nan_probes",
    "sweeps": "nan_probes",
    "sweeps: all rows": "looped_nodes",
    "matrices": "batched_nodes",
    "solvers": "batched_nodes",
    "first axis": "batched_nodes",
    "samples": "samples",
    "full columns": "columns",
    "colouring": "coloring",
    "probes": "nan_probes",
    "doubt": "structure",
    "table": "structure",
    "kept": "columns",
    "kept: any": "structure",
    "decompression": "columns",
}
# What takes most of a compilation's time is read once.
HEADERS = "#include <torch/csrc/autograd/generated/Functions.h>\n#include <torch/csrc/autograd/functions/tensor.h>\n"
PARTS = {"structure/node_readers.h": "structure/node_rows.cpp"}

# Of each file of csrc/: the name of a fault, and what, which is there once, becomes what. A header is part of the one
# file in PARTS.
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "structure/axis_flow.cpp": [
        ("axes: broadcast from the first axis", "out.size() - in.size() + axis; // wraps", "axis; // wraps"),
        ("axes: permuted backwards", "result[dims[axis]] = ", "result[axis] = "),
        ("axes: reduced axes are kept", "is_reduced = contains(dims, axis)", "is_reduced = false"),
        ("axes: inner axis of the left factor", "is_left ? is_last :", "is_left ? !is_last :"),
        ("axes: sizes are not compared", "from < shape.size() && shape[from] == size ?", "from < shape.size() ?"),
        (
            "axes: mixing does not mix",
            "along == nullptr ? all_free(in[axis])",
            "along == nullptr ? axis_of_size(axes, out, axis, in[axis])",
        ),
        ("axes: select counts from the wrong axis", "(d > dim ? 1 : 0)", "0"),
        ("axes: stack counts from the wrong axis", "(axis >= dim ? 1 : 0)", "(axis > dim ? 1 : 0)"),
        (
            "axes: convolution keeps channels",
            "[&](int64_t axis) { return axis == 0 ? 0 : -1; }",
            "[&](int64_t axis) { return axis <= 1 ? axis : -1; }",
        ),
        ("windows: what is rolled twice is rolled once", "is_once ? slide(", "is_once || true ? slide("),
        ("windows: parts begin at the first", "const size_t part = std::max<size_t>(k, nr);", "const size_t part = 0;"),
        (
            "windows: groups of channels mix",
            "split_by_axis(axes[1], {attributes.groups, out[1] / attributes.groups})[0]",
            "split_by_axis(axes[1], {out[1] / attributes.groups, attributes.groups})[1]",
        ),
        ("matrices: one axis too many is kept", "axis + own < static_cast", "axis + own <= static_cast"),
        ("matrices: a broadcast batch is none", "return in.size() < out.size() ? unknown", "return false ? unknown"),
        ("axes: kernels have the input's channels", "return axis == 0 ? 1 : -1; }", "return axis == 1 ? 1 : -1; }"),
        (
            "axes: transposed kernels are as others",
            "slides.front().kind != Slide::Kind::kUnder",
            "slides.front().kind == Slide::Kind::kUnder",
        ),
        ("axes: transposed kernels mix groups", "channels[0], all_free(in[0] / groups)", "all_free(in[0])"),
        ("first axis: of every in", "return k > 0 ? unknown : rearranged([]", "return false ? unknown : rearranged([]"),
    ],
    # None of these makes a value wrong: zeros are not looked for, or in vain.
    "structure/forecast.cpp": [
        ("forecast: added elements count once", "k > 0 ? FanIn{share(in, out)} : FanIn{1, true}", "FanIn{1, true}"),
        (
            "forecast: rows of bags count once",
            "{static_cast<double>(attributes.indices.at(0).numel()) / static_cast<double>(out.at(0))}",
            "{1}",
        ),
        ("forecast: triangles are full", "facts.placing == Placing::kTaken && !may_be_none}", "true}"),
        ("forecast: transposed kernels are not thinned", "return {kernel * each}", "return {kernel}"),
        ("forecast: strides leave nothing out", "std::min(1.0, each / static_cast<double>(slide.stride))", "1.0"),
        ("forecast: parts are wholes", "slide.stride)), is_sure}", "slide.stride)), true}"),
        (
            "forecast: groups of channels mix",
            "static_cast<double>(in[1]) / static_cast<double>(attributes.groups)",
            "static_cast<double>(in[1])",
        ),
        ("forecast: what is not free is all", "found.is_all &= digit.is_free();", ""),
        ("forecast: equal axes count", "digit.is_equal() ? 1 :", "false ? 1 :"),
        ("forecast: the last path alone", "known.parts = std::move(both);", "known.parts = more.parts;"),
        ("forecast: elementwise Nodes are paths", "if (is_elementwise && (", "if (false && is_elementwise && ("),
        ("forecast: some rows are all", "if (reached.is_sure && (fan_in.is_all", "if ((fan_in.is_all"),
        ("forecast: what is full is not so before", "reached.is_all && !picks &&", "false && !picks &&"),
        ("forecast: what is picked of all is all", "reached.is_all && !picks &&", "reached.is_all &&"),
        ("forecast: writes mix", "      fan_in = {1};", "      fan_in = all_of(*in);"),
        ("forecast: what is full counts as open", "(more.is_all ? 0 : 1) -", "1 -"),
        ("forecast: no path is full", "const bool picks = writes ||", "const bool picks = true || writes ||"),
    ],
    "structure/axes.cpp": [
        (
            "axes: of two paths the last one counts",
            "common_ties(state.ties.upper, ties.upper)",
            "std::move(ties.upper)",
        ),
        ("samples: what is broadcast mixes", "left < taken && is_smaller", "false && is_smaller"),
        ("samples: what is computed from a mean does not mix", " || (is_from_shared && numel_at(target) > numel)", ""),
    ],
    "structure/digits.cpp": [
        ("digits: any two are neighbours", "&& digit.stride == low.stride * low.size", ""),
        ("digits: the high part keeps its stride", "    digit.stride *= size;\n", ""),
        ("digits: of two ties the first counts", "|| a.stride != b.stride ", ""),
        ("digits: windows of other sizes", " || a.out_size() != b.out_size()", ""),
        ("digits: a window has parts", "  if (digit.window != nullptr) {\n    digit = {digit.size};\n  }\n", ""),
    ],
    "structure/compression.cpp": [
        ("ties: rows of one colour share a digit", "all.num_colors *= digit.coloring.num_colors;", ""),
        ("ties: columns are not shifted", "% digit_.size * place_;", "% digit_.size;"),
        ("ties: inputs share their columns' colours", "push_back(all.num_colors + color)", "push_back(color)"),
        ("ties: windows of one input count for all", "is_free |= !tie.has_value();", ""),
    ],
    "structure/windows.cpp": [
        ("windows: ends of an arc are not turned", "(ahead < 0 ? ahead + size : ahead)", "ahead"),
        ("windows: kernels are shorter", "(slide.kernel - 1) * slide.dilation", "(slide.kernel - 1)"),
        ("windows: padded on the other side", "position + slide.padding;", "position - slide.padding;"),
        ("windows: of two paths the first one counts", "hull(joint.arcs[k], b.arcs[k], a.size)", "joint.arcs[k]"),
        (
            "windows: the first of several windows counts",
            "k < reached.count; ++k",
            "k < std::min<int64_t>(reached.count, 1); ++k",
        ),
        (
            "windows: around the first of several in order",
            "window.arcs[reached.first + reached.count - 1];",
            "window.arcs[reached.first];",
        ),
        ("windows: all arcs are in order", "arc.first < before.first ||", ""),
        (
            "windows: scans have one position",
            "around = hull(around, out.arcs[position], out.size);",
            "around = out.arcs[position];",
        ),
        (
            "windows: adaptive pools share nothing",
            "-floor_divide(-(position + 1) * size, slide.kernel) - 1",
            "floor_divide((position + 1) * size, slide.kernel) - 1",
        ),
        (
            "windows: resampled ones end early",
            "first_at_least(position + slide.kernel + 1) - 1",
            "first_at_least(position)",
        ),
    ],
    "structure/node_table.cpp": [
        ("windows: written at the beginning", "1, step, -starts[d]}", "1, step, 0}"),
        ("windows: a written axis has no step", "1, step, -starts[d]}", "1, 1, -starts[d]}"),
        ("table: hooks are ignored", "!node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() ||", ""),
        (
            "table: a view may be changed by anything",
            "facts = facts_of(*wrapped);",
            "facts = facts_of(*wrapped).value_or(NodeFacts{Flow::kOther, true});",
        ),
        ("table: where a view lies is not read", "  reader.append(others, slices.view);\n", ""),
    ],
    "structure/node_readers.h": [
        ("windows: slices start at the first", "{shifted_by(-start)}", "{shifted_by(0)}"),
        ("windows: transposed convolutions are not", "convolution.transposed ? Slide::Kind::kUnder :", ""),
        ("windows: pools have no padding", "stride[axis], padding[axis],", "stride[axis], 0,"),
        (
            "windows: joined tensors start together",
            "start += sizes.size() == 1",
            "start += true ? 0 : sizes.size() == 1",
        ),
        ("table: roll's shifts are not read", "{Slide::Kind::kTurn, 1, 1, shift}", "{Slide::Kind::kTurn, 1, 1, 0}"),
        ("resampling: the second tap is left out", "after = (3 * factor - 1) / 2;", "after = factor - 1;"),
        ("resampling: positions before the first", "before = factor; //", "before = 0; //"),
        ("resampling: all factors are whole", "factor > 0 && factor * in == out", "factor > 0"),
        ("resampling: scales are not read", "*scale == static_cast<double>(factor);", "true;"),
        ("resampling: corners are not aligned", "aligns_corners = upsample.align_corners;", "aligns_corners = false;"),
        ("resampling: any scale will do", "*scale * static_cast<double>(in) == static_cast<double>(out);", "true;"),
        (
            "resampling: the last corner is not reached",
            "out > 1 ? in - 1 : 0, 0, std::max<int64_t>(out - 1, 1)}",
            "out > 1 ? in - 1 : 0, 0, out}",
        ),
        (
            "adaptive pools: of another axis",
            "Slide::Kind::kShare, input->size(axis)",
            "Slide::Kind::kShare, input->size(-1)",
        ),
        ("table: sparse factors are dense", "!factor->defined() || factor->layout() == at::kStrided", "true"),
        ("solvers: vectors only", "b->dim() + 1 == a->dim()", "b->dim() <= a->dim()"),
        ("solvers: rows are columns", "static_cast<Solver&>(node).left ? 1 : 2", "1"),
        ("batch norm: does not mix in training", "if (!norm.training)", "if (true)"),
    ],
    "structure/node_rows.cpp": [
        (
            "table: what is accumulated is elementwise",
            '{"CumprodBackward0", without_nan(kSorting)',
            '{"CumprodBackward0", without_nan(kSmooth)',
        ),
        ("table: softmax is elementwise", '{"SoftmaxBackward0", kMixing', '{"SoftmaxBackward0", kSmooth'),
        ("table: cumsum is elementwise", '{"CumsumBackward0", kMoving', '{"CumsumBackward0", kSmooth'),
        ("table: where is the same for all values", '{"WhereBackward0", kChosen}', '{"WhereBackward0", kSmooth}'),
        ("table: relu is the same for all values", '{"ReluBackward0", kMasked}', '{"ReluBackward0", kSmooth}'),
        (
            "table: logcumsumexp lets NaN through",
            "{Flow::kMix, false, false, /*keeps_nan=*/false}",
            "{Flow::kMix, false, false, /*keeps_nan=*/true}",
        ),
        (
            "table: determinants are elementwise",
            '{"LinalgDetBackward0", kDecomposition}',
            '{"LinalgDetBackward0", kSmooth}',
        ),
    ],
    "structure/nan_probes.cpp": [
        (
            "probes: unexplained hits are accepted",
            "if (finer.nnz() != hits->count(probes)",
            "if (finer.nnz() > hits->count(probes)",
        ),
        ("probes: all blocks are probed together", "coloring.colors[b] * budget_.split + q);", "q);"),
        (
            "probes: hits of the colour before",
            "probe = coloring.colors[b] * budget_.split",
            "probe = coloring.colors[std::max<int64_t>(b - 1, 0)] * budget_.split",
        ),
        (
            "probes: a block's last row is in no part",
            "length * (q + 1) / parts;",
            "length * (q + 1) / parts - (length > parts && q + 1 == parts ? 1 : 0);",
        ),
        ("probes: samples do not count for their block", "        hits->merge(b, sample_of[b]);\n", ""),
        (
            "probes: full columns are left out",
            "          full.begin(),\n          full.end(),",
            "          full.end(),\n          full.end(),",
        ),
        (
            "probes: blocks are in the order of rows",
            "block_of[row_at_.empty() ? position : row_at_[position]] = b",
            "block_of[position] = b",
        ),
    ],
    "engine/probe.cpp": [
        ("probes: the first input takes all hits", "first_column += columns;", ""),
        (
            "probes: infinities instead of NaN",
            "numeric_limits<double>::quiet_NaN()",
            "numeric_limits<double>::infinity()",
        ),
    ],
    "structure/coloring.cpp": [
        (
            "colouring: bits of other columns",
            "taken[color * words + place] |= word;",
            "taken[color * words + place] = word;",
        ),
        ("colouring: colours share bits", "taken.data() + color * words;", "taken.data();"),
        (
            "colouring: a column's last row is overlooked",
            "; ++l) {\n        const int64_t color",
            " - 1; ++l) {\n        const int64_t color",
        ),
        ("colouring: bands may touch", "first(apart) <= last(row)", "first(apart) < last(row)"),
        ("colouring: rows descend", " || last(row) < last(row - 1)", ""),
    ],
    "structure/passes.cpp": [
        ("full columns: taken from rows", "passes.colors[column] = passes.num_colors++;", "passes.num_colors++;"),
    ],
    "structure/bicoloring.cpp": [
        ("full columns: not left out", "if (!is_left_out[pattern.col_ind[k]])", "if (true)"),
    ],
    "engine/compressed.cpp": [
        ("kept: tensors of other columns", "made.first_column == first &&", ""),
        (
            "decompression: columns of the first input",
            "* columns + *column - first);",
            "* columns + *column % columns);",
        ),
        (
            "decompression: passes over columns come first",
            "row_elements + pass * pattern.rows + row",
            "pass * pattern.rows + row",
        ),
        (
            "decompression: a pass of columns too early",
            "pass * pattern.rows + row",
            "pass * pattern.rows + std::max<int64_t>(row - 1, 0)",
        ),
        ("decompression: all colours in every seed", "at::eq(colors.narrow", "at::le(colors.narrow"),
        ("decompression: seeds of the first input", "    first_row += map.rows[k];\n", ""),
        (
            "decompression: values that are not finite",
            "if (!columns.defined() || !is_finite(columns))",
            "if (!columns.defined())",
        ),
    ],
    "engine/find_structure.cpp": [
        (
            "forecast: does not count",
            "if (!are_few_entries(problem_, entries)) {",
            "if (true) {",
        ),
        ("forecast: no rows are probed", "return are_samples_sparse();", "return false;"),
        ("kept: any tape will do", "axes->signature == kept->signature &&", ""),
        ("kept: local patterns are kept", "kept->is_global || picks_the_same ?", "kept != nullptr ?"),
        ("doubt: anomaly mode is ignored", "!torch::autograd::AnomalyMode::is_enabled() && ", ""),
        (
            "doubt: unknown Nodes are trusted",
            "return axes.has_value() && axes->is_known ?",
            "return axes.has_value() ?",
        ),
        ("doubt: NaN is never lost", "!are_few && axes_.keeps_nan &&", "!are_few &&"),
    ],
    "engine/samples_apart.cpp": [
        ("samples: only NaN hits", "of_samples.ne(0)", "at::isnan(of_samples)"),
        ("samples: values hold for all derivatives", "sends_nan = to_derive || (keeps_nan", "sends_nan = (keeps_nan"),
        (
            "samples: what loses NaN is trusted",
            "may_send_nan && !(axes.has_value() && axes->loses_nan)",
            "may_send_nan",
        ),
        ("samples: the last bit of their number is overlooked", "bit < samples; bit", "2 * bit < samples; bit"),
        (
            "samples: any backward is linear",
            "axes.has_value() && axes->not_linear == nullptr;",
            "axes.has_value();",
        ),
        (
            "samples: parts are not compared with the whole",
            "marks == Marks::kNumbers && whole[j].defined()",
            "false",
        ),
    ],
    "engine/linear_map.cpp": [
        (
            "sweeps: all rows one by one",
            "problem.tape.distrust,\n      &problem.tape}",
            "problem.tape.distrust,\n      nullptr}",
        ),
    ],
    # That hashes are compared before sets saves time alone.
    "structure/column_sets.cpp": [
        ("sets: bits of the last alone", "to[w] |= from[w];", "to[w] = from[w];"),
        (
            "sets: all sets of bits are one",
            "own + words_per_set_, words_.data() + set * words_per_set_);",
            "own, words_.data() + set);",
        ),
        ("sets: bits of the first word", "to.push_back(w * kBits +", "to.push_back("),
        ("sets: a union has the first alone", "known = {a, b, intern(begin)};", "known = {a, b, a};"),
        ("sets: unions of one hash are one", "if (known.a == a && known.b == b)", "if (known.a != 0)"),
        (
            "sets: the largest union loses a set",
            "  sets.resize(count);",
            "  sets.resize(count - (count > 2 ? 1 : 0));",
        ),
    ],
    "structure/set_flows.cpp": [
        ("sets: free digits are one position", "(k + 1) * each);", "k * each + 1);"),
        (
            "sets: windows are one position",
            "const Arc arc = window.arcs[position];",
            "const Arc arc = {window.arcs[position].first, 1};",
        ),
        ("sets: what is added to is lost", "some.push_back(to[target - 1]);", ""),
        ("sets: the last of several written counts", "some.size() == 1 ? some[0] : sets_.unite(some)", "some.back()"),
    ],
    "structure/dependencies.cpp": [
        (
            "sets: of two ins the last counts",
            "all = flows_.united(all, flows_.along_ties(",
            "all = (flows_.along_ties(",
        ),
        ("sets: an input's own elements are forgotten", "sets = flows_.united(sets, numbers(", "sets = (numbers("),
        ("sets: all writes replace", "facts.placing == Placing::kAdded ||", ""),
        ("sets: masks are not cut", "slice(0, 0, picked->numel())", "slice(0, values.numel() - picked->numel())"),
    ],
    "structure/picks.cpp": [
        (
            "sets: writes to views begin at the first",
            "memory.as_strided(view.sizes, view.strides, view.offset)",
            "memory.as_strided(view.sizes, view.strides, base.offset)",
        ),
        ("sets: elements in one place are apart", "return own.equal(labels) ?", "return true ?"),
        (
            "sets: rows of an embedding in order",
            "at::index_select(labels, 0, index().reshape({-1}))",
            "labels.slice(0, 0, 1).expand({index().numel(), -1})",
        ),
        (
            "sets: gather along another axis",
            "at::gather(labels, dim(), index())",
            "at::gather(labels, labels.dim() - 1 - dim(), index())",
        ),
        ("sets: triangles end early", "labels.tril(others.at(0))", "labels.tril(others.at(0) - 1)"),
        ("sets: reflects where it replicates", "pick == Pick::kReflected, all", "pick != Pick::kReflected, all"),
        (
            "sets: patches have no padding",
            "const auto padding = figures.next(2);",
            "const auto padding = std::vector<int64_t>{0, 0};\n  figures.next(2);",
        ),
        (
            "sets: segments take turns",
            "repeat_interleave(are_offsets ? figures.diff() : figures)",
            "repeat_interleave((are_offsets ? figures.diff() : figures).flip(0))",
        ),
        ("sets: segments begin at the first", "are_offsets ? from + figures.slice(0, 0, 1) : from", "from"),
        ("sets: pairs have two firsts", ".repeat({2}).unsqueeze(1)", ".repeat_interleave(2).unsqueeze(1)"),
        ("sets: kept indices are not compared", "!at::equal(kept[k], indices[k])", "false"),
        ("sets: kept indices are not copied", "indices[k].detach().clone()", "indices[k].detach()"),
        (
            "sets: one memory of the new graph is enough",
            "std::pair(kept[k].const_data_ptr(), indices[k].const_data_ptr())",
            "std::pair(indices[k].const_data_ptr(), indices[k].const_data_ptr())",
        ),
    ],
}


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
        self.headers = folder / "headers.h"
        self.headers.write_text(HEADERS)
        self.compile("structure/axes.cpp", f"-x c++-header {self.headers}", Path(f"{self.headers}.gch"))

    def compile(self, file: str, source: str, output: Path) -> None:
        """As `file` is."""
        entry = self.commands[file]
        command = entry["command"].replace(f"-c {entry['file']}", source).replace(entry["output"], str(output))
        subprocess.run(shlex.split(command), check=True, capture_output=True, text=True)

    def build(self, changed_file: str, old: str, new: str) -> None:
        file = PARTS.get(changed_file, changed_file)
        source = (ROOT / "csrc" / changed_file).read_text()
        if source.count(old) != 1:
            raise SystemExit(f"mutate_structure: expected once in {changed_file}: {old}")
        changed, compiled = self.folder / "mutant.cpp", self.folder / "mutant.o"
        changed.write_text((ROOT / "csrc" / file).read_text())
        # A header is found first beside the file that includes it.
        shutil.rmtree(self.folder / "structure", ignore_errors=True)
        place = changed if file == changed_file else self.folder / changed_file
        place.parent.mkdir(exist_ok=True)
        place.write_text(source.replace(old, new))
        self.compile(file, f"-include {self.headers} -c {changed}", compiled)
        objects = [compiled if name == file else entry["output"] for name, entry in self.commands.items()]
        paths = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
        libraries = ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
        target = self.folder / "highgrad_ext" / f"_C{SUFFIX}"
        linker = shlex.split(os.environ.get("CXX", "c++"))
        subprocess.run([*linker, "-shared", *objects, *paths, *libraries, "-o", target], check=True)

    def failing_test(self, first: str | None, seconds: float | None) -> str | None:
        """The first test that fails, or what else went wrong, as not to end within `seconds`."""
        for group in sorted(TESTS, key=lambda group: first not in group):
            tests = [f"tests/test_{name}.py" for name in sorted(group, key=lambda name: name != first)]
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            try:
                run = subprocess.run(
                    command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=seconds
                )
            except subprocess.TimeoutExpired:
                return "tests that do not end"
            if run.returncode != 0:
                failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0].split(" - ")[0] if failed else f"tests that end with {run.returncode}"
        return None


def first_test(name: str) -> str | None:
    return FIRST.get(max((words for words in FIRST if name.startswith(words)), key=len, default=""))


def main(words: list[str]) -> int:
    chosen = [
        (name, file, old, new)
        for file, faults in MUTANTS.items()
        for name, old, new in faults
        if not words or any(word in name for word in words)
    ]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        unchanged = "Window identity_window(int64_t size) {"
        tree.build("structure/windows.cpp", unchanged, unchanged)
        begin = time.perf_counter()
        if failed := tree.failing_test(None, None):
            raise SystemExit(f"mutate_structure: expected tests that pass without a fault, got {failed}")
        limit = 5 * (time.perf_counter() - begin)
        for name, file, old, new in chosen:
            begin = time.perf_counter()
            try:
                tree.build(file, old, new)
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"mutate_structure: {name} does not compile:\n{error.stderr}") from error
            caught = tree.failing_test(first_test(name), limit)
            missed += caught is None
            seconds = time.perf_counter() - begin
            print(f"{name}: {f'caught by {caught}' if caught else 'MISSED'} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
