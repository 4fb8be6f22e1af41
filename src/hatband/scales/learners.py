"""What learned scales learn with: defaults chosen by measurement, and any regressor of the user's."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import has_fit_parameter

from hatband.arrays.typing import Array
from hatband.scales.forest import QuantileForest

# Tails whose quantiles are averaged, relative to the tail beyond the level: extreme ones alone are noisy.
TAILS = np.array([1.0, 1.6, 2.4])


def magnitude_regressor(random_state: Any) -> HistGradientBoostingRegressor:
    """Return boosting with gamma loss, small trees and little data per step: |residual| is noise around its mean."""
    return HistGradientBoostingRegressor(
        loss="gamma",
        learning_rate=0.1,
        max_iter=60,
        max_leaf_nodes=8,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=random_state,
    )


def boosted_quantiles() -> HistGradientBoostingRegressor:
    """Return boosting with quantile loss, few small trees: another view than the forest's, to blend with it."""
    return HistGradientBoostingRegressor(
        loss="quantile",
        quantile=0.5,
        learning_rate=0.2,
        max_iter=30,
        max_leaf_nodes=8,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )


def fit_regressor(regressor: Any, X: Array, y: Array, sample_weight: Array | None) -> Any:
    """Fit a clone; weights are never dropped in silence."""
    if sample_weight is None:
        return clone(regressor).fit(X, y)
    if not has_fit_parameter(regressor, "sample_weight"):
        raise TypeError(
            f"sample_weight was passed, but {type(regressor).__name__}.fit, the regressor of the scale, does not take "
            "it; use a regressor that does."
        )
    return clone(regressor).fit(X, y, sample_weight=sample_weight)


class ForestBounds(BaseEstimator):
    """Lower and upper quantile by a forest, each averaged over three tails.

    Parameters
    ----------
    level : float
        Share of rows between the bounds.
    n_trees, random_state
        As in `QuantileForest`.
    """

    def __init__(self, level: float, n_trees: int = 100, random_state: Any = None) -> None:
        self.level = level
        self.n_trees = n_trees
        self.random_state = random_state

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Grow the forest."""
        self.forest_ = QuantileForest(self.n_trees, random_state=self.random_state).fit(X, y, sample_weight)
        return self

    def bounds(self, X: Array) -> tuple[Array, Array]:
        """Return lower and upper bound, each (m,)."""
        tail = (1 - self.level) / 2
        tails = np.minimum(TAILS * tail, (tail + 0.5) / 2)
        found = self.forest_.quantiles(X, np.concatenate([tails, 1 - tails]))
        return found[:, : len(tails)].mean(axis=1), found[:, len(tails) :].mean(axis=1)


class RegressorBounds(BaseEstimator):
    """Lower and upper quantile by two copies of a quantile regressor.

    Parameters
    ----------
    level : float
        Share of rows between the bounds.
    regressor : regressor with a parameter named quantile
        Such as ``HistGradientBoostingRegressor(loss="quantile")`` or ``QuantileRegressor()``.
    """

    def __init__(self, level: float, regressor: Any) -> None:
        self.level = level
        self.regressor = regressor

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Fit one copy for each bound."""
        if "quantile" not in self.regressor.get_params():
            raise TypeError(
                "regressor must have a parameter named quantile, such as HistGradientBoostingRegressor(loss='quantile')"
                f" or QuantileRegressor(); got {type(self.regressor).__name__}."
            )
        tail = (1 - self.level) / 2
        low, high = (clone(self.regressor).set_params(quantile=float(quantile)) for quantile in (tail, 1 - tail))
        self.low_ = fit_regressor(low, X, y, sample_weight)
        self.high_ = fit_regressor(high, X, y, sample_weight)
        return self

    def bounds(self, X: Array) -> tuple[Array, Array]:
        """Return lower and upper bound, each (m,); crossing ones are swapped."""
        low, high = self.low_.predict(X), self.high_.predict(X)
        return np.minimum(low, high), np.maximum(low, high)
