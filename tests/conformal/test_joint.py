"""Joint boxes: all outputs of a row inside at once, with proportions that no change of units disturbs.

False-alarm rate of the coverage claim: 1e-6.
"""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from hatband import (
    Groups,
    LeaveOneOutKernelRidge,
    LeaveOneOutRidge,
    LeverageBins,
    SplitConformalRegressor,
)
from oracles import covered_bounds, exact_upper_rank
from rounding import of_products

FALSE_ALARM = 1e-6
CORRELATED = np.array([[1.0, 0.7, 0.0], [0.7, 1.0, 0.0], [0.0, 0.0, 1.0]])


def draw(rng, n):
    X = rng.standard_normal((n, 4))
    noise = rng.standard_normal((n, 3)) @ np.linalg.cholesky(CORRELATED).T
    return X, X[:, :3] + 0.5 * X[:, 1:] + noise * np.array([0.1, 1.0, 10.0])


def all_inside(interval, y):
    return ((interval[:, :, 0] <= y) & (y <= interval[:, :, 1])).all(axis=1)


class TestCoverage:
    CALIBRATION, TESTS, REPETITIONS = 39, 60, 60

    def test_of_all_outputs_at_once_is_exact(self, rng):
        joint, each = (
            SplitConformalRegressor(Ridge(), scale="leverage", joint=joint).fit_train(*draw(rng, 150))
            for joint in (True, False)
        )
        covered, apart = 0, 0
        for _ in range(self.REPETITIONS):
            X, y = draw(rng, self.CALIBRATION)
            X_new, y_new = draw(rng, self.TESTS)
            covered += all_inside(joint.calibrate(X, y).predict_interval(X_new)[1], y_new).sum()
            apart += all_inside(each.calibrate(X, y).predict_interval(X_new)[1], y_new).sum()
        sizes = self.CALIBRATION, Fraction(9, 10), self.TESTS, self.REPETITIONS
        low, high = covered_bounds(*sizes, false_alarm=FALSE_ALARM)

        assert low <= covered <= high
        assert apart < low


MODELS = {
    "constant": SplitConformalRegressor(Ridge(), scale="constant", joint=True, random_state=0),
    "leverage": SplitConformalRegressor(Ridge(), scale="leverage", joint=True, random_state=0),
    "strength": SplitConformalRegressor(Ridge(), scale="strength", joint=True, random_state=0),
    "two sides": SplitConformalRegressor(Ridge(), scale="constant", symmetric=False, joint=True, random_state=0),
    "learned widths": SplitConformalRegressor(Ridge(), scale="magnitude", joint=True, random_state=0),
    "by leverage": SplitConformalRegressor(
        Ridge(), scale="constant", groups=LeverageBins(2), joint=True, random_state=0
    ),
    "conformal ridge": SplitConformalRegressor(LeaveOneOutRidge(), scale="leverage", joint=True, random_state=0),
    "kernel": SplitConformalRegressor(LeaveOneOutKernelRidge(), scale="leverage", joint=True, random_state=0),
}


@pytest.mark.parametrize("name", MODELS)
def test_new_units_of_one_output_change_its_bounds_alone(rng, name):
    X, y = draw(rng, 300)
    units = np.array([2.0**-9, 1.0, 2.0**11])
    # The penalty that these choose is common to all outputs, and so depends on the units of each.
    model = MODELS[name]
    if name in ("conformal ridge", "kernel"):
        model = model.set_params(estimator__ridge=[1.0])
    before = model.fit(X, y).predict_interval(X)[1]
    after = model.fit(X, y * units).predict_interval(X)[1]

    np.testing.assert_allclose(after, before * units[:, None], rtol=1e-6, atol=1e-9 * np.abs(y * units).max())


@pytest.mark.parametrize("scale", ["constant", "leverage", "auto"])
def test_no_output_decides_alone(rng, scale):
    """Widths go with the noise of each output, 0.1 : 1 : 10, though the scale itself is common to all three."""
    X, y = draw(rng, 600)
    model = SplitConformalRegressor(Ridge(), scale=scale, joint=True, random_state=0).fit(X, y)
    widths = np.median(np.ptp(model.predict_interval(X)[1], axis=2), axis=0)

    np.testing.assert_allclose(widths / widths[1], [0.1, 1.0, 10.0], rtol=0.35)
    # Wider than intervals for each output by itself, narrower than Bonferroni's or not by much more.
    each = model.set_params(joint=False).fit(X, y)
    narrow, bonferroni = (np.median(np.ptp(each.predict_interval(X, level)[1], axis=2)) for level in (0.9, 29 / 30))
    assert narrow < np.median(widths) < 1.25 * bonferroni


def test_the_box_is_one_threshold_on_the_largest_score(rng):
    X, y = draw(rng, 200)
    model = SplitConformalRegressor(Ridge(), scale="constant", joint=True, random_state=0).fit(X, y)
    point, interval = model.predict_interval(X)
    spread = model.plan_.outputs.spread
    largest = np.sort((np.abs(model.scores_) / spread).max(axis=1))
    threshold = largest[exact_upper_rank(len(largest), Fraction(9, 10)) - 1] * spread

    np.testing.assert_allclose(interval[..., 1] - point, np.broadcast_to(threshold, point.shape), rtol=1e-9)
    np.testing.assert_allclose(point - interval[..., 0], np.broadcast_to(threshold, point.shape), rtol=1e-9)


def test_two_sides_share_the_miscoverage_of_the_box(rng):
    X, y = draw(rng, 400)
    model = SplitConformalRegressor(Ridge(), scale="constant", symmetric=False, joint=True, random_state=0).fit(X, y)
    point, interval = model.predict_interval(X)
    scores = model.scores_ / model.plan_.outputs.spread
    rank = exact_upper_rank(len(scores), Fraction(19, 20)) - 1
    ends = -np.sort((-scores).max(axis=1))[rank], np.sort(scores.max(axis=1))[rank]
    expected = np.array(ends) * model.plan_.outputs.spread[:, None]

    np.testing.assert_allclose(interval - point[..., None], np.broadcast_to(expected, interval.shape), rtol=1e-8)


@pytest.mark.filterwarnings("ignore::hatband.CalibrationWarning")
def test_groups_and_weights_combine_with_it(rng):
    X, y = draw(rng, 300)
    groups, weights = np.arange(300) % 2, np.exp(X[:, 0] / 2)
    # Half as many rows are multiplied in another order: bounds differ by the rounding of two predictions.
    close = 4 * of_products(X, np.full(4, np.abs(y).max()))
    model = SplitConformalRegressor(Ridge(), scale="constant", joint=True).fit_train(*draw(rng, 100))
    _, both = model.calibrate(X, y, groups=groups, likelihood_ratio=weights).predict_interval(
        X, [0.5, 0.9], groups=groups, likelihood_ratio=weights
    )
    for group in (0, 1):
        part = groups == group
        model.calibrate(X[part], y[part], likelihood_ratio=weights[part])
        alone = model.predict_interval(X[part], [0.5, 0.9], likelihood_ratio=weights[part])[1]
        np.testing.assert_allclose(both[part], alone, rtol=0, atol=close)
    assert both.shape == (300, 3, 2, 2)


def test_infinite_groups_are_infinite_in_every_output(rng):
    X, y = draw(rng, 60)
    model = SplitConformalRegressor(Ridge(), scale="constant", joint=True, groups=Groups(unseen="infinite"))
    model.fit_train(*draw(rng, 100)).calibrate(X, y, groups=np.repeat("a", 60))
    with pytest.warns(UserWarning, match="1 of 2 rows belong to groups that calibration has not seen"):
        _, interval = model.predict_interval(X[:2], groups=["a", "b"])

    assert np.isfinite(interval[0]).all()
    assert np.isinf(interval[1]).all()


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_output_needs_no_box(rng, shape):
    X, y = draw(rng, 100)
    y = y[:, 1].reshape(shape)
    joint, plain = (SplitConformalRegressor(joint=joint, random_state=0).fit(X, y) for joint in (True, False))

    np.testing.assert_array_equal(joint.predict_interval(X)[1], plain.predict_interval(X)[1])


def test_of_models_that_refit_that_are_frozen_or_that_transform_y(rng):
    X, y = draw(rng, 200)
    forest = RandomForestRegressor(10, random_state=0)
    frozen = FrozenEstimator(forest.fit(X[:100], y[:100]))
    scaled = TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    for estimator in (forest, frozen, scaled):
        model = SplitConformalRegressor(estimator, scale="constant", joint=True)
        model.fit_train(X[:100], y[:100]).calibrate(X[100:], y[100:])
        widths = np.median(np.ptp(model.predict_interval(X)[1], axis=2), axis=0)
        assert (widths[1:] > 1.3 * widths[:-1]).all()


def test_an_output_without_noise_does_not_break_the_box(rng):
    X, y = draw(rng, 200)
    y[:, 0] = 1.0
    model = SplitConformalRegressor(Ridge(), scale="constant", joint=True, random_state=0).fit(X, y)
    interval = model.predict_interval(X)[1]

    assert np.isfinite(interval).all()
    assert all_inside(interval, y).mean() > 0.85


def test_something_else_than_true_or_false_is_refused(rng):
    with pytest.raises(ValueError, match=r"joint must be one of \[True, False\]; got 'box'"):
        SplitConformalRegressor(joint="box").fit(*draw(rng, 50))
