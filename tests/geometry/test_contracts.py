"""What every geometry and space promises: shapes, copies, no writing, no memory of the model's later life."""

import copy
import pickle
import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import hatband.geometry
from geometry.cases import ALPHAS, EVERY, NEW, OTHERS, D, N, X, Y, y
from hatband.geometry import FeatureGeometry, InputsGeometry, TransformerGeometry, geometry_of
from hatband.geometry.composite import PerOutputSpace
from hatband.geometry.model import steps_of
from oracles import dense_leverage

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
COMPOSED = [
    make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge(3.0)),
    make_pipeline(StandardScaler(), OTHERS[0].model),
]


def measured(space, rows=NEW):
    F = space.features(rows)
    return np.asarray(space.leverage(F)), np.asarray(space.sampling_leverage(F)), *map(np.asarray, space.leverages(F))


@pytest.fixture(params=EVERY, ids=str)
def case(request):
    return request.param


def test_every_space_measures_rows_in_every_form(case):
    model = case.fitted()
    geometry = geometry_of(model)
    space = geometry.fit(X, case.weights)
    h, s, both_h, both_s = measured(space)
    shape = (len(NEW), len(space.spaces)) if isinstance(space, PerOutputSpace) else (len(NEW),)
    assert h.shape == s.shape == shape
    np.testing.assert_allclose((both_h, both_s), (h, s), rtol=1e-9)
    assert (s <= h * (1 + 1e-9)).all()
    assert (s > 0).all()
    assert space.n_samples == N
    assert space.exactness == geometry.exactness == case.exactness
    F = space.features(NEW)
    assert space.inputs(F).shape[0] == len(F) == len(NEW)
    cross = space.cross_leverage(F, F)
    np.testing.assert_allclose(np.einsum("ii...->i...", cross), h, rtol=1e-6)
    np.testing.assert_array_equal(space.final_step(model).predict(F.model_inputs), model.predict(NEW))


def test_copies_of_geometry_and_space_measure_alike(case):
    geometry = geometry_of(case.fitted())
    space = geometry.fit(X, case.weights)
    expected = measured(space)
    for copied in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        np.testing.assert_array_equal(measured(copied), expected)
    for copied in (pickle.loads(pickle.dumps(geometry)), copy.deepcopy(geometry), clone(geometry, safe=False)):
        np.testing.assert_array_equal(measured(copied.fit(X, case.weights)), expected)


@pytest.mark.parametrize("model", COMPOSED, ids=["ridge", "boosting"])
def test_clone_of_a_composed_geometry_keeps_its_fitted_transformers(model):
    geometry = geometry_of(model.fit(X, y))
    expected = measured(geometry.fit(X))
    for copied in (clone(geometry, safe=False), pickle.loads(pickle.dumps(geometry))):
        np.testing.assert_array_equal(measured(copied.fit(X)), expected)


def test_measuring_writes_neither_to_the_space_nor_to_the_rows(case):
    train, rows = X.copy(), NEW.copy()
    for array in (train, rows):
        array.setflags(write=False)
    space = geometry_of(case.fitted()).fit(train, case.weights)
    before = pickle.dumps(space)
    measured(space, rows)
    space.inputs(space.features(rows))
    assert pickle.dumps(space) == before


def test_rows_in_another_order_have_the_same_leverage(case):
    space = geometry_of(case.fitted()).fit(X, case.weights)
    order = np.arange(len(NEW))[::-1]
    F = space.features(NEW)
    np.testing.assert_allclose(space.leverage(F.take(order)), space.leverage(F)[order], rtol=1e-9)


PARAMETERS = {
    "alpha": 99.0,
    "C": 99.0,
    "kernel": "linear",
    "l1_ratio": 0.9,
    "fit_intercept": False,
    "activation": "relu",
}


def test_parameters_set_after_the_geometry_was_read_do_not_change_it(case):
    model = case.fitted()
    geometry = geometry_of(model)
    expected = measured(geometry.fit(X, case.weights))
    model.set_params(**{name: value for name, value in PARAMETERS.items() if name in model.get_params(deep=False)})
    np.testing.assert_array_equal(measured(geometry.fit(X, case.weights)), expected)


def test_spaces_of_features_keep_no_training_rows():
    rows = np.random.default_rng(0).normal(size=(20_000, D))
    for geometry in (FeatureGeometry(1.0), InputsGeometry(), TransformerGeometry(StandardScaler())):
        assert len(pickle.dumps(geometry.fit(rows))) < rows.nbytes / 10


def test_ridge_of_each_output_gives_each_its_leverage():
    model = Ridge(alpha=ALPHAS).fit(X, Y)
    space = geometry_of(model).fit(X)
    expected = np.stack([dense_leverage(X, NEW, alpha) for alpha in ALPHAS], axis=-1)
    np.testing.assert_allclose(space.leverage(space.features(NEW)), expected, rtol=1e-9)
    np.testing.assert_array_equal(space.ridge, ALPHAS)
    assert space.factor is None
    assert [part.factor.ridge for part in space.spaces] == ALPHAS.tolist()
    F = space.features(NEW)
    assert space.cross_leverage(F, F.take(slice(3))).shape == (len(NEW), 3, 2)


def test_model_without_active_features_has_the_leverage_of_its_mean():
    for model, expected in ((Lasso(1e3), 1 / N), (ElasticNet(1e3), 1 / N), (Lasso(1e3, fit_intercept=False), 0.0)):
        space = geometry_of(model.fit(X, y)).fit(X)
        np.testing.assert_allclose(measured(space), np.full((4, len(NEW)), expected), rtol=1e-12)


def test_features_constant_in_training_cost_least_squares_nothing():
    model = make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(X, y)
    space = geometry_of(model).fit(X)
    features = PolynomialFeatures(2, include_bias=False).fit(X).transform
    np.testing.assert_allclose(
        space.leverage(space.features(NEW)), dense_leverage(features(X), features(NEW)), rtol=1e-8
    )


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
    np.testing.assert_allclose(space.leverage(space.features(NEW)), dense_leverage(*scaled, 5.0), rtol=1e-10)
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
