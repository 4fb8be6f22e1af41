"""What a geometry and a space are: a recipe for the features in which leverage is measured, and that recipe fitted."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.utils import _safe_indexing

from hatband.arrays.typing import Array
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


class Space(ABC):
    """A geometry fitted to training rows: it measures leverage and keeps no state of the rows that it measures."""

    exactness: Exactness
    n_samples: int
    ridge: Any
    factor: Factor | KernelFactor | None

    @abstractmethod
    def features(self, X: Any) -> Features:
        """Run the feature map once on raw X."""

    @abstractmethod
    def inputs(self, features: Features) -> Array:
        """Return the numeric inputs (m, k) on which a scale may be learned; NaN allowed."""

    @abstractmethod
    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage from one pass over the rows."""

    @abstractmethod
    def leverage(self, features: Features) -> Array:
        """Return h(x) = phi' A^-1 phi of each row: (m,), or (m, q) where the ridge differs per output."""

    @abstractmethod
    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) = phi' A^-1 Phi'W Phi A^-1 phi of each row, shaped like `leverage`."""

    @abstractmethod
    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z) between two sets of rows (m, k); `others=None` means the training rows."""

    @abstractmethod
    def final_step(self, estimator: Any) -> Any:
        """Return the fitted object whose ``predict`` takes ``Features.model_inputs``."""

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
    the same rows. "none": it is not a linear smoother, and leave-one-out in closed form would be an approximation.
    """

    exactness: Exactness

    @abstractmethod
    def fit(self, X: Any, sample_weight: Array | None = None) -> Space:
        """Measure the training rows X, as they were given to the estimator, and return the space."""
