"""The benchmark's harness and the demo, on small problems. Nothing here depends on how long anything takes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))

import highgrad_ext
from benchmarks import compare, measure, memory, orders, peers, pinns, regret, report, run, structure, varied_problems
from benchmarks.problems import PROBLEMS, Case, Problem

CUBES = Problem("cubes", lambda ops: _cubes(ops.array(np.arange(1.0, 4.0))))
TRIPLE = Problem("cubes, order 3", CUBES.build, order=3)


def _cubes(x: Any) -> Case:
    return Case(x, lambda x: x * x * x)


def test_every_peer_is_right_or_says_why_not() -> None:
    for problem in (CUBES, TRIPLE):
        rows = run.run_problem(problem, seconds=0)["peers"]
        assert rows.keys() == peers.ALL_TORCH.keys()
        for name, row in rows.items():
            may_fail = name == "TorchJD" or (problem is TRIPLE and name == "functional, forward")
            assert row["status"] == "ok" or (may_fail and row["status"] == "failed" and row["reason"]), (name, row)


def test_a_wrong_result_is_an_error_row_and_not_timed() -> None:
    right = torch.diag(torch.tensor([3.0, 12.0, 27.0]))
    results = {
        "right": right,
        "value": right * 1.001,
        "nan": right * float("nan"),
        "shape": right.reshape(9),
        "structure": {"x": right},
    }
    planted: dict[str, Any] = {name: lambda case, order, r=result: lambda: r for name, result in results.items()}
    planted["raises"] = lambda case, order: lambda: 1 / 0
    rows = run.run_problem(CUBES, seconds=0, peers=planted)["peers"]

    assert {name: row["status"] for name, row in rows.items()} == {
        "right": "ok", "value": "wrong", "nan": "wrong", "shape": "wrong", "structure": "wrong", "raises": "failed",
    }  # fmt: skip
    assert "median_ms" in rows["right"]
    assert not any("median_ms" in row for name, row in rows.items() if name != "right")
    assert "ZeroDivisionError" in rows["raises"]["reason"]
    with pytest.raises(measure.WrongResult, match="dict"):
        measure.check(right, {"x": right})


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_highgrad_ext_is_right_on_every_problem(problem: Problem) -> None:
    prepare = {peers.HIGHGRAD: peers.ALL_TORCH[peers.HIGHGRAD]}
    assert run.run_problem(problem, seconds=0, peers=prepare)["peers"][peers.HIGHGRAD]["status"] == "ok"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a whole run on the small problems."""
    path = tmp_path_factory.mktemp("run") / "figures.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "PROBLEMS", (CUBES, TRIPLE))
        patch.setattr(memory, "measure_all", lambda *_: {"highgrad_ext": {"error": "not measured"}})
        patch.setattr(sys, "argv", ["run.py", "--seconds", "0", "--json", str(path), "--threads", "1"])
        threads = torch.get_num_threads()
        run.main()
        torch.set_num_threads(threads)
    return json.loads(path.read_text())


def test_the_json_has_what_the_readme_promises(figures: dict[str, Any]) -> None:
    assert figures.keys() == {"machine", "device", "threads", "versions", "problems", "memory"}
    assert figures["versions"]["torch"] == torch.__version__
    assert (figures["device"], figures["threads"]) == ("cpu", 1)
    problem = figures["problems"][0]
    assert problem.keys() == {"name", "order", "f_shape", "wrt_shape", "peers", "summary"}
    assert (problem["f_shape"], problem["wrt_shape"]) == ([3], [3])
    assert problem["peers"][peers.HIGHGRAD].keys() == {
        "status", "error", "min_ms", "q1_ms", "median_ms", "q3_ms", "calls",
    }  # fmt: skip
    assert problem["peers"][peers.HIGHGRAD]["calls"] >= measure.MIN_CALLS


def test_the_report_names_problems_peers_and_reasons(figures: dict[str, Any]) -> None:
    text = report.markdown(figures)
    for expected in ("| cubes ", *peers.TORCH_PEERS, "no graph to differentiate again", "not measured"):
        assert expected in text


def test_the_ratio_is_to_the_best_right_torch_peer() -> None:
    def row(ms: float, status: str = "ok") -> dict[str, Any]:
        return {"status": status, "min_ms": ms / 2, "median_ms": ms}

    rows = {
        peers.HIGHGRAD: row(2.0),
        peers.FROM_TAPE: row(1.0),
        peers.LOOP: row(40.0),
        "func.jacrev": row(4.0),
        "func.jacfwd": row(0.1, "wrong"),
        "JAX jit jacrev": row(0.1),
    }
    summary = report.summarize(rows)
    assert summary == {
        "best_torch_peer": "func.jacrev", "ratio_median": 0.5, "ratio_min": 0.5, "ratio_to_loop_median": 0.05,
    }  # fmt: skip


def test_the_chart_is_written(figures: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    report.chart(figures, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_peers_take_turns_and_slow_ones_fewer() -> None:
    calls: list[str] = []

    def peer(name: str, call_seconds: float) -> measure.Turn:
        def turn(seconds: float) -> list[float]:
            calls.append(name)
            return [call_seconds] * max(1, round(seconds / call_seconds))

        return turn

    times = measure.time_in_turns({"a": peer("a", 0.01), "b": peer("b", 0.01), "slow": peer("slow", 1.0)}, seconds=6.0)
    assert calls[:5] == ["a", "b", "slow", "a", "b"]
    assert len(times["a"]) == len(times["b"]) == pytest.approx(200, abs=1)
    assert len(times["slow"]) == measure.MIN_CALLS


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0.0, "0"), (0.00123456, "0.00123"), (0.09996, "0.100"), (1.0, "1.00"), (99.96, "100"), (12345.0, "12300")],
)
def test_milliseconds_have_three_significant_digits(ms: float, text: str) -> None:
    assert report.format_ms(ms) == text


def test_compare_flags_a_slowdown_and_no_noise() -> None:
    def figures_of(ms: float) -> dict[str, Any]:
        row = {"status": "ok", "q1_ms": 0.99 * ms, "median_ms": ms, "q3_ms": 1.01 * ms}
        names = (peers.HIGHGRAD, peers.FROM_TAPE, "func.jacrev")
        problems = [{"name": name, "peers": {peer: dict(row) for peer in names}} for name in ("one", "two", "three")]
        return {**dict.fromkeys(("machine", "device", "threads", "versions")), "problems": problems}

    before, after = figures_of(10.0), figures_of(10.0)
    for problem, factor in zip(after["problems"], (1.3, 1.03, 0.5), strict=True):
        ours = problem["peers"][peers.HIGHGRAD]
        ours |= {key: factor * ours[key] for key in ("q1_ms", "median_ms", "q3_ms")}
    lines = compare.compare(before, after).splitlines()
    flags = {line.split("|")[1].strip(): line.split("|")[5].strip() for line in lines if line.startswith("| ")}
    assert (flags["one"], flags["two"], flags["three"]) == ("slower", "", "faster")
    assert flags["one (from the tape)"] == ""

    wide = {"status": "ok", "q1_ms": 8.0, "median_ms": 13.0, "q3_ms": 20.0}
    assert compare.verdict(before["problems"][0]["peers"][peers.HIGHGRAD], wide) == ""
    assert "threads differ" in compare.compare(before, {**after, "threads": 7})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_peak_memory_is_at_least_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PEERS", ("highgrad_ext",))
    figures = memory.measure_all(num_threads=1, device="cpu")["highgrad_ext"]
    assert "error" not in figures
    assert figures["result_bytes"] == 4 * 1000 * 10000
    assert 0.9 < figures["ratio"] == figures["peak_bytes"] / figures["result_bytes"]


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    for package in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location(
        "digits", Path(__file__).resolve().parent.parent / "examples" / "digits.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["digits"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_derivatives_of_the_demo_agree(digits: ModuleType) -> None:
    network, (_, held_out) = digits.DigitsNetwork(), digits.load()
    images = held_out.images[:4]
    comparisons = {
        (4, 10, 4, 8, 8): digits.logits_by_pixels(network, images),
        (4, 10, 64, 64): digits.logits_by_parameters(network, images),
        (2, 2, 2): digits.logit_by_latent(network, images[0], 3),
    }
    for shape, comparison in comparisons.items():
        ours = comparison.highgrad()
        assert digits.tensors(ours)[0].shape == shape
        assert digits.largest_difference(ours, comparison.torch_func()) < 1e-5
        assert digits.largest_difference(ours, comparison.loop()) < 1e-5
    planted = {"a": torch.zeros(2), "b": torch.tensor([0.0, -3.0])}
    assert digits.largest_difference(planted, {"a": torch.zeros(2), "b": torch.zeros(2)}) == 3


def test_the_demo_draws_the_saliency(digits: ModuleType, tmp_path: Path) -> None:
    network, (train_digits, held_out) = digits.DigitsNetwork(), digits.load()
    digits.train(network, train_digits, seconds=0.01)
    ten, saliency = digits.saliency_of_ten(network, held_out)
    assert ten.labels.tolist() == list(range(10))

    images = ten.images.clone().requires_grad_()
    network(images)[torch.arange(10), ten.labels].sum().backward()
    torch.testing.assert_close(saliency, images.grad)

    path = tmp_path / "saliency.png"
    digits.draw_saliency(network, held_out, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_report_of_orders() -> None:
    x = torch.linspace(0.1, 1, 3, requires_grad=True)
    third = orders.Row(
        "cubes", "six", lambda: highgrad_ext.nth_derivative(x**3, x, 3, reduce="diagonal"), lambda: 6 * torch.eye(3)
    )
    double = orders.Row("cubes", "twice", lambda: 2 * x.detach(), x.detach, same=False)
    figures = orders.run([third, double], seconds=0, threads=1)
    assert [row["difference"] is None for row in figures["rows"]] == [False, True]
    assert figures["rows"][0]["difference"] < 1e-6
    lines = orders.markdown(json.loads(json.dumps(figures))).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| cubes")] == ["cubes", "cubes"]


def test_rows_of_orders_compute_what_their_peers_do() -> None:
    torch.manual_seed(0)
    for row in orders.cases():
        if row.same and "768" not in row.problem and not any(f"order {n}" in row.problem for n in (7, 8)):
            assert row.measure(seconds=0)["difference"] < 1e-3


@pytest.mark.parametrize("equation", pinns.equations(), ids=lambda equation: equation.name)
def test_residuals_of_networks_agree(equation: pinns.Equation) -> None:
    row = pinns.measure(equation, samples=5, width=6, seconds=0)
    assert row["difference"] < 1e-4 and row["peers_differ"] < 1e-4


def test_report_of_networks() -> None:
    figures = pinns.run([(4, 5)], seconds=0, threads=1, only="continuity")
    lines = pinns.markdown(json.loads(json.dumps(figures))).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| cont")] == ["continuity, 3-D"]


def test_regret() -> None:
    for create_graph in (False, True):
        rows = regret.measure(0, create_graph, "ger of 3")
        assert [row["problem"] for row in rows] == ["ger of 3"]
        (of_samples,) = regret.measure(0, create_graph, "decoder")
        assert of_samples["peer"] in ("vmap of jacrev", "vmap of jacfwd", "rows of all samples")
    assert "of 1 problems" in regret.report(rows) and "| ger of 3" in regret.report(rows)
    assert len(varied_problems.problems() | varied_problems.sample_problems()) == 82


def test_structure() -> None:
    rows = structure.measure(0, "sin(x)") + structure.measure(0, "batch_dims")
    assert [row["passes"] for row in rows] == [1, 1, 1]
    assert "| sin(x) exp(x) of 2000, sparse" in structure.report(rows) and "one backward" in structure.report(rows)
    assert len(structure.cases()) == 21


def test_structure_of_dense_problems() -> None:
    graphs = {name: graph for name, graph in structure.dense_problems().items() if "MLP of 32" in name}
    rows = structure.measure_losses(0, graphs)
    assert {row["problem"] for row in rows} == {"MLP of 32", "MLP of 32, relu"}
    assert "The worst of 2: MLP of 32" in structure.report_losses(rows)
    assert not structure.dense_problems().keys() & structure.held_out_problems().keys()


def test_structure_checks_values() -> None:
    wrong = structure.Variant("wrong", 1.0, lambda function, x: lambda: torch.zeros(4, 4))
    case = structure.Case(torch.sin, torch.rand(4), (wrong,))
    with pytest.raises(AssertionError):
        structure.check(case, wrong, wrong.call(case.function, case.x)(), case.x.requires_grad_())
