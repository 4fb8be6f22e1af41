"""The band of a trained model before calibration: prediction, shift and width of each row, for other packages."""

import inspect
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.conformal.band import PlainTarget
from hatband.conformal.regressor import IntervalRegressor


class RelativeBand(NamedTuple):
    """Prediction, shift and width (m,): the interval of a row is prediction + shift -+ threshold x width."""

    prediction: Array
    shift: Array
    width: Array


def relative_band(model: Any, X: Any) -> RelativeBand:
    """Return the band of a hatband estimator, calibrated or not, or of any estimator whose predict takes return_std.

    For other estimators the shift is 0 and the width is the standard deviation.
    """
    n = _num_samples(X)
    if isinstance(model, IntervalRegressor):
        model._check_trained("the bridge")
        band = model._band(model._checked(X))
        _check_plain_target(isinstance(band.target, PlainTarget), model)
        prediction, center, width = band.prediction, band.center, band.width
    else:
        prediction, width = model.predict(X, return_std=True)
        center = prediction
        width = check_widths(width, lambda: np.isinf(width), n, type(model).__name__)
    point = _check_one_column(prediction, n, "the prediction")
    return RelativeBand(
        point, _check_one_column(center, n, "the centre") - point, _check_one_column(width, n, "the width")
    )


def _check_plain_target(plain: bool, model: Any) -> None:
    """Raise if scores are not on the scale of y."""
    if not plain:
        raise ValueError(
            "a bridge needs a model that predicts y itself, because the other package computes scores from y; "
            f"the estimator of {type(model).__name__} learns a transformed target. Transform y before "
            "you pass it to either package."
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
    """Raise unless the predict of a model takes return_std."""
    predict = getattr(model, "predict", None)
    if predict is None or "return_std" not in inspect.signature(predict).parameters:
        raise TypeError(
            f"{owner} needs a fitted model whose predict takes return_std, such as a SplitConformalRegressor after "
            f"fit_train; got {model!r}. Wrap a regressor: SplitConformalRegressor(regressor).fit_train(X, y)."
        )
