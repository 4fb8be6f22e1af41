"""A scale that is wrong is told what is wrong with it: its flags, what it returns, or that it is a class."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor

from hatband import (
    AutoScale,
    CrossConformalRegressor,
    JackknifePlusRegressor,
    LeverageScale,
    OnlineConformalRegressor,
    SplitConformalRegressor,
)
from hatband.scales import Scale, check_training_rows
from scales.cases import draw, rows_of


class Returns(Scale):
    """A scale whose predict returns what a function of rows says."""

    pointwise = True

    def __init__(self, answer=None):
        self.answer = answer

    def fit(self, rows=None, residuals=None, sample_weight=None):
        return self

    def predict(self, rows):
        return self.answer(rows)


class Forgetful(Scale):
    """Reads rows in fit, and declares nothing."""

    def fit(self, rows, residuals=None, sample_weight=None):
        self.size_ = np.abs(rows.prediction).mean()
        return self

    def predict(self, rows):
        return 0.0, np.ones(len(rows)) * self.size_


class Boastful(Forgetful):
    """Declares that it can do without rows, and cannot."""

    needs_residuals, works_without_residuals = True, True


class Checked(Forgetful):
    """Forgetful, with the check."""

    def fit(self, rows, residuals=None, sample_weight=None):
        rows, residuals, _ = check_training_rows(self, rows, residuals, sample_weight)
        return super().fit(rows, residuals)


class CheckedBoastful(Checked):
    needs_residuals, works_without_residuals = True, True


@pytest.fixture
def data(rng):
    return draw(rng, 80)


def fit(scale, data, estimator=None):
    return SplitConformalRegressor(estimator or Ridge(), scale=scale, random_state=0).fit(*data)


def shape(*columns):
    return lambda rows: (0.0, np.ones((len(rows), *columns)))


class TestFlags:
    def test_a_fit_that_reads_rows_is_told_to_declare_that_it_needs_them(self, data):
        with pytest.raises(TypeError, match=r"Forgetful.fit\(None\) failed.* declare needs_residuals = True"):
            fit(Forgetful(), data)
        with pytest.raises(ValueError, match=r"fit got none\. Declare needs_residuals = True in the class"):
            fit(Checked(), data)

    def test_a_fit_that_cannot_do_without_rows_is_told_not_to_claim_it(self, data):
        frozen = FrozenEstimator(DecisionTreeRegressor(max_depth=3, random_state=0).fit(*data))
        with pytest.raises(TypeError, match=r"declares works_without_residuals = True\. If fit reads rows"):
            fit(Boastful(), data, frozen)
        with pytest.raises(ValueError, match="or declare works_without_residuals = False"):
            fit(CheckedBoastful(), data, frozen)

    def test_other_errors_of_a_fit_without_rows_are_left_as_they_are(self, data):
        with pytest.raises(ValueError, match="power must be finite"):
            fit(LeverageScale(-1.0), data)

    def test_a_scale_that_does_not_declare_pointwise_is_told_that_it_can(self, data):
        with pytest.raises(ValueError, match="Forgetful does not declare pointwise = True"):
            JackknifePlusRegressor(Ridge(), scale=Forgetful()).fit(*data)
        with pytest.raises(ValueError, match=r"\(pointwise = True, needs_residuals = False\); got Forgetful"):
            OnlineConformalRegressor(scale=Forgetful()).fit(*data)

    def test_a_pointwise_scale_gives_one_width_for_each_leverage_and_no_shift(self, data):
        for answer in (shape(2), lambda rows: (np.ones((len(rows), 1)), 1 + rows.leverage)):
            with pytest.raises(ValueError, match=r"Returns declares pointwise = True: predict must return shift 0.0"):
                JackknifePlusRegressor(Ridge(), scale=Returns(answer)).fit(*data)
        with pytest.raises(ValueError, match="declares pointwise = True uses only the leverage"):
            JackknifePlusRegressor(Ridge(), scale=Returns(lambda rows: (0.0, rows.inputs[:, 0]))).fit(*data)


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "error", "message"),
        [
            (lambda rows: np.ones(len(rows)), TypeError, r"a tuple \(shift, width\); got ndarray"),
            (lambda rows: np.ones((2, len(rows))), TypeError, r"a tuple \(shift, width\); got ndarray"),
            (lambda rows: (0.0, 1.0, 2.0), TypeError, r"a tuple \(shift, width\); got a tuple of 3"),
            (lambda rows: None, TypeError, r"a tuple \(shift, width\); got NoneType"),
            (shape(3), ValueError, r"widths \(m, 1\), or \(m, q\) .*: \(20, 1\); got \(20, 3\)"),
            (lambda rows: (0.0, 1.0), ValueError, r"one width per row, 20 of them; got shape \(\)"),
            (lambda rows: (np.ones(3), 1 + rows.leverage), ValueError, r"a shift that is 0.0.*20 rows.*shape \(3,\)"),
            (lambda rows: (np.ones((20, 2)), 1 + rows.leverage), ValueError, r"shifts \(m, 1\).*got \(20, 2\)"),
            (lambda rows: (np.nan, 1 + rows.leverage), ValueError, "shifts that are finite"),
            (lambda rows: (np.full(len(rows), np.inf), 1 + rows.leverage), ValueError, "shifts that are finite"),
        ],
    )
    def test_of_another_form_are_refused(self, answer, error, message, data):
        with pytest.raises(error, match=f"Returns.*{message}"):
            fit(Returns(answer), data)

    def test_a_shift_of_one_number_a_row_moves_each_interval(self, data):
        plain = fit(Returns(shape(1)), data).model_.predict(data[0])
        by_row = fit(Returns(lambda rows: (1 + rows.leverage, np.ones(len(rows)))), data)
        by_column = fit(Returns(lambda rows: ((1 + rows.leverage)[:, None], np.ones((len(rows), 1)))), data)
        bounds = by_row.predict_interval(data[0])[1]

        assert bounds.shape == (80, 2)
        np.testing.assert_array_equal(bounds, by_column.predict_interval(data[0])[1])
        np.testing.assert_allclose(bounds.mean(axis=1), plain + 1 + by_row.leverage(data[0]))


class TestClasses:
    @pytest.mark.parametrize("kind", [LeverageScale, Forgetful])
    @pytest.mark.parametrize("regressor", [SplitConformalRegressor, JackknifePlusRegressor, CrossConformalRegressor])
    def test_in_the_place_of_a_scale_are_refused(self, regressor, kind, data):
        with pytest.raises(TypeError, match=rf"scale must be an instance.*{kind.__name__}. Pass {kind.__name__}\(\)"):
            regressor(Ridge(), scale=kind).fit(*data)

    def test_among_candidates_are_refused(self, rng):
        rows = rows_of(rng.exponential(1, 50))
        with pytest.raises(TypeError, match=r"candidate 'one' must be an instance.*Pass LeverageScale\(\)"):
            AutoScale({"one": LeverageScale}).fit(rows, rng.standard_normal((50, 1)))


class TestTrainingRows:
    def test_of_weight_0_are_dropped(self, rng):
        rows, residuals = rows_of(np.arange(4.0)), rng.standard_normal((4, 1))
        found, left, weight = check_training_rows(Checked(), rows, residuals, np.array([1.0, 0, 2, 0]))

        np.testing.assert_array_equal(found.leverage, [0, 2])
        np.testing.assert_array_equal(left, residuals[[0, 2]])
        np.testing.assert_array_equal(weight, [1, 2])

    def test_are_returned_as_they_are_without_weights_of_0(self, rng):
        rows, residuals = rows_of(np.arange(4.0)), rng.standard_normal((4, 1))
        assert check_training_rows(Checked(), rows, residuals) == (rows, residuals, None)
