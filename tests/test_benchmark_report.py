"""What `--check` promises: exit code 1 exactly when a target was missed, and every target named."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "_report.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("benchmark_report", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def run(module, tmp_path):
    def finish(targets, *options):
        report = module.Report("example")
        report.row(set="a", width=np.float64(1.5), rows=np.int64(3))
        report.row(set="b", width=np.inf, rows=4)
        for target in targets:
            report.target(*target)
        return report.finish(module.parser("").parse_args([*options, "--output", str(tmp_path)]))

    return finish


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ((1.0, 1.0, "<="), 0),
        ((1.1, 1.0, "<="), 1),
        ((1.0, 1.0, "<"), 1),
        ((9.0, 10.0, ">="), 1),
        ((0, 0, "=="), 0),
        ((np.float64(2), 1, "<="), 1),
        ((float("nan"), 1.0, "<="), 1),
        ((None, 1.0, "<="), 0),
    ],
)
def test_check_exits_with_1_exactly_when_a_target_was_missed(run, capsys, target, code):
    assert run([("speed", *target)], "--check") == code
    assert ("example missed its target: speed" in capsys.readouterr().out) == bool(code)


def test_without_check_a_missed_target_is_printed_and_the_code_is_0(run, capsys):
    assert run([("speed", 2.0, 1.0)]) == 0
    assert "missed  speed: 2 (target <= 1)" in capsys.readouterr().out


def test_a_target_that_could_not_be_tested_is_named_as_such(run, capsys):
    run([("speed on a GPU", None, 1.0)], "--check")

    assert "not tested  speed on a GPU (target <= 1)" in capsys.readouterr().out


def test_json_is_strict_and_names_no_place_of_this_machine(run, tmp_path):
    run([("speed", 2.0, 1.0)])
    text = (tmp_path / "example.json").read_text()

    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    assert content["rows"] == [{"set": "a", "width": 1.5, "rows": 3}, {"set": "b", "width": "inf", "rows": 4}]
    assert content["targets"] == [{"name": "speed", "value": 2.0, "op": "<=", "limit": 1.0, "met": False}]
    assert {"date", "python", "numpy", "cpu", "blas"} <= content["environment"].keys()
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text


def test_rows_of_other_columns_open_another_table(module, capsys):
    report = module.Report("example")
    report.row(a=1)
    report.row(b=2)
    report.row(a=3)

    report.print()

    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first.splitlines() == ["|   a |", "| --: |", "|   1 |", "|   3 |"]
    assert second.splitlines()[0] == "|   b |"
