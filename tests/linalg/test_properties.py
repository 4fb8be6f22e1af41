"""Identities, invariances and limits of leverage, on matrices drawn by their singular values."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Dual, Spectral
from linalg.cases import with_singular_values
from rounding import EPS, condition

ALWAYS = [Cholesky(), CholeskyQR2(), QR(), Spectral(), Auto()]
SAFETY = 1e3

check = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.differing_executors]
)


@st.composite
def designs(draw, max_kappa=1e3, max_features=6):
    d = draw(st.integers(1, max_features))
    n = draw(st.integers(d + 2, 30))
    exponents = draw(st.lists(st.floats(0, np.log10(max_kappa)), min_size=d, max_size=d))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return with_singular_values(10.0 ** -np.sort(exponents), n, rng), rng


@st.composite
def ridges(draw):
    return 10.0 ** draw(st.floats(-4, 2))


def close(seen, expected, kappa):
    # Two factorisations through the Gram matrix differ by kappa^2 eps at most, up to a modest constant.
    np.testing.assert_allclose(seen, expected, rtol=SAFETY * kappa**2 * EPS)


@pytest.mark.parametrize("solver", ALWAYS)
@given(drawn=designs(), ridge=st.one_of(st.just(0.0), ridges()))
@check
def test_weighted_leverage_sums_to_the_effective_dimension(solver, drawn, ridge):
    features, rng = drawn
    weights = rng.uniform(0.5, 2, size=len(features))
    factor = solver.factor(features, ridge, weights)

    close(weights @ factor.leverage(features), factor.effective_dimension(), condition(features, ridge, weights))


@given(drawn=designs())
@check
def test_training_leverage_lies_between_zero_and_one(drawn):
    features, _ = drawn
    leverage = Auto().factor(features).leverage(features)

    slack = SAFETY * condition(features) ** 2 * EPS
    assert (leverage >= (1 - slack) / len(features)).all()
    assert (leverage <= 1 + slack).all()


@pytest.mark.parametrize("solver", ALWAYS)
@given(drawn=designs(), ridge=ridges())
@check
def test_leverage_with_a_ridge_is_invariant_to_rotation_and_row_order(solver, drawn, ridge):
    features, rng = drawn
    rotation, _ = np.linalg.qr(rng.normal(size=(features.shape[1],) * 2))
    order = rng.permutation(len(features))

    seen = solver.factor((features @ rotation)[order], ridge).leverage(features @ rotation)

    close(seen, solver.factor(features, ridge).leverage(features), condition(features, ridge))


@pytest.mark.parametrize("solver", ALWAYS)
@given(drawn=designs(max_kappa=30))
@check
def test_leverage_at_ridge_zero_is_invariant_to_any_invertible_map(solver, drawn):
    features, rng = drawn
    d = features.shape[1]
    mapped = features @ with_singular_values(np.geomspace(1, 30, d), d, rng)

    seen = solver.factor(mapped).leverage(mapped)

    close(seen, solver.factor(features).leverage(features), condition(mapped) * condition(features))


@given(drawn=designs(), ridge=ridges(), scale=st.floats(1e-6, 1e6))
@check
def test_leverage_is_invariant_to_a_common_scale_of_features_and_root_ridge(drawn, ridge, scale):
    features, _ = drawn

    seen = Auto().factor(scale * features, scale**2 * ridge).leverage(scale * features)

    close(seen, Auto().factor(features, ridge).leverage(features), condition(features, ridge))


@given(drawn=designs(), ridge=ridges())
@check
def test_two_copies_of_the_rows_over_root_two_change_nothing_without_intercept(drawn, ridge):
    features, _ = drawn
    twice = np.vstack([features, features]) / np.sqrt(2)

    seen = Auto().factor(twice, ridge, fit_intercept=False).leverage(features)

    once = Auto().factor(features, ridge, fit_intercept=False).leverage(features)
    close(seen, once, condition(features, ridge, fit_intercept=False))


@pytest.mark.parametrize("solver", ALWAYS)
@given(drawn=designs(), ridge=st.one_of(st.just(0.0), ridges()))
@check
def test_an_integer_weight_is_that_many_rows(solver, drawn, ridge):
    features, rng = drawn
    # One of each at least, so that the weighted rows span what all rows span.
    counts = rng.integers(1, 4, size=len(features))

    seen = solver.factor(features, ridge, counts.astype(float)).leverage(features)

    repeated = np.repeat(features, counts, axis=0)
    close(seen, solver.factor(repeated, ridge).leverage(features), condition(features, ridge, counts))


@pytest.mark.parametrize("solver", ALWAYS)
@given(drawn=designs(max_kappa=30), ridge=st.one_of(st.just(0.0), ridges()), shift=st.integers(-(2**30), 2**30))
@check
def test_leverage_with_an_intercept_ignores_a_shift(solver, drawn, ridge, shift):
    # Steps of 2^-20 survive the addition of a 31-bit integer exactly: every change in the answer is ours.
    features = np.round(drawn[0] * 2.0**20) / 2.0**20
    kappa = condition(features, ridge)

    seen = solver.factor(features + shift, ridge).leverage(features + shift)

    close(seen, solver.factor(features, ridge).leverage(features), kappa)


@given(drawn=designs(), low=ridges(), factor=st.floats(1.01, 100))
@check
def test_leverage_falls_as_the_ridge_grows(drawn, low, factor):
    features, _ = drawn
    more, less = (Auto().factor(features, ridge).leverage(features) for ridge in (low, low * factor))

    assert (less <= more * (1 + SAFETY * condition(features, low) ** 2 * EPS)).all()


@given(drawn=designs(max_kappa=30))
@check
def test_a_small_ridge_tends_to_ridge_zero_and_a_large_one_to_the_intercept(drawn):
    features, _ = drawn
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)

    small = Auto().factor(features, EPS * values[-1] ** 2).leverage(features)
    large = Auto().factor(features, values[0] ** 2 / EPS).leverage(features)

    close(small, Auto().factor(features).leverage(features), condition(features))
    np.testing.assert_allclose(large, 1 / len(features), rtol=len(features) * SAFETY * EPS)


@given(drawn=designs(max_features=4), ridge=st.floats(0.01, 10))
@check
def test_dual_and_primal_agree_on_every_verb(drawn, ridge):
    features, rng = drawn
    wide = features.T
    rows = rng.normal(size=(3, wide.shape[1]))
    dual, primal = (solver.factor(wide, ridge) for solver in (Dual(), QR()))
    kappa = condition(wide, ridge)

    close(dual.cross_leverage(rows, wide) + 1, primal.cross_leverage(rows, wide) + 1, kappa)
    close(dual.logdet() + 100, primal.logdet() + 100, kappa)
    close(dual.effective_dimension(), primal.effective_dimension(), kappa)
    expected = primal.solve(wide.T)
    np.testing.assert_allclose(dual.solve(wide.T), expected, atol=SAFETY * kappa**2 * EPS * abs(expected).max())


@pytest.mark.parametrize("solver", ALWAYS)
@given(drawn=designs(), ridge=ridges())
@check
def test_every_verb_reads_the_same_inverse(solver, drawn, ridge):
    features, rng = drawn
    d = features.shape[1]
    factor, rows = solver.factor(features, ridge), rng.normal(size=(4, d))
    kappa = condition(features, ridge)
    half = factor.half_solve(rows)
    centred = rows - factor.mean

    close(np.diag(factor.cross_leverage(rows, rows)), factor.leverage(rows), kappa)
    close((half**2).sum(axis=0) + 1 / len(features), factor.leverage(rows), kappa)
    close((centred @ factor.solve(centred.T)).diagonal() + 1 / len(features), factor.leverage(rows), kappa)
    gram = (features - factor.mean).T @ (features - factor.mean) + ridge * np.eye(d)
    # Every pivot is known to kappa^2 eps, and a logarithm has its relative error.
    assert factor.logdet() == pytest.approx(np.linalg.slogdet(gram)[1], abs=d * SAFETY * kappa**2 * EPS)
