"""The public functions on arrays: identities, foreign oracles, limits, invariances."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.api import OLS, add_constant

import oracles
from hatband.formulas.leverage import cross_leverage, effective_dimension, leverage, sampling_leverage
from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Spectral, factor_kernel
from rounding import through_gram, through_kernel

SOLVERS = {"default": None, "Auto": Auto(), "QR": QR(), "CholeskyQR2": CholeskyQR2(), "Cholesky": Cholesky()}


@pytest.fixture
def train(rng):
    return rng.normal(size=(40, 4)) + 2


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_leverage_is_the_hat_diagonal_of_statsmodels(train, solver, fit_intercept):
    design = add_constant(train) if fit_intercept else train
    theirs = OLS(np.zeros(40), design).fit().get_influence().hat_matrix_diag

    mine = leverage(train, fit_intercept=fit_intercept, solver=SOLVERS[solver])
    np.testing.assert_allclose(mine, theirs, rtol=through_gram(train, fit_intercept=fit_intercept))


def test_weighted_leverage_times_weight_is_the_hat_diagonal_of_statsmodels(rng, train):
    weights = rng.uniform(0.1, 3, 40)
    design = np.sqrt(weights)[:, None] * add_constant(train)
    theirs = OLS(np.zeros(40), design).fit().get_influence().hat_matrix_diag

    close = through_gram(train, weights=weights)
    np.testing.assert_allclose(weights * leverage(train, weights=weights), theirs, rtol=close)


@pytest.mark.parametrize("ridge", [0.0, 0.5, np.array([0.0, 1.0, 2.0, 3.0])], ids=["0", "0.5", "each"])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_functions_equal_the_dense_formulas(rng, train, ridge, fit_intercept):
    new, weights = rng.normal(size=(7, 4)), rng.uniform(0, 2, 40)
    setting = {"ridge": ridge, "weights": weights, "fit_intercept": fit_intercept}
    error = through_gram(train, ridge, weights, fit_intercept)
    close = {"rtol": error}
    train_leverage = oracles.dense_leverage(train, train, **setting)

    np.testing.assert_allclose(leverage(train, **setting), train_leverage, **close)
    np.testing.assert_allclose(leverage(train, new, **setting), oracles.dense_leverage(train, new, **setting), **close)
    sampling = oracles.dense_sampling_leverage(train, new, **setting)
    np.testing.assert_allclose(sampling_leverage(train, new, **setting), sampling, **close)
    cross = cross_leverage(train, new, **setting)
    # |h(x, z)| <= sqrt(h(x) h(z)), and that is what its rounding is relative to.
    size = np.sqrt(train_leverage.max() * oracles.dense_leverage(train, new, **setting).max())
    np.testing.assert_allclose(cross, cross_leverage(train, new, train, **setting), rtol=0, atol=error * size)
    np.testing.assert_allclose((weights * cross**2).sum(1), sampling, **close)
    np.testing.assert_allclose(
        np.diag(cross_leverage(train, new, new, **setting)), leverage(train, new, **setting), **close
    )
    assert effective_dimension(train, **setting) == pytest.approx(weights @ train_leverage, rel=error)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(8, 40), st.floats(-4, 4), st.booleans(), st.integers(0, 2**31))
def test_sums_bounds_and_monotony(d, n, exponent, fit_intercept, seed):
    rng = np.random.default_rng(seed)
    train, ridge = rng.normal(size=(n, d)), 10.0**exponent
    setting = {"fit_intercept": fit_intercept}
    h, s = leverage(train, ridge=ridge, **setting), sampling_leverage(train, ridge=ridge, **setting)
    error = through_gram(train, 0.0, None, fit_intercept)
    slack = 1 + error

    assert h.sum() == pytest.approx(effective_dimension(train, ridge=ridge, **setting), rel=error)
    assert (s <= h * slack).all()
    assert (h <= slack).all()
    assert (leverage(train, ridge=2 * ridge, **setting) <= h * slack).all()
    assert (h <= leverage(train, **setting) * slack).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.sampled_from([0.0, 1.0]), st.integers(0, 2**31))
def test_rotations_shifts_orders_and_copies_change_nothing(d, ridge, seed):
    rng = np.random.default_rng(seed)
    train = rng.normal(size=(30, d))
    turn, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(30)
    h = leverage(train, ridge=ridge)
    error = through_gram(train, ridge)
    close = {"rtol": error}

    np.testing.assert_allclose(leverage(train @ turn, ridge=ridge), h, **close)
    np.testing.assert_allclose(leverage(train + 100, ridge=ridge), h, rtol=through_gram(train + 100, ridge))
    np.testing.assert_allclose(leverage(train[order], ridge=ridge), h[order], **close)
    np.testing.assert_allclose(leverage(1e-9 * train, ridge=1e-18 * ridge), h, **close)
    np.testing.assert_allclose(leverage(np.hstack([train, train]) / 2**0.5, ridge=ridge), h, **close)
    np.testing.assert_allclose(
        leverage(np.vstack([train, train]), train, weights=np.full(60, 0.5), ridge=ridge), h, **close
    )


def test_integer_weights_are_repeated_rows(rng, train):
    counts = rng.integers(0, 4, 40)
    repeated = np.repeat(train, counts, axis=0)

    close = through_gram(repeated, 0.3)
    np.testing.assert_allclose(
        leverage(train, train, weights=counts, ridge=0.3), leverage(repeated, train, ridge=0.3), rtol=close
    )


def test_intercept_only_leverage_is_the_share_of_a_row_far_from_no_data(train):
    # What is left of the features is |x|^2 / ridge at most.
    left = 40 * np.square(train).sum(axis=1).max() / 1e12
    np.testing.assert_allclose(leverage(train, ridge=1e12), 1 / 40, rtol=left)


def test_sparse_and_torch_features_give_the_same_leverage(train):
    torch = pytest.importorskip("torch")
    h, close = leverage(train, ridge=0.5), through_gram(train, 0.5)

    np.testing.assert_allclose(leverage(scipy.sparse.csr_array(train), ridge=0.5), h, rtol=close)
    found = leverage(torch.as_tensor(train), ridge=0.5)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), h, rtol=close)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_a_kernel_factor_says_what_the_functions_say_of_its_features(rng, train, fit_intercept):
    new, weights = rng.normal(size=(7, 4)), rng.uniform(0, 2, 40)
    setting = {"ridge": 0.5, "weights": weights, "fit_intercept": fit_intercept}
    kernel, rows = train @ train.T, new @ train.T
    factor, error = factor_kernel(kernel, **setting), through_kernel(kernel, 0.5, weights)
    close = {"rtol": error, "atol": error * leverage(train, new, **setting).max()}

    np.testing.assert_allclose(factor.training_leverage(), leverage(train, **setting), **close)
    np.testing.assert_allclose(factor.leverage(rows, (new**2).sum(1)), leverage(train, new, **setting), **close)
    np.testing.assert_allclose(factor.sampling_leverage(rows), sampling_leverage(train, new, **setting), **close)
    np.testing.assert_allclose(factor.smoother(rows), cross_leverage(train, new, **setting), **close)
    assert factor.effective_dimension() == pytest.approx(effective_dimension(train, **setting), rel=error)


def test_a_solver_can_be_chosen(train):
    close = through_gram(train, 2.0)
    np.testing.assert_allclose(leverage(train, ridge=2.0, solver=Spectral()), leverage(train, ridge=2.0), rtol=close)
