"""What bad input gets: a message that names what was required, what was seen and what to do; never a silent NaN."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from hatband import LeaveOneOutKernelRidge, LeaveOneOutRidge, LeverageScale, LeverageWarning, SplitConformalRegressor


@pytest.fixture
def data(rng):
    X = rng.standard_normal((60, 3))
    return X, X[:, 0] + rng.standard_normal(60)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_target_that_is_not_finite_is_named_with_its_first_bad_row(value, data):
    X, y = data
    y[13] = value
    with pytest.raises(ValueError, match="y must be finite; row 13 holds NaN or infinity"):
        SplitConformalRegressor().fit(X, y)


def test_features_that_are_not_finite_are_named_where_a_geometry_reads_them(data):
    class Deaf(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            self.mean_ = float(np.mean(y))
            return self

        def predict(self, X):
            return np.full(len(X), self.mean_)

    from sklearn.preprocessing import FunctionTransformer

    X, y = data
    X[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4"):
        SplitConformalRegressor(Deaf(), geometry=FunctionTransformer()).fit_train(X, y)
    # The default geometry of an unknown estimator imputes.
    assert np.isfinite(SplitConformalRegressor(Deaf(), random_state=0).fit(X, y).predict_interval(X)[1]).all()


@pytest.mark.parametrize(
    "level", [0, 1, -0.1, 1.5, np.nan, "0.9", None, True, [0.9, 1.0], [], Fraction(3, 2)], ids=repr
)
def test_a_level_outside_zero_and_one_is_refused_with_its_value(level, data):
    X, y = data
    with pytest.raises(ValueError, match=r"confidence_level must be a number .*0.*1"):
        SplitConformalRegressor(confidence_level=level).fit(X, y)
    if level is not None:
        model = SplitConformalRegressor(random_state=0).fit(X, y)
        with pytest.raises(ValueError, match="confidence_level must"):
            model.predict_interval(X, level)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(-np.ones(60), "row 0 has -1.0"), (np.ones(59), r"shape \(60,\)"), (np.zeros(60), "all weights are 0")],
)
def test_bad_weights_are_refused_with_what_was_seen(weights, message, data):
    with pytest.raises(ValueError, match=message):
        SplitConformalRegressor().fit(*data, sample_weight=weights)


def test_a_negative_ridge_is_refused_with_its_value(data):
    for model in (LeaveOneOutRidge(ridge=[1.0, -2.0]), LeaveOneOutKernelRidge(ridge=[-2.0])):
        with pytest.raises(ValueError, match=r"ridge must be .* >= 0.*-2\.0"):
            model.fit(*data)


def returning(value):
    def widths(rows):
        width = np.ones(len(rows))
        width[3] = value
        return width

    return widths


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_scale_that_returns_no_width_is_named_with_its_first_bad_row(value, data):
    with pytest.raises(ValueError, match=r"widths must return widths that are finite and > 0; row 3"):
        SplitConformalRegressor(scale=returning(value), random_state=0).fit(*data)


def test_a_scale_of_the_wrong_length_is_refused(data):
    with pytest.raises(ValueError, match=r"one width per row, 15 of them; got shape \(2,\)"):
        SplitConformalRegressor(scale=lambda rows: np.ones(2), random_state=0).fit(*data)


@pytest.mark.parametrize("scale", ["wide", 3.0, None])
def test_an_unknown_scale_is_refused_with_the_list_of_those_known(scale, data):
    with pytest.raises((ValueError, TypeError), match="'constant', 'laplace', 'leverage'"):
        SplitConformalRegressor(scale=scale).fit(*data)


@pytest.mark.parametrize("scale", [LeverageScale(power=-1), LeverageScale(power=np.nan), LeverageScale(form="prior")])
def test_bad_parameters_of_the_leverage_scale_are_refused(scale, data):
    with pytest.raises(ValueError, match=r"(power|form) must"):
        SplitConformalRegressor(scale=scale).fit(*data)


@pytest.mark.parametrize("size", [1.0, -0.1, -3, "half", None, 60, 61, True])
def test_a_calibration_size_that_leaves_no_training_row_is_refused(size, data):
    with pytest.raises(ValueError, match="calibration_size"):
        SplitConformalRegressor(calibration_size=size).fit(*data)


class Column(Ridge):
    """Predicts a column (m, 1) although y was (n,)."""

    def predict(self, X):
        return super().predict(X).reshape(-1, 1)


class Scalar(Ridge):
    """Predicts one number for all rows."""

    def predict(self, X):
        return np.array([0.0])


def test_a_column_of_predictions_is_never_broadcast_against_a_flat_target(data):
    X, y = data
    column = SplitConformalRegressor(Column(), random_state=0).fit(X, y)
    flat = SplitConformalRegressor(Ridge(), random_state=0).fit(X, y)

    assert column.scores_.shape == (15, 1)
    assert column.predict(X).shape == (60,)
    np.testing.assert_array_equal(column.predict_interval(X)[1], flat.predict_interval(X)[1])


def test_predictions_of_the_wrong_shape_are_refused_with_the_name_of_the_model(data):
    with pytest.raises(ValueError, match=r"Scalar\.predict must return .* shape \(45, 1\); got shape \(1, 1\)"):
        SplitConformalRegressor(Scalar(), random_state=0).fit(*data)


@pytest.mark.parametrize("geometry", ["inputs", 3, object()])
def test_an_unknown_geometry_is_refused(geometry, data):
    with pytest.raises((TypeError, ValueError), match="geometry must be"):
        SplitConformalRegressor(geometry=geometry).fit(*data)


def test_contradictory_requests_to_predict_are_refused(data):
    model = SplitConformalRegressor(random_state=0).fit(*data)
    with pytest.raises(ValueError, match="not several"):
        model.predict(data[0], return_interval=True, return_width=True)


def test_fit_train_rows_takes_two_words_only(data):
    with pytest.raises(ValueError, match="fit_train_rows must be one of"):
        SplitConformalRegressor(fit_train_rows="seen").fit(*data)


def test_one_row_cannot_be_split_and_the_message_says_so(data):
    X, y = data
    with pytest.raises(ValueError, match="n_samples = 1"):
        SplitConformalRegressor(LinearRegression()).fit(X[:1], y[:1])


@pytest.mark.parametrize("scale", ["strength", "magnitude", "quantile", "laplace"])
def test_a_model_that_interpolates_every_row_leaves_a_learned_scale_nothing_and_says_so(scale, rng):
    X, y = rng.standard_normal((60, 90)), rng.standard_normal(60)
    with pytest.raises(ValueError, match=r"interpolates every training row.*Give the estimator a ridge > 0"):
        SplitConformalRegressor(LinearRegression(), scale=scale, random_state=0).fit(X, y)


def test_infinities_of_both_signs_get_the_message_and_no_warning_before_it(data):
    X, y = data
    y[[13, 14]] = np.inf, -np.inf
    with pytest.raises(ValueError, match="y must be finite; row 13"):
        SplitConformalRegressor().fit(X, y)


@pytest.mark.parametrize("scale", ["strength", "magnitude", "quantile", "laplace"])
def test_one_training_row_gives_no_held_out_residuals_and_says_so(scale, data):
    X, y = data
    model = SplitConformalRegressor(DecisionTreeRegressor(), scale=scale)
    with pytest.raises(ValueError, match="at least two training rows; got 1"):
        model.fit_train(X[:1], y[:1])


def test_one_training_row_leaves_the_default_the_leverage_scale(data):
    X, y = data
    model = SplitConformalRegressor(DecisionTreeRegressor(), random_state=0)
    with pytest.warns(LeverageWarning, match="leverage"):
        model.fit_train(X[:1], y[:1])
    assert np.isfinite(model.calibrate(X[1:], y[1:]).predict_interval(X)[1]).all()
