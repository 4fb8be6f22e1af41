"""What a kernel factor promises beyond values: limits, identities, accuracy, input and memory."""

import tracemalloc

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from hatband.linalg import KernelSpectrum, factor_kernel
from hatband.linalg.kernel_frame import kernel_frame
from linalg.kernel_cases import FACTORS, WEIGHTS, linear, rbf
from rounding import EPS, through_kernel

factorisation = pytest.mark.parametrize("factor_of", FACTORS.values(), ids=FACTORS)


def exact_leverage(kernel, rows, diagonal, ridge):
    """(k(x, x) - k_x' (K + ridge)^-1 k_x) / ridge with 50 digits."""
    with mpmath.workdps(50):
        inverse = exact_inverse(kernel, ridge)
        rows = [mpmath.matrix(row.tolist()) for row in rows]
        inner = [(row.T * inverse * row)[0] for row in rows]
        return np.array([float((k - s) / ridge) for k, s in zip(diagonal.tolist(), inner, strict=True)])


def exact_inverse(kernel, ridge):
    """(K + ridge)^-1 in the digits of the surrounding context."""
    return (mpmath.matrix(kernel.tolist()) + mpmath.mpf(ridge) * mpmath.eye(len(kernel))) ** -1


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_far_from_the_data_the_posterior_form_tends_to_prior_over_ridge_and_the_sampling_form_vanishes(
    rng, factor_of, fit_intercept
):
    train, ridge = rng.normal(size=(50, 2)), 0.1
    factor = factor_of(rbf(train, train), ridge, None, fit_intercept)
    far = rbf(np.full((1, 2), 1e3), train)
    posterior, sampling = factor.leverages(far, np.ones(1))

    # With an intercept the distance to the training mean, in the span of the training rows, comes on top.
    assert posterior[0] >= (1 - 10 * EPS) / ridge
    assert fit_intercept or posterior[0] == pytest.approx(1 / ridge, rel=10 * EPS)
    assert fit_intercept or sampling[0] == 0


@factorisation
@pytest.mark.parametrize("ridge", [1e-8, 1e-4, 1.0, 1e10])
def test_leverage_is_accurate_to_the_condition_number(rng, factor_of, ridge):
    train = rng.normal(size=(16, 2))
    new = np.vstack([train[:3] + 1e-3, rng.normal(size=(3, 2)), np.full((1, 2), 9.0)])
    kernel, rows = rbf(train, train), rbf(new, train)
    factor = factor_of(kernel, ridge)
    tolerance = through_kernel(kernel, ridge)

    exact = exact_leverage(kernel, rows, np.ones(len(new)), ridge)
    np.testing.assert_allclose(factor.leverage(rows, np.ones(len(new))), exact, rtol=tolerance)
    exact = exact_leverage(kernel, kernel, np.ones(len(train)), ridge)
    np.testing.assert_allclose(factor.training_leverage(), exact, rtol=tolerance)


def test_training_complement_keeps_its_digits_where_rows_are_interpolated(rng):
    train = rng.uniform(-20, 20, size=(15, 2))  # far apart: every leverage is close to 1
    kernel, ridge = rbf(train, train, 0.5), 1e-9
    with mpmath.workdps(50):
        inverse = exact_inverse(kernel, ridge)
        exact = np.array([float(ridge * inverse[i, i]) for i in range(15)])

    assert exact.max() < 1e-8
    close = 10 * EPS * len(kernel) * np.linalg.cond(kernel + ridge * np.eye(15))
    np.testing.assert_allclose(factor_kernel(kernel, ridge).training_complement(), exact, rtol=close)


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_linear_kernel_measures_what_its_features_measure(rng, factor_of, fit_intercept, weighting):
    train, new = rng.normal(size=(40, 4)) + 3.0, rng.normal(size=(9, 4))
    weights = WEIGHTS[weighting](rng, 40)
    factor = factor_of(linear(train, train), 0.7, weights, fit_intercept)
    posterior, sampling = factor.leverages(linear(new, train), (new**2).sum(1))
    setting = {"ridge": 0.7, "weights": weights, "fit_intercept": fit_intercept}
    close = through_kernel(linear(train, train), 0.7, weights)

    np.testing.assert_allclose(posterior, oracles.dense_leverage(train, new, **setting), rtol=close)
    np.testing.assert_allclose(sampling, oracles.dense_sampling_leverage(train, new, **setting), rtol=close)
    np.testing.assert_allclose(factor.training_leverage(), oracles.dense_leverage(train, train, **setting), rtol=close)


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_integer_weights_equal_repeated_rows(rng, factor_of, fit_intercept):
    train, new = rng.normal(size=(20, 2)), rng.normal(size=(5, 2))
    counts = rng.integers(0, 4, 20)
    repeated = np.repeat(train, counts, axis=0)
    weighted = factor_of(rbf(train, train), 0.2, counts, fit_intercept)
    copies = factor_of(rbf(repeated, repeated), 0.2, None, fit_intercept)
    close = through_kernel(rbf(repeated, repeated), 0.2)

    for verb in (0, 1):
        mine = weighted.leverages(rbf(new, train), np.ones(5))[verb]
        theirs = copies.leverages(rbf(new, repeated), np.ones(5))[verb]
        np.testing.assert_allclose(mine, theirs, rtol=close)
    np.testing.assert_allclose(
        np.repeat(weighted.smoother(rbf(new, train)), counts, axis=1),
        copies.smoother(rbf(new, repeated)),
        rtol=0,
        atol=close,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 25), st.floats(-6, 6), st.booleans(), st.integers(0, 2**31))
def test_leverages_stay_inside_their_bounds(n, exponent, fit_intercept, seed):
    rng = np.random.default_rng(seed)
    train, new = rng.normal(size=(n, 2)), 3 * rng.normal(size=(6, 2))
    ridge = 10.0**exponent
    factor = factor_kernel(rbf(train, train), ridge, None, fit_intercept)
    posterior, sampling = factor.leverages(rbf(new, train), np.ones(6))
    slack = 1 + 100 * EPS * n / ridge

    assert (sampling <= posterior * slack).all()
    assert (posterior >= factor.frame.floor).all()
    assert fit_intercept or (posterior <= slack / ridge).all()
    assert ((factor.training_complement() > 0) & (factor.training_complement() <= slack)).all()
    assert factor.effective_dimension() <= n * slack


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_rounding_never_takes_the_posterior_below_the_sampling_form(rng, factor_of, fit_intercept):
    train = rng.normal(size=(40, 2))
    factor = factor_of(rbf(train, train, 0.3), 1e-11, None, fit_intercept)
    posterior, sampling = factor.leverages(rbf(train, train, 0.3), np.ones(40))

    assert (posterior >= sampling).all()


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_rows_of_the_smoother_sum_to_one_with_an_intercept(rng, factor_of, fit_intercept):
    train = rng.normal(size=(30, 2))
    weights = rng.uniform(0, 2, 30)
    kernel = rbf(train, train)
    smoother = factor_of(kernel, 0.5, weights, fit_intercept).smoother(rbf(train[:4] + 1, train))

    assert np.allclose(smoother @ weights, 1, rtol=0, atol=through_kernel(kernel, 0.5, weights)) == fit_intercept


@factorisation
def test_a_shift_of_the_features_changes_nothing_with_an_intercept(rng, factor_of):
    train, new = rng.normal(size=(30, 3)), rng.normal(size=(5, 3))
    found = []
    for shift in (0.0, 1e3):
        rows, others = train + shift, new + shift
        factor = factor_of(linear(rows, rows), 0.1, None, True)
        found.append(factor.leverage(linear(others, rows), (others**2).sum(1)))

    np.testing.assert_allclose(found[1], found[0], rtol=100 * EPS * 3 * 1e6 / 0.1)


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_tensors_go_in_and_come_out(rng, factor_of, fit_intercept):
    torch = pytest.importorskip("torch")
    train, new, y = rng.normal(size=(20, 2)), rng.normal(size=(5, 2)), rng.normal(size=(20, 1))
    weights = WEIGHTS["zero weights"](rng, 20)
    arrays = [rbf(train, train), rbf(new, train), np.ones(5), y]
    tensors = [torch.as_tensor(array) for array in arrays]
    results = []
    for kernel, rows, diagonal, target in (arrays, tensors):
        factor = factor_of(kernel, 0.3, weights, fit_intercept)
        results.append([
            *factor.leverages(rows, diagonal), factor.smoother(rows), factor.training_leverage(),
            *factor.solve(target), factor.residuals(target), factor.training_complement(),
        ])  # fmt: skip

    assert all(isinstance(result, torch.Tensor) for result in results[1])
    close = through_kernel(arrays[0], 0.3, weights)
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(theirs.numpy(), mine, rtol=close, atol=close)


@pytest.mark.parametrize("ridge", [0.0, np.ones(2)])
def test_a_kernel_needs_one_positive_ridge(ridge):
    with pytest.raises(ValueError, match="kernel leverage needs one ridge > 0"):
        factor_kernel(np.eye(2), ridge)
    with pytest.raises(ValueError, match="kernel leverage needs one ridge > 0"):
        KernelSpectrum.of(np.eye(2)).at(ridge)


def test_a_kernel_that_is_not_positive_says_what_to_do():
    kernel = np.ones((3, 3)) - 2 * np.eye(3)

    with pytest.raises(np.linalg.LinAlgError, match=r"not positive definite .* KernelSpectrum.of\(K\)"):
        factor_kernel(kernel, 1e-3)


def test_a_kernel_matrix_must_be_square_and_finite():
    with pytest.raises(ValueError, match=r"must be square.*got \(2, 3\)"):
        kernel_frame(np.ones((2, 3)), None, False)
    with pytest.raises(ValueError, match="the kernel matrix must be finite; row 1"):
        factor_kernel(np.diag([1.0, np.nan]), 1.0)


def test_kernel_rows_must_be_finite():
    factor = factor_kernel(np.eye(2), 1.0)

    with pytest.raises(ValueError, match="kernel rows must be finite; row 1"):
        factor.leverage(np.array([[0.0, 0.0], [np.nan, 0.0]]), np.ones(2))


@factorisation
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_nothing_that_is_passed_in_is_changed(rng, factor_of, fit_intercept):
    train = rng.normal(size=(20, 2))
    passed = [rbf(train, train), rng.uniform(0, 1, 20), rbf(train[:3], train), np.ones(3), rng.normal(size=(20, 1))]
    copies = [array.copy() for array in passed]
    for array in passed:
        array.flags.writeable = False
    kernel, weights, rows, diagonal, y = passed
    factor = factor_of(kernel, 0.1, weights, fit_intercept)
    factor.leverages(rows, diagonal)
    factor.smoother(rows)
    factor.residuals(y)
    factor.training_leverage()

    for array, copy in zip(passed, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_leverage_needs_memory_for_a_block_not_for_all_rows(rng):
    train = rng.normal(size=(200, 2))
    factor = factor_kernel(rbf(train, train), 0.1, rng.uniform(0.5, 1, 200), True)
    rows = rbf(rng.normal(size=(40_000, 2)), train)
    tracemalloc.start()
    factor.leverage(rows, np.ones(len(rows)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < rows.nbytes
