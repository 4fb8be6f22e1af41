"""Selection of order statistics, weighted or not, and the coverage that follows from their ranks."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

import oracles
from hatband.formulas.order_statistics import (
    conformal_bounds,
    conformal_quantile,
    kth_smallest,
    upper_rank,
    weighted_quantile,
)

LEVELS = [0.5, 0.8, 1 - 0.1, 0.95, 0.99]


def exact_weighted_quantile(scores, weights, test_weight, level):
    """By sorting and adding fractions."""
    needed = level * (sum(weights) + test_weight)
    for score in sorted(scores):
        if sum(w for s, w in zip(scores, weights, strict=True) if s <= score) >= needed:
            return score
    return np.inf


@given(npst.arrays(np.float64, st.integers(1, 30), elements=st.floats(allow_nan=False)), st.data())
def test_kth_smallest_is_the_kth_of_the_sorted_values(values, data):
    k = data.draw(st.integers(0, len(values) + 1))

    assert kth_smallest(values, k) == np.concatenate([[-np.inf], np.sort(values), [np.inf]])[k]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_kth_smallest_reduces_the_axis_it_is_given(rng, axis, k):
    values = rng.normal(size=(5, 5, 2)) if axis != -1 else rng.normal(size=(2, 3, 5))
    ends = np.full_like(np.take(values, [0], axis), np.inf)
    padded = np.concatenate([-ends, np.sort(values, axis), ends], axis)

    np.testing.assert_array_equal(kth_smallest(values, k, axis=axis), np.take(padded, k, axis))


def test_kth_smallest_keeps_float32_and_takes_integers():
    assert kth_smallest(np.array([2, 1], np.float32), 3).dtype == np.float32
    assert kth_smallest(np.array([2, 1]), 1) == 1.0
    assert kth_smallest(np.array([2, 1]), 0) == -np.inf


def test_kth_smallest_refuses_nan_and_names_the_row():
    with pytest.raises(ValueError, match="must not hold NaN; row 1"):
        kth_smallest(np.array([[1.0, 2.0], [3.0, np.nan]]), 1)


@pytest.mark.parametrize("k", [-1, 5])
def test_kth_smallest_refuses_what_is_not_a_rank(k):
    with pytest.raises(ValueError, match=rf"n \+ 1 = 4 .* got {k}"):
        kth_smallest(np.arange(3.0), k)


@pytest.mark.parametrize("level", LEVELS)
def test_conformal_quantile_takes_each_column_at_the_exact_rank(rng, level):
    for n in (1, 9, 19, 29, 99, 100):
        scores = rng.normal(size=(n, 3))
        rank = oracles.exact_upper_rank(n, Fraction(str(round(level, 3))))
        padded = np.vstack([np.sort(scores, axis=0), np.full((1, 3), np.inf)])

        np.testing.assert_array_equal(conformal_quantile(scores, level), padded[rank - 1])


def test_conformal_quantile_of_no_scores_is_infinite():
    np.testing.assert_array_equal(conformal_quantile(np.empty((0, 2)), 0.9), [np.inf, np.inf])


def test_conformal_quantile_with_ties_is_the_tied_score():
    assert conformal_quantile(np.repeat([1.0, 2.0], 10), 0.9) == 2.0


@pytest.mark.parametrize("level", LEVELS)
def test_conformal_bounds_are_the_two_exact_sides(rng, level):
    exact = Fraction(str(round(level, 3)))
    for n in (3, 18, 19, 39, 199):
        padded = np.concatenate([[-np.inf], np.sort(scores := rng.normal(size=n)), [np.inf]])
        lower, upper = conformal_bounds(scores, level)

        assert lower == padded[oracles.exact_lower_rank(n, (1 + exact) / 2)]
        assert upper == padded[oracles.exact_upper_rank(n, (1 + exact) / 2)]


def test_conformal_quantile_covers_as_its_beta_binomial_law_says(rng):
    n, level, repeats, false_alarm = 40, 0.9, 400, 1e-6
    scores = rng.normal(size=(n, repeats))
    news = rng.normal(size=repeats)
    rank = upper_rank(n, level)
    hits = int(np.sum(news <= conformal_quantile(scores, level)))

    # One new score per calibration set: hits are binomial with the mean of the beta law, rank / (n + 1).
    law = stats.binom(repeats, rank / (n + 1))
    assert law.ppf(false_alarm / 2) <= hits <= law.ppf(1 - false_alarm / 2)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weight", [1.0, 0.1, 3e-200])
def test_equal_weights_give_the_conformal_quantile(rng, level, weight):
    for n in (1, 8, 9, 19, 99, 400):
        scores = rng.normal(size=n)
        found = weighted_quantile(scores, np.full(n, weight), np.array([weight]), level)

        np.testing.assert_array_equal(found, [conformal_quantile(scores, level)])


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from([Fraction(1, 2), Fraction(4, 5), Fraction(9, 10)]),
)
def test_weighted_quantile_equals_exact_sums(pairs, test_weight, level):
    scores, weights = (np.array(column, float) for column in zip(*pairs, strict=True))
    exact = exact_weighted_quantile(scores, [Fraction(w) for w in weights], test_weight, level)

    # Weights of tenths: their binary sums are not exact, the slack has to make up for it.
    np.testing.assert_array_equal(weighted_quantile(scores, weights / 10, np.array([test_weight / 10]), level), [exact])


def test_integer_weights_equal_repeated_scores(rng):
    scores, weights = rng.normal(size=30), rng.integers(0, 4, size=30)
    found = weighted_quantile(scores, weights, np.array([1]), 0.8)

    assert found[0] == conformal_quantile(np.repeat(scores, weights), 0.8)


def test_a_heavy_test_row_has_an_infinite_threshold(rng):
    found = weighted_quantile(rng.normal(size=20), np.ones(20), np.array([0.0, 1.0, 3.0, 1e300]), 0.9)

    np.testing.assert_array_equal(np.isinf(found), [False, False, True, True])


def test_weights_that_are_all_zero_leave_nothing_known():
    np.testing.assert_array_equal(weighted_quantile(np.arange(3.0), np.zeros(3), np.zeros(2), 0.9), [np.inf, np.inf])


def test_sums_of_a_million_weights_stay_inside_the_slack():
    n = 999_999
    found = weighted_quantile(np.arange(n, dtype=float), np.full(n, 0.1), np.array([0.1]), 0.9)

    assert found[0] == upper_rank(n, 0.9) - 1


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_must_be_finite_and_not_negative(bad):
    with pytest.raises(ValueError, match=r"weights must be finite and >= 0; row 1"):
        weighted_quantile(np.arange(2.0), np.array([1.0, bad]), np.ones(1), 0.9)
    with pytest.raises(ValueError, match=r"test_weight must be finite and >= 0; row 0"):
        weighted_quantile(np.arange(2.0), np.ones(2), np.array([bad]), 0.9)
