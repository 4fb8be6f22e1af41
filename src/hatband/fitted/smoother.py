"""A fitted model that is linear in y, and what closed forms need of its training rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.cross_leverage import CrossLeverage, OfSpace, cross_leverage_of, row_blocks
from hatband.fitted.loo_ridge import LARGEST_KERNEL
from hatband.fitted.rank_bounds import RankBounds
from hatband.fitted.rows import Rows, check_leverage, held_out_rows, predict_features
from hatband.formulas.full_conformal import CrossedRows
from hatband.formulas.leave_one_out import block_factor, interpolated, loo_residuals
from hatband.geometry import Features, Geometry, KernelGeometry, Space
from hatband.geometry.composite import PerOutputGeometry, PerOutputSpace, Preprocessed

# How far predictions may be from those of the smoother: a share of the residuals, which closed forms divide by 1 - w h,
# and rounding, of the spread of the predictions: 10 times the error bound of the factor, between these two.
_SHARE = 1e-2
_ROUNDING = (1e-8, 1e-3)


class SmootherMismatch(ValueError):
    """The predictions of a model are not those of the linear smoother that its geometry describes."""


@dataclass(frozen=True, eq=False)
class Smoother:
    """mu(x) = sum_i h(x, x_i) w_i y_i: a model, its space, and their residuals and leverages of n training rows.

    Parameters
    ----------
    estimator : fitted estimator
    space : Space
        Of exactness "exact" or "given".
    cross : CrossLeverage
        h(x, x_i) to the training rows.
    weights : array (n,), or None
        w_i, those that the model gave its rows included; None means 1.
    residuals : array (n, q)
        y_i - mu(x_i).
    leverage : array (n, 1) or (n, q)
        h(x_i).
    """

    estimator: Any
    space: Space
    cross: CrossLeverage
    weights: Array | None
    residuals: Array
    leverage: Array

    @classmethod
    def of(cls, estimator: Any, space: Space, training: Features, y: Array, sample_weight: Array | None) -> Self:
        """Measure the training rows with targets y (n, q), which the space was fitted to.

        Raises
        ------
        SmootherMismatch
            If the predictions are not sum_j h(x_i, x_j) w_j y_j, or mean(y) + sum_j h(x_i, x_j) w_j (y_j - mean(y)).

        Notes
        -----
        Cost beyond prediction and leverage: n d for features, n^2 for a kernel and other spaces.
        """
        weights = space.training_weights(sample_weight)
        predicted, mean = predict_features(estimator, space, training, y.shape[1]), y.mean(axis=0)
        both = space.smooth(training, np.hstack([y - mean, np.ones_like(y)]), weights)
        smoothed, total = np.hsplit(both, 2)
        # With an intercept, and for models that centre y, the mean stays; otherwise it is smoothed too.
        answers = np.stack([mean + smoothed, smoothed + mean * total])
        seen, residuals = _seen(weights), y - predicted
        closest = np.abs(predicted - answers)[:, seen].max(axis=1).argmin(axis=0)
        smoothed = np.take_along_axis(answers, closest[None, None], axis=0)[0]
        noise = np.sqrt(np.square(residuals[seen]).mean(axis=0))
        return cls.checked(
            estimator,
            space,
            training,
            predicted=predicted,
            smoothed=smoothed,
            residuals=residuals,
            noise=noise,
            weights=weights,
        )

    @classmethod
    def checked(
        cls,
        estimator: Any,
        space: Space,
        training: Features,
        *,
        predicted: Array,
        smoothed: Array,
        residuals: Array,
        noise: Array,
        weights: Array | None,
    ) -> Self:
        """Return the smoother; its predictions (n, q) must equal `smoothed` up to a share of the residual size `noise`.

        Raises
        ------
        SmootherMismatch
            If they differ by more.
        """
        gap = np.abs(predicted - smoothed)[_seen(weights)].max(axis=0)
        allowed = _tolerance(space, training, predicted, noise)
        if (gap > allowed).any():
            worst = int(np.argmax(gap - allowed))
            raise SmootherMismatch(
                f"the predictions of {type(estimator).__name__} at its training rows must be those of the linear "
                f"smoother that its geometry describes, up to {allowed[worst]:.1g}; they differ by "
                f"{gap[worst]:.3g}. Use the geometry of the model itself and a solver that converges; with a "
                "frozen model, pass its own training rows; correct the ridge, intercept or feature map of a geometry "
                "that you registered; or use CrossConformalRegressor, which refits any regressor."
            )
        leverage = check_leverage(space.training_leverage(training), space, predicted.shape).reshape(len(training), -1)
        return cls(estimator, space, OfSpace(space, training), weights, residuals, leverage)

    def prepared(self, training: Features) -> Self:
        """Return the smoother with the part of cross-leverage that depends on training rows alone computed."""
        return replace(self, cross=cross_leverage_of(self.space, training))

    # ---------------------------------------------------------------- training rows

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
    def interpolated(self) -> Array:
        """Rows (n, 1) or (n, q) that the model interpolates: leave-one-out is not determined for them."""
        return interpolated(self.leverage, self.weights)

    @property
    def loo_residuals(self) -> Array:
        """Leave-one-out residuals e_i / (1 - w_i h_i) (n, q); infinite where the model interpolates the row."""
        return loo_residuals(self.residuals, self.leverage, self.weights)

    @property
    def studentised_residuals(self) -> Array:
        """Leave-one-out residual / sqrt(1 + leave-one-out leverage) (n, q), signed; with weights 1, e / sqrt(1 - h)."""
        left = np.maximum(1 - self.hat_diagonal, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.residuals / np.sqrt(left * (left + self.leverage))

    def held_out_rows(self, training: Features, y: Array) -> Rows:
        """Return the training rows as if each had not been seen: leave-one-out predictions and leverages, lazy."""
        h = self.leverage[:, 0] if self.leverage.shape[1] == 1 else self.leverage
        prediction = y - self.loo_residuals
        return held_out_rows(self.space, training, prediction, h, self.weights, closed_form=True)

    def without(self, rows: Array, hat: Array) -> "WithoutBlock | None":
        """Return the model without a block of rows with cross-leverages `hat` (b, b); None if it cannot be left out."""
        factor = block_factor(hat, None if self.weights is None else self.weights[rows])
        if factor is None:
            return None
        half = factor.half()
        return WithoutBlock(rows, half, half.T @ (half @ self.residuals[rows]))

    # ---------------------------------------------------------------- new rows

    def predict(self, features: Features) -> Array:
        """Return mu(x) (m, q)."""
        return predict_features(self.estimator, self.space, features, self.n_outputs)

    def crossed(
        self, features: Features, block_size: int | None, choose: Callable[[Array], RankBounds] | None = None
    ) -> Iterator["CrossedBlock"]:
        """Yield blocks of new rows with their cross-leverages to the training rows.

        `choose` returns, for the leverages (b, k) of new rows, the training rows that matter to them; new rows then
        come in the order of their leverage. Without it they come in their own order, with all training rows.
        """
        prediction, h = self.predict(features), self.space.leverage(features).reshape(len(features), -1)
        order = None if choose is None else np.argsort(h.max(axis=1))
        for part in row_blocks(len(features), self.n_samples, block_size):
            index = part if order is None else order[part]
            bounds = RankBounds.unknown(self.n_outputs) if choose is None else choose(h[index])
            rows = features.take(index)
            yield CrossedBlock(self, index, rows, prediction[index], h[index], self.cross(rows, bounds.columns), bounds)


@dataclass(frozen=True, eq=False)
class CrossedBlock:
    """A block of new rows with their cross-leverages to training rows.

    Parameters
    ----------
    smoother : Smoother
    index : slice or array (b,)
        Which new rows.
    features : Features
        Of these.
    prediction : array (b, q)
    leverage : array (b, 1) or (b, q)
    cross : array (b, c) or (b, c, q)
        Cross-leverages to c training rows.
    bounds : RankBounds
        Which training rows.
    """

    smoother: Smoother
    index: Any
    features: Features
    prediction: Array
    leverage: Array
    cross: Array
    bounds: RankBounds

    def outputs(self) -> Iterator[tuple[int, CrossedRows]]:
        """Yield each output with its own leverages and cross-leverages."""
        smoother, columns = self.smoother, self.bounds.columns
        for j in range(smoother.n_outputs):
            k = j % self.leverage.shape[1]
            yield (
                j,
                CrossedRows(
                    residuals=smoother.residuals[columns, j],
                    leverage=smoother.leverage[columns, k],
                    weights=None if smoother.weights is None else smoother.weights[columns],
                    prediction=self.prediction[:, j],
                    new_leverage=self.leverage[:, k],
                    cross=self.cross if self.cross.ndim == 2 else self.cross[..., k],
                    below=int(self.bounds.below[j]),
                    above=int(self.bounds.above[j]),
                ),
            )


@dataclass(frozen=True, eq=False)
class WithoutBlock:
    """The model without one block of rows B, with G = (W_B^-1 - H_BB)^-1 = Q'Q.

    Parameters
    ----------
    rows : array of int
        Positions of B.
    half : array (b, b)
        Q.
    shift : array (b, q)
        G e_B.
    """

    rows: Array
    half: Array
    shift: Array

    def prediction(self, mu: Array, cross: Array) -> Array:
        """Return mu_-B(x) = mu(x) - h(x, X_B) G e_B for cross (m, b)."""
        return mu - cross @ self.shift

    def leverage(self, h: Array, cross: Array) -> Array:
        """Return h_-B(x) = h(x) + h(x, X_B) G h(X_B, x)."""
        return h + np.square(cross @ self.half.T).sum(axis=1)


def check_kernel_size(geometry: Geometry, n_samples: int) -> None:
    """Raise if an exact kernel would need more memory than is allowed."""
    match geometry:
        case Preprocessed():
            check_kernel_size(geometry.geometry, n_samples)
        case PerOutputGeometry():
            check_kernel_size(geometry.geometries[0], n_samples)
        case KernelGeometry() if n_samples > LARGEST_KERNEL:
            raise ValueError(
                f"an exact kernel needs two n x n arrays and takes at most {LARGEST_KERNEL} rows; got {n_samples}. Use "
                "a Pipeline of scikit-learn's Nystroem and Ridge: its features are fixed, so leave-one-out stays exact."
            )


def _seen(weights: Array | None) -> Any:
    """Return which rows the fit has seen: those of weight > 0."""
    return slice(None) if weights is None else weights > 0


def _tolerance(space: Space, training: Features, predicted: Array, noise: Array) -> Array:
    """Return how far predictions of each output (q,) may be from those of the smoother."""
    size = np.abs(predicted).max(axis=0)
    spread = np.abs(predicted - predicted.mean(axis=0)).max(axis=0)
    dtype = getattr(training.values, "dtype", None)
    eps = float(np.finfo(np.float32 if dtype == np.float32 else np.float64).eps)
    rounding = np.clip(10 * _error_bound(space) * eps / np.finfo(np.float64).eps, *_ROUNDING)
    return _SHARE * noise + rounding * spread + 16 * eps * size


def _error_bound(space: Space) -> float:
    """Return the bound on the rounding error of the factor of a space."""
    parts = space.spaces if isinstance(space, PerOutputSpace) else (space,)
    return max(float(getattr(part.factor, "error_bound", 0.0)) for part in parts)
