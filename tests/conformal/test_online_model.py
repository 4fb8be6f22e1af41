"""What the model of a stream knows: equal to refits on exactly the rows in its window, whatever blocks rows came in."""

from itertools import pairwise

import numpy as np
import pytest

from hatband import OnlineConformalRegressor
from hatband.conformal.online.ridge import GrowingMemory, SlidingMemory, StreamingRidge, StreamRows, row_memory
from oracles import dense_leverage, ridge_predictions
from rounding import EPS, through_triangle


def made_stream(rng, n=100, d=3, outputs=1):
    X = rng.standard_normal((n, d)) * [1.0, 10.0, 0.1][:d] + 5
    y = X @ rng.standard_normal((d, outputs)) + rng.standard_normal((n, outputs))
    return X, y, rng.uniform(0.1, 3, n)


def blocks_of(n, sizes):
    edges = np.minimum(np.cumsum([0, *sizes]), n)
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


def of_refit(X, y, rows, ridge=0.0, weights=None, *, fit_intercept=True):
    """Relative error of leverage, and the absolute one of predictions, by a triangle of the training rows."""
    close = through_triangle(X, ridge, weights, fit_intercept)
    # Rows of large leverage multiply the error of the slopes.
    h = dense_leverage(X, rows, ridge, weights, fit_intercept).max()
    return close, close * np.abs(y).max() * (1 + np.sqrt(h * len(X)))


BLOCKS = {"one by one": [1] * 100, "uneven": [7, 20, 1, 1, 64, 7], "at once": [100]}
CASES = [
    pytest.param({"ridge": 1.0}, id="growing"),
    pytest.param({"ridge": 0.0}, id="least squares"),
    pytest.param({"ridge": 1e-9}, id="tiny ridge"),
    pytest.param({"ridge": 1.0, "fit_intercept": False}, id="no intercept"),
    pytest.param({"ridge": 0.5, "window": 40}, id="window"),
    pytest.param({"ridge": 0.0, "window": 20, "fit_intercept": False}, id="window of least squares"),
]


@pytest.mark.parametrize("parameters", CASES)
def test_each_row_is_predicted_by_a_refit_on_the_rows_of_the_window_before_it(parameters, rng):
    X, y, weights = made_stream(rng)
    plain = {key: value for key, value in parameters.items() if key != "window"}
    model = OnlineConformalRegressor(**parameters)
    for row in range(len(X)):
        kept = slice(row - model.window_size_, row) if row else slice(0, 0)
        part = slice(row, row + 1)
        prediction, _ = model.predict_then_fit(X[part], y[part, 0], weights[part])
        if row < 6:  # fewer rows than coefficients: nothing to compare with at ridge 0
            continue
        given = {**plain, "weights": weights[kept]}
        expected = ridge_predictions(X[kept], y[kept, 0], X[part], **given)
        close = of_refit(X[kept], y[kept], X[part], **given)[1]
        np.testing.assert_allclose(prediction, expected, rtol=0, atol=close)


@pytest.mark.parametrize("parameters", CASES)
@pytest.mark.parametrize("sizes", BLOCKS.values(), ids=BLOCKS)
def test_after_any_blocks_it_is_the_refit_on_the_rows_in_the_window(parameters, sizes, rng):
    X, y, weights = made_stream(rng)
    plain = {key: value for key, value in parameters.items() if key != "window"}
    model, rows = OnlineConformalRegressor(**parameters), rng.standard_normal((30, 3)) * 4
    for part in blocks_of(len(X), sizes):
        model.partial_fit(X[part], y[part, 0], weights[part])
    kept = slice(len(X) - model.window_size_, None)
    given = {**plain, "weights": weights[kept]}

    expected = ridge_predictions(X[kept], y[kept, 0], rows, **given)
    close, close_prediction = of_refit(X[kept], y[kept], rows, **given)
    np.testing.assert_allclose(model.predict(rows), expected, rtol=0, atol=close_prediction)
    np.testing.assert_allclose(model.leverage(rows), dense_leverage(X[kept], rows, **given), rtol=close)


@pytest.mark.parametrize("parameters", CASES)
def test_what_is_said_of_a_row_does_not_depend_on_the_blocks(parameters, rng):
    X, y, weights = made_stream(rng, outputs=2)
    said = []
    for sizes in BLOCKS.values():
        model = OnlineConformalRegressor(**parameters, score_window=30)
        parts = blocks_of(len(X), sizes)
        intervals = [model.predict_then_fit(X[part], y[part], weights[part])[1] for part in parts]
        said.append((np.concatenate(intervals), model.scores_, model.window_size_))

    for interval, scores, size in said[1:]:
        np.testing.assert_allclose(interval, said[0][0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(scores, said[0][1], rtol=1e-8, atol=1e-8)
        assert size == said[0][2]


@pytest.mark.parametrize("window", [1, 2, 7, 30, 90, 300])
def test_the_window_holds_what_it_promises(window, rng):
    X, y, _ = made_stream(rng, n=150)
    model = OnlineConformalRegressor(window=window)
    block = max(1, min(64, window // 8))
    for row in range(len(X)):
        model.partial_fit(X[row : row + 1], y[row : row + 1, 0])
        assert min(window, row + 1) <= model.window_size_ <= min(window + 3 * block - 1, row + 1)


@pytest.mark.parametrize(("window", "block_size"), [(5, 1), (20, 4), (20, 7), (64, 64)])
def test_a_sliding_memory_is_the_statistics_of_its_latest_rows_in_bounded_room(window, block_size, rng):
    X, y, weights = made_stream(rng, n=260)
    memory = row_memory(3, 1, window, block_size)
    for part in blocks_of(len(X), [1, 2, 3] * 44):
        memory = memory.add(X[part], y[part], weights[part])
        total = memory.total()
        kept = slice(part.stop - total.n_samples, part.stop)
        centred = np.hstack([X, y])[kept]
        centred = centred - np.average(centred, axis=0, weights=weights[kept])
        gram = centred.T @ (weights[kept, None] * centred)

        assert min(window, part.stop) <= total.n_samples < window + 3 * max(block_size, 3)
        size = (weights[kept, None] * np.hstack([X, y])[kept] ** 2).sum()  # what the centring takes apart
        np.testing.assert_allclose(total.triangle.T @ total.triangle, gram, rtol=0, atol=100 * EPS * size)
        assert len(memory.old) + len(memory.new) <= window / block_size + 2
    assert isinstance(memory, SlidingMemory)
    assert isinstance(row_memory(3, 1, None, 4), GrowingMemory)


def test_a_window_forgets_without_a_trace_of_what_left_it(rng):
    X, y, _ = made_stream(rng, n=260)
    huge = X.copy()
    huge[:100] *= 1e8  # a difference of Gram matrices would lose 16 digits here
    model = OnlineConformalRegressor(window=40).partial_fit(huge, y[:, 0])
    kept = slice(len(X) - model.window_size_, None)

    expected = dense_leverage(X[kept], X, ridge=1.0)
    np.testing.assert_allclose(model.leverage(X), expected, rtol=through_triangle(X[kept], 1.0))


def test_a_row_of_weight_zero_is_scored_and_leaves_no_trace(rng):
    X, y, weights = made_stream(rng)
    weights[::3] = 0
    model = OnlineConformalRegressor().partial_fit(X, y[:, 0], weights)
    without = OnlineConformalRegressor().partial_fit(X[weights > 0], y[weights > 0, 0], weights[weights > 0])

    seen = weights > 0
    close, close_prediction = of_refit(X[seen], y[seen], X, 1.0, weights[seen])
    np.testing.assert_allclose(model.predict(X), without.predict(X), rtol=0, atol=close_prediction)
    np.testing.assert_allclose(model.leverage(X), without.leverage(X), rtol=close)
    assert len(model.scores_) == len(X) - 2  # the first row, of weight 0, leaves the second without a model too


def test_leverage_scores_are_recursive_residuals(rng):
    # Brown, Durbin and Evans 1975: they are an orthogonal transformation of the errors, so their squares add up.
    X, y, _ = made_stream(rng)
    model = OnlineConformalRegressor(ridge=0.0).partial_fit(X, y[:, 0])
    residual = y[:, 0] - ridge_predictions(X, y[:, 0], X)

    assert len(model.scores_) == len(X) - 4
    total = residual @ residual
    close = of_refit(X, y, X)[1] * np.sqrt(len(X) / total)  # relative to the length of the residuals
    np.testing.assert_allclose(np.sum(model.scores_**2), total, rtol=2 * close)


def test_rows_that_repeat_under_a_tiny_ridge_keep_their_digits(rng):
    X, y, _ = made_stream(rng, n=60)
    X, y = np.repeat(X, 5, axis=0), np.repeat(y, 5, axis=0)
    model = OnlineConformalRegressor(ridge=1e-12).partial_fit(X, y[:, 0])
    close = of_refit(X, y, X, 1e-12)[1]
    np.testing.assert_allclose(model.predict(X), ridge_predictions(X, y[:, 0], X, ridge=1e-12), rtol=0, atol=close)


def test_factorisations_are_as_rare_as_promised(rng, monkeypatch):
    counted = []
    refactored = StreamingRidge._refactored
    monkeypatch.setattr(StreamingRidge, "_refactored", lambda *args: counted.append(1) or refactored(*args))
    X, y = rng.standard_normal((640, 5)), rng.standard_normal((640, 1))
    model = StreamingRidge.empty(5, 1, ridge=1.0, fit_intercept=True, window=None)
    for row in range(len(X)):
        _, model = model.follow(StreamRows(X[row : row + 1], y[row : row + 1], np.ones(1)))

    assert len(counted) <= 640 / 64 + 8
