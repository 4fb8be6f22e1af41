"""Ridge and kernel ridge whose penalty is chosen by closed-form leave-one-out, from one spectrum."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from hatband.arrays.typing import Array
from hatband.checks import check_ridge, check_target, check_weights
from hatband.formulas.leave_one_out import kernel_loo_residuals, loo_residuals
from hatband.geometry import FeatureGeometry, Geometry, KernelGeometry, PairwiseKernel, geometry_of
from hatband.linalg import KernelSpectrum, Spectral

# Relative to the mean squared singular value (or kernel diagonal): from "no penalty" to "predict the mean".
RELATIVE_RIDGES = np.logspace(-8, 3, 56)
Slopes: TypeAlias = Callable[[int], Array]
# A kernel keeps its factor and itself: two n x n arrays, 6.4 GB at this size.
LARGEST_KERNEL = 20_000


class LeaveOneOutRidge(RegressorMixin, BaseEstimator):
    """Ridge regression with the penalty that minimises mean (e_i / (1 - h_ii))^2 over a grid, from one spectrum.

    Parameters
    ----------
    ridges : "auto" or list of float, default="auto"
        Penalties to try, in the convention |y - Xb|^2 + ridge |b|^2. "auto": 56 values from 1e-8 to 1e3 times the mean
        squared singular value of the centred X, so the choice does not depend on the units of X.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which is never penalised.

    Attributes
    ----------
    ridge_ : float
        The penalty chosen; one for all outputs.
    leave_one_out_error_ : array (L,)
        Weighted mean squared leave-one-out residual per penalty, over outputs in units of their variance.
    ridges_ : array (L,)
    coef_ : array (d,) or (q, d)
    intercept_ : float or array (q,)

    Notes
    -----
    Cost: one spectrum, n d min(n, d), for any number of penalties, and n d per penalty. Golub, Heath and Wahba (1979).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import LeaveOneOutRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(LeaveOneOutRidge().fit(X, y).score(X, y) > 0.5)
    True
    """

    def __init__(self, ridges: Literal["auto"] | Sequence[float] = "auto", *, fit_intercept: bool = True) -> None:
        self.ridges = ridges
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the penalty on X (n, d) and y (n,) or (n, q), and fit.

        Raises
        ------
        ValueError
            If a penalty or weight is negative, or X or y is not finite.
        """
        target, single = check_target(y)
        X = validate_data(self, X, y=target, multi_output=True, dtype=np.float64)[0]
        weights = np.ones(len(X)) if sample_weight is None else check_weights(sample_weight, len(X))
        mean, y_mean = _means(X, target, weights, self.fit_intercept)
        centred, residual = X - mean, target - y_mean
        scale = float(weights @ np.square(centred).sum(axis=1)) / min(centred.shape)
        ridges = _grid(self.ridges, scale)
        wide = len(X) <= X.shape[1] and (ridges > 0).all()
        left_out, slopes_at = (_wide if wide else _tall)(centred, residual, weights, ridges, self.fit_intercept)
        errors = np.array([_mean_square(residuals, target, weights) for residuals in left_out])
        best = int(np.argmin(errors))
        self.ridges_, self.leave_one_out_error_, self.ridge_ = ridges, errors, float(ridges[best])
        slopes = slopes_at(best)
        coef, intercept = slopes.T, y_mean - mean @ slopes
        self.coef_: Array = coef[0] if single else coef
        self.intercept_: Any = float(intercept[0]) if single else intercept
        return self

    def predict(self, X: Any) -> Array:
        """Return X coef + intercept, shaped like y."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_.T + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class LeaveOneOutKernelRidge(RegressorMixin, BaseEstimator):
    """Kernel ridge with the penalty that minimises mean ([C y]_i / C_ii)^2, C = (K + ridge I)^-1, from one spectrum.

    Parameters
    ----------
    kernel : str or callable, default="rbf"
        As in scikit-learn's ``KernelRidge``.
    gamma, degree, coef0, kernel_params
        Parameters of the kernel; `gamma` None is one over the number of features.
    ridges : "auto" or list of float > 0, default="auto"
        Penalties to try. "auto": 56 values from 1e-8 to 1e3 times the mean diagonal of K.
    fit_intercept : bool, default=True
        Whether to fit a constant that is not penalised, so that predictions far off the data return to the mean of y.

    Attributes
    ----------
    ridge_ : float
    ridges_, leave_one_out_error_ : array (L,)
    dual_coef_ : array (n,) or (n, q)
    intercept_ : float or array (q,)
    X_fit_ : array (n, d)
        The training rows, which a kernel needs to predict.

    Notes
    -----
    Cost: one spectrum, n^3, and n^2 per penalty; two n x n arrays of memory, so at most 20,000 rows.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import LeaveOneOutKernelRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(LeaveOneOutKernelRidge(gamma=20.0).fit(X, y).score(X, y) > 0.5)
    True
    """

    def __init__(
        self,
        kernel: Any = "rbf",
        *,
        gamma: float | None = None,
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        ridges: Literal["auto"] | Sequence[float] = "auto",
        fit_intercept: bool = True,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.ridges = ridges
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the penalty on X (n, d) and y (n,) or (n, q), and fit.

        Raises
        ------
        ValueError
            If a penalty is not positive, X or y is not finite, or there are more than 20,000 rows.
        """
        target, single = check_target(y)
        X = validate_data(self, X, y=target, multi_output=True, dtype=np.float64)[0]
        if len(X) > LARGEST_KERNEL:
            raise ValueError(
                f"An exact kernel needs two n x n arrays and takes at most {LARGEST_KERNEL} rows; got {len(X)}. Use "
                "Ridge on scikit-learn's Nystroem features in a Pipeline inside SplitConformalRegressor."
            )
        weights = np.ones(len(X)) if sample_weight is None else check_weights(sample_weight, len(X))
        K = self._pairwise()(X, X)
        ridges = _grid(self.ridges, float(np.diag(K).mean()))
        if not (ridges > 0).all():
            raise ValueError(f"Every penalty of a kernel must be > 0; got {ridges.min()}.")
        spectrum = KernelSpectrum.of(K, weights, self.fit_intercept)
        errors = np.array(
            [_mean_square(residuals, target, weights) for residuals in _left_out(spectrum, target, ridges)]
        )
        best = int(np.argmin(errors))
        dual, intercept = spectrum.at(float(ridges[best])).solve(target)
        self.ridges_, self.leave_one_out_error_, self.ridge_ = ridges, errors, float(ridges[best])
        self.X_fit_ = X
        self.dual_coef_: Array = dual[:, 0] if single else dual
        self.intercept_: Any = float(intercept[0]) if single else intercept
        return self

    def predict(self, X: Any) -> Array:
        """Return K(X, X_fit) dual_coef + intercept, shaped like y."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self._pairwise()(X, self.X_fit_) @ self.dual_coef_ + self.intercept_

    def _pairwise(self) -> PairwiseKernel:
        named = {"gamma": self.gamma, "degree": self.degree, "coef0": self.coef0}
        return PairwiseKernel(self.kernel, (self.kernel_params or {}) if callable(self.kernel) else named)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _tall(X: Array, y: Array, weights: Array, ridges: Array, fit_intercept: bool) -> tuple[list[Array], Slopes]:
    """Return leave-one-out residuals (n, q) and slopes (d, q) per ridge, from the spectrum of centred X'WX."""
    spectrum = Spectral().factor(X, float(ridges[0]), weights, fit_intercept)
    slopes = spectrum.solve_path(X.T @ (weights[:, None] * y), ridges)
    leverages = spectrum.leverage_path(X, ridges)
    residuals = [loo_residuals(y - X @ b, h, weights) for b, h in zip(slopes, leverages.T, strict=True)]
    return residuals, slopes.__getitem__


def _wide(X: Array, y: Array, weights: Array, ridges: Array, fit_intercept: bool) -> tuple[list[Array], Slopes]:
    """Return the same from the spectrum of XX', where e and 1 - h are no differences of almost equal numbers."""
    spectrum = KernelSpectrum.of(X @ X.T, weights, fit_intercept)
    return _left_out(spectrum, y, ridges), lambda i: X.T @ spectrum.at(float(ridges[i])).solve(y)[0]


def _left_out(spectrum: KernelSpectrum, y: Array, ridges: Array) -> list[Array]:
    """Return leave-one-out residuals (n, q) per ridge: e / (1 - w h), numerator and denominator exact where small."""
    residuals, complements = spectrum.residual_path(y, ridges), spectrum.training_complement_path(ridges)
    return [kernel_loo_residuals(residuals[..., i], complements[:, i]) for i in range(len(ridges))]


def _means(X: Array, y: Array, weights: Array, fit_intercept: bool) -> tuple[Array, Array]:
    """Return weighted means of X (d,) and y (q,), zeros without intercept."""
    if not fit_intercept:
        return np.zeros(X.shape[1]), np.zeros(y.shape[1])
    return np.average(X, axis=0, weights=weights), np.average(y, axis=0, weights=weights)


def _grid(ridges: Any, scale: float) -> Array:
    """Return the penalties to try; "auto" spans from no penalty to no model, in units of the data."""
    if isinstance(ridges, str):
        if ridges != "auto":
            raise ValueError(f"ridges must be 'auto' or a list of penalties; got {ridges!r}.")
        return RELATIVE_RIDGES * (scale if scale > 0 else 1.0)
    grid = np.atleast_1d(check_ridge(list(ridges)))
    if not grid.size:
        raise ValueError("ridges must hold at least one penalty; got an empty list.")
    return grid


def _mean_square(residuals: Array, y: Array, weights: Array) -> float:
    """Return the weighted mean square over rows and outputs, each output in units of its own variance."""
    spread = y.var(axis=0)
    return float(np.average(np.square(residuals) / np.where(spread > 0, spread, 1.0), axis=0, weights=weights).mean())


@geometry_of.register
def _(estimator: LeaveOneOutRidge) -> Geometry:
    return FeatureGeometry(ridge=estimator.ridge_, fit_intercept=estimator.fit_intercept, exactness="given")


@geometry_of.register
def _(estimator: LeaveOneOutKernelRidge) -> Geometry:
    return KernelGeometry(
        kernel=estimator._pairwise(),
        ridge=estimator.ridge_,
        fit_intercept=estimator.fit_intercept,
        exactness="given",
    )
