"""A stream so far: its ridge regression, its band and its levels, which follow rows together."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from hatband.arrays.typing import Array, Bool, Float
from hatband.conformal.band import Band, uncrossed
from hatband.conformal.online.calibration import StreamCalibration
from hatband.conformal.online.ridge import Block, Seen, StreamingRidge
from hatband.conformal.pointwise import widths_at


class Followed(NamedTuple):
    """Rows as they were met, each by what was known before it."""

    seen: Seen
    """Predictions and leverages."""
    counted: Bool[Array, " b"]
    """Rows of finite leverage: those that are scored."""
    scores: Float[Array, "s q"]
    """Their signed scores."""
    miscoverages: Float[Array, "c L s"]
    """What each column met them with, at each level."""
    before: StreamCalibration
    """Scores and levels before these rows."""

    def thresholds(self) -> list[tuple[Float[Array, "b q"], Float[Array, "b q"]]]:
        """Return lower and upper thresholds of each row at each level; infinite for rows that are not scored."""
        met = self.before.thresholds_met(self.scores, self.miscoverages)
        return [(self._spread(lower, -np.inf), self._spread(upper, np.inf)) for lower, upper in met]

    def _spread(self, values: Array, otherwise: float) -> Array:
        spread = np.full(self.seen.prediction.shape, otherwise)
        spread[self.counted] = values
        return spread


@dataclass(frozen=True, eq=False)
class Stream:
    """What a stream has taught so far; `follow` returns the stream with rows more and leaves this one as it was.

    Parameters
    ----------
    model : StreamingRidge
        Of all rows, or of the latest.
    scale : fitted scale
        A function of leverage alone.
    calibration : StreamCalibration
        The latest scores, and where the levels stand.
    n_samples : int
        Number of rows so far.
    """

    model: StreamingRidge
    scale: Any
    calibration: StreamCalibration
    n_samples: int = 0

    def follow(self, rows: Block) -> tuple[Followed, "Stream"]:
        """Predict, score and learn rows one after the other."""
        seen, model = self.model.follow(rows)
        counted = np.isfinite(seen.leverage)
        scores = (rows.y - seen.prediction)[counted] / self.widths(seen.leverage[counted])
        miscoverages, calibration = self.calibration.followed(scores)
        after = replace(self, model=model, calibration=calibration, n_samples=self.n_samples + len(counted))
        return Followed(seen, counted, scores, miscoverages, self.calibration), after

    def widths(self, leverage: Float[Array, " m"]) -> Float[Array, "m 1"]:
        """Return the width of the band at these leverages."""
        if not len(leverage):
            return np.empty((0, 1))
        return widths_at(self.scale, (len(leverage), 1), lambda: leverage, lambda: leverage)

    def band(self, seen: Seen) -> Band:
        """Return the band over rows; infinite where their leverage is, whatever the scale."""
        unknown = np.isinf(seen.leverage)
        width = self.widths(np.where(unknown, 0.0, seen.leverage))
        return Band(seen.prediction, seen.prediction, np.where(unknown[:, None], np.inf, width))

    def ends(
        self, seen: Seen, lower: Float[Array, "#m q"], upper: Float[Array, "#m q"]
    ) -> tuple[Float[Array, "m q"], Float[Array, "m q"]]:
        """Return lower and upper ends; sides that were followed apart and cross meet in the middle."""
        return uncrossed(*self.band(seen).ends(lower, upper))
