"""A geometry, a space or a wrapper that is registered wrongly is found at fit, and the error says what to correct."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from geometry.cases import NEW, X, Y, y
from hatband import CrossConformalRegressor, JackknifePlusRegressor, SplitConformalRegressor
from hatband.fitted.smoother import SmootherMismatch
from hatband.geometry import FeatureGeometry, Features, Geometry, Space, geometry_of
from hatband.geometry.model import holds, steps_of


class Doubled(RegressorMixin, BaseEstimator):
    """Twice what its regressor predicts."""

    def __init__(self, regressor):
        self.regressor = regressor

    def fit(self, X, y):
        self.regressor_ = clone(self.regressor).fit(X, y)
        return self

    def predict(self, X):
        return 2 * self.regressor_.predict(X)


class RunTwice(Doubled):
    """Registered with itself as what predicts from transformed rows."""


class Forgotten(Doubled):
    """Registered with the steps of its regressor, whose predictions are not doubled."""


class Untaken(Doubled):
    """Registered with its regressor, not with steps."""


class Wrong(Ridge):
    """A ridge regression whose geometry is wrong."""


class NotFinite(Ridge):
    """A model that predicts NaN in places."""

    def predict(self, X):
        return np.where(np.arange(len(X)) % 2, np.nan, 1.0)


@steps_of.register
def _run_twice(model: RunTwice):
    return replace(steps_of(model.regressor_), predictor=model, exactness="none")


@steps_of.register
def _forgotten(model: Forgotten):
    return steps_of(model.regressor_)


@steps_of.register
def _untaken(model: Untaken):
    return model.regressor_


steps_of.register(Doubled, holds("regressor_"))


def scaled(model=None):
    return make_pipeline(StandardScaler(), Ridge(2.0) if model is None else model)


def split(estimator=None, **settings):
    return SplitConformalRegressor(estimator, scale="leverage", random_state=0, **settings)


# ---------------------------------------------------------------- wrappers


@pytest.mark.parametrize("inner", [scaled(), make_pipeline(PolynomialFeatures(2), Ridge())], ids=["scaled", "wider"])
def test_a_wrapper_whose_transformers_run_twice_is_found(inner):
    with pytest.raises(ValueError, match=r"must predict from Features\.model_inputs.*holds\(\"regressor_\"\)"):
        split(RunTwice(inner)).fit(X, y)


@pytest.mark.parametrize("regressor", [split, JackknifePlusRegressor])
@pytest.mark.parametrize("inner", [scaled(), Ridge()], ids=["pipeline", "ridge"])
def test_a_wrapper_whose_own_step_is_forgotten_is_found(regressor, inner):
    with pytest.raises(ValueError, match=r"they differ by .* in the first 16 training rows"):
        regressor(Forgotten(inner)).fit(X, y)


@pytest.mark.parametrize("inner", [scaled(), make_pipeline(PolynomialFeatures(2), Ridge()), Ridge()], ids=repr)
def test_what_holds_registers_predicts_and_measures_like_the_regressor_inside(inner):
    model = Doubled(inner).fit(X, y)
    space, reference = geometry_of(model).fit(X), geometry_of(model.regressor_).fit(X)
    F = space.features(NEW)
    np.testing.assert_array_equal(space.final_step(model).predict(F.model_inputs), model.predict(NEW))
    np.testing.assert_array_equal(space.leverage(F), reference.leverage(reference.features(NEW)))
    assert space.exactness == "none"
    assert split(Doubled(inner)).fit(X, y).predict_interval(NEW)[1].shape == (len(NEW), 2)


def test_a_wrapper_that_changes_nothing_keeps_the_claim_of_its_regressor():
    model = Doubled(scaled()).fit(X, y)
    assert holds("regressor_", exactness="exact")(model).exactness == "exact"
    assert holds("regressor_", exactness="given")(model).exactness == "given"
    with pytest.raises(ValueError, match=r"exactness must be one of \['exact', 'given', 'none'\]; got 'exat'"):
        holds("regressor_", exactness="exat")(model)


@pytest.mark.parametrize("model", [Untaken(Ridge()), scaled(Untaken(Ridge()))], ids=["alone", "in a pipeline"])
def test_a_registered_function_that_returns_no_steps_is_named(model):
    with pytest.raises(TypeError, match=r"steps_of has for Untaken must return Steps; got Ridge\(\)"):
        split(model).fit(X, y)


# ---------------------------------------------------------------- geometries


@pytest.mark.parametrize("model", [Wrong(), scaled(Wrong())], ids=["alone", "in a pipeline"])
@pytest.mark.parametrize("found", [None, StandardScaler()], ids=["nothing", "a transformer"])
def test_a_registered_function_that_returns_no_geometry_is_named(model, found):
    geometry_of.register(Wrong, lambda fitted: found)
    with pytest.raises(TypeError, match=r"geometry_of has for Wrong must return Geometry; got "):
        split(model).fit(X, y)


@pytest.mark.parametrize("model", [Wrong(), scaled(Wrong())], ids=["alone", "in a pipeline"])
@pytest.mark.parametrize("regressor", [split, JackknifePlusRegressor, CrossConformalRegressor])
def test_an_exactness_that_there_is_not_is_refused(model, regressor):
    geometry_of.register(Wrong, lambda fitted: FeatureGeometry(1.0, exactness="exat"))
    with pytest.raises(ValueError, match=r"exactness must be one of \['exact', 'given', 'none'\]; got 'exat'"):
        regressor(model).fit(X, y)


@pytest.mark.parametrize("wrong", [FeatureGeometry(9.0, True, "exact"), FeatureGeometry(1.0, False, "exact")], ids=repr)
def test_a_wrong_ridge_or_intercept_is_refused_with_what_to_correct(wrong):
    geometry_of.register(Wrong, lambda fitted: wrong)
    with pytest.raises(
        SmootherMismatch, match="correct the ridge, intercept or feature map of a geometry that you reg"
    ):
        JackknifePlusRegressor(Wrong()).fit(X, y)


def test_a_geometry_whose_fit_takes_no_weights_is_no_class():
    with pytest.raises(TypeError, match=r"NoWeights\.fit must take .* fit\(self, X, sample_weight=None\)"):

        class NoWeights(Geometry):
            def fit(self, X):
                return None


# ---------------------------------------------------------------- spaces


class Given(Geometry):
    """A geometry whose space is given."""

    def __init__(self, space):
        self.space = space

    def fit(self, X, sample_weight=None):
        return self.space


class Columns(Space):
    """A space whose leverages are what a function makes of the rows."""

    def __init__(self, leverages, exactness="none"):
        self.function, self.exactness = leverages, exactness

    def features(self, X):
        return Features(X, np.asarray(X))

    def leverages(self, features):
        return self.function(np.abs(features.values))


WRONG = {
    "one array": lambda h: h[:, 0],
    "one array of two rows": lambda h: h.T[:2],
    "three arrays": lambda h: (h[:, 0], h[:, 0], h[:, 0]),
    "a number": lambda h: (1.0, 1.0),
    "other rows": lambda h: (h[0], h[0]),
    "a column of columns": lambda h: (h[:, :, None], h[:, :, None]),
    "a column for each input": lambda h: (h, h),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("target", [y, Y], ids=["one output", "two outputs"])
@pytest.mark.parametrize(
    "model",
    [
        SplitConformalRegressor(scale="leverage", random_state=0),
        SplitConformalRegressor(scale="strength", random_state=0),
        CrossConformalRegressor(scale="leverage"),
    ],
    ids=repr,
)
def test_leverages_of_another_shape_are_refused_with_the_shape_required(model, wrong, target):
    with pytest.raises(ValueError, match=r"Columns(\.leverages)? must (return two arrays|give one leverage).*; got"):
        clone(model).set_params(geometry=Given(Columns(WRONG[wrong]))).fit(X, target)


def test_a_geometry_that_makes_no_space_is_named():
    with pytest.raises(TypeError, match=r"Given\.fit must return a Space; got NoneType"):
        split(geometry=Given(None)).fit(X, y)


def test_a_space_whose_exactness_there_is_not_is_refused():
    with pytest.raises(ValueError, match="exactness must be one of"):
        split(geometry=Given(Columns(lambda h: (h[:, 0], h[:, 0]), "exat"))).fit(X, y)


def test_a_space_whose_model_inputs_are_not_what_the_model_predicts_from_is_found():
    class Halved(Columns):
        def features(self, X):
            return Features(X / 2, X)

    with pytest.raises(ValueError, match="features and final_step of your Space"):
        split(geometry=Given(Halved(lambda h: (h[:, 0], h[:, 0])))).fit(X, y)


def test_what_overwrites_its_inputs_leaves_those_of_the_caller_as_they_were():
    rows = X.copy()
    split(make_pipeline(StandardScaler(copy=False), Ridge())).fit_train(rows, y)
    np.testing.assert_array_equal(rows, X)


def test_a_prediction_that_is_not_finite_is_named_as_one():
    with pytest.raises(ValueError, match=r"the prediction of \w+"):
        split(make_pipeline(FunctionTransformer(), NotFinite())).fit(X, y)
