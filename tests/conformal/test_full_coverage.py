"""Full conformal coverage is exact at every n: the share k / (n + 1), k = ceil((n + 1) level), without ties.

Every repetition draws its own rows and one new row, so the number covered is binomial.
False-alarm rate: 1e-6 per claim.
"""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from hatband import FullConformalRegressor
from oracles import exact_upper_rank
from sweeps import sweep

FALSE_ALARM = 1e-6
ROWS, LEVEL = 24, Fraction(4, 5)

MODELS = {
    "least squares, studentised": FullConformalRegressor(LinearRegression()),
    "ridge, absolute": FullConformalRegressor(Ridge(5.0), method="absolute"),
    "ridge, deleted": FullConformalRegressor(Ridge(5.0), method="deleted"),
    "polynomial": FullConformalRegressor(make_pipeline(PolynomialFeatures(2), Ridge(1.0))),
    "kernel, studentised": FullConformalRegressor(KernelRidge(kernel="rbf", gamma=0.5, alpha=0.2)),
    "gaussian process": FullConformalRegressor(GaussianProcessRegressor(RBF(), alpha=0.2, optimizer=None)),
}


def draw(rng, n):
    X = rng.standard_t(4, (n, 3))
    return X, X[:, 0] + (0.5 + np.abs(X[:, 1])) * rng.standard_normal(n)


@sweep(60, 300)
@pytest.mark.filterwarnings("ignore::hatband.LeverageWarning")
@pytest.mark.parametrize("name", MODELS)
def test_coverage_lies_inside_exact_bounds(name, repetitions):
    rng = np.random.default_rng(sum(map(ord, name)))
    covered = 0
    for _ in range(repetitions):
        X, y = draw(rng, ROWS + 1)
        pieces = MODELS[name].fit(X[:-1], y[:-1]).predict_set(X[-1:], float(LEVEL))[0]
        covered += bool(((pieces[:, 0] <= y[-1]) & (y[-1] <= pieces[:, 1])).any())
    share = exact_upper_rank(ROWS, LEVEL) / (ROWS + 1)
    low, high = stats.binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], repetitions, share)

    assert low <= covered <= high


@sweep(60, 300)
def test_the_bounds_would_catch_residuals_of_the_fit_in_place_of_leave_one_out_ones(repetitions):
    """In-sample residuals, the usual mistake, cover far less at these sizes."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(repetitions):
        X, y = draw(rng, ROWS + 1)
        X = np.column_stack([X, rng.standard_normal((ROWS + 1, 6))])
        model = LinearRegression().fit(X[:-1], y[:-1])
        residuals = np.sort(np.abs(y[:-1] - model.predict(X[:-1])))
        covered += abs(y[-1] - model.predict(X[-1:])[0]) <= residuals[exact_upper_rank(ROWS, LEVEL) - 1]

    assert covered < stats.binom.ppf(FALSE_ALARM / 2, repetitions, exact_upper_rank(ROWS, LEVEL) / (ROWS + 1))
