"""A Pipeline is measured on what its last step sees, and transforms its rows once."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_selection import SelectFromModel, SelectKBest, VarianceThreshold, f_regression
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler, TargetEncoder

from geometry.cases import NEW, X, y
from hatband.geometry import geometry_of
from hatband.geometry.composite import Preprocessed
from hatband.geometry.model import steps_of
from oracles import dense_leverage, dense_sampling_leverage
from rounding import of_products, offset, through_gram

pl = pytest.importorskip("polars", reason="polars is not installed")

RNG = np.random.default_rng(3)
WORDS = RNG.choice(["red", "green", "blue"], len(X))


class CountingScaler(TransformerMixin, BaseEstimator):
    """Counts how often it is asked to transform."""

    def fit(self, X, y=None):
        self.calls_ = 0
        return self

    def transform(self, X):
        self.calls_ += 1
        return X / 2


def table(words=WORDS, numbers=X):
    return pd.DataFrame({"size": numbers[:, 0], "colour": words, "age": numbers[:, 1]})


def by_kind():
    return make_column_transformer(
        (StandardScaler(), ["size", "age"]), (OneHotEncoder(handle_unknown="ignore"), ["colour"])
    )


def polynomial_ridge():
    return make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge(alpha=3.0))


def test_leverage_of_a_pipeline_is_the_dense_formula_on_its_features_with_its_ridge():
    model = polynomial_ridge().fit(X, y)
    features = model[:-1].transform
    space = geometry_of(model).fit(X)
    F = space.features(NEW)
    expected = dense_leverage(features(X), features(NEW), ridge=3.0)
    close = through_gram(features(X)[:, 1:], 3.0)  # the first is the constant
    np.testing.assert_allclose(space.leverage(F), expected, rtol=close)
    np.testing.assert_allclose(space.leverages(F)[0], expected, rtol=close)
    sampling = dense_sampling_leverage(features(X), features(NEW), ridge=3.0)
    np.testing.assert_allclose(space.sampling_leverage(F), sampling, rtol=close, atol=close * expected.max())
    np.testing.assert_allclose(space.leverages(F)[1], sampling, rtol=close, atol=close * expected.max())
    np.testing.assert_allclose(np.diag(space.cross_leverage(F, F)), expected, rtol=close)


def test_rescaled_and_shifted_inputs_under_a_scaler_have_the_same_leverage():
    scale, shift = np.geomspace(1e-3, 1e3, X.shape[1]), np.linspace(-100, 100, X.shape[1])
    first, second = (polynomial_ridge().fit(rows, y) for rows in (X, X * scale + shift))
    one, two = geometry_of(first).fit(X), geometry_of(second).fit(X * scale + shift)
    # The scaler takes away a mean of up to offset(moved) deviations, and the square doubles what that rounds.
    features = first[:-1].transform(X)[:, 1:]
    close = through_gram(features, 3.0) * (1 + 2 * offset(X * scale + shift))
    np.testing.assert_allclose(
        one.leverage(one.features(NEW)), two.leverage(two.features(NEW * scale + shift)), rtol=close
    )


def test_features_run_the_transformers_once_and_nothing_else_does():
    model = make_pipeline(CountingScaler(), Ridge()).fit(X, y)
    counter = model[0]
    counter.calls_ = 0
    space = geometry_of(model).fit(X)
    assert counter.calls_ == 1
    F = space.features(NEW)
    assert counter.calls_ == 2
    space.leverages(F)
    space.cross_leverage(F, F.take(slice(2)))
    space.inputs(F)
    space.final_step(model).predict(F.model_inputs)
    assert counter.calls_ == 2


@pytest.mark.parametrize(
    "model",
    [
        polynomial_ridge(),
        make_pipeline(StandardScaler(), "passthrough", Ridge(alpha=3.0)),
        Pipeline([("scale", StandardScaler()), ("inner", polynomial_ridge())]),
        GridSearchCV(polynomial_ridge(), {"ridge__alpha": [3.0]}, cv=2),
        RandomizedSearchCV(polynomial_ridge(), {"ridge__alpha": [3.0]}, n_iter=1, cv=2),
        make_pipeline(StandardScaler(), GridSearchCV(Ridge(), {"alpha": [3.0, 30.0]}, cv=2)),
        GridSearchCV(make_pipeline(StandardScaler(), polynomial_ridge()), {"pipeline__ridge__alpha": [3.0]}, cv=2),
        FrozenEstimator(polynomial_ridge().fit(X, y)),
        make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=3)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_final_step_predicts_from_the_features_what_the_model_predicts_from_rows(model):
    model.fit(X, y)
    space = geometry_of(model).fit(X)
    np.testing.assert_array_equal(space.final_step(model).predict(space.features(NEW).model_inputs), model.predict(NEW))


def test_steps_left_out_and_nested_pipelines_are_taken_apart():
    model = Pipeline([("none", None), ("pass", "passthrough"), ("inner", polynomial_ridge())]).fit(X, y)
    steps = steps_of(model)
    assert [type(step) for step in steps.transformers] == [StandardScaler, PolynomialFeatures]
    assert steps.model is steps.predictor is model[-1][-1]
    assert steps.exactness == "exact"


def test_words_of_a_data_frame_reach_the_geometry_as_the_sparse_matrix_that_the_model_sees():
    frame = table()
    model = make_pipeline(by_kind().set_params(sparse_threshold=1.0), Ridge(alpha=2.0)).fit(frame, y)
    space = geometry_of(model).fit(frame)
    F = space.features(frame)
    assert F.values.format == "csr"
    assert len(F) == len(F.take(slice(None))) == len(X)
    dense = model[:-1].transform(frame).toarray()
    np.testing.assert_allclose(space.leverage(F), dense_leverage(dense, dense, 2.0), rtol=through_gram(dense, 2.0))
    np.testing.assert_array_equal(space.inputs(F), dense)
    np.testing.assert_array_equal(space.final_step(model).predict(F.model_inputs), model.predict(frame))


@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_frames_in_and_out_of_transformers_give_the_same_leverage_without_a_warning(output):
    model = make_pipeline(
        make_column_transformer(
            (StandardScaler(), ["size", "age"]), (OneHotEncoder(sparse_output=False), ["colour"])
        ).set_output(transform=output),
        Ridge(alpha=2.0),
    )
    frame = table()
    model.fit(frame, y)
    space = geometry_of(model).fit(frame)
    F = space.features(frame)
    dense = np.asarray(model[:-1].transform(frame))
    np.testing.assert_allclose(space.leverage(F), dense_leverage(dense, dense, 2.0), rtol=through_gram(dense, 2.0))
    two, all_rows = space.final_step(model).predict(F.take([3, 1]).model_inputs), model.predict(frame)
    np.testing.assert_allclose(two, all_rows[[3, 1]], atol=of_products(dense, model[-1].coef_, model[-1].intercept_))


def test_polars_and_pandas_frames_have_the_same_leverage():
    frame, other = table(), pl.DataFrame(table().to_dict("list"))
    model, twin = (make_pipeline(by_kind(), Ridge()).fit(rows, y) for rows in (frame, other))
    one, two = geometry_of(model).fit(frame), geometry_of(twin).fit(other)
    close = through_gram(X[:, :2], 1.0)
    np.testing.assert_allclose(one.leverage(one.features(frame)), two.leverage(two.features(other)), rtol=close)


def test_unknown_category_is_measured_as_the_zeros_that_the_model_sees():
    frame = table()
    model = make_pipeline(by_kind(), Ridge()).fit(frame, y)
    space = geometry_of(model).fit(frame)
    new = table(np.array(["violet"] * len(X)))
    dense = [np.asarray(model[:-1].transform(rows)) for rows in (frame, new)]
    np.testing.assert_allclose(
        space.leverage(space.features(new)), dense_leverage(*dense, 1.0), rtol=through_gram(dense[0], 1.0)
    )


@pytest.mark.parametrize(
    ("transformer", "expected"),
    [
        (StandardScaler(), "exact"),
        (PCA(2), "exact"),
        (VarianceThreshold(), "exact"),
        (SelectKBest(f_regression, k=2), "none"),
        (SelectFromModel(Lasso(0.1)), "none"),
        (TargetEncoder(target_type="continuous"), "none"),
        (ColumnTransformer([("target", TargetEncoder(target_type="continuous"), [0])]), "none"),
        (FrozenEstimator(SelectKBest(f_regression, k=2).fit(X, y)), "exact"),
        (CountingScaler(), "exact"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_transformer_that_learns_from_the_target_is_not_a_fixed_smoother(transformer, expected):
    model = make_pipeline(transformer, LinearRegression()).fit(np.round(X), y)
    assert geometry_of(model).exactness == expected
    assert geometry_of(model).fit(np.round(X)).exactness == expected


def test_space_of_a_pipeline_says_what_its_last_step_says():
    model = polynomial_ridge().fit(X, y)
    geometry, space = geometry_of(model), geometry_of(model).fit(X)
    assert isinstance(geometry, Preprocessed)
    assert (space.n_samples, space.ridge, space.factor) == (len(X), 3.0, space.space.factor)
    with pytest.raises(ValueError, match=r"others=space\.features\(X_train\)"):
        space.cross_leverage(space.features(NEW))
