"""FullConformalRegressor is a scikit-learn estimator, says what it refuses, and reports what has no bound."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Lasso, LinearRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_readonly_memmap_input,
    parametrize_with_checks,
)

from hatband import CalibrationWarning, FullConformalRegressor, InputsGeometry, LeverageWarning
from oracles import dense_hat, full_conformal_grid

ESTIMATORS = [
    FullConformalRegressor(Ridge()),
    FullConformalRegressor(Ridge(), method="deleted"),
    FullConformalRegressor(make_pipeline(StandardScaler(with_mean=False), Ridge())),
    FullConformalRegressor(KernelRidge(kernel="rbf")),
]


UNWEIGHTED_SCALER = "the step before the model is fitted without weights"


def expected_failures(estimator):
    if not isinstance(estimator.estimator, Pipeline):
        return {}
    checks = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")
    return dict.fromkeys(checks, UNWEIGHTED_SCALER)


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [ESTIMATORS[0], ESTIMATORS[3]])
@pytest.mark.parametrize("check", [check_dataframe_column_names_consistency, check_readonly_memmap_input])
def test_checks_that_scikit_learn_keeps_to_itself_pass(estimator, check):
    check(type(estimator).__name__, clone(estimator))


@pytest.fixture
def data():
    return make_regression(60, 4, noise=5.0, random_state=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
class TestIntervals:
    def test_survive_pickle_copy_and_refit(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y)
        _, interval = model.predict_interval(X)
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone(model).fit(X, y), model.fit(X, y)):
            # Copies lie elsewhere in memory, and BLAS sums in another order there.
            np.testing.assert_allclose(other.predict_interval(X)[1], interval, rtol=1e-9)

    def test_leave_no_trace_in_the_model(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y)
        before = pickle.dumps(model)
        model.predict_interval(X, [0.5, 0.9])
        model.predict_set(X)
        model.leverage(X)

        assert pickle.dumps(model) == before

    def test_do_not_depend_on_which_rows_are_asked_about(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y)
        _, interval = model.predict_interval(X)

        np.testing.assert_allclose(model.predict_interval(X[7:9])[1], interval[7:9], rtol=1e-9)

    def test_come_through_predict_of_an_outer_pipeline(self, estimator, data):
        X, y = data
        outer = make_pipeline(StandardScaler(), clone(estimator)).fit(X, y)

        assert outer.predict(X, return_interval=True)[1].shape == (60, 2)
        np.testing.assert_array_equal(outer.predict(X), outer.predict(X, return_interval=True)[0])


def test_a_column_vector_target_keeps_its_axis(data):
    X, y = data
    flat, column = FullConformalRegressor().fit(X, y), FullConformalRegressor().fit(X, y[:, None])

    assert column.predict(X).shape == (60, 1)
    assert column.predict_interval(X, [0.5, 0.9])[1].shape == (60, 1, 2, 2)
    np.testing.assert_allclose(column.predict_interval(X)[1][:, 0], flat.predict_interval(X)[1], rtol=1e-12)
    assert column.predict_set(X)[0][0].shape == (1, 2)


def test_rows_may_be_a_frame_with_strings_or_sparse(data):
    X, y = data
    frame = pd.DataFrame({"number": X[:, 0], "colour": np.tile(["red", "blue", "green"], 20)})
    columns = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    mixed = FullConformalRegressor(make_pipeline(columns, Ridge())).fit(frame, y)
    dense = FullConformalRegressor(Ridge(solver="cholesky")).fit(X, y)
    csr = FullConformalRegressor(Ridge(solver="sparse_cg", tol=1e-12)).fit(sparse.csr_array(X), y)

    assert mixed.predict_interval(frame)[1].shape == (60, 2)
    np.testing.assert_allclose(
        csr.predict_interval(sparse.csr_array(X))[1], dense.predict_interval(X)[1], rtol=1e-6, atol=1e-6
    )


def test_sample_weight_reaches_the_model_and_its_leverage(data):
    X, y = data
    weights = np.linspace(0.5, 2, 60)
    model = FullConformalRegressor(make_pipeline(StandardScaler(), Ridge())).fit(X, y, sample_weight=weights)
    scaled = StandardScaler().fit_transform(X)

    np.testing.assert_allclose(model.smoother_.hat_diagonal[:, 0], np.diag(dense_hat(scaled, 1.0, weights)), rtol=1e-9)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = FullConformalRegressor(Ridge().set_fit_request(sample_weight=True)).set_fit_request(sample_weight=True)
        plain = FullConformalRegressor(Ridge().set_fit_request(sample_weight=False)).set_fit_request(sample_weight=True)
        assert routed.fit(X, y, sample_weight=weights).smoother_.weights is not None
        assert plain.fit(X, y, sample_weight=weights).smoother_.weights is None


def test_a_row_of_small_weight_and_large_leverage_only_widens_a_studentised_interval(rng):
    """Where its own acceptance is not an interval it counts as accepting everything."""
    X = rng.standard_normal((25, 2))
    X[:6] *= 20
    y = X[:, 0] + rng.standard_normal(25)
    weights = np.where(np.arange(25) < 6, 1e-4, 1.0)
    model = FullConformalRegressor(Ridge(1.0)).fit(X, y, sample_weight=weights)
    X_new = X[:6] * 1.5
    for x, centre, (low, high) in zip(X_new, *model.predict_interval(X_new, 0.8), strict=True):
        grid = centre + np.linspace(-100, 100, 801)
        hat, all_weights = dense_hat(np.vstack([X, x]), 1.0, np.append(weights, 1)), np.append(weights, 1.0)
        inside = full_conformal_grid(hat, y, grid, "studentised", level=0.8, weights=all_weights)
        assert ((low <= grid[inside]) & (grid[inside] <= high)).all()


class TestRefusals:
    @pytest.mark.parametrize(
        "estimator",
        [Lasso(), TransformedTargetRegressor(Ridge()), LinearRegression(positive=True)],
        ids=lambda e: type(e).__name__,
    )
    def test_no_linear_smoother_names_what_to_use_instead(self, estimator, data):
        with pytest.raises(ValueError, match=r"FullConformalRegressor needs a model .* Use CrossConformalRegressor"):
            FullConformalRegressor(estimator).fit(*data)

    def test_geometry_of_something_else(self, data):
        with pytest.raises(ValueError, match="fixed linear smoother"):
            FullConformalRegressor(geometry=InputsGeometry()).fit(*data)

    @pytest.mark.parametrize("estimator", [RidgeCV(), GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=3)])
    def test_tuned_hyperparameters_need_a_word_and_lose_the_guarantee(self, estimator, data):
        with pytest.raises(ValueError, match=r"chose hyperparameters .* allow_tuned=True and lose the guarantee"):
            FullConformalRegressor(estimator).fit(*data)
        with pytest.warns(CalibrationWarning, match="coverage guarantee is lost"):
            model = FullConformalRegressor(estimator, allow_tuned=True).fit(*data)
        assert model.predict_interval(data[0])[1].shape == (60, 2)

    def test_a_frozen_model_of_other_rows(self, data):
        X, y = data
        own = FullConformalRegressor(FrozenEstimator(Ridge().fit(X, y))).fit(X, y)
        np.testing.assert_allclose(
            own.predict_interval(X)[1], FullConformalRegressor(Ridge()).fit(X, y).predict_interval(X)[1], rtol=1e-9
        )
        with pytest.raises(ValueError, match="those of the linear smoother that its geometry describes"):
            FullConformalRegressor(FrozenEstimator(Ridge().fit(X[:20], y[:20]))).fit(X, y)

    def test_a_kernel_that_is_too_large(self, data, monkeypatch):
        monkeypatch.setattr("hatband.fitted.smoother.LARGEST_KERNEL", 59)
        with pytest.raises(
            ValueError, match=r"takes at most 59 rows; got 60\. Use a Pipeline of scikit-learn's Nystroem"
        ):
            FullConformalRegressor(KernelRidge(kernel="rbf")).fit(*data)
        FullConformalRegressor(Ridge()).fit(*data)

    def test_bad_arguments(self, data):
        X, y = data
        with pytest.raises(ValueError, match="method must be one of"):
            FullConformalRegressor(method="signed").fit(X, y)
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            FullConformalRegressor(confidence_level=1.0).fit(X, y)
        with pytest.raises(ValueError, match="y must be finite; row 1"):
            FullConformalRegressor().fit(X, np.where(np.arange(60) == 1, np.inf, y))
        with pytest.raises(ValueError, match=r"sample_weight must be finite and >= 0; row 0 has -1\.0"):
            FullConformalRegressor().fit(X, y, sample_weight=np.full(60, -1.0))
        with pytest.raises(ValueError, match="predict_set takes one confidence_level; got"):
            FullConformalRegressor().fit(X, y).predict_set(X, [0.8, 0.9])
        with pytest.raises(NotFittedError):
            FullConformalRegressor().predict_interval(X)

    def test_a_failed_fit_leaves_the_model_as_it_was(self, data):
        X, y = data
        model = FullConformalRegressor().fit(X, y)
        _, interval = model.predict_interval(X)
        with pytest.raises(ValueError, match="NaN"):
            model.fit(np.full((60, 2), np.nan), y)
        np.testing.assert_array_equal(model.predict_interval(X)[1], interval)


class TestUnboundedSets:
    def test_too_few_rows_for_the_level_say_how_many_would_do(self, data):
        X, y = data
        model = FullConformalRegressor(Ridge(), method="absolute").fit(X[:8], y[:8])
        with pytest.warns(CalibrationWarning, match="8 rows cannot support confidence level 0.9.* At least 9 rows"):
            _, interval = model.predict_interval(X)
        assert np.isinf(interval).all()
        FullConformalRegressor().fit(X[:9], y[:9]).predict_interval(X)

    def test_a_row_of_high_leverage_is_reported(self, data):
        X, y = data
        model = FullConformalRegressor(Ridge(), method="absolute").fit(X, y)
        X_new = np.vstack([X[:1], 1e4 * X[:1]])
        with pytest.warns(LeverageWarning, match="1 of 2 rows have an unbounded prediction set"):
            _, interval = model.predict_interval(X_new)
        with pytest.warns(LeverageWarning, match="1 of 2 rows"):
            sets = model.predict_set(X_new)
        assert np.isfinite(interval[0]).all()
        assert sets[1][0, 0] == -np.inf or sets[1][-1, 1] == np.inf

    @pytest.mark.parametrize("score", ["studentised", "absolute", "deleted"])
    def test_a_row_outside_the_span_gets_the_whole_line(self, score, rng):
        X = np.column_stack([rng.standard_normal(30), np.zeros(30)])
        model = FullConformalRegressor(LinearRegression(), method=score).fit(X, X[:, 0] + rng.standard_normal(30))
        with pytest.warns(LeverageWarning, match="outside the span"):
            assert model.predict_set([[0.0, 1.0]])[0].tolist() == [[-np.inf, np.inf]]

    def test_a_model_that_interpolates_promises_nothing(self, rng):
        X = rng.standard_normal((20, 25))
        model = FullConformalRegressor(LinearRegression()).fit(X, rng.standard_normal(20))
        with pytest.warns(LeverageWarning, match="interpolates its rows: 20 of 20"):
            assert np.isinf(model.predict_interval(X[:2])[1]).all()
