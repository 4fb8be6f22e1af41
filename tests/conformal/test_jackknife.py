"""Jackknife+ from one factorisation equals n refits, and MAPIE's."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import LeaveOneOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hatband import JackknifePlusRegressor, LeverageScale
from oracles import dense_kernel_cross, dense_leverage, dense_sampling_leverage, held_out_bounds

LEVEL = Fraction(9, 10)
# Refits of moderate condition (below 1e4), n below 100: 1e4 sqrt(n) eps is 2e-11.
TOLERANCE = 1e-9
TALL, WIDE = (39, 4), (22, 35)


def rows_of(shape, seed=0):
    X, y = make_regression(shape[0] + 15, shape[1], noise=10.0, random_state=seed)
    return X[15:] + 3.0, y[15:] / 10, X[:15] + 3.0


def linear_band(estimator, X, y, weights=None, width="constant"):
    """fit_band of the oracle for linear models: sklearn's refit, and leverage by an explicit inverse."""
    ridge = getattr(estimator, "alpha", 0.0)

    def fit_band(kept):
        w = None if weights is None else weights[kept]
        model = clone(estimator).fit(X[kept], y[kept], sample_weight=w)

        def band(rows):
            if width == "constant":
                return model.predict(rows), np.ones(len(rows))
            form = dense_sampling_leverage if width == "sampling" else dense_leverage
            h = form(X[kept], rows, ridge, w, estimator.fit_intercept)
            return model.predict(rows), np.sqrt(1 + h)

        return band

    return fit_band


LINEAR = {
    "tall": (Ridge(2.0), TALL),
    "tall, no intercept": (Ridge(2.0, fit_intercept=False), TALL),
    "least squares": (LinearRegression(), TALL),
    "least squares, no intercept": (LinearRegression(fit_intercept=False), TALL),
    "wide": (Ridge(2.0), WIDE),
    "wide, no intercept": (Ridge(2.0, fit_intercept=False), WIDE),
}
SCALES = {"constant": "constant", "leverage": "leverage", "sampling": LeverageScale(form="sampling")}


@pytest.mark.parametrize("method", ["plus", "minmax"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_bounds_equal_refits(name, weighted, scale, method):
    estimator, shape = LINEAR[name]
    X, y, rows = rows_of(shape)
    weights = np.random.default_rng(1).integers(0, 4, len(y)).astype(float) if weighted else None
    expected = held_out_bounds(
        linear_band(estimator, X, y, weights, scale), X, y, rows, np.arange(len(y))[:, None], level=LEVEL, method=method
    )
    model = JackknifePlusRegressor(estimator, scale=SCALES[scale], method=method).fit(X, y, sample_weight=weights)

    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=TOLERANCE, atol=TOLERANCE)


def kernel_band(estimator, X, y, weights=None, *, noise=0.0, width="leverage"):
    ridge = estimator.alpha + noise

    def fit_band(kept):
        w = None if weights is None else weights[kept]
        given = {} if weights is None else {"sample_weight": w}
        model = clone(estimator).fit(X[kept], y[kept], **given)
        K = rbf_kernel(X[kept], gamma=0.1)

        def band(rows):
            between = rbf_kernel(rows, X[kept], gamma=0.1)
            h = dense_kernel_cross(K, between, between, rbf_kernel(rows, gamma=0.1), ridge=ridge, weights=w).diagonal()
            return model.predict(rows), np.ones(len(rows)) if width == "constant" else np.sqrt(1 + h)

        return band

    return fit_band


KERNELS = {
    "kernel ridge": (KernelRidge(kernel="rbf", gamma=0.1, alpha=0.3), 0.0),
    "gaussian process": (GaussianProcessRegressor(RBF(np.sqrt(5)), alpha=0.3, optimizer=None), 0.0),
    "white noise": (GaussianProcessRegressor(RBF(np.sqrt(5)) + WhiteKernel(0.2), alpha=0.1, optimizer=None), 0.2),
}


@pytest.mark.parametrize("scale", ["constant", "leverage"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_bounds_equal_refits(name, scale):
    estimator, noise = KERNELS[name]
    X, y, rows = rows_of(TALL)
    folds = np.arange(len(y))[:, None]
    expected = held_out_bounds(kernel_band(estimator, X, y, noise=noise, width=scale), X, y, rows, folds, level=LEVEL)
    model = JackknifePlusRegressor(estimator, scale=scale).fit(X, y)

    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_weighted_kernel_bounds_equal_refits():
    X, y, rows = rows_of(TALL)
    weights = np.random.default_rng(1).uniform(0.2, 3, len(y))
    estimator, _ = KERNELS["kernel ridge"]
    expected = held_out_bounds(
        kernel_band(estimator, X, y, weights), X, y, rows, np.arange(len(y))[:, None], level=LEVEL
    )
    model = JackknifePlusRegressor(estimator).fit(X, y, sample_weight=weights)

    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_noise_of_each_row_counts_as_its_weight():
    X, y, rows = rows_of(TALL)
    noise = np.random.default_rng(2).uniform(0.1, 1.0, len(y))
    model = JackknifePlusRegressor(GaussianProcessRegressor(RBF(np.sqrt(5)), alpha=noise, optimizer=None)).fit(X, y)
    ridge = noise.mean()
    expected = held_out_bounds(
        kernel_band(KernelRidge(kernel="rbf", gamma=0.1, alpha=ridge), X, y, ridge / noise),
        X,
        y,
        rows,
        np.arange(len(y))[:, None],
        level=LEVEL,
    )

    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=TOLERANCE, atol=TOLERANCE)


FIXED_MAPS = {
    "random features": RBFSampler(gamma=0.05, n_components=20, random_state=0),
    "nystroem": Nystroem(gamma=0.05, n_components=12, random_state=0),
    "polynomial": PolynomialFeatures(2, include_bias=True),
    "scaler": StandardScaler(),
}


@pytest.mark.parametrize("name", FIXED_MAPS)
def test_pipelines_are_exact_for_transformers_held_at_their_fit(name):
    X, y, rows = rows_of(TALL)
    pipeline = make_pipeline(clone(FIXED_MAPS[name]), Ridge(1.0)).fit(X, y)
    Z, new = pipeline[:-1].transform(X), pipeline[:-1].transform(rows)
    expected = held_out_bounds(
        linear_band(Ridge(1.0), Z, y, width="leverage"), Z, y, new, np.arange(len(y))[:, None], level=LEVEL
    )
    model = JackknifePlusRegressor(make_pipeline(clone(FIXED_MAPS[name]), Ridge(1.0))).fit(X, y)

    # The squares of columns around 3 bring the condition of the polynomial features to 1e5.
    tolerance = 1e-8 if name == "polynomial" else TOLERANCE
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ridge", [2.0, np.array([0.5, 2.0, 30.0])], ids=["one ridge", "a ridge for each output"])
@pytest.mark.parametrize("scale", SCALES)
def test_several_outputs_are_several_models(ridge, scale):
    X, y, rows = rows_of(TALL)
    Y = np.column_stack([y, np.sin(y), y**2])
    together = JackknifePlusRegressor(Ridge(ridge), scale=SCALES[scale]).fit(X, Y)
    _, interval = together.predict_interval(rows, [0.8, 0.9])

    assert interval.shape == (15, 3, 2, 2)
    for j, own in enumerate(np.broadcast_to(ridge, 3)):
        alone = JackknifePlusRegressor(Ridge(own), scale=SCALES[scale]).fit(X, Y[:, j])
        expected = alone.predict_interval(rows, [0.8, 0.9])[1]
        np.testing.assert_allclose(interval[:, j], expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["plus", "minmax"])
def test_bounds_equal_those_of_mapie(method):
    mapie = pytest.importorskip("mapie.regression", reason="the extra `mapie` is not installed")
    X, y, rows = rows_of((49, 4))
    theirs = mapie.CrossConformalRegressor(Ridge(), confidence_level=[0.8, 0.9], method=method, cv=LeaveOneOut())
    _, expected = theirs.fit_conformalize(X, y).predict_interval(rows)
    model = JackknifePlusRegressor(Ridge(), scale="constant", method=method).fit(X, y)

    np.testing.assert_allclose(model.predict_interval(rows, [0.8, 0.9])[1], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_scores_are_studentised_residuals():
    X, y, _ = rows_of(TALL)
    model = JackknifePlusRegressor(Ridge(2.0)).fit(X, y)
    h = dense_leverage(X, X, 2.0)

    np.testing.assert_allclose(model.scores_[:, 0], (y - model.predict(X)) / np.sqrt(1 - h), rtol=TOLERANCE)


def test_sparse_rows_give_the_same_bounds():
    X, y, rows = rows_of(TALL)
    dense = JackknifePlusRegressor(Ridge(2.0, tol=1e-12)).fit(X, y).predict_interval(rows)[1]
    model = JackknifePlusRegressor(Ridge(2.0, tol=1e-12)).fit(sparse.csr_matrix(X), y)

    np.testing.assert_allclose(model.predict_interval(sparse.csr_matrix(rows))[1], dense, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_bounds_do_not_depend_on_the_block_size(block_size):
    X, y, rows = rows_of(TALL)
    expected = JackknifePlusRegressor().fit(X, y).predict_interval(rows)[1]
    model = JackknifePlusRegressor(block_size=block_size).fit(X, y)

    np.testing.assert_allclose(model.predict_interval(rows)[1], expected, rtol=1e-12)


def test_ends_that_cross_below_level_one_half_meet_in_a_point():
    X, y, rows = rows_of((30, 20))
    _, interval = JackknifePlusRegressor(Ridge(1e-3)).fit(X, y).predict_interval(rows, [0.05, 0.9])

    assert (interval[:, 0] <= interval[:, 1]).all()
