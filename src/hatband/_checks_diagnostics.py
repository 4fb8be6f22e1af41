"""Checks of what a user passes to diagnostics."""

from numbers import Integral, Real
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_bounds, check_no_nan


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
    """Return one number per row as float64 (m,), none of them NaN; a single column is taken as one."""
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
    """Return leverages as float64 (n,), n >= 1, each >= 0; infinite ones pass."""
    values = np.asarray(leverage, dtype=np.float64)
    if values.ndim == 0 or not len(values):
        raise ValueError(f"{name} must hold at least one row; got shape {values.shape}.")
    values = check_row_values(values, len(values), name)
    if (values < 0).any():
        row = int(np.flatnonzero(values < 0)[0])
        raise ValueError(f"{name} must be >= 0; row {row} has {values[row]}.")
    return values


def check_row_labels(labels: Any, n_samples: int, name: str) -> Array:
    """Return one label per row, of at least two kinds."""
    values = np.asarray(labels)
    if values.shape != (n_samples,):
        raise ValueError(f"{name} must hold one label per row, shape ({n_samples},); got shape {values.shape}.")
    if (values == values[0]).all():
        raise ValueError(f"{name} must name at least two repetitions; got one. Leave it out for a single one.")
    return values


def check_share(share: Any, name: str) -> float:
    """Return a share of the rows in (0, 1]."""
    if not isinstance(share, Real) or isinstance(share, bool) or not 0 < float(share) <= 1:
        raise ValueError(f"{name} must be a share of the rows in (0, 1]; got {share!r}.")
    return float(share)


def check_count(count: Any, smallest: int, name: str) -> int:
    """Return a whole number that is large enough."""
    if not isinstance(count, Integral) or isinstance(count, bool) or count < smallest:
        raise ValueError(f"{name} must be an integer >= {smallest}; got {count!r}.")
    return int(count)


def check_counts(hits: Any, trials: Any) -> tuple[Array, Array]:
    """Return numbers of hits and trials of one shape, 0 <= hits <= trials."""
    k, n = np.broadcast_arrays(np.asarray(hits), np.asarray(trials))
    if not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(n.dtype, np.integer)):
        raise ValueError(f"hits and n_samples must be whole numbers; got {k.dtype} and {n.dtype}.")
    if not ((k >= 0) & (k <= n)).all():
        raise ValueError("hits must be at least 0 and at most n_samples.")
    return k, n


def check_strength(strength: Any) -> float:
    """Return the factor of leverage in the variance 1 + strength h."""
    if not isinstance(strength, Real) or isinstance(strength, bool) or not 0 <= float(strength) < float("inf"):
        raise ValueError(f"strength must be a finite number >= 0; got {strength!r}.")
    return float(strength)


def check_features(X: Any, n_samples: int) -> Array:
    """Return numeric features as float64 (m, d), d >= 1, finite."""
    values = np.asarray(X)
    if values.ndim != 2 or len(values) != n_samples or not values.shape[1]:
        raise ValueError(f"X must hold numbers of the same {n_samples} rows, shape (m, d); got shape {values.shape}.")
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("X must be numeric; encode text columns first, as the model's Pipeline does.") from error
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"X must be finite; row {row} holds NaN or infinity. Impute or drop such rows first.")
    return values


def check_scored(interval: Any, y: Array) -> None:
    """Raise unless intervals (m, [q,] 2, L) belong to targets (m[, q])."""
    shape = np.shape(interval)
    if len(shape) < 3 or shape[:-2] != y.shape or shape[-2] != 2:
        raise ValueError(
            "y must have the shape of the y that the estimator was fitted to, and its intervals one more axis for "
            f"lower and upper and one for levels; got y of shape {y.shape} and intervals of shape {shape}."
        )
