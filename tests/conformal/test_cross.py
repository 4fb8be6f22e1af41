"""CV+ by block leverage and by refits equals refits by hand, and MAPIE's."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_regression
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    TimeSeriesSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from hatband import CrossConformalRegressor, JackknifePlusRegressor, LeverageScale, Scale
from oracles import held_out_bounds, linear_band
from rounding import of_products, of_refits, through_kernel

LEVEL = Fraction(9, 10)


def rows_of(n=61, d=4, seed=0):
    X, y = make_regression(n + 11, d, noise=10.0, random_state=seed)
    return X[11:] + 3.0, y[11:] / 10, X[:11] + 3.0


def held(cv, X, groups=None):
    return [fold for _, fold in cv.split(X, None, groups)]


@pytest.mark.parametrize("cv", [KFold(5), KFold(7, shuffle=True, random_state=0), LeaveOneOut()], ids=str)
@pytest.mark.parametrize("scale", ["constant", "leverage"])
@pytest.mark.parametrize("method", ["plus", "minmax"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_block_leverage_equals_refits(cv, scale, method, weighted):
    X, y, rows = rows_of()
    weights = np.random.default_rng(1).integers(0, 4, len(y)).astype(float) if weighted else None
    band = linear_band(Ridge(2.0), X, y, weights, scale)
    expected = held_out_bounds(band, X, y, rows, held(cv, X), level=LEVEL, method=method)
    model = CrossConformalRegressor(Ridge(2.0), cv=cv, scale=scale, method=method).fit(X, y, sample_weight=weights)

    assert not model.held_out_.refitted
    close = of_refits(X, y, held(cv, X), 2.0, weights)
    np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)


@pytest.mark.parametrize(
    "estimator", [LinearRegression(), KernelRidge(kernel="rbf", gamma=0.1, alpha=0.3)], ids=lambda e: type(e).__name__
)
def test_refits_of_an_estimator_that_looks_like_no_smoother_give_the_same(estimator):
    X, y, rows = rows_of()
    closed = CrossConformalRegressor(estimator, scale="constant").fit(X, y)
    # A transformed target has no closed forms. Here the transformation is the identity.
    refitted = CrossConformalRegressor(TransformedTargetRegressor(estimator), scale="constant").fit(X, y)

    of_kernel = through_kernel(rbf_kernel(X, gamma=0.1), 0.3) * np.abs(y).max()
    close = of_kernel if isinstance(estimator, KernelRidge) else of_refits(X, y, held(KFold(5), X))
    assert refitted.held_out_.refitted
    assert not closed.held_out_.refitted
    for method in ("plus", "minmax", "base"):
        one = closed.set_params(method=method).predict_interval(rows, [0.8, 0.9])[1]
        two = refitted.set_params(method=method).predict_interval(rows, [0.8, 0.9])[1]
        np.testing.assert_allclose(one, two, rtol=0, atol=close)


def test_one_row_at_a_time_is_jackknife_plus():
    X, y, rows = rows_of()
    folded = CrossConformalRegressor(Ridge(), cv=LeaveOneOut(), scale="leverage").fit(X, y)
    expected = JackknifePlusRegressor(Ridge()).fit(X, y).predict_interval(rows)[1]

    close = of_refits(X, y, held(LeaveOneOut(), X), 1.0)
    np.testing.assert_allclose(folded.predict_interval(rows)[1], expected, rtol=0, atol=close)


FORESTS = {"forest": RandomForestRegressor(5, random_state=0), "scaled": make_pipeline(StandardScaler(), Ridge(0.1))}


@pytest.mark.parametrize("method", ["plus", "minmax", "base"])
@pytest.mark.parametrize("name", ["ridge", *FORESTS])
def test_bounds_equal_those_of_mapie(name, method):
    mapie = pytest.importorskip("mapie.regression", reason="the extra `mapie` is not installed")
    X, y, rows = rows_of(n=49)
    estimator = FORESTS.get(name, Ridge())
    theirs = mapie.CrossConformalRegressor(estimator, confidence_level=[0.8, 0.9], method=method, cv=KFold(6))
    _, expected = theirs.fit_conformalize(X, y).predict_interval(rows)
    model = CrossConformalRegressor(estimator, cv=KFold(6), scale="constant", method=method).fit(X, y)

    assert model.held_out_.refitted == (name != "ridge")
    close = of_refits(X, y, held(KFold(6), X), 0.1)  # the smallest of the penalties
    np.testing.assert_allclose(model.predict_interval(rows, [0.8, 0.9])[1], expected, rtol=0, atol=close)


def test_transformers_are_fitted_inside_each_fold_unless_they_learn_nothing():
    X, y, _ = rows_of()
    learned = CrossConformalRegressor(make_pipeline(StandardScaler(), Ridge()), scale="leverage").fit(X, y)
    stateless = CrossConformalRegressor(make_pipeline(FunctionTransformer(np.tanh), Ridge()), scale="leverage")
    stateless.fit(X, y)

    means = {tuple(model.estimator_[0].mean_) for model in learned.held_out_.models}
    assert len(means) == 5
    assert not stateless.held_out_.refitted


class Recorded(Scale):
    """Width from the median residual of the rows that it was fitted to, which it remembers."""

    pointwise = False
    needs_residuals = True

    def fit(self, rows, residuals=None, sample_weight=None):
        self.level_ = float(np.median(np.abs(residuals)))
        self.n_rows_ = len(rows)
        return self

    def predict(self, rows):
        return 0.1 * rows.prediction, self.level_ * (1 + rows.leverage[:, None])


def test_learned_scales_are_fitted_inside_each_fold():
    X, y, rows = rows_of(n=60)
    model = CrossConformalRegressor(Ridge(), scale=Recorded(), cv=6).fit(X, y)
    scales = [fold.scale_ for fold in model.held_out_.models]

    assert {scale.n_rows_ for scale in scales} == {50}
    assert len({scale.level_ for scale in scales}) == 6
    assert model.scale_.n_rows_ == 60
    _, interval = model.predict_interval(rows)
    assert (interval[:, 0] < interval[:, 1]).all()
    with pytest.raises(ValueError, match="centred on the prediction"):
        model.predict(rows, return_width=True)


def test_groups_stay_together():
    X, y, rows = rows_of(n=60)
    groups = np.random.default_rng(0).integers(0, 6, 60)
    for cv in (GroupKFold(3), LeaveOneGroupOut()):
        expected = held_out_bounds(linear_band(Ridge(1.0), X, y), X, y, rows, held(cv, X, groups), level=LEVEL)
        model = CrossConformalRegressor(Ridge(), cv=cv, scale="constant").fit(X, y, cv_groups=groups)
        close = of_refits(X, y, held(cv, X, groups), 1.0)
        np.testing.assert_allclose(model.predict_interval(rows)[1].T, expected, rtol=0, atol=close)
    with pytest.raises(ValueError, match="groups"):
        CrossConformalRegressor(cv=GroupKFold(3)).fit(X, y)


@pytest.mark.parametrize(
    ("cv", "scores"),
    [
        (TimeSeriesSplit(4), 48),
        (PredefinedSplit(np.arange(60) % 4 - 1), 45),
        (RepeatedKFold(n_splits=3, n_repeats=2, random_state=0), 120),
        ([(np.arange(30), np.arange(30, 60))], 30),
    ],
    ids=["time series", "predefined", "repeated", "pairs"],
)
def test_any_splitter_scores_what_it_holds_out(cv, scores):
    X, y, rows = rows_of(n=60)
    model = CrossConformalRegressor(Ridge(), cv=cv, scale="leverage").fit(X, y)

    assert model.scores_.shape == (scores, 1)
    assert np.isfinite(model.predict_interval(rows)[1]).all()


def test_scores_stand_in_the_order_of_the_rows():
    X, y, _ = rows_of(n=60)
    cv = KFold(4, shuffle=True, random_state=0)
    model = CrossConformalRegressor(RandomForestRegressor(5, random_state=0), cv=cv, scale="constant").fit(X, y)
    for training, fold in cv.split(X):
        refit = clone(model.estimator).fit(X[training], y[training])
        close = of_products(np.ones((1, 7)), np.full(7, np.abs(y).max()))  # means of 5 trees
        np.testing.assert_allclose(model.scores_[fold, 0], y[fold] - refit.predict(X[fold]), rtol=0, atol=close)


def test_bounds_on_a_transformed_target_come_back_through_each_fold():
    X, y, rows = rows_of(n=60)
    positive = np.exp(y / 10)
    logged = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp)
    plain = CrossConformalRegressor(Ridge(), scale="leverage").fit(X, y / 10).predict_interval(rows)[1]
    model = CrossConformalRegressor(logged, scale="leverage").fit(X, positive)

    close = of_refits(X, y / 10, held(KFold(5), X), 1.0)  # absolute before the exponential, relative after it
    np.testing.assert_allclose(model.predict_interval(rows)[1], np.exp(plain), rtol=close)


@pytest.mark.parametrize("estimator", [Ridge(), Ridge([1.0, 2.0]), RandomForestRegressor(3, random_state=0)], ids=repr)
def test_several_outputs_have_intervals_each(estimator):
    X, y, rows = rows_of(n=60)
    Y = np.column_stack([y, np.sin(y)])
    model = CrossConformalRegressor(estimator, scale="leverage").fit(X, Y)

    assert model.predict_interval(rows, [0.5, 0.9])[1].shape == (11, 2, 2, 2)
    if isinstance(estimator, RandomForestRegressor):
        return
    for j, ridge in enumerate(np.broadcast_to(estimator.alpha, 2)):
        alone = CrossConformalRegressor(Ridge(ridge), scale="leverage").fit(X, Y[:, j]).predict_interval(rows)[1]
        close = of_refits(X, Y[:, j], held(KFold(5), X), ridge)
        np.testing.assert_allclose(model.predict_interval(rows)[1][:, j], alone, rtol=0, atol=close)


def test_blocks_that_leave_no_model_are_refitted():
    X, y, rows = rows_of(n=60)
    lonely = np.column_stack([X, np.arange(60) == 3])
    model = CrossConformalRegressor(LinearRegression(), scale="constant").fit(lonely, y)

    assert model.held_out_.refitted
    assert np.isfinite(model.predict_interval(np.column_stack([rows, np.zeros(11)]))[1]).all()


def test_processes_give_the_same_as_one():
    X, y, rows = rows_of(n=60)
    forest = RandomForestRegressor(3, random_state=0)
    one, two = (
        CrossConformalRegressor(forest, scale="constant", n_jobs=jobs).fit(X, y).predict_interval(rows)[1]
        for jobs in (1, 2)
    )

    np.testing.assert_array_equal(one, two)


def test_sampling_form_is_refitted():
    X, y, _ = rows_of(n=60)

    assert CrossConformalRegressor(Ridge(), scale=LeverageScale(form="sampling")).fit(X, y).held_out_.refitted
