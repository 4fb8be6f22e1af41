"""Ridge and kernel ridge whose penalty is chosen by closed-form leave-one-out, from one spectrum."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from hatband.arrays.typing import Array
from hatband.checks import check_target, check_weights, unchanged_on_failure
from hatband.formulas.ridge_choice import Ridge, best_ridge, candidates, checked_ridge, chosen_ridge, relative_error
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.geometry import FeatureGeometry, Geometry, KernelGeometry, PairwiseKernel, geometry_of
from hatband.linalg import KernelSpectrum

# A kernel keeps its factor and itself: two n x n arrays, 6.4 GB at this size.
LARGEST_KERNEL = 20_000


class LeaveOneOutRidge(RegressorMixin, BaseEstimator):
    """Ridge regression with the penalty that minimises sum_i (e_i / (1 - h_ii))^2, from one spectrum.

    Parameters
    ----------
    ridge : "loo", "gcv", "evidence", float or list of float, default="loo"
        The penalty in the convention |y - Xb|^2 + ridge |b|^2, or how it is chosen: by leave-one-out ("auto" too),
        generalised cross-validation or evidence between 1e-10 and 1e6 times the mean squared singular value of the
        centred X, so that the choice does not depend on units; of a list, by leave-one-out.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which is never penalised.

    Attributes
    ----------
    ridge_ : float
        The penalty chosen; one for all outputs.
    leave_one_out_error_ : array (L,)
        Weighted squared leave-one-out residuals per penalty of `ridges_`, in units of the weighted squares of y, about
        its mean with an intercept; mean over outputs.
    ridges_ : array (L,)
        Penalties tried first: those given, or 65 on a grid, near the best of which `ridge_` lies.
    coef_ : array (d,) or (q, d)
    intercept_ : float or array (q,)

    Notes
    -----
    Cost: one spectrum, n d min(n, d), for any number of penalties, and n d per penalty. Allen (1974); Golub, Heath and
    Wahba (1979).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import LeaveOneOutRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(LeaveOneOutRidge().fit(X, y).score(X, y) > 0.5)
    True
    """

    def __init__(self, ridge: Ridge = "loo", *, fit_intercept: bool = True) -> None:
        self.ridge = ridge
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the penalty on X (n, d) and y (n,) or (n, q), and fit.

        Raises
        ------
        ValueError
            If a penalty or weight is negative, or X or y is not finite.
        """
        target, single = check_target(y)
        with unchanged_on_failure(self):
            X = validate_data(self, X, y=target, multi_output=True, dtype=np.float64)[0]
            weights = None if sample_weight is None else check_weights(sample_weight, len(X))
            spectrum = RidgeSpectrum.of(X, target, weights, self.fit_intercept)
            ridge, tried, errors = _chosen(checked_ridge(self.ridge), spectrum)
            used = slice(None) if weights is None else weights > 0
            root = np.ones(len(X)) if weights is None else np.sqrt(weights[used])
            mean, y_mean = np.zeros(X.shape[1]), np.zeros(target.shape[1])
            if self.fit_intercept:
                mean, y_mean = np.average(X, axis=0, weights=weights), np.average(target, axis=0, weights=weights)
            slopes = (X[used] - mean).T @ (root[:, None] * spectrum.dual(ridge))
            intercept = y_mean - mean @ slopes
            self.ridge_, self.ridges_, self.leave_one_out_error_ = ridge, tried, errors
            self.coef_: Array = slopes[:, 0] if single else slopes.T
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
    """Kernel ridge with the penalty that minimises sum_i ([C y]_i / C_ii)^2, C = (K + ridge I)^-1, from one spectrum.

    Parameters
    ----------
    kernel : str or callable, default="rbf"
        As in scikit-learn's ``KernelRidge``.
    gamma, degree, coef0, kernel_params
        Parameters of the kernel; `gamma` None is one over the number of features.
    ridge : "loo", "gcv", "evidence", float > 0 or list of float > 0, default="loo"
        The penalty, or how it is chosen, as in `LeaveOneOutRidge`.
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
        ridge: Ridge = "loo",
        fit_intercept: bool = True,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.ridge = ridge
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the penalty on X (n, d) and y (n,) or (n, q), and fit.

        Raises
        ------
        ValueError
            If a penalty is not positive, X or y is not finite, or there are more than 20,000 rows.
        """
        target, single = check_target(y)
        with unchanged_on_failure(self):
            X = validate_data(self, X, y=target, multi_output=True, dtype=np.float64)[0]
            if len(X) > LARGEST_KERNEL:
                raise ValueError(
                    f"An exact kernel needs two n x n arrays and takes at most {LARGEST_KERNEL} rows; got {len(X)}. "
                    "Use Ridge on scikit-learn's Nystroem features in a Pipeline inside SplitConformalRegressor."
                )
            weights = None if sample_weight is None else check_weights(sample_weight, len(X))
            K = self._pairwise()(X, X)
            asked = checked_ridge(self.ridge)
            if not (isinstance(asked, str) or np.min(asked) > 0):
                raise ValueError(f"Every penalty of a kernel must be > 0; got {np.min(asked)}.")
            spectrum = KernelSpectrum.of(K, weights, self.fit_intercept)
            ridge, tried, errors = _chosen(asked, RidgeSpectrum.of_kernel(spectrum, target))
            dual, intercept = spectrum.at(ridge).solve(target)
            self.ridge_, self.ridges_, self.leave_one_out_error_ = ridge, tried, errors
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


def _chosen(ridge: str | float | Array, spectrum: RidgeSpectrum) -> tuple[float, Array, Array]:
    """Return the chosen penalty, the penalties tried first, and their leave-one-out errors."""
    chosen = chosen_ridge(ridge, auto=lambda: best_ridge(spectrum, "loo"), spectrum=lambda: spectrum)
    tried = candidates(spectrum, ridge)
    return chosen, tried, relative_error(spectrum, tried)


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
