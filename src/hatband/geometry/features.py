"""Geometry of features: h(x) = phi(x)' (Phi'W Phi + ridge)^-1 phi(x), with an intercept that is not penalised."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.special import expit
from sklearn.utils.extmath import safe_sparse_dot

from hatband.arrays.typing import Array
from hatband.geometry.base import Exactness, Features, Geometry, Space, passed_rows
from hatband.geometry.convert import as_numbers, combined_weights, dense_inputs, input_columns, kept
from hatband.linalg import Auto, Factor, Solver


class RidgeRule(ABC):
    """A ridge that is known only with the training rows: what a penalty is in the sum convention."""

    @abstractmethod
    def total(self, n_samples: int, weight: float) -> float:
        """Return the ridge in the sum convention for this many rows of this total weight."""


@dataclass(frozen=True)
class RidgePerWeight(RidgeRule):
    """ridge = value * sum of weights: a penalty beside the weighted MEAN squared error (ElasticNet).

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
        penalty = 1.0 if _is_empty(self.columns) else ridge
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


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureSpace(Space):
    """Features, factored: every leverage is read off one factor; no training rows are kept.

    Parameters
    ----------
    factor : Factor
        Factor of Phi'W Phi + ridge.
    ridge : float or array of shape (d,)
        Ridge in the sum convention.
    n_samples : int
        Number of training rows.
    exactness : {"exact", "given", "none"}
        What leave-one-out in closed form may claim.
    feature_map, columns, inputs_from
        As in the geometry.
    input_columns : array of int, or None
        Columns of CSR rows that a learned scale gets.
    """

    factor: Factor
    ridge: Any
    n_samples: int
    exactness: Exactness
    feature_map: Any = None
    columns: Array | None = None
    inputs_from: Literal["values", "model_inputs"] = "values"
    input_columns: Array | None = None

    def features(self, X: Any) -> Features:
        """Run the feature map once on X."""
        return Features(model_inputs=X, values=mapped(self.feature_map, X))

    def inputs(self, features: Features) -> Array:
        """Return the numeric inputs of a learned scale: the features, or what their map was given."""
        source = features.values if self.inputs_from == "values" else as_numbers(features.model_inputs)
        return dense_inputs(source, self.input_columns)

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage from one pass over the rows."""
        return self.factor.leverages(selected(features.values, self.columns))

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        return self.factor.leverage(selected(features.values, self.columns))

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,)."""
        return self.factor.sampling_leverage(selected(features.values, self.columns))

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z), shape (m, k); the training rows are not kept and have to be passed as `others`."""
        others = passed_rows(others, "a space of features keeps none")
        return self.factor.cross_leverage(
            selected(features.values, self.columns), selected(others.values, self.columns)
        )

    def smooth(self, training: Features, y: Array, weights: Array | None) -> Array:
        """Return sum_j h(x_i, x_j) w_j y_j (n, q) by slopes: O(n d) for each output."""
        weighted = y if weights is None else weights[:, None] * y
        return self.factor.smooth(selected(training.values, self.columns), weighted)

    def reweighted(self, training: Features, weights: Array) -> "FeatureSpace":
        """Return the space with precision Phi'W Phi + ridge for other weights; it shares all but the factor."""
        penalty = 1.0 if _is_empty(self.columns) else self.ridge
        rows = selected(training.values, self.columns)
        return replace(self, factor=Auto().factor(rows, penalty, weights, self.factor.fit_intercept))


def mapped(feature_map: Any, X: Any) -> Any:
    """Return the features of X as a float array or CSR matrix."""
    return as_numbers(X if feature_map is None else feature_map.transform(kept(X, feature_map)))


def selected(values: Any, columns: Array | None) -> Any:
    """Return the columns that count; one zero column when none does."""
    if columns is None:
        return values
    if _is_empty(columns):
        return np.zeros((values.shape[0], 1))
    return values[:, columns]


def _is_empty(columns: Array | None) -> bool:
    return columns is not None and len(columns) == 0


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
