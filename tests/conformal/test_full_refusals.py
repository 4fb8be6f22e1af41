"""FullConformalRegressor: tables and weights, what it refuses, and that it reports what has no bound."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Lasso, LinearRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hatband import CalibrationWarning, FullConformalRegressor, InputsGeometry, LeverageWarning
from oracles import dense_hat, full_conformal_grid


@pytest.fixture
def data():
    return make_regression(60, 4, noise=5.0, random_state=0)


def test_sets_have_the_axis_of_the_target_and_leave_no_trace(data):
    X, y = data
    model = FullConformalRegressor().fit(X, y[:, None])
    before = pickle.dumps(model)

    assert model.predict_set(X)[0][0].shape == (1, 2)
    assert pickle.dumps(model) == before


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
        with pytest.raises(ValueError, match=r"choices made on these rows.* allow_tuned=True and lose the guarantee"):
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
        with pytest.raises(ValueError, match="predict_set takes one confidence_level; got"):
            FullConformalRegressor().fit(X, y).predict_set(X, [0.8, 0.9])
        with pytest.raises(NotFittedError):
            FullConformalRegressor().predict_set(X)


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
