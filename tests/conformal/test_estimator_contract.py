"""Our estimators are scikit-learn estimators: its own checks, and the contracts that those leave out."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_readonly_memmap_input,
    check_regressor_data_not_an_array,
    parametrize_with_checks,
)

from hatband import (
    Groups,
    LeaveOneOutKernelRidge,
    LeaveOneOutRidge,
    LeverageBins,
    SplitConformalRegressor,
)
from rounding import of_predictions

RANDOM_SPLIT = "a random split counts rows: a row of weight 2 is one row to calibrate with, two copies are two"
CONFORMAL = [
    SplitConformalRegressor(Ridge(), random_state=0),
    SplitConformalRegressor(make_pipeline(StandardScaler(with_mean=False), Ridge()), random_state=0),
    SplitConformalRegressor(Ridge(), scale="constant", symmetric=False, random_state=0),
    SplitConformalRegressor(Ridge(), groups=Groups(LeverageBins(2)), joint=True, random_state=0),
    SplitConformalRegressor(LeaveOneOutRidge(), random_state=0),
    SplitConformalRegressor(LeaveOneOutKernelRidge(), random_state=0),
]
PLAIN = [LeaveOneOutRidge(), LeaveOneOutKernelRidge()]
LEAVE_ONE_OUT_OF_COPIES = "leave-one-out of one of two copies is not leave-one-out of a row of weight 2"


def expected_failures(estimator):
    reason = LEAVE_ONE_OUT_OF_COPIES if type(estimator) in {type(one) for one in PLAIN} else RANDOM_SPLIT
    return {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }


@parametrize_with_checks(CONFORMAL + PLAIN, expected_failed_checks=expected_failures)
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFORMAL[:1] + CONFORMAL[4:] + PLAIN, ids=lambda e: type(e).__name__)
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


@pytest.mark.parametrize("estimator", CONFORMAL, ids=lambda e: type(e).__name__)
class TestIntervals:
    def test_do_not_depend_on_row_order_or_subset(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y)
        _, interval = model.predict_interval(X)
        order = np.random.default_rng(0).permutation(len(X))[:50]

        close = of_predictions(X, y)
        np.testing.assert_allclose(model.predict_interval(X[order])[1], interval[order], rtol=0, atol=close)
        np.testing.assert_allclose(model.predict_interval(X[:1])[1], interval[:1], rtol=0, atol=close)

    def test_are_the_same_for_lists_and_float32(self, estimator, data):
        X, y = data
        X = X.astype(np.float32)
        model = clone(estimator).fit(X.astype(np.float64), y)
        _, interval = model.predict_interval(X.astype(np.float64))

        close = of_predictions(X, y)
        np.testing.assert_allclose(model.predict_interval(X.tolist())[1], interval, rtol=0, atol=close)
        np.testing.assert_allclose(model.predict_interval(X)[1], interval, rtol=1e-4, atol=1e-4)

    def test_survive_pickle_copy_and_refit(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y)
        _, interval = model.predict_interval(X)
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone(model).fit(X, y), model.fit(X, y)):
            np.testing.assert_array_equal(other.predict_interval(X)[1], interval)

    def test_leave_no_trace_in_the_model(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y)
        before = pickle.dumps(model)
        model.predict_interval(X, [0.5, 0.9])
        model.leverage(X)

        assert pickle.dumps(model) == before

    def test_leave_the_callers_arrays_alone(self, estimator, data):
        X, y = (array.copy() for array in data)
        X.setflags(write=False)
        y.setflags(write=False)
        model = clone(estimator).fit(X, y)
        model.predict_interval(X)

        np.testing.assert_array_equal(X, data[0])

    def test_come_through_predict_of_an_outer_pipeline(self, estimator, data):
        X, y = data
        outer = make_pipeline(StandardScaler(), clone(estimator)).fit(X, y)
        _, interval = outer.predict(X, return_interval=True)

        assert interval.shape == (len(X), 2)


def test_works_inside_and_around_a_search(data):
    X, y = data
    inside = SplitConformalRegressor(GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=3), random_state=0).fit(X, y)
    around = GridSearchCV(SplitConformalRegressor(random_state=0), {"scale": ["constant", "leverage"]}, cv=3).fit(X, y)

    assert inside.predict_interval(X)[1].shape == around.best_estimator_.predict_interval(X)[1].shape == (120, 2)
    assert cross_val_score(SplitConformalRegressor(random_state=0), X, y, cv=3).min() > 0.5


def test_a_column_vector_target_keeps_its_axis(data):
    X, y = data
    flat = SplitConformalRegressor(random_state=0).fit(X, y)
    column = SplitConformalRegressor(random_state=0).fit(X, y[:, None])

    assert column.predict(X).shape == (120, 1)
    assert column.predict_interval(X)[1].shape == (120, 1, 2)
    np.testing.assert_allclose(column.predict_interval(X)[1][:, 0], flat.predict_interval(X)[1], rtol=1e-12)


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


def test_a_failed_calibrate_or_fit_leaves_the_model_as_it_was(data):
    X, y = data
    model = SplitConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
    before = state(model)
    bad = y.copy()
    bad[7] = np.nan
    for call in (model.calibrate, model.fit, model.fit_train):
        with pytest.raises(ValueError, match="y must be finite; row 7"):
            call(X, bad)
    with pytest.raises(ValueError, match="is expecting 4 features"):
        model.calibrate(X[:, :2], y)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((120, 2), np.nan), y)

    assert state(model) == before


def test_fit_train_forgets_the_scores_of_the_earlier_model(data):
    X, y = data
    model = SplitConformalRegressor(random_state=0).fit(X, y)
    model.fit_train(X, y)

    assert not hasattr(model, "scores_")
    assert not hasattr(model, "calibration_indices_")
