"""What the intervals are: the formula by hand, the layout, the two sides, and what too few rows give."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression, Ridge

from hatband import CalibrationWarning, LeverageScale, LeverageWarning, SplitConformalRegressor
from oracles import dense_leverage, exact_lower_rank, exact_upper_rank


@pytest.fixture
def parts(rng):
    X = rng.standard_normal((160, 5)) + 3
    y = X @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + rng.standard_normal(160)
    return X[:80], y[:80], X[80:140], y[80:140], X[140:]


def by_hand(parts, ridge, level, power=0.5):
    """Ridge regression, leverage and ranks from their definitions."""
    X, y, X_cal, y_cal, X_new = parts
    mean, y_mean = X.mean(0), y.mean()
    coef = np.linalg.solve((X - mean).T @ (X - mean) + ridge * np.eye(X.shape[1]), (X - mean).T @ (y - y_mean))
    predict = lambda rows: (rows - mean) @ coef + y_mean  # noqa: E731
    width = lambda rows: (1 + dense_leverage(X, rows, ridge)) ** power  # noqa: E731
    scores = np.sort(np.abs(y_cal - predict(X_cal)) / width(X_cal))
    half = scores[exact_upper_rank(len(scores), level) - 1] * width(X_new)
    return predict(X_new), np.stack([predict(X_new) - half, predict(X_new) + half], axis=1)


@pytest.mark.parametrize("level", [Fraction(1, 2), Fraction(4, 5), Fraction(9, 10), Fraction(19, 20)], ids=str)
@pytest.mark.parametrize("ridge", [0.0, 0.3, 30.0])
def test_equal_the_formula_by_hand(parts, ridge, level):
    X, y, X_cal, y_cal, X_new = parts
    estimator = Ridge(alpha=ridge) if ridge else LinearRegression()
    model = SplitConformalRegressor(estimator, confidence_level=float(level)).fit_train(X, y).calibrate(X_cal, y_cal)
    prediction, interval = model.predict_interval(X_new)
    expected_prediction, expected = by_hand(parts, ridge, level)

    np.testing.assert_allclose(prediction, expected_prediction, rtol=1e-10)
    np.testing.assert_allclose(interval, expected, rtol=1e-10)
    np.testing.assert_array_equal(model.predict(X_new), prediction)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_widths_follow_the_power_of_the_scale(parts, power):
    X, y, X_cal, y_cal, X_new = parts
    model = SplitConformalRegressor(Ridge(2.0), scale=LeverageScale(power)).fit_train(X, y).calibrate(X_cal, y_cal)

    np.testing.assert_allclose(
        model.predict_interval(X_new)[1], by_hand(parts, 2.0, Fraction(9, 10), power)[1], rtol=1e-10
    )


@pytest.mark.parametrize("level", [0.9, 1 - 0.1, np.float32(0.9), Fraction(9, 10)], ids=repr)
def test_the_rank_does_not_depend_on_how_the_level_is_written(parts, level):
    X, y, X_cal, y_cal, X_new = parts
    model = SplitConformalRegressor().fit_train(X, y).calibrate(X_cal[:29], y_cal[:29])

    np.testing.assert_array_equal(model.predict_interval(X_new, level)[1], model.predict_interval(X_new, 0.9)[1])


@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("levels", [0.8, [0.8], [0.5, 0.8, 0.9]], ids=str)
def test_layout_is_rows_outputs_sides_levels(parts, outputs, levels):
    X, y, X_cal, y_cal, X_new = parts
    widen = (lambda t: t) if outputs is None else (lambda t: np.stack([t * (j + 1) for j in range(outputs)], axis=1))
    model = SplitConformalRegressor().fit_train(X, widen(y)).calibrate(X_cal, widen(y_cal))
    prediction, interval = model.predict_interval(X_new, levels)
    q = () if outputs is None else (outputs,)
    n_levels = () if isinstance(levels, float) else (len(levels),)

    assert prediction.shape == (20, *q)
    assert interval.shape == (20, *q, 2, *n_levels)
    lower, upper = np.moveaxis(interval, 1 + len(q), 0)
    assert (lower <= upper).all()


def test_outputs_are_calibrated_each_on_its_own(parts):
    X, y, X_cal, y_cal, X_new = parts
    two = SplitConformalRegressor().fit_train(X, np.c_[y, 100 * y]).calibrate(X_cal, np.c_[y_cal, 100 * y_cal])
    one = SplitConformalRegressor().fit_train(X, y).calibrate(X_cal, y_cal)
    interval = two.predict_interval(X_new)[1]

    np.testing.assert_allclose(interval[:, 0], one.predict_interval(X_new)[1], rtol=1e-9)
    np.testing.assert_allclose(interval[:, 1], 100 * interval[:, 0], rtol=1e-9)


def test_asymmetric_sides_take_half_of_the_miscoverage_each(parts):
    X, y, X_cal, y_cal, X_new = parts
    model = SplitConformalRegressor(scale="constant", symmetric=False).fit_train(X, y).calibrate(X_cal, y_cal)
    scores = np.sort(y_cal - model.predict(X_cal))
    side = Fraction(19, 20)
    low = scores[exact_lower_rank(len(scores), side) - 1]
    high = scores[exact_upper_rank(len(scores), side) - 1]
    prediction, interval = model.predict_interval(X_new)

    np.testing.assert_allclose(interval - prediction[:, None], np.tile([low, high], (20, 1)), rtol=1e-9, atol=1e-12)


def test_higher_levels_contain_lower_ones(parts):
    X, y, X_cal, y_cal, X_new = parts
    for symmetric in (True, False):
        model = SplitConformalRegressor(symmetric=symmetric).fit_train(X, y).calibrate(X_cal, y_cal)
        interval = model.predict_interval(X_new, [0.5, 0.6, 0.7, 0.8, 0.9])[1]
        assert (np.diff(interval[:, 0], axis=1) <= 0).all()
        assert (np.diff(interval[:, 1], axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("rows", "level", "finite"), [(8, 0.9, False), (9, 0.9, True), (18, 0.95, False), (19, 0.95, True)]
)
def test_an_exactly_sufficient_calibration_set_gives_finite_bounds_and_one_row_less_does_not(
    parts, rows, level, finite
):
    X, y, X_cal, y_cal, X_new = parts
    model = SplitConformalRegressor(confidence_level=level).fit_train(X, y).calibrate(X_cal[:rows], y_cal[:rows])
    if finite:
        assert np.isfinite(model.predict_interval(X_new)[1]).all()
    else:
        with pytest.warns(CalibrationWarning, match=f"{rows} calibration rows .* At least {rows + 1}"):
            interval = model.predict_interval(X_new)[1]
        assert (interval == [-np.inf, np.inf]).all()


def test_rows_outside_the_span_of_a_model_without_ridge_get_infinite_intervals_and_one_warning(rng):
    X = rng.standard_normal((60, 4))
    X[:, 3] = X[:, 0] + X[:, 1]
    y = X[:, 0] + rng.standard_normal(60)
    model = SplitConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
    X_new = X[:5].copy()
    X_new[2, 3] += 1
    with pytest.warns(LeverageWarning, match="1 of 5 rows lie outside the span") as caught:
        interval = model.predict_interval(X_new)[1]

    assert len(caught) == 1
    assert np.isinf(interval[2]).all()
    assert np.isfinite(interval[[0, 1, 3, 4]]).all()
    assert np.isfinite(SplitConformalRegressor(Ridge(), random_state=0).fit(X, y).predict_interval(X_new)[1]).all()


def test_more_features_than_rows_without_ridge_warns_that_a_ridge_is_needed(rng):
    X, y = rng.standard_normal((40, 60)), rng.standard_normal(40)
    with pytest.warns(LeverageWarning, match="10 of 10 calibration rows .* ridge > 0"):
        model = SplitConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
    with pytest.warns(LeverageWarning, match="outside the span"):
        interval = model.predict_interval(rng.standard_normal((3, 60)))[1]

    assert (interval == [-np.inf, np.inf]).all()


def test_calibration_indices_are_exactly_as_many_as_asked_for(parts):
    X, y = parts[0], parts[1]
    for size, expected in [(7, 7), (0.25, 20), (0.1, 8), (79, 79)]:
        model = SplitConformalRegressor(Ridge(), calibration_size=size, random_state=1).fit(X, y)
        assert len(model.calibration_indices_) == len(model.scores_) == expected
    assert not hasattr(SplitConformalRegressor(calibration_size=0).fit(X, y), "scores_")


def test_return_width_gives_the_scale_of_the_band(parts):
    X, y, X_cal, y_cal, X_new = parts
    model = SplitConformalRegressor(Ridge(1.0)).fit_train(X, y).calibrate(X_cal, y_cal)
    prediction, width = model.predict(X_new, return_width=True)

    np.testing.assert_array_equal(prediction, model.predict(X_new))
    np.testing.assert_allclose(width, np.sqrt(1 + dense_leverage(X, X_new, 1.0)), rtol=1e-10)


def test_return_width_is_refused_where_scores_are_on_another_scale_than_y(parts):
    X, y, *_, X_new = parts
    logged = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp)
    model = SplitConformalRegressor(logged, scale="leverage").fit_train(X, np.exp(y))

    with pytest.raises(ValueError, match="TransformedTargetRegressor is on the scale it learns"):
        model.predict(X_new, return_width=True)
    assert (model.predict(X_new) > 0).all()


def test_return_width_is_on_the_scale_of_y_where_a_transformation_cannot_be_inverted_for_bounds(parts):
    X, y, *_, X_new = parts
    squared = TransformedTargetRegressor(Ridge(), func=np.abs, inverse_func=lambda t: t**2, check_inverse=False)
    model = SplitConformalRegressor(squared, scale="leverage").fit_train(X, y)

    np.testing.assert_allclose(model.predict(X_new, return_width=True)[0], model.predict(X_new), rtol=1e-12)
