"""A forest that keeps observed values in its leaves, so that it knows a distribution for every row."""

from typing import Any, Self

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.utils import check_random_state, gen_batches

from hatband.arrays.typing import Array

# More rows than this are drawn anew for every tree, so that size and time of the forest stay bounded.
LARGEST_SAMPLE = 10_000
BLOCK = 4_096
# Weight of the distance to the median beside y itself: splits on y alone see where it lies, not how it spreads.
SIZE_WEIGHT = 0.5


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
    """Return what the trees are to predict, (n, 2): the ranks of y, and of its distance to the median."""
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
