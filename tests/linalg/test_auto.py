"""Which solver Auto takes, and that it says why."""

import numpy as np
import pytest
import scipy.sparse

from hatband.checks import LeverageWarning
from hatband.linalg import QR, Auto
from linalg.cases import tolerance, with_condition
from oracles import mp_leverage
from rounding import condition, through_gram

BRANCHES = {
    "well conditioned": (with_condition(1e2), 0.0, "Cholesky", "rcond"),
    "kappa 1e6": (with_condition(1e6), 0.0, "CholeskyQR2", "too small for Cholesky"),
    "kappa 1e10": (with_condition(1e10), 0.0, "QR", "too small for CholeskyQR2"),
    "rank deficient": (with_condition(1e2)[:, [0, 1, 1]], 0.0, "Spectral", "rank deficient"),
    "ridge repairs the rank": (with_condition(1e2)[:, [0, 1, 1]], 0.1, "Cholesky", "rcond"),
    "badly scaled": (with_condition(1e2) * 10.0 ** np.arange(0, 20, 4), 0.0, "Cholesky", "rcond"),
    "wide": (with_condition(1e2).T, 0.1, "Dual", "5 rows for 24 features"),
    "wide without ridge": (with_condition(1e2).T, 0.0, "Spectral", "at ridge 0"),
    "wide with a tiny ridge": (with_condition(1e2).T, 1e-14, "Spectral", "too small for Dual"),
    "wide with ridge on some": (with_condition(1e2, 5, 5).T, np.array([0.0, 1, 1, 1, 1]), "Cholesky", "rcond"),
    "huge ridge": (with_condition(1e2), 1e12, "Spectral", "dwarfs"),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_auto_names_its_branch_and_its_reason(name):
    features, ridge, solver, reason = BRANCHES[name]

    factor = Auto().factor(features, ridge)

    assert factor.solver == solver
    assert reason in factor.reason
    assert factor.error_bound <= 1e-3
    assert 0 < factor.rcond <= 1 + 1e-12


def test_tolerance_moves_the_switch_from_cholesky():
    features = with_condition(1e6)

    assert Auto(tolerance=1e-2).factor(features).solver == "Cholesky"
    assert Auto(tolerance=1e-15).factor(with_condition(1e2)).solver == "CholeskyQR2"


def test_dual_says_what_it_keeps():
    assert "keeps the training features (0.00096 MB)" in Auto().factor(with_condition(1e2).T, 1.0).reason


@pytest.mark.parametrize("solver", [Auto(), QR()])
def test_a_light_row_far_from_the_others_does_not_spoil_the_mean(solver, rng):
    features = rng.normal(size=(300, 2))
    features[0] = 1e9  # in the sample from which the provisional mean is taken
    weights = np.where(np.arange(300) == 0, 1e-14, 1.0)

    factor = solver.factor(features, weights=weights)

    expected, _ = mp_leverage(features, features[:5], weights=weights)
    kappa = condition(features, weights=weights)
    np.testing.assert_allclose(factor.leverage(features[:5]), expected, rtol=tolerance(kappa))


def test_sparse_features_too_large_for_both_sides_name_the_sketches():
    features = scipy.sparse.random_array((6_000, 5_001), density=1e-5, format="csr", rng=0)

    with pytest.raises(ValueError, match="Nystroem"):
        Auto().factor(features, 1.0)
    with pytest.raises(ValueError, match="random projection"):
        Auto().factor(features[:50], 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_features_that_are_not_finite_are_refused_with_their_row(bad, convert, fit_intercept, rng):
    features = rng.normal(size=(30, 3))
    features[17, 1] = bad

    with pytest.raises(ValueError, match="features must be finite; row 17"):
        Auto().factor(convert(features), 1.0, fit_intercept=fit_intercept)


def test_rows_that_are_not_finite_are_refused_with_their_row(rng):
    factor = Auto().factor(rng.normal(size=(30, 3)))

    with pytest.raises(ValueError, match="rows must be finite; row 2"):
        factor.leverages(np.where(np.arange(5)[:, None] == 2, np.nan, np.ones((5, 3))))


def test_features_whose_squares_overflow_are_refused():
    with pytest.raises(ValueError, match="overflow"):
        Auto().factor(np.array([[1e200], [-1e200], [3e199]]))


@pytest.mark.parametrize("ridge", [np.ones(2), np.ones((3, 1)), -1.0, np.nan])
def test_a_ridge_of_the_wrong_shape_or_sign_is_refused(ridge, rng):
    with pytest.raises(ValueError, match="ridge must"):
        Auto().factor(rng.normal(size=(30, 3)), ridge)


@pytest.mark.parametrize("shape", [(5, 1), (5, 4)])
def test_rows_of_another_width_are_refused(shape, rng):
    factor = Auto().factor(rng.normal(size=(30, 3)))

    with pytest.raises(ValueError, match=r"rows must have shape \(m, 3\)"):
        factor.leverage(np.ones(shape))


def test_sparse_formats_other_than_csr_are_read(rng):
    features = rng.normal(size=(30, 3))
    expected = Auto().factor(features).leverage(features)

    for convert in (scipy.sparse.csc_matrix, scipy.sparse.coo_array):
        seen = Auto().factor(convert(features)).leverage(convert(features))
        np.testing.assert_allclose(seen, expected, rtol=through_gram(features))


def test_large_sparse_features_with_a_tiny_ridge_warn_of_the_error():
    features = scipy.sparse.random_array((40, 5_001), density=1e-2, format="csr", rng=0)

    with pytest.warns(LeverageWarning, match="Raise the ridge"):
        factor = Auto().factor(features, 1e-10)

    assert factor.error_bound > 1e-8
