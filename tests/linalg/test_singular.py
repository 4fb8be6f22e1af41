"""Ridge 0 without full rank, constant columns, and the smallest designs: sane answers and no warnings."""

import numpy as np
import pytest
import scipy.sparse
import torch

from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Dual, Spectral
from linalg.cases import with_singular_values
from oracles import mp_leverage
from rounding import EPS

KINDS = {"numpy": np.asarray, "csr": scipy.sparse.csr_matrix, "torch": torch.tensor}


@pytest.fixture
def design(rng):
    return rng.normal(size=(20, 3))


def dependent(design):
    return np.hstack([design, design[:, :1] - 2 * design[:, 1:2]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", [Auto(), Spectral()])
def test_dependent_columns_do_not_change_leverage_in_the_row_space(solver, kind, design, rng):
    rows = rng.normal(size=(5, 3))
    expected, _ = mp_leverage(design, rows)

    factor = solver.factor(KINDS[kind](dependent(design)))

    np.testing.assert_allclose(np.asarray(factor.leverage(KINDS[kind](dependent(rows)))), expected, rtol=1e4 * EPS)
    assert factor.rank == 3
    assert factor.logdet() == -np.inf


@pytest.mark.parametrize("kind", KINDS)
def test_leverage_outside_the_row_space_is_infinite_at_ridge_zero(kind, design, rng):
    factor = Auto().factor(KINDS[kind](dependent(design)))

    posterior, sampling = factor.leverages(KINDS[kind](rng.normal(size=(3, 4))))

    assert np.isinf(np.asarray(posterior)).all()
    assert np.isinf(np.asarray(sampling)).all()


def test_rank_deficiency_is_seen_through_bad_scaling(rng):
    values = np.array([1.0, 1e-3, 1e-6, 0.0])
    features = with_singular_values(values, 30, rng) * 10.0 ** np.array([0, 6, -6, 3])

    factor = Auto().factor(features, fit_intercept=False)

    assert (factor.solver, factor.rank) == ("Spectral", 3)
    assert np.asarray(factor.leverage(features)).sum() == pytest.approx(3, rel=1e-8)


def test_fewer_rows_than_features_at_ridge_zero_gives_training_rows_leverage_one(rng):
    features = rng.normal(size=(6, 15))

    factor = Auto().factor(features)

    np.testing.assert_allclose(factor.leverage(features), 1.0, rtol=1e4 * EPS)
    assert np.isinf(factor.leverage(rng.normal(size=(2, 15)))).all()
    assert factor.effective_dimension() == pytest.approx(6)


@pytest.mark.parametrize("solver", [Cholesky(), CholeskyQR2(), QR(), Spectral(), Auto()])
@pytest.mark.parametrize("level", [1.0, 0.1, -3e7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_column_is_dropped(kind, level, solver, design, rng):
    rows = rng.normal(size=(4, 3))
    with_bias = [KINDS[kind](np.insert(x, 1, level, axis=1)) for x in (design, rows)]

    factor = solver.factor(with_bias[0])

    np.testing.assert_allclose(np.asarray(factor.leverage(with_bias[1])), mp_leverage(design, rows)[0], rtol=1e4 * EPS)
    moved = KINDS[kind](np.insert(rows, 1, level + 1, axis=1))
    assert np.isinf(np.asarray(factor.leverage(moved))).all()


def test_a_bias_column_takes_the_cholesky_branch(design):
    factor = Auto().factor(np.insert(design, 0, 1.0, axis=1))

    assert factor.solver == "Cholesky"
    assert "1 constant column dropped" in factor.reason
    np.testing.assert_array_equal(factor.mean[0], 1.0)


def test_without_intercept_only_zero_columns_are_dropped(design):
    factor = Auto().factor(np.insert(np.insert(design, 0, 1.0, axis=1), 2, 0.0, axis=1), fit_intercept=False)

    assert (factor.solver, factor.rank) == ("Cholesky", 4)
    assert np.isinf(factor.leverage(np.ones((1, 5)))).all()
    assert np.isfinite(factor.leverage(np.array([[5.0, 1, 0, 1, 1]]))).all()


def test_a_full_one_hot_encoding_has_group_leverage():
    groups = np.array([0, 0, 0, 1, 1, 2])

    factor = Auto().factor(np.eye(3)[groups])

    np.testing.assert_allclose(factor.leverage(np.eye(3)), [1 / 3, 1 / 2, 1], rtol=1e2 * EPS)


@pytest.mark.parametrize("ridge", [0.0, 2.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 1), (4, 2)])
def test_smallest_and_constant_designs_are_served(shape, kind, fit_intercept, ridge):
    features = np.full(shape, 3.0)

    factor = Auto().factor(KINDS[kind](features), ridge, fit_intercept=fit_intercept)
    posterior, sampling = factor.leverages(KINDS[kind](features))

    gram = 0.0 if fit_intercept else 9.0 * shape[0]
    expected = fit_intercept / shape[0] + (9.0 / (gram * shape[1] + ridge) * shape[1] if gram else 0.0)
    np.testing.assert_allclose(np.asarray(posterior), expected, rtol=1e2 * EPS)
    assert (np.asarray(sampling) <= np.asarray(posterior) * (1 + 4 * EPS)).all()


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_all_weight_on_one_row_is_one_row(ridge, design):
    weights = np.eye(20)[3] * 2.5

    factor = Auto().factor(design, ridge, weights)

    alone = Auto().factor(design[3:4], ridge, np.array([2.5]))
    np.testing.assert_allclose(factor.leverage(design), alone.leverage(design), rtol=1e2 * EPS)
    assert factor.leverage(design)[3] == pytest.approx(0.4)


@pytest.mark.parametrize("solver", [Cholesky(), CholeskyQR2(), QR()])
def test_triangular_solvers_refuse_dependent_columns(solver, design):
    with pytest.raises(np.linalg.LinAlgError, match=r"use Auto\(\) or Spectral\(\)"):
        solver.factor(np.hstack([design, design]))


def test_dual_refuses_features_without_ridge(design):
    with pytest.raises(ValueError, match="Dual needs ridge > 0"):
        Dual().factor(design.T)


def test_spectral_refuses_a_ridge_for_some_features_only(design):
    with pytest.raises(ValueError, match="ridges that are all > 0 or all 0"):
        Spectral().factor(design, np.array([0.0, 1.0, 1.0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(12, 30), (30, 8)], ids=["wide", "dependent"])
def test_outside_the_row_space_predictions_are_those_of_the_least_norm_fit(shape, kind, rng):
    features = rng.normal(size=shape) * np.exp2(rng.integers(-6, 7, size=shape[1]))
    features[:, -1] = features[:, 0] + features[:, 1]
    y, rows = rng.normal(size=(shape[0], 1)), rng.normal(size=(5, shape[1]))
    centred, mean = features - features.mean(axis=0), features.mean(axis=0)
    coefficients = np.linalg.pinv(centred) @ y
    # Directions are determined up to eps times the condition number of the features.
    kept = np.linalg.svd(centred, compute_uv=False)[: np.linalg.matrix_rank(centred)]
    tolerance = 100 * EPS * kept[0] / kept[-1]

    factor = Auto().factor(KINDS[kind](features))
    slopes = np.asarray(factor.solve(KINDS["torch" if kind == "torch" else "numpy"](centred.T @ y)))
    cross = np.asarray(factor.cross_leverage(KINDS[kind](rows), KINDS[kind](features)))

    scale = np.abs(coefficients).max()
    np.testing.assert_allclose(slopes, coefficients, atol=tolerance * kept[0] / kept[-1] * scale)
    np.testing.assert_allclose(cross @ y, y.mean() + (rows - mean) @ coefficients, atol=tolerance * scale * 100)
