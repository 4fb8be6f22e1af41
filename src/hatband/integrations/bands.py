"""The band of a trained model before calibration: prediction, shift and width of each row, for other packages."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from hatband._checks_bridges import check_one_column, check_plain_target
from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.conformal.band import PlainTarget
from hatband.conformal.regressor import IntervalRegressor


class RelativeBand(NamedTuple):
    """Of each row, (m,): the interval is prediction + shift -+ threshold x width."""

    prediction: Array
    shift: Array
    width: Array


def relative_band(model: Any, X: Any) -> RelativeBand:
    """Return the band of one of our estimators, calibrated or not, or of any whose predict takes return_std.

    Of another estimator the shift is 0 and the width its standard deviation.
    """
    n = _num_samples(X)
    if isinstance(model, IntervalRegressor):
        model._check_trained("the bridge")
        band = model._band(model._checked(X))
        check_plain_target(isinstance(band.target, PlainTarget), model)
        prediction, center, width = band.prediction, band.center, band.width
    else:
        prediction, width = model.predict(X, return_std=True)
        center = prediction
        width = check_widths(width, lambda: np.isinf(width), n, type(model).__name__)
    point = check_one_column(prediction, n, "the prediction")
    return RelativeBand(
        point, check_one_column(center, n, "the centre") - point, check_one_column(width, n, "the width")
    )
