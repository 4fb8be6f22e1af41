"""Metrics of intervals against hand counts and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from hatband.formulas.metrics import (
    coverage_by_group,
    covered,
    interval_score,
    leverage_fifths,
    mean_width,
    pinball_loss,
    quantile_bins,
)

Y = np.array([0.0, 1.0, 2.0, 3.0])
LOWER = np.array([0.0, 2.0, -np.inf, 0.0])
UPPER = np.array([1.0, 4.0, 1.0, np.inf])


def test_covered_counts_the_ends_and_infinite_bounds():
    np.testing.assert_array_equal(covered(Y, LOWER, UPPER), [True, False, False, True])


def test_interval_score_by_hand():
    # Width 1 and no miss; width 2 and a miss of 1 at 20 per unit; infinite widths.
    np.testing.assert_array_equal(interval_score(Y, LOWER, UPPER, 0.9), [1.0, 22.0, np.inf, np.inf])


def test_interval_score_of_a_point_at_infinity_is_infinite():
    ends = np.array([np.inf, -np.inf])

    np.testing.assert_array_equal(interval_score(np.zeros(2), ends, ends, 0.9), [np.inf, np.inf])


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_interval_score_is_the_pinball_loss_of_both_ends(rng, level):
    y = rng.normal(size=(200, 2))
    lower, upper = (np.sort(rng.normal(size=(2, 200, 2)), axis=0))[[0, 1]]
    ends = pinball_loss(y, lower, (1 - level) / 2) + pinball_loss(y, upper, (1 + level) / 2)
    score = interval_score(y, lower, upper, level)

    assert score.shape == y.shape
    np.testing.assert_allclose(score, 2 / (1 - level) * ends, rtol=100 * np.finfo(float).eps, atol=1e-13)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_pinball_loss_averages_to_that_of_scikit_learn(rng, level):
    y, prediction = rng.normal(size=(2, 100))
    theirs = mean_pinball_loss(y, prediction, alpha=level)

    np.testing.assert_allclose(pinball_loss(y, prediction, level).mean(), theirs, rtol=1e-14)


def test_pinball_loss_of_an_infinite_quantile_is_infinite():
    np.testing.assert_array_equal(pinball_loss(np.zeros(2), np.array([np.inf, -np.inf]), 0.9), [np.inf, np.inf])


def test_mean_width_is_per_output_and_infinite_with_one_infinite_interval():
    lower = np.array([[0.0, -np.inf], [1.0, 0.0]])
    upper = np.array([[2.0, 1.0], [2.0, 1.0]])

    np.testing.assert_array_equal(mean_width(lower, upper), [1.5, np.inf])


@pytest.mark.parametrize("metric", [covered, lambda y, low, up: interval_score(y, low, up, 0.9)])
def test_crossed_bounds_are_refused_with_their_row(metric):
    with pytest.raises(ValueError, match=r"lower must not exceed upper; row 1 has \[2.0, 1.0\]"):
        metric(np.zeros(2), np.array([0.0, 2.0]), np.array([1.0, 1.0]))


@pytest.mark.parametrize("name", ["y", "lower", "upper"])
def test_nan_is_refused_with_the_array_named(name):
    arrays = {"y": np.zeros(2), "lower": np.zeros(2), "upper": np.ones(2)}
    arrays[name] = np.array([0.0, np.nan])

    with pytest.raises(ValueError, match=f"{name} must not hold NaN; row 1"):
        interval_score(**arrays, confidence_level=0.9)


def test_coverage_by_group_equals_a_hand_count(rng):
    groups = rng.choice(["a", "b", "c"], size=60)
    hits = rng.random(60) < 0.8

    for found in coverage_by_group(hits, groups):
        mine = [bool(hit) for hit, group in zip(hits, groups, strict=True) if group == found.group]
        share = sum(mine) / len(mine)

        assert found.n_samples == len(mine)
        assert found.coverage == pytest.approx(share)
        assert found.standard_error == pytest.approx((share * (1 - share) / len(mine)) ** 0.5)


def test_coverage_by_group_keeps_outputs_apart():
    hits = np.array([[True, False], [True, True], [False, False]])
    first, second = coverage_by_group(hits, np.array([7, 7, 3]))

    assert (first.group, second.group) == (3, 7)
    np.testing.assert_array_equal(first.coverage, [0, 0])
    np.testing.assert_array_equal(second.coverage, [1, 0.5])


@pytest.mark.parametrize(("n", "k"), [(10, 5), (11, 5), (3, 5), (100, 7), (0, 5)])
def test_quantile_bins_are_ordered_and_of_nearly_equal_size(rng, n, k):
    values = rng.permutation(n).astype(float)
    bins = quantile_bins(values, k)
    sizes = np.bincount(bins, minlength=k)

    assert (np.diff(bins[np.argsort(values)]) >= 0).all()
    assert sizes.max() - sizes.min() <= 1


def test_equal_values_share_a_bin():
    np.testing.assert_array_equal(quantile_bins(np.array([1.0, 1.0, 1.0, 2.0]), 2), [0, 0, 0, 1])


def test_infinite_leverages_fall_into_the_highest_fifth():
    assert (leverage_fifths(np.append(np.arange(8.0), [np.inf, np.inf]))[-2:] == 4).all()


def test_bins_refuse_nan_and_a_count_below_one():
    with pytest.raises(ValueError, match="values must not hold NaN; row 1"):
        quantile_bins(np.array([0.0, np.nan]), 5)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        quantile_bins(np.zeros(3), 0)
