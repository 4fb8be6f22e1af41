"""Closed forms of leave-one-out against n refits, for features and for kernels."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV

import oracles
from hatband.formulas.leave_one_out import (
    interpolated,
    loo_leverage,
    loo_leverage_at,
    loo_predictions,
    loo_residuals,
    loo_sampling_leverage,
    loo_sampling_leverage_at,
)
from hatband.formulas.leverage import cross_leverage, leverage, sampling_leverage
from hatband.linalg import factor_kernel
from rounding import EPS, through_gram, through_kernel

WEIGHTS = {
    "unweighted": lambda rng, n: None,
    "weighted": lambda rng, n: rng.uniform(0.2, 3, n),
    "zero weights": lambda rng, n: np.where(np.arange(n) % 4 == 1, 0.0, rng.uniform(0.2, 3, n)),
}
RIDGES = {"least squares": 0.0, "ridge": 0.7, "ridge per feature": np.array([0.1, 2.0, 5.0])}


@pytest.fixture(params=WEIGHTS)
def weights(request, rng):
    return WEIGHTS[request.param](rng, 25)


@pytest.fixture(params=RIDGES)
def ridge(request):
    return RIDGES[request.param]


@pytest.fixture(params=[False, True], ids=["no intercept", "intercept"])
def setting(request, ridge, weights):
    return {"ridge": ridge, "weights": weights, "fit_intercept": request.param}


@pytest.fixture
def rows(rng):
    """Training features, targets, new rows."""
    return rng.normal(size=(25, 3)) + 1, rng.normal(size=(25, 2)), 2 * rng.normal(size=(6, 3))


def without(i, setting):
    """The setting of the refit without row i."""
    weights = setting["weights"]
    return setting | {"weights": None if weights is None else np.delete(weights, i)}


def close_to(train):
    """Both sides solve systems of the condition number of the design."""
    return {"rtol": 1e3 * EPS * np.linalg.cond(train) ** 2, "atol": 1e3 * EPS * np.linalg.cond(train) ** 2}


def test_residuals_and_predictions_equal_n_refits(rows, setting):
    train, y, new = rows
    w = setting["weights"]
    h, cross = leverage(train, **setting), cross_leverage(train, new, **setting)
    residuals = loo_residuals(y - oracles.ridge_predictions(train, y, train, **setting), h, w)
    mu = oracles.ridge_predictions(train, y, new, **setting)
    for i in range(25):
        rest, target = np.delete(train, i, 0), np.delete(y, i, 0)
        own = oracles.ridge_predictions(rest, target, train[i : i + 1], **without(i, setting))
        others = oracles.ridge_predictions(rest, target, new, **without(i, setting))

        np.testing.assert_allclose(residuals[i], y[i] - own[0], **close_to(train))
        for q in range(2):
            found = loo_predictions(mu[:, q], cross, residuals[:, q], w)[:, i]
            np.testing.assert_allclose(found, others[:, q], **close_to(train))


def test_leverages_equal_n_refits(rows, setting):
    train, _, new = rows
    w = setting["weights"]
    h, s, cross = leverage(train, **setting), sampling_leverage(train, **setting), cross_leverage(train, new, **setting)
    own, own_sampling = loo_leverage(h, w), loo_sampling_leverage(s, h, w)
    at = loo_leverage_at(leverage(train, new, **setting), cross, h, w)
    smoothed = (cross if w is None else cross * w) @ cross_leverage(train, train, **setting)
    sampling_at = loo_sampling_leverage_at(
        sampling_leverage(train, new, **setting), cross, smoothed, s_train=s, h_train=h, w=w
    )
    for i in range(25):
        rest, refit = np.delete(train, i, 0), without(i, setting)
        sampling = oracles.dense_sampling_leverage(rest, train[i : i + 1], **refit)

        np.testing.assert_allclose(
            own[i], oracles.dense_leverage(rest, train[i : i + 1], **refit)[0], **close_to(train)
        )
        np.testing.assert_allclose(own_sampling[i], sampling[0], **close_to(train))
        np.testing.assert_allclose(at[:, i], oracles.dense_leverage(rest, new, **refit), **close_to(train))
        np.testing.assert_allclose(
            sampling_at[:, i], oracles.dense_sampling_leverage(rest, new, **refit), **close_to(train)
        )


def test_residuals_of_one_output_keep_their_shape(rows):
    train, y, _ = rows
    h = leverage(train)

    assert loo_residuals(y[:, 0], h).shape == (25,)
    np.testing.assert_array_equal(loo_residuals(y[:, 0], h), loo_residuals(y, h)[:, 0])


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_residuals_are_those_of_ridge_cv(rows, fit_intercept):
    train, y, _ = rows
    reference = RidgeCV(alphas=[0.5], fit_intercept=fit_intercept, store_cv_results=True).fit(train, y)
    e = y - reference.predict(train)
    mine = loo_residuals(e, leverage(train, ridge=0.5, fit_intercept=fit_intercept))

    close = through_gram(train, 0.5, None, fit_intercept)
    exact = np.sqrt(reference.cv_results_[:, :, 0])
    np.testing.assert_allclose(np.abs(mine), exact, rtol=close, atol=close * np.abs(y).max())


def test_weighted_score_is_the_studentised_residual(rows):
    train, y, _ = rows
    h = leverage(train)
    e = y - oracles.ridge_predictions(train, y, train)
    score = loo_residuals(e, h) / np.sqrt(1 + loo_leverage(h))[:, None]

    np.testing.assert_allclose(score, e / np.sqrt(1 - h)[:, None], rtol=10 * EPS / (1 - h).min())


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("ridge", [1e-6, 0.5])
def test_kernel_residuals_equal_n_refits(rng, rows, weights, ridge, fit_intercept):
    train, y, _ = rows
    kernel = np.exp(-((train[:, None] - train[None]) ** 2).sum(-1))
    factor = factor_kernel(kernel, ridge, weights, fit_intercept)
    seen = np.arange(25) if weights is None else np.flatnonzero(weights)
    found = factor.residuals(y) / factor.training_complement()[:, None]
    error = through_kernel(kernel, ridge, weights)
    close = {"rtol": error, "atol": error * np.abs(y).max()}
    for i in seen:
        keep = np.delete(np.arange(25), i)
        refit = {"weights": None if weights is None else weights[keep], "fit_intercept": fit_intercept}
        own = oracles.kernel_ridge_predictions(
            kernel[np.ix_(keep, keep)], kernel[i : i + 1, keep], y[keep], ridge=ridge, **refit
        )

        np.testing.assert_allclose(found[i], y[i] - own[0], **close)


def test_kernel_residuals_equal_refits_of_kernel_ridge(rows):
    train, y, _ = rows
    kernel = np.exp(-0.3 * ((train[:, None] - train[None]) ** 2).sum(-1))
    factor = factor_kernel(kernel, 0.1)
    found = factor.residuals(y) / factor.training_complement()[:, None]
    close = through_kernel(kernel, 0.1)
    for i in range(25):
        model = KernelRidge(alpha=0.1, kernel="rbf", gamma=0.3).fit(np.delete(train, i, 0), np.delete(y, i, 0))
        np.testing.assert_allclose(found[i], y[i] - model.predict(train[i : i + 1])[0], rtol=close, atol=close)


@pytest.fixture
def lonely(rng):
    """Row 0 alone has the last feature, so that ridge 0 interpolates it; and targets."""
    train = np.hstack([rng.normal(size=(12, 2)), np.eye(12)[:, :1]])
    return train, rng.normal(size=12)


def test_interpolated_rows_have_infinite_leverages_and_residuals_and_no_nan(lonely):
    train, y = lonely
    h, s = leverage(train), sampling_leverage(train)
    e = y - oracles.ridge_predictions(train, y, train)

    np.testing.assert_array_equal(interpolated(h), np.arange(12) == 0)
    for values in (loo_leverage(h), loo_sampling_leverage(s, h), np.abs(loo_residuals(e, h))):
        np.testing.assert_array_equal(np.isinf(values), np.arange(12) == 0)
        assert not np.isnan(values).any()


def test_rows_that_are_almost_interpolated_keep_their_residuals(lonely):
    # Row 0 alone has a feature, and a ridge of 1e-6 on it: 1 - h_0 is about 1e-6, and known to 1e-10 of itself.
    train, y = lonely
    setting = {"ridge": np.array([0.0, 0.0, 1e-6]), "fit_intercept": False}
    h = leverage(train, **setting)
    found = loo_residuals(y - oracles.ridge_predictions(train, y, train, **setting), h)
    refit = oracles.ridge_predictions(train[1:, :2], y[1:], train[:1, :2], fit_intercept=False)

    assert 1e-7 < 1 - h[0] < 1e-5
    # The residual is divided by 1 - h_0, and both are differences of numbers near 1.
    np.testing.assert_allclose(found[0], y[0] - refit[0], rtol=100 * EPS / (1 - h[0]))


def test_leaving_out_an_interpolated_row_matters_only_where_it_alone_knew(lonely):
    train, y = lonely
    new = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 1.0]])
    h, cross = leverage(train), cross_leverage(train, new)
    at = loo_leverage_at(leverage(train, new), cross, h)[:, 0]
    residuals = loo_residuals(y - oracles.ridge_predictions(train, y, train), h)
    mu = oracles.ridge_predictions(train, y, new)

    np.testing.assert_allclose(at, [leverage(train[1:], new[:1])[0], np.inf], rtol=through_gram(train))
    assert np.isfinite(loo_predictions(mu, cross, residuals)).all()
    np.testing.assert_array_equal(loo_predictions(mu, cross, residuals)[:, 0], mu)


def test_jackknife_interval_of_an_interpolated_row_is_the_whole_line(lonely):
    train, y = lonely
    h, cross = leverage(train), cross_leverage(train, train[:1] + 1)
    residuals = loo_residuals(y - oracles.ridge_predictions(train, y, train), h)
    centres = loo_predictions(oracles.ridge_predictions(train, y, train[:1] + 1), cross, residuals)

    assert np.isinf(loo_residuals(np.zeros(2), np.ones(2))).all()
    assert (centres - np.abs(residuals))[0, 0] == -np.inf
    assert (centres + np.abs(residuals))[0, 0] == np.inf
