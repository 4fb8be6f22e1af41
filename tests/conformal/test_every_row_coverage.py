"""What jackknife+ and CV+ promise, over independent draws of all rows; and the memory that they need.

Every repetition draws its own rows and one new row, so the number covered is binomial. The promise is 1 - 2a for "plus"
and 1 - a for "minmax", a = 1 - level; stable models cover close to 1 - a with both. False-alarm rate: 1e-6 per claim.
"""

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import HuberRegressor, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from hatband import (
    ApproximateJackknifePlusRegressor,
    CrossConformalRegressor,
    JackknifePlusRegressor,
)
from sweeps import sweep

FALSE_ALARM = 1e-6
ROWS, LEVEL = 29, 0.9


def draw(rng, n):
    X = rng.standard_t(4, (n, 3))
    return X, X[:, 0] + (0.5 + np.abs(X[:, 1])) * rng.standard_normal(n)


def covered(model, repetitions, seed=0):
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(repetitions):
        X, y = draw(rng, ROWS + 1)
        low, high = model.fit(X[:-1], y[:-1]).predict_interval(X[-1:])[1][0]
        hits += low <= y[-1] <= high
    return hits


JACKKNIFES = {
    "least squares": LinearRegression(),
    "ridge": Ridge(5.0),
    "kernel": KernelRidge(kernel="rbf", gamma=0.2, alpha=0.5),
    "polynomial": make_pipeline(PolynomialFeatures(2), Ridge(3.0)),
}


@sweep(80, 400)
@pytest.mark.parametrize("scale", ["leverage", "constant"])
@pytest.mark.parametrize("name", JACKKNIFES)
def test_jackknife_plus_keeps_its_promise_and_comes_close_to_the_level(name, scale, repetitions):
    hits = covered(JackknifePlusRegressor(JACKKNIFES[name], scale=scale), repetitions)

    assert hits >= stats.binom.ppf(FALSE_ALARM, repetitions, 2 * LEVEL - 1)
    # Close: exact ranks make it 27 / 30 for models that do not depend on a single row.
    assert (
        stats.binom.ppf(FALSE_ALARM, repetitions, 0.88) <= hits <= stats.binom.ppf(1 - FALSE_ALARM, repetitions, 0.94)
    )


@sweep(80, 400)
@pytest.mark.parametrize("name", JACKKNIFES)
def test_minmax_never_falls_below_the_level(name, repetitions):
    hits = covered(JackknifePlusRegressor(JACKKNIFES[name], method="minmax"), repetitions)

    assert hits >= stats.binom.ppf(FALSE_ALARM, repetitions, LEVEL)


@sweep(80, 300)
def test_a_model_that_interpolates_keeps_its_promise(repetitions):
    """More features than rows and next to no ridge: leave-one-out models differ, and only 1 - 2a is promised."""
    model = JackknifePlusRegressor(make_pipeline(PolynomialFeatures(4), Ridge(1e-3)), scale="constant")

    assert covered(model, repetitions) >= stats.binom.ppf(FALSE_ALARM, repetitions, 2 * LEVEL - 1)


@pytest.mark.parametrize(
    ("model", "repetitions"),
    [
        pytest.param(CrossConformalRegressor(Ridge(), scale="leverage"), 80, id="block leverage"),
        pytest.param(CrossConformalRegressor(Ridge()), 400, id="automatic scale", marks=pytest.mark.slow),
        pytest.param(
            CrossConformalRegressor(RandomForestRegressor(3, max_depth=3), cv=3, scale="constant"), 60, id="forest"
        ),
        pytest.param(ApproximateJackknifePlusRegressor(HuberRegressor(max_iter=500)), 60, id="huber"),
        pytest.param(
            ApproximateJackknifePlusRegressor(HuberRegressor(max_iter=500)), 200, id="huber", marks=pytest.mark.slow
        ),
    ],
)
def test_cross_and_approximate_forms_keep_the_promise_of_cv_plus(model, repetitions):
    promise = 2 * LEVEL - 1 - np.sqrt(2 / ROWS)

    assert covered(model, repetitions) >= stats.binom.ppf(FALSE_ALARM, repetitions, max(promise, 0.6))


def peak(call):
    tracemalloc.start()
    call()
    bytes_at_most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return bytes_at_most


@pytest.mark.parametrize("scale", ["leverage", "constant"])
def test_never_more_than_a_handful_of_blocks_times_n_numbers(scale):
    rng = np.random.default_rng(0)
    X, y, rows = rng.standard_normal((1500, 5)), rng.standard_normal(1500), rng.standard_normal((2000, 5))
    model = JackknifePlusRegressor(Ridge(), scale=scale, block_size=16).fit(X, y)
    model.predict_interval(rows[:1])

    # A block of 16 x 1500 numbers is 0.2 MB; test rows times training rows would be 24 MB.
    assert peak(lambda: model.predict_interval(rows)) < 12 * 16 * 1500 * 8 + 20 * rows.nbytes
    assert peak(lambda: JackknifePlusRegressor(Ridge(), scale=scale).fit(X, y)) < 5e6 < 1500**2 * 8


def test_a_kernel_keeps_two_square_arrays_and_no_more():
    rng = np.random.default_rng(0)
    n = 1600
    X, y = rng.standard_normal((n, 5)), rng.standard_normal(n)
    model = JackknifePlusRegressor(KernelRidge(kernel="rbf", alpha=0.5), block_size=16)
    tracemalloc.start()
    model.fit(X, y)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < 2.3 * n * n * 8
    # scikit-learn copies the kernel to solve; then ours holds K, its factor and one more while it is made.
    assert most < 4.5 * n * n * 8
    assert peak(lambda: model.predict_interval(X[:100])) < 0.5 * n * n * 8
