"""From calibration scores to intervals, as every estimator around networks gives them."""

from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError

from hatband.arrays.typing import Array
from hatband.conformal.band import Band, layout, thresholds, warn_if_too_few


def check_calibrated(model: Any) -> None:
    """Raise unless a trained model has calibration scores."""
    if "scores_" not in vars(model):
        raise NotFittedError(f"This {type(model).__name__} is trained but not calibrated; call calibrate first.")


def calibrated_deviation(model: Any, shift: Array, width: Array) -> Array:
    """Return mean((shift + width x score)^2)^1/2 (m, q) over the scores of a model: inf where the width is."""
    mean, spread = model.scores_.mean(axis=0), model.scores_.std(axis=0)
    known = np.isfinite(width)
    finite = np.where(known, width, 0.0)
    return np.where(known, np.hypot(shift + finite * mean, finite * spread), np.inf)


def calibrated_interval(model: Any, center: Array, width: Array, levels: list[Any], single_level: bool) -> Array:
    """Return center + threshold x width (m[, q], 2[, L]) by the scores of a model; warn of rows that make it infinite.

    To be called by what the user calls: the warnings point there.
    """
    warn_if_too_few("calibration rows", len(model.scores_), levels, model.symmetric)
    band = Band(center, center, width)
    band.warn_if_outside()
    pairs = [band.ends(*thresholds(model.scores_, level, model.symmetric)) for level in levels]
    return layout(pairs, model.single_target_, single_level)
