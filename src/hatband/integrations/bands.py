"""The band of a trained model before calibration: prediction, shift and width of each row, for other packages."""

import inspect
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples, check_is_fitted

from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.conformal.band import band_of
from hatband.conformal.base import BaseSplitConformal
from hatband.conformal.inputs import check_rows
from hatband.conformal.target import PlainTarget
from hatband.fitted.rows import new_rows


class Band(NamedTuple):
    """Of each row, (m,): the interval is prediction + shift -+ threshold x width."""

    prediction: Array
    shift: Array
    width: Array


@singledispatch
def relative_band(model: Any, X: Any) -> Band:
    """Return the band of any regressor whose predict takes return_std: shift 0, width the standard deviation."""
    n = _num_samples(X)
    prediction, deviation = model.predict(X, return_std=True)
    width = check_widths(deviation, lambda: np.isinf(deviation), n, type(model).__name__)
    return Band(
        _check_one_column(prediction, n, "the prediction"), np.zeros(n), _check_one_column(width, n, "the width")
    )


@relative_band.register
def _(model: BaseSplitConformal, X: Any) -> Band:
    """Return the band of one of our split estimators, calibrated or not, with the shift that its scale may have."""
    check_is_fitted(model, "space_")
    _check_plain_target(isinstance(model.target_, PlainTarget), model.estimator_)
    rows = new_rows(model.model_, model.space_, check_rows(model, X, reset=False), model.n_outputs_)
    center, width = band_of(model.scale_, rows, model.target_)
    n = len(rows)
    prediction = _check_one_column(rows.prediction, n, "the prediction")
    return Band(
        prediction, _check_one_column(center, n, "the centre") - prediction, _check_one_column(width, n, "width")
    )


def _check_plain_target(plain: bool, estimator: Any) -> None:
    """Raise where scores are formed on another scale than that of y."""
    if not plain:
        raise ValueError(
            "a bridge needs a model that predicts y itself, because the other package forms its scores from y; "
            f"{type(estimator).__name__} learns a transformed target. Transform y before both packages see it."
        )


def _check_one_column(values: Any, n_samples: int, name: str) -> Array:
    """Return one number per row as float64 (m,)."""
    columns = np.asarray(values, dtype=np.float64)
    if columns.shape not in ((n_samples,), (n_samples, 1)):
        raise ValueError(
            f"a bridge carries one output; {name} has shape {columns.shape} for {n_samples} rows. Fit one model for "
            "each output."
        )
    return columns.reshape(n_samples)


def check_gives_widths(model: Any, owner: str) -> None:
    """Raise unless a model predicts with a standard deviation on request."""
    predict = getattr(model, "predict", None)
    if predict is None or "return_std" not in inspect.signature(predict).parameters:
        raise TypeError(
            f"{owner} needs a fitted model whose predict takes return_std, such as a SplitConformalRegressor after "
            f"fit_train; got {model!r}. Wrap a regressor: SplitConformalRegressor(regressor).fit_train(X, y)."
        )
