"""Every refusal of `python -m hatband intervals` is one line, exit code 2, and leaves files as they were."""

import sys

import numpy as np
import pandas as pd
import pytest

from hatband.__main__ import main


def edit(**columns):
    """A change of one file: set columns, or drop those set to None."""

    def change(frame):
        dropped = [name for name, value in columns.items() if value is None]
        kept = {name: value for name, value in columns.items() if value is not None}
        return frame.assign(**kept).drop(columns=dropped)

    return change


def with_entry(row, column, value):
    def change(frame):
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


REFUSED_TABLES = {
    "no target column": ("train", edit(price=None), [], "has no column 'price' for --target; it has 'id', 'size'"),
    "text target": ("train", with_entry(4, "price", "dear"), [], "'price' must hold numbers; row 5 of"),
    "infinite target": ("train", with_entry(4, "price", "inf"), [], "'price' is infinite in row 5"),
    "target all missing": ("train", edit(price=np.nan), [], "'price' is missing in every row"),
    "text target in new": ("new", with_entry(1, "price", "?"), [], "'price' must hold numbers; row 2 of"),
    "no feature column": ("train", lambda frame: frame[["price"]], [], "has no feature column"),
    "missing feature": ("new", edit(size=None, city=None), [], "lacks the feature 'size', 'city'; it has 'id'"),
    "text among numbers": ("new", with_entry(2, "size", "large"), [], "row 3 of"),
    "infinite feature": ("train", with_entry(6, "size", "inf"), [], "column 'size' of"),
    "no rows": ("train", lambda frame: frame[:0], [], "has no rows below its header"),
    "no new rows": ("new", lambda frame: frame[:0], [], "has no rows below its header"),
    "no index column": ("new", edit(id=None), ["--index", "id"], "has no column 'id' for --index"),
    "too few rows": ("train", lambda frame: frame[:20], [], "too few rows: 20 with a target"),
    "too few for the level": ("train", edit(), ["--confidence", "0.99"], "level 0.99 needs at least 99 and 10"),
    "calibration takes all": ("train", edit(), ["--calibration-size", "100"], "leaves none to train on"),
    "semicolons": (
        "train",
        lambda frame: frame.set_axis(["a;b", *frame.columns[1:]], axis=1)[["a;b"]],
        [],
        "by ';'; commas",
    ),
    "index is target": ("train", edit(), ["--index", "price"], "--target and --index both name 'price'"),
}


@pytest.mark.parametrize("case", REFUSED_TABLES.values(), ids=REFUSED_TABLES)
def test_a_table_that_cannot_serve_is_refused_in_one_line(bench, capsys, case):
    file, change, options, message = case
    change(getattr(bench, file)).to_csv(bench.folder / f"{file}.csv", index=False)
    assert bench.run(*options) == 2
    assert_one_line(capsys, message)
    assert not bench.output.exists()
    assert not bench.leftovers()


REFUSED_FILES = {
    "absent": (None, "No such file or directory"),
    "empty": (b"", "train.csv is empty"),
    "not text": (b"\xff\xfe\x00\x81\x00", "cannot read"),
    "ragged": (b"a,price\n1,2\n1,2,3,4\n", "cannot read"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(bench, capsys, content, message):
    (bench.folder / "train.csv").unlink()
    if content is not None:
        (bench.folder / "train.csv").write_bytes(content)
    assert bench.run() == 2
    assert_one_line(capsys, message)


def test_a_folder_is_not_a_table(bench, capsys):
    (bench.folder / "folder.csv").mkdir()
    assert bench.run(train="folder.csv") == 2
    assert_one_line(capsys, "Is a directory")


REFUSED_OUTPUTS = {
    "no folder": ("absent/out.csv", "there is no folder"),
    "an input": ("new.csv", "is also an input"),
    "unknown format": ("out.xlsx", "must end in one of .csv"),
}


@pytest.mark.parametrize(("output", "message"), REFUSED_OUTPUTS.values(), ids=REFUSED_OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(bench, capsys, output, message):
    before = (bench.folder / "new.csv").read_bytes()
    assert bench.run(output=output) == 2
    assert_one_line(capsys, message)
    assert (bench.folder / "new.csv").read_bytes() == before


REFUSED_OPTIONS = {
    "level 0": (["--confidence", "0"], "strictly between 0 and 1"),
    "level 1": (["--confidence", "1"], "strictly between 0 and 1"),
    "level nan": (["--confidence", "nan"], "strictly between 0 and 1"),
    "level text": (["--confidence", "high"], "strictly between 0 and 1, such as 0.9; got high"),
    "estimator": (["--estimator", "magic"], "invalid choice: 'magic'"),
    "scale": (["--scale", "magic"], "invalid choice: 'magic'"),
    "share above 1": (["--calibration-size", "1.5"], "a share in (0, 1) or a number of rows"),
    "share 0": (["--calibration-size", "0"], "a share in (0, 1) or a number of rows"),
    "seed": (["--seed", "x"], "an integer from 0 to 2^32 - 1; got x"),
    "seed below 0": (["--seed", "-1"], "an integer from 0 to 2^32 - 1; got -1"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED_OPTIONS.values(), ids=REFUSED_OPTIONS)
def test_an_option_out_of_range_is_refused_in_one_line(bench, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        bench.run(*options)
    assert stop.value.code == 2
    assert_one_line(capsys, message)


def test_no_command_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert_one_line(capsys, "demo | intervals")


def test_a_disk_that_fails_midway_leaves_the_old_output_and_no_other_file(bench, capsys, monkeypatch):
    bench.output.write_text("old")

    def fail_midway(frame, path, **kwargs):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail_midway)
    assert bench.run() == 2
    assert_one_line(capsys, "No space left on device")
    assert bench.output.read_text() == "old"
    assert not bench.leftovers()


def test_parquet_without_its_reader_names_what_to_install(bench, capsys, monkeypatch):
    def absent(*args, **kwargs):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", absent)
    assert bench.run(train="train.parquet") == 2
    assert_one_line(capsys, "needs pyarrow: pip install pyarrow")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", absent)
    assert bench.run(output="out.parquet") == 2
    assert_one_line(capsys, "needs pyarrow: pip install pyarrow")
    assert not bench.leftovers()


def test_without_pandas_the_message_names_the_extra(bench, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert bench.run() == 2
    assert_one_line(capsys, 'pip install "hatband[cli]"')


def assert_one_line(capsys, message):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
