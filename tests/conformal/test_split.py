"""The steps of a split model, searches inside and around it, and the ridges that choose their penalty for it."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_readonly_memmap_input,
    check_regressor_data_not_an_array,
    parametrize_with_checks,
)

from hatband import (
    LeaveOneOutKernelRidge,
    LeaveOneOutRidge,
    SplitConformalRegressor,
)

PLAIN = [LeaveOneOutRidge(), LeaveOneOutKernelRidge()]
LEAVE_ONE_OUT_OF_COPIES = "leave-one-out of one of two copies is not leave-one-out of a row of weight 2"
WEIGHTS = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")


@parametrize_with_checks(PLAIN, expected_failed_checks=lambda _: dict.fromkeys(WEIGHTS, LEAVE_ONE_OUT_OF_COPIES))
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", PLAIN, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "check",
    [check_dataframe_column_names_consistency, check_regressor_data_not_an_array, check_readonly_memmap_input],
    ids=lambda c: c.__name__,
)
def test_checks_that_scikit_learn_keeps_to_itself_pass(estimator, check):
    check(type(estimator).__name__, clone(estimator))


@pytest.fixture
def data():
    X, y = make_regression(120, 4, noise=5.0, random_state=0)
    return X, y


def test_works_inside_and_around_a_search(data):
    X, y = data
    inside = SplitConformalRegressor(GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=3), random_state=0).fit(X, y)
    around = GridSearchCV(SplitConformalRegressor(random_state=0), {"scale": ["constant", "leverage"]}, cv=3).fit(X, y)

    assert inside.predict_interval(X)[1].shape == around.best_estimator_.predict_interval(X)[1].shape == (120, 2)
    assert cross_val_score(SplitConformalRegressor(random_state=0), X, y, cv=3).min() > 0.5


def test_unfitted_and_uncalibrated_say_what_to_call(data):
    X, y = data
    model = SplitConformalRegressor()
    for call in (model.predict, model.predict_interval, model.leverage):
        with pytest.raises(NotFittedError, match="Call fit, or fit_train and calibrate, before"):
            call(X)
    with pytest.raises(NotFittedError, match="before calibrate"):
        model.calibrate(X, y)
    with pytest.raises(NotFittedError, match="trained but not calibrated; call calibrate first"):
        model.fit_train(X, y).predict_interval(X)


def state(model):
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


def test_a_failed_calibrate_or_fit_train_leaves_the_model_as_it_was(data):
    X, y = data
    model = SplitConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
    before = state(model)
    bad = y.copy()
    bad[7] = np.nan
    for call in (model.calibrate, model.fit_train):
        with pytest.raises(ValueError, match="y must be finite; row 7"):
            call(X, bad)
    with pytest.raises(ValueError, match="is expecting 4 features"):
        model.calibrate(X[:, :2], y)

    assert state(model) == before


def test_fit_train_forgets_the_scores_of_the_earlier_model(data):
    X, y = data
    model = SplitConformalRegressor(random_state=0).fit(X, y)
    model.fit_train(X, y)

    assert not hasattr(model, "scores_")
    assert not hasattr(model, "calibration_indices_")
