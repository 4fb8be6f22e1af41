"""Ridge regression of a stream: prediction and leverage of every row, from the model of all rows before it.

Rows since the last factorisation are `pending`. With H their cross-leverages under it, W their weights and
W^-1 + H = L L', row i of L holds what row i shares with those before it: its leverage once they are seen is
h_ii - sum_j<i L_ij^2, and L^-1 (y - prediction) are its standardised errors - with unit weights
(y_i - prediction_i) / (1 + h_i)^1/2, the recursive residuals of Brown, Durbin and Evans (1975).
"""

from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import scipy.linalg

from hatband.arrays.typing import Array, Float
from hatband.linalg import Factor, TriangularStatistics

# Pending rows are worked out as differences from the factor: beyond this leverage they would lose too many digits.
_LARGEST_LEVERAGE = 1e6
# Rows between two factorisations, unless there are more features.
_BLOCK = 64
# A row of weight 0 has infinite noise; this much leaves no trace either, and its root can be divided by.
_LEAST_WEIGHT = 1e-300


class StreamRows(NamedTuple):
    """Consecutive rows of a stream."""

    features: Float[Array, "b d"]
    y: Float[Array, "b q"]
    weights: Float[Array, " b"]

    def take(self, part: slice) -> "StreamRows":
        """Return some of the rows."""
        return StreamRows(self.features[part], self.y[part], self.weights[part])

    def join(self, other: "StreamRows") -> "StreamRows":
        """Return these rows and others after them."""
        features, y, weights = (np.concatenate(pair) for pair in zip(self, other, strict=True))
        return StreamRows(features, y, weights)


class Forecast(NamedTuple):
    """Prediction and leverage of each row, from the model of the rows before it."""

    prediction: Float[Array, "m q"]
    leverage: Float[Array, " m"]


class RowMemory(Protocol):
    """The statistics that a stream keeps of its rows. Nothing is subtracted, so errors do not accumulate."""

    def add(self, features: Float[Array, "b d"], y: Float[Array, "b q"], weights: Float[Array, " b"]) -> "RowMemory":
        """Return the memory with one more block."""
        ...

    def total(self) -> TriangularStatistics:
        """Return the statistics of the rows that are remembered."""
        ...


@dataclass(frozen=True, eq=False)
class GrowingMemory:
    """Statistics of all rows: O(d^2) numbers, 2 d^2 operations per row.

    Parameters
    ----------
    statistics : TriangularStatistics
        Of all rows so far.
    """

    statistics: TriangularStatistics

    def add(
        self, features: Float[Array, "b d"], y: Float[Array, "b q"], weights: Float[Array, " b"]
    ) -> "GrowingMemory":
        """Return the memory with one more block."""
        return GrowingMemory(self.statistics.add(features, y, weights))

    def total(self) -> TriangularStatistics:
        """Return the statistics of all rows."""
        return self.statistics


@dataclass(frozen=True, eq=False)
class SlidingMemory:
    """Statistics of the latest rows, as a queue of blocks made of two stacks: dropping a block subtracts nothing.

    Parameters
    ----------
    window, block_size : int
        At least `window` rows are kept, in blocks of at least `block_size` rows.
    old : tuple of TriangularStatistics
        Statistics of the older blocks from some block on; the last entry has all of them.
    new : tuple of TriangularStatistics
        Statistics of each newer block.
    recent : TriangularStatistics
        All newer blocks together.
    open : TriangularStatistics
        Rows of the block that is being filled.

    Notes
    -----
    Three merges per block on average; one block in window / block_size pays for all of them. Memory: a triangle of d^2
    numbers per block. Rows kept: at least `window`, fewer than `window` + 3 `block_size`.
    """

    window: int
    block_size: int
    old: tuple[TriangularStatistics, ...]
    new: tuple[TriangularStatistics, ...]
    recent: TriangularStatistics
    open: TriangularStatistics

    def add(
        self, features: Float[Array, "b d"], y: Float[Array, "b q"], weights: Float[Array, " b"]
    ) -> "SlidingMemory":
        """Return the memory with one more block and without the blocks that are no longer in the window."""
        grown = replace(self, open=self.open.add(features, y, weights))
        if grown.open.n_samples >= self.block_size:
            grown = grown._closed()
        while grown._rows() - grown._oldest() >= self.window:
            grown = grown._turned()._dropped()
        return grown

    def total(self) -> TriangularStatistics:
        """Return the statistics of the rows in the window."""
        newest = self.recent.merge(self.open)
        return self.old[-1].merge(newest) if self.old else newest

    def _closed(self) -> "SlidingMemory":
        empty = _empty_like(self.open)
        return replace(self, new=(*self.new, self.open), recent=self.recent.merge(self.open), open=empty)

    def _turned(self) -> "SlidingMemory":
        """When the older stack is empty, the newer blocks become the older stack."""
        if self.old:
            return self
        suffixes = tuple(accumulate(reversed(self.new), lambda later, block: block.merge(later)))
        return replace(self, old=suffixes, new=(), recent=_empty_like(self.recent))

    def _dropped(self) -> "SlidingMemory":
        return replace(self, old=self.old[:-1])

    def _rows(self) -> int:
        return (self.old[-1].n_samples if self.old else 0) + self.recent.n_samples + self.open.n_samples

    def _oldest(self) -> int:
        """Number of rows in the oldest closed block; all rows if there is no closed block."""
        if self.old:
            return self.old[-1].n_samples - (self.old[-2].n_samples if len(self.old) > 1 else 0)
        return self.new[0].n_samples if self.new else self._rows()


def _empty_like(statistics: TriangularStatistics) -> TriangularStatistics:
    return TriangularStatistics.empty(statistics.n_features, statistics.n_targets)


def row_memory(n_features: int, n_targets: int, window: int | None, block_size: int) -> RowMemory:
    """Return an empty memory for all rows (window None) or the latest ones."""
    empty = TriangularStatistics.empty(n_features, n_targets)
    if window is None:
        return GrowingMemory(empty)
    return SlidingMemory(window, block_size, (), (), empty, empty)


@dataclass(frozen=True, eq=False)
class Base:
    """The model at the last factorisation; no factor before the first row.

    Parameters
    ----------
    factor : Factor or None
        Of A = Phi'W Phi + ridge.
    slopes : array of shape (d, q)
        Of the ridge regression.
    mean, y_mean : array of shape (d,) and (q,)
        Where it passes through; zeros without an intercept.
    """

    factor: Factor | None
    slopes: Float[Array, "d q"]
    mean: Float[Array, " d"]
    y_mean: Float[Array, " q"]

    @classmethod
    def of(cls, statistics: TriangularStatistics, ridge: float, fit_intercept: bool) -> "Base":
        """Return the model of the rows that the statistics hold."""
        d, q = statistics.n_features, statistics.n_targets
        if not statistics.weight:
            return cls(None, np.zeros((d, q)), np.zeros(d), np.zeros(q))
        slopes, _ = statistics.coefficients(ridge, fit_intercept)
        centre = (statistics.mean, statistics.y_mean) if fit_intercept else (np.zeros(d), np.zeros(q))
        return cls(statistics.factor(ridge, fit_intercept), slopes, *centre)

    @property
    def n_samples(self) -> int:
        """Number of rows at the last factorisation."""
        return 0 if self.factor is None else self.factor.n_samples

    def seen(self, features: Float[Array, "m d"]) -> Forecast:
        """Return predictions and leverages; leverages are infinite before the first row."""
        prediction = (features - self.mean) @ self.slopes + self.y_mean
        if self.factor is None:
            return Forecast(prediction, np.full(len(features), np.inf))
        return Forecast(prediction, self.factor.leverage(features))

    def half(self, features: Float[Array, "m d"]) -> Float[Array, "k m"]:
        """Return Z with Z'Z the cross-leverages of these rows, the intercept's share included."""
        if self.factor is None:
            return np.zeros((0, len(features)))
        half = self.factor.half_solve(features)
        if not self.factor.fit_intercept:
            return half
        return np.vstack([half, np.full(len(features), self.factor.frame.weight**-0.5)])


@dataclass(frozen=True, eq=False)
class Pending:
    """Rows since the last factorisation.

    Parameters
    ----------
    rows : StreamRows
        As they came.
    half : array of shape (k, r)
        Z with Z'Z = H, their cross-leverages.
    lower : array of shape (r, r)
        L with L L' = W^-1 + H.
    errors : array of shape (r, q)
        L^-1 (y - prediction of the base).
    """

    rows: StreamRows
    half: Float[Array, "k r"]
    lower: Float[Array, "r r"]
    errors: Float[Array, "r q"]

    @classmethod
    def none(cls, base: Base) -> "Pending":
        """Return no rows."""
        d, q = base.slopes.shape
        rows = StreamRows(np.zeros((0, d)), np.zeros((0, q)), np.zeros(0))
        return cls(rows, base.half(rows.features), np.zeros((0, 0)), np.zeros((0, q)))

    def __len__(self) -> int:
        return len(self.lower)

    def shared(self, half: Float[Array, "k m"]) -> Float[Array, "r m"]:
        """Return L^-1 H' for the cross-leverages H of other rows and these rows."""
        if not len(self):
            return np.zeros((0, half.shape[1]))
        return scipy.linalg.solve_triangular(self.lower, self.half.T @ half, lower=True, check_finite=False)

    def update(self, seen: Forecast, shared: Float[Array, "r m"]) -> Forecast:
        """Return predictions and leverages of other rows by the base, updated with these rows."""
        left = seen.leverage - np.einsum("ij,ij->j", shared, shared)
        return Forecast(seen.prediction + shared.T @ self.errors, left.clip(0.0))

    def followed(self, base: Base, rows: StreamRows, seen: Forecast) -> tuple[Forecast, "Pending"]:
        """Return the forecast of each row from the rows before it, and the pending rows with these added."""
        half = base.half(rows.features)
        shared = self.shared(half)
        known = self.update(seen, shared)
        noise = np.diag(1 / np.maximum(rows.weights, _LEAST_WEIGHT))
        corner = scipy.linalg.cholesky(noise + half.T @ half - shared.T @ shared, lower=True, check_finite=False)
        errors = scipy.linalg.solve_triangular(corner, rows.y - known.prediction, lower=True, check_finite=False)
        earlier = np.tril(corner, -1)
        leverage = known.leverage - np.einsum("ij,ij->i", earlier, earlier)
        lower = np.block([[self.lower, np.zeros(shared.shape)], [shared.T, corner]])
        pending = Pending(
            self.rows.join(rows), np.hstack([self.half, half]), lower, np.concatenate([self.errors, errors])
        )
        return Forecast(known.prediction + earlier @ errors, leverage.clip(0.0)), pending


@dataclass(frozen=True, eq=False)
class StreamingRidge:
    """Ridge regression of the rows of a stream, or of the latest ones; every method returns a new object.

    Parameters
    ----------
    ridge : float
        Ridge in the sum convention.
    fit_intercept : bool
        Whether there is an intercept, which is not penalised.
    block_size : int
        Most rows between two factorisations.
    memory : RowMemory
        Statistics of the rows up to the last factorisation.
    base : Base
        The model of these.
    pending : Pending
        The rows since.

    Notes
    -----
    d^2 + r d operations per row for r <= block_size pending rows, and one factorisation, O(d^3), per block of at least
    d rows (of window / 8, where that is less). What is known of a row does not depend on the calls that rows came in.
    """

    ridge: float
    fit_intercept: bool
    block_size: int
    memory: RowMemory
    base: Base = field(repr=False)
    pending: Pending = field(repr=False)

    @classmethod
    def empty(
        cls, n_features: int, n_targets: int, *, ridge: float, fit_intercept: bool, window: int | None
    ) -> "StreamingRidge":
        """Return the model before the first row."""
        size = max(_BLOCK, n_features)
        size = size if window is None else max(1, min(size, window // 8))
        memory = row_memory(n_features, n_targets, window, size)
        base = Base.of(memory.total(), ridge, fit_intercept)
        return cls(ridge, fit_intercept, size, memory, base, Pending.none(base))

    @property
    def n_samples(self) -> int:
        """Number of latest rows that the model is fitted to."""
        return self.base.n_samples + len(self.pending)

    def seen(self, features: Float[Array, "m d"]) -> Forecast:
        """Return predictions and leverages of new rows."""
        size = 4096
        parts = [self._seen(features[start : start + size]) for start in range(0, max(len(features), 1), size)]
        return Forecast(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def _seen(self, features: Array) -> Forecast:
        return self.pending.update(self.base.seen(features), self.pending.shared(self.base.half(features)))

    def follow(self, rows: StreamRows) -> tuple[Forecast, "StreamingRidge"]:
        """Return the forecast of each row from the rows before it, and the model of all rows."""
        model, parts, start = self, [], 0
        while start < len(rows.weights):
            known, model = model._taken(rows.take(slice(start, start + model._room())))
            parts.append(known)
            start += len(known.leverage)
        return Forecast(*(np.concatenate(values) for values in zip(*parts, strict=True))), model

    def _room(self) -> int:
        """Rows until the next factorisation: an early block is as long as all rows before it."""
        return min(self.block_size, max(1, self.base.n_samples)) - len(self.pending)

    def _taken(self, rows: StreamRows) -> tuple[Forecast, "StreamingRidge"]:
        """Take as many of the rows as fit before the next factorisation, at least one."""
        seen = self.base.seen(rows.features)
        trusted = seen.leverage * np.maximum(rows.weights, 1.0) <= _LARGEST_LEVERAGE
        count = len(trusted) if trusted.all() else int(np.argmin(trusted))
        if count:
            return self._joined(rows.take(slice(count)), Forecast(*(values[:count] for values in seen)))
        if len(self.pending):
            return self._refactored(self.pending.rows)._taken(rows.take(slice(1)))
        return Forecast(*(values[:1] for values in seen)), self._refactored(rows.take(slice(1)))

    def _joined(self, rows: StreamRows, seen: Forecast) -> tuple[Forecast, "StreamingRidge"]:
        known, pending = self.pending.followed(self.base, rows, seen)
        model = replace(self, pending=pending)
        return known, model if model._room() else model._refactored(pending.rows)

    def _refactored(self, rows: StreamRows) -> "StreamingRidge":
        """Return the model with these rows in its memory and no pending rows."""
        memory = self.memory.add(*rows)
        base = Base.of(memory.total(), self.ridge, self.fit_intercept)
        return replace(self, memory=memory, base=base, pending=Pending.none(base))
