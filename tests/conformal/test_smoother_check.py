"""Closed forms are used only where predictions are those of the smoother that the geometry describes."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Lasso, LinearRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hatband import (
    ApproximateJackknifePlusRegressor,
    CrossConformalRegressor,
    FullConformalRegressor,
    JackknifePlusRegressor,
    LeaveOneOutRidge,
    LeverageScale,
    SplitConformalRegressor,
)
from hatband.fitted.smoother import Smoother, SmootherMismatch
from hatband.fitted.training_rows import training_rows
from hatband.geometry import FeatureGeometry, Geometry, KernelGeometry, RBFKernel, Space, geometry_of
from hatband.linalg import KernelFactor
from oracles import held_out_bounds, linear_band
from sweeps import sweep

LEVEL = Fraction(9, 10)
REFUSAL = "must be those of the linear smoother that its geometry describes"


class PolyRidge(Ridge):
    """Ridge on x, x^2 and x^3: for all that its class says, a ridge regression on x."""

    def _powers(self, X):
        return np.hstack([X, X**2, X**3])

    def fit(self, X, y, sample_weight=None):
        return super().fit(self._powers(X), y, sample_weight)

    def predict(self, X):
        return super().predict(self._powers(X))


class CubeRidge(PolyRidge):
    """Ridge on x^3: as many coefficients as X has columns."""

    def _powers(self, X):
        return X**3


# Each says that it is an exact smoother, and is not the one that its geometry describes.
MISMATCHED = {
    "a subclass with features of its own": (PolyRidge(1e-3), "auto"),
    "a geometry with another ridge": (Ridge(1.0), FeatureGeometry(ridge=1e3, exactness="exact")),
    "a solver that stops early": (Ridge(solver="lsqr", tol=0.1), "auto"),
    "a geometry with another kernel": (Ridge(1.0), KernelGeometry(RBFKernel(3.0), ridge=0.1, exactness="exact")),
}


@pytest.fixture(params=MISMATCHED)
def mismatched(request):
    return MISMATCHED[request.param]


def drawn(rng, n=60):
    X = rng.standard_normal((n, 15))
    return X, X[:, 0] ** 3 + X[:, 1] ** 2 + rng.standard_normal(n)


@pytest.fixture
def data(rng):
    return drawn(rng)


def refits(estimator, X, y, folds):
    """Residuals of each row by a refit without its fold."""
    residuals = np.empty(len(y))
    for training, held in folds.split(X):
        residuals[held] = y[held] - clone(estimator).fit(X[training], y[training]).predict(X[held])
    return residuals


# ---------------------------------------------------------------- refitted or refused, by every class


def test_cross_conformal_intervals_are_those_of_refits(mismatched, data, rng):
    (estimator, geometry), (X, y), rows = mismatched, data, drawn(rng)[0]
    folds = [fold for _, fold in KFold(5).split(X)]
    expected = held_out_bounds(linear_band(estimator, X, y), X, y, rows, folds, level=LEVEL)
    model = CrossConformalRegressor(estimator, geometry=geometry, scale="constant").fit(X, y)

    assert model.held_out_.refitted
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=1e-9)


@sweep(30, 60)
def test_cross_conformal_intervals_of_a_subclass_cover(repetitions):
    covered = 0
    for seed in range(repetitions):
        X, y = drawn(np.random.default_rng(seed), 61)
        model = CrossConformalRegressor(PolyRidge(1e-3), scale="constant").fit(X[:60], y[:60])
        low, high = model.predict_interval(X[60:])[1][0]
        covered += low <= y[60] <= high

    # One new row a draw: the draws are independent. Refits cover 0.995 of new rows; of rows that are covered with
    # probability 0.95, fewer than this are covered once in a million times. The closed form of Ridge covered 0.384.
    assert covered >= stats.binom.ppf(1e-6, repetitions, 0.95)


def held_out(estimator, geometry, X, y, **more):
    fitted = estimator if isinstance(estimator, FrozenEstimator) else clone(estimator).fit(X, y)
    space = (geometry_of(fitted) if geometry == "auto" else geometry).fit(X)
    return training_rows(fitted, space, X, y[:, None], template=estimator, random_state=3, **more)


def test_training_rows_get_residuals_of_refits(mismatched, data):
    (estimator, geometry), (X, y) = mismatched, data
    found = held_out(estimator, geometry, X, y)

    assert found.source == "5-fold cross-validation"
    expected = refits(estimator, X, y, KFold(5, shuffle=True, random_state=3))
    np.testing.assert_allclose(found.residuals[:, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", ["strength", "magnitude", "quantile", "laplace", "auto"])
def test_learned_scales_learn_from_refits(mismatched, data, scale):
    (estimator, geometry), (X, y) = mismatched, data
    model = SplitConformalRegressor(estimator, geometry=geometry, scale=scale, random_state=0).fit_train(X, y)

    assert model.residuals_from_ == "5-fold cross-validation"


def test_closed_forms_that_cannot_refit_refuse_and_say_what_to_do(mismatched, data):
    estimator, geometry = mismatched
    for model in (JackknifePlusRegressor, FullConformalRegressor):
        with pytest.raises(ValueError, match=f"{REFUSAL}.*they differ by.*CrossConformalRegressor"):
            model(estimator, geometry=geometry).fit(*data)


@pytest.mark.parametrize(
    "estimator", [CubeRidge(1.0), Lasso(0.01, max_iter=1), PoissonRegressor(max_iter=1)], ids=lambda e: type(e).__name__
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_newton_steps_are_taken_from_the_minimum_only(estimator, data):
    X, y = data
    with pytest.raises(ValueError, match=REFUSAL):
        ApproximateJackknifePlusRegressor(estimator).fit(X, y**2)


EVERY = [
    SplitConformalRegressor(scale="strength", random_state=0),
    SplitConformalRegressor(LeaveOneOutRidge([1.0]), scale="magnitude", random_state=0),
    CrossConformalRegressor(scale="constant"),
    CrossConformalRegressor(scale="leverage", method="minmax"),
    JackknifePlusRegressor(),
    JackknifePlusRegressor(scale="constant", method="minmax"),
    FullConformalRegressor(),
    FullConformalRegressor(method="deleted"),
]


@pytest.mark.parametrize("model", EVERY, ids=repr)
@pytest.mark.parametrize("ridge", [0.0, 1e-2, 1e3], ids="geometry ridge {}".format)
def test_a_geometry_that_does_not_match_the_model_is_refitted_or_refused_by_every_class(model, ridge, data):
    X, y = data
    model = clone(model).set_params(geometry=FeatureGeometry(ridge=ridge, exactness="exact"))
    if isinstance(model, JackknifePlusRegressor | FullConformalRegressor):
        with pytest.raises(SmootherMismatch, match=REFUSAL):
            model.fit(X, y)
    elif isinstance(model, CrossConformalRegressor):
        assert model.fit(X, y).held_out_.refitted
    else:
        assert model.fit(X, y).residuals_from_ == "5-fold cross-validation"


@pytest.mark.parametrize("model", EVERY, ids=repr)
def test_a_geometry_that_matches_the_model_is_used_by_every_class(model, data):
    X, y = data
    model = clone(model).set_params(geometry=FeatureGeometry(ridge=1.0, exactness="exact")).fit(X, y)

    held = getattr(model, "held_out_", None)
    assert not getattr(held, "refitted", False)
    assert getattr(model, "residuals_from_", "leave-one-out") == "leave-one-out"


# ---------------------------------------------------------------- what is taken for its smoother


def matching(rng):
    X = rng.standard_normal((40, 6))
    y = X[:, 0] + rng.standard_normal(40)
    weights = rng.integers(0, 3, 40).astype(float)
    duplicated = np.hstack([X, X[:, :1]])
    wide = rng.standard_normal((20, 50))
    kernel = KernelRidge(kernel="rbf", gamma=0.1, alpha=0.1)
    centring = GaussianProcessRegressor(RBF(2.0), alpha=0.1, optimizer=None, normalize_y=True)
    return {
        "svd": (Ridge(solver="svd"), X, y, None),
        "stochastic gradients": (Ridge(solver="sag", random_state=0), X, y, None),
        "conjugate gradients": (Ridge(solver="sparse_cg"), X, y, None),
        "single precision": (Ridge(), X.astype(np.float32), y, None),
        "far from the origin": (Ridge(), X + 1e6, y - 1e6, None),
        "no noise": (LinearRegression(), X, X[:, 0], None),
        "no noise, far from the origin": (LinearRegression(), X + 1e6, X[:, 0] + 1e6, None),
        "a constant target": (Ridge(), X, np.full(40, 3.0), None),
        "a target of zeros": (kernel, X, np.zeros(40), None),
        "columns twice": (LinearRegression(), duplicated, y, None),
        "more columns than rows": (Ridge(1e-8), wide, y[:20], None),
        "interpolation": (LinearRegression(), wide, y[:20], None),
        "weights": (Ridge(), X, y, weights),
        "weights, no intercept": (LinearRegression(fit_intercept=False), X, y, weights),
        "a kernel": (kernel, X, y + 100, None),
        "a kernel with weights": (kernel, X, y, weights),
        "a kernel that interpolates": (KernelRidge(kernel="rbf", gamma=0.1, alpha=1e-10), X, y, None),
        "a process that centres y": (centring, X, y + 50, None),
    }


@pytest.mark.parametrize("name", matching(np.random.default_rng(0)))
def test_rounding_solvers_and_weights_do_not_count_as_a_mismatch(name, rng):
    estimator, X, y, weights = matching(rng)[name]
    fitted = estimator.fit(X, y) if weights is None else estimator.fit(X, y, sample_weight=weights)
    space = geometry_of(fitted).fit(X, weights)
    smoother = Smoother.of(fitted, space, space.features(X), y[:, None], weights)

    np.testing.assert_allclose(smoother.residuals[:, 0], y - fitted.predict(X), atol=1e-6 * np.abs(y).max())


SMOOTHERS = [
    (LinearRegression(), None),
    (LinearRegression(fit_intercept=False), None),
    (Ridge(alpha=3.0), np.linspace(0.5, 2, 60)),
    (make_pipeline(StandardScaler(), Ridge(alpha=3.0)), None),
    (GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1.0, 4.0]}, cv=2), None),
    (make_pipeline(PolynomialFeatures(2), Ridge()), None),
    (KernelRidge(kernel="rbf", gamma=0.05), None),
]


def source_of(model, X, y, weights=None):
    frozen = FrozenEstimator(model)
    space = geometry_of(frozen).fit(X, weights)
    return training_rows(frozen, space, X, y.reshape(len(y), -1), template=frozen, sample_weight=weights).source


@pytest.mark.parametrize(("model", "weights"), SMOOTHERS, ids=lambda value: type(value).__name__)
def test_a_frozen_smoother_knows_its_own_rows_and_notices_one_foreign_row(model, weights, data):
    X, y = data
    model.fit(X, y, **({} if weights is None else {"sample_weight": weights}))
    rows, changed = X.copy(), y.copy()
    rows[3], changed[3] = X[3] + 0.5, y[3] + 3.0

    assert source_of(model, X, y, weights).startswith("leave-one-out")
    assert source_of(model, rows, changed, weights) == "unseen rows"
    assert source_of(model, X[1:], y[1:], None if weights is None else weights[1:]) == "unseen rows"


def test_a_frozen_smoother_of_several_outputs_knows_its_own_rows(data):
    X, y = data
    Y = np.column_stack([y, np.cos(y)])
    for model in (Ridge(alpha=3.0), Ridge(alpha=np.array([0.1, 50.0]))):
        model.fit(X, Y)
        assert source_of(model, X, Y) == "leave-one-out"
        assert source_of(model, X, Y + np.array([0.0, 1.0])) == "unseen rows"
        assert source_of(model, X, Y[:, ::-1]) == "unseen rows"


def test_noise_that_differs_between_rows_counts_in_leave_one_out(data, rng):
    X, y = data
    noise = rng.uniform(0.1, 2.0, 60)
    found = held_out(GaussianProcessRegressor(RBF(4.0), alpha=noise, optimizer=None), "auto", X, y)
    for i in range(60):
        keep = np.arange(60) != i
        refit = GaussianProcessRegressor(RBF(4.0), alpha=noise[keep], optimizer=None).fit(X[keep], y[keep])
        mean, deviation = refit.predict(X[i : i + 1], return_std=True)
        assert found.residuals[i, 0] == pytest.approx(y[i] - mean[0], rel=1e-8)
        assert found.rows.leverage[i] == pytest.approx(deviation[0] ** 2 / noise.mean(), rel=1e-8)


class BareSpace(Space):
    """A space of a user's own: the methods that a space of a linear smoother must have, and no more."""

    exactness = "exact"

    def __init__(self, inner):
        self.inner = inner

    def features(self, X):
        return self.inner.features(X)

    def leverages(self, features):
        return self.inner.leverages(features)

    def cross_leverage(self, features, others=None):
        return self.inner.cross_leverage(features, others)


class BareGeometry(Geometry):
    exactness = "exact"

    def __init__(self, ridge):
        self.ridge = ridge

    def fit(self, X, sample_weight=None):
        return BareSpace(FeatureGeometry(ridge=self.ridge).fit(X, sample_weight))


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize(
    "model",
    [
        JackknifePlusRegressor(),
        JackknifePlusRegressor(scale=LeverageScale(form="sampling")),
        CrossConformalRegressor(scale="leverage"),
        FullConformalRegressor(),
        SplitConformalRegressor(scale="strength", random_state=0),
    ],
    ids=repr,
)
def test_a_space_with_the_required_methods_alone_is_checked_and_used_like_any_other(model, weighted, data, rng):
    (X, y), rows = data, drawn(rng, 5)[0]
    weights = rng.uniform(0.5, 2.0, 60) if weighted else None
    expected = clone(model).fit(X, y, sample_weight=weights).predict_interval(rows)[1]
    bare = clone(model).set_params(geometry=BareGeometry(1.0)).fit(X, y, sample_weight=weights)

    assert not getattr(getattr(bare, "held_out_", None), "refitted", False)
    np.testing.assert_allclose(bare.predict_interval(rows)[1], expected, rtol=1e-9)
    wrong = clone(model).set_params(geometry=BareGeometry(100.0))
    if isinstance(model, JackknifePlusRegressor | FullConformalRegressor):
        with pytest.raises(SmootherMismatch, match=REFUSAL):
            wrong.fit(X, y, sample_weight=weights)


# ---------------------------------------------------------------- cost


def test_full_conformal_asks_a_kernel_for_no_more_than_jackknife_plus_does(data, rng, monkeypatch):
    calls = []

    def counted(name):
        verb = getattr(KernelFactor, name)

        def count(self, *rows):
            calls.append((name, len(rows[0]) if rows else None))
            return verb(self, *rows)

        monkeypatch.setattr(KernelFactor, name, count)

    verbs = ("leverage", "leverages", "sampling_leverage", "smoother", "cross_leverage", "training_leverage")
    for verb in (*verbs, "residuals", "solve"):
        counted(verb)
    model, (X, y), rows = KernelRidge(kernel="rbf", gamma=0.05), data, drawn(rng, 7)[0]
    asked = {}
    for kind in (FullConformalRegressor, JackknifePlusRegressor):
        calls.clear()
        fitted = kind(model).fit(X, y)
        training = list(calls)
        calls.clear()
        fitted.predict_interval(rows)
        asked[kind] = training, list(calls)

    assert asked[FullConformalRegressor] == asked[JackknifePlusRegressor]
    assert "leverages" not in {name for name, _ in asked[FullConformalRegressor][0]}
