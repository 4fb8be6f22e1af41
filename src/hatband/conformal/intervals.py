"""From scores to thresholds to bounds: the arithmetic that every split-conformal estimator shares."""

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import CalibrationWarning
from hatband.formulas.order_statistics import conformal_quantile, minimum_calibration_size, side_level

#: Upper thresholds (q,) or (m, q) of scores (n, q) at a level.
Quantile: TypeAlias = Callable[[Array, Any], Array]


def thresholds(
    scores: Array, confidence_level: Any, symmetric: bool, quantile: Quantile = conformal_quantile
) -> tuple[Array, Array]:
    """Return (lower, upper) thresholds of signed scores (n, q): -q and q when symmetric, else half the miscoverage.

    The lower threshold is minus the upper one of the scores with their signs changed.
    """
    if symmetric:
        upper = quantile(np.abs(scores), confidence_level)
        return -upper, upper
    side = side_level(confidence_level)
    return -quantile(-scores, side), quantile(scores, side)


def reach(width: Array, spread: Array) -> Array:
    """Return spread x width, infinite where the width is: nothing is known of a row whose leverage is infinite."""
    with np.errstate(invalid="ignore"):
        product = width * spread
    infinite = np.isinf(width)
    if infinite.any():
        product[np.broadcast_to(infinite, product.shape)] = np.inf
    return product


def bounds(center: Array, width: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return center + threshold x width (m, q); an infinite threshold or width makes an infinite bound."""
    return center - reach(width, -lower), center + reach(width, upper)


def layout(levels: list[tuple[Array, Array]], single_target: bool, single_level: bool) -> Array:
    """Stack per-level bounds (m, q) into (m[, q], 2[, L]): no output axis for 1-D y, no level axis for one level."""
    stacked = np.stack([np.stack(pair, axis=-1) for pair in levels], axis=-1)
    if single_target:
        stacked = stacked[:, 0]
    return stacked[..., 0] if single_level else stacked


def too_few(rows: str, level: Any, needed: int) -> str:
    """Say that so many rows are too few for a level, and how many would do."""
    kind = rows.partition(" ")[2]
    return (
        f"{rows} cannot support confidence level {level}: its intervals are (-inf, inf). At least {needed} {kind} are "
        "needed."
    )


def warn_if_too_few(rows: str, n_samples: int, levels: list[Any], symmetric: bool, stacklevel: int) -> bool:
    """Whether the rows are too few for the highest level; say so."""
    highest = max(levels, key=float)
    needed = minimum_calibration_size(highest, symmetric)
    if n_samples < needed:
        warnings.warn(too_few(f"{n_samples} {rows}", highest, needed), CalibrationWarning, stacklevel=stacklevel + 1)
    return n_samples < needed
