"""`python -m hatband intervals`: what it writes and what it says."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hatband.__main__ import main
from hatband.commands.recipes import RECIPES


@pytest.mark.parametrize("estimator", RECIPES)
def test_every_estimator_gives_each_new_row_an_interval_around_its_prediction_in_the_order_of_the_rows(
    bench, estimator
):
    assert bench.run("--estimator", estimator, "--index", "id") == 0
    table = bench.written(dtype={"id": str})
    assert list(table) == ["id", "prediction", "lower", "upper", "leverage"]
    assert list(table["id"]) == list(bench.new["id"])
    assert ((table["lower"] <= table["prediction"]) & (table["prediction"] <= table["upper"])).all()
    assert (table["leverage"] > 0).all()

    straight = table.set_index("id")
    order = np.random.default_rng(1).permutation(len(bench.new))
    bench.new.iloc[order].to_csv(bench.folder / "new.csv", index=False)
    bench.run("--estimator", estimator, "--index", "id")
    shuffled = bench.written(dtype={"id": str}).set_index("id")
    pd.testing.assert_frame_equal(shuffled, straight.iloc[order], rtol=1e-9)


def test_without_an_index_the_rows_have_no_names(bench):
    bench.run()
    assert list(bench.written()) == ["prediction", "lower", "upper", "leverage"]


def test_the_nameless_column_that_pandas_writes_is_the_index_and_no_feature(bench):
    for frame, name in ((bench.train, "train.csv"), (bench.new, "new.csv")):
        frame.drop(columns="id").set_index(frame["id"].rename(None)).to_csv(bench.folder / name)
    assert bench.run() == 0
    assert list(bench.written(dtype=str).iloc[:, 0]) == list(bench.new["id"])


def test_several_levels_carry_their_level_in_the_name_and_nest(bench):
    bench.run("--confidence", "0.8", "--confidence", "0.95")
    table = bench.written()
    assert list(table) == ["prediction", "lower_0.8", "upper_0.8", "lower_0.95", "upper_0.95", "leverage"]
    assert (table["lower_0.95"] <= table["lower_0.8"]).all()
    assert (table["upper_0.8"] <= table["upper_0.95"]).all()


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(bench):
    contents = []
    for seed in ("3", "3", "4"):
        bench.run("--seed", seed, "--estimator", "forest", "--scale", "constant")
        contents.append(bench.output.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_constant_scale_gives_one_width_and_a_leverage_scale_widens_with_leverage(bench):
    bench.run("--scale", "constant")
    constant = bench.written().eval("upper - lower")
    assert np.ptp(constant) < 1e-9 * constant.mean()
    bench.run("--scale", "leverage")
    table = bench.written().sort_values("leverage")
    assert (np.diff(table["upper"] - table["lower"]) >= -1e-9 * constant.mean()).all()


def test_columns_that_training_does_not_have_are_mentioned_and_change_nothing(bench, capsys):
    bench.run("--index", "id")
    before = bench.output.read_bytes()
    bench.new.assign(colour="red").to_csv(bench.folder / "new.csv", index=False)
    bench.run("--index", "id")
    assert bench.output.read_bytes() == before
    assert "does not have them: 'colour'" in capsys.readouterr().out


def test_the_target_of_new_rows_changes_no_interval_and_yields_coverage(bench, capsys):
    bench.run()
    assert "of 30 new rows with 'price', level 0.9" in capsys.readouterr().out
    before = bench.output.read_bytes()
    bench.new.drop(columns="price").to_csv(bench.folder / "new.csv", index=False)
    bench.run()
    assert bench.output.read_bytes() == before
    assert "coverage" not in capsys.readouterr().out


def test_the_facts_say_what_was_trained_calibrated_and_promised(bench, capsys):
    bench.run("--calibration-size", "30", "--index", "id")
    out = capsys.readouterr().out
    for fact in (
        "70 trained on, 30 calibrated on, 30 new",
        "2 numbers, 1 text; ridge",
        "chosen by leave-one-out",
        "scale     auto (leverage: 70 training rows, fewer than 100)",
        "level     0.9: mean width",
        "with a probability of at least the level",
        "99% quantile of the calibration rows",
    ):
        assert fact in out


def test_rows_without_a_target_are_left_out_and_counted(bench, capsys):
    bench.train.loc[:9, "price"] = np.nan
    bench.train.to_csv(bench.folder / "train.csv", index=False)
    assert bench.run() == 0
    assert "10 of" in capsys.readouterr().out


def test_texts_that_training_does_not_have_are_counted(bench, capsys):
    bench.new.loc[[0, 1], "city"] = "Ulm"
    bench.new.to_csv(bench.folder / "new.csv", index=False)
    assert bench.run("--index", "id") == 0
    assert "2 new rows with a 'city'" in capsys.readouterr().out
    assert bench.written().notna().all(axis=None)


def test_a_column_that_differs_in_every_row_is_suggested_as_index(bench, capsys):
    for frame, name in ((bench.train, "train.csv"), (bench.new, "new.csv")):
        frame.assign(id="row " + frame["id"]).to_csv(bench.folder / name, index=False)
    bench.run()
    assert "say --index 'id'" in capsys.readouterr().out


@pytest.mark.parametrize("written", ["{:,.1f}", "{:.0f},5"], ids=["thousands", "decimals"])
def test_numbers_with_commas_are_said_to_be_texts(bench, capsys, written):
    for frame, name in ((bench.train, "train.csv"), (bench.new, "new.csv")):
        frame.assign(rent=(1000 * frame["rooms"]).map(written.format)).to_csv(bench.folder / name, index=False)
    bench.run("--index", "id")
    assert "'rent' is read as text, because of its commas: '1" in capsys.readouterr().out


def test_a_column_without_values_is_left_out(bench, capsys):
    bench.train.assign(blank=np.nan).to_csv(bench.folder / "train.csv", index=False)
    assert bench.run("--index", "id") == 0
    assert "no values in 'blank'" in capsys.readouterr().out


@pytest.mark.parametrize("estimator", ["ridge", "boosting"])
@pytest.mark.parametrize("kept", [["size", "rooms"], ["city"]], ids=["numbers only", "texts only"])
def test_tables_of_numbers_only_and_of_texts_only_work(bench, estimator, kept):
    bench.train[[*kept, "price"]].to_csv(bench.folder / "train.csv", index=False)
    assert bench.run("--estimator", estimator) == 0
    assert np.isfinite(bench.written()).all(axis=None)


def test_row_names_survive_as_text_and_numbers_as_numbers(bench):
    # 0007 is a name here and a number as a feature; the levels of a text column may look like truth values.
    for frame, name in ((bench.train, "train.csv"), (bench.new, "new.csv")):
        flag = np.where(frame["rooms"] > 3, "true", "false")
        frame.assign(flag=flag).to_csv(bench.folder / name, index=False)
    assert bench.run("--index", "id") == 0
    assert bench.output.read_text().splitlines()[1].startswith("0100,")


def test_the_command_runs_as_a_module(bench):
    arguments = ["train.csv", "new.csv", "--target", "price", "-o", "out.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "hatband", "intervals", *arguments],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote     out.csv: 30 rows in the order of new.csv" in done.stdout


def test_a_reader_that_leaves_early_gets_no_traceback(bench):
    arguments = ["train.csv", "new.csv", "--target", "price", "-o", "out.csv"]
    command = [sys.executable, "-m", "hatband", "intervals", *arguments]
    with subprocess.Popen(command, cwd=bench.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
    assert len(bench.written()) == len(bench.new)


def test_help_names_every_estimator(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["intervals", "--help"])
    out = capsys.readouterr().out
    assert all(estimator in out for estimator in RECIPES)
