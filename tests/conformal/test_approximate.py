"""Approximate leave-one-out: exact where it says so, close to refits elsewhere, and said to be approximate."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LinearRegression,
    PoissonRegressor,
    Ridge,
    TweedieRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hatband import ApproximateJackknifePlusRegressor, JackknifePlusRegressor
from hatband.conformal.held_out.convex import ConvexFit, convex_fit
from oracles import held_out_bounds

ROWS, NEW, FEATURES = 80, 9, 8
PRECISE = {"tol": 1e-10, "max_iter": 10_000}


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((ROWS + NEW, FEATURES))
    eta = X @ np.r_[rng.standard_normal(4), np.zeros(4)]
    targets = {
        "normal": eta + rng.standard_normal(ROWS + NEW),
        "counts": rng.poisson(np.exp(0.3 * eta + 1)).astype(float),
        "times": rng.gamma(2, np.exp(0.3 * eta + 1) / 2),
    }
    return X[:ROWS], {name: y[:ROWS] for name, y in targets.items()}, X[ROWS:]


def held_to(model, n):
    """The model of a refit without one row, its penalty held in the sum convention."""
    share = 1.0 if isinstance(model, (Ridge, HuberRegressor, LinearRegression)) else n / (n - 1)
    return clone(model).set_params(alpha=model.alpha * share) if hasattr(model, "alpha") else clone(model)


def refit_predictions(model, X, y, rows):
    """mu_-i at new rows (m, n), by refits."""
    keep = ~np.eye(len(X), dtype=bool)
    return np.column_stack([held_to(model, len(X)).fit(X[k], y[k]).predict(rows) for k in keep])


def newton_predictions(model, rows):
    reach = list(model.held_out_.around(model.held_out_.features(rows), np.zeros_like(model.scores_)))
    return np.concatenate([one.low for one in reach])


# Largest distance to the refits, in units of the effect of leaving a row out without any correction.
MODELS = {
    "lasso": (Lasso(0.1, **PRECISE), "normal", 0.5),
    "elastic net": (ElasticNet(0.1, **PRECISE), "normal", 0.5),
    "huber": (HuberRegressor(tol=1e-9, max_iter=1000), "normal", 0.5),
    "poisson": (PoissonRegressor(alpha=0.01, **PRECISE), "counts", 0.25),
    "gamma": (GammaRegressor(alpha=0.01, **PRECISE), "times", 0.25),
    "tweedie": (TweedieRegressor(power=1.5, alpha=0.01, **PRECISE), "counts", 0.25),
    "tweedie, identity": (TweedieRegressor(power=0, alpha=0.01, **PRECISE), "normal", 1e-4),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_newton_step_comes_close_to_a_refit(name, data):
    estimator, target, share = MODELS[name]
    X, targets, rows = data
    y = targets[target]
    model = ApproximateJackknifePlusRegressor(estimator).fit(X, y)
    refits = refit_predictions(estimator, X, y, rows)
    uncorrected = np.abs(model.predict(rows)[:, None] - refits)
    distance = np.abs(newton_predictions(model, rows) - refits)

    assert distance.max() < share * uncorrected.max()
    assert np.median(distance) < 0.15 * np.median(uncorrected)


@pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
@pytest.mark.parametrize(
    "estimator", [Lasso(0.1, **PRECISE), ElasticNet(0.1, **PRECISE)], ids=lambda e: type(e).__name__
)
def test_the_step_is_exact_for_as_many_rows_as_it_says(estimator, fit_intercept, data):
    X, targets, rows = data
    y = targets["normal"]
    estimator = clone(estimator).set_params(fit_intercept=fit_intercept)
    model = ApproximateJackknifePlusRegressor(estimator).fit(X, y)
    distance = np.abs(newton_predictions(model, rows) - refit_predictions(estimator, X, y, rows)).max(axis=0)

    # The solver's duality gap of 1e-10 leaves coefficients 1e-5 off at worst, and 1e-9 as a rule.
    assert model.kept_share_ == (distance < 1e-6).mean()
    assert 0.5 < model.kept_share_ < 1


def test_the_step_is_exact_for_squared_loss(data):
    X, targets, rows = data
    for estimator in (Ridge(2.0), LinearRegression()):
        exact = JackknifePlusRegressor(estimator, scale="constant").fit(X, targets["normal"])
        model = ApproximateJackknifePlusRegressor(estimator).fit(X, targets["normal"])
        np.testing.assert_allclose(model.predict_interval(rows)[1], exact.predict_interval(rows)[1], rtol=1e-9)
        assert model.kept_share_ is None


@pytest.mark.parametrize("method", ["plus", "minmax"])
def test_bounds_are_those_of_the_newton_models(method, data):
    X, targets, rows = data
    y, estimator = targets["counts"], PoissonRegressor(alpha=0.01, **PRECISE)
    model = ApproximateJackknifePlusRegressor(estimator, method=method).fit(X, y)
    center, own = newton_predictions(model, rows), newton_predictions(model, X).diagonal()
    places = {tuple(row): i for i, row in enumerate(X)}

    def fit_band(kept):
        (left_out,) = np.setdiff1d(np.arange(ROWS), kept)

        def band(some):
            if len(some) == 1:
                return own[[places[tuple(some[0])]]], np.ones(1)
            return center[:, left_out], np.ones(len(some))

        return band

    folds = np.arange(ROWS)[:, None]
    expected = held_out_bounds(fit_band, X, y, rows, folds, level=Fraction(9, 10), method=method)

    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=1e-9)


def test_weight_zero_is_a_row_left_out(data):
    X, targets, rows = data
    for name in ("poisson", "elastic net"):
        estimator, target, _ = MODELS[name]
        y = targets[target]
        weights = np.r_[np.zeros(10), np.ones(ROWS - 10)]
        weighted = ApproximateJackknifePlusRegressor(estimator).fit(X, y, sample_weight=weights)
        fewer = ApproximateJackknifePlusRegressor(estimator).fit(X[10:], y[10:])
        np.testing.assert_allclose(
            newton_predictions(weighted, rows)[:, 10:], newton_predictions(fewer, rows), rtol=1e-6
        )


def test_pipelines_and_sparse_rows(data):
    X, targets, rows = data
    y = targets["normal"]
    lasso = Lasso(0.1, **PRECISE)
    scaled = StandardScaler().fit(X)
    model = ApproximateJackknifePlusRegressor(make_pipeline(StandardScaler(), lasso)).fit(X, y)
    inner = ApproximateJackknifePlusRegressor(lasso).fit(scaled.transform(X), y)
    thin = ApproximateJackknifePlusRegressor(lasso).fit(sparse.csr_matrix(scaled.transform(X)), y)
    expected = inner.predict_interval(scaled.transform(rows))[1]

    np.testing.assert_allclose(model.predict_interval(rows)[1], expected, rtol=1e-9)
    np.testing.assert_allclose(thin.predict_interval(sparse.csr_matrix(scaled.transform(rows)))[1], expected, rtol=1e-6)
    assert thin.kept_share_ == inner.kept_share_ == model.kept_share_


class LogCosh(RegressorMixin, BaseEstimator):
    """sum log cosh(y - x'b) + ridge |b|^2 / 2, by Newton steps."""

    def __init__(self, ridge=1.0):
        self.ridge = ridge

    def fit(self, X, y):
        # From least squares the steps need no damping.
        self.coef_ = np.linalg.lstsq(X, y, rcond=None)[0]
        for _ in range(50):
            residual = y - X @ self.coef_
            curvature = 1 - np.tanh(residual) ** 2
            gradient = -X.T @ np.tanh(residual) + self.ridge * self.coef_
            self.coef_ = self.coef_ - np.linalg.solve((X.T * curvature) @ X + self.ridge * np.eye(X.shape[1]), gradient)
        return self

    def predict(self, X):
        return X @ self.coef_


def test_users_register_losses_of_their_own():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 5))
    y = X @ np.arange(5) + rng.standard_normal(90)
    with pytest.raises(ValueError, match=r"Register yours with hatband\..*convex_fit\.register"):
        ApproximateJackknifePlusRegressor(LogCosh()).fit(X, y)

    @convex_fit.register
    def _log_cosh(model: LogCosh, features, y, weights):
        residual = y - features @ model.coef_
        return ConvexFit(-np.tanh(residual), 1 - np.tanh(residual) ** 2, model.ridge, fit_intercept=False)

    model = ApproximateJackknifePlusRegressor(LogCosh()).fit(X[:80], y[:80])
    keep = ~np.eye(80, dtype=bool)
    refits = np.column_stack([LogCosh().fit(X[:80][k], y[:80][k]).predict(X[80:]) for k in keep])
    uncorrected = np.abs(model.predict(X[80:])[:, None] - refits)

    assert np.abs(newton_predictions(model, X[80:]) - refits).max() < 0.2 * uncorrected.max()


def test_two_outputs_are_refused(data):
    X, targets, _ = data
    with pytest.raises(ValueError, match="takes one output; got 2"):
        ApproximateJackknifePlusRegressor(Ridge()).fit(X, np.column_stack([targets["normal"]] * 2))
