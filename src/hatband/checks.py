"""Checks of user input that two or more modules need; messages say what was required, what was seen, what to do.

A check that one module needs stands in that module.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_array

from hatband.arrays.typing import Array


class CalibrationWarning(UserWarning):
    """The calibration rows cannot support what was asked: intervals are infinite, or a guarantee is weaker."""


class LeverageWarning(UserWarning):
    """A leverage is infinite, inaccurate or uninformative."""


def _first_bad_row(array: Array) -> int | None:
    """Index of the first row that holds a NaN or an infinity; None when all are finite."""
    rows = np.asarray(array)
    finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return None if finite.all() else int(np.flatnonzero(~finite)[0])


def check_finite(array: Array, name: str) -> None:
    """Raise unless every entry of a numeric array (dense or sparse) is finite."""
    values = np.asarray(getattr(array, "data", array) if hasattr(array, "indptr") else array)
    if not np.issubdtype(values.dtype, np.floating):
        return
    # One sum is a cheap first look: it is finite for almost every array that is.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    if hasattr(array, "indptr"):
        if not np.isfinite(values).all():
            entry = int(np.flatnonzero(~np.isfinite(values))[0])
            row = int(np.searchsorted(array.indptr, entry, side="right") - 1)
            raise ValueError(_not_finite(name, row))
        return
    bad = _first_bad_row(values)
    if bad is not None:
        raise ValueError(_not_finite(name, bad))


def _not_finite(name: str, row: int) -> str:
    return f"{name} must be finite; row {row} holds NaN or infinity. Impute or drop such rows first."


def check_ridge(ridge: Any) -> Any:
    """Return the ridge as a float, or as a float64 array when it has one entry per feature."""
    if isinstance(ridge, str):
        raise ValueError(f"ridge must be a number >= 0 here, because there are no data to choose it by; got {ridge!r}.")
    try:
        values = np.asarray(ridge, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
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
        check_level(value, "confidence_level")
    return list(levels), single


def check_target(y: Any) -> tuple[Array, bool]:
    """Return y as float64 (n, q), and whether it came as one number per row."""
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None.")
    values = check_array(y, dtype="numeric", ensure_2d=False, ensure_all_finite=False, input_name="y")
    if values.ndim > 2:
        raise ValueError(f"y must have shape (n,) or (n, outputs); got shape {values.shape}.")
    values = values.astype(np.float64)
    check_finite(values, "y")
    return (values[:, None], True) if values.ndim == 1 else (values, False)


def check_prediction(prediction: Any, n_samples: int, n_outputs: int, name: str) -> Array:
    """Return predictions as float64 (m, q); (m,) and (m, 1) are both accepted if y has one column."""
    values = np.asarray(prediction, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.shape != (n_samples, n_outputs):
        raise ValueError(
            f"{name}.predict must return one value per row and output, shape ({n_samples}, {n_outputs}); "
            f"got shape {values.shape}."
        )
    check_finite(values, f"the prediction of {name}")
    return values


def check_calibration_size(calibration_size: Any, n_samples: int) -> int:
    """Return how many of n_samples rows calibrate: a fraction is rounded to the nearest row, an integer is exact."""
    if isinstance(calibration_size, Integral) and not isinstance(calibration_size, bool):
        size = int(calibration_size)
    elif isinstance(calibration_size, Real) and 0 <= float(calibration_size) < 1:
        size = max(1, round(n_samples * float(calibration_size))) if calibration_size else 0
    else:
        size = -1
    if size < 0:
        raise ValueError(
            "calibration_size must be a fraction in [0, 1) or a number of rows >= 0 (0 trains only); "
            f"got {calibration_size!r}."
        )
    if size >= n_samples:
        raise ValueError(
            f"calibration_size={calibration_size!r} asks for {size} of n_samples = {n_samples} rows, which leaves none "
            "to train on; pass more rows or a smaller calibration_size."
        )
    return size


def check_widths(width: Any, leverage_is_infinite: Callable[[], Array], n_samples: int, name: str) -> Array:
    """Return widths as float64 (m, 1) or (m, q): positive, and infinite only where the leverage is."""
    values = np.asarray(width, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or len(values) != n_samples:
        raise ValueError(f"{name} must return one width per row, {n_samples} of them; got shape {np.shape(width)}.")
    bad = ~(values > 0)
    infinite = np.isinf(values)
    if infinite.any():
        allowed = np.asarray(leverage_is_infinite()).reshape(n_samples, -1)
        bad |= infinite & ~allowed
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        raise ValueError(f"{name} must return widths that are finite and > 0; row {row} has {values[row].tolist()}.")
    return values


def check_in(value: Any, allowed: Sequence[Any], name: str) -> None:
    """Raise unless the value is one of the allowed values."""
    if not any(value is option or value == option for option in allowed):
        raise ValueError(f"{name} must be one of {list(allowed)}; got {value!r}.")


def check_level(level: Any, name: str = "a level") -> None:
    """Raise unless a level is one number (float, Fraction, Decimal or NumPy scalar) strictly between 0 and 1."""
    number = isinstance(level, (Real, Decimal)) and not isinstance(level, (bool, np.bool_))
    # Decimal raises an error of its own when a NaN is ordered.
    if not number or math.isnan(level) or not 0 < level < 1:
        raise ValueError(f"{name} must be a number strictly between 0 and 1, such as 0.9; got {level!r}.")


def check_no_nan(values: Array, name: str) -> None:
    """Raise if an array of numbers holds a NaN; infinity is allowed."""
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.floating) or not np.isnan(values).any():
        return
    row = int(np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1))[0])
    raise ValueError(f"{name} must not hold NaN; row {row} does. Drop or impute such rows first.")


def check_likelihood_ratio(values: Array, name: str) -> None:
    """Raise unless every weight of a weighted quantile is finite and >= 0."""
    bad = ~(np.isfinite(values) & (np.asarray(values) >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name} must be finite and >= 0; row {row} has {values[row]}.")


def check_bounds(lower: Array, upper: Array) -> None:
    """Raise unless lower <= upper everywhere and both are free of NaN."""
    check_no_nan(lower, "lower")
    check_no_nan(upper, "upper")
    crossed = np.asarray(lower > upper)
    if crossed.any():
        row = int(np.flatnonzero(crossed.reshape(len(crossed), -1).any(axis=1))[0])
        raise ValueError(f"lower must not exceed upper; row {row} has [{lower[row]}, {upper[row]}].")


def check_two_rows(y: Array, owner: str) -> None:
    """Raise unless there are at least two rows, so that one can be left out."""
    if len(y) < 2:
        raise ValueError(f"{owner} leaves one row out at a time and needs at least 2; got n_samples = {len(y)}.")


def check_single_output(y: Array, owner: str) -> None:
    """Raise unless y (n, q) has one output."""
    if y.shape[1] != 1:
        raise ValueError(f"{owner} takes one output; got {y.shape[1]}. Fit one model for each output.")


def check_interval_rows(y_true: Any, interval: Any, leverage: Any) -> tuple[Array, Array, Array]:
    """Return targets (m,), intervals (m, 2) and leverages (m,) of the same rows as float arrays without NaN."""
    y, bounds, h = (np.asarray(values, dtype=np.float64) for values in (y_true, interval, leverage))
    if y.ndim != 1 or len(y) == 0 or bounds.shape != (len(y), 2) or h.shape != y.shape:
        raise ValueError(
            "y_true (m,), interval (m, 2) and leverage (m,) must describe the same m >= 1 rows, one output at one "
            f"level; got shapes {y.shape}, {bounds.shape} and {h.shape}."
        )
    check_no_nan(y, "y_true")
    check_no_nan(h, "leverage")
    check_bounds(bounds[:, 0], bounds[:, 1])
    return y, bounds, h


def check_intervals(interval: Any) -> Array:
    """Return intervals of one output at one level as float64 (m, 2), lower <= upper."""
    values = np.asarray(interval, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not len(values):
        raise ValueError(
            "interval must hold lower and upper ends of m >= 1 rows, one output at one level, shape (m, 2); got shape "
            f"{values.shape}. Pass interval[:, j] for output j, interval[..., l] for level l."
        )
    check_bounds(values[:, 0], values[:, 1])
    return values


def check_row_values(values: Any, n_samples: int, name: str) -> Array:
    """Return one number per row as float64 (m,), without NaN; (m, 1) becomes (m,)."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape == (n_samples, 1):
        numbers = numbers[:, 0]
    if numbers.shape != (n_samples,):
        raise ValueError(
            f"{name} must hold one number per row, shape ({n_samples},); got shape {numbers.shape}. With several "
            "outputs, pass one column at a time."
        )
    check_no_nan(numbers, name)
    return numbers


def check_leverages(leverage: Any, name: str = "leverage") -> Array:
    """Return leverages as float64 (n,), n >= 1, each >= 0; infinity is allowed."""
    values = np.asarray(leverage, dtype=np.float64)
    if values.ndim == 0 or not len(values):
        raise ValueError(f"{name} must hold at least one row; got shape {values.shape}.")
    values = check_row_values(values, len(values), name)
    if (values < 0).any():
        row = int(np.flatnonzero(values < 0)[0])
        raise ValueError(f"{name} must be >= 0; row {row} has {values[row]}.")
    return values


def check_at_least(value: Any, least: int, name: str) -> int:
    """Return an integer >= `least`."""
    if not isinstance(value, Integral) or isinstance(value, (bool, np.bool_)) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}.")
    return int(value)


def check_between(value: Any, low: float, high: float, name: str, *, low_allowed: bool = True) -> float:
    """Return a number in [low, high), or in (low, high) where `low` itself is not allowed."""
    number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    if not number or not low <= float(value) < high or (float(value) == low and not low_allowed):
        raise ValueError(f"{name} must be a number in {'[' if low_allowed else '('}{low}, {high}); got {value!r}.")
    return float(value)


def check_rows_for_noise(n_rows: int) -> None:
    """Raise if there are too few rows to estimate noise."""
    if n_rows < 2:
        raise ValueError(f"at least 2 training rows are needed to estimate the noise; got {n_rows}.")


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line outside this package that called it, for any depth of calls inside the package."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "hatband":
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, category, stacklevel=depth)


@contextmanager
def unchanged_on_failure(estimator: Any) -> Iterator[None]:
    """Restore the attributes of an estimator if anything inside fails, an interrupt included."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
