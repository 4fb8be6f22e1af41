"""The regression sets of the benchmarks, loaded by name: from a local folder, from scikit-learn, or from OpenML."""

import gzip
import os
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hatband.arrays.typing import Array, Float

# Rows and columns of each set, and its number at OpenML where the same rows are there (None where they are not).
_SETS: dict[str, tuple[int, int, int | None]] = {
    "beijing_pm25": (382_168, 27, None),
    "bike_sharing": (17_379, 48, None),
    "blog_feedback": (52_397, 276, None),
    "california_housing": (20_640, 8, 44977),
    "communities": (1_994, 100, None),
    "concrete": (1_030, 8, 44959),
    "cpu_act": (8_192, 21, 197),
    "diabetes": (442, 10, None),
    "facebook_comments": (10_044, 48, None),
    "gas_ethanol": (2_565, 128, None),
    "power_plant": (9_568, 4, None),
    "protein_casp": (45_730, 9, 44963),
    "superconductor_magpie": (12_440, 108, None),
    "wine_quality": (6_497, 12, None),
    "yacht": (308, 6, None),
}


class Dataset(NamedTuple):
    """Numeric features and target of one regression set."""

    data: Float[Array, "n d"]
    target: Float[Array, " n"]
    feature_names: list[str]
    name: str


def names() -> list[str]:
    """Return the names that `load` knows: fourteen public sets and the `diabetes` of scikit-learn.

    Examples
    --------
    >>> from hatband.datasets import names
    >>> "diabetes" in names(), len(names())
    (True, 15)
    """
    return list(_SETS)


def load(name: str) -> Dataset:
    """Return one regression set: `data` (n, d) and `target` (n,) in float64, and the names of its columns.

    The first of three places that has it: the file `<name>.csv.gz` (one header line, numbers only, the target in the
    last column) in the folder that the environment variable `HATBAND_DATA` names; the sets bundled with scikit-learn;
    OpenML, by a download that scikit-learn keeps in its data home. No other folder is searched.

    Parameters
    ----------
    name : str
        One of `names()`, or the name of a file of your own in that folder.

    Returns
    -------
    Dataset
        A named tuple `(data, target, feature_names, name)`.

    Raises
    ------
    ValueError
        When the name is unknown, or what was found has another number of rows or columns than the set.
    FileNotFoundError
        If the set is in none of the three places.

    Notes
    -----
    Nothing is kept in memory between calls; reading takes about a second for every ten million numbers.

    Examples
    --------
    >>> from hatband.datasets import load
    >>> X, y, feature_names, name = load("diabetes")
    >>> X.shape, y.shape, feature_names[0]
    ((442, 10), (442,), 'age')
    """
    file = _file(name)
    if file is not None:
        return _checked(_read(file, name))
    if name not in _SETS:
        raise ValueError(f"name must be one of {', '.join(names())}, or a file in HATBAND_DATA; got {name!r}.")
    if name == "diabetes":
        return _bundled(name)
    number = _SETS[name][2]
    if number is None:
        raise FileNotFoundError(_nowhere(name, "OpenML does not have it with the same rows"))
    try:
        return _checked(_download(number, name))
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(_nowhere(name, f"the download of OpenML set {number} failed ({error})")) from error


def _file(name: str) -> Path | None:
    folder = os.environ.get("HATBAND_DATA")
    # A name with a separator must not lead out of the folder.
    if not folder or Path(name).name != name:
        return None
    file = Path(folder) / f"{name}.csv.gz"
    return file if file.is_file() else None


def _read(file: Path, name: str) -> Dataset:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        columns = [column.strip().strip('"') for column in lines.readline().rstrip("\r\n").split(",")]
        values = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
    if values.shape[1] != len(columns):
        raise ValueError(f"{file.name} must have one name per column; got {len(columns)} for {values.shape[1]}.")
    return Dataset(np.ascontiguousarray(values[:, :-1]), values[:, -1].copy(), columns[:-1], name)


def _bundled(name: str) -> Dataset:
    from sklearn.datasets import load_diabetes

    bundle = load_diabetes()
    return Dataset(bundle.data, bundle.target, list(bundle.feature_names), name)


def _download(number: int, name: str) -> Dataset:
    """Fetch from OpenML; `liac-arff` reads dense numbers without pandas."""
    from sklearn.datasets import fetch_openml

    bundle = fetch_openml(data_id=number, as_frame=False, parser="liac-arff")
    data, target = np.asarray(bundle.data, dtype=np.float64), np.asarray(bundle.target, dtype=np.float64)
    return Dataset(data, target, list(bundle.feature_names), name)


def _checked(found: Dataset) -> Dataset:
    """Raise if a known name has other data: results on them would be compared with the wrong results."""
    rows, columns, _ = _SETS.get(found.name, (*found.data.shape, None))
    if found.data.shape != (rows, columns):
        raise ValueError(f"{found.name} must have {rows} rows and {columns} columns; found {found.data.shape}.")
    return found


def _nowhere(name: str, openml: str) -> str:
    return (
        f"{name} was not found. It can come from {name}.csv.gz in the folder named by the environment variable "
        f"HATBAND_DATA (now {os.environ.get('HATBAND_DATA') or 'not set'}), from scikit-learn's bundled sets "
        f"(diabetes only), or from OpenML: {openml}."
    )
