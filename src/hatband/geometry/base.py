"""The base of geometries (recipes for the features in which leverage is measured) and of spaces (fitted recipes)."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing, check_array

from hatband.arrays.backend import on_host
from hatband.arrays.typing import Array
from hatband.checks import check_in, check_weights
from hatband.linalg import Auto, Factor, KernelFactor

T = TypeVar("T")
Exactness = Literal["exact", "given", "none"]
FROM_STRONG_TO_WEAK: tuple[Exactness, ...] = ("exact", "given", "none")
# Rows whose cross-leverage with all training rows is held at once.
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Features:
    """Rows in the form that a space measures, made once per call by ``Space.features``.

    Parameters
    ----------
    model_inputs : array-like or DataFrame with m rows
        What the model's final step predicts from: X itself, or X after the transformers of a Pipeline.
    values : array, CSR matrix or array-like with m rows
        The rows in feature space; for a kernel, the rows that the kernel compares.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import Features
    >>> len(Features(np.eye(3), np.eye(3)).take([0, 2]))
    2
    """

    model_inputs: Any
    values: Any

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def take(self, index: Any) -> "Features":
        """Return the rows at `index` (integers, a boolean mask or a slice)."""
        return Features(_safe_indexing(self.model_inputs, index), _safe_indexing(self.values, index))


def passed_rows(others: Features | None, owner: str) -> Features:
    """Return the second set of rows of a cross-leverage; ValueError if training rows are meant but not kept."""
    if others is None:
        raise ValueError(
            f"cross_leverage to the training rows needs these rows, and {owner}; pass others=space.features(X_train)."
        )
    return others


class Space(ABC):
    """A geometry fitted to training rows: it measures leverage and keeps no state of the rows that it measures.

    Notes
    -----
    To write a space, define two methods: `features` and `leverages`. If its model is a linear smoother, also define
    `cross_leverage` and an `exactness` other than "none". All other methods have defaults that hold for every space;
    override one where there is a faster way. Often no space is needed: ``FeatureGeometry(ridge, intercept,
    exactness, feature_map)`` takes any object with ``transform``, and `KernelGeometry` any kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.geometry import Features, Geometry, Space
    >>> class DistanceSpace(Space):
    ...     def __init__(self, rows):
    ...         self.centre, self.spread = rows.mean(axis=0), rows.std(axis=0)
    ...     def features(self, X):
    ...         return Features(X, np.asarray(X, dtype=float))
    ...     def leverages(self, features):
    ...         h = np.square((features.values - self.centre) / self.spread).mean(axis=1)
    ...         return h, h
    >>> class Distance(Geometry):
    ...     def fit(self, X, sample_weight=None):
    ...         return DistanceSpace(np.asarray(X, dtype=float))
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(geometry=Distance(), scale="leverage", random_state=0).fit(X, y)
    >>> model.leverage(X).shape
    (442,)
    """

    exactness: Exactness = "none"
    """What leave-one-out in closed form may claim."""
    input_columns: Array | None = None
    """Columns of CSR rows that a learned scale gets; None: all of them."""
    # Of spaces that are made of one factor; a space of your own needs none of them.
    n_samples: int
    ridge: Any
    factor: Factor | KernelFactor | None = None

    @abstractmethod
    def features(self, X: Any) -> Features:
        """Run the feature map once on raw X."""

    @abstractmethod
    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, h(x) = phi' A^-1 phi and s(x) = phi' A^-1 Phi'W Phi A^-1 phi <= h(x).

        Parameters
        ----------
        features : Features
            What `features` returned.

        Returns
        -------
        posterior, sampling : array (m,), or (m, q) where the ridge differs per output
            From one pass over the rows. A space without the second form returns the first one twice.
        """

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row: (m,), or (m, q) where the ridge differs per output."""
        return self._checked_leverages(features)[0]

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shaped like `leverage`."""
        return self._checked_leverages(features)[1]

    def _checked_leverages(self, features: Features) -> tuple[Array, Array]:
        """Return what `leverages` of a subclass gives; ValueError unless these are two arrays with a row each."""
        found = self.leverages(features)
        shapes = [np.shape(part) for part in found] if isinstance(found, tuple) else []
        if len(shapes) != 2 or any(shape[:1] != (len(features),) or len(shape) > 2 for shape in shapes):
            seen = f"a tuple of shapes {shapes}" if shapes else f"{type(found).__name__} of shape {np.shape(found)}"
            raise ValueError(
                f"{type(self).__name__}.leverages must return two arrays, posterior and sampling, of shape "
                f"({len(features)},) or ({len(features)}, outputs); got {seen}. A space that knows no second form "
                "returns the first one twice."
            )
        return found

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z) between two sets of rows (m, k); `others=None` means the training rows."""
        raise ValueError(
            f"{type(self).__name__} has no cross-leverage, which closed forms of leave-one-out need. Write its "
            "cross_leverage, or give it exactness 'none'."
        )

    def inputs(self, features: Features) -> Array:
        """Return the numeric inputs (m, k) on which a scale may be learned; NaN allowed."""
        return dense_inputs(as_numbers(on_host(features.model_inputs)), self.input_columns)

    def final_step(self, estimator: Any) -> Any:
        """Return the fitted object whose ``predict`` takes ``Features.model_inputs``: the estimator itself."""
        return estimator

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i) of the rows that the space was fitted to, shaped like `leverage`."""
        return self.leverage(training)

    def training_weights(self, sample_weight: Array | None) -> Array | None:
        """Return the weights (n,) of the training rows, times the weights that the model itself gave them."""
        return sample_weight

    def smooth(self, training: Features, y: Array, weights: Array | None) -> Array:
        """Return sum_j h(x_i, x_j) w_j y_j (n, q), predictions of a model of this geometry for its training rows."""
        weighted, result = y if weights is None else weights[:, None] * y, np.empty(y.shape)
        for start in range(0, len(training), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            result[part] = self.cross_leverage(training.take(part), training) @ weighted
        return result

    def unseen_leverage(self, features: Features) -> Array | float:
        """Return u(x) (m,) of h(x) = s(x) + u(x): s comes from the directions that the space keeps, u from all others.

        It is 0 if the space keeps every direction of the training rows. Otherwise h can exceed 1 on training rows:
        leaving row i out changes s(x_i) to s / (1 - s) and does not change u.
        """
        return 0.0

    def reweighted(self, training: Features, weights: Array) -> "Space | None":
        """Return the space with these weights (n,) on its training rows; None if it has no features and no kernel."""
        return None


class Geometry(ABC):
    """An immutable recipe: feature map or kernel, ridge, intercept, and the `exactness` of leave-one-out.

    Register a function that makes one from a fitted model: ``geometry_of.register(Model, function)``.

    Notes
    -----
    To decide the exactness of a model, hold its features (or kernel), its ridge and its intercept as they are after
    the fit, and change y. The predictions of a fit to the changed y are then

    - "exact": fixed linear combinations of y, mu(x) = sum_i h(x, x_i) w_i y_i, and y had no part in what is held:
      LinearRegression, Ridge, KernelRidge. What was learned from X alone, such as a scaling, counts as held.
    - "given": the same, but y of these rows had a part in what is held: a penalty or a kernel was chosen by it, as in
      RidgeCV and the searches, or y was centred by its plain mean.
    - "none", the default: anything else. Predictions are not linear in y even then (Lasso, trees), or the geometry is
      not that of the predictions (a distance, the inputs).

    Leave-one-out in closed form leaves y_i out of the smoother and refits nothing that is held. Of a scaling that is
    an approximation to a refit: for StandardScaler and Ridge on the diabetes data, the residuals differ by at most
    0.0004 of their standard deviation with 442 rows, 0.011 with 60 and 0.066 with 30. Full refits, scaling included,
    are those of `CrossConformalRegressor` around a Pipeline.
    """

    exactness: Exactness = "none"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.fit)
        try:
            signature.bind("self", "X", "sample_weight")
        except TypeError:
            raise TypeError(
                f"{cls.__name__}.fit must take the training rows and their weights, fit(self, X, sample_weight=None); "
                f"got fit{signature}. Add sample_weight=None, also where the weights do not matter."
            ) from None

    @abstractmethod
    def fit(self, X: Any, sample_weight: Array | None = None) -> Space:
        """Measure the training rows X, as they were given to the estimator, and return the space."""


def check_exactness(claim: Exactness) -> Exactness:
    """Return a claim about leave-one-out; ValueError unless it is one of the three that there are."""
    check_in(claim, FROM_STRONG_TO_WEAK, "exactness")
    return claim


def registered(function: Callable[[Any], T], estimator: Any, kind: type[Any]) -> T:
    """Return what a registry says of an estimator; TypeError where the function of a user returned something else."""
    found = function(estimator)
    if not isinstance(found, kind):
        raise TypeError(
            f"the function that {function.__name__} has for {type(estimator).__name__} must return {kind.__name__}; "
            f"got {found!r}. Correct the function given to {function.__name__}.register."
        )
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureSpace(Space):
    """Features with their factor: every leverage comes from one factor; no training rows are kept.

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
        """Return the numeric inputs of a learned scale: the features, or the inputs of the feature map."""
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
        """Return h(x, z), shape (m, k); the training rows are not kept, so pass them as `others`."""
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
        penalty = 1.0 if is_empty(self.columns) else self.ridge
        rows = selected(training.values, self.columns)
        return replace(self, factor=Auto().factor(rows, penalty, weights, self.factor.fit_intercept))


def mapped(feature_map: Any, X: Any) -> Any:
    """Return the features of X as a float array or CSR matrix."""
    return as_numbers(X if feature_map is None else feature_map.transform(kept(X, feature_map)))


def selected(values: Any, columns: Array | None) -> Any:
    """Return the active columns; one column of zeros if no column is active."""
    if columns is None:
        return values
    if is_empty(columns):
        return np.zeros((values.shape[0], 1))
    return values[:, columns]


def is_empty(columns: Array | None) -> bool:
    """Whether no column is active."""
    return columns is not None and len(columns) == 0


# A learned scale needs dense inputs; from sparse ones it gets this many columns.
DENSE_COLUMNS = 256


# Parameters that let scikit-learn's estimators overwrite X (and some y too) when they are False.
_KEEP_INPUTS = frozenset({"copy", "copy_X", "copy_x"})


def kept(X: Any, estimator: Any) -> Any:
    """Return rows (or targets) to hand to an estimator: X itself, or a copy where the estimator may overwrite them.

    Leverage is measured on the same rows after the estimator has been fitted to them.
    """
    settings = estimator.get_params(deep=True) if isinstance(estimator, BaseEstimator) else {}
    overwrites = any(value is False and name.rpartition("__")[2] in _KEEP_INPUTS for name, value in settings.items())
    return copy.deepcopy(X) if overwrites else X


def as_numbers(X: Any) -> Any:
    """Return rows as a float array or CSR matrix, without a copy if they already are; NaN and infinity are allowed."""
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype in (np.float64, np.float32) and X.size > 0:
        return X
    return check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32], ensure_all_finite=False)


def input_columns(values: Any) -> Array | None:
    """Choose the columns that stand for the inputs: all (None) of dense rows, those of largest variance of CSR."""
    if not sparse.issparse(values) or values.shape[1] <= DENSE_COLUMNS:
        return None
    mean = np.asarray(values.mean(axis=0)).ravel()
    variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
    return np.sort(np.argpartition(-variance, DENSE_COLUMNS)[:DENSE_COLUMNS])


def dense_inputs(values: Any, columns: Array | None) -> Array:
    """Return the chosen columns as a dense array."""
    if not sparse.issparse(values):
        return np.asarray(values)
    return (values if columns is None else values[:, columns]).toarray()


def combined_weights(row_weights: Array | None, sample_weight: Any, n_samples: int) -> Array | None:
    """Return the user's weights times those that the model gave its training rows; None if all are 1."""
    own = None if sample_weight is None else check_weights(sample_weight, n_samples)
    if row_weights is None:
        return own
    if len(row_weights) != n_samples:
        raise ValueError(
            f"this model weighted its own {len(row_weights)} training rows (outliers, or noise of each row), so its "
            f"geometry must be fitted to these rows; got {n_samples} rows. Fit the model to the reference rows, "
            "or pass geometry=InputsGeometry()."
        )
    return row_weights if own is None else row_weights * own
