"""The band of a trained model before calibration: prediction, shift and width of each row, for other packages."""

from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples, check_is_fitted

from hatband._checks_bridges import check_one_column, check_plain_target
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
    return Band(check_one_column(prediction, n, "the prediction"), np.zeros(n), check_one_column(width, n, "the width"))


@relative_band.register
def _(model: BaseSplitConformal, X: Any) -> Band:
    """Return the band of one of our split estimators, calibrated or not, with the shift that its scale may have."""
    check_is_fitted(model, "space_")
    check_plain_target(isinstance(model.target_, PlainTarget), model.estimator_)
    rows = new_rows(model.model_, model.space_, check_rows(model, X, reset=False), model.n_outputs_)
    center, width = band_of(model.scale_, rows, model.target_)
    n = len(rows)
    prediction = check_one_column(rows.prediction, n, "the prediction")
    return Band(prediction, check_one_column(center, n, "the centre") - prediction, check_one_column(width, n, "width"))
