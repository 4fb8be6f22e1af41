"""The quantile forest against what can be counted by hand: leaves, weights, order statistics."""

import numpy as np
import pytest
from scipy import stats

from hatband.scales import learners
from hatband.scales.learners import QuantileForest, _fill_leaves


@pytest.fixture
def made(rng):
    X = rng.uniform(-1, 1, (300, 3))
    return X, X[:, 0] + (0.1 + np.abs(X[:, 1])) * rng.standard_normal(300)


def kept_values(fitted, X):
    """Values that each tree keeps in the leaf of each row, (m, trees, values), tree by tree."""
    ends = [*fitted.offsets_[1:], len(fitted.values_)]
    tables = [fitted.values_[start:end] for start, end in zip(fitted.offsets_, ends, strict=True)]
    trees = fitted.trees_.estimators_
    return np.stack([table[tree.apply(X)] for table, tree in zip(tables, trees, strict=True)], axis=1)


def meinshausen_weights(fitted, X, weight, x):
    """Weights of the training rows at x: shares within its leaves, mean over trees (Meinshausen 2006, eq. 5)."""
    same = fitted.trees_.apply(X) == fitted.trees_.apply(x[None])
    return (weight[:, None] * same / (weight @ same)).mean(axis=1)


class TestLeaves:
    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_keep_values_of_rows_that_fell_into_them(self, made, size):
        X, y = made
        fitted = QuantileForest(4, size, random_state=0).fit(X, y)
        for kept, tree in zip(kept_values(fitted, X).transpose(1, 0, 2), fitted.trees_.estimators_, strict=True):
            leaves = tree.apply(X)
            for leaf in np.unique(leaves):
                own = kept[leaves == leaf]
                assert (own == own[0]).all()
                assert set(own[0]) <= set(y[leaves == leaf])

    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_count_each_row_by_its_weight_to_the_nearest_whole(self, size, rng):
        """Systematic sampling: a row of share p is drawn floor(k p) or ceil(k p) times."""
        leaves, weight, y = rng.integers(0, 20, 400), rng.exponential(size=400), np.arange(400.0)
        values = np.zeros((20, size))
        _fill_leaves(values, leaves, y, weight, np.random.RandomState(0))
        for leaf in range(20):
            rows = np.flatnonzero(leaves == leaf)
            times = (values[leaf][:, None] == y[rows]).sum(axis=0)
            share = size * weight[rows] / weight[rows].sum()
            assert times.sum() == size
            assert (np.abs(times - share) < 1 + 1e-9).all()

    def test_of_equal_rows_hold_them_once_each(self):
        X, y = np.repeat(np.arange(8.0), 2)[:, None], np.arange(16.0)
        fitted = QuantileForest(3, 2, random_state=0).fit(X, y)

        np.testing.assert_array_equal(np.sort(kept_values(fitted, X), axis=2)[::2, 0], y.reshape(8, 2))
        np.testing.assert_array_equal(fitted.quantiles(X[::2], [0.5, 1.0]), y.reshape(8, 2))


class TestQuantiles:
    def test_are_order_statistics_of_the_values_kept(self, made):
        X, y = made
        fitted = QuantileForest(7, 3, random_state=1).fit(X, y)
        ordered = np.sort(kept_values(fitted, X).reshape(len(X), -1), axis=1)
        found = fitted.quantiles(X, [0.001, 0.3, 0.5, 1.0])

        np.testing.assert_array_equal(found, ordered[:, [0, 6, 10, 20]])

    @pytest.mark.parametrize("weighted", [False, True])
    def test_agree_with_weighted_quantiles_over_all_training_rows(self, made, weighted, rng):
        X, y = made
        weight = rng.exponential(size=len(y)) if weighted else np.ones(len(y))
        fitted = QuantileForest(300, 2, random_state=0).fit(X, y, weight if weighted else None)
        levels = np.array([0.1, 0.5, 0.9])
        # 600 values drawn with at most the variance of independent ones: five deviations.
        slack = 5 * np.sqrt(0.25 / 600)
        for x in rng.uniform(-1, 1, (5, 3)):
            values = fitted.quantiles(x[None], levels)[0]
            share = meinshausen_weights(fitted, X, weight, x)
            for level, value in zip(levels, values, strict=True):
                assert share[y < value].sum() - slack < level < share[y <= value].sum() + slack

    def test_rise_with_the_level_and_follow_the_spread(self, made):
        X, y = made
        low, middle, high = QuantileForest(60, random_state=0).fit(X, y).quantiles(X, [0.1, 0.5, 0.9]).T

        assert (low <= middle).all()
        assert (middle <= high).all()
        assert stats.spearmanr(high - low, np.abs(X[:, 1])).statistic > 0.6

    def test_find_a_spread_where_the_middle_does_not_move(self, rng):
        """Noise of two sizes around zero: which of forty inputs tells them apart, ranks of y alone cannot say."""
        X = rng.uniform(-1, 1, (1000, 40))
        y = np.where(X[:, 0] > 0, 5.0, 0.5) * rng.standard_normal(1000)
        fitted = QuantileForest(40, random_state=0).fit(X, y)
        new = rng.uniform(-1, 1, (1000, 40))
        low, high = fitted.quantiles(new, [0.1, 0.9]).T
        wide, narrow = ((high - low)[side].mean() for side in (new[:, 0] > 0, new[:, 0] < 0))

        assert wide > 4 * narrow

    def test_are_the_same_in_blocks(self, made, monkeypatch):
        X, y = made
        fitted = QuantileForest(5, random_state=0).fit(X, y)
        whole = fitted.quantiles(X, [0.2, 0.8])
        monkeypatch.setattr(learners, "BLOCK", 7)

        np.testing.assert_array_equal(fitted.quantiles(X, [0.2, 0.8]), whole)

    def test_take_missing_inputs(self, made):
        X, y = made
        X = np.where(X > 0.9, np.nan, X)

        assert np.isfinite(QuantileForest(5, random_state=0).fit(X, y).quantiles(X, [0.5])).all()


class TestWeights:
    def test_rows_of_weight_zero_leave_no_trace(self, made):
        X, y = made
        weight = np.resize([1.0, 0.0], len(y))
        one = QuantileForest(5, random_state=0).fit(X, np.where(weight > 0, y, 1e9), weight)
        other = QuantileForest(5, random_state=0).fit(X[::2], y[::2], np.ones(150))

        np.testing.assert_array_equal(one.quantiles(X, [0.5, 1.0]), other.quantiles(X, [0.5, 1.0]))


class TestManyRows:
    def test_every_tree_keeps_values_of_its_own_sample(self, made, monkeypatch):
        monkeypatch.setattr(learners, "LARGEST_SAMPLE", 100)
        X, y = made
        fitted = QuantileForest(6, random_state=0).fit(X, y)
        for kept, sample in zip(
            kept_values(fitted, X).transpose(1, 0, 2), fitted.trees_.estimators_samples_, strict=True
        ):
            assert len(sample) == 100
            assert set(kept.ravel()) <= set(y[sample])
