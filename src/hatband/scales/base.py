"""The base of scales, which map rows to the shape of the band; and the scales that learn nothing."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import has_fit_parameter

from hatband.arrays.typing import Array
from hatband.checks import check_in, check_widths
from hatband.fitted.rows import Rows


class Scale(BaseEstimator, ABC):
    """The shape of a band: the interval is prediction + shift -+ threshold x width.

    A scale is fitted on training rows as if each had not been seen, never on calibration rows; so the calibrated
    interval keeps its guarantee with any scale. Widths are defined up to one common factor.

    Notes
    -----
    To write a scale, define `fit` and `predict`, and set four class attributes. Where one is used and cannot be true,
    an error says so; what no run can see (rows fetched without need, a wrong exponent) is found by the contract in
    ``tests/scales/test_contract.py``.

    ``needs_residuals`` (default False)
        ``fit`` gets training rows and their held-out residuals. False: ``fit(None)`` is called, which costs nothing.
        Wrongly False: fit fails without rows, and the error names this flag. Wrongly True: leave-one-out or five refits
        run without need.
    ``works_without_residuals`` (default False)
        ``fit(None)`` also works, for a model that has no held-out residuals. False: such a model is refused with a
        message. Wrongly True: fit fails for such a model, and the error names this flag.
    ``pointwise`` (default False)
        ``predict`` uses only ``rows.leverage`` and ``rows.sampling_leverage``, and gives one width for each leverage.
        Jackknife+ and the online estimator have no other fields and refuse other scales. Wrongly False: they refuse a
        scale that they could use. Wrongly True: they raise an error when predict reads inputs or prediction.
    ``leverage_exponent`` (default None)
        The p of a width (1 + h)^p of posterior leverage. With it jackknife+ skips rows whose bounds cannot matter.
        Wrongly None: it is slower. A wrong p: its intervals are wrong, without a message.

    Of the parameters in ``__init__``, ``level`` and ``random_state`` that are None are set by the estimator around the
    scale. ``fit`` takes ``sample_weight``; if it does not, weighted rows are refused.

    Examples
    --------
    The median |residual| of the training rows of lower and of higher leverage; rows with weights are refused:

    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.scales import Scale, check_training_rows
    >>> class Halves(Scale):
    ...     needs_residuals, pointwise = True, True
    ...     def fit(self, rows, residuals=None):
    ...         rows, residuals, _ = check_training_rows(self, rows, residuals)
    ...         self.middle_ = np.median(rows.leverage)
    ...         far = rows.leverage > self.middle_
    ...         self.near_width_, self.far_width_ = (np.median(abs(residuals[part])) for part in (~far, far))
    ...         return self
    ...     def predict(self, rows):
    ...         return 0.0, np.where(rows.leverage > self.middle_, self.far_width_, self.near_width_)
    >>> X, y = load_diabetes(return_X_y=True)
    >>> SplitConformalRegressor(scale=Halves(), random_state=0).fit(X, y).predict_interval(X)[1].shape
    (442, 2)
    """

    needs_residuals: ClassVar[bool] = False
    works_without_residuals: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False

    @property
    def leverage_exponent(self) -> float | None:
        """The p of a width (1 + h)^p of posterior leverage; None for any other width."""
        return None

    @abstractmethod
    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Learn the band and return self.

        Parameters
        ----------
        rows : Rows or None
            Training rows as if each had not been seen; None unless `needs_residuals`. A fit that learns begins with
            `check_training_rows`.
        residuals : array (n, q), optional
            Their held-out residuals.
        sample_weight : array (n,), optional
            A row of weight 0 must count like one that is not there.
        """

    @abstractmethod
    def predict(self, rows: Rows) -> tuple[Any, Array]:
        """Return (shift, width): width (m, 1) or (m, q) > 0, shift 0.0 or shaped like width."""


def check_training_rows(
    scale: Any, rows: Rows | None, residuals: Array | None, sample_weight: Array | None = None
) -> tuple[Rows, Array, Array | None]:
    """Return what a scale learns from, without rows of weight 0: the first line of a `fit` that learns.

    Parameters
    ----------
    scale : Scale
        The scale that is fitted, whose flags a message names.
    rows, residuals, sample_weight
        What `fit` got.

    Returns
    -------
    rows : Rows
    residuals : array (n, q)
    sample_weight : array (n,) > 0, or None

    Raises
    ------
    ValueError
        If there are no rows or no residuals.

    Examples
    --------
    A width that grows with leverage from the mean |residual| of each output:

    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.scales import Scale, check_training_rows
    >>> class Typical(Scale):
    ...     needs_residuals = True
    ...     def fit(self, rows, residuals=None, sample_weight=None):
    ...         rows, residuals, sample_weight = check_training_rows(self, rows, residuals, sample_weight)
    ...         self.size_ = np.average(np.abs(residuals), axis=0, weights=sample_weight)
    ...         return self
    ...     def predict(self, rows):
    ...         return 0.0, (1 + rows.leverage)[:, None] * self.size_
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=Typical(), random_state=0).fit(X, y, sample_weight=1.0 * (y > 50))
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """
    if rows is None or residuals is None:
        remedy = "Pass both."
        if not getattr(scale, "needs_residuals", False):
            remedy = "Declare needs_residuals = True in the class."
        elif getattr(scale, "works_without_residuals", False):
            remedy = "Pass both, or declare works_without_residuals = False in the class."
        name = type(scale).__name__
        raise ValueError(f"{name} learns from training rows and their held-out residuals; fit got none. {remedy}")
    if sample_weight is None or np.all(sample_weight):
        return rows, residuals, sample_weight
    used = np.flatnonzero(sample_weight)
    return rows.take(used), residuals[used], sample_weight[used]


def outputs(rows: Rows, n_outputs: int) -> Iterator[Rows]:
    """Yield the rows of each output: its prediction (m, 1) and leverage (m,)."""
    return map(rows.of_output, range(n_outputs))


def fit_weighted(learner: Any, *data: Any, sample_weight: Array | None, role: str) -> Any:
    """Fit and return a learner; TypeError if there are weights and it takes none: weights are never ignored."""
    if sample_weight is None:
        return learner.fit(*data)
    if not has_fit_parameter(learner, "sample_weight"):
        raise TypeError(
            f"sample_weight was passed, but {type(learner).__name__}.fit, the {role}, does not take it; use one that "
            "does."
        )
    return learner.fit(*data, sample_weight=sample_weight)


def shift_and_width(scale: Any, rows: Rows) -> tuple[Any, Array]:
    """Return what a fitted scale says of rows: shift 0.0, (m, 1) or (m, q), and width (m, 1) or (m, q) > 0.

    Raises
    ------
    TypeError
        If predict returns no pair.
    ValueError
        If a shape is another one, a shift is not finite, or a width is not positive.
    """
    shift, width = _pair(scale, rows)
    width = check_widths(width, lambda: np.isinf(rows.leverage), len(rows), _name(scale))
    if width.shape[1] != 1:
        _check_outputs(width, rows, "widths", scale)
    return shift if isinstance(shift, float) and shift == 0 else _checked_shift(shift, rows, scale), width


def _pair(scale: Any, rows: Rows) -> tuple[Any, Any]:
    """Return what predict returns; TypeError unless that is a tuple of two."""
    found = scale.predict(rows)
    if isinstance(found, tuple) and len(found) == 2:
        return found
    what = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
    raise TypeError(
        f"{_name(scale)}.predict must return a tuple (shift, width); got {what}. Return 0.0, width where the band is "
        "centred on the prediction."
    )


def _checked_shift(shift: Any, rows: Rows, scale: Any) -> Any:
    """Return a shift as a number, (m, 1) or (m, q); ValueError for any other shape, and where it is not finite."""
    values = np.asarray(shift, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim and (values.ndim != 2 or len(values) != len(rows)):
        raise ValueError(
            f"{_name(scale)}.predict must return a shift that is 0.0, or has one row for each of the {len(rows)} rows "
            f"like the width; got shape {np.shape(shift)}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{_name(scale)}.predict must return shifts that are finite; got NaN or infinity.")
    if values.ndim and values.shape[1] != 1:
        _check_outputs(values, rows, "shifts", scale)
    return values


def _check_outputs(values: Array, rows: Rows, what: str, scale: Any) -> None:
    """Raise unless values (m, k) have a column for each output."""
    n_outputs = rows.prediction.shape[1]
    if values.shape[1] != n_outputs:
        raise ValueError(
            f"{_name(scale)}.predict must return {what} (m, 1), or (m, q) with a column for each output: "
            f"({len(rows)}, {n_outputs}); got {values.shape}."
        )


def _name(scale: Any) -> str:
    """Return the name for messages: a user's function has its own, a callable object that of its class."""
    source = getattr(scale, "function", scale)
    return getattr(source, "__name__", type(source).__name__)


def check_instance(scale: Any, name: str = "scale") -> None:
    """Raise TypeError where a class stands in the place of a scale."""
    if isinstance(scale, type):
        raise TypeError(f"{name} must be an instance; got the class {scale.__name__}. Pass {scale.__name__}().")


def with_context(scale: Any, level: float, random_state: Any) -> Any:
    """Return the scale with level and random_state of the estimator around it, where its own are None."""
    parameters = scale.get_params(deep=False) if isinstance(scale, BaseEstimator) else {}
    context = {"level": level, "random_state": random_state}
    open_ones = {name: value for name, value in context.items() if name in parameters and parameters[name] is None}
    return scale.set_params(**open_ones) if open_ones else scale


def widths_at(
    scale: Any, shape: tuple[int, ...], leverage: Callable[[], Array], sampling: Callable[[], Array]
) -> Array:
    """Return the width of a fitted pointwise scale at leverages of this shape, (m,), (m, q) or (m, n), in that shape.

    Neither form of leverage is computed before the scale asks for it.
    """
    rows = Rows(
        math.prod(shape),
        inputs=_unavailable,
        leverage=lambda: leverage().ravel(),
        sampling_leverage=lambda: sampling().ravel(),
        prediction=_unavailable,
    )
    shift, width = _pair(scale, rows)
    width = check_widths(width, lambda: np.isinf(rows.leverage), len(rows), _name(scale))
    if width.shape[1] != 1 or np.any(shift):
        raise ValueError(
            f"{_name(scale)} declares pointwise = True: predict must return shift 0.0 and one width for each leverage, "
            f"({len(rows)}, 1); got shift of shape {np.shape(shift)} and widths {width.shape}. Declare pointwise = "
            "False and use CrossConformalRegressor."
        )
    return width.reshape(shape)


def _unavailable() -> Array:
    raise ValueError(
        "a scale that declares pointwise = True uses only the leverage of a row; this one asks for its inputs or "
        "prediction. Declare pointwise = False and use CrossConformalRegressor."
    )


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
        If power is negative or not finite, or form is not one of the two.

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
    """Width f(rows), for a function of the user.

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
