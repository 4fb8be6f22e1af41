"""A conformal test whether a row lies further out than the calibration rows, and a guard that uses it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.typing import Array, Float, Int
from hatband.checks import check_leverages
from hatband.formulas.order_statistics import Level, exact_level, lower_rank


def extrapolation_pvalue(leverage: Any, calibration_leverage: Any) -> Array:
    """Return (1 + #{i: h_i >= h}) / (n + 1) for each new leverage h among n calibration leverages h_i.

    Parameters
    ----------
    leverage : array-like (m,)
        Leverages of new rows.
    calibration_leverage : array-like (n,)
        Leverages of rows that the model has not been trained on: ``model.leverage(X_calibration)``.

    Returns
    -------
    array (m,)
        From 1 / (n + 1), further out than all calibration rows, to 1.

    Raises
    ------
    ValueError
        If a leverage is negative or NaN, or the array is empty.

    Notes
    -----
    P(p <= r) <= r for a new row that is drawn as the calibration rows are (Vovk, Gammerman and Shafer 2005,
    proposition 2.3), for any model: a small p says that this row is not drawn like them. It does not say that the
    interval is wrong. A tie counts as not further out. O((n + m) log n).

    Examples
    --------
    >>> from hatband.diagnostics import extrapolation_pvalue
    >>> extrapolation_pvalue([0.05, 0.3, 9.0], [0.1, 0.2, 0.3, 0.4])
    array([1. , 0.6, 0.2])
    """
    calibration = np.sort(check_leverages(calibration_leverage, "calibration_leverage"))
    return _rank_from_above(check_leverages(leverage), calibration) / (len(calibration) + 1)


def _rank_from_above(h: Float[Array, " m"], ordered: Float[Array, " n"]) -> Int[Array, " m"]:
    """1 + #{i: h_i >= h}."""
    return 1 + len(ordered) - np.searchsorted(ordered, h, side="left")


@dataclass(frozen=True, eq=False)
class ExtrapolationGuard:
    """Flags rows with (1 + #{i: h_i >= h}) / (n + 1) <= rate, and makes their intervals infinite on request.

    Parameters
    ----------
    calibration_leverage : array-like (n,)
        Leverages of rows that the model has not been trained on: ``model.leverage(X_calibration)``.
    false_alarm_rate : float, Fraction, Decimal or NumPy scalar, default=0.01
        Probability, at most, with which a row that is drawn like the calibration rows is flagged. At least 1 / rate - 1
        calibration rows are needed for any flag at all.

    Notes
    -----
    Widths that follow leverage grow off the data by themselves. This is for models and scales that are flat there, such
    as trees, and for decisions: an infinite interval says that y can be anything. Coverage can only rise by it.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.diagnostics import ExtrapolationGuard
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale="constant").fit_train(X[:200], y[:200]).calibrate(X[200:400], y[200:400])
    >>> guard = ExtrapolationGuard(model.leverage(X[200:400]))
    >>> rows = X[400:402] * [[1], [50]]
    >>> guard.flag(model.leverage(rows))
    array([False,  True])
    >>> _, interval = guard.predict_interval(model, rows)
    >>> interval[1]
    array([-inf,  inf])
    """

    calibration_leverage: Array
    false_alarm_rate: Level = 0.01

    def __post_init__(self) -> None:
        """Check, and keep the leverages sorted."""
        exact_level(self.false_alarm_rate)
        ordered = np.sort(check_leverages(self.calibration_leverage, "calibration_leverage"))
        ordered.flags.writeable = False
        object.__setattr__(self, "calibration_leverage", ordered)

    @classmethod
    def of(cls, model: Any, X_calibration: Any, false_alarm_rate: Level = 0.01) -> "ExtrapolationGuard":
        """Take the leverages of calibration rows from a fitted model."""
        return cls(model.leverage(X_calibration), false_alarm_rate)

    def pvalue(self, leverage: Any) -> Array:
        """Return the extrapolation p-value (m,) of each row, as `extrapolation_pvalue` does."""
        return extrapolation_pvalue(leverage, self.calibration_leverage)

    def flag(self, leverage: Any) -> Array:
        """Return which rows (m,) have a p-value at or below the rate, decided in integers."""
        n = len(self.calibration_leverage)
        allowed = lower_rank(n, 1 - exact_level(self.false_alarm_rate))
        return _rank_from_above(check_leverages(leverage), self.calibration_leverage) <= allowed

    def withhold(self, interval: Any, leverage: Any, *, axis: int = 1) -> Array:
        """Return a copy of intervals that is (-inf, inf) for flagged rows.

        Parameters
        ----------
        interval : array-like (m, 2), (m, 2, L), or (m, q, 2), (m, q, 2, L) with axis=2
        leverage : array-like (m,)
        axis : int
            The axis that holds lower and upper ends: 1 for one output, 2 for several.
        """
        flagged = self.flag(leverage)
        bounds = np.moveaxis(np.array(interval, dtype=np.float64), axis, 1)
        if len(bounds) != len(flagged) or bounds.shape[1] != 2:
            raise ValueError(
                f"interval must hold lower and upper ends, on axis {axis}, of the same {len(flagged)} rows as "
                f"leverage; got shape {np.shape(interval)}."
            )
        bounds[flagged, 0], bounds[flagged, 1] = -np.inf, np.inf
        return np.moveaxis(bounds, 1, axis)

    def predict_interval(self, model: Any, X: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict by the model, with intervals (-inf, inf) for the rows that its leverage flags."""
        prediction, interval = model.predict_interval(X, confidence_level)
        return prediction, self.withhold(interval, model.leverage(X), axis=np.ndim(prediction))

    def __repr__(self) -> str:
        rate = float(exact_level(self.false_alarm_rate))
        return f"ExtrapolationGuard({len(self.calibration_leverage)} calibration leverages, false_alarm_rate={rate})"
