"""MAPIE's regressors with our widths: `LeverageConformityScore`, and MAPIE's own StdConformityScore.

In MAPIE's SplitConformalRegressor, `LeverageConformityScore` takes the band of a model that `fit_train` has trained, of
any scale, also one that shifts the centre:

>>> from mapie.regression import CrossConformalRegressor
>>> from mapie.regression import SplitConformalRegressor as MapieRegressor
>>> from sklearn.datasets import load_diabetes
>>> from hatband import SplitConformalRegressor
>>> from hatband.integrations.mapie import LeverageConformityScore
>>> X, y = load_diabetes(return_X_y=True)
>>> model = SplitConformalRegressor(random_state=0).fit_train(X[:200], y[:200])
>>> bridge = MapieRegressor(model, confidence_level=[0.8, 0.9], conformity_score=LeverageConformityScore(model))
>>> y_pred, interval = bridge.conformalize(X[200:300], y[200:300]).predict_interval(X[300:])
>>> interval.shape
(142, 2, 2)

In its CrossConformalRegressor and JackknifeAfterBootstrapRegressor each fold needs the leverage of its own model.
MAPIE's StdConformityScore asks every fold's model for ``predict(X, return_std=True)``; `WidthAsStd` answers with the
width of one of our models, which MAPIE calibrates. Take a scale without shift.

>>> from mapie.conformity_scores import StdConformityScore
>>> from hatband.integrations.mapie import WidthAsStd
>>> model = WidthAsStd(SplitConformalRegressor(scale="leverage"))
>>> bridge = CrossConformalRegressor(model, confidence_level=0.9, cv=5, conformity_score=StdConformityScore())
>>> y_pred, interval = bridge.fit_conformalize(X[:300], y[:300]).predict_interval(X[300:])
>>> interval.shape
(142, 2, 1)

Intervals of a list of levels from our own estimators have MAPIE's layout (m, 2, levels), so `mapie.metrics.regression`
takes them unchanged. Where calibration rows are too few for the level, MAPIE 1.6 raises and ours are infinite; its
StdConformityScore takes some lower bounds of split intervals one rank too close, `LeverageConformityScore` takes both
where ours are.
"""

from typing import Any, Self

import numpy as np
from mapie.conformity_scores import BaseRegressionScore
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from hatband.arrays.typing import Array
from hatband.integrations.bands import check_gives_widths, relative_band

__all__ = ["LeverageConformityScore", "WidthAsStd"]


class LeverageConformityScore(BaseRegressionScore):
    """Conformity score (y - y_pred - shift(x)) / width(x), with shift and width of a model that is already trained.

    Parameters
    ----------
    model : fitted estimator
        A SplitConformalRegressor, or another split estimator of this package, after `fit_train` or `fit`, one output;
        or any regressor whose predict takes ``return_std``.
    sym : bool, default=True
        MAPIE's word: whether both sides share one threshold.

    Raises
    ------
    TypeError
        If the model's predict does not take ``return_std``.

    Notes
    -----
    For MAPIE's SplitConformalRegressor, with conformalization rows that did not train the model. In its cross and
    jackknife regressors the width would be a function of the rows that score it, unless the model was trained
    on other rows altogether: use StdConformityScore there. Give every MAPIE regressor its own instance. MAPIE's
    regressor may wrap the model itself, its ``estimator_``, or any other regressor: coverage does not depend on it.
    Cost: d^2 per row. Fadnavis (2026), arXiv 2602.12693, with the model's own ridge, intercept and scale.

    Examples
    --------
    >>> from mapie.regression import SplitConformalRegressor as MapieRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.integrations.mapie import LeverageConformityScore
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor().fit_train(X[:200], y[:200])
    >>> bridge = MapieRegressor(model, confidence_level=0.9, conformity_score=LeverageConformityScore(model))
    >>> bridge.conformalize(X[200:], y[200:]).predict_interval(X[:3])[1].shape
    (3, 2, 1)
    """

    def __init__(self, model: Any, sym: bool = True) -> None:
        check_gives_widths(model, type(self).__name__)
        # MAPIE's own consistency check has an absolute tolerance, which targets of a large scale cannot meet.
        super().__init__(sym=sym, consistency_check=False)
        self.model = model

    def get_signed_conformity_scores(self, y: Any, y_pred: Any, X: Any = None, **kwargs: Any) -> Array:
        """Return scores (n,) of the rows X; 0 where the leverage is infinite.

        Parameters
        ----------
        y, y_pred : array (n,)
        X : rows as the model takes them
        **kwargs : dict
            What else MAPIE passes; not used.

        Returns
        -------
        scores : array (n,)
        """
        _, shift, width = relative_band(self.model, X)
        return (np.asarray(y) - np.asarray(y_pred) - shift) / width

    def get_estimation_distribution(self, y_pred: Any, conformity_scores: Any, X: Any = None, **kwargs: Any) -> Array:
        """Return y_pred + shift + width x score: the target that would have the score.

        Parameters
        ----------
        y_pred : array (m,), or (m, k) with a prediction of each fold or level
        conformity_scores : array that broadcasts against y_pred
        X : rows as the model takes them
        **kwargs : dict
            What else MAPIE passes; not used.

        Returns
        -------
        y : array, y_pred and scores broadcast
            Infinite, with the sign of the score (that of -0.0 counts), where the leverage is infinite.
        """
        prediction, scores = np.asarray(y_pred), np.asarray(conformity_scores)
        _, shift, width = relative_band(self.model, X)
        if max(prediction.ndim, scores.ndim) > 1:
            shift, width = shift[:, None], width[:, None]
        infinite = np.isinf(width)
        distance = np.where(infinite, np.copysign(np.inf, scores), scores * np.where(infinite, 1.0, width))
        return prediction + shift + distance


class WidthAsStd(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """A regressor whose ``predict(X, return_std=True)`` returns the width of the band, for MAPIE's StdConformityScore.

    Parameters
    ----------
    model : SplitConformalRegressor
        Trained on all rows of each fold, and not calibrated: MAPIE does that. Its scale must not shift the centre.

    Attributes
    ----------
    model_ : fitted SplitConformalRegressor

    Raises
    ------
    ValueError
        In predict, if the scale shifts the centre or the target is learned on another scale than y.

    Examples
    --------
    >>> from mapie.conformity_scores import StdConformityScore
    >>> from mapie.regression import CrossConformalRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.integrations.mapie import WidthAsStd
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = WidthAsStd(SplitConformalRegressor(scale="leverage"))
    >>> bridge = CrossConformalRegressor(model, confidence_level=0.9, cv=5, conformity_score=StdConformityScore())
    >>> bridge.fit_conformalize(X, y).predict_interval(X[:3])[1].shape
    (3, 2, 1)
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a clone of the model on all rows."""
        self.model_ = clone(self.model).fit_train(X, y, sample_weight)
        self.n_features_in_ = self.model_.n_features_in_
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the prediction, and on request the relative width as the standard deviation."""
        check_is_fitted(self, "model_")
        return self.model_.predict(X, return_width=return_std)
