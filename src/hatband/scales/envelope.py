"""What keeps a learned width in bounds: above a floor, and not shrinking off the data."""

from dataclasses import dataclass

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows

RELATIVE_FLOOR = 1e-3


@dataclass(frozen=True)
class Envelope:
    """Bounds of the width of one output, taken from training rows.

    A learner knows nothing beyond its training rows, and a tree returns there whatever its outermost leaf holds. So a
    row whose leverage reaches the largest of the training rows gets the largest training width; and where the model
    extrapolates too, its prediction leaving the range of the training rows, that width grows with its standard error,
    by sqrt((1 + h) / (1 + reach)).

    Parameters
    ----------
    floor : float
        Smallest width: 1e-3 of the median |residual|.
    ceiling : float
        Largest width at a training row.
    reach : float
        Leverage from which a row lies beyond the training rows.
    lowest, highest : float
        Range of the training predictions.
    """

    floor: float
    ceiling: float
    reach: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, rows: Rows, width: Array, residual: Array) -> "Envelope":
        """Take the bounds from training rows of one output, their raw widths (n,) and residuals (n,)."""
        floor = smallest_width(residual)
        prediction = rows.prediction
        ceiling = max(float(width.max()), floor)
        return cls(floor, ceiling, reach(rows.leverage), float(prediction.min()), float(prediction.max()))

    def widths(self, rows: Rows, raw: Array, growth: bool) -> Array:
        """Bring raw widths (m,) into bounds; a row of infinite leverage has infinite width."""
        h, prediction = rows.leverage, rows.prediction[:, 0]
        width = np.where(h >= self.reach, self.ceiling, np.clip(raw, self.floor, self.ceiling))
        if growth:
            extrapolates = (prediction < self.lowest) | (prediction > self.highest)
            width = np.where(extrapolates, width * np.sqrt((1 + np.maximum(h, self.reach)) / (1 + self.reach)), width)
        return np.where(np.isinf(h), np.inf, width)


def smallest_width(residual: Array) -> float:
    """Return the floor of widths: relative to the median |residual|, to the mean where half of them are zero."""
    size = np.abs(residual)
    return RELATIVE_FLOOR * float(np.median(size) or size.mean()) or 1.0


def reach(leverage: Array) -> float:
    """Return the largest finite leverage, less the share 4 / n by which leaving a row out can raise it."""
    finite = leverage[np.isfinite(leverage)]
    return float(finite.max() * max(1 - 4 / len(finite), 0.0)) if finite.size else np.inf
