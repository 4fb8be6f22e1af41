"""Tables of numbers, words and gaps as numeric features: what InputsGeometry measures."""

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing

from hatband.arrays.typing import Array
from hatband.geometry.convert import as_numbers

# A column of words gets one feature for each of its most frequent levels, at most this many.
MAX_LEVELS = 20
# A median of this many rows is accurate enough to stand in for a gap, and costs nothing beside the factor.
_MEDIAN_ROWS = 10_000
_NUMBER = (Real, Decimal, np.bool_)
# How missing entries read as text: None, float NaN, pandas.NaT, pandas.NA.
_MISSING = frozenset({"None", "nan", "NaT", "<NA>"})


@dataclass(frozen=True, eq=False)
class InputEncoder:
    """Numbers with gaps filled by the median, indicators of gaps, and one 0/1 feature per level of other columns.

    A gap in a column that had none in training is filled too, without an indicator. CSR matrices and arrays of
    numbers without gaps pass as they are, uncopied.

    Parameters
    ----------
    names : tuple
        Names of the columns, or their numbers.
    numeric : tuple of int
        Columns of numbers.
    medians : array of shape (len(numeric),)
        What fills a gap.
    gappy : array of int
        Which of the numeric columns had gaps in training.
    levels : mapping of int to tuple of str
        The most frequent levels of each other column; a missing entry is a level of its own, others are all zeros.
    """

    names: tuple[Any, ...]
    numeric: tuple[int, ...]
    medians: Array
    gappy: Array
    levels: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, X: Any) -> "InputEncoder":
        """Learn the encoding of training rows."""
        X = X if _is_table(X) else as_numbers(X)
        names = _names(X)
        if sparse.issparse(X):
            return cls(names, tuple(range(len(names))), np.zeros(len(names)), np.zeros(0, int), {})
        levels = {j: _most_frequent(_entries(X, j)) for j in range(len(names)) if not _is_numeric(X, j)}
        numeric = tuple(j for j in range(len(names)) if j not in levels)
        numbers = _numbers(X, numeric, names)
        gappy = np.flatnonzero(np.isnan(numbers).any(axis=0))
        return cls(names, numeric, _medians(numbers), gappy, levels)

    def transform(self, X: Any) -> Array:
        """Return the features of X: numbers, indicators of gaps, levels."""
        X = X if _is_table(X) else as_numbers(X)
        self._check_columns(_names(X))
        if sparse.issparse(X):
            return X
        numbers = _numbers(X, self.numeric, self.names)
        missing = np.isnan(numbers)
        if missing.any():
            numbers = np.where(missing, self.medians, numbers)
        extra = [missing[:, self.gappy]] if len(self.gappy) else []
        extra += [_one_hot(_entries(X, j), levels) for j, levels in self.levels.items()]
        return np.hstack([numbers, *extra]) if extra else numbers

    def _check_columns(self, names: tuple[Any, ...]) -> None:
        numbered = tuple(range(len(names)))
        same = names == self.names or (len(names) == len(self.names) and numbered in (names, self.names))
        if not same:
            raise ValueError(
                f"X must have the columns of the training rows, {_brief(self.names)}; got {_brief(names)}."
            )


def _is_table(X: Any) -> bool:
    """Whether columns have to be looked at one by one: DataFrames, and arrays that do not hold numbers."""
    return hasattr(X, "columns") or (not sparse.issparse(X) and np.asarray(X).dtype.kind not in "biuf")


def _names(X: Any) -> tuple[Any, ...]:
    return tuple(X.columns) if hasattr(X, "columns") else tuple(range(np.shape(X)[1]))


def _entries(X: Any, column: int) -> Array:
    return np.asarray(_safe_indexing(X if hasattr(X, "columns") else np.asarray(X), column, axis=1))


def _is_numeric(X: Any, column: int) -> bool:
    """Whether a column holds numbers; ValueError where it holds what is neither a number nor a level."""
    series = _safe_indexing(X if hasattr(X, "columns") else np.asarray(X), column, axis=1)
    entries = np.asarray(series)
    if entries.dtype.kind in "biuf":
        # A categorical column of numbers is a column of levels: "category" in pandas, "Categorical" in polars.
        return not str(series.dtype).lower().startswith("categor")
    present = [entry for entry in entries.tolist() if not _is_missing(entry)] if entries.dtype.kind == "O" else []
    if entries.dtype.kind in "mMc" or any(isinstance(entry, datetime.date | datetime.timedelta) for entry in present):
        raise ValueError(
            f"column {_names(X)[column]!r} holds {entries.dtype if entries.dtype.kind != 'O' else 'dates'}; the inputs "
            "geometry takes numbers, words and booleans. Turn it into a number (such as days since a date), or pass "
            "geometry= a transformer that does."
        )
    return entries.dtype.kind == "O" and all(isinstance(entry, _NUMBER) for entry in present)


def _is_missing(entry: Any) -> bool:
    return str(entry) in _MISSING


def _level(entry: Any) -> str:
    # A gap reads differently in each library, and a number differently when it stands beside gaps.
    text = str(float(entry)) if isinstance(entry, _NUMBER) else str(entry)
    return "<missing>" if text in _MISSING else text


def _numbers(X: Any, columns: tuple[int, ...], names: tuple[Any, ...]) -> Array:
    """Return columns of numbers as one float array, NaN where an entry is missing."""
    if not _is_table(X):
        return X
    parts = [_as_floats(_entries(X, j), names[j]) for j in columns]
    return np.column_stack(parts) if parts else np.zeros((X.shape[0], 0))


def _as_floats(entries: Array, name: Any) -> Array:
    if entries.dtype.kind != "O":
        return entries.astype(np.float64)
    try:
        return np.array([np.nan if _is_missing(entry) else float(entry) for entry in entries], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} held numbers in training and must hold numbers now: {error}.") from None


def _medians(numbers: Array) -> Array:
    sample = numbers[:: max(1, len(numbers) // _MEDIAN_ROWS)]
    gone = np.isnan(sample).all(axis=0)
    return np.nanmedian(np.where(gone, 0.0, sample), axis=0) if sample.shape[1] else np.zeros(0)


def _most_frequent(entries: Array) -> tuple[str, ...]:
    """Return the levels, the most frequent first and ties by name."""
    counts = Counter(map(_level, entries.tolist()))
    return tuple(sorted(counts, key=lambda level: (-counts[level], level))[:MAX_LEVELS])


def _one_hot(entries: Array, levels: tuple[str, ...]) -> Array:
    place = {level: code for code, level in enumerate(levels)}
    codes = np.array([place.get(_level(entry), -1) for entry in entries.tolist()], dtype=np.intp)
    return (codes[:, None] == np.arange(len(levels))).astype(np.float64)


def _brief(names: tuple[Any, ...]) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return f"{len(names)} of them ({shown}{', ...' if len(names) > 6 else ''})"
