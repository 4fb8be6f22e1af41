"""A fitted model that is linear in y, with what closed forms need of its training rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hatband._typing import Array
from hatband._validation import check_prediction, check_smoother
from hatband.conformal.acceptance import Augmented
from hatband.geometry import Features, Geometry, Space

# Rows at which the predictions are compared with the smoother of the geometry.
PROBES = 16


@dataclass(frozen=True, eq=False)
class TrainedSmoother:
    """mu(x) = sum_i h(x, x_i) w_i y_i: a model, its space, and residuals and leverages of its training rows.

    Parameters
    ----------
    estimator : fitted estimator
    space : Space
        Of exactness "exact" or "given".
    training : Features, or None
        The training rows in feature space, n x d numbers; None where the space keeps them itself (kernels).
    weights : array (n,), or None
    residuals : array (n, q)
        y - mu(x_i).
    leverage : array (n, 1) or (n, q)
        h(x_i).
    """

    estimator: Any
    space: Space
    training: Features | None
    weights: Array | None
    residuals: Array
    leverage: Array

    @classmethod
    def of(cls, estimator: Any, geometry: Geometry, X: Any, y: Array, weights: Array | None) -> Self:
        """Measure the training rows X with targets y (n, q).

        Raises
        ------
        ValueError
            If the predictions are not those of the linear smoother that the geometry describes.
        """
        space = geometry.fit(X, weights)
        features = space.features(X)
        predicted = predict_features(estimator, space, features, y.shape[1])
        training = None if _keeps_training_rows(space, features) else Features(None, features.values)
        leverage = space.leverage(features).reshape(len(y), -1)
        smoother = cls(estimator, space, training, weights, y - predicted, leverage)
        smoother._check(features, predicted, y)
        return smoother

    def _check(self, features: Features, predicted: Array, y: Array) -> None:
        probes = np.unique(np.linspace(0, len(y) - 1, PROBES).astype(int))
        cross = self._cross(features.take(probes))
        for j in range(y.shape[1]):
            response = np.column_stack([np.ones(len(y)), y[:, j]])
            response = response if self.weights is None else self.weights[:, None] * response
            total, smooth = (cross[..., j % cross.shape[-1]] @ response).T
            check_smoother(predicted[probes, j], smooth, total, y[:, j], type(self.estimator).__name__)

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return len(self.residuals)

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.residuals.shape[1]

    @property
    def hat_diagonal(self) -> Array:
        """w_i h(x_i) (n, 1) or (n, q): the weight of a row's own y in its prediction."""
        return self.leverage if self.weights is None else self.weights[:, None] * self.leverage

    @property
    def studentised_residuals(self) -> Array:
        """Leave-one-out residual / sqrt(1 + leave-one-out leverage) (n, q), signed; with weights 1, e / sqrt(1 - h)."""
        left = np.maximum(1 - self.hat_diagonal, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.residuals / np.sqrt(left * (left + self.leverage))

    def predict(self, features: Features) -> Array:
        """Return mu(x) (m, q)."""
        return predict_features(self.estimator, self.space, features, self.n_outputs)

    def augmented(self, features: Features, rows: int) -> Iterator[tuple[slice, int, Augmented]]:
        """Yield (part of the rows, output, the fit that they may join); at most `rows` x n numbers at once."""
        for start in range(0, len(features), rows):
            part = slice(start, min(start + rows, len(features)))
            block = features.take(part)
            prediction, h, cross = self.predict(block), self._leverage(block), self._cross(block)
            for j in range(self.n_outputs):
                yield part, j, self._output(j, prediction, h, cross)

    def _output(self, j: int, prediction: Array, h: Array, cross: Array) -> Augmented:
        k = j % h.shape[-1]
        return Augmented(
            residuals=self.residuals[:, j],
            leverage=self.leverage[:, k],
            weights=self.weights,
            prediction=prediction[:, j],
            new_leverage=h[:, k],
            cross=cross[..., k],
        )

    def _leverage(self, features: Features) -> Array:
        return self.space.leverage(features).reshape(len(features), -1)

    def _cross(self, features: Features) -> Array:
        """Return h(x, x_i), (m, n, 1) or (m, n, q) where the ridge differs per output."""
        return self.space.cross_leverage(features, self.training).reshape(len(features), self.n_samples, -1)


def predict_features(estimator: Any, space: Space, features: Features, n_outputs: int) -> Array:
    """Predict from features that are already there, so that preprocessing does not run again."""
    final = space.final_step(estimator)
    return check_prediction(final.predict(features.model_inputs), len(features), n_outputs, type(final).__name__)


def _keeps_training_rows(space: Space, features: Features) -> bool:
    """Whether cross-leverage to the training rows needs nothing but the space; if not, it raises ValueError."""
    try:
        space.cross_leverage(features.take(np.arange(1)))
    except ValueError:
        return False
    return True
