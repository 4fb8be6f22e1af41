"""A fitted model that is linear in y, with what closed forms need of its training rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hatband._typing import Array
from hatband._validation import check_kernel_size, check_smoother
from hatband.conformal.acceptance import Augmented
from hatband.conformal.crossing import Crossing, crossing_of, row_blocks
from hatband.geometry import Features, Geometry, KernelGeometry, Space
from hatband.geometry.composite import Preprocessed
from hatband.ridge import LARGEST_KERNEL
from hatband.rows import predict_features

# Rows at which the predictions are compared with the smoother of the geometry.
PROBES = 16
# Numbers per array while roots are worked out: half a dozen such arrays stay in the cache.
CACHED_NUMBERS = 2**17


@dataclass(frozen=True, eq=False)
class TrainedSmoother:
    """mu(x) = sum_i h(x, x_i) w_i y_i: a model, its space, and residuals and leverages of its training rows.

    Parameters
    ----------
    estimator : fitted estimator
    space : Space
        Of exactness "exact" or "given".
    crossing : Crossing
        Cross-leverage to the training rows: n x d numbers, or nothing beyond the space for a kernel.
    residuals : array (n, q)
        y - mu(x_i).
    leverage : array (n, 1) or (n, q)
        h(x_i).
    """

    estimator: Any
    space: Space
    crossing: Crossing
    residuals: Array
    leverage: Array

    @classmethod
    def of(cls, estimator: Any, geometry: Geometry, X: Any, y: Array, weights: Array | None) -> Self:
        """Measure the training rows X with targets y (n, q).

        Raises
        ------
        ValueError
            If the predictions are not those of the linear smoother that the geometry describes, or a kernel is too
            large.
        """
        inner = geometry.geometry if isinstance(geometry, Preprocessed) else geometry
        if isinstance(inner, KernelGeometry):
            check_kernel_size(len(y), LARGEST_KERNEL)
        space = geometry.fit(X, weights)
        features = space.features(X)
        predicted = predict_features(estimator, space, features, y.shape[1])
        leverage = space.leverage(features).reshape(len(y), -1)
        smoother = cls(estimator, space, crossing_of(space, features, weights), y - predicted, leverage)
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
    def weights(self) -> Array | None:
        """Weights of the training rows (n,), those that the model gave them included; None means 1."""
        return self.crossing.weights

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

    def augmented(self, features: Features, block_size: int | None) -> Iterator[tuple[slice, int, Augmented]]:
        """Yield (part of the rows, output, the fit that they may join); a block x n cross-leverages at once."""
        prediction = self.predict(features)
        h = self.space.leverage(features).reshape(len(features), -1)
        for block in row_blocks(len(features), self.n_samples, block_size):
            cross = self._cross(features.take(block))
            for inner in row_blocks(len(cross), self.n_samples, max(1, CACHED_NUMBERS // self.n_samples)):
                part = slice(block.start + inner.start, min(block.start + inner.stop, block.stop))
                for j in range(self.n_outputs):
                    yield part, j, self._output(j, prediction[part], h[part], cross[inner])

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

    def _cross(self, features: Features) -> Array:
        """Return h(x, x_i), (m, n, 1) or (m, n, q) where the ridge differs per output."""
        return self.crossing(features).reshape(len(features), self.n_samples, -1)
