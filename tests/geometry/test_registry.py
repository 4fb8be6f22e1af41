"""What is read from which estimator: the table, what users add to it, and the borders of single spaces."""

import pickle
import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import hatband.geometry
from geometry.cases import ALPHAS, EVERY, NEW, D, N, X, Y, y
from hatband.geometry import FeatureGeometry, InputsGeometry, TransformerGeometry, geometry_of
from hatband.geometry.model import steps_of
from oracles import dense_leverage
from rounding import EPS, offset, through_gram

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


def test_spaces_of_features_keep_no_training_rows():
    rows = np.random.default_rng(0).normal(size=(20_000, D))
    for geometry in (FeatureGeometry(1.0), InputsGeometry(), TransformerGeometry(StandardScaler())):
        assert len(pickle.dumps(geometry.fit(rows))) < rows.nbytes / 10


def test_ridge_of_each_output_gives_each_its_leverage():
    model = Ridge(alpha=ALPHAS).fit(X, Y)
    space = geometry_of(model).fit(X)
    expected = np.stack([dense_leverage(X, NEW, alpha) for alpha in ALPHAS], axis=-1)
    close = through_gram(X, ALPHAS.min())
    np.testing.assert_allclose(space.leverage(space.features(NEW)), expected, rtol=close)
    np.testing.assert_array_equal(space.ridge, ALPHAS)
    assert space.factor is None
    assert [part.factor.ridge for part in space.spaces] == ALPHAS.tolist()
    F = space.features(NEW)
    assert space.cross_leverage(F, F.take(slice(3))).shape == (len(NEW), 3, 2)


def test_model_without_active_features_has_the_leverage_of_its_mean():
    for model, expected in ((Lasso(1e3), 1 / N), (ElasticNet(1e3), 1 / N), (Lasso(1e3, fit_intercept=False), 0.0)):
        space = geometry_of(model.fit(X, y)).fit(X)
        F = space.features(NEW)
        np.testing.assert_allclose(space.leverages(F), np.full((2, len(NEW)), expected), rtol=10 * EPS)
        np.testing.assert_allclose(space.leverage(F), np.full(len(NEW), expected), rtol=10 * EPS)


def test_features_constant_in_training_cost_least_squares_nothing():
    model = make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(X, y)
    space = geometry_of(model).fit(X)
    features = PolynomialFeatures(2, include_bias=False).fit(X).transform
    expected, close = dense_leverage(features(X), features(NEW)), through_gram(features(X))
    np.testing.assert_allclose(space.leverage(space.features(NEW)), expected, rtol=close)


def test_feature_that_is_not_finite_is_refused_with_its_row():
    rows = X.copy()
    rows[5, 0] = np.nan
    geometry = geometry_of(Ridge().fit(X, y))
    with pytest.raises(ValueError, match=r"features must be finite; row 5 holds NaN or infinity"):
        geometry.fit(rows)
    space = geometry.fit(X)
    with pytest.raises(ValueError, match=r"must be finite; row 5 holds NaN or infinity"):
        space.leverage(space.features(rows))


def test_negative_weight_is_refused_with_its_row():
    with pytest.raises(ValueError, match=r"sample_weight must be finite and >= 0; row 1 has -2.0"):
        geometry_of(Ridge().fit(X, y)).fit(X, np.r_[1.0, -2.0, np.ones(N - 2)])


class Halved(RegressorMixin, BaseEstimator):
    """A user's model: ridge regression on half of the inputs."""

    def fit(self, X, y):
        self.inner_ = Ridge(5.0).fit(X / 2, y)
        return self

    def predict(self, X):
        return self.inner_.predict(X / 2)


class Half:
    """Its feature map."""

    def transform(self, X):
        return np.asarray(X) / 2


def geometry_of_halved(model):
    return FeatureGeometry(model.inner_.alpha, True, "exact", Half())


def test_users_model_falls_back_to_its_inputs_until_its_geometry_is_registered():
    model = Halved().fit(X, y)
    assert isinstance(geometry_of(model), InputsGeometry)
    geometry_of.register(Halved, geometry_of_halved)
    space = pickle.loads(pickle.dumps(geometry_of(make_pipeline(StandardScaler(), model).fit(X, y)).fit(X)))
    scaled = [(rows - X.mean(axis=0)) / X.std(axis=0) / 2 for rows in (X, NEW)]
    expected, close = dense_leverage(*scaled, 5.0), through_gram(scaled[0], 5.0) * (1 + offset(X))
    np.testing.assert_allclose(space.leverage(space.features(NEW)), expected, rtol=close)
    assert space.exactness == "exact"


def documented():
    """Names in the first column of the table of conversions."""
    ruled = hatband.geometry.__doc__.split("\n====")
    return [re.split(r"\s{2,}", line)[0] for line in ruled[2].splitlines()[1:] if line]


def test_table_of_conversions_names_every_registered_model():
    scikit_learn = {kind for kind in geometry_of.registry if kind.__module__.startswith("sklearn")}
    named = set(documented()) - {"anything else"}
    assert {kind.__name__ for kind in scikit_learn} <= named
    ancestors = {sub.__name__ for kind in scikit_learn for sub in kind.__subclasses__()} | {"Lasso", "MultiTaskLasso"}
    assert named <= {kind.__name__ for kind in scikit_learn} | ancestors | {"MultiTaskElasticNet"}


def test_wrappers_that_are_measured_through_are_those_that_are_taken_apart():
    wrappers = {kind for kind in steps_of.registry if kind.__module__.startswith("sklearn")}
    assert wrappers < set(geometry_of.registry)


def test_every_model_of_the_table_is_measured_as_its_row_says():
    """Each row has a case, and the exactness that it states."""
    rows = {
        cells[0]: cells[-1] for cells in (re.split(r"\s{2,}", line) for line in hatband.geometry.__doc__.splitlines())
    }
    for case in EVERY:
        stated = rows.get(type(case.model).__name__, rows["anything else"])
        assert case.exactness in stated or "[1]" in stated or "[6]" in stated
    tested = {type(case.model).__name__ for case in EVERY}
    wrappers = {"Pipeline", "BaseSearchCV", "FrozenEstimator", "TransformedTargetRegressor", "VotingRegressor"}
    assert set(documented()) - tested - wrappers == {"anything else"}
