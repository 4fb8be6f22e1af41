"""Around which models intervals can be had: Pipelines on frames, weights, transformed targets, frozen models."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import HuberRegressor, Lasso, LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.svm import SVR

from hatband import LeaveOneOutKernelRidge, LeaveOneOutRidge, SplitConformalRegressor
from hatband.conformal.band import MonotoneTarget, mapped_back
from hatband.geometry import InputsGeometry
from oracles import dense_leverage


@pytest.fixture
def data(rng):
    X = rng.uniform(-1, 1, (200, 3))
    return X, np.exp(X[:, 0] + 0.5 * X[:, 1]) + 0.2 * rng.standard_normal(200)


MODELS = {
    "least squares": LinearRegression(),
    "lasso": Lasso(0.01),
    "huber": HuberRegressor(),
    "polynomial ridge": make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge(0.1)),
    "kernel ridge": KernelRidge(kernel="rbf", alpha=0.1),
    "gaussian process": GaussianProcessRegressor(RBF() + WhiteKernel(0.1), optimizer=None),
    "support vectors": SVR(),
    "network": MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", max_iter=100, tol=0.1, random_state=0),
    "forest": RandomForestRegressor(10, random_state=0),
    "boosting": GradientBoostingRegressor(n_estimators=10, random_state=0),
    "histogram boosting": HistGradientBoostingRegressor(max_iter=10),
    "neighbours": KNeighborsRegressor(),
    "search": GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [0.1, 1.0]}, cv=2),
    "logarithm": TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
}


@pytest.mark.parametrize("estimator", MODELS.values(), ids=MODELS)
def test_every_model_gets_finite_intervals_around_its_own_prediction(estimator, data):
    X, y = data[0], np.abs(data[1])
    model = SplitConformalRegressor(estimator, scale="leverage", random_state=0).fit(X, y)
    prediction, interval = model.predict_interval(X)

    np.testing.assert_allclose(prediction, model.estimator_.predict(X), rtol=1e-10)
    assert np.isfinite(interval).all()
    assert ((interval[:, 0] <= prediction) & (prediction <= interval[:, 1])).all()
    assert np.ptp(interval[:, 1] - interval[:, 0]) > 0
    assert (model.leverage(X) > 0).all()


class Counting(TransformerMixin, BaseEstimator):
    """Passes X on and counts how often it runs, and on how many rows; the counts are shared by clones."""

    calls = {"fit": 0, "transform": 0, "rows": 0}

    def fit(self, X, y=None):
        self.calls["fit"] += 1
        self.fitted_ = True
        return self

    def transform(self, X):
        self.calls["transform"] += 1
        self.calls["rows"] += len(X)
        return X


@pytest.mark.parametrize(
    "last", [Ridge(), RandomForestRegressor(5), HistGradientBoostingRegressor(max_iter=3)], ids=repr
)
def test_a_pipeline_transforms_once_per_call(last, data):
    X, y = data
    model = SplitConformalRegressor(make_pipeline(Counting(), last), scale="leverage")
    n = len(X)
    for call, times, rows in [
        # Once in the Pipeline's own fit, once for the space, and 16 rows for each of two predictions that are compared.
        (lambda: model.fit_train(X[:100], y[:100]), 4, 232),
        (lambda: model.calibrate(X[100:], y[100:]), 1, n - 100),
        (lambda: model.predict_interval(X), 1, n),
        (lambda: model.leverage(X), 1, n),
        (lambda: model.predict(X), 1, n),
    ]:
        Counting.calls.update(transform=0, rows=0)
        call()
        assert (Counting.calls["transform"], Counting.calls["rows"]) == (times, rows)


def frame(rng, n=200):
    city = rng.choice(["Bern", "Oslo", "Rome"], n)
    area = rng.uniform(20, 200, n)
    price = area * np.where(city == "Rome", 3.0, 2.0) + 10 * rng.standard_normal(n)
    return {"city": city, "area": area}, price


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
@pytest.mark.parametrize("last", [Ridge(), RandomForestRegressor(5, random_state=0)], ids=["ridge", "forest"])
def test_string_columns_of_frames_pass_through_a_column_transformer(library, last, rng):
    columns, y = frame(rng)
    X = library.DataFrame(columns)
    encode = ColumnTransformer([("city", OneHotEncoder(), ["city"]), ("area", StandardScaler(), ["area"])])
    model = SplitConformalRegressor(make_pipeline(encode, last), scale="leverage", random_state=0).fit(X, y)

    assert list(model.feature_names_in_) == ["city", "area"]
    assert np.isfinite(model.predict_interval(X)[1]).all()
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict_interval(library.DataFrame({"town": columns["city"], "area": columns["area"]}))


def test_shifting_and_rescaling_raw_inputs_under_a_scaler_changes_nothing(data):
    X, y = data
    other = X * np.array([1e3, 1e-4, 1.0]) + np.array([50.0, 0.0, -7.0])
    fit = lambda Z: SplitConformalRegressor(  # noqa: E731
        make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge(3.0)), random_state=0
    ).fit(Z, y)

    np.testing.assert_allclose(fit(X).predict_interval(X)[1], fit(other).predict_interval(other)[1], rtol=1e-9)


class TestSampleWeight:
    @pytest.mark.parametrize(
        "estimator",
        [
            Ridge(2.0),
            make_pipeline(StandardScaler(with_mean=False, with_std=False), Ridge(2.0)),
            TransformedTargetRegressor(Ridge(2.0), func=np.log1p, inverse_func=np.expm1),
            GridSearchCV(
                make_pipeline(StandardScaler(with_mean=False, with_std=False), Ridge()), {"ridge__alpha": [2.0]}
            ),
        ],
        ids=["ridge", "pipeline", "target", "search"],
    )
    def test_reaches_the_estimator_and_its_leverage(self, estimator, data, rng):
        X, y = data[0], np.abs(data[1])
        weights = rng.uniform(0, 3, len(y))
        model = SplitConformalRegressor(estimator, scale="leverage").fit_train(X, y, sample_weight=weights)
        plain = SplitConformalRegressor(estimator, scale="leverage").fit_train(X, y)

        np.testing.assert_allclose(model.leverage(X), dense_leverage(X, X, 2.0, weights), rtol=1e-9)
        assert np.abs(model.predict(X) - plain.predict(X)).max() > 1e-4

    def test_is_split_with_the_rows(self, data):
        X, y = data
        weights = np.ones(200)
        model = SplitConformalRegressor(scale="leverage", random_state=0).fit(X, y)
        weights[model.calibration_indices_] = 1000.0
        weighted = SplitConformalRegressor(scale="leverage", random_state=0).fit(X, y, sample_weight=weights)

        np.testing.assert_allclose(weighted.predict_interval(X)[1], model.predict_interval(X)[1], rtol=1e-12)

    def test_is_never_dropped_in_silence(self, data):
        X, y = data
        with pytest.raises(TypeError, match=r"KNeighborsRegressor\.fit does not take it"):
            SplitConformalRegressor(KNeighborsRegressor()).fit(X, y, sample_weight=np.ones(200))

    def test_follows_metadata_routing(self, data):
        X, y = data
        weights = np.linspace(0, 2, 200)
        with config_context(enable_metadata_routing=True):
            asked = SplitConformalRegressor(
                Ridge().set_fit_request(sample_weight=True), scale="leverage", random_state=0
            )
            refused = SplitConformalRegressor(
                Ridge().set_fit_request(sample_weight=False), scale="leverage", random_state=0
            )
            asked.fit(X, y, sample_weight=weights)
            refused.fit(X, y, sample_weight=weights)
            with pytest.raises(ValueError, match="sample_weight"):
                SplitConformalRegressor(Ridge()).fit(X, y, sample_weight=weights)
        by_name = SplitConformalRegressor(Ridge(), scale="leverage", random_state=0).fit(X, y, sample_weight=weights)
        without = SplitConformalRegressor(Ridge(), scale="leverage", random_state=0).fit(X, y)

        np.testing.assert_array_equal(asked.predict_interval(X)[1], by_name.predict_interval(X)[1])
        np.testing.assert_array_equal(refused.predict_interval(X)[1], without.predict_interval(X)[1])


class TestTransformedTarget:
    def test_bounds_are_those_of_the_transformed_scale_mapped_back(self, data):
        X, y = data[0], np.abs(data[1])
        outer = SplitConformalRegressor(
            TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), scale="leverage", random_state=0
        ).fit(X, y)
        inner = SplitConformalRegressor(Ridge(), scale="leverage", random_state=0).fit(X, np.log1p(y))

        np.testing.assert_allclose(outer.predict_interval(X)[1], np.expm1(inner.predict_interval(X)[1]), rtol=1e-9)

    def test_infinite_bounds_stay_infinite(self, data):
        X, y = data[0], np.abs(data[1])
        model = SplitConformalRegressor(TransformedTargetRegressor(Ridge(), transformer=StandardScaler()))
        model.fit_train(X, y).calibrate(X[:5], y[:5])
        with pytest.warns(UserWarning, match="At least 9"):
            interval = model.predict_interval(X)[1]
        assert (interval == [-np.inf, np.inf]).all()

    def test_bounds_beyond_the_range_of_the_inverse_are_infinite_each_on_its_own_side(self):
        target, ends = MonotoneTarget(FunctionTransformer(np.log, np.exp)), np.array([[1.0], [1e3]])  # exp(1e3) is inf

        np.testing.assert_array_equal(mapped_back(target, ends, np.inf), [[np.e], [np.inf]])
        np.testing.assert_array_equal(mapped_back(target, ends, -np.inf), [[np.e], [-np.inf]])

    def test_a_prediction_beyond_the_range_of_the_inverse_is_that_of_the_estimator(self, rng):
        X = np.linspace(0, 20, 200)[:, None]
        y = np.exp(X[:, 0] + 0.1 * rng.standard_normal(200))
        logged = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp)
        model = SplitConformalRegressor(logged, scale="constant", random_state=0).fit(X, y)
        with np.errstate(over="ignore"):
            assert model.predict([[1e3]]) == np.inf
            predicted, interval = model.predict_interval([[1e3]])

        assert predicted == np.inf
        np.testing.assert_array_equal(interval, [[-np.inf, np.inf]])

    @pytest.mark.parametrize(
        "target",
        [
            TransformedTargetRegressor(Ridge(), func=np.sqrt, inverse_func=np.square),
            TransformedTargetRegressor(Ridge(), transformer=QuantileTransformer(n_quantiles=20)),
        ],
        ids=["square root", "quantiles"],
    )
    def test_scores_are_formed_on_y_when_bounds_could_not_be_mapped_back(self, target, data):
        X, y = data[0], np.abs(data[1]) + 0.1
        model = SplitConformalRegressor(target, scale="constant", random_state=0).fit(X, y)
        prediction, interval = model.predict_interval(X)

        np.testing.assert_allclose(prediction, model.estimator_.predict(X), rtol=1e-12)
        np.testing.assert_allclose(interval.mean(axis=1), prediction, rtol=1e-9)


class TestFrozenModel:
    def test_is_not_refitted_and_its_rows_set_the_reference_of_leverage(self, data):
        X, y = data
        fitted = Ridge(3.0).fit(X[:100], y[:100])
        model = SplitConformalRegressor(FrozenEstimator(fitted), scale="leverage", random_state=0).fit_train(
            X[:100], y[:100]
        )
        refitted = SplitConformalRegressor(Ridge(3.0), scale="leverage", random_state=0).fit_train(X[:100], y[:100])
        for one in (model, refitted):
            one.calibrate(X[100:], y[100:])

        np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
        np.testing.assert_allclose(model.predict_interval(X)[1], refitted.predict_interval(X)[1], rtol=1e-10)

    def test_takes_any_geometry(self, data):
        X, y = data
        forest = RandomForestRegressor(10, random_state=0).fit(X[:100], y[:100])
        geometry = InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0)
        model = SplitConformalRegressor(FrozenEstimator(forest), geometry=geometry, scale="leverage")
        model.fit_train(X[:100], y[:100])

        np.testing.assert_allclose(model.leverage(X), dense_leverage(X[:100], X, 0.0, None, False), rtol=1e-9)


def test_sparse_features_give_the_intervals_of_the_dense_ones(data, rng):
    import scipy.sparse as sp

    X, y = data
    X = X * (rng.random(X.shape) < 0.3)
    dense = SplitConformalRegressor(Ridge(), scale="leverage", random_state=0).fit(X, y)
    sparse = SplitConformalRegressor(Ridge(), scale="leverage", random_state=0).fit(sp.csr_matrix(X), y)

    np.testing.assert_allclose(
        sparse.predict_interval(sp.csr_matrix(X))[1], dense.predict_interval(X)[1], rtol=1e-3
    )  # Ridge itself differs by its iterative sparse solver
    np.testing.assert_allclose(sparse.leverage(sp.csr_matrix(X)), dense.leverage(X), rtol=1e-10)


@pytest.mark.parametrize(
    "model",
    [
        SplitConformalRegressor(LeaveOneOutRidge(), random_state=0),
        SplitConformalRegressor(LeaveOneOutKernelRidge(), random_state=0),
        SplitConformalRegressor(LinearRegression(), random_state=0),
        SplitConformalRegressor(make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge()), random_state=0),
        SplitConformalRegressor(GaussianProcessRegressor(RBF(), alpha=0.1, optimizer=None), random_state=0),
        SplitConformalRegressor(SVR(), random_state=0),
    ],
    ids=lambda m: type(m.estimator).__name__ if hasattr(m, "estimator") else type(m).__name__,
)
def test_far_from_the_data_the_band_is_at_least_as_wide_as_anywhere_on_it(model, data):
    X, y = data
    model.fit(X, y)
    widest = np.ptp(model.predict_interval(X)[1], axis=1).max()
    directions = np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3))])
    far = np.ptp(model.predict_interval(1000 * np.abs(X).max() * directions)[1], axis=1)

    assert far.min() >= widest
