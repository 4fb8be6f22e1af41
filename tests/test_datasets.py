"""Where a named set is looked for, and what is said when it is nowhere; made files only, and no network."""

import gzip
import http.client
import urllib.error

import numpy as np
import pytest

from hatband import datasets
from hatband.datasets import Dataset, load, names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HATBAND_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.delenv("HATBAND_DATA", raising=False)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(number, name):
        raise AssertionError(f"a test must not download ({name}, {number})")

    monkeypatch.setattr(datasets, "_download", refuse)


def write(folder, name, text):
    with gzip.open(folder / f"{name}.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text)


def made(rows, columns, name):
    return Dataset(np.zeros((rows, columns)), np.zeros(rows), [f"x{j}" for j in range(columns)], name)


def test_a_file_of_the_folder_is_read_with_its_last_column_as_target(folder):
    write(folder, "mine", "first,second,target\n1,2,3\n4,5e-1,-6\n")

    X, y, feature_names, name = load("mine")

    np.testing.assert_array_equal(X, [[1, 2], [4, 0.5]])
    np.testing.assert_array_equal(y, [3, -6])
    assert (feature_names, name) == (["first", "second"], "mine")
    assert X.dtype == y.dtype == np.float64
    assert X.flags.c_contiguous


@pytest.mark.parametrize("text", ["a,target\n1,2\n", '"a","target"\r\n1,2\r\n'], ids=["plain", "quoted, CRLF"])
def test_one_row_is_still_a_table(folder, text):
    write(folder, "mine", text)

    assert load("mine").data.shape == (1, 1)
    assert load("mine").feature_names == ["a"]


def test_the_folder_comes_before_the_bundle_and_the_download(folder):
    rows = "".join(f"{','.join(['7'] * 10)},1\n" for _ in range(442))
    write(folder, "diabetes", ",".join(f"x{j}" for j in range(10)) + ",target\n" + rows)

    assert (load("diabetes").data == 7).all()


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_without_a_folder_the_bundled_set_is_taken(monkeypatch, value):
    monkeypatch.delenv("HATBAND_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("HATBAND_DATA", value)

    X, y, feature_names, _ = load("diabetes")

    assert X.shape == (442, len(feature_names))
    assert y.shape == (442,)


def test_a_folder_without_the_file_leads_to_the_download(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "_download", lambda number, name: asked.append(number) or made(8192, 21, name))

    assert load("cpu_act").data.shape == (8192, 21)
    assert asked == [197]


@pytest.mark.parametrize(
    "failure", [urllib.error.URLError("no route"), TimeoutError("slow"), http.client.IncompleteRead(b"")]
)
def test_a_failed_download_names_the_three_ways(no_folder, monkeypatch, failure):
    def fail(number, name):
        raise failure

    monkeypatch.setattr(datasets, "_download", fail)

    with pytest.raises(FileNotFoundError, match=r"(?s)HATBAND_DATA.*scikit-learn.*OpenML.*failed"):
        load("concrete")


def test_a_set_that_is_nowhere_names_the_three_ways(folder):
    with pytest.raises(FileNotFoundError, match=r"(?s)yacht.csv.gz.*HATBAND_DATA.*scikit-learn.*OpenML does not have"):
        load("yacht")


def test_an_unknown_name_lists_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"(?s)beijing_pm25.*yacht.*got 'boston'"):
        load("boston")


def test_a_name_never_leads_out_of_the_folder(folder, monkeypatch):
    inner = folder / "inner"
    inner.mkdir()
    write(folder, "outside", "a,target\n1,2\n")
    monkeypatch.setenv("HATBAND_DATA", str(inner))

    with pytest.raises(ValueError, match=r"got '\.\./outside'"):
        load("../outside")


def test_another_set_under_a_known_name_is_refused(folder, monkeypatch):
    write(folder, "yacht", "a,target\n1,2\n")
    monkeypatch.setattr(datasets, "_download", lambda number, name: made(10, 8, name))

    with pytest.raises(ValueError, match=r"yacht must have 308 rows and 6 columns; found \(1, 1\)"):
        load("yacht")
    with pytest.raises(ValueError, match=r"concrete must have 1030 rows and 8 columns; found \(10, 8\)"):
        load("concrete")


def test_a_header_of_another_length_is_refused(folder):
    write(folder, "mine", "a,b,target\n1,2\n")

    with pytest.raises(ValueError, match=r"mine.csv.gz must have one name per column; got 3 for 2"):
        load("mine")


def test_names_are_the_fourteen_public_sets_and_the_bundled_one():
    assert len(names()) == len(set(names())) == 15
    assert "diabetes" in names()
