"""Scores, p-values and levels of a stream: for each output, and for each side where the two sides differ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hatband.arrays.typing import Array, Float
from hatband.conformal.online.levels import LevelAdaptation
from hatband.conformal.online.scores import ScoreWindow
from hatband.formulas.order_statistics import exact_level, minimum_calibration_size


@dataclass(frozen=True, eq=False)
class StreamCalibration:
    """The latest scores of a stream and where its levels stand; every verb leaves it as it was.

    Parameters
    ----------
    adaptation : LevelAdaptation
        How levels move.
    levels : tuple of float
        Confidence levels that are followed.
    symmetric : bool
        One column |score| per output; else two, score and -score, each with half of the miscoverage.
    scores : array of shape (n, q)
        Signed scores, oldest first.
    windows : tuple of ScoreWindow
        One for each column.
    states : tuple of tuple
        State of each column at each level.
    """

    adaptation: LevelAdaptation
    levels: tuple[Any, ...]
    symmetric: bool
    scores: Float[Array, "n q"]
    windows: tuple[ScoreWindow, ...]
    states: tuple[tuple[Any, ...], ...]

    @classmethod
    def empty(
        cls, adaptation: LevelAdaptation, levels: Sequence[Any], symmetric: bool, n_outputs: int, size: int
    ) -> "StreamCalibration":
        """Return the calibration before the first score."""
        columns = n_outputs * (1 if symmetric else 2)
        start = tuple(adaptation.start(_share(level, symmetric)) for level in levels)
        windows = tuple(ScoreWindow(size) for _ in range(columns))
        return cls(adaptation, tuple(levels), symmetric, np.empty((0, n_outputs)), windows, (start,) * columns)

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.scores.shape[1]

    def followed(self, scores: Float[Array, "b q"]) -> tuple[Float[Array, "c L b"], "StreamCalibration"]:
        """Return the miscoverage that each column met each score with at each level, and the calibration after."""
        used, windows, states = [], [], []
        for column, window, before in zip(self._columns(scores), self.windows, self.states, strict=True):
            grown = window.copy()
            p_values = grown.follow(column)
            met = [
                self._advanced(state, p_values, self._wait(level) - len(window))
                for level, state in zip(self.levels, before, strict=True)
            ]
            used.append([miscoverage for miscoverage, _ in met])
            states.append(tuple(state for _, state in met))
            windows.append(grown)
        kept = np.concatenate([self.scores, scores])[-self.windows[0].size :]
        after = replace(self, scores=kept, windows=tuple(windows), states=tuple(states))
        return np.array(used).reshape(len(windows), len(self.levels), len(scores)), after

    def _advanced(self, state: Any, p_values: Array, wait: int) -> tuple[Array, Any]:
        """Move a level on; rows met with too few scores to support it get infinite intervals and teach it nothing."""
        wait = min(max(wait, 0), len(p_values))
        used, after = self.adaptation.advance(state, p_values[wait:])
        return np.concatenate([np.zeros(wait), used]), after

    def _wait(self, level: Any) -> int:
        return minimum_calibration_size(level, self.symmetric)

    def thresholds_met(
        self, scores: Float[Array, "b q"], used: Float[Array, "c L b"]
    ) -> list[tuple[Float[Array, "b q"], Float[Array, "b q"]]]:
        """Return lower and upper thresholds, for each level, as they stood before each of these scores."""
        columns = zip(self.windows, self._columns(scores), used, strict=True)
        found = np.stack([window.thresholds(column, miscoverages) for window, column, miscoverages in columns])
        return [self._pair(found[:, index].T) for index in range(len(self.levels))]

    def thresholds(self, level: Any) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
        """Return lower and upper thresholds of the next row at a confidence level, followed or not."""
        columns = zip(self.windows, self.states, strict=True)
        found = [window.threshold(self._miscoverage(window, states, level)) for window, states in columns]
        return self._pair(np.array(found))

    def _miscoverage(self, window: ScoreWindow, states: tuple[Any, ...], level: Any) -> float:
        """Miscoverage of a column now; a level that is not followed is taken through the p-values that are kept."""
        wanted, wait = exact_level(level), self._wait(level)
        if len(window) < wait:
            return 0.0
        for followed, state in zip(self.levels, states, strict=True):
            if exact_level(followed) == wanted:
                return self.adaptation.miscoverage(state)
        start = self.adaptation.start(_share(level, self.symmetric))
        return self.adaptation.miscoverage(self._advanced(start, window.p_values, wait)[1])

    def _columns(self, scores: Array) -> Array:
        """One row per column, larger being stranger: all upper sides, then all lower sides."""
        return np.abs(scores).T if self.symmetric else np.hstack([scores, -scores]).T

    def _pair(self, found: Array) -> tuple[Array, Array]:
        """Lower and upper thresholds (..., q) of columns (..., c)."""
        if self.symmetric:
            return -found, found
        upper, lower = np.split(found, 2, axis=-1)
        return -lower, upper


def _share(level: Any, symmetric: bool) -> float:
    """Miscoverage of one column, correctly rounded."""
    return float((1 - exact_level(level)) / (1 if symmetric else 2))
