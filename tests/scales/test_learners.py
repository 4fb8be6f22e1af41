"""What learned scales learn with: bounds of a forest, bounds of two regressors, and what is refused."""

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.neighbors import KNeighborsRegressor

from hatband import MagnitudeScale, QuantileScale
from hatband.scales.learners import ForestBounds, RegressorBounds, boosted_quantiles, fit_regressor, magnitude_regressor
from scales.cases import rows_of


@pytest.fixture
def made(rng):
    X = rng.uniform(-1, 1, (200, 2))
    return X, (1 + X[:, 0]) * rng.standard_normal(200)


class TestForestBounds:
    def test_are_means_of_quantiles_at_three_tails(self, made):
        fitted = ForestBounds(0.9, 30, 0).fit(*made)
        low, high = fitted.bounds(made[0])
        quantiles = fitted.forest_.quantiles(made[0], [0.05, 0.08, 0.12, 0.95, 0.92, 0.88])

        np.testing.assert_array_equal(low, quantiles[:, :3].mean(axis=1))
        np.testing.assert_array_equal(high, quantiles[:, 3:].mean(axis=1))

    @pytest.mark.parametrize("level", [0.01, 0.5, 0.99])
    def test_do_not_cross_at_any_level(self, made, level):
        low, high = ForestBounds(level, 10, 0).fit(*made).bounds(made[0])

        assert (low <= high).all()


class TestRegressorBounds:
    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_are_fits_at_the_two_tails(self, made, level):
        X, y = made
        low, high = RegressorBounds(level, QuantileRegressor(alpha=0)).fit(X, y).bounds(X)
        tails = [
            QuantileRegressor(alpha=0, quantile=q).fit(X, y).predict(X) for q in ((1 - level) / 2, (1 + level) / 2)
        ]

        np.testing.assert_allclose([low, high], np.sort(tails, axis=0), rtol=1e-9)

    def test_of_the_default_boosting_follow_the_noise_and_come_out_the_same_twice(self, rng):
        X = rng.uniform(-1, 1, (1000, 2))
        y = np.exp(2 * X[:, 0]) * rng.standard_normal(1000)
        one, two = (np.ptp(RegressorBounds(0.9, boosted_quantiles()).fit(X, y).bounds(X), axis=0) for _ in range(2))

        np.testing.assert_array_equal(one, two)
        assert stats.spearmanr(one, X[:, 0]).statistic > 0.9

    def test_are_swapped_where_they_cross(self, made):
        fitted = RegressorBounds(0.9, QuantileRegressor(alpha=0)).fit(*made)
        fitted.low_, fitted.high_ = fitted.high_, fitted.low_
        low, high = fitted.bounds(made[0])

        assert (low <= high).all()

    def test_want_a_regressor_that_knows_quantiles(self, made):
        with pytest.raises(TypeError, match=r"parameter named quantile.*LinearRegression"):
            RegressorBounds(0.9, LinearRegression()).fit(*made)

    def test_leave_the_regressor_as_it_was(self, made):
        regressor = HistGradientBoostingRegressor(loss="quantile", quantile=0.3, max_iter=2)
        RegressorBounds(0.9, regressor).fit(*made)

        assert regressor.quantile == 0.3
        assert "_baseline_prediction" not in vars(regressor)


class TestWeights:
    def test_reach_the_regressor(self, made):
        X, y = made
        weight = np.resize([1.0, 0.0], len(y))
        one = fit_regressor(LinearRegression(), X, y, weight)

        np.testing.assert_allclose(one.coef_, LinearRegression().fit(X[::2], y[::2]).coef_, rtol=1e-9)

    @pytest.mark.parametrize("regressor", [KNeighborsRegressor(), GaussianProcessRegressor()])
    def test_are_refused_where_they_would_be_lost(self, made, regressor):
        with pytest.raises(TypeError, match=f"sample_weight was passed, but {type(regressor).__name__}"):
            fit_regressor(regressor, *made, np.ones(200))


class TestOwnRegressors:
    def test_of_magnitudes_must_be_positive(self, made):
        X, residual = made
        rows = rows_of(np.ones(200), np.zeros((200, 1)), X)
        with pytest.raises(ValueError, match="LinearRegression"):
            MagnitudeScale(LinearRegression(), columns=("inputs",)).fit(rows, residual[:, None] * (1 + X[:, [0]]) ** 3)

    def test_of_quantiles_serve_a_scale(self, made, rng):
        X, residual = made
        rows = rows_of(rng.uniform(0, 0.1, 200), np.zeros((200, 1)), X)
        scale = QuantileScale(0.9, QuantileRegressor(alpha=0), columns=("inputs",)).fit(rows, residual[:, None])
        _, width = scale.predict(rows)
        inside = rows.leverage < scale.bands_[0].envelope.reach

        assert np.corrcoef(width[inside, 0], 1 + X[inside, 0])[0, 1] > 0.9

    @pytest.mark.parametrize("columns", [(), ("inputs", "outputs")])
    @pytest.mark.parametrize("scale", [MagnitudeScale, QuantileScale])
    def test_see_columns_that_there_are(self, scale, columns):
        with pytest.raises(ValueError, match="columns must"):
            scale(columns=columns).fit(rows_of(np.ones(10)), np.ones((10, 1)))


def test_default_magnitudes_are_positive_and_repeatable(made):
    X, y = made
    one, two = (magnitude_regressor(0).fit(X, np.abs(y)).predict(X) for _ in range(2))

    assert (one > 0).all()
    np.testing.assert_array_equal(one, two)
