"""Every verb of a kernel factor against the bordered system, for every kernel, weighting and factorisation."""

import numpy as np
import pytest

import oracles
from hatband.linalg import KernelSpectrum
from linalg.kernel_cases import CASES, FACTORS, WEIGHTS

RIDGES = [1e-3, 1.0, 1e6]


@pytest.fixture(params=CASES)
def case(request, rng):
    return CASES[request.param](rng)


@pytest.fixture(params=WEIGHTS)
def weights(request, rng, case):
    return WEIGHTS[request.param](rng, len(case.kernel))


@pytest.fixture(params=FACTORS)
def factor_of(request):
    return FACTORS[request.param]


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("ridge", RIDGES)
def test_every_verb_equals_the_bordered_system(case, weights, factor_of, ridge, fit_intercept):
    factor = factor_of(case.kernel, ridge, weights, fit_intercept)
    setting = {"ridge": ridge, "weights": weights, "fit_intercept": fit_intercept}
    w = np.ones(len(case.kernel)) if weights is None else weights
    cross = oracles.dense_kernel_cross(case.kernel, case.rows, case.kernel, case.rows, **setting)
    train = np.diag(oracles.dense_kernel_cross(case.kernel, case.kernel, case.kernel, case.kernel, **setting))
    new = oracles.dense_kernel_cross(case.kernel, case.rows, case.rows, case.between, **setting)
    # The oracle subtracts kernels before it divides by the ridge.
    close = {"rtol": case.tolerance(ridge, weights), "atol": case.tolerance(ridge, weights) * np.abs(new).max()}
    posterior, sampling = factor.leverages(case.rows, case.diagonal)

    np.testing.assert_allclose(posterior, np.diag(new), **close)
    np.testing.assert_array_equal(factor.leverage(case.rows, case.diagonal), posterior)
    np.testing.assert_allclose(factor.smoother(case.rows), cross, **close)
    np.testing.assert_allclose(sampling, (w * cross**2).sum(1), **close)
    np.testing.assert_allclose(factor.sampling_leverage(case.rows), sampling, rtol=case.tolerance(ridge, weights))
    np.testing.assert_allclose(factor.cross_leverage(case.rows, case.rows, case.between), new, **close)
    np.testing.assert_allclose(factor.training_leverage(), train, **close)
    np.testing.assert_allclose(factor.training_complement(), 1 - w * train, **close)
    np.testing.assert_allclose(factor.effective_dimension(), w @ train, **close)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_solution_and_residuals_equal_the_bordered_system(case, weights, factor_of, ridge, fit_intercept):
    y = np.random.default_rng(0).normal(size=(len(case.kernel), 2))
    setting = {"ridge": ridge, "weights": weights, "fit_intercept": fit_intercept}
    factor = factor_of(case.kernel, ridge, weights, fit_intercept)
    dual, intercept = factor.solve(y)
    close = {"rtol": 0, "atol": case.tolerance(ridge, weights) * np.abs(y).max()}

    for rows in (case.rows, case.kernel):
        exact = oracles.kernel_ridge_predictions(case.kernel, rows, y, **setting)
        np.testing.assert_allclose(rows @ dual + intercept, exact, **close)
    np.testing.assert_allclose(factor.residuals(y), y - exact, **close)
    w = np.ones(len(y)) if weights is None else weights
    smooth = factor.smoother(case.rows) @ (w[:, None] * y)
    np.testing.assert_allclose(smooth, case.rows @ dual + intercept, rtol=0, atol=10 * close["atol"])


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_log_determinant_is_that_of_the_weighted_kernel(case, weights, factor_of, fit_intercept):
    exact = oracles.kernel_logdet(case.kernel, 0.3, weights, fit_intercept)

    found = factor_of(case.kernel, 0.3, weights, fit_intercept).logdet()
    assert found == pytest.approx(exact, abs=case.tolerance(0.3, weights) * len(case.kernel))


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_one_spectrum_serves_every_ridge(rng, case, weights, fit_intercept):
    y = rng.normal(size=(len(case.kernel), 2))
    spectrum = KernelSpectrum.of(case.kernel, weights, fit_intercept)
    for ridge in (1e-2, 1.0, 1e3):
        factor, seen = FACTORS["Cholesky"](case.kernel, ridge, weights, fit_intercept), spectrum.at(ridge)
        close = {"rtol": case.tolerance(ridge, weights), "atol": case.tolerance(ridge, weights)}
        pairs = [
            (seen.leverage(case.rows, case.diagonal), factor.leverage(case.rows, case.diagonal)),
            (seen.training_leverage(), factor.training_leverage()),
            (seen.training_complement(), factor.training_complement()),
            (seen.residuals(y), factor.residuals(y)),
        ]
        for mine, theirs in pairs:
            np.testing.assert_allclose(mine, theirs, **close)
