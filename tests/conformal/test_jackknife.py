"""Jackknife+ from one factorisation equals n refits, and MAPIE's."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
from oracles import dense_kernel_cross, dense_leverage, held_out_bounds, linear_band, rank_bounds
from rounding import of_refits, through_kernel

LEVEL = Fraction(9, 10)
TALL, WIDE = (39, 4), (22, 35)


def of_single_refits(X, y, ridge, weights=None, fit_intercept=True):
    return of_refits(X, y, np.arange(len(y))[:, None], ridge, weights, fit_intercept=fit_intercept)


def of_kernel_refits(X, y, ridge, weights=None):
    return through_kernel(rbf_kernel(X, gamma=0.1), ridge, weights) * np.abs(y).max()


def rows_of(shape, seed=0):
    X, y = make_regression(shape[0] + 15, shape[1], noise=10.0, random_state=seed)
    return X[15:] + 3.0, y[15:] / 10, X[:15] + 3.0


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

    close = of_single_refits(X, y, getattr(estimator, "alpha", 0.0), weights, estimator.fit_intercept)
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)


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

    close = of_kernel_refits(X, y, 0.3)
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)


def test_weighted_kernel_bounds_equal_refits():
    X, y, rows = rows_of(TALL)
    weights = np.random.default_rng(1).uniform(0.2, 3, len(y))
    estimator, _ = KERNELS["kernel ridge"]
    expected = held_out_bounds(
        kernel_band(estimator, X, y, weights), X, y, rows, np.arange(len(y))[:, None], level=LEVEL
    )
    model = JackknifePlusRegressor(estimator).fit(X, y, sample_weight=weights)

    close = of_kernel_refits(X, y, 0.3, weights)
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)


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

    close = of_kernel_refits(X, y, noise.min())
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)


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
    close = of_single_refits(Z, y, 1.0)
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)


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
        close = of_single_refits(X, Y[:, j], own)
        np.testing.assert_allclose(interval[:, j], expected, rtol=0, atol=close)


@pytest.mark.parametrize("method", ["plus", "minmax"])
def test_bounds_equal_those_of_mapie(method):
    mapie = pytest.importorskip("mapie.regression", reason="the extra `mapie` is not installed")
    X, y, rows = rows_of((49, 4))
    theirs = mapie.CrossConformalRegressor(Ridge(), confidence_level=[0.8, 0.9], method=method, cv=LeaveOneOut())
    _, expected = theirs.fit_conformalize(X, y).predict_interval(rows)
    model = JackknifePlusRegressor(Ridge(), scale="constant", method=method).fit(X, y)

    close = of_single_refits(X, y, 1.0)
    np.testing.assert_allclose(model.predict_interval(rows, [0.8, 0.9])[1], expected, rtol=0, atol=close)


def test_scores_are_studentised_residuals():
    X, y, _ = rows_of(TALL)
    model = JackknifePlusRegressor(Ridge(2.0)).fit(X, y)
    h = dense_leverage(X, X, 2.0)

    expected, close = (y - model.predict(X)) / np.sqrt(1 - h), of_single_refits(X, y, 2.0)
    np.testing.assert_allclose(model.scores_[:, 0], expected, rtol=0, atol=close)


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

    close = of_single_refits(X, y, 1.0)
    np.testing.assert_allclose(model.predict_interval(rows)[1], expected, rtol=0, atol=close)


def test_ends_that_cross_below_level_one_half_meet_in_a_point():
    X, y, rows = rows_of((30, 20))
    _, interval = JackknifePlusRegressor(Ridge(1e-3)).fit(X, y).predict_interval(rows, [0.05, 0.9])

    assert (interval[:, 0] <= interval[:, 1]).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(12, 60), st.integers(1, 30)),
    ridge=st.sampled_from([1e-4, 0.1, 10.0]),
    power=st.sampled_from([0.0, 0.2, 0.5, 1.0, 2.0]),
    noise=st.tuples(st.sampled_from([1.0, 3.0, 30.0]), st.booleans()),
)
def test_rows_that_are_only_counted_do_not_hold_the_rank(seed, shape, ridge, power, noise):
    rng, (n, d), (tail, weighted) = np.random.default_rng(seed), shape, noise
    X, rows = rng.standard_t(tail, (n, d)), 3 * rng.standard_t(tail, (20, d))
    y = X[:, 0] + rng.standard_t(tail, n)
    weights = rng.integers(0, 3, n) + (np.arange(n) < 6) if weighted else None
    model = JackknifePlusRegressor(Ridge(ridge), scale=LeverageScale(power=power)).fit(X, y, sample_weight=weights)
    (every,) = model.held_out_.around(model.held_out_.features(rows), np.abs(model.scores_))
    levels = [Fraction(1, 2), Fraction(9, 10)]
    expected = np.array([rank_bounds(every.low, every.high, level) for level in levels])
    _, interval = model.predict_interval(rows, [0.5, 0.9])

    np.testing.assert_allclose(np.moveaxis(interval, 0, 2), np.moveaxis(expected, 0, 1), rtol=1e-9, atol=1e-9)


def test_of_tall_data_few_rows_can_hold_the_rank():
    X, y, rows = rows_of((2000, 5))
    model = JackknifePlusRegressor(Ridge()).fit(X, y)
    found = list(model.held_out_.near(model.held_out_.features(rows), np.abs(model.scores_), [1801]))

    assert max(one.high.shape[1] for one in found) < 100
    assert all(one.below + one.above + one.high.shape[1] == 2000 for one in found)
