"""Perceptrons: the last hidden layer is the feature map, its output layer the linear model."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.neural_network import MLPRegressor

from geometry.cases import NETWORKS, NEW, X, Y, y
from hatband.geometry import geometry_of
from oracles import dense_leverage
from rounding import of_products, through_gram

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_features_of_a_perceptron_and_its_output_layer_reproduce_its_predictions(case):
    model = case.fitted()
    F = geometry_of(model).fit(X).features(NEW)
    prediction = F.values @ model.coefs_[-1] + model.intercepts_[-1]
    # Every layer adds rounding of its own, and the last one what is left of it.
    close = len(model.coefs_) * of_products(F.values, model.coefs_[-1], model.intercepts_[-1])
    np.testing.assert_allclose(prediction.ravel(), model.predict(NEW), rtol=0, atol=10 * close)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_leverage_of_a_perceptron_is_the_dense_formula_on_its_last_layer_with_its_bias(case):
    model = case.fitted()
    space = geometry_of(model).fit(X)
    F, own = space.features(NEW), space.features(X)
    expected = dense_leverage(own.values, F.values, model.alpha)
    np.testing.assert_allclose(space.leverage(F), expected, rtol=through_gram(own.values, model.alpha))
    assert space.exactness == "none"
    np.testing.assert_array_equal(space.inputs(F), NEW)


def test_training_on_leaves_the_geometry_as_it_was_read():
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(X, Y)
    geometry = geometry_of(model)
    before = geometry.feature_map.transform(NEW)
    model.partial_fit(X, Y)
    np.testing.assert_array_equal(geometry.feature_map.transform(NEW), before)


def test_sparse_rows_go_through_a_perceptron():
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(sparse.csr_array(X), y)
    space = geometry_of(model).fit(sparse.csr_array(X))
    F = space.features(sparse.csr_array(NEW))
    close = of_products(NEW, model.coefs_[0], model.intercepts_[0])
    np.testing.assert_allclose(F.values, space.features(NEW).values, rtol=0, atol=close)
    np.testing.assert_array_equal(space.inputs(F), NEW)
