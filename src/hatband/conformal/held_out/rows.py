"""All n leave-one-out models of a linear smoother, read off one factorisation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.conformal.held_out.plus import HeldOut, Reach
from hatband.conformal.pointwise import widths_at
from hatband.conformal.training import TrainingData
from hatband.fitted.cross_leverage import Crossing, check_predictions, crossing_of, row_blocks
from hatband.fitted.rank_bounds import Contenders, value_range
from hatband.fitted.rows import Rows, honest_rows, left_out, predict_features
from hatband.formulas.leave_one_out import (
    loo_leverage_at,
    loo_predictions,
    loo_sampling_leverage_at,
)
from hatband.geometry import Features, Space


@dataclass(frozen=True, eq=False)
class LeaveOneOut(HeldOut):
    """n models that each miss one row: mu_-i(x) = mu(x) - h(x, x_i) w_i r_i, r_i = e_i / (1 - w_i h_i).

    Parameters
    ----------
    estimator : fitted estimator
    space : Space
        Of exactness "exact" or "given".
    crossing : Crossing
        Cross-leverage to the training rows.
    scale : fitted scale
        A function of leverage alone.
    leverage : array (n, 1) or (n, q)
        h of the training rows.
    sampling : array (n, 1) or (n, q), or None
        s of the training rows; None where the scale does not look at it.
    residuals : array (n, q)
        Leave-one-out residuals r_i; infinite where the model interpolates the row.
    scores : array (n, q)
        r_i / width_-i(x_i).
    block_size : int or None
        New rows at a time.
    """

    estimator: Any
    space: Space
    crossing: Crossing
    scale: Any
    leverage: Array
    sampling: Array | None
    residuals: Array
    scores: Array
    block_size: int | None = None

    @classmethod
    def of(cls, estimator: Any, space: Space, given: TrainingData, scale: Any, block_size: int | None) -> Self:
        """Return the leave-one-out models of an estimator that was fitted to the rows given.

        Raises
        ------
        ValueError
            If the predictions are not those of the linear smoother that the space describes.
        """
        y, weights, features = given.y, given.weight, space.features(given.X)
        crossing = crossing_of(space, features, weights)
        predicted = predict_features(estimator, space, features, y.shape[1])
        check_predictions(estimator, crossing, features, predicted, y)
        h = crossing.training_leverage(features).reshape(len(y), -1)
        residuals = left_out(y - predicted, h, crossing.weights)
        rows = honest_rows(space, features, y - residuals, h, crossing.weights)
        defined = np.isfinite(residuals).all(axis=1)
        scores, known = residuals.copy(), rows.take(defined)
        if defined.any():
            scale.fit(known, residuals[defined], None if weights is None else weights[defined])
            shape = (len(known), h.shape[1])
            scores[defined] /= widths_at(scale, shape, lambda: known.leverage, lambda: known.sampling_leverage)
        s = _sampling(space, features) if _was_read(rows, "sampling_leverage") else None
        return cls(estimator, space, crossing, scale, h, s, residuals, scores, block_size)

    def features(self, X: Any) -> Features:
        """Run preprocessing and the feature map once."""
        return self.space.features(X)

    def prediction(self, features: Features) -> Array:
        """Return mu(x) (m, q)."""
        return predict_features(self.estimator, self.space, features, self.scores.shape[1])

    def width(self, features: Features) -> Array:
        """Return the width at h(x) (m, 1) or (m, q)."""
        verbs = partial(self.space.leverage, features), partial(self.space.sampling_leverage, features)
        return widths_at(self.scale, (len(features), self.leverage.shape[1]), *verbs)

    def around(self, features: Features, spread: Array) -> Iterator[Reach]:
        """Yield mu_-i(x) -+ spread_i width_-i(x); per block, a handful of arrays of its size times n."""
        mu, h, everyone = self.prediction(features), self._leverages(features), np.arange(len(spread))
        for part in row_blocks(len(features), len(spread), self.block_size):
            ends = self._ends(features.take(part), mu[part], h[part], spread, everyone)
            yield from (Reach(part, j, low, high) for j, (low, high) in enumerate(ends))

    def near(self, features: Features, spread: Array, ranks: list[int]) -> Iterator[Reach]:
        """Yield the same for training rows that can hold one of the ranks, new rows of like leverage together."""
        power = self.scale.leverage_exponent
        if power is None:
            yield from self.around(features, spread)
            return
        mu, h = self.prediction(features), self._leverages(features)
        order = np.argsort(h.max(axis=1))
        for part in row_blocks(len(features), len(spread), self.block_size):
            index = order[part]
            found = Contenders.among([self._range(j, h[index], spread, power) for j in range(mu.shape[1])], ranks)
            ends = self._ends(features.take(index), mu[index], h[index], spread, found.columns)
            for j, (low, high) in enumerate(ends):
                yield Reach(index, j, low, high, int(found.below[j]), int(found.above[j]))

    def _leverages(self, features: Features) -> Array:
        """Return h(x) (m, 1) or (m, q)."""
        return self.space.leverage(features).reshape(len(features), -1)

    def _range(self, j: int, h: Array, spread: Array, power: float) -> tuple[Array, Array]:
        train = spread[:, j], self.residuals[:, j], _column(self.leverage, j)
        return value_range(*train, self.crossing.weights, h=_column(h, j), power=power)

    def _ends(
        self, rows: Features, mu: Array, h: Array, spread: Array, columns: Array
    ) -> Iterator[tuple[Array, Array]]:
        """Yield mu_-i(x) -+ spread_i width_-i(x) (b, k) of each output, for the training rows i in `columns`."""
        every, w = self.crossing(rows, columns), self.crossing.weights
        w = None if w is None else w[columns]
        for j in range(mu.shape[1]):
            cross, residuals = _output(every, j), self.residuals[columns, j]
            leverage = partial(loo_leverage_at, _column(h, j), cross, _column(self.leverage, j)[columns], w)
            width = widths_at(self.scale, cross.shape, leverage, partial(self._sampling, rows, every, j))
            center = loo_predictions(mu[:, j], cross, residuals, w)
            reach = _reach(width, spread[columns, j], residuals)
            yield center - reach, center + reach

    def _sampling(self, rows: Features, cross: Array, j: int) -> Array:
        """Return s_-i(x) (b, n)."""
        return loo_sampling_leverage_at(
            _column(self.space.sampling_leverage(rows), j),
            _output(cross, j),
            _output(self.crossing.smoothed(cross), j),
            s_train=_column(self.sampling, j),
            h_train=_column(self.leverage, j),
            w=self.crossing.weights,
        )


def _reach(width: Array, spread: Array, residuals: Array) -> Array:
    """Return spread_i width_-i(x) (b, k), infinite where there is no model or no finite width."""
    with np.errstate(invalid="ignore"):
        reach = width * spread
    infinite = np.isinf(width)
    if infinite.any():
        reach[infinite] = np.inf
    reach[:, np.isinf(residuals)] = np.inf
    return reach


def _sampling(space: Space, features: Features) -> Array:
    """Return s(x_i) (n, 1) or (n, q)."""
    return space.sampling_leverage(features).reshape(len(features), -1)


def _was_read(rows: Rows, field: str) -> bool:
    """Whether a lazy field has been computed."""
    return field in vars(rows)


def _column(values: Array, j: int) -> Array:
    """Return the leverage of output j from (m,), (m, 1) or (m, q): outputs may share one."""
    columns = values.reshape(len(values), -1)
    return columns[:, j % columns.shape[1]]


def _output(cross: Array, j: int) -> Array:
    """Return the cross-leverage of output j from (m, n) or (m, n, q)."""
    return cross if cross.ndim == 2 else cross[..., j]
