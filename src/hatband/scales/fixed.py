"""Scales that need no learning: constant, a power of one plus leverage, and a function of the user's."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_in
from hatband.fitted.rows import Rows
from hatband.scales.base import Scale


class ConstantScale(Scale):
    """Width 1 everywhere: the plain split-conformal interval, equally wide for every row.

    Notes
    -----
    Leverage is not computed. Lei et al. (2018), *Distribution-free predictive inference for regression*, Alg. 2.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import ConstantScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=ConstantScale(), random_state=0).fit(X, y)
    >>> bool(np.ptp(np.diff(model.predict_interval(X)[1])) < 1e-9)
    True
    """

    pointwise: ClassVar[bool] = True
    leverage_exponent: ClassVar[float] = 0.0

    def fit(self, rows: Rows | None = None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Return self; there is nothing to learn."""
        return self

    def predict(self, rows: Rows) -> tuple[float, Array]:
        """Return shift 0 and width 1 (m, 1)."""
        return 0.0, np.ones((len(rows), 1))


class LeverageScale(Scale):
    """Width (1 + h(x))^power: with power 1/2, the standard deviation of a prediction error under constant noise.

    Parameters
    ----------
    power : float, default=0.5
        Exponent, >= 0. One half is the textbook value, 0 gives a constant width.
    form : {"posterior", "sampling"}, default="posterior"
        Which leverage. The sampling form x' A^-1 X'X A^-1 x flattens coverage a little better near the data under a
        strong ridge, but tends to 0 far from it, where the band should grow: it is never a default.

    Raises
    ------
    ValueError
        If power is negative or not finite, or form is neither of the two.

    Notes
    -----
    Var(y_new - mu(x)) = sigma^2 (1 + h(x)) for least squares, and for ridge under its prior. Dimensionless; the
    threshold carries the units of y. Cost: d^2 per row. Fadnavis (2026), arXiv 2602.12693, with the model's own ridge
    and intercept.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import LeverageScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=LeverageScale(power=0.5), random_state=0).fit(X, y)
    >>> width = np.diff(model.predict_interval(X)[1])[:, 0]
    >>> bool(np.ptp(width / np.sqrt(1 + model.leverage(X))) < 1e-9)
    True
    """

    pointwise: ClassVar[bool] = True

    def __init__(self, power: float = 0.5, form: Literal["posterior", "sampling"] = "posterior") -> None:
        self.power = power
        self.form = form

    def fit(self, rows: Rows | None = None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Check the parameters and return self; there is nothing to learn."""
        check_in(self.form, ("posterior", "sampling"), "form")
        if not 0 <= self.power < np.inf:
            raise ValueError(f"power must be finite and >= 0, such as 0.5; got {self.power!r}.")
        return self

    @property
    def leverage_exponent(self) -> float | None:
        """The power, of posterior leverage."""
        return float(self.power) if self.form == "posterior" else None

    def predict(self, rows: Rows) -> tuple[float, Array]:
        """Return shift 0 and width (1 + h)^power, (m, 1) or (m, q)."""
        leverage = rows.leverage if self.form == "posterior" else rows.sampling_leverage
        return 0.0, (1 + leverage.reshape(len(rows), -1)) ** self.power


class CallableScale(Scale):
    """Width f(rows), for a function of the user's.

    Parameters
    ----------
    function : callable(rows) -> array (m,) or (m, q)
        Reads ``rows.inputs``, ``rows.leverage``, ``rows.sampling_leverage``, ``rows.prediction``; returns widths > 0.
        A function defined at the top of a module pickles; a lambda does not.

    Examples
    --------
    >>> from hatband import SplitConformalRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=lambda rows: 1 + rows.leverage, random_state=0).fit(X, y)
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """

    def __init__(self, function: Callable[[Rows], Array]) -> None:
        self.function = function

    def fit(self, rows: Rows | None = None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Return self; there is nothing to learn."""
        return self

    def predict(self, rows: Rows) -> tuple[float, Any]:
        """Return shift 0 and the function's widths."""
        return 0.0, self.function(rows)
