"""Budgets, and that what the caller passed stays the caller's."""

import tracemalloc
from copy import deepcopy
from pickle import dumps, loads

import numpy as np
import pytest
import scipy.sparse
import torch

from hatband.arrays import blocks as _blocks
from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Spectral

FLOAT = 8
CORES = 2


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Each core needs blocks of its own: on any machine the budget is that of two."""
    monkeypatch.setattr(_blocks, "_blas_threads", lambda: CORES)


def peak_of(call):
    """Peak of what `call` allocates, in bytes, NumPy's buffers included."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def budget(n, d):
    """Six (d, d) matrices, two blocks a core, the sample for the provisional mean, and a few vectors."""
    block = max(_blocks.block_rows(d) * d, 2**19)
    return FLOAT * (6 * d * d + 2 * CORES * block + 4 * 512 * d + 6 * n) + 2**20


def factor_and_measure(solver, features, **options):
    solver.factor(features, **options).leverages(features)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("solver", [Auto(), CholeskyQR2(), QR(), Spectral()])
def test_memory_is_square_of_features_plus_a_block(solver, fit_intercept, rng):
    n, d = (60_000, 200) if isinstance(solver, Auto) else (80_000, 100)
    features = rng.normal(size=(n, d))

    peak = peak_of(lambda: factor_and_measure(solver, features, ridge=1.0, fit_intercept=fit_intercept))

    assert peak <= budget(n, d)
    assert budget(n, d) < features.nbytes / 2


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_layout_is_copied_whole(order, dtype, rng):
    features = np.asarray(rng.normal(size=(60_000, 100)), dtype=dtype, order=order)

    assert peak_of(lambda: factor_and_measure(Auto(), features)) <= budget(*features.shape)


def test_a_memory_map_is_read_in_blocks(tmp_path, rng):
    stored = np.memmap(tmp_path / "features", dtype=np.float64, mode="w+", shape=(50_000, 100))
    stored[:] = rng.normal(size=stored.shape)
    mapped = np.memmap(tmp_path / "features", dtype=np.float64, mode="r", shape=stored.shape)

    for fit_intercept in (True, False):
        peak = peak_of(lambda fit=fit_intercept: factor_and_measure(Auto(), mapped, fit_intercept=fit))
        assert peak <= budget(*mapped.shape)


def test_wide_sparse_features_stay_sparse():
    features = scipy.sparse.random_array((2_000, 50_000), density=1e-3, format="csr", rng=0)
    factors = []

    peak = peak_of(lambda: factors.append(Auto().factor(features, 1.0)))
    peak_rows = peak_of(lambda: factors[0].leverages(features[:100]))

    assert factors[0].solver == "Dual"
    dense = 2_000 * 50_000 * FLOAT
    assert max(peak, peak_rows + 2 * 2_000**2 * FLOAT) < dense / 3


def test_tall_sparse_features_are_not_densified():
    features = scipy.sparse.random_array((100_000, 300), density=1e-3, format="csr", rng=0)

    peak = peak_of(lambda: Auto().factor(features, 1.0))

    assert peak <= budget(100_000, 300) + 6 * features.data.nbytes


KINDS = {
    "numpy": np.asarray,
    "fortran": np.asfortranarray,
    "float32": lambda x: x.astype(np.float32),
    "csr": scipy.sparse.csr_matrix,
    "torch": torch.tensor,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", [Cholesky(), CholeskyQR2(), QR(), Spectral(), Auto()])
@pytest.mark.parametrize("shape", [(40, 5), (5, 8)])
def test_what_the_caller_passed_is_not_written(shape, solver, kind, rng):
    features, rows = (KINDS[kind](rng.normal(size=(n, shape[1])) + 100) for n in (shape[0], 7))
    weights, ridge = rng.uniform(size=shape[0]), rng.uniform(1, 2, size=shape[1])
    passed = (features, rows, weights, ridge)
    before = deepcopy(passed)

    factor = solver.factor(features, ridge, weights)
    for verb in (factor.leverage, factor.sampling_leverage, factor.half_solve):
        verb(rows)
    factor.cross_leverage(rows, features)
    factor.solve(np.eye(shape[1]))

    for old, new in zip(before, passed, strict=True):
        assert abs(old - new).max() == 0


@pytest.mark.parametrize("solver", [Cholesky(), QR(), Spectral(), Auto()])
@pytest.mark.parametrize("shape", [(40, 5), (5, 8)])
def test_a_factor_survives_pickle_and_forgets_the_caller(solver, shape, rng):
    features, rows = rng.normal(size=shape), rng.normal(size=(3, shape[1]))
    factor = solver.factor(features, 1.0)
    expected = factor.leverage(rows)

    features[:] = 0

    np.testing.assert_array_equal(factor.leverage(rows), expected)
    np.testing.assert_array_equal(loads(dumps(factor)).leverage(rows), expected)
