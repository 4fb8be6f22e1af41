"""Ridge and kernel ridge with conformal intervals and no penalty to choose by hand."""

from typing import Any, Literal

from hatband.conformal.base import BaseSplitConformal
from hatband.fitted.loo_ridge import LeaveOneOutKernelRidge, LeaveOneOutRidge
from hatband.formulas.ridge_choice import Ridge


class ConformalRidge(BaseSplitConformal):
    """Ridge with intervals mu(x) -+ q (1 + h(x))^1/2, its penalty chosen by closed-form leave-one-out.

    Short for ``SplitConformalRegressor(LeaveOneOutRidge(...))``. The penalty is chosen on the training part only, so
    the calibrated interval keeps its guarantee. Columns are used as they are; for columns in different units use
    ``SplitConformalRegressor(make_pipeline(StandardScaler(), LeaveOneOutRidge()))``.

    Parameters
    ----------
    ridge, fit_intercept
        As in `LeaveOneOutRidge`.
    geometry, scale, confidence_level, calibration_size, symmetric, groups, likelihood_ratio, joint,
    residuals, random_state, n_jobs
        As in `SplitConformalRegressor`.

    Attributes
    ----------
    estimator_ : LeaveOneOutRidge
        With `ridge_`, the penalty chosen.
    space_, scale_, scores_, residuals_from_, calibration_indices_
        As in `SplitConformalRegressor`.

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows. Cost: one spectrum of the training part.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import ConformalRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y_pred, interval = ConformalRidge(random_state=0).fit(X, y).predict_interval(X[:3], [0.8, 0.95])
    >>> interval.shape
    (3, 2, 2)
    """

    def __init__(
        self,
        *,
        ridge: Ridge = "loo",
        fit_intercept: bool = True,
        geometry: Any = "auto",
        scale: Any = "auto",
        confidence_level: Any = 0.9,
        calibration_size: float = 0.25,
        symmetric: bool = True,
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
        residuals: Literal["auto", "unseen"] = "auto",
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.ridge = ridge
        self.fit_intercept = fit_intercept
        self.geometry = geometry
        self.scale = scale
        self.confidence_level = confidence_level
        self.calibration_size = calibration_size
        self.symmetric = symmetric
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.residuals = residuals
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _regressor(self) -> Any:
        return LeaveOneOutRidge(self.ridge, fit_intercept=self.fit_intercept)


class ConformalKernelRidge(BaseSplitConformal):
    """Kernel ridge with intervals mu(x) -+ q (1 + h(x))^1/2, h(x) = (k(x,x) - k_x' C k_x) / ridge in the RKHS.

    Short for ``SplitConformalRegressor(LeaveOneOutKernelRidge(...))``: the band grows to its full width where there
    were no training rows.

    Parameters
    ----------
    kernel, gamma, degree, coef0, kernel_params, ridge, fit_intercept
        As in `LeaveOneOutKernelRidge`.
    geometry, scale, confidence_level, calibration_size, symmetric, groups, likelihood_ratio, joint,
    residuals, random_state, n_jobs
        As in `SplitConformalRegressor`.

    Attributes
    ----------
    estimator_ : LeaveOneOutKernelRidge
        With `ridge_`, the penalty chosen.
    space_, scale_, scores_, residuals_from_, calibration_indices_
        As in `SplitConformalRegressor`; the space holds the training rows and their n x n kernel.

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows. Cost: one spectrum, n^3; n^2 per new row; at most
    20,000 training rows.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import ConformalKernelRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ConformalKernelRidge(gamma=20.0, random_state=0).fit(X, y)
    >>> bool(model.leverage(X + 10).min() > model.leverage(X).max())
    True
    """

    def __init__(
        self,
        *,
        kernel: Any = "rbf",
        gamma: float | None = None,
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        ridge: Ridge = "loo",
        fit_intercept: bool = True,
        geometry: Any = "auto",
        scale: Any = "auto",
        confidence_level: Any = 0.9,
        calibration_size: float = 0.25,
        symmetric: bool = True,
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
        residuals: Literal["auto", "unseen"] = "auto",
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.ridge = ridge
        self.fit_intercept = fit_intercept
        self.geometry = geometry
        self.scale = scale
        self.confidence_level = confidence_level
        self.calibration_size = calibration_size
        self.symmetric = symmetric
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.residuals = residuals
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _regressor(self) -> Any:
        return LeaveOneOutKernelRidge(
            self.kernel,
            gamma=self.gamma,
            degree=self.degree,
            coef0=self.coef0,
            kernel_params=self.kernel_params,
            ridge=self.ridge,
            fit_intercept=self.fit_intercept,
        )
