"""Scores of intervals in searches, cross-validation and Pipelines."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from hatband import FullConformalRegressor, JackknifePlusRegressor, SplitConformalRegressor, interval_scorer

METRICS = ["interval_score", "coverage", "width"]


def model(estimator=None, **settings):
    return SplitConformalRegressor(
        estimator or Ridge(), **{"scale": "leverage", "calibration_size": 0.4, "random_state": 0} | settings
    )


@pytest.fixture
def data(rng):
    X = rng.standard_normal((120, 3))
    return X, X @ [1.0, 2.0, 0.0] + rng.standard_normal(120)


def by_hand(metric, y, interval, level):
    """One output at one level, by loops."""
    width = [high - low for low, high in interval]
    if metric == "width":
        return -sum(width) / len(y)
    if metric == "coverage":
        return -abs(sum(low <= t <= high for t, (low, high) in zip(y, interval, strict=True)) / len(y) - level)
    miss = [max(low - t, t - high, 0) for t, (low, high) in zip(y, interval, strict=True)]
    return -sum(w + 2 / (1 - level) * m for w, m in zip(width, miss, strict=True)) / len(y)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [SplitConformalRegressor, JackknifePlusRegressor, FullConformalRegressor])
def test_scores_are_hand_counts(data, metric, kind):
    X, y = data
    fitted = kind(Ridge()).fit(X[:80], y[:80])
    for level in (None, 0.7):
        _, interval = fitted.predict_interval(X[80:], 0.9 if level is None else level)
        expected = by_hand(metric, y[80:], interval, level or 0.9)

        assert interval_scorer(metric, level)(fitted, X[80:], y[80:]) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_several_outputs_and_levels_are_averaged(data, metric, rng):
    X, y = data
    Y = np.stack([y, rng.standard_normal(120)], axis=1)
    fitted = model(confidence_level=[0.5, 0.8]).fit(X[:80], Y[:80])
    _, interval = fitted.predict_interval(X[80:])
    expected = np.mean(
        [by_hand(metric, Y[80:, j], interval[:, j, :, k], (0.5, 0.8)[k]) for j in range(2) for k in range(2)]
    )

    assert interval_scorer(metric)(fitted, X[80:], Y[80:]) == pytest.approx(expected)
    assert interval_scorer(metric)(fitted, X[80:], pd.DataFrame(Y[80:])) == pytest.approx(expected)


def test_one_column_is_scored_as_one_number_per_row(data):
    X, y = data
    flat, column = model().fit(X[:80], y[:80]), model().fit(X[:80], y[:80, None])

    assert interval_scorer()(column, X[80:], y[80:, None]) == interval_scorer()(flat, X[80:], y[80:])


def test_targets_of_another_shape_are_refused(data):
    X, y = data
    with pytest.raises(ValueError, match=r"y must have the shape of the y given to fit"):
        interval_scorer()(model().fit(X, y[:, None]), X, y)


@pytest.mark.parametrize("metric", METRICS)
def test_it_reaches_through_pipelines(data, metric):
    X, y = data
    inner = model().fit(X[:80], y[:80])
    outer = make_pipeline(FunctionTransformer(), make_pipeline(FunctionTransformer(), model())).fit(X[:80], y[:80])

    for level in (None, 0.6):
        scorer = interval_scorer(metric, level)
        assert scorer(outer, X[80:], y[80:]) == scorer(inner, X[80:], y[80:])


def test_cross_val_score_is_the_score_of_each_fold(data):
    X, y = data
    scorer, folds = interval_scorer("interval_score", 0.8), KFold(3)
    expected = [scorer(model().fit(X[train], y[train]), X[test], y[test]) for train, test in folds.split(X)]

    np.testing.assert_allclose(cross_val_score(model(), X, y, scoring=scorer, cv=folds), expected)


def test_several_scorers_go_into_one_cross_validation(data):
    found = cross_validate(model(), *data, scoring={metric: interval_scorer(metric) for metric in METRICS}, cv=3)

    assert (found["test_interval_score"] <= found["test_width"]).all()
    assert (found["test_coverage"] <= 0).all()


def test_a_search_through_an_outer_pipeline_finds_the_better_setting(rng):
    # y is log-normal noise around an exponential: intervals of the logarithm are the better ones.
    table = pd.DataFrame({"x": rng.uniform(0, 3, 400), "ward": rng.choice(["north", "south"], 400)})
    y = np.exp(table["x"] + (table["ward"] == "north") + 0.3 * rng.standard_normal(400))
    columns = make_column_transformer((StandardScaler(), ["x"]), (OneHotEncoder(), ["ward"]))
    logged = TransformedTargetRegressor(LinearRegression(), func=np.log, inverse_func=np.exp)
    pipeline = make_pipeline(columns, model())
    grid = {"splitconformalregressor__estimator": [LinearRegression(), logged]}
    search = GridSearchCV(pipeline, grid, scoring=interval_scorer(), cv=3).fit(table, y)

    assert search.best_params_["splitconformalregressor__estimator"] is logged
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])


def test_with_metadata_routing_the_pipeline_asks_for_what_it_passes(data):
    X, y = data
    with sklearn.config_context(enable_metadata_routing=True):
        last = model().set_predict_request(return_interval=True, confidence_level=True)
        outer = make_pipeline(FunctionTransformer(), last).fit(X[:80], y[:80])
        found = interval_scorer(confidence_level=0.6)(outer, X[80:], y[80:])
        scores = cross_val_score(clone(outer), X, y, scoring=interval_scorer(), cv=2)

    assert found == interval_scorer(confidence_level=0.6)(model().fit(X[:80], y[:80]), X[80:], y[80:])
    assert np.isfinite(scores).all()


@pytest.mark.filterwarnings("ignore::hatband.CalibrationWarning")
def test_infinite_intervals_have_the_worst_score(data):
    X, y = data
    fitted = model(calibration_size=3).fit(X[:80], y[:80])

    assert interval_scorer()(fitted, X, y) == interval_scorer("width")(fitted, X, y) == -np.inf
    assert interval_scorer("coverage")(fitted, X, y) == pytest.approx(-0.1)


@pytest.mark.parametrize("metric", METRICS)
def test_a_scorer_is_a_value_that_pickles_and_says_what_it_is(metric):
    scorer = interval_scorer(metric, 0.8)

    assert pickle.loads(pickle.dumps(scorer)) == scorer
    assert repr(scorer) == f"interval_scorer({metric!r}, confidence_level=0.8)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval_scorer("mse"), "metric must be one of"),
        (lambda: interval_scorer(confidence_level=90), "confidence_level must be a number strictly between"),
        (lambda: interval_scorer()(Ridge().fit([[0.0], [1.0]], [0.0, 1.0]), [[0.0]], [0.0]), "Ridge has none"),
    ],
)
def test_bad_settings_are_refused_before_a_search_starts(call, message):
    with pytest.raises(ValueError, match=message):
        call()
