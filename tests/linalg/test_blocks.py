"""Blocks of rows, shared out among the cores."""

import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from hatband.arrays import blas, blocks
from hatband.linalg import Auto, Dual, Spectral
from oracles import dense_leverage
from rounding import EPS, through_gram

WAIT = 60.0


@pytest.fixture(params=[1, 2, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(blocks, "_blas_threads", lambda: request.param)
    return request.param


def threads_of_blas() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.mark.parametrize("count", [0, 1, 7, 39, 40, 41, 1_001])
def test_every_row_is_in_one_part(cores, count):
    seen = np.zeros(count, int)

    def work(part: slice) -> None:
        seen[part] += 1

    blocks.share(work, count, size=10)
    assert (seen == 1).all()


@pytest.mark.parametrize(("count", "parts"), [(0, 1), (20, 1), (39, 1), (40, 2), (59, 2), (60, 3), (10_000, 125)])
def test_a_core_gets_two_blocks_or_nothing_and_a_part_about_eight(monkeypatch, count, parts):
    monkeypatch.setattr(blocks, "_blas_threads", lambda: 3)
    found = []
    blocks.share(found.append, count, size=10)
    assert len(found) == parts


def test_parts_are_worked_on_side_by_side(monkeypatch):
    monkeypatch.setattr(blocks, "_blas_threads", lambda: 2)
    met = threading.Barrier(2, timeout=WAIT)
    blocks.share(lambda part: met.wait(), 1_000, size=10)  # one after the other would never meet


def test_blas_has_one_thread_a_core_meanwhile_and_its_own_number_again(monkeypatch):
    monkeypatch.setattr(blocks, "_blas_threads", lambda: 2)
    before, meanwhile = threads_of_blas(), []
    blocks.share(lambda part: meanwhile.append(threads_of_blas()), 1_000, size=10)
    assert meanwhile == 12 * [{1}]
    assert threads_of_blas() == before


def test_an_error_in_one_part_is_raised_and_leaves_blas_as_it_was(monkeypatch):
    monkeypatch.setattr(blocks, "_blas_threads", lambda: 2)
    before = threads_of_blas()

    def work(part: slice) -> None:
        raise ValueError(f"part {part.start}")

    with pytest.raises(ValueError, match="part 0"):
        blocks.share(work, 1_000, size=10)
    assert threads_of_blas() == before
    calls = []
    blocks.share(calls.append, 1_000, size=10)
    assert len(calls) == 12


def test_a_call_made_meanwhile_works_alone(monkeypatch):
    monkeypatch.setattr(blocks, "_blas_threads", lambda: 2)
    inner = []
    blocks.share(lambda part: blocks.share(inner.append, 1_000, size=10), 1_000, size=10)
    assert inner == 12 * [slice(0, 1_000)]


@pytest.mark.parametrize("solver", [Auto(), Spectral()])
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_leverage_is_the_same_on_any_number_of_cores(cores, solver, ridge):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9_001, 5)) + 3.0
    expected = dense_leverage(features, features, ridge)
    close = through_gram(features, ridge)
    np.testing.assert_allclose(solver.factor(features, ridge).leverage(features), expected, rtol=close)


def test_more_columns_than_rows_are_the_same_on_any_number_of_cores(cores):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(6, 9))
    factor = Dual().factor(features, 1.0)
    rows = rng.normal(size=(9_001, 9))
    whole = factor.leverages(rows)
    single = np.array([factor.leverages(rows[i : i + 1]) for i in range(0, 9_001, 500)])[..., 0].T
    np.testing.assert_allclose(np.array(whole)[:, ::500], single, rtol=through_gram(features, 1.0))


def test_rows_that_are_not_numbers_are_refused_on_any_number_of_cores(cores):
    features = np.random.default_rng(2).normal(size=(9_001, 3))
    factor = Auto().factor(features, 1.0)
    features[8_999, 1] = np.nan
    with pytest.raises(ValueError, match="rows"):
        factor.leverage(features)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("exported", [True, False])
def test_a_triangular_product_is_that_of_the_dense_matrix(monkeypatch, order, transpose, exported):
    if not exported:  # as where SciPy exports other types
        monkeypatch.setattr(blas, "_dtrmm", lambda: None)
    rng = np.random.default_rng(3)
    triangle = np.asarray(np.triu(rng.normal(size=(6, 6))), order=order)
    block = np.asarray(rng.normal(size=(11, 6)), order=order)
    factor = triangle.T if transpose else triangle
    stored = triangle.copy(order="K")
    bound = 6 * EPS * (abs(block) @ abs(factor))
    expected = block @ factor
    assert (abs(blas.trmm(block, triangle, transpose) - expected) <= bound).all()
    np.testing.assert_array_equal(triangle, stored)


@pytest.mark.parametrize("exported", [True, False])
def test_a_triangular_product_is_written_over_its_block(monkeypatch, exported):
    if not exported:
        monkeypatch.setattr(blas, "_dtrmm", lambda: None)
    block = np.ones((4, 3))
    assert np.shares_memory(blas.trmm(block, 2.0 * np.eye(3), False), block)
    np.testing.assert_array_equal(block, np.full((4, 3), 2.0))


def test_the_lower_part_of_the_triangle_is_not_read():
    triangle = np.triu(np.ones((3, 3))) + np.tril(np.full((3, 3), np.nan), -1)
    assert np.isfinite(blas.trmm(np.ones((2, 3)), triangle, False)).all()


def test_scipy_exports_the_product_with_the_types_that_are_called():
    assert blas._dtrmm() is not None
