"""Geometry of features: h(x) = phi(x)' (Phi'W Phi + ridge)^-1 phi(x), with an intercept that is not penalised."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import expit
from sklearn.utils.extmath import safe_sparse_dot

from hatband.arrays.typing import Array
from hatband.geometry.base import (
    Exactness,
    FeatureSpace,
    Geometry,
    as_numbers,
    combined_weights,
    input_columns,
    is_empty,
    mapped,
    selected,
)
from hatband.linalg import Auto, Solver


class RidgeRule(ABC):
    """A ridge that depends on the training rows: a penalty that they turn into the sum convention."""

    @abstractmethod
    def total(self, n_samples: int, weight: float) -> float:
        """Return the ridge in the sum convention for this many rows of this total weight."""


@dataclass(frozen=True)
class RidgePerWeight(RidgeRule):
    """ridge = value * sum of weights: a penalty added to the weighted MEAN squared error (ElasticNet).

    Parameters
    ----------
    value : float
        Ridge in the mean convention.
    """

    value: float

    def total(self, n_samples: int, weight: float) -> float:
        """Return value times the total weight."""
        return self.value * weight


@dataclass(frozen=True)
class RidgePerBatch(RidgeRule):
    """ridge = value * number of batches in an epoch: a penalty that stochastic gradients apply once per batch.

    Parameters
    ----------
    value : float
        Ridge of one step.
    batch_size : int
        Rows in a batch; 1 for SGDRegressor.
    share : float
        Share of the rows that the steps are taken on (early stopping holds the rest out).
    """

    value: float
    batch_size: int
    share: float = 1.0

    def total(self, n_samples: int, weight: float) -> float:
        """Return value times the batches per epoch."""
        used = max(1, round(n_samples * self.share))
        return self.value * -(-used // min(self.batch_size, used))


def total_ridge(ridge: Any, n_samples: int, weights: Array | None) -> Any:
    """Return the ridge in the sum convention."""
    if not isinstance(ridge, RidgeRule):
        return ridge
    return ridge.total(n_samples, float(n_samples if weights is None else weights.sum()))


@dataclass(frozen=True, eq=False)
class FeatureGeometry(Geometry):
    """h(x) = 1/sum(w) + (phi(x) - m)' (Phi_c'W Phi_c + ridge)^-1 (phi(x) - m), m the weighted mean of the features.

    Parameters
    ----------
    ridge : float, array of shape (d,), or RidgeRule
        Ridge in the sum convention |y - Phi b|^2 + ridge |b|^2; one number per feature where they differ.
    fit_intercept : bool
        Whether there is an intercept, which is not penalised. Without one, m = 0 and the term 1/sum(w) is absent.
    exactness : {"exact", "given", "none"}
        What leave-one-out in closed form may claim.
    feature_map : fitted transformer, or None
        Its ``transform`` gives the features; None takes X itself.
    columns : array of int, or None
        The features that count (an active set); None takes all. With none left, h is 1/sum(w).
    row_weights : array of shape (n,), or None
        Weights that the model gave its own training rows.
    inputs_from : {"values", "model_inputs"}
        Where a learned scale finds its inputs: in the features, or in what the map was given.
    solver : Solver
        How the features are factored.

    Examples
    --------
    >>> import numpy as np
    >>> space = FeatureGeometry(ridge=1.0, fit_intercept=False).fit(np.eye(2))
    >>> space.leverage(space.features(np.array([[1.0, 1.0]])))
    array([1.])
    """

    ridge: Any = 0.0
    fit_intercept: bool = True
    exactness: Exactness = "none"
    feature_map: Any = None
    columns: Array | None = None
    row_weights: Array | None = None
    inputs_from: Literal["values", "model_inputs"] = "values"
    solver: Solver = field(default_factory=Auto)

    def fit(self, X: Any, sample_weight: Array | None = None) -> "FeatureSpace":
        """Factor the features of X and return the space.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame with n rows
            Training rows, as the feature map takes them.
        sample_weight : array of shape (n,), or None
            Weights of the rows.

        Returns
        -------
        FeatureSpace
            Keeps the factor, O(d^2) numbers, and no rows.

        Raises
        ------
        ValueError
            When a feature is NaN or infinite, or a weight is negative.
        """
        values = mapped(self.feature_map, X)
        n_samples = int(values.shape[0])
        weights = combined_weights(self.row_weights, sample_weight, n_samples)
        ridge = total_ridge(self.ridge, n_samples, weights)
        # An empty active set is a zero column under any ridge: it adds nothing to 1/sum(w).
        penalty = 1.0 if is_empty(self.columns) else ridge
        factor = self.solver.factor(selected(values, self.columns), penalty, weights, self.fit_intercept)
        inputs = X if self.inputs_from == "model_inputs" else values
        return FeatureSpace(
            factor=factor,
            ridge=ridge,
            n_samples=n_samples,
            exactness=self.exactness,
            feature_map=self.feature_map,
            columns=self.columns,
            inputs_from=self.inputs_from,
            input_columns=input_columns(inputs),
        )


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
