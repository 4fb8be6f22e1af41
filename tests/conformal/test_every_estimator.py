"""What bad input gets from every estimator with intervals that the package exports: one that is added is tested too."""

import inspect
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

import hatband
from hatband import CalibrationWarning, LeverageWarning

NAMES = [name for name in hatband.__all__ if hasattr(getattr(hatband, name), "predict_interval")]


@pytest.fixture(params=NAMES)
def model(request):
    kind = getattr(hatband, request.param)
    seeded = "random_state" in inspect.signature(kind).parameters
    return kind(random_state=0) if seeded else kind()


@pytest.fixture
def data(rng):
    X = rng.standard_normal((60, 3))
    return X, X @ [1.0, 2.0, 3.0] + rng.standard_normal(60)


def test_there_are_such_estimators():
    assert {"SplitConformalRegressor", "OnlineConformalRegressor", "JackknifePlusRegressor"} <= set(NAMES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_target_that_is_not_finite_is_named_with_its_row(model, value, data):
    X, y = data
    y[13] = value
    with pytest.raises(ValueError, match="y must be finite; row 13 holds NaN or infinity"):
        model.fit(X, y)
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_refused_at_fit_and_after_it(model, value, data):
    X, y = data
    bad = X.copy()
    bad[13, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.fit(bad, y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.fit(X, y).predict_interval(bad)


def test_weights_below_zero_are_named_with_their_row(model, data):
    weight = np.ones(60)
    weight[13] = -2
    with pytest.raises(ValueError, match=r"sample_weight must be finite and >= 0; row 13 has -2\.0"):
        model.fit(*data, sample_weight=weight)


@pytest.mark.parametrize("level", [0, 1, -0.5, 90, np.nan, "high", [0.5, 1.5]], ids=repr)
def test_levels_outside_zero_and_one_are_refused_with_their_value(model, level, data):
    seen = str(level[-1] if isinstance(level, list) else level)
    if "confidence_level" in inspect.signature(model.predict_interval).parameters:
        with pytest.raises(ValueError, match=f"confidence_level must be a number .*{seen}"):
            model.fit(*data).predict_interval(data[0], level)
    with pytest.raises(ValueError, match=f"confidence_level must be a number .*{seen}"):
        model.set_params(confidence_level=level).fit(*data).predict_interval(data[0])


def test_other_columns_than_in_training_are_refused_in_the_words_of_scikit_learn(model, data):
    X, y = data
    model.fit(X, y)
    for call in (model.predict, model.predict_interval, model.leverage):
        with pytest.raises(ValueError, match=r"has 2 features, but .* is expecting 3 features"):
            call(X[:, :2])
    model.fit(pd.DataFrame(X, columns=list("abc")), y)
    for call in (model.predict, model.predict_interval, model.leverage):
        with pytest.raises(ValueError, match="feature names should match"):
            call(pd.DataFrame(X, columns=list("abd")))
        with pytest.raises(ValueError, match="same order"):
            call(pd.DataFrame(X, columns=list("cba")))


def test_unfitted_says_what_to_call(model, data):
    for call in (model.predict, model.predict_interval, model.leverage):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call(data[0])


def test_too_few_rows_are_infinite_and_say_how_many_would_do(model, data):
    X, y = data
    with pytest.warns(CalibrationWarning, match=r"At least 999 .*rows"):
        _, interval = model.set_params(confidence_level=0.999).fit(X, y).predict_interval(X[:3])

    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 3)


@pytest.mark.parametrize("design", ["plain", "wide", "copies", "constant", "flat target"])
def test_lower_never_exceeds_upper_and_none_is_nan(model, design, data):
    X, y = data
    X, y = {
        "plain": (X, y),
        "wide": (np.tile(X, 30) ** 2, y),
        "copies": (np.repeat(X[:6], 10, axis=0), np.repeat(np.round(y[:6]), 10)),
        "constant": (np.full_like(X, 7.0), y),
        "flat target": (X, np.full_like(y, 7.0)),
    }[design]
    model.set_params(confidence_level=[0.9, 0.05, 0.6, 0.9])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (CalibrationWarning, LeverageWarning))
        prediction, interval = model.fit(X, y).predict_interval(np.vstack([X[:5], X[:5] + 1, 1e3 * X[:5]]))

    assert interval.shape == (15, 2, 4)
    assert np.isfinite(prediction).all()
    assert (interval[:, 0] <= interval[:, 1]).all()
    np.testing.assert_array_equal(interval[..., 0], interval[..., 3])
    # Below 1/2 the ends of jackknife+ may cross, and the point between them lie anywhere.
    slack = 1e-9 * (1 + np.abs(prediction))
    assert (interval[:, 0, 0] <= interval[:, 0, 2] + slack).all()
    assert (interval[:, 1, 2] <= interval[:, 1, 0] + slack).all()


def test_a_parameter_of_prediction_that_calibration_has_not_seen_is_refused(model, data):
    model.fit(*data)
    for call in (model.predict, model.predict_interval):
        with pytest.raises(TypeError, match="shift"):
            call(data[0], shift=100.0)


def test_predicting_writes_nothing_and_threads_share_the_model(model, data):
    X, _ = data
    model.fit(*data)
    before, expected = pickle.dumps(model), model.predict_interval(X)[1]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.predict_interval(X)[1], range(12)))

    for interval in found:
        np.testing.assert_array_equal(interval, expected)
    assert pickle.dumps(model) == before
