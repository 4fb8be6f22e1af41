"""The state of a stream: latest scores in order, adapted levels, ridge regression and band."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from hatband.arrays.typing import Array, Bool, Float
from hatband.conformal.band import Band, uncrossed
from hatband.conformal.online.levels import LevelAdaptation
from hatband.conformal.online.ridge import Forecast, StreamingRidge, StreamRows
from hatband.formulas.order_statistics import exact_level, minimum_calibration_size
from hatband.scales.base import widths_at


def rank_at(miscoverage: float, n: int) -> int:
    """Return the rank of the threshold among n scores: the number of ranks r with 1 - (r - 1) / (n + 1) > miscoverage.

    At a miscoverage of 1 - level this is `order_statistics.upper_rank(n, level)`. Adapted miscoverages are arbitrary
    numbers, at and beyond 0 and 1 too: rank n + 1 (infinite) at <= 0, and rank 1 (the least score) at its limit of 0.
    Comparing rounded quotients makes "p-value <= miscoverage" and "score > threshold" the same event.
    """
    dropped = min(int(min(max(miscoverage, 0.0), 1.0) * (n + 1)), n)
    while dropped < n and (dropped + 1) / (n + 1) <= miscoverage:
        dropped += 1
    while dropped and dropped / (n + 1) > miscoverage:
        dropped -= 1
    return n + 1 - dropped


class ScoreWindow:
    """The latest `size` scores of one column of a stream (larger: less conforming), with their p-values.

    Parameters
    ----------
    size : int
        How many scores are kept.

    Notes
    -----
    O(log size) comparisons per row and one move within a list of `size` numbers. Memory: three numbers per score.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self._p_values: deque[float] = deque(maxlen=size)

    def copy(self) -> "ScoreWindow":
        """Return an independent copy of the window."""
        other = ScoreWindow(self.size)
        other._recent, other._ordered = self._recent.copy(), self._ordered.copy()
        other._p_values = self._p_values.copy()
        return other

    def __len__(self) -> int:
        return len(self._ordered)

    @property
    def p_values(self) -> Float[Array, " n"]:
        """P-values of the scores that are kept, oldest first."""
        return np.array(self._p_values, dtype=np.float64)

    def threshold(self, miscoverage: float) -> float:
        """Return the threshold that a score exceeds when its p-value is at most the miscoverage; inf at rank n + 1."""
        rank = rank_at(miscoverage, len(self._ordered))
        return self._ordered[rank - 1] if rank <= len(self._ordered) else float("inf")

    def follow(self, scores: Float[Array, " n"]) -> Float[Array, " n"]:
        """Add scores one after the other, and return the p-value of each among those before it."""
        p_values = np.array([self._met(score) for score in scores.tolist()], dtype=np.float64)
        self._p_values.extend(p_values.tolist())
        return p_values

    def thresholds(self, scores: Float[Array, " n"], miscoverages: Float[Array, " k n"]) -> Float[Array, " k n"]:
        """Return the thresholds before each of these scores is added, one row per sequence of miscoverages."""
        walk = self.copy()
        found = [[walk.threshold(value) for value in column] for column in walk._before_each(scores, miscoverages)]
        return np.array(found, dtype=np.float64).reshape(len(scores), len(miscoverages)).T

    def _before_each(self, scores: Array, miscoverages: Array) -> Iterator[list[float]]:
        """Yield the miscoverages of each row while the window holds the scores before it."""
        for score, column in zip(scores.tolist(), miscoverages.T.tolist(), strict=True):
            yield column
            self._push(score)

    def _met(self, score: float) -> float:
        """Return (1 + number of scores >= score) / (n + 1), then add the score."""
        n = len(self._ordered)
        p_value = (1 + n - bisect_left(self._ordered, score)) / (n + 1)
        self._push(score)
        return p_value

    def _push(self, score: float) -> None:
        insort(self._ordered, score)
        self._recent.append(score)
        if len(self._recent) > self.size:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]


@dataclass(frozen=True, eq=False)
class StreamCalibration:
    """The latest scores of a stream and the state of its levels; no method changes it.

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
        """Return the miscoverage of each column and level before each score, and the calibration after all scores."""
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
        """Update a level; rows that come before there are enough scores get infinite intervals and do not change it."""
        wait = min(max(wait, 0), len(p_values))
        used, after = self.adaptation.advance(state, p_values[wait:])
        return np.concatenate([np.zeros(wait), used]), after

    def _wait(self, level: Any) -> int:
        return minimum_calibration_size(level, self.symmetric)

    def thresholds_met(
        self, scores: Float[Array, "b q"], used: Float[Array, "c L b"]
    ) -> list[tuple[Float[Array, "b q"], Float[Array, "b q"]]]:
        """Return lower and upper thresholds, for each level, before each of these scores."""
        columns = zip(self.windows, self._columns(scores), used, strict=True)
        found = np.stack([window.thresholds(column, miscoverages) for window, column, miscoverages in columns])
        return [self._pair(found[:, index].T) for index in range(len(self.levels))]

    def thresholds(self, level: Any) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
        """Return lower and upper thresholds of the next row at a confidence level, adapted along the stream or not."""
        columns = zip(self.windows, self.states, strict=True)
        found = [window.threshold(self._miscoverage(window, states, level)) for window, states in columns]
        return self._pair(np.array(found))

    def _miscoverage(self, window: ScoreWindow, states: tuple[Any, ...], level: Any) -> float:
        """Current miscoverage of a column; a level that was not adapted so far is run through the kept p-values."""
        wanted, wait = exact_level(level), self._wait(level)
        if len(window) < wait:
            return 0.0
        for followed, state in zip(self.levels, states, strict=True):
            if exact_level(followed) == wanted:
                return self.adaptation.miscoverage(state)
        start = self.adaptation.start(_share(level, self.symmetric))
        return self.adaptation.miscoverage(self._advanced(start, window.p_values, wait)[1])

    def _columns(self, scores: Array) -> Array:
        """One row per column (larger: less conforming): all upper sides, then all lower sides."""
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


class Followed(NamedTuple):
    """Rows in their order, each with the forecast from the rows before it."""

    seen: Forecast
    """Predictions and leverages."""
    counted: Bool[Array, " b"]
    """Rows of finite leverage: those that are scored."""
    scores: Float[Array, "s q"]
    """Their signed scores."""
    miscoverages: Float[Array, "c L s"]
    """Miscoverage of each column and level before each row."""
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
    """All that was learned from a stream; `follow` returns the stream with more rows and does not change this one.

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

    def follow(self, rows: StreamRows) -> tuple[Followed, "Stream"]:
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

    def band(self, seen: Forecast) -> Band:
        """Return the band over rows; its width is infinite where the leverage is, for every scale."""
        unknown = np.isinf(seen.leverage)
        width = self.widths(np.where(unknown, 0.0, seen.leverage))
        return Band(seen.prediction, seen.prediction, np.where(unknown[:, None], np.inf, width))

    def ends(
        self, seen: Forecast, lower: Float[Array, "#m q"], upper: Float[Array, "#m q"]
    ) -> tuple[Float[Array, "m q"], Float[Array, "m q"]]:
        """Return lower and upper ends; sides that cross (each has its own level) meet in the middle."""
        return uncrossed(*self.band(seen).ends(lower, upper))
