"""What running statistics promise beyond values: accuracy, warnings, rank, memory."""

import tracemalloc

import mpmath
import numpy as np
import pytest

from hatband.checks import LeverageWarning
from hatband.linalg import GramStatistics, TriangularStatistics
from rounding import EPS, through_gram

BOTH = pytest.mark.parametrize("statistics", [GramStatistics, TriangularStatistics])


def graded(rng, n, d, condition):
    """Rows with orthogonal, centred columns turned by a random rotation: singular values from 1 to 1 / condition."""
    left = np.linalg.qr(np.hstack([np.ones((n, 1)), rng.normal(size=(n, d))]))[0][:, 1:]
    right = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (left * np.geomspace(1, 1 / condition, d)) @ right.T


def exact_leverage(train):
    """h of every training row with intercept at ridge 0, with 60 digits."""
    with mpmath.workdps(60):
        rows = mpmath.matrix(np.hstack([np.ones((len(train), 1)), train]).tolist())
        inverse = (rows.T * rows) ** -1
        return np.array([float((rows[i, :] * inverse * rows[i, :].T)[0]) for i in range(len(train))])


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10, 1e12])
def test_triangular_statistics_lose_the_condition_number_not_its_square(rng, condition):
    train = graded(rng, 40, 4, condition)
    running = TriangularStatistics.empty(4)
    for block in np.split(train, [1, 7, 30]):
        running = running.add(block)
    merged = TriangularStatistics.of(train[:20]).merge(TriangularStatistics.of(train[20:]))
    close = {"rtol": max(1e-8, 10 * EPS * condition)}

    np.testing.assert_allclose(running.factor().leverage(train), exact_leverage(train), **close)
    np.testing.assert_allclose(merged.factor().leverage(train), exact_leverage(train), **close)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_triangular_removal_keeps_to_its_bound(rng, condition):
    train = graded(rng, 60, 4, condition)
    left = TriangularStatistics.of(train).remove(train[:20]).remove(train[20:25])
    close = {"rtol": max(1e-8, 100 * EPS * np.linalg.cond(train[25:] - train[25:].mean(0)))}

    np.testing.assert_allclose(left.factor().leverage(train[25:]), exact_leverage(train[25:]), **close)


def test_triangular_coefficients_solve_least_squares_without_normal_equations(rng):
    train = graded(rng, 60, 4, 1e9)
    truth = rng.normal(size=(4, 1))
    slopes, intercept = TriangularStatistics.of(train, train @ truth + 2).coefficients()

    np.testing.assert_allclose(slopes, truth, atol=100 * EPS * 1e9 * np.abs(truth).max() * 4)
    close = 100 * EPS * 1e9 * np.abs(truth).max() * 4 * np.abs(train.mean(axis=0)).sum()
    np.testing.assert_allclose(intercept, [2.0], rtol=0, atol=close + 100 * EPS)


@BOTH
def test_a_large_mean_costs_no_more_than_its_own_rounding(rng, statistics):
    train = graded(rng, 50, 3, 10.0)
    exact = exact_leverage(train)
    running = statistics.empty(3)
    for block in np.split(train + 1e6, 5):
        running = running.add(block)

    # Rounding the shifted data costs eps |mean| / spread already.
    np.testing.assert_allclose(running.factor().leverage(train + 1e6), exact, rtol=1e3 * EPS * 1e6 * 10)


def test_gram_statistics_warn_with_their_bound_when_the_gram_matrix_is_too_ill_conditioned(rng):
    held = GramStatistics.of(graded(rng, 50, 3, 1e5))

    with pytest.warns(LeverageWarning, match=r"reciprocal condition number .*tolerance 1.0e-08.*TriangularStat"):
        factor = held.factor()
    assert factor.error_bound > 1e-8
    assert held.factor(tolerance=1.0).error_bound == factor.error_bound


def test_the_bound_of_gram_statistics_holds(rng):
    for condition in (1e1, 1e3, 1e5):
        train = graded(rng, 50, 3, condition)
        factor = GramStatistics.of(train[:20]).add(train[20:]).factor(tolerance=1.0)
        error = np.abs(factor.leverage(train) / exact_leverage(train) - 1).max()

        assert error <= factor.error_bound


def test_a_singular_gram_matrix_is_an_error_that_names_the_way_out(rng):
    column = rng.normal(size=(20, 1))
    held = GramStatistics.of(np.hstack([column, column]))

    with pytest.raises(np.linalg.LinAlgError, match="use TriangularStatistics"):
        held.factor()


def test_triangular_statistics_know_the_row_space_of_dependent_features(rng):
    column = rng.normal(size=(20, 1))
    factor = TriangularStatistics.of(np.hstack([column, 2 * column])).factor()
    h = factor.leverage(np.array([[1.0, 2.0], [1.0, -2.0]]))

    assert factor.rank == 1
    assert np.isfinite(h[0])
    assert h[1] == np.inf


@pytest.mark.parametrize("seed", range(6))
def test_triangular_removal_can_lose_rank(seed):
    train = np.random.default_rng(seed).normal(size=(6, 4))
    left = TriangularStatistics.of(train).remove(train[:3])  # three rows: two centred directions
    h = left.factor().leverage(np.vstack([train[3:], train[:1]]))

    np.testing.assert_allclose(h[:3], 1, rtol=1e-6)
    assert h[3] == np.inf


@BOTH
def test_constant_columns_are_dropped_at_ridge_zero(rng, statistics):
    train = np.hstack([rng.normal(size=(5000, 2)), np.full((5000, 1), 0.1)])
    factor = statistics.of(train[:1000]).add(train[1000:]).factor()
    reference = statistics.of(train[:, :2]).factor()

    np.testing.assert_allclose(
        factor.leverage(train[:9]), reference.leverage(train[:9, :2]), rtol=through_gram(train[:, :2])
    )
    assert factor.leverage(train[:1] + np.array([0, 0, 1]))[0] == np.inf


@BOTH
def test_statistics_of_no_rows_cannot_be_factored(statistics):
    with pytest.raises(ValueError, match="hold no rows"):
        statistics.empty(3).factor(1.0)


@BOTH
def test_identical_rows_can_be_removed(statistics):
    rows = np.ones((5, 2))
    left = statistics.of(rows).remove(rows[:2])

    assert left.n_samples == 3
    np.testing.assert_array_equal(left.mean, [1, 1])


@pytest.mark.parametrize(("statistics", "count"), [(GramStatistics, 20), (TriangularStatistics, 2)])
def test_rows_read_in_blocks_need_memory_for_a_block(rng, statistics, count):
    """A million rows for the Gram matrix; fewer for the slower triangle, whose memory does not depend on them."""
    d, size = 100, 50_000
    block = rng.normal(size=(size, d)).astype(np.float32)
    tracemalloc.start()
    running = statistics.empty(d)
    for _ in range(count):
        running = running.add(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert running.n_samples == size * count
    assert peak < 8 * (20 * d**2 + 3 * 4096 * d)
