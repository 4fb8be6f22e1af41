"""Scoring intervals where scikit-learn scores predictions: searches, cross-validation, outer Pipelines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.pipeline import Pipeline

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in
from hatband.formulas.metrics import covered, interval_score, mean_width
from hatband.formulas.order_statistics import exact_level

Metric = Literal["interval_score", "coverage", "width"]


@dataclass(frozen=True)
class IntervalScorer:
    """The result of `interval_scorer`: a callable (estimator, X, y) -> float, greater is better.

    Parameters
    ----------
    metric : {"interval_score", "coverage", "width"}
    confidence_level : float, list of float or None

    See Also
    --------
    interval_scorer : Says what each metric is.

    Examples
    --------
    >>> from hatband.diagnostics.scorer import IntervalScorer
    >>> IntervalScorer("width", 0.9)
    interval_scorer('width', confidence_level=0.9)
    """

    metric: str = "interval_score"
    confidence_level: Any = None

    def __post_init__(self) -> None:
        """Check the settings here, so that a search fails before it starts its workers."""
        check_in(self.metric, list(_METRICS), "metric")
        if self.confidence_level is not None:
            check_confidence_level(self.confidence_level)

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the score of a fitted estimator's intervals on rows (X, y), the mean over rows, outputs and levels."""
        levels, _ = check_confidence_level(
            _own_level(estimator) if self.confidence_level is None else self.confidence_level
        )
        _, interval = estimator.predict(X, return_interval=True, confidence_level=levels)
        target = np.asarray(y, dtype=np.float64)
        _check_scored(interval, target)
        ends = np.moveaxis(interval, (target.ndim, -1), (0, 1))
        scores = [
            _METRICS[self.metric](target, lower, upper, level)
            for level, lower, upper in zip(levels, *ends, strict=True)
        ]
        return float(np.mean(scores))

    def __repr__(self) -> str:
        return f"interval_scorer({self.metric!r}, confidence_level={self.confidence_level!r})"


def interval_scorer(metric: Metric = "interval_score", confidence_level: Any = None) -> IntervalScorer:
    """Return a callable (estimator, X, y) -> score of its intervals, greater is better, for ``scoring=``.

    It asks ``estimator.predict(X, return_interval=True)``, which reaches through a Pipeline whose last step is an
    estimator of this package, and so works in ``GridSearchCV``, ``cross_val_score`` and ``cross_validate``.

    Parameters
    ----------
    metric : {"interval_score", "coverage", "width"}, default="interval_score"
        "interval_score": the mean interval score, negated; it weighs width against misses, and is the one to choose
        settings by. "coverage": -|coverage - level|, 0 at best; many settings reach the level, and which comes nearest
        on a few hundred rows is chance. "width": the mean width, negated; by itself it favours intervals that miss.
    confidence_level : float or list of float, default=None
        Level of the intervals; None takes that of the estimator. For several the mean is taken.

    Returns
    -------
    IntervalScorer
        Mean over rows, outputs and levels; -inf where an interval is infinite and the metric is not the coverage.

    Raises
    ------
    ValueError
        If the metric is unknown or a level is not in (0, 1).

    Notes
    -----
    With scikit-learn's metadata routing switched on, an estimator inside a Pipeline needs
    ``set_predict_request(return_interval=True, confidence_level=True)``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import GridSearchCV
    >>> from hatband import SplitConformalRegressor, interval_scorer
    >>> model = SplitConformalRegressor(Ridge(), random_state=0)
    >>> grid = {"scale": ["constant", "leverage"], "estimator__alpha": [0.1, 10.0]}
    >>> search = GridSearchCV(model, grid, scoring=interval_scorer(confidence_level=0.8), cv=3)
    >>> search.fit(*load_diabetes(return_X_y=True)).best_params_["estimator__alpha"]
    0.1
    """
    return IntervalScorer(metric, confidence_level)


def _own_level(estimator: Any) -> Any:
    """The level of an estimator, or of the last step of a Pipeline."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    try:
        return estimator.confidence_level
    except AttributeError as error:
        raise ValueError(
            f"interval_scorer needs a confidence_level, or an estimator that has one; {type(estimator).__name__} has "
            "none. Pass interval_scorer(..., confidence_level=0.9) and an estimator whose predict can return intervals."
        ) from error


def _negative_interval_score(y: Array, lower: Array, upper: Array, level: Any) -> float:
    return -float(interval_score(y, lower, upper, level).mean())


def _negative_coverage_error(y: Array, lower: Array, upper: Array, level: Any) -> float:
    return -float(np.abs(covered(y, lower, upper).mean(axis=0) - float(exact_level(level))).mean())


def _negative_width(y: Array, lower: Array, upper: Array, level: Any) -> float:
    return -float(mean_width(lower, upper).mean())


_METRICS: dict[str, Callable[[Array, Array, Array, Any], float]] = {
    "interval_score": _negative_interval_score,
    "coverage": _negative_coverage_error,
    "width": _negative_width,
}


def _check_scored(interval: Any, y: Array) -> None:
    """Raise unless intervals (m, [q,] 2, L) match targets (m[, q])."""
    shape = np.shape(interval)
    if len(shape) < 3 or shape[:-2] != y.shape or shape[-2] != 2:
        raise ValueError(
            "y must have the shape of the y given to fit, and intervals two more axes: for lower and upper, and for "
            f"levels; got y of shape {y.shape} and intervals of shape {shape}."
        )
