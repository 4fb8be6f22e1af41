"""crepes' regressors and predictive systems with our widths: `LeverageDifficulty`.

crepes divides residuals by a difficulty of each row. `LeverageDifficulty` gives it the width of a model that
`fit_train` has trained, and serves as the learner too, so that a scale that shifts the centre is honoured:

>>> from crepes import WrapRegressor
>>> from sklearn.datasets import load_diabetes
>>> from hatband import SplitConformalRegressor
>>> from hatband.integrations.crepes import LeverageDifficulty
>>> X, y = load_diabetes(return_X_y=True)
>>> band = LeverageDifficulty(SplitConformalRegressor(random_state=0).fit_train(X[:200], y[:200]))
>>> interval = WrapRegressor(band).calibrate(X[200:300], y[200:300], de=band).predict_int(X[300:], confidence=0.9)
>>> interval.shape
(142, 2)
>>> system = WrapRegressor(band).calibrate(X[200:300], y[200:300], de=band, cps=True)
>>> system.predict_percentiles(X[300:], higher_percentiles=[50, 90]).shape
(142, 2)

Do not hand our widths to crepes' DifficultyEstimator: it rescales them into [0, 1] and adds a constant, which undoes
them. crepes 0.9 works out the rank of the threshold in floating point: with 9, 19, 29, ... calibration rows at level
0.9 its interval is one order statistic wider than needed.
"""

from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.integrations.bands import check_gives_widths, relative_band

__all__ = ["LeverageDifficulty"]


class LeverageDifficulty:
    """Difficulty estimator for crepes: apply(X) = width(x) of a trained model, predict(X) = its prediction + shift(x).

    Parameters
    ----------
    model : fitted estimator
        A SplitConformalRegressor, or another split estimator of this package, after `fit_train` or `fit`, one output;
        or any regressor whose predict takes ``return_std``.

    Raises
    ------
    TypeError
        If the model's predict does not take ``return_std``.

    Notes
    -----
    Any learner may stand beside it in crepes: difficulties are a fixed function of the row, and coverage does not
    depend on them. As the learner it gives the intervals of the model itself, calibrated on the same rows.

    Examples
    --------
    >>> from crepes import ConformalRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.integrations.crepes import LeverageDifficulty
    >>> X, y = load_diabetes(return_X_y=True)
    >>> band = LeverageDifficulty(SplitConformalRegressor().fit_train(X[:200], y[:200]))
    >>> regressor = ConformalRegressor().fit(y[200:] - band.predict(X[200:]), sigmas=band.apply(X[200:]))
    >>> regressor.predict_int(band.predict(X[:3]), sigmas=band.apply(X[:3]), confidence=0.9).shape
    (3, 2)
    """

    def __init__(self, model: Any) -> None:
        check_gives_widths(model, type(self).__name__)
        self.model = model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    def apply(self, X: Any) -> Array:
        """Return the width of each row.

        Parameters
        ----------
        X : rows as the model takes them

        Returns
        -------
        width : array (m,)
            Positive; relative, up to a factor common to all rows.

        Raises
        ------
        ValueError
            If a width is infinite: crepes would multiply it by scores of 0.
        """
        return _check_finite_widths(relative_band(self.model, X).width)

    def predict(self, X: Any) -> Array:
        """Return the centre of the band: the prediction, plus the shift where the scale has one.

        Parameters
        ----------
        X : rows as the model takes them

        Returns
        -------
        center : array (m,)
        """
        prediction, shift, _ = relative_band(self.model, X)
        return prediction + shift


def _check_finite_widths(width: Array) -> Array:
    """Return widths (m,); raise for infinite ones, because other packages multiply them by scores of 0."""
    infinite = np.isinf(width)
    if infinite.any():
        raise ValueError(
            f"widths must be finite here; {infinite.sum()} of {len(width)} rows lie outside the span of the training "
            f"rows (the first is row {int(infinite.argmax())}) and have infinite leverage. Give the estimator a ridge "
            "> 0, or take intervals from predict_interval of the model itself."
        )
    return width
