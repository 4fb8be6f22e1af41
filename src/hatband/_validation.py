"""Every check of what a user passes in, and every message that says what was required, seen and to be done."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from hatband._typing import Array


class CalibrationWarning(UserWarning):
    """The calibration rows cannot support what was asked: intervals are infinite, or a guarantee is weaker."""


class LeverageWarning(UserWarning):
    """A leverage is infinite, inaccurate or uninformative."""


def first_bad_row(array: Array) -> int | None:
    """Index of the first row that holds a NaN or an infinity; None when all are finite."""
    rows = np.asarray(array)
    finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return None if finite.all() else int(np.flatnonzero(~finite)[0])


def check_finite(array: Array, name: str) -> None:
    """Raise unless every entry of a numeric array (dense or sparse) is finite."""
    values = np.asarray(getattr(array, "data", array) if hasattr(array, "indptr") else array)
    # One sum is a cheap first look: it is finite for almost every array that is.
    if not np.issubdtype(values.dtype, np.floating) or np.isfinite(values.sum(dtype=np.float64)):
        return
    if hasattr(array, "indptr"):
        if not np.isfinite(values).all():
            entry = int(np.flatnonzero(~np.isfinite(values))[0])
            row = int(np.searchsorted(array.indptr, entry, side="right") - 1)
            raise ValueError(_not_finite(name, row))
        return
    row = first_bad_row(values)
    if row is not None:
        raise ValueError(_not_finite(name, row))


def _not_finite(name: str, row: int) -> str:
    return f"{name} must be finite; row {row} holds NaN or infinity. Impute or drop such rows first."


def check_ridge(ridge: Any) -> Any:
    """Return the ridge as a float, or as a float64 array when it has one entry per feature."""
    values = np.asarray(ridge, dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"ridge must be finite and >= 0 (0 is least squares); got {ridge!r}.")
    return float(values) if values.ndim == 0 else values


def check_weights(weights: Any, n_samples: int) -> Array:
    """Return sample weights as float64 (n,)."""
    values = np.asarray(weights, dtype=np.float64)
    if values.ndim == 0:
        values = np.full(n_samples, float(values))
    if values.shape != (n_samples,):
        raise ValueError(f"sample_weight must have one entry per row, shape ({n_samples},); got shape {values.shape}.")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"sample_weight must be finite and >= 0; row {row} has {values[row]}.")
    if not values.any():
        raise ValueError("sample_weight must not be zero for every row; all weights are 0.")
    return values


def check_confidence_level(level: Any) -> tuple[list[Any], bool]:
    """Return the levels as a list, and whether one number (not a list) was given."""
    single = np.ndim(level) == 0
    levels: Sequence[Any] = [level] if single else list(level)
    if not levels:
        raise ValueError("confidence_level must be a number in (0, 1) or a list of such; got an empty list.")
    for value in levels:
        if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)) or not 0 < float(value) < 1:
            raise ValueError(f"confidence_level must lie strictly between 0 and 1, such as 0.9; got {value!r}.")
    return list(levels), single


def check_one_level(level: Any) -> Any:
    """Return a confidence level that must be one number."""
    levels, single = check_confidence_level(level)
    if not single:
        raise ValueError(f"confidence_level must be one number here, not a list; got {level!r}.")
    return levels[0]


def check_interval_rows(y_true: Any, interval: Any, leverage: Any) -> tuple[Array, Array, Array]:
    """Return targets (m,), intervals (m, 2) and leverages (m,) of the same rows as float arrays."""
    y, bounds, h = (np.asarray(values, dtype=np.float64) for values in (y_true, interval, leverage))
    if y.ndim != 1 or len(y) == 0 or bounds.shape != (len(y), 2) or h.shape != y.shape:
        raise ValueError(
            "y_true (m,), interval (m, 2) and leverage (m,) must describe the same m >= 1 rows, one output at one "
            f"level; got shapes {y.shape}, {bounds.shape} and {h.shape}."
        )
    for name, values in (("y_true", y), ("interval", bounds), ("leverage", h)):
        if np.isnan(values).any():
            row = int(np.flatnonzero(np.isnan(values.reshape(len(y), -1)).any(axis=1))[0])
            raise ValueError(f"{name} must not hold NaN; row {row} does.")
    return y, bounds, h


def check_n_bins(n_bins: Any) -> int:
    """Return a number of bins."""
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins must be an integer >= 1; got {n_bins!r}.")
    return int(n_bins)
