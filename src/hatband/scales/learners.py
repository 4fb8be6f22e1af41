"""Learners of scales: bounds on residuals by a regression of their size, a forest, or two quantile fits.

Defaults were chosen by measurement; any regressor of the user's takes their place.
"""

from typing import Any, Protocol, Self

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.utils import check_random_state, gen_batches

from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.scales.base import fit_weighted

RELATIVE_FLOOR = 1e-3
# Tails whose quantiles are averaged, relative to the tail beyond the level: extreme ones alone are noisy.
TAILS = np.array([1.0, 1.6, 2.4])
# More rows than this are drawn again for every tree, so that size and time of the forest stay bounded.
LARGEST_SAMPLE = 10_000
BLOCK = 4_096
# Weight of the distance to the median beside y itself: splits on y alone see where it lies, not how it spreads.
SIZE_WEIGHT = 0.5


class Learner(Protocol):
    """Learns bounds (m,) on residuals from columns X (n, k) of training rows and their residuals (n,)."""

    def fit(self, X: Array, residual: Array, sample_weight: Array | None = None) -> Self:
        """Learn."""

    def bounds(self, X: Array) -> tuple[Array, Array]:
        """Return lower and upper bounds."""


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
    """Return boosting with quantile loss and few small trees: different from the forest, to be blended with it."""
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
    """Fit a clone; weights get mean 1, because with a penalty in the regressor weights 2, 2 would differ from 1, 1."""
    weight = None if sample_weight is None else sample_weight / np.mean(sample_weight)
    return fit_weighted(clone(regressor), X, y, sample_weight=weight, role="regressor of the scale")


def positive(values: Array, source: Any) -> Array:
    """Return predicted sizes (m,); ValueError with the name of the predictor unless all are positive and finite."""
    name = getattr(source, "__name__", type(source).__name__)
    return check_widths(values, lambda: np.zeros(len(values), dtype=bool), len(values), name)[:, 0]


def smallest_width(residual: Array) -> float:
    """Return the floor of widths: relative to the median |residual|, to the mean where half of them are zero."""
    size = np.abs(residual)
    return RELATIVE_FLOOR * float(np.median(size) or size.mean()) or 1.0


class MagnitudeBounds(BaseEstimator):
    """-m and m, m a regression of |residual|: no residual counts as less than 1e-3 of the median.

    Parameters
    ----------
    regressor : regressor with positive predictions
        Such as `magnitude_regressor`.
    """

    def __init__(self, regressor: Any) -> None:
        self.regressor = regressor

    def fit(self, X: Array, residual: Array, sample_weight: Array | None = None) -> Self:
        """Fit a clone of the regressor."""
        size = np.maximum(np.abs(residual), smallest_width(residual))
        self.regressor_ = fit_regressor(self.regressor, X, size, sample_weight)
        return self

    def bounds(self, X: Array) -> tuple[Array, Array]:
        """Return lower and upper bound, each (m,); ValueError for a predicted size <= 0, before the floor hides it."""
        size = positive(self.regressor_.predict(X), self.regressor_)
        return -size, size


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
        """Return lower and upper bound, each (m,); where they cross they are swapped."""
        low, high = self.low_.predict(X), self.high_.predict(X)
        return np.minimum(low, high), np.maximum(low, high)


class QuantileForest(BaseEstimator):
    """Quantiles of y given x: those of the values in the leaves of x, where each leaf of each tree keeps a few.

    Parameters
    ----------
    n_trees : int, default=100
        Extremely randomised trees, grown on the ranks of y and of |y - median|, so that they see place and spread, and
        no outlier claims the splits.
    values_per_leaf : int, default=2
        Fewest rows of a leaf, and number of values that a leaf keeps: every tree has the same say.
    random_state : int, RandomState or None, default=None
        Draws splits and values.

    Notes
    -----
    Cost: n_trees n log(n) k to fit, n_trees log(n) per row. Meinshausen (2006), *Quantile regression forests*, on the
    trees of Geurts, Ernst and Wehenkel (2006), without bootstrap up to 10,000 rows.
    """

    def __init__(self, n_trees: int = 100, values_per_leaf: int = 2, random_state: Any = None) -> None:
        self.n_trees = n_trees
        self.values_per_leaf = values_per_leaf
        self.random_state = random_state

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Grow the trees on X (n, k), NaN allowed, and y (n,), and fill their leaves."""
        random = check_random_state(self.random_state)
        # Rows without weight grow no tree; left in, they could be all that a leaf holds.
        used = np.ones(len(y), bool) if sample_weight is None else sample_weight > 0
        weight = None if sample_weight is None else sample_weight[used]
        X, y = X[used].astype(np.float32), y[used]
        large = len(y) > LARGEST_SAMPLE
        self.trees_ = ExtraTreesRegressor(
            self.n_trees,
            min_samples_leaf=self.values_per_leaf,
            bootstrap=large,
            max_samples=LARGEST_SAMPLE if large else None,
            random_state=random.randint(2**31 - 1),
        ).fit(X, _place_and_spread(y), weight)
        kept = []
        for index, tree in enumerate(self.trees_.estimators_):
            rows = np.unique(self.trees_.estimators_samples_[index]) if large else np.arange(len(y))
            leaves = tree.tree_.apply(X[rows])
            share = np.ones(len(rows)) if weight is None else weight[rows]
            values = np.zeros((tree.tree_.node_count, self.values_per_leaf))
            _fill_leaves(values, leaves, y[rows], share, random)
            kept.append(values)
        self.values_ = np.concatenate(kept)
        self.offsets_ = np.cumsum([0, *(len(values) for values in kept[:-1])])
        return self

    def quantiles(self, X: Array, levels: Array) -> Array:
        """Return the order statistics ceil(level N) of the N values of each row, (m, len(levels))."""
        n_values = self.n_trees * self.values_per_leaf
        ranks = np.clip(np.ceil(np.asarray(levels) * n_values).astype(int) - 1, 0, n_values - 1)
        found = np.empty((len(X), len(ranks)))
        for block in gen_batches(len(X), BLOCK):
            leaves = self.trees_.apply(X[block].astype(np.float32)) + self.offsets_
            values = self.values_[leaves].reshape(len(leaves), n_values)
            found[block] = np.partition(values, np.unique(ranks), axis=1)[:, ranks]
        return found


def _place_and_spread(y: Array) -> Array:
    """Return the targets of the trees, (n, 2): the ranks of y, and of its distance to the median."""
    return np.column_stack([rankdata(y), SIZE_WEIGHT * rankdata(np.abs(y - np.median(y)))])


def _fill_leaves(values: Array, leaves: Array, y: Array, weight: Array, random: Any) -> None:
    """Draw values.shape[1] of y for each leaf, systematically in random order: each row in proportion to its weight."""
    order = random.permutation(len(y))
    order = order[np.argsort(leaves[order], kind="stable")]
    nodes, first, size = np.unique(leaves[order], return_index=True, return_counts=True)
    mass = np.cumsum(weight[order])
    below = mass[first] - weight[order[first]]
    k = values.shape[1]
    points = below[:, None] + (mass[first + size - 1] - below)[:, None] * (np.arange(k) + 0.5) / k
    place = np.searchsorted(mass, points)
    values[nodes] = y[order[np.clip(place, first[:, None], (first + size - 1)[:, None])]]
