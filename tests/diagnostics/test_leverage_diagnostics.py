"""Alignment, variation, width decomposition and extrapolation: what leverage says about scores, widths and rows."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge

from hatband import LeverageScale, SplitConformalRegressor
from hatband.diagnostics import (
    ExtrapolationGuard,
    extrapolation_pvalue,
    leverage_alignment,
    leverage_variation,
    width_decomposition,
)

# ------------------------------------------------------------------ alignment


def aligned(scale, noise_power, rng):
    """Alignment of a scale over 40 models with 50 calibration rows each, noise of variance (1 + h)^noise_power.

    The error of one fit is one draw, the same for all of its calibration rows: scores are independent of leverage over
    fits only. Noise that grows is put around the fitted model itself.
    """
    scores, leverages = [], []
    for _ in range(40):
        X = rng.standard_normal((90, 20)) * rng.uniform(0.3, 2, (90, 1))
        model = SplitConformalRegressor(LinearRegression(), scale=scale).fit_train(X[:40], rng.standard_normal(40))
        h = model.leverage(X[40:])
        error = (1 + h) ** (noise_power / 2) * rng.standard_normal(50)
        model.calibrate(X[40:], error if noise_power == 0 else model.predict(X[40:]) + error)
        scores.append(model.scores_)
        leverages.append(h)
    return leverage_alignment(np.concatenate(scores), np.concatenate(leverages), significance=0.001)


@pytest.mark.parametrize(
    ("scale", "noise_power", "verdict"),
    [
        ("constant", 0, "under-corrects"),
        ("leverage", 0, "no misalignment seen"),
        (LeverageScale(power=1.5), 0, "over-corrects"),
        ("leverage", 12, "under-corrects"),
        (LeverageScale(power=6), 12, "no misalignment seen"),
        (LeverageScale(power=8), 12, "over-corrects"),
        ("leverage", -3, "over-corrects"),
    ],
)
def test_scores_that_grow_with_leverage_are_under_corrected(rng, scale, noise_power, verdict):
    found = aligned(scale, noise_power, rng)

    assert found.verdict == verdict
    assert verdict in repr(found)
    if verdict != "no misalignment seen":
        assert (found.ratio > 1) == (found.rank_correlation > 0) == (verdict == "under-corrects")


@pytest.mark.parametrize("n", [3, 10, 200])
@pytest.mark.parametrize("ties", [False, True])
def test_correlation_and_p_value_are_those_of_scipy(rng, n, ties):
    scores, leverage = rng.standard_normal(n), rng.uniform(0, 2, n)
    if ties:
        scores, leverage = np.round(scores, 1), np.round(leverage, 1)
    theirs = spearmanr(np.abs(scores), leverage)
    found = leverage_alignment(scores, leverage)

    assert found.rank_correlation == pytest.approx(theirs.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_the_verdict_is_wrong_as_often_as_stated(rng):
    # 1,000 verdicts on independent scores; binomial bounds at level 0.1 that fail once in 10^6.
    alarms = [
        leverage_alignment(*rng.standard_normal((2, 60)) ** 2, significance=0.1).p_value <= 0.1 for _ in range(1000)
    ]

    assert 57 <= sum(alarms) <= 150


def test_the_ratio_is_that_of_mean_sizes_in_the_outer_fifths():
    scores = np.array([1.0, -1, 5, 5, 5, 5, 5, 5, 2, -4])

    assert leverage_alignment(scores, np.arange(10.0)).ratio == 3.0
    assert leverage_alignment(np.append(np.zeros(8), [1.0, 1.0]), np.arange(10.0)).ratio == np.inf
    assert leverage_alignment(np.zeros(10), np.arange(10.0)).ratio == 1.0


def test_rows_of_infinite_leverage_have_no_say(rng):
    scores, h = rng.standard_normal(20), rng.uniform(0, 1, 20)
    with_infinite = leverage_alignment(np.append(scores, [0.0, 0.0]), np.append(h, [np.inf, np.inf]))

    assert with_infinite == leverage_alignment(scores, h)


def test_leverages_that_are_all_equal_show_no_misalignment(rng):
    found = leverage_alignment(rng.standard_normal(9), np.ones(9))

    assert (found.rank_correlation, found.p_value, found.ratio) == (0.0, 1.0, 1.0)


def test_perfect_order_is_a_p_value_of_zero():
    assert leverage_alignment(np.arange(9.0), np.arange(9.0)).p_value == 0
    assert leverage_alignment(np.arange(9.0), np.arange(9.0)[::-1]).verdict == "over-corrects"


def test_variation_is_standard_deviation_over_mean(rng):
    h = rng.uniform(0, 3, 50)

    assert leverage_variation(h) == pytest.approx(np.sqrt(np.mean((h - h.mean()) ** 2)) / h.mean())
    assert leverage_variation(np.ones(5)) == 0
    assert leverage_variation(np.zeros(5)) == 0


# ------------------------------------------------------------------ width


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 5.0])
def test_squares_of_the_parts_add_up_to_the_square_of_the_width(rng, strength):
    h, width = rng.uniform(0, 100, 50), rng.uniform(1, 3, 50)
    parts = width_decomposition(np.stack([-width, np.zeros(50)], axis=1), h, strength=strength)

    np.testing.assert_allclose(parts.noise**2 + parts.epistemic**2, width**2, rtol=1e-13)
    np.testing.assert_allclose(parts.epistemic_share, strength * h / (1 + strength * h), rtol=1e-13)


def test_the_noise_of_a_leverage_band_is_the_same_in_every_row(rng):
    X = rng.standard_normal((80, 5))
    model = SplitConformalRegressor(Ridge(), scale="leverage", random_state=0).fit(X, X[:, 0])
    _, interval = model.predict_interval(X)
    parts = width_decomposition(interval, model.leverage(X))

    np.testing.assert_allclose(parts.noise, parts.noise[0], rtol=1e-12)
    assert "over 80 rows" in repr(parts)


def test_infinite_leverage_is_all_error_and_infinite_intervals_have_infinite_parts():
    interval = [[-np.inf, np.inf], [-np.inf, 0.0], [-np.inf, np.inf], [0.0, 2.0]]
    parts = width_decomposition(interval, [np.inf, 1.0, 0.0, np.inf])

    np.testing.assert_array_equal(parts.epistemic_share, [1, 0.5, 0, 1])
    np.testing.assert_array_equal(parts.epistemic, [np.inf, np.inf, 0, 2])
    np.testing.assert_array_equal(parts.noise, [np.inf, np.inf, np.inf, 0])


# ------------------------------------------------------------------ extrapolation


def test_the_p_value_is_a_count(rng):
    calibration, new = rng.integers(0, 20, 50) / 4, rng.integers(0, 24, 30) / 4
    expected = [float(Fraction(1 + sum(h >= x for h in calibration), 51)) for x in new]

    np.testing.assert_array_equal(extrapolation_pvalue(new, calibration), expected)


def test_infinite_leverage_is_farther_out_than_all_finite_ones():
    np.testing.assert_array_equal(extrapolation_pvalue([np.inf, 0.5], [0.1, 0.2, np.inf]), [0.5, 0.5])


@pytest.mark.parametrize(("n", "flagged"), [(18, 0), (19, 1), (38, 1), (39, 2), (59, 3)])
@pytest.mark.parametrize("rate", [0.05, 1 - 0.95, Fraction(1, 20)])
def test_flags_are_decided_in_integers(n, flagged, rate):
    # A new row above all but k of n leverages has p = (k + 1) / (n + 1): flagged for k + 1 <= (n + 1) / 20.
    guard = ExtrapolationGuard(np.arange(n, dtype=float), rate)

    assert guard.flag(np.arange(n) + 0.5).sum() == flagged


def test_a_row_like_the_others_is_flagged_no_more_often_than_stated():
    # Leave each of 100 equal ranks out in turn: exactly the rate, by exchangeability.
    h = np.arange(100.0) ** 2
    flags = [ExtrapolationGuard(np.delete(h, i), 0.07).flag(h[i : i + 1])[0] for i in range(100)]

    assert sum(flags) == 7


@pytest.mark.parametrize("levels", [0.9, [0.8, 0.9]])
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_guard_withholds_flagged_intervals_and_leaves_the_others(rng, outputs, levels):
    X = rng.standard_normal((200, 3))
    y = X @ rng.standard_normal((3, outputs)) + rng.standard_normal((200, outputs))
    y = y[:, 0] if outputs == 1 else y
    model = SplitConformalRegressor(HistGradientBoostingRegressor(max_iter=3) if outputs == 1 else Ridge())
    model.set_params(scale="constant").fit_train(X[:100], y[:100]).calibrate(X[100:], y[100:])
    guard = ExtrapolationGuard.of(model, X[100:], 0.05)
    rows = np.concatenate([np.zeros((2, 3)), np.full((1, 3), 50.0)])
    plain, (prediction, interval) = model.predict_interval(rows, levels), guard.predict_interval(model, rows, levels)

    np.testing.assert_array_equal(guard.flag(model.leverage(rows)), [False, False, True])
    np.testing.assert_array_equal(prediction, plain[0])
    np.testing.assert_array_equal(interval[:2], plain[1][:2])
    assert np.isinf(interval[2]).all()
    assert (np.moveaxis(interval[2], prediction.ndim - 1, 0)[0] < 0).all()


def test_the_guard_keeps_its_own_leverages(rng):
    h = rng.uniform(0, 1, 20)
    guard = ExtrapolationGuard(h, 0.1)
    before = guard.flag([0.99, 2.0])
    h[:] = 100

    np.testing.assert_array_equal(guard.flag([0.99, 2.0]), before)
    np.testing.assert_array_equal(guard.pvalue([2.0]), [1 / 21])
    assert repr(guard) == "ExtrapolationGuard(20 calibration leverages, false_alarm_rate=0.1)"


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leverage_variation([0.1, np.inf]), "leverage must be finite; row 1"),
        (lambda: leverage_variation([0.1, -0.1]), "leverage must be >= 0; row 1 has -0.1"),
        (lambda: leverage_variation([]), "at least one row"),
        (lambda: leverage_alignment([1.0, 2.0], [0.1, 0.2]), "at least 3 rows of finite leverage; got 2"),
        (lambda: leverage_alignment([1.0, 2.0, 3.0], [np.inf, 0.1, 0.2]), "at least 3 rows of finite leverage; got 2"),
        (lambda: leverage_alignment(np.ones((4, 2)), np.ones(4)), r"scores must hold one number per row, shape \(4,\)"),
        (lambda: leverage_alignment([1.0, np.nan, 2.0], np.ones(3)), "scores must not hold NaN; row 1"),
        (lambda: width_decomposition([[0.0, 1.0]], [0.1, 0.2]), "leverage must hold one number per row"),
        (lambda: width_decomposition([[1.0, 0.0]], [0.1]), "lower must not exceed upper; row 0"),
        (lambda: width_decomposition([[0.0, 1.0]], [0.1], strength=-1.0), "strength must be a finite number >= 0"),
        (lambda: width_decomposition(np.zeros((2, 3, 2)), [0.1, 0.2]), "shape"),
        (lambda: extrapolation_pvalue([0.1], [np.nan]), "calibration_leverage must not hold NaN"),
        (lambda: ExtrapolationGuard([0.1], 1.0), "strictly between 0 and 1"),
        (lambda: ExtrapolationGuard([0.1]).withhold(np.zeros((3, 2)), [0.1]), "same 1 rows"),
        (lambda: ExtrapolationGuard([0.1]).withhold(np.zeros((1, 3)), [0.1]), "lower and upper ends, on axis 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
