"""Tables as files: formats, row names, types."""

import numpy as np
import pandas as pd
import pytest

from hatband.commands.base import CommandError
from hatband.commands.tables import Columns, is_parquet, read_table, target_of, write_table


@pytest.fixture
def parquet_by_pickle(monkeypatch):
    """Stand in for pyarrow: Parquet keeps types and index, and so does pickle."""
    monkeypatch.setattr(pd, "read_parquet", pd.read_pickle)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda frame, path: frame.to_pickle(path))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.xz", ".parquet"])
@pytest.mark.parametrize("index", [["b", "a", "c"], [10, 11, 12]], ids=["names", "numbers"])
def test_tables_come_back_with_their_row_names(tmp_path, parquet_by_pickle, suffix, index):
    frame = pd.DataFrame({"x": [1.5, np.nan, 1 / 3]}, index=pd.Index(index, name="key"))
    write_table(frame, tmp_path / f"table{suffix}")
    back = read_table(tmp_path / f"table{suffix}", index="key")
    assert [str(name) for name in back.index] == [str(name) for name in index]
    np.testing.assert_array_equal(back["x"].astype(float), frame["x"])


def test_a_compressed_name_is_compressed(tmp_path):
    write_table(pd.DataFrame({"x": [1]}), tmp_path / "table.csv.gz")
    assert (tmp_path / "table.csv.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    write_table(pd.DataFrame({"x": [1]}), tmp_path / "table.csv")
    (tmp_path / "other").touch()
    assert (tmp_path / "table.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("name", "answer"), [("a.CSV", False), ("a.csv.gz", False), ("a.parquet", True), ("a.pq", True)]
)
def test_the_name_says_the_format(tmp_path, name, answer):
    assert is_parquet(tmp_path / name) is answer


def test_a_name_that_says_no_format_is_refused(tmp_path):
    with pytest.raises(CommandError, match=r"must end in one of \.csv"):
        is_parquet(tmp_path / "a.xlsx")


def test_columns_are_numbers_or_texts_and_gaps_stay_gaps(tmp_path):
    frame = pd.DataFrame(
        {
            "text": ["a", None, "b"],
            "number": ["1", "2.5", None],
            "mixed": ["1", "x", "2"],
            "flag": [True, False, True],
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "day": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
            "blank": [None, None, None],
        }
    )
    columns = Columns.of(frame, tmp_path)
    assert columns.numbers == ("number", "whole")
    assert list(columns.texts) == ["text", "mixed", "flag", "day"]
    assert columns.empty == ("blank",)
    features = columns.select(frame, tmp_path)
    np.testing.assert_array_equal(features["number"], [1, 2.5, np.nan])
    np.testing.assert_array_equal(features["whole"], [1, np.nan, 3])
    assert list(features["text"]) == ["a", "(missing)", "b"]


def test_truth_values_are_not_a_target(tmp_path):
    with pytest.raises(CommandError, match="must hold numbers; row 1"):
        target_of(pd.DataFrame({"y": [True, False]}), "y", tmp_path)
