"""Full conformal sets equal a search over candidates, each of them refitted, for every score and model."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from hatband import FullConformalRegressor
from hatband.formulas.full_conformal import CrossedRows, studentised_range, studentised_roots
from hatband.geometry import FeatureGeometry
from oracles import dense_hat, full_conformal_grid, kernel_hat

SCORES = ["studentised", "absolute", "deleted"]
LEVEL = 0.9


def quadratic(X):
    return PolynomialFeatures(2, include_bias=False).fit_transform(X)


# name -> (estimator, hat matrix of rows and weights, number of columns)
MODELS = {
    "least squares": (LinearRegression(), lambda X, w: dense_hat(X, 0.0, w), 3),
    "no intercept": (LinearRegression(fit_intercept=False), lambda X, w: dense_hat(X, 0.0, w, False), 3),
    "ridge": (Ridge(2.0), lambda X, w: dense_hat(X, 2.0, w), 3),
    "wide": (Ridge(3.0), lambda X, w: dense_hat(X, 3.0, w), 40),
    "quadratic": (
        make_pipeline(PolynomialFeatures(2, include_bias=False), Ridge(1.0)),
        lambda X, w: dense_hat(quadratic(X), 1.0, w),
        2,
    ),
    "kernel": (
        KernelRidge(kernel="rbf", gamma=0.3, alpha=0.4),
        lambda X, w: kernel_hat(rbf_kernel(X, gamma=0.3), 0.4, w),
        2,
    ),
    "gaussian process": (
        GaussianProcessRegressor(RBF(1.5), alpha=0.3, optimizer=None),
        lambda X, w: kernel_hat(rbf_kernel(X, gamma=1 / 4.5), 0.3, w),
        2,
    ),
}
WEIGHTED = [name for name in MODELS if name not in {"quadratic", "gaussian process"}]


def draw(rng, d, n=29):
    X = rng.standard_normal((n, d)) * np.linspace(0.5, 2, d)
    return X, X[:, 0] + rng.standard_t(3, n)


def inside(pieces, grid):
    return ((pieces[:, 0] <= grid[:, None]) & (grid[:, None] <= pieces[:, 1])).any(axis=1)


def assert_equals_grid(pieces, hat, y, score, *, weights=None, level=LEVEL, centre=0.0):
    """Pieces and search agree at every candidate that is not within rounding of an end."""
    ends = pieces[np.isfinite(pieces)]
    around = np.concatenate([ends - 1e-7 * (1 + np.abs(ends)), ends + 1e-7 * (1 + np.abs(ends))])
    grid = np.concatenate([centre + np.linspace(-25, 25, 201), centre + np.array([-1e4, 1e4]), around])
    expected = full_conformal_grid(hat, y, grid, score, level=Fraction(str(level)), weights=weights)

    np.testing.assert_array_equal(inside(pieces, grid), expected)


@pytest.mark.filterwarnings("ignore::hatband.LeverageWarning")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", MODELS)
def test_sets_equal_a_search_with_refits(name, score, rng):
    estimator, hat, d = MODELS[name]
    X, y = draw(rng, d)
    X_new = np.vstack([draw(rng, d, 4)[0], 3 * draw(rng, d, 2)[0], X[:1], 6 * np.ones((1, d))])
    model = FullConformalRegressor(estimator, method=score).fit(X, y)
    y_pred, interval = model.predict_interval(X_new)
    sets = model.predict_set(X_new)

    for x, centre, pieces, hull in zip(X_new, y_pred, sets, interval, strict=True):
        assert_equals_grid(pieces, hat(np.vstack([X, x]), None), y, score, centre=centre)
        np.testing.assert_array_equal(hull, [pieces[0, 0], pieces[-1, 1]])


@pytest.mark.parametrize("columns", [1, 4])
def test_roots_lie_in_the_range_that_is_told_without_cross_leverages_and_reach_it_in_one_dimension(columns, rng):
    X, X_new = rng.standard_normal((40, columns)), 3 * rng.standard_normal((200, columns))
    space = FeatureGeometry(0.5, False).fit(X)
    h, h_new = (space.leverage(space.features(rows)) for rows in (X, X_new))
    residuals = rng.standard_normal(40)
    cross = space.cross_leverage(space.features(X_new), space.features(X))
    roots = np.stack(studentised_roots(CrossedRows(residuals, h, None, np.zeros(200), h_new, cross)))
    least, largest = studentised_range(residuals, h, h_new)

    assert (least <= roots).all()
    assert (roots <= largest).all()
    if columns == 1:  # equality of Cauchy and Schwarz, at the row of largest leverage; its slack is 1e-9
        np.testing.assert_allclose(roots.min(axis=(0, 1)), least, rtol=1e-7)
        np.testing.assert_allclose(roots.max(axis=(0, 1)), largest, rtol=1e-7)


@pytest.mark.filterwarnings("ignore::hatband.LeverageWarning")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", WEIGHTED)
def test_sets_of_a_weighted_fit_equal_a_search_where_a_new_row_has_weight_one(name, score, rng):
    estimator, hat, d = MODELS[name]
    X, y = draw(rng, d)
    weights = rng.uniform(0.3, 3, len(X))
    X_new = np.vstack([draw(rng, d, 4)[0], 3 * draw(rng, d, 2)[0]])
    model = FullConformalRegressor(estimator, method=score).fit(X, y, sample_weight=weights)

    all_weights = np.append(weights, 1.0)
    for x, pieces in zip(X_new, model.predict_set(X_new), strict=True):
        assert_equals_grid(pieces, hat(np.vstack([X, x]), all_weights), y, score, weights=all_weights)


@pytest.mark.parametrize("score", SCORES)
def test_noise_that_a_process_knows_of_each_row_is_a_weight(score, rng):
    """A new row has the mean noise."""
    X, y = draw(rng, 2)
    noise = rng.uniform(0.1, 0.8, len(X))
    model = FullConformalRegressor(GaussianProcessRegressor(RBF(1.5), alpha=noise, optimizer=None), method=score)
    X_new, weights = draw(rng, 2, 3)[0], np.append(noise.mean() / noise, 1.0)

    for x, pieces in zip(X_new, model.fit(X, y).predict_set(X_new), strict=True):
        hat = kernel_hat(rbf_kernel(np.vstack([X, x]), gamma=1 / 4.5), noise.mean(), weights)
        assert_equals_grid(pieces, hat, y, score, weights=weights)


@pytest.mark.parametrize("level", [0.5, 0.9, 1 - 0.1, Fraction(29, 30), 0.8])
@pytest.mark.parametrize("score", SCORES)
def test_ranks_are_exact_at_every_level(score, level, rng):
    X, y = draw(rng, 2)
    model = FullConformalRegressor(LinearRegression(), method=score).fit(X, y)
    exact = Fraction(level).limit_denominator(1000)

    for x, pieces in zip(X[:2], model.predict_set(X[:2], level), strict=True):
        assert_equals_grid(pieces, dense_hat(np.vstack([X, x])), y, score, level=exact)


@pytest.mark.parametrize("score", SCORES)
def test_outputs_are_treated_one_by_one(score, rng):
    X, _ = draw(rng, 3)
    Y = np.column_stack([X[:, 0] + rng.standard_normal(len(X)), 100 * rng.standard_normal(len(X))])
    shared = FullConformalRegressor(Ridge(1.0), method=score).fit(X, Y)
    own = FullConformalRegressor(Ridge([1.0, 50.0]), method=score).fit(X, Y)

    for j, ridge in enumerate([1.0, 50.0]):
        for both, alone in ((shared, 1.0), (own, ridge)):
            single = FullConformalRegressor(Ridge(alone), method=score).fit(X, Y[:, j])
            np.testing.assert_allclose(
                both.predict_interval(X)[1][:, j], single.predict_interval(X)[1], rtol=1e-9, atol=1e-9
            )
            np.testing.assert_allclose(both.predict_set(X)[3][j], single.predict_set(X)[3], rtol=1e-9, atol=1e-9)


def test_intervals_do_not_depend_on_the_block_size(rng):
    X, y = draw(rng, 3)
    models = [FullConformalRegressor(block_size=size).fit(X, y) for size in (1, 7, 1000)]
    intervals = [model.predict_interval(X)[1] for model in models]

    np.testing.assert_allclose(intervals[0], intervals[2], rtol=1e-10)
    np.testing.assert_allclose(intervals[1], intervals[2], rtol=1e-10)


def test_a_studentised_interval_is_bounded_and_holds_the_prediction_at_any_distance(rng):
    X, y = draw(rng, 3)
    model = FullConformalRegressor(LinearRegression()).fit(X, y)
    far = 1e4 * rng.standard_normal((50, 3))
    y_pred, interval = model.predict_interval(far)

    assert np.isfinite(interval).all()
    assert ((interval[:, 0] <= y_pred) & (y_pred <= interval[:, 1])).all()
    assert (np.diff(interval).min() >= np.diff(model.predict_interval(X)[1]).max()).all()


def test_higher_levels_give_wider_sets(rng):
    X, y = draw(rng, 3)
    for score in SCORES:
        _, interval = FullConformalRegressor(Ridge(1.0), method=score).fit(X, y).predict_interval(X, [0.5, 0.8, 0.9])
        assert interval.shape == (29, 2, 3)
        assert (np.diff(np.diff(interval, axis=1)[:, 0], axis=1) >= 0).all()


def test_no_more_than_a_few_blocks_are_held_at_once(rng):
    import tracemalloc

    n, m, rows = 1000, 4000, 64
    X, y = draw(rng, 5, n)
    model = FullConformalRegressor(block_size=rows).fit(X, y)
    X_new = rng.standard_normal((m, 5))
    tracemalloc.start()
    model.predict_interval(X_new)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 16 * 8 * rows * n < 8 * m * n
