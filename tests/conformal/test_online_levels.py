"""Levels that correct themselves: p-values and thresholds by hand, and what is promised for any sequence of rows."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from hatband import OnlineConformalRegressor
from hatband.conformal import AdaptiveLevel, AggregatedLevel, FixedLevel
from hatband.conformal.online.stream import ScoreWindow, rank_at
from oracles import exact_upper_rank

RULES = [FixedLevel(), AdaptiveLevel(0.02), AggregatedLevel(), AggregatedLevel(steps=[0.05], horizon=50)]


@pytest.mark.parametrize("thousandths", [500, 700, 800, 900, 950, 990, 999])
def test_the_rank_at_a_fixed_level_is_the_one_of_split_conformal(thousandths):
    level = Fraction(thousandths, 1000)
    for n in range(1200):
        assert rank_at(float(1 - level), n) == min(exact_upper_rank(n, level), n + 1)


def test_the_rank_at_a_p_value_is_the_one_that_this_p_value_misses():
    # As quotients of floats: k / n * n may round to less than k, first at n = 49.
    for n in range(1, 200):
        assert [rank_at(k / (n + 1), n) for k in range(n + 1)] == [n + 1 - k for k in range(n + 1)]


@given(
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(-0.2, 1.2),
)
def test_a_score_exceeds_the_threshold_when_its_p_value_is_at_most_the_miscoverage(scores, size, miscoverage):
    scores = np.array(scores)
    window = ScoreWindow(size)
    thresholds = window.thresholds(scores, np.full((1, len(scores)), miscoverage))[0]
    p_values = window.follow(scores)

    for row, score in enumerate(scores):
        past = scores[max(0, row - size) : row]
        assert p_values[row] == (1 + np.sum(past >= score)) / (len(past) + 1)
        if miscoverage < 1:  # beyond, nothing counts as covered
            assert (score > thresholds[row]) == (p_values[row] <= miscoverage)
        assert thresholds[row] == np.append(np.sort(past), np.inf)[rank_at(miscoverage, len(past)) - 1]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(p_values=st.lists(st.floats(0.0, 1.0), max_size=40), cut=st.integers(0, 40))
@settings(max_examples=30)
def test_rows_may_come_in_any_blocks(rule, p_values, cut):
    p_values = np.array(p_values)
    whole, end = rule.advance(rule.start(0.1), p_values)
    first, state = rule.advance(rule.start(0.1), p_values[:cut])
    second, state = rule.advance(state, p_values[cut:])

    np.testing.assert_array_equal(whole, np.concatenate([first, second]))
    assert rule.miscoverage(state) == rule.miscoverage(end)


def made_p_values(kind, n, rng):
    if kind == "always missed":
        return np.full(n, 1e-3)
    if kind == "always covered":
        return np.ones(n)
    if kind == "in turns":
        return np.where(np.arange(n) // 50 % 2, 1e-3, 1.0)
    return rng.uniform(size=n)


@pytest.mark.parametrize("kind", ["always missed", "always covered", "in turns", "uniform"])
@pytest.mark.parametrize("step", [0.005, 0.1, 1.0])
@pytest.mark.parametrize("target", [0.1, 0.5])
def test_adaptive_levels_miss_as_often_as_asked_on_any_sequence(kind, step, target, rng):
    p_values = made_p_values(kind, 3000, rng)
    assert_long_run(AdaptiveLevel(step), target, p_values)


@given(
    st.lists(st.sampled_from([0.001, 0.05, 0.1, 0.5, 1.0]), min_size=1, max_size=200),
    st.floats(0.001, 2.0),
    st.floats(0.01, 0.99),
)
def test_adaptive_levels_miss_as_often_as_asked_on_sequences_that_hypothesis_makes_up(p_values, step, target):
    assert_long_run(AdaptiveLevel(step), target, np.array(p_values))


def assert_long_run(rule, target, p_values):
    used, _ = rule.advance(rule.start(target), p_values)
    missed = np.mean(used >= p_values)
    # Gibbs and Candes 2021, proposition 4.1; the last term is rounding.
    bound = (max(target, 1 - target) + rule.step) / (rule.step * len(p_values)) + 1e-9
    assert abs(missed - target) <= bound


def test_adaptive_levels_follow_the_recursion_written_out(rng):
    p_values, level = rng.uniform(size=300), 0.2
    expected = []
    for p_value in p_values:
        expected.append(level)
        level = level + 0.03 * (0.2 - (p_value <= level))
    used, state = AdaptiveLevel(0.03).advance(AdaptiveLevel(0.03).start(0.2), p_values)

    np.testing.assert_allclose(used, expected, rtol=1e-12)
    assert AdaptiveLevel(0.03).miscoverage(state) == pytest.approx(level, rel=1e-12)


def test_aggregated_levels_follow_the_algorithm_written_out(rng):
    # Gibbs and Candes 2024, algorithm 1, one expert at a time.
    steps, horizon, target = [0.01, 0.1, 0.4], 40, 0.2
    # The first is a tie with every expert, which is a miss.
    p_values = np.concatenate([[target], rng.uniform(size=100), rng.uniform(0, 0.3, size=100)])
    levels, weights, expected = [target] * 3, [1.0] * 3, []
    sharing = 1 / (2 * horizon)
    rate = np.sqrt(3 / horizon) * np.sqrt((np.log(3 * horizon) + 2) / ((1 - target) ** 2 * target**2))
    for p_value in p_values:
        expected.append(sum(w * a for w, a in zip(weights, levels, strict=True)) / sum(weights))
        losses = [target * (p_value - a) - min(0, p_value - a) for a in levels]
        grown = [w * np.exp(-rate * loss) for w, loss in zip(weights, losses, strict=True)]
        weights = [(1 - sharing) * w + sharing * sum(grown) / 3 for w in grown]
        levels = [a + step * (target - (a >= p_value)) for a, step in zip(levels, steps, strict=True)]
    rule = AggregatedLevel(steps=steps, horizon=horizon)

    np.testing.assert_allclose(rule.advance(rule.start(target), p_values)[0], expected, rtol=1e-9)


def test_aggregated_levels_survive_losses_that_would_underflow():
    rule = AggregatedLevel(steps=[0.001, 5.0], horizon=1)
    used, _ = rule.advance(rule.start(0.001), np.tile([1.0, 1e-9], 500))
    assert np.isfinite(used).all()


def drifting(rng, n=4000):
    X = rng.standard_normal((n, 2))
    noise = np.where(np.arange(n) // 500 % 2, 5.0, 1.0) * rng.standard_normal(n)
    return X, X @ [1.0, -1.0] + np.linspace(0, 20, n) * X[:, 0] + noise


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("attack", ["drift", "growing", "sorted", "spikes"])
def test_intervals_as_issued_keep_the_long_run_bound_on_any_stream(attack, symmetric, rng):
    X, y = drifting(rng, 1500)
    if attack == "growing":
        y = y * np.exp(np.arange(1500) / 100)
    if attack == "sorted":
        y = np.sort(y**3)
    if attack == "spikes":
        y[::7] += 1e6
    model = OnlineConformalRegressor(
        adaptation=AdaptiveLevel(0.05), window=200, symmetric=symmetric, score_window=100, confidence_level=0.8
    )
    _, interval = model.predict_then_fit(X, y)
    missed = np.mean((y < interval[:, 0]) | (y > interval[:, 1]))
    sides, target = (1, 0.2) if symmetric else (2, 0.1)
    counted = 1500 - 20  # at most: the first row, and those that came with too few scores

    assert missed <= 0.2 + sides * (1 - target + 0.05) / (0.05 * counted)
    assert missed >= 0.2 - sides * (1 - target + 0.05) / (0.05 * counted) - 20 / 1500


def test_the_default_covers_where_a_fixed_level_does_not(rng):
    X, y = drifting(rng)
    coverage, worst = {}, {}
    for name in ("fixed", "adaptive", "aggregated"):
        _, interval = OnlineConformalRegressor(adaptation=name).predict_then_fit(X, y)
        held = (interval[:, 0] <= y) & (y <= interval[:, 1])
        coverage[name] = held.mean()
        worst[name] = np.abs(held.reshape(-1, 250).mean(axis=1) - 0.9).max()
    assert abs(coverage["aggregated"] - 0.9) < 0.02
    assert worst["aggregated"] < worst["adaptive"] < worst["fixed"]


def test_scores_are_those_of_one_row_at_a_time_written_out(rng):
    X, y = drifting(rng, 200)
    scores = []
    for row in range(1, 200):
        Z = np.column_stack([np.ones(row), X[:row]])
        inverse = np.linalg.inv(Z.T @ Z + np.diag([0.0, 1.0, 1.0]))
        new = np.array([1.0, *X[row]])
        scores.append((y[row] - new @ inverse @ Z.T @ y[:row]) / np.sqrt(1 + new @ inverse @ new))
    model = OnlineConformalRegressor(score_window=150).fit(X, y)

    np.testing.assert_allclose(model.scores_[:, 0], scores[-150:], rtol=1e-9, atol=1e-9)


def test_issued_intervals_are_those_of_predict_interval_row_by_row(rng):
    X, y = drifting(rng, 120)
    for symmetric in (True, False):
        issued = OnlineConformalRegressor(symmetric=symmetric, score_window=50, confidence_level=[0.6, 0.8])
        _, interval = issued.predict_then_fit(X, y)
        model = OnlineConformalRegressor(**issued.get_params())
        for row in range(120):
            if row > 25:
                np.testing.assert_allclose(model.predict_interval(X[row : row + 1])[1][0], interval[row], rtol=1e-9)
            model.partial_fit(X[row : row + 1], y[row : row + 1])


@pytest.mark.parametrize("adaptation", ["fixed", "adaptive", "aggregated"])
def test_a_level_that_was_not_followed_is_as_if_it_had_been(adaptation, rng):
    X, y = drifting(rng, 200)
    model = OnlineConformalRegressor(confidence_level=0.9, adaptation=adaptation).fit(X, y)
    other = OnlineConformalRegressor(confidence_level=0.7, adaptation=adaptation).fit(X, y)

    np.testing.assert_array_equal(model.predict_interval(X, 0.7)[1], other.predict_interval(X)[1])


def test_lower_never_exceeds_upper_when_sides_cross(rng):
    X = rng.standard_normal((300, 1))
    y = np.tile([5.0, -5.0], 150)
    model = OnlineConformalRegressor(symmetric=False, adaptation=AdaptiveLevel(2.0), confidence_level=0.5)
    _, interval = model.predict_then_fit(X, y)
    assert (interval[:, 0] <= interval[:, 1]).all()
    assert not np.isnan(interval).any()


def test_a_fixed_level_covers_exchangeable_rows_as_split_conformal_does(rng):
    # Recursive residuals of least squares with normal errors are independent and equally distributed, so ranks among
    # those before are independent and uniform: each row is covered with probability rank / (n + 1) on its own. Tails of
    # their sum are inside those of the binomial with the same mean (Hoeffding 1956). False alarm: 1e-6 on each side.
    n = 4000
    X, y = rng.standard_normal((n, 1)), rng.standard_normal(n)
    model = OnlineConformalRegressor(ridge=0.0, adaptation="fixed", score_window=n)
    _, interval = model.predict_then_fit(X, y)
    held = np.sum(((interval[:, 0] <= y) & (y <= interval[:, 1]))[2:])
    share = np.mean([rank_at(0.1, seen) / (seen + 1) for seen in range(n - 2)])

    assert binom.ppf(1e-6, n - 2, share) <= held <= binom.ppf(1 - 1e-6, n - 2, share)
