"""Trees: two rows are alike in so far as they share leaves, dual for few rows and by landmarks for many."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import BaggingRegressor, GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge

from geometry.cases import FAR, NEW, TREES, N, W, X, y
from hatband.geometry import InputsGeometry, geometry_of
from hatband.geometry.kernel import KernelSpace
from hatband.geometry.kernels import LeafKernel
from hatband.geometry.nystroem import DualOrNystroem, NystroemSpace
from oracles import dense_kernel_cross
from rounding import through_kernel


def shared_leaves(model, rows, others):
    """Share of the trees in which two rows fall into the same leaf, tree by tree."""
    trees = np.ravel(getattr(model, "estimators_", model))
    columns = getattr(model, "estimators_features_", [slice(None)] * len(trees))
    leaves = [(tree.apply(rows[:, c]), tree.apply(others[:, c])) for tree, c in zip(trees, columns, strict=True)]
    return np.mean([a[:, None] == b[None] for a, b in leaves], axis=0)


@pytest.mark.parametrize("case", TREES, ids=str)
def test_kernel_of_trees_is_the_share_of_leaves_in_common(case):
    model = case.fitted()
    kernel = geometry_of(model).kernel
    rows, others = kernel.rows(NEW), kernel.rows(X)
    np.testing.assert_allclose(kernel(rows, others), shared_leaves(model, NEW, X), rtol=1e-14)
    np.testing.assert_array_equal(kernel.diagonal(rows), 1.0)


@pytest.mark.parametrize("case", TREES, ids=str)
def test_leverage_of_trees_is_the_dual_formula_with_ridge_one_and_an_intercept(case):
    model = case.fitted()
    space = geometry_of(model).fit(X, case.weights)
    w = np.ones(N) if case.weights is None else case.weights
    K, against = shared_leaves(model, X, X), shared_leaves(model, NEW, X)
    between = shared_leaves(model, NEW, NEW)
    expected = dense_kernel_cross(K, against, against, between, ridge=1.0, weights=w, fit_intercept=True).diagonal()
    close = through_kernel(K, 1.0, w)
    np.testing.assert_allclose(space.leverage(space.features(NEW)), expected, rtol=close)
    assert (space.exactness, space.ridge) == ("none", 1.0)


@pytest.mark.parametrize("leaves", [1, 10], ids=["many", "few"])
def test_few_and_many_leaves_are_counted_alike(leaves, rng):
    rows = rng.normal(size=(700, 5))
    model = RandomForestRegressor(30, min_samples_leaf=leaves, random_state=0).fit(rows, rows[:, 0])
    kernel = LeafKernel(model)
    np.testing.assert_allclose(
        kernel(kernel.rows(rows[:40]), kernel.rows(rows)), shared_leaves(model, rows[:40], rows), rtol=1e-14
    )


def test_landmarks_that_are_all_rows_agree_with_the_dual():
    model = RandomForestRegressor(20, random_state=0).fit(X, y)
    kernel, shared = LeafKernel(model), shared_leaves(model, X, X)
    for weights in (None, W):
        # The features of landmarks are divided by the roots of the spectrum of their kernel.
        close = through_kernel(shared, 1.0, weights) * np.linalg.cond(shared)
        dual = DualOrNystroem(kernel, 1.0).fit(X, weights)
        nystroem = DualOrNystroem(kernel, 1.0, dual_rows=1, landmarks=N).fit(X, weights)
        assert isinstance(dual, KernelSpace)
        assert isinstance(nystroem, NystroemSpace)
        for rows in (X, NEW, FAR[None]):
            F = dual.features(rows)
            np.testing.assert_allclose(dual.leverages(F), nystroem.leverages(F), rtol=close)


def test_row_that_shares_no_leaf_with_a_landmark_is_unseen():
    model = GradientBoostingRegressor(random_state=0).fit(X, y)
    space = DualOrNystroem(LeafKernel(model), 1.0, dual_rows=1, landmarks=2).fit(X)
    h = space.leverage(space.features(X))
    np.testing.assert_array_less(h, 1.0 + 3.0 / N + 1e-9)
    assert h.max() > 0.5


@pytest.mark.slow
def test_memory_of_a_large_forest_stays_at_landmarks_times_rows(rng):
    rows = rng.normal(size=(6000, 4))
    model = RandomForestRegressor(20, max_depth=8, random_state=0).fit(rows, rows[:, 0])
    geometry = geometry_of(model)
    tracemalloc.start()
    try:
        space = geometry.fit(rows)
        space.leverage(space.features(rows))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(space, NystroemSpace)
    # Features of all rows, twice while they are factored, and a few matrices of landmarks; n x n would be 288 MB.
    assert peak < 8 * 1000 * (2 * 6000 + 8 * 1024)


def test_bagged_models_that_are_not_trees_are_measured_on_their_inputs():
    assert isinstance(geometry_of(BaggingRegressor(Ridge(), random_state=0).fit(X, y)), InputsGeometry)


def test_forest_on_a_frame_is_measured_on_a_frame_without_a_warning():
    frame = pd.DataFrame(X, columns=list("abcde"))
    for model in (RandomForestRegressor(5, random_state=0), BaggingRegressor(random_state=0)):
        space = geometry_of(model.fit(frame, y)).fit(frame)
        F = space.features(frame[:3])
        np.testing.assert_array_equal(space.final_step(model).predict(F.model_inputs), model.predict(frame[:3]))
        np.testing.assert_array_equal(space.inputs(F), X[:3])
        assert len(F.take([0, 2])) == 2


def test_gaps_that_trees_take_reach_the_inputs_of_a_scale():
    rows = X.copy()
    rows[2, 1] = np.nan
    model = RandomForestRegressor(5, random_state=0).fit(rows, y)
    space = geometry_of(model).fit(rows)
    F = space.features(rows)
    assert np.isfinite(space.leverage(F)).all()
    assert np.isnan(space.inputs(F)[2, 1])
