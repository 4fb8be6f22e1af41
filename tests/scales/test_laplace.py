"""LaplaceScale: the dense formula, the limits that define it, noise without in-sample bias, and its bounds."""

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from hatband import LaplaceScale, LeverageScale, SplitConformalRegressor
from hatband.fitted.rows import new_rows

RIDGE = 2.0


def growing(rows):
    """A noise that depends on the prediction alone, so that it survives a change of coordinates."""
    return 0.3 + np.abs(rows.prediction[:, 0])


def draw(rng, n, d=5):
    X = rng.normal(size=(n, d))
    return X, X @ np.linspace(1, -1, d) + (0.3 + np.abs(X[:, 0])) * rng.normal(size=n)


def trained(scale, X, y, estimator=None):
    estimator = Ridge(RIDGE, fit_intercept=False) if estimator is None else estimator
    return SplitConformalRegressor(estimator, scale=scale, random_state=0).fit_train(X, y)


def variances(model, X):
    aleatoric, epistemic = model.scale_.variances(new_rows(model.model_, model.space_, X, model.n_outputs_))
    return aleatoric[:, 0], epistemic[:, 0]


class TestTheVariance:
    def test_is_noise_plus_the_posterior_variance_under_weights(self, rng):
        X, y = draw(rng, 80)
        # Within the training rows: beyond them the noise is the largest training one.
        rows = 0.2 * rng.normal(size=(9, 5))
        model = trained(LaplaceScale(growing), X, y)
        aleatoric, epistemic = variances(model, rows)
        left_out = Ridge(RIDGE, fit_intercept=False)
        predicted = [left_out.fit(np.delete(X, i, 0), np.delete(y, i)).predict(X[[i]])[0] for i in range(80)]
        noise = (0.3 + np.abs(predicted)) ** 2
        tau = RIDGE * np.mean(1 / noise)
        inverse = np.linalg.inv(tau * np.eye(5) + (X.T / noise) @ X)
        np.testing.assert_allclose(epistemic, np.einsum("ij,jk,ik->i", rows, inverse, rows), rtol=1e-9)
        np.testing.assert_allclose(aleatoric, (0.3 + np.abs(model.predict(rows))) ** 2, rtol=1e-12)

    def test_i_is_the_noise_alone_under_an_infinitely_tight_prior(self, rng):
        X, y = draw(rng, 60)
        model = trained(LaplaceScale(lambda rows: 1 + rows.inputs[:, 0] ** 2), X, y, Ridge(1e14, fit_intercept=False))
        aleatoric, epistemic = variances(model, X)
        assert (epistemic < 1e-10 * aleatoric).all()

    @pytest.mark.parametrize(
        "estimator",
        [
            Ridge(RIDGE),
            make_pipeline(PolynomialFeatures(2), Ridge(RIDGE)),
            KernelRidge(alpha=0.5, kernel="rbf"),
            GaussianProcessRegressor(RBF(), alpha=0.1, optimizer=None),
            RandomForestRegressor(10, random_state=0),
        ],
        ids=lambda model: type(model).__name__,
    )
    def test_ii_with_constant_noise_is_leverage_weighting(self, estimator, rng):
        X, y = draw(rng, 60)
        intervals = []
        for scale in (LaplaceScale(lambda rows: np.full(len(rows), 7.0)), LeverageScale()):
            model = trained(scale, X, y, estimator).calibrate(*draw(np.random.default_rng(1), 40))
            intervals.append(model.predict_interval(X[:10])[1])
        np.testing.assert_allclose(*intervals, rtol=1e-9)

    def test_iii_does_not_change_under_rotation_of_the_features(self, rng):
        X, y = draw(rng, 60)
        rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
        one = variances(trained(LaplaceScale(growing), X, y), X)
        other = variances(trained(LaplaceScale(growing), X @ rotation, y), X @ rotation)
        np.testing.assert_allclose(one, other, rtol=1e-9)

    def test_iv_knows_nothing_of_the_calibration_rows(self, rng):
        X, y = draw(rng, 100)
        model = trained(LaplaceScale(), X, y)
        before = variances(model, X[:20])
        model.calibrate(*draw(rng, 50))
        np.testing.assert_array_equal(before, variances(model, X[:20]))

    def test_v_is_fitted_without_the_bias_of_residuals_that_the_fit_has_made_small(self, rng):
        # 150 rows, 100 slopes: in-sample residuals would give a noise deviation of sqrt(1 / 3) = 0.58.
        # The deviation of a mean of 150 correlated |normals| is below 0.1.
        X = rng.normal(size=(150, 100))
        y = X.sum(axis=1) + rng.normal(size=150)
        model = trained(LaplaceScale(DummyRegressor()), X, y, LinearRegression(fit_intercept=False))
        assert abs(np.sqrt(variances(model, X[:1])[0][0]) - 1) < 0.3

    def test_loses_its_epistemic_part_as_rows_come_in(self, rng):
        shares = []
        for n in (50, 500, 5_000):
            aleatoric, epistemic = variances(trained(LaplaceScale(growing), *draw(rng, n)), draw(rng, 200)[0])
            shares.append(np.mean(epistemic) / np.mean(aleatoric))
        np.testing.assert_allclose(np.array(shares[:-1]) / shares[1:], 10, rtol=0.7)


class TestTheScale:
    def test_finds_the_noise(self, rng):
        model = trained(LaplaceScale(), *draw(rng, 3_000))
        X, _ = draw(rng, 500)
        found = np.sqrt(variances(model, X)[0])
        assert np.corrcoef(np.log(found), np.log(0.3 + np.abs(X[:, 0])))[0, 1] > 0.9

    @pytest.mark.parametrize(
        "estimator", [Ridge(), KernelRidge(kernel="rbf"), make_pipeline(PolynomialFeatures(2), Ridge())]
    )
    def test_does_not_shrink_far_from_the_data(self, estimator, rng):
        X, y = draw(rng, 200)
        model = trained(LaplaceScale(), X, y, estimator)
        near, far = (np.sum(variances(model, rows), axis=0) for rows in (X, 1_000 * X[:5]))
        assert far.min() >= near.max()

    def test_takes_the_largest_training_noise_beyond_the_training_rows(self, rng):
        X, y = draw(rng, 80)
        left_out = Ridge(RIDGE, fit_intercept=False)
        predicted = [left_out.fit(np.delete(X, i, 0), np.delete(y, i)).predict(X[[i]])[0] for i in range(80)]
        found = variances(trained(LaplaceScale(growing), X, y), 1_000 * X[:5])[0]
        np.testing.assert_allclose(found, (0.3 + np.max(np.abs(predicted))) ** 2, rtol=1e-9)

    def test_takes_equal_weights_where_a_space_knows_no_others(self, rng):
        X, y = draw(rng, 80)
        model = trained(LaplaceScale(), X, np.stack([y, -y], axis=1), Ridge([1.0, 3.0]))
        level = model.scale_.variances_[0].level
        assert model.scale_.variances_[0].precision is None
        np.testing.assert_allclose(variances(model, X[:6])[1], level * model.leverage(X[:6])[:, 0], rtol=1e-12)

    def test_gives_each_output_its_own_noise(self, rng):
        X, y = draw(rng, 300)
        model = trained(LaplaceScale(DummyRegressor()), X, np.stack([y, 100 * y], axis=1))
        width = model.scale_.predict(new_rows(model.model_, model.space_, X, 2))[1]
        np.testing.assert_allclose(width[:, 1], 100 * width[:, 0], rtol=1e-8)

    def test_counts_a_weight_of_two_like_a_row_given_twice(self, rng):
        X, y = draw(rng, 40)
        noise = LaplaceScale(lambda rows: 1 + rows.inputs[:, 0] ** 2)
        weight = np.where(np.arange(40) < 10, 2.0, 1.0)
        weighted = SplitConformalRegressor(Ridge(RIDGE), scale=noise).fit_train(X, y, sample_weight=weight)
        twice = SplitConformalRegressor(Ridge(RIDGE), scale=noise).fit_train(
            np.vstack([X, X[:10]]), np.append(y, y[:10])
        )
        # Within the training rows, whose leave-one-out leverages differ: it is the whole weight that is left out.
        np.testing.assert_allclose(variances(weighted, 0.2 * X), variances(twice, 0.2 * X), rtol=1e-9)

    def test_is_infinite_where_leverage_is(self, rng):
        X = np.hstack([rng.normal(size=(50, 2)), np.zeros((50, 1))])
        model = trained(LaplaceScale(), X, X[:, 0] + rng.normal(size=50), LinearRegression())
        assert np.isinf(np.sum(variances(model, np.array([[0.0, 0.0, 5.0]])), axis=0)).all()

    @pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
    def test_refuses_noise_that_is_not_positive_and_finite(self, bad, rng):
        X, y = draw(rng, 30)
        with pytest.raises(ValueError, match="finite and > 0; row 0"):
            trained(LaplaceScale(lambda rows: np.full(len(rows), bad)), X, y)
