"""Scales learned from held-out residuals: what they recover and what bounds them."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge

from hatband import AutoScale, LeverageScale, MagnitudeScale, QuantileScale, SplitConformalRegressor, StrengthScale
from scales.cases import draw, rows_of

LEARNED = {
    "strength": StrengthScale(),
    "sampling strength": StrengthScale(form="sampling"),
    "magnitude": MagnitudeScale(),
    "quantile": QuantileScale(n_trees=20),
    "auto": AutoScale({"leverage": LeverageScale(), "magnitude": MagnitudeScale()}),
    "blend": AutoScale(
        {"magnitude": MagnitudeScale(), "quantile": QuantileScale(n_trees=10), "both": ("magnitude", "quantile")}
    ),
}


@pytest.fixture
def made(rng):
    return draw(rng, 800)


@pytest.mark.parametrize("scale", LEARNED.values(), ids=LEARNED)
class TestEveryLearnedScale:
    def test_gives_positive_widths_and_covers_its_training_like_rows(self, scale, made, rng):
        model = SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(*made)
        X, y = draw(rng, 2000)
        lower, upper = model.predict_interval(X)[1].T

        assert (lower < upper).all()
        # 200 calibration rows: coverage has a standard deviation of 0.021 over calibration sets.
        assert abs(((lower <= y) & (y <= upper)).mean() - 0.9) < 5 * 0.022
        assert model.residuals_from_ == "leave-one-out"

    def test_scales_with_the_units_of_y(self, scale, made):
        X, y = made
        one = SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(X, y)
        thousand = SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(X, 1024 * y)

        np.testing.assert_allclose(thousand.predict_interval(X)[1], 1024 * one.predict_interval(X)[1], rtol=1e-6)

    def test_keeps_one_model_per_output(self, scale, made, rng):
        X, y = made
        Y = np.c_[y, X[:, 1] + 0.1 * rng.standard_normal(len(y))]
        both = SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(X, Y)
        width = np.diff(both.predict_interval(X)[1], axis=2)[..., 0]

        assert width.shape == (len(X), 2)
        assert np.median(width[:, 1]) < 0.5 * np.median(width[:, 0])


@pytest.mark.parametrize("scale", [MagnitudeScale(), QuantileScale()], ids=["magnitude", "quantile"])
def test_learned_widths_follow_noise_that_leverage_does_not_know(scale, made, rng):
    model = SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(*made)
    X, _ = draw(rng, 1000)
    width = np.ptp(model.predict_interval(X)[1], axis=1)

    assert stats.spearmanr(width, 0.2 + np.abs(X[:, 0])).statistic > 0.8


def test_a_quantile_scale_moves_the_centre_where_residuals_are_skewed(rng):
    X = rng.uniform(-2, 2, (1500, 2))
    y = np.where(X[:, 0] > 0, 3.0, -3.0) * rng.exponential(size=1500) + 5 * X[:, 1]
    model = SplitConformalRegressor(Ridge(), scale=QuantileScale(), random_state=0).fit(X, y)
    prediction, interval = model.predict_interval(X)
    shift = interval.mean(axis=1) - prediction

    assert shift[X[:, 0] > 0.3].mean() > shift[X[:, 0] < -0.3].mean() + 1
    with pytest.raises(ValueError, match="centred on the prediction"):
        model.predict(X, return_width=True)


@pytest.mark.parametrize("strength", [0.0, 1.0, 4.0])
def test_strength_is_recovered_from_residuals_of_that_strength(strength, rng):
    h = rng.exponential(0.5, 40_000)
    residuals = 3 * np.sqrt(1 + strength * h)[:, None] * rng.standard_normal((40_000, 1))
    scale = StrengthScale().fit(rows_of(h, np.zeros((40_000, 1)), np.zeros((40_000, 1))), residuals)

    # Fisher information of c at these leverages: standard deviation below 0.05 (c = 0) to 0.15 (c = 4).
    assert abs(scale.strength_[0] - strength) < 0.2 + 0.1 * strength


@pytest.mark.parametrize("scale", [MagnitudeScale(), QuantileScale(n_trees=20)], ids=["magnitude", "quantile"])
def test_widths_have_a_floor_where_residuals_vanish(scale, rng):
    h, inputs = np.full(300, 0.01), np.linspace(0, 1, 300)[:, None]
    residuals = np.where(inputs > 0.5, rng.standard_normal((300, 1)), 0.0)
    rows = rows_of(h, inputs, inputs)
    _, width = scale.fit(rows, residuals).predict(rows)

    typical = np.median(np.abs(residuals)) or np.abs(residuals).mean()
    assert width.min() >= 1e-3 * typical * (1 - 1e-12)


class Always(RegressorMixin, BaseEstimator):
    def __init__(self, value):
        self.value = value

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.full(len(X), self.value)


@pytest.mark.parametrize("wrong", [np.inf, np.nan, -1.0], ids=str)
def test_a_magnitude_that_is_not_a_width_is_refused(wrong, made):
    scale = MagnitudeScale(Always(wrong))

    with pytest.raises(ValueError, match="Always must return widths that are finite and > 0"):
        SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(*made)
