"""Geometry of neural networks: the last layer is a ridge regression on the features that the others compute."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.neural_network import MLPRegressor
from sklearn.utils.extmath import safe_sparse_dot

from hatband.arrays.typing import Array
from hatband.geometry.base import Geometry
from hatband.geometry.convert import as_numbers
from hatband.geometry.features import FeatureGeometry, RidgePerBatch
from hatband.geometry.registry import geometry_for


def _identity(values: Array) -> Array:
    return values


def _relu(values: Array) -> Array:
    return np.maximum(values, 0)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "identity": _identity,
    "logistic": expit,
    "tanh": np.tanh,
    "relu": _relu,
}


@dataclass(frozen=True, eq=False)
class HiddenLayers:
    """phi(x): the output of the last hidden layer of a perceptron; x itself when there is none.

    Parameters
    ----------
    coefs, intercepts : tuple of array
        Weights and biases of the hidden layers, copied.
    activation : {"identity", "logistic", "tanh", "relu"}
        What follows each of them.
    """

    coefs: tuple[Array, ...]
    intercepts: tuple[Array, ...]
    activation: str

    def transform(self, X: Any) -> Any:
        """Return the features of X, shape (m, width)."""
        values = as_numbers(X)
        for coef, intercept in zip(self.coefs, self.intercepts, strict=True):
            values = ACTIVATIONS[self.activation](safe_sparse_dot(values, coef) + intercept)
        return values


@geometry_for(MLPRegressor)
def perceptron(model: MLPRegressor) -> Geometry:
    """The last hidden layer and its unpenalised bias; ridge alpha (lbfgs) or alpha * batches per epoch (adam, sgd).

    The minimum of lbfgs has Phi'W e = alpha w. A stochastic step applies alpha w / batch beside the mean over the
    batch, so an epoch balances Phi'W e with alpha * batches * w.
    """
    hidden = HiddenLayers(
        tuple(np.array(coef) for coef in model.coefs_[:-1]),
        tuple(np.array(intercept) for intercept in model.intercepts_[:-1]),
        model.activation,
    )
    return FeatureGeometry(_ridge(model), True, "none", hidden, inputs_from="model_inputs")


def _ridge(model: MLPRegressor) -> Any:
    if model.solver == "lbfgs":
        return float(model.alpha)
    # "auto" is min(200, n) in scikit-learn, and a batch is never larger than the rows.
    size = 200 if model.batch_size == "auto" else int(model.batch_size)
    share = 1 - model.validation_fraction if model.early_stopping else 1.0
    return RidgePerBatch(float(model.alpha), batch_size=size, share=share)
