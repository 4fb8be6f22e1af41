"""Estimators that may overwrite X: leverage is that of the original rows, and the array of the caller is unchanged."""

import numpy as np
import pandas as pd
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hatband import (
    ApproximateJackknifePlusRegressor,
    CrossConformalRegressor,
    FullConformalRegressor,
    JackknifePlusRegressor,
    OnlineConformalRegressor,
    SplitConformalRegressor,
)

MODELS = {
    "ridge": lambda leave: Ridge(copy_X=not leave),
    "least squares": lambda leave: LinearRegression(copy_X=not leave),
    "lasso": lambda leave: Lasso(0.01, copy_X=not leave),
    "scaler": lambda leave: make_pipeline(StandardScaler(copy=not leave), Ridge()),
    "components": lambda leave: make_pipeline(StandardScaler(), PCA(2, copy=not leave), Ridge(copy_X=not leave)),
}
AROUND = {
    "split": lambda model: SplitConformalRegressor(model, scale="leverage", random_state=0),
    "split, learned": lambda model: SplitConformalRegressor(model, scale="strength", random_state=0),
    "jackknife": JackknifePlusRegressor,
    "full": FullConformalRegressor,
    "cross": lambda model: CrossConformalRegressor(model, cv=3, scale="leverage"),
    "approximate": ApproximateJackknifePlusRegressor,
}
PAIRS = [
    (around, model)
    for around in AROUND
    for model in MODELS
    if (around, model) not in {("jackknife", "lasso"), ("full", "lasso")}
]


@pytest.fixture
def data(rng):
    X = np.asfortranarray(rng.standard_normal((60, 3)) * [1, 5, 0.2] + [3, 0, 50])
    return X, X @ [1.0, 0.2, 3.0] + rng.standard_normal(60)


def answers(model, X):
    return model.leverage(X), model.predict(X), *model.predict_interval(X)


def check_same(made, data, container=lambda X: X):
    X, y = container(data[0].copy(order="F")), data[1]
    expected = answers(made(False).fit(X, y), X)
    for found, value in zip(answers(made(True).fit(X, y), X), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-9)
    np.testing.assert_array_equal(np.asarray(X), data[0])


@pytest.mark.parametrize(("around", "model"), PAIRS)
def test_intervals_are_those_of_the_model_that_copies_and_no_array_changes(around, model, data):
    check_same(lambda leave: AROUND[around](MODELS[model](leave)), data)


def test_tables_do_not_change_either(data):
    check_same(lambda leave: AROUND["jackknife"](MODELS["scaler"](leave)), data, pd.DataFrame)


def test_training_apart_from_calibration(data):
    X, y = data[0].copy(order="F"), data[1]
    found, expected = (
        SplitConformalRegressor(Ridge(copy_X=copies), scale="leverage").fit_train(X, y).calibrate(X, y)
        for copies in (False, True)
    )

    np.testing.assert_allclose(found.leverage(X), expected.leverage(X), rtol=1e-9)
    np.testing.assert_array_equal(X, data[0])


def test_targets_are_kept_from_those_that_overwrite_them_too(data):
    X, y = data[0].copy(order="F"), data[1].copy()
    SplitConformalRegressor(PLSRegression(1, copy=False), scale="leverage").fit_train(X, y)

    np.testing.assert_array_equal(X, data[0])
    np.testing.assert_array_equal(y, data[1])


def test_a_transformer_as_geometry(data):
    check_same(
        lambda leave: SplitConformalRegressor(
            HistGradientBoostingRegressor(max_iter=3),
            geometry=StandardScaler(copy=not leave),
            scale="leverage",
            random_state=0,
        ),
        data,
    )


def test_a_transformer_of_a_stream(data):
    check_same(lambda leave: OnlineConformalRegressor(transformer=StandardScaler(copy=not leave)), data)
