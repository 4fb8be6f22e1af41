"""What a geometry and a space are: a recipe for the features in which leverage is measured, and that recipe fitted."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.utils import _safe_indexing

from hatband.arrays.kinds import on_host
from hatband.arrays.typing import Array
from hatband.geometry.convert import as_numbers, dense_inputs
from hatband.linalg import Factor, KernelFactor

Exactness = Literal["exact", "given", "none"]
# Rows whose cross-leverage with all training rows is held at once.
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Features:
    """Rows as a space sees them, made once per call by ``Space.features``.

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
    """Return the rows on the other side of a cross-leverage; ValueError where they are the training rows, unkept."""
    if others is None:
        raise ValueError(
            f"cross_leverage to the training rows needs these rows, and {owner}; pass others=space.features(X_train)."
        )
    return others


class Space(ABC):
    """A geometry fitted to training rows: it measures leverage and keeps no state of the rows that it measures.

    Notes
    -----
    A space of your own has two methods: `features` and `leverages`. It has a third, `cross_leverage`, and an
    `exactness` other than "none" where its model is a linear smoother. The others have defaults, which hold for every
    space; override one where there is a faster way. Often no space is needed: ``FeatureGeometry(ridge, intercept,
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
    # Of spaces that are made of one factor.
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
            From one pass over the rows. A space that knows no second form returns the first one twice.
        """

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row: (m,), or (m, q) where the ridge differs per output."""
        return self.leverages(features)[0]

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shaped like `leverage`."""
        return self.leverages(features)[1]

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z) between two sets of rows (m, k); `others=None` means the training rows."""
        raise NotImplementedError(
            f"{type(self).__name__} has no cross-leverage, which closed forms of leave-one-out need. Write its "
            "cross_leverage, or let it claim exactness 'none'."
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
        """Return the weights (n,) of the rows that the space was fitted to, those that the model gave them included."""
        return sample_weight

    def smooth(self, training: Features, y: Array, weights: Array | None) -> Array:
        """Return sum_j h(x_i, x_j) w_j y_j (n, q), what a model of this geometry predicts for its own training rows."""
        weighted, result = y if weights is None else weights[:, None] * y, np.empty(y.shape)
        for start in range(0, len(training), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            result[part] = self.cross_leverage(training.take(part), training) @ weighted
        return result

    def unseen_leverage(self, features: Features) -> Array | float:
        """Return u(x) of h(x) = s(x) + u(x) (m,): s is by the directions that the space keeps, u what these miss.

        It is 0 where the space keeps every direction that training rows have. Where it is not, h may exceed 1 on
        training rows: leaving row i out changes s(x_i) to s / (1 - s) and leaves u as it is.
        """
        return 0.0

    def reweighted(self, training: Features, weights: Array) -> "Space | None":
        """Return the space with these weights (n,) on its training rows; None where it has no features or kernel."""
        return None


class Geometry(ABC):
    """A frozen recipe: feature map or kernel, ridge, intercept, and what leave-one-out may claim (`exactness`).

    "exact": the prediction is a fixed linear smoother of y. "given": it is, given hyperparameters that were tuned on
    the same rows. "none", the default: it is not a linear smoother, and leave-one-out in closed form would be an
    approximation. Register a function that makes one from a fitted model: ``geometry_of.register(Model, function)``.
    """

    exactness: Exactness = "none"

    @abstractmethod
    def fit(self, X: Any, sample_weight: Array | None = None) -> Space:
        """Measure the training rows X, as they were given to the estimator, and return the space."""
