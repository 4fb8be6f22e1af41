"""Jackknife+ and CV+: the models and metadata that they take, what they refuse, and what they say."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_regression
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Lasso, LinearRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from hatband import (
    ApproximateJackknifePlusRegressor,
    CalibrationWarning,
    CrossConformalRegressor,
    InputsGeometry,
    JackknifePlusRegressor,
    LeverageWarning,
)


@pytest.fixture
def data():
    X, y = make_regression(60, 4, noise=5.0, random_state=0)
    return X, y


@pytest.mark.parametrize("estimator", [JackknifePlusRegressor, CrossConformalRegressor], ids=lambda e: e.__name__)
def test_frames_with_words_go_through_a_pipeline(estimator):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.standard_normal(60), "kind": rng.choice(["a", "b"], 60)})
    y = frame["size"].to_numpy() + (frame["kind"] == "b") + 0.1 * rng.standard_normal(60)
    columns = make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["kind"]))
    model = estimator(make_pipeline(columns, Ridge()), scale="leverage").fit(frame, y)

    assert model.predict_interval(frame)[1].shape == (60, 2)
    assert list(model.feature_names_in_) == ["size", "kind"]


@pytest.mark.parametrize("model", [JackknifePlusRegressor(), CrossConformalRegressor(cv=3, scale="constant")], ids=repr)
def test_the_fewest_rows_that_would_do_are_named(model, data):
    X, y = data
    with pytest.warns(CalibrationWarning, match=r"8 rows cannot support confidence level 0.9.*At least 9"):
        assert np.isinf(model.fit(X[:8], y[:8]).predict_interval(X)[1]).all()
    assert np.isfinite(model.fit(X[:9], y[:9]).predict_interval(X)[1]).all()


def test_a_pipeline_transforms_once_per_call(data):
    X, y = data
    calls = []

    def count(rows):
        calls.append(len(rows))
        return rows

    model = JackknifePlusRegressor(make_pipeline(FunctionTransformer(count), Ridge()), block_size=7).fit(X, y)
    calls.clear()
    model.predict_interval(X)

    assert calls == [60]


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (JackknifePlusRegressor(Lasso()), "fixed linear smoother.*Lasso.*Use CrossConformalRegressor"),
        (JackknifePlusRegressor(Ridge(positive=True)), "fixed linear smoother"),
        (JackknifePlusRegressor(Ridge(), geometry=InputsGeometry()), "Use CrossConformalRegressor"),
        (JackknifePlusRegressor(RidgeCV()), "allow_tuned=True and lose the guarantee"),
        (JackknifePlusRegressor(scale=lambda rows: 1 + rows.leverage), "function of a row's leverage alone"),
        (JackknifePlusRegressor(method="base"), "method must be one of"),
        (JackknifePlusRegressor(confidence_level=1.5), "strictly between 0 and 1"),
        (CrossConformalRegressor(method="median"), "method must be one of"),
        (CrossConformalRegressor(cv=[]), "at least one fold"),
        (CrossConformalRegressor(cv=[([0, 1], [])]), "fold 0 trains on 2 and holds out 0"),
        (ApproximateJackknifePlusRegressor(RandomForestRegressor(2)), "loss and penalty of a convex model"),
        (ApproximateJackknifePlusRegressor(Lasso(positive=True)), "needs positive=False"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(model, match, data):
    with pytest.raises(ValueError, match=match):
        model.fit(*data)


def test_frozen_models_must_have_been_trained_on_these_very_rows(data):
    X, y = data
    frozen = FrozenEstimator(Ridge().fit(X, y))

    expected = JackknifePlusRegressor(Ridge()).fit(X, y).predict_interval(X)[1]
    np.testing.assert_allclose(JackknifePlusRegressor(frozen).fit(X, y).predict_interval(X)[1], expected, rtol=1e-12)
    with pytest.raises(ValueError, match="its own training rows"):
        JackknifePlusRegressor(frozen).fit(X[:30], 3 * y[:30])
    with pytest.raises(ValueError, match="refit without a fold; got a FrozenEstimator"):
        CrossConformalRegressor(frozen).fit(X, y)


@pytest.mark.parametrize("tuned", [RidgeCV(), GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=3)], ids=repr)
def test_tuned_models_are_taken_on_request_and_the_guarantee_is_said_to_be_lost(tuned, data):
    with pytest.warns(CalibrationWarning, match="guarantee is lost"):
        model = JackknifePlusRegressor(tuned, allow_tuned=True).fit(*data)

    assert np.isfinite(model.predict_interval(data[0])[1]).all()


@pytest.mark.parametrize("model", [KernelRidge(), GaussianProcessRegressor(optimizer=None, alpha=1.0)], ids=repr)
def test_kernels_of_too_many_rows_are_refused_with_a_way_out(model, data, monkeypatch):
    monkeypatch.setattr("hatband.fitted.smoother.LARGEST_KERNEL", 59)
    with pytest.raises(ValueError, match=r"at most 59 rows; got 60.*Nystroem"):
        JackknifePlusRegressor(model).fit(*data)


def test_rows_outside_the_span_and_interpolated_rows_are_infinite(data):
    X, y = data
    only = X.copy()
    only[:, 3] = 0.0
    new = X[:3].copy()
    new[:, 3] = [0.0, 1.0, 0.0]
    model = JackknifePlusRegressor(LinearRegression()).fit(only, y)
    with pytest.warns(LeverageWarning, match="1 intervals have no finite bound"):
        _, interval = model.predict_interval(new)
    assert np.isinf(interval).all(axis=1).tolist() == [False, True, False]

    only[:7, 3] = 1.0
    one_of_a_kind = np.column_stack([only, np.arange(60) == 5])
    model = JackknifePlusRegressor(LinearRegression(), method="minmax").fit(one_of_a_kind, y)
    assert np.isinf(model.scores_[5, 0])
    with pytest.warns(LeverageWarning, match="no model exists without some single row"):
        assert np.isinf(model.predict_interval(one_of_a_kind)[1]).all()
    model = JackknifePlusRegressor(LinearRegression()).fit(one_of_a_kind, y)
    assert np.isfinite(model.predict_interval(one_of_a_kind[:5])[1]).all()


def test_weights_and_groups_are_metadata(data):
    X, y = data
    weights = np.random.default_rng(0).uniform(0, 2, 60)
    expected = JackknifePlusRegressor(Ridge()).fit(X, y, sample_weight=weights).predict_interval(X)[1]
    with config_context(enable_metadata_routing=True):
        asked = JackknifePlusRegressor(Ridge().set_fit_request(sample_weight=True)).fit(X, y, sample_weight=weights)
        grouped = CrossConformalRegressor(Ridge().set_fit_request(sample_weight=True), cv=GroupKFold(4))
        grouped.set_fit_request(cv_groups=True).fit(X, y, sample_weight=weights, cv_groups=np.arange(60) // 3)

    np.testing.assert_allclose(asked.predict_interval(X)[1], expected, rtol=1e-12)
    assert grouped.scores_.shape == (60, 1)
    with pytest.raises(TypeError, match="does not take it"):
        CrossConformalRegressor(make_pipeline(StandardScaler(), FunctionTransformer())).fit(X, y, weights)
