"""A fitted model that is linear in y, with what closed forms need of its training rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_kernel_size
from hatband.fitted.cross_leverage import ALL, Crossing, check_predictions, crossing_of, row_blocks
from hatband.fitted.loo_ridge import LARGEST_KERNEL
from hatband.fitted.rank_bounds import Contenders
from hatband.fitted.rows import predict_features
from hatband.formulas.full_conformal import Augmented, studentised_range
from hatband.formulas.leave_one_out import interpolated
from hatband.geometry import Features, Geometry, KernelGeometry, Space
from hatband.geometry.composite import Preprocessed

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
        crossing = crossing_of(space, features, weights)
        check_predictions(estimator, crossing, features, predicted, y)
        return cls(estimator, space, crossing, y - predicted, leverage)

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
    def interpolated(self) -> Array:
        """Rows (n, 1) or (n, q) that the model interpolates: leave-one-out is not determined for them."""
        return interpolated(self.hat_diagonal)

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

    def near(
        self, features: Features, block_size: int | None, ranks: list[int]
    ) -> Iterator[tuple[Any, int, Augmented]]:
        """Yield the same for training rows whose studentised roots can have one of these ranks; others are counted."""
        finite = [rank for rank in ranks if rank <= self.n_samples]
        if self.weights is not None or not finite:
            yield from self.augmented(features, block_size)
            return
        prediction = self.predict(features)
        h = self.space.leverage(features).reshape(len(features), -1)
        order = np.argsort(h.max(axis=1))
        for block in row_blocks(len(features), self.n_samples, block_size):
            index = order[block]
            found = Contenders.among([self._range(j, h[index]) for j in range(self.n_outputs)], finite)
            cross = self._cross(features.take(index), found.columns)
            for j in range(self.n_outputs):
                fit = self._output(j, prediction[index], h[index], cross, found.columns)
                yield index, j, replace(fit, inside=int(found.below[j]), outside=int(found.above[j]))

    def _range(self, j: int, h: Array) -> tuple[Array, Array]:
        k = j % h.shape[-1]
        return studentised_range(self.residuals[:, j], self.leverage[:, k], h[:, k])

    def _output(self, j: int, prediction: Array, h: Array, cross: Array, columns: Array | slice = ALL) -> Augmented:
        k = j % h.shape[-1]
        return Augmented(
            residuals=self.residuals[columns, j],
            leverage=self.leverage[columns, k],
            weights=None if self.weights is None else self.weights[columns],
            prediction=prediction[:, j],
            new_leverage=h[:, k],
            cross=cross[..., k],
        )

    def _cross(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), i in `columns`: (m, k, 1) or (m, k, q) where the ridge differs per output."""
        cross = self.crossing(features, columns)
        return cross if cross.ndim == 3 else cross[..., None]
