"""Running statistics against the batch: merging, adding, removing, weights, sparse rows and tensors."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from hatband.linalg import QR, GramStatistics, TriangularStatistics
from rounding import EPS, through_gram, through_triangle

BOTH = pytest.mark.parametrize("statistics", [GramStatistics, TriangularStatistics])


def scatter(statistics):
    """Joint centred Gram matrix."""
    if isinstance(statistics, GramStatistics):
        return statistics.joint
    return statistics.triangle.T @ statistics.triangle


def batch(X, y, weights=None):
    """Number, weight, mean and scatter by the definition."""
    rows = np.hstack([X, y])
    w = np.ones(len(rows)) if weights is None else weights
    mean = w @ rows / w.sum()
    return len(rows), w.sum(), mean, (rows - mean).T @ (w[:, None] * (rows - mean))


def relative_error(statistics, *design):
    """Of leverage and coefficients: the square of the condition number for the Gram matrix alone."""
    return (through_gram if statistics is GramStatistics else through_triangle)(*design)


def assert_is_batch(statistics, X, y, weights=None, slack=1.0):
    n, weight, mean, gram = batch(X, y, weights)
    close = 100 * EPS * slack

    assert statistics.n_samples == n
    assert statistics.weight == pytest.approx(weight, rel=close)
    np.testing.assert_allclose(statistics.centre.mean, mean, rtol=0, atol=close * np.abs(np.hstack([X, y])).max())
    np.testing.assert_allclose(scatter(statistics), gram, rtol=0, atol=close * len(X) * np.abs(gram).max())


@pytest.fixture
def data(rng):
    return rng.normal(size=(60, 4)) * [1, 10, 0.1, 1] + [0, 100, 5, -3], rng.normal(size=(60, 2)), rng.uniform(0, 2, 60)


@BOTH
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [[60], [1, 59], [20, 20, 20], [5] * 12, [0, 30, 0, 30]], ids=str)
def test_blocks_add_up_to_the_batch(data, statistics, weighted, sizes):
    X, y, weights = data
    w = weights if weighted else None
    running = statistics.empty(4, 2)
    for part in np.split(np.arange(60), np.cumsum(sizes)[:-1]):
        running = running.add(X[part], y[part], None if w is None else w[part])

    assert_is_batch(running, X, y, w)


@BOTH
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=5),
    st.integers(1, 4),
    st.floats(-6, 6),
    st.integers(0, 2**31),
)
def test_merging_is_associative_commutative_and_equal_to_adding(statistics, sizes, d, exponent, seed):
    rng = np.random.default_rng(seed)
    blocks = [(10.0**exponent * (rng.normal(size=(n, d)) + 3), rng.normal(size=(n, 1))) for n in sizes]
    parts = [statistics.of(X, y) for X, y in blocks]
    left, right, added = statistics.empty(d, 1), statistics.empty(d, 1), statistics.empty(d, 1)
    for part, (X, y) in zip(parts, blocks, strict=True):
        left, right, added = left.merge(part), part.merge(right), added.add(X, y)

    close = {"rtol": 0, "atol": 1000 * EPS * max(np.abs(scatter(left)).max(), 1.0)}
    assert left.n_samples == right.n_samples == added.n_samples == sum(sizes)
    np.testing.assert_allclose(scatter(right), scatter(left), **close)
    np.testing.assert_allclose(scatter(added), scatter(left), **close)
    scale = max(np.abs(np.hstack(block)).max(initial=0) for block in blocks)
    np.testing.assert_allclose(right.centre.mean, left.centre.mean, rtol=0, atol=100 * EPS * scale)


@BOTH
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 30), st.booleans(), st.integers(0, 2**31))
def test_removing_undoes_adding(statistics, kept, removed, weighted, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(kept + removed, 3)) + 2, rng.normal(size=(kept + removed, 1))
    w = rng.uniform(0.5, 2, kept + removed) if weighted else None
    head, tail = slice(kept), slice(kept, None)
    parts = [None, None] if w is None else [w[head], w[tail]]
    whole = statistics.of(X, y, w)

    left = whole.remove(X[tail], y[tail], parts[1])
    # What a removal loses is relative to what was there before.
    before = np.abs(scatter(whole)).max() + whole.weight * np.abs(whole.centre.mean).max() ** 2
    n, weight, mean, gram = batch(X[head], y[head], parts[0])
    assert left.n_samples == n
    assert left.weight == pytest.approx(weight, rel=1000 * EPS * whole.weight / weight)
    np.testing.assert_allclose(
        left.centre.mean, mean, rtol=0, atol=1000 * EPS * np.abs(X).max() * whole.weight / weight
    )
    np.testing.assert_allclose(scatter(left), gram, rtol=0, atol=1000 * EPS * before * whole.weight / weight)


@BOTH
def test_removing_everything_leaves_empty_statistics_to_start_again(data, statistics):
    X, y, weights = data
    nothing = statistics.of(X, y, weights).remove(X, y, weights)

    assert (nothing.n_samples, nothing.weight) == (0, 0.0)
    assert_is_batch(nothing.add(X, y), X, y)


@BOTH
def test_more_rows_or_weight_than_held_cannot_be_removed(data, statistics):
    X, y, weights = data
    held = statistics.of(X[:30], y[:30], weights[:30])

    with pytest.raises(ValueError, match="cannot remove 31 rows from statistics of 30 rows"):
        held.remove(X[:31], y[:31], weights[:31])
    with pytest.raises(ValueError, match=r"cannot remove weight .* from statistics of weight"):
        held.remove(X[:30], y[:30], 2 * weights[:30])
    with pytest.raises(ValueError, match="all rows are removed, but weight"):
        held.remove(X[:30], y[:30], weights[:30] / 2)


@BOTH
def test_rows_that_were_never_added_cannot_be_removed(data, statistics):
    X, y, _ = data

    with pytest.raises(ValueError, match="not part of the statistics"):
        statistics.of(X[:30], y[:30]).remove(100 * X[30:40], y[30:40])


@BOTH
def test_statistics_do_not_change(data, statistics):
    X, y, _ = data
    first = statistics.of(X[:30], y[:30])
    mean, joint = first.centre.mean.copy(), scatter(first).copy()
    first.add(X[30:], y[30:])
    first.merge(first)
    first.remove(X[:5], y[:5])
    first.factor(1.0, fit_intercept=False)
    first.coefficients(1.0, fit_intercept=False)

    np.testing.assert_array_equal(first.centre.mean, mean)
    np.testing.assert_array_equal(scatter(first), joint)


@BOTH
@pytest.mark.parametrize("form", ["float32", "csr", "list of floats", "one target"])
def test_any_rows_become_float64_statistics(data, statistics, form):
    X, y, weights = (array.astype(np.float32).astype(float) for array in data)
    forms = {
        "float32": (X.astype(np.float32), y.astype(np.float32), weights.astype(np.float32)),
        "csr": (scipy.sparse.csr_array(X), y, weights),
        "list of floats": (X, y, weights.tolist()),
        "one target": (X, y[:, 0], weights),
    }
    found = statistics.of(*forms[form])

    assert scatter(found).dtype == found.centre.mean.dtype == np.float64
    assert_is_batch(found, X, y[:, :1] if form == "one target" else y, weights)


@BOTH
def test_tensors_stay_tensors(data, statistics):
    torch = pytest.importorskip("torch")
    X, y, weights = data
    tensors = [torch.as_tensor(array) for array in data]
    found = statistics.of(*[t[:30] for t in tensors]).add(*[t[30:] for t in tensors])
    left = found.remove(*[t[:10] for t in tensors])

    assert isinstance(scatter(found), torch.Tensor)
    assert_is_batch(found, X, y, weights)
    assert_is_batch(left, X[10:], y[10:], weights[10:], slack=10)
    exact = oracles.dense_leverage(X, X, 1.0, weights)
    close = relative_error(statistics, X, 1.0, weights)
    np.testing.assert_allclose(found.factor(1.0).leverage(tensors[0]).numpy(), exact, rtol=close)
    assert isinstance(found.coefficients(1.0)[0], torch.Tensor)


@BOTH
def test_blocks_of_weight_zero_count_as_rows_only(data, statistics):
    X, y, weights = data
    found = statistics.of(X[:10], y[:10], np.zeros(10)).add(X, y, weights).add(X[:3], y[:3], np.zeros(3))

    assert found.n_samples == 73
    assert found.weight == pytest.approx(weights.sum(), rel=100 * EPS)
    whole = scatter(statistics.of(X, y, weights))
    np.testing.assert_allclose(scatter(found), whole, rtol=0, atol=100 * EPS * np.abs(whole).max())


@BOTH
def test_bad_blocks_are_refused_with_their_reason(data, statistics):
    X, y, _ = data
    held = statistics.of(X, y)
    spoilt = X.copy()
    spoilt[7, 2] = np.nan

    for verb in (held.add, held.remove):
        with pytest.raises(ValueError, match="hold 4 features; got features of shape"):
            verb(X[:, :3], y)
        with pytest.raises(ValueError, match="hold 2 targets; got 0"):
            verb(X)
        with pytest.raises(ValueError, match="one entry per row of X, 60; got 59"):
            verb(X, y[:59])
        with pytest.raises(ValueError, match="X must be finite; row 7"):
            verb(spoilt, y)
        with pytest.raises(ValueError, match="sample_weight must be finite and >= 0; row 0"):
            verb(X, y, -np.ones(60))
    with pytest.raises(ValueError, match="cannot be merged"):
        held.merge(statistics.of(X))


@BOTH
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 2.0, np.array([0.5, 1.0, 2.0, 4.0])], ids=["0", "2", "each"])
def test_factor_and_coefficients_are_those_of_the_rows(data, statistics, ridge, fit_intercept):
    X, y, weights = data
    found = statistics.of(X[:25], y[:25], weights[:25]).add(X[25:], y[25:], weights[25:])
    exact = oracles.dense_leverage(X, X, ridge, weights, fit_intercept)
    exact_slopes, exact_intercept = oracles.ridge_coefficients(X, y, ridge, weights, fit_intercept)
    slopes, intercept = found.coefficients(ridge, fit_intercept)
    factor, direct = found.factor(ridge, fit_intercept), QR().factor(X, ridge, weights, fit_intercept)
    close = relative_error(statistics, X, ridge, weights, fit_intercept)
    # What columns of length 1 would have: the error of each is relative to the largest.
    length = np.linalg.norm(X - fit_intercept * X.mean(axis=0), axis=0)[:, None]
    scale = np.abs(length * exact_slopes).max()

    np.testing.assert_allclose(factor.leverage(X), exact, rtol=close)
    np.testing.assert_allclose(length * slopes, length * exact_slopes, rtol=0, atol=close * scale)
    moved = np.abs(X.mean(axis=0) / length[:, 0]).sum() * close * scale
    np.testing.assert_allclose(intercept, exact_intercept, rtol=close, atol=moved)
    assert factor.logdet() == pytest.approx(direct.logdet(), abs=4 * close)
    assert factor.effective_dimension() == pytest.approx(direct.effective_dimension(), rel=close)
