"""Geometry of the inputs themselves, for models without a feature map, and of any scikit-learn transformer.

Tables of numbers, words and gaps become numeric features.
"""

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing

from hatband.arrays.typing import Array
from hatband.checks import check_finite, check_ridge
from hatband.formulas.ridge_choice import INPUTS_RIDGE
from hatband.geometry.base import Exactness, FeatureSpace, Geometry, as_numbers, kept
from hatband.geometry.features import FeatureGeometry

# A column of words gets one feature for each of its most frequent levels, at most this many.
MAX_LEVELS = 20
# A median of this many rows is accurate enough to stand in for a gap, and costs nothing beside the factor.
_MEDIAN_ROWS = 10_000
_NUMBER = (Real, Decimal, np.bool_)
# How missing entries read as text: None, float NaN, pandas.NaT, pandas.NA.
_MISSING = frozenset({"None", "nan", "NaT", "<NA>"})


@dataclass(frozen=True, eq=False)
class Scaled:
    """A feature map followed by division by the standard deviation; the mean is subtracted from dense features.

    Parameters
    ----------
    feature_map : fitted transformer
        What makes the features.
    scaler : StandardScaler
        Fitted to the features of the training rows.
    """

    feature_map: Any
    scaler: StandardScaler

    @classmethod
    def of(cls, feature_map: Any, X: Any, sample_weight: Array | None) -> "Scaled":
        """Measure the spread of the training rows' features."""
        features = as_numbers(feature_map.transform(kept(X, feature_map)))
        check_finite(features, "features")
        scaler = StandardScaler(with_mean=not sparse.issparse(features))
        return cls(feature_map, scaler.fit(features, sample_weight=sample_weight))

    def transform(self, X: Any) -> Any:
        """Return the standardised features."""
        features = as_numbers(self.feature_map.transform(kept(X, self.feature_map)))
        check_finite(features, "features")
        return self.scaler.transform(features)


@dataclass(frozen=True)
class InputsGeometry(Geometry):
    """h(x) = 1/n + z' (Z'Z + ridge)^-1 z, z the standardised inputs: how far x lies from the training rows.

    The fallback for models without a feature map. Numbers have their gaps filled by the median, with an
    indicator where training rows had gaps; every other column becomes one 0/1 feature per level, at most the 20 most
    frequent, a rare or new level being all zeros. Takes arrays, CSR matrices, pandas and polars DataFrames.

    Parameters
    ----------
    standardise : bool
        Whether features are centred and divided by their standard deviation. CSR matrices are only divided.
    fit_intercept : bool
        Whether there is an intercept, which is not penalised.
    ridge : float
        Ridge in the sum convention.

    Notes
    -----
    ``InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0)`` is x' (X'X)^-1 x, the leverage of Fadnavis,
    "Leverage-weighted conformal prediction", arXiv 2602.12693.

    Examples
    --------
    >>> import numpy as np
    >>> raw = InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0).fit(2 * np.eye(2))
    >>> raw.leverage(raw.features(np.array([[2.0, 2.0]])))
    array([2.])
    """

    standardise: bool = True
    fit_intercept: bool = True
    ridge: float = INPUTS_RIDGE
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> FeatureSpace:
        """Learn medians, levels and spreads from the training rows X, and factor their features."""
        feature_map: Any = InputEncoder.of(_present(X, sample_weight))
        if self.standardise:
            feature_map = Scaled.of(feature_map, X, sample_weight)
        return FeatureGeometry(check_ridge(self.ridge), self.fit_intercept, "none", feature_map).fit(X, sample_weight)


def _present(X: Any, sample_weight: Array | None) -> Any:
    """Return the rows of positive weight: a row of weight 0 must have the same effect as no row."""
    return X if sample_weight is None else _safe_indexing(X, np.flatnonzero(np.asarray(sample_weight)))


@dataclass(frozen=True, eq=False)
class TransformerGeometry(Geometry):
    """h(x) = 1/n + z' (Z'Z + 1)^-1 z, z the standardised output of a transformer fitted to the training rows.

    Parameters
    ----------
    transformer : scikit-learn transformer
        Cloned and fitted without y to the X that the estimator got. FrozenEstimator(transformer) keeps a fitted one.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> space = TransformerGeometry(PolynomialFeatures(2)).fit(np.arange(6.0)[:, None])
    >>> space.leverage(space.features(np.array([[2.0], [60.0]]))).round(1).tolist()
    [0.2, 62658.1]
    """

    transformer: Any
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> FeatureSpace:
        """Fit a clone of the transformer to the training rows X, and factor its standardised output."""
        frozen = isinstance(self.transformer, FrozenEstimator)
        fitted = self.transformer if frozen else clone(self.transformer).fit(kept(X, self.transformer))
        feature_map = Scaled.of(fitted, X, sample_weight)
        return FeatureGeometry(1.0, True, "none", feature_map).fit(X, sample_weight)


@dataclass(frozen=True, eq=False)
class InputEncoder:
    """Numbers with gaps filled by the median, indicators of gaps, and one 0/1 feature per level of other columns.

    A gap in a column that had none in training is filled too, without an indicator. CSR matrices and arrays of
    numbers without gaps pass unchanged, without a copy.

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
        The most frequent levels of each other column; a missing entry is a separate level; all other levels give zeros.
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
        self._check_names(_names(X))
        if sparse.issparse(X):
            return X
        numbers = _numbers(X, self.numeric, self.names)
        missing = np.isnan(numbers)
        if missing.any():
            numbers = np.where(missing, self.medians, numbers)
        extra = [missing[:, self.gappy]] if len(self.gappy) else []
        extra += [_one_hot(_entries(X, j), levels) for j, levels in self.levels.items()]
        return np.hstack([numbers, *extra]) if extra else numbers

    def _check_names(self, names: tuple[Any, ...]) -> None:
        numbered = tuple(range(len(names)))
        same = names == self.names or (len(names) == len(self.names) and numbered in (names, self.names))
        if not same:
            raise ValueError(
                f"X must have the columns of the training rows, {_brief(self.names)}; got {_brief(names)}."
            )


def _is_table(X: Any) -> bool:
    """Whether columns must be handled one by one: in DataFrames, and in arrays that do not hold numbers."""
    return hasattr(X, "columns") or (not sparse.issparse(X) and np.asarray(X).dtype.kind not in "biuf")


def _names(X: Any) -> tuple[Any, ...]:
    return tuple(X.columns) if hasattr(X, "columns") else tuple(range(np.shape(X)[1]))


def _entries(X: Any, column: int) -> Array:
    return np.asarray(_safe_indexing(X if hasattr(X, "columns") else np.asarray(X), column, axis=1))


def _is_numeric(X: Any, column: int) -> bool:
    """Whether a column holds numbers; ValueError for entries that are neither numbers nor levels, such as dates."""
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
            "a transformer that does this as geometry=."
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
    """Return the levels, the most frequent first, ties in order of name."""
    counts = Counter(map(_level, entries.tolist()))
    return tuple(sorted(counts, key=lambda level: (-counts[level], level))[:MAX_LEVELS])


def _one_hot(entries: Array, levels: tuple[str, ...]) -> Array:
    place = {level: code for code, level in enumerate(levels)}
    codes = np.array([place.get(_level(entry), -1) for entry in entries.tolist()], dtype=np.intp)
    return (codes[:, None] == np.arange(len(levels))).astype(np.float64)


def _brief(names: tuple[Any, ...]) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return f"{len(names)} of them ({shown}{', ...' if len(names) > 6 else ''})"
