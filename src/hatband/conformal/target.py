"""On which scale scores are formed: that of y, or the one that a TransformedTargetRegressor learns on."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV

from hatband.arrays.typing import Array


class Target(Protocol):
    """How predictions and y reach the scale of the scores, and how bounds come back."""

    @property
    def is_scale_of_y(self) -> bool:
        """Whether scores are formed on the scale of y itself."""
        ...

    def read(self, prediction: Array) -> Array:
        """Bring what the model predicts to the scale of the scores."""
        ...

    def forward(self, y: Array) -> Array:
        """Bring y (n, q) to the scale of the scores."""
        ...

    def transform(self, y: Array) -> Array:
        """Bring y (n, q), or predictions of it, to the scale of the model."""
        ...

    def backward(self, bound: Array) -> Array:
        """Bring bounds (m, q) to the scale of y, infinities to infinities; NaN where it has no finite value."""
        ...

    def point(self, read: Array) -> Array:
        """Bring a prediction that was read to the scale of y, as the estimator's own `predict` does."""
        ...


@dataclass(frozen=True)
class PlainTarget:
    """The model predicts y itself."""

    is_scale_of_y: ClassVar[bool] = True

    def read(self, prediction: Array) -> Array:
        """Bring what the model predicts to the scale of the scores."""
        return prediction

    def forward(self, y: Array) -> Array:
        """Bring y to the scale of the scores."""
        return y

    def transform(self, y: Array) -> Array:
        """Bring y to the scale of the model."""
        return y

    def backward(self, bound: Array) -> Array:
        """Bring bounds to the scale of y."""
        return bound

    def point(self, read: Array) -> Array:
        """Return what the model predicts."""
        return read


@dataclass(frozen=True)
class MonotoneTarget:
    """Scores on the transformed scale; bounds are mapped back, which keeps coverage because the map is monotone."""

    transformer: Any
    is_scale_of_y: ClassVar[bool] = False

    def read(self, prediction: Array) -> Array:
        """Bring what the model predicts to the scale of the scores."""
        return prediction

    def forward(self, y: Array) -> Array:
        """Bring y to the scale of the scores."""
        return _columns(self.transformer.transform, y)

    def transform(self, y: Array) -> Array:
        """Bring y to the scale of the model."""
        return self.forward(y)

    def backward(self, bound: Array) -> Array:
        """Bring bounds to the scale of y."""
        finite = np.isfinite(bound)
        mapped = _columns(self.transformer.inverse_transform, np.where(finite, bound, 0.0))
        # Beyond the range of the inverse nothing is known: the bound is infinite on its own side.
        return np.where(finite & np.isfinite(mapped), mapped, np.where(finite, np.nan, bound))

    def point(self, read: Array) -> Array:
        """Bring what the model predicts to the scale of y, as the estimator's own `predict` does."""
        return _columns(self.transformer.inverse_transform, read)


@dataclass(frozen=True)
class BackTransformedTarget:
    """Scores on the scale of y, because the transformation cannot be inverted for every bound."""

    transformer: Any
    is_scale_of_y: ClassVar[bool] = True

    def read(self, prediction: Array) -> Array:
        """Bring what the model predicts to the scale of the scores."""
        return _columns(self.transformer.inverse_transform, prediction)

    def forward(self, y: Array) -> Array:
        """Bring y to the scale of the scores."""
        return y

    def transform(self, y: Array) -> Array:
        """Bring y to the scale of the model."""
        return _columns(self.transformer.transform, y)

    def backward(self, bound: Array) -> Array:
        """Bring bounds to the scale of y."""
        return bound

    def point(self, read: Array) -> Array:
        """Return what was read: the scale of the scores is that of y."""
        return read


#: The model predicts y itself.
PLAIN_TARGET = PlainTarget()


def _columns(function: Any, values: Array) -> Array:
    """Apply a transformer's method to (n, q) and return (n, q), whatever it squeezes."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(function(values), dtype=np.float64).reshape(values.shape)


def split_target(estimator: Any, y: Array) -> tuple[Any, Target]:
    """Return what predicts on the model's own scale, and the target that scores are formed on."""
    inner = estimator
    while isinstance(inner, (FrozenEstimator, BaseSearchCV)):
        inner = inner.estimator if isinstance(inner, FrozenEstimator) else inner.best_estimator_
    if not isinstance(inner, TransformedTargetRegressor):
        return estimator, PLAIN_TARGET
    transformer = inner.transformer_
    monotone = is_increasing(transformer, y)
    return inner.regressor_, MonotoneTarget(transformer) if monotone else BackTransformedTarget(transformer)


def is_increasing(transformer: Any, y: Array, points: int = 201) -> bool:
    """Whether the transformation and its inverse increase, column by column, on the range of y and as far again.

    The inverse is tried beyond the range as well, because bounds go there: a square root's inverse turns round at 0,
    and a quantile transformer's stands still.
    """
    middle = np.median(y, axis=0)
    steps = np.linspace(0, 1, points)
    for column in range(y.shape[1]):
        grid = np.tile(middle, (points, 1))
        low, high = y[:, column].min(), y[:, column].max()
        if high <= low:
            return False
        grid[:, column] = low + steps * (high - low)
        image = _columns(transformer.transform, grid)
        beyond = image[points // 2 : points // 2 + 1].repeat(points, axis=0)
        span = image[-1, column] - image[0, column]
        beyond[:, column] = image[0, column] - span + 3 * span * steps
        returned = _columns(transformer.inverse_transform, beyond)
        if not (_increases_alone(image, column) and _increases_alone(returned, column)):
            return False
    return True


def _increases_alone(values: Array, column: int) -> bool:
    """Whether this column increases strictly while the others stand still."""
    others = np.delete(values, column, axis=1)
    still = np.ptp(others, axis=0) <= 1e-9 * (1 + np.abs(others).max(axis=0)) if others.size else np.array(True)
    return bool(np.isfinite(values).all() and (np.diff(values[:, column]) > 0).all() and still.all())
