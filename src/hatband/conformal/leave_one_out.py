"""All n leave-one-out models of a linear smoother, read off one factorisation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from hatband._leave_one_out import (
    loo_leverage,
    loo_leverage_at,
    loo_predictions,
    loo_residuals,
    loo_sampling_leverage,
    loo_sampling_leverage_at,
)
from hatband._typing import Array
from hatband._validation import check_smoother
from hatband.conformal.crossing import Crossing, crossing_of, row_blocks
from hatband.conformal.held_out import Given, HeldOut, Reach
from hatband.conformal.pointwise import widths_at
from hatband.geometry import Features, Space
from hatband.rows import Rows, predict_features

# Training rows at which the predictions are compared with the smoother that the geometry describes.
PROBES = 16


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
    def of(cls, estimator: Any, space: Space, given: Given, scale: Any, block_size: int | None) -> Self:
        """Return the leave-one-out models of an estimator that was fitted to the rows given.

        Raises
        ------
        ValueError
            If the predictions are not those of the linear smoother that the space describes.
        """
        y, weights, features = given.y, given.weight, space.features(given.X)
        crossing = crossing_of(space, features, weights)
        predicted = predict_features(estimator, space, features, y.shape[1])
        _check_predictions(estimator, crossing, features, predicted, y)
        h = crossing.training_leverage(features).reshape(len(y), -1)
        rows, residuals = _honest_rows(space, features, crossing.weights, h, y=y, predicted=predicted)
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

    def center(self, features: Features, spread: Array) -> tuple[Array, Array]:
        """Return mu(x) -+ spread width(x) (m, q)."""
        mu, reach = self.prediction(features), spread * self.width(features)
        return mu - reach, mu + reach

    def around(self, features: Features, spread: Array) -> Iterator[Reach]:
        """Yield mu_-i(x) -+ spread_i width_-i(x); per block, a handful of arrays of its size times n."""
        mu = self.prediction(features)
        for part in row_blocks(len(features), len(self.scores), self.block_size):
            rows = features.take(part)
            cross = self.crossing(rows)
            for j in range(mu.shape[1]):
                verbs = partial(self._leverage, rows, cross, j), partial(self._sampling, rows, cross, j)
                width = widths_at(self.scale, cross.shape[:2], *verbs)
                center = loo_predictions(mu[part, j], _output(cross, j), self.residuals[:, j], self.crossing.weights)
                reach = self._reach(j, width, spread[:, j])
                yield Reach(part, j, center - reach, center + reach)

    def _reach(self, j: int, width: Array, spread: Array) -> Array:
        """Return spread_i width_-i(x) (b, n), infinite where there is no model or no finite width."""
        undefined = np.isinf(self.residuals[:, j])
        with np.errstate(invalid="ignore"):
            reach = width * spread
        infinite = np.isinf(width)
        if infinite.any():
            reach[infinite] = np.inf
        reach[:, undefined] = np.inf
        return reach

    def _leverage(self, rows: Features, cross: Array, j: int) -> Array:
        """Return h_-i(x) (b, n)."""
        h = _column(self.space.leverage(rows), j)
        return loo_leverage_at(h, _output(cross, j), _column(self.leverage, j), self.crossing.weights)

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


def _honest_rows(
    space: Space, features: Features, weights: Array | None, h: Array, *, y: Array, predicted: Array
) -> tuple[Rows, Array]:
    """Return the training rows as if each had not been seen, and their leave-one-out residuals."""
    residuals = y - predicted
    honest = np.column_stack([loo_residuals(residuals[:, j], _column(h, j), weights) for j in range(y.shape[1])])

    def sampling() -> Array:
        pairs = zip(_sampling(space, features).T, h.T, strict=True)
        return np.column_stack([loo_sampling_leverage(*pair, weights) for pair in pairs])

    rows = Rows(
        len(y),
        inputs=partial(space.inputs, features),
        leverage=lambda: np.column_stack([loo_leverage(one, weights) for one in h.T]),
        sampling_leverage=sampling,
        prediction=lambda: y - honest,
    )
    return rows, honest


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


def _check_predictions(estimator: Any, crossing: Crossing, features: Features, predicted: Array, y: Array) -> None:
    probes = np.unique(np.linspace(0, len(y) - 1, PROBES).astype(int))
    cross = crossing(features.take(probes))
    for j in range(y.shape[1]):
        response = np.column_stack([np.ones(len(y)), y[:, j]])
        response = response if crossing.weights is None else crossing.weights[:, None] * response
        total, smooth = (_output(cross, j) @ response).T
        check_smoother(predicted[probes, j], smooth, total, y[:, j], type(estimator).__name__)
