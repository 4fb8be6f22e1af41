"""`python -m hatband demo`: its table says what its text says, and it needs neither matplotlib nor pandas."""

import subprocess
import sys

import pytest

from hatband.__main__ import main
from hatband.commands.demo import diabetes, run_case, tumours
from sweeps import sweep


def test_the_demo_prints_both_scales_and_draws_the_picture(tmp_path, capsys):
    assert main(["demo", "--splits", "2", "-o", str(tmp_path / "demo.png")]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "demo.png") in out
    for word in ("constant", "leverage", "coverage", "mean width", "interval score", "lowest", "highest"):
        assert word in out
    assert "does not make intervals narrower" in out


BARE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"matplotlib", "pandas"}:
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
from hatband.__main__ import main
sys.exit(main(["demo", "--splits", "2"]))
"""


def test_without_matplotlib_and_pandas_the_table_stays_and_one_line_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BARE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == 'No picture: it needs matplotlib. pip install "hatband[plot]"'
    assert "highest leverage fifth" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["absent/demo.png", "demo.unknown"])
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, capsys, output):
    assert main(["demo", "--splits", "2", "-o", str(tmp_path / output)]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert "cannot write the picture" in captured


def test_a_folder_that_is_not_there_is_told_before_any_work(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path / "absent" / "demo.png")]) == 2
    assert capsys.readouterr().out == ""


@sweep(30, 100)
def test_on_diabetes_a_leverage_scale_closes_most_of_the_gap_at_no_gain_in_width(repetitions):
    outcomes = run_case(diabetes(), splits=repetitions, seed=0)
    gap = {scale: outcome.fifth(0).mean() - outcome.fifth(-1).mean() for scale, outcome in outcomes.items()}
    width = {scale: outcome.width.mean() for scale, outcome in outcomes.items()}
    assert gap["constant"] > 0.05
    assert abs(gap["leverage"]) < gap["constant"] / 2
    assert 0.95 < width["leverage"] / width["constant"] < 1.05


def test_on_tumours_the_gap_is_noise_that_leverage_does_not_know():
    outcomes = run_case(tumours(), splits=20, seed=0)
    gap = {scale: outcome.fifth(0).mean() - outcome.fifth(-1).mean() for scale, outcome in outcomes.items()}
    assert gap["constant"] > 0.1
    assert gap["leverage"] > gap["constant"] / 2
