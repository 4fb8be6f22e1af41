"""Estimators that hold others are looked through; what they did weakens what leave-one-out may claim."""

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Lasso, Ridge
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from geometry.cases import NEW, X, Y, y
from hatband.geometry import InputsGeometry, geometry_of
from hatband.geometry.composite import Preprocessed
from hatband.geometry.model import steps_of

GRID = {"alpha": [2.0]}


def scaled(model):
    return make_pipeline(StandardScaler(), model)


def same_leverage(model, reference):
    one, two = (geometry_of(each).fit(X) for each in (model, reference))
    np.testing.assert_array_equal(one.leverage(one.features(NEW)), two.leverage(two.features(NEW)))


@pytest.mark.parametrize(
    ("wrapper", "exactness"),
    [
        (GridSearchCV(Ridge(), GRID, cv=2), "given"),
        (RandomizedSearchCV(Ridge(), GRID, n_iter=1, cv=2), "given"),
        (HalvingGridSearchCV(Ridge(), GRID, cv=2, min_resources=30), "given"),
        (GridSearchCV(GridSearchCV(Ridge(), GRID, cv=2), {"cv": [2]}, cv=2), "given"),
        (FrozenEstimator(Ridge(alpha=2.0).fit(X, y)), "exact"),
        (FrozenEstimator(GridSearchCV(Ridge(), GRID, cv=2).fit(X, y)), "given"),
        (TransformedTargetRegressor(Ridge(alpha=2.0), func=np.arcsinh, inverse_func=np.sinh), "none"),
        (VotingRegressor([("a", Ridge(alpha=2.0)), ("b", Ridge(alpha=2.0, solver="svd"))]), "exact"),
        (VotingRegressor([("a", Ridge(alpha=2.0)), ("b", "drop")]), "exact"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrapped_ridge_is_measured_like_the_ridge_itself(wrapper, exactness):
    wrapper.fit(X, y)
    same_leverage(wrapper, Ridge(alpha=2.0).fit(X, y))
    assert geometry_of(wrapper).exactness == exactness


def test_search_over_models_measures_the_best_and_keeps_the_weaker_claim():
    search = GridSearchCV(scaled(Ridge()), {"ridge": [Lasso(0.1)]}, cv=2).fit(X, y)
    assert geometry_of(search).exactness == "none"


def test_search_that_does_not_refit_says_what_to_do():
    with pytest.raises(ValueError, match=r"refit=False.*Pass refit=True"):
        geometry_of(GridSearchCV(Ridge(), GRID, cv=2, refit=False).fit(X, y))


@pytest.mark.parametrize("inner", [Ridge(alpha=2.0), scaled(Ridge(alpha=2.0))], ids=["plain", "pipeline"])
@pytest.mark.parametrize("target", [y, Y, y[:, None]], ids=["1d", "2d", "column"])
def test_transformed_target_predicts_on_its_own_scale_from_transformed_rows(inner, target):
    model = TransformedTargetRegressor(inner, func=np.arcsinh, inverse_func=np.sinh).fit(X, target)
    regressor = model.regressor_
    space = geometry_of(model).fit(X)
    prediction = space.final_step(model).predict(space.features(NEW).model_inputs)
    np.testing.assert_array_equal(prediction, model.predict(NEW))
    assert model.regressor_ is regressor


def voting(*members, **parameters):
    return VotingRegressor([(str(i), member) for i, member in enumerate(members)], **parameters)


SHARED = [
    voting(scaled(Ridge(2.0)), scaled(Ridge(2.0)), weights=[1, 3]),
    voting(KernelRidge(2.0, kernel="rbf", gamma=0.1), KernelRidge(2.0, kernel="rbf", gamma=0.1)),
    voting(Ridge(alpha=2.0)),
]
MIXED = [
    voting(Ridge(2.0), Ridge(3.0)),
    voting(Ridge(2.0), scaled(Ridge(2.0))),
    voting(scaled(Ridge(2.0)), make_pipeline(PolynomialFeatures(2), Ridge(2.0))),
    voting(Ridge(2.0), Ridge(2.0, fit_intercept=False)),
    voting(Ridge(2.0), Ridge(2.0, positive=True)),
    voting(*(make_pipeline(FunctionTransformer(lambda rows: rows), Ridge()) for _ in range(2))),
]


@pytest.mark.parametrize("model", SHARED, ids=lambda value: type(value).__name__)
def test_members_of_one_feature_map_and_ridge_share_their_geometry(model):
    model.fit(X, y)
    same_leverage(model, model.estimators_[0])


@pytest.mark.parametrize("model", MIXED, ids=lambda value: type(value).__name__)
def test_members_that_differ_are_measured_on_the_inputs(model):
    assert isinstance(geometry_of(model.fit(X, y)), InputsGeometry)


@pytest.mark.parametrize("model", SHARED + MIXED, ids=lambda value: type(value).__name__)
def test_voting_predicts_the_weighted_mean_from_transformed_rows(model):
    model.fit(X, y)
    space = geometry_of(model).fit(X)
    np.testing.assert_array_equal(space.final_step(model).predict(space.features(NEW).model_inputs), model.predict(NEW))


def test_stacking_in_a_pipeline_is_measured_on_the_inputs_of_the_last_step():
    model = scaled(StackingRegressor([("ridge", Ridge())], cv=2)).fit(X, y)
    geometry = geometry_of(model)
    assert isinstance(geometry, Preprocessed)
    assert isinstance(geometry.geometry, InputsGeometry)


@pytest.mark.parametrize(
    "model",
    [Ridge(), scaled(Ridge()), GridSearchCV(Ridge(), GRID), TransformedTargetRegressor(Ridge())],
    ids=lambda value: type(value).__name__,
)
def test_unfitted_model_is_refused(model):
    with pytest.raises(NotFittedError):
        geometry_of(model)


def test_wrapper_of_ones_own_is_looked_through_once_registered():
    class Renamed(Ridge):
        pass

    class Holder:
        def __init__(self, held):
            self.held = held

    @steps_of.register
    def _(estimator: Holder):
        return steps_of(estimator.held)

    held = scaled(Ridge(2.0)).fit(X, y)
    assert steps_of(Holder(scaled(Renamed()).fit(X, y))).transformers[0].n_features_in_ == X.shape[1]
    same_leverage(Holder(held), held)
