"""The band of a trained model: its centre, its width, and the scores of rows in units of that width."""

import warnings
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, check_widths
from hatband.fitted.rows import Rows


def shift_and_width(scale: Any, rows: Rows) -> tuple[Any, Array]:
    """Return what a scale says of rows: its shift, and its width (m, 1) or (m, q) once that has been checked."""
    shift, width = scale.predict(rows)
    name = getattr(scale, "function", type(scale)).__name__
    return shift, check_widths(width, lambda: np.isinf(rows.leverage), len(rows), name)


def band_of(scale: Any, rows: Rows, target: Any) -> tuple[Array, Array]:
    """Return centre (m, q) and width (m, 1) or (m, q) of the band, on the scale of the scores."""
    shift, width = shift_and_width(scale, rows)
    return target.read(rows.prediction) + shift, width


def scores_of(scale: Any, rows: Rows, target: Any, y: Array, stacklevel: int) -> Array:
    """Return signed scores (y - prediction - shift) / width of rows that the model has not seen."""
    center, width = band_of(scale, rows, target)
    scores = (target.forward(y) - center) / width
    infinite = np.isinf(np.broadcast_to(width, scores.shape)).any(axis=1)
    if infinite.mean() >= 0.5:
        warnings.warn(
            f"{infinite.sum()} of {len(scores)} calibration rows lie outside the span of the training rows and "
            "have infinite leverage: intervals will be infinite for such rows and too narrow to mean anything for "
            "the others. Give the estimator a ridge > 0, or more training rows than features.",
            LeverageWarning,
            stacklevel=stacklevel + 1,
        )
    return scores


def warn_if_outside(width: Array, stacklevel: int) -> None:
    """Say how many rows have infinite intervals because their leverage is infinite."""
    outside = np.isinf(width).any(axis=1).sum()
    if outside:
        warnings.warn(
            f"{outside} of {len(width)} rows lie outside the span of the training rows (infinite leverage): their "
            "intervals are (-inf, inf). A ridge > 0 in the estimator makes them finite.",
            LeverageWarning,
            stacklevel=stacklevel + 1,
        )


def mapped_back(target: Any, bound: Array, unknown: float) -> Array:
    """Bring a bound to the scale of y; where the inverse has no value the bound is infinite."""
    mapped = target.backward(bound)
    return np.where(np.isnan(mapped), unknown, mapped)
