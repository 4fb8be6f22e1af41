"""Cross-leverage of new rows to all training rows, with what depends on the training rows alone computed once."""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_smoother
from hatband.geometry import Features, Space
from hatband.geometry.composite import PerOutputSpace, PreprocessedSpace
from hatband.geometry.features import FeatureSpace, selected
from hatband.geometry.kernel import KernelSpace

# Rows at which predictions are compared with the smoother of the geometry.
PROBES = 16
# Numbers in one block: 2 MB, so that the handful of arrays of its size stay in the cache.
BLOCK_NUMBERS = 2**18

ALL = slice(None)


class Crossing(ABC):
    """h(x, x_i) for all training rows x_i, and the weights w_i that these had: the prediction is sum_i h w_i y_i."""

    weights: Array | None

    @abstractmethod
    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), i in `columns`: shape (m, k), or (m, k, q) where the ridge differs per output."""

    @abstractmethod
    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i) of the training rows, shape (n,) or (n, q)."""

    @abstractmethod
    def smoothed(self, cross: Array) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n): the fit of each row of `cross`, at the training rows."""


@dataclass(frozen=True, eq=False)
class FeatureCrossing(Crossing):
    """The training side as R^-T Phi' (d, n), as many numbers as the training features have.

    Parameters
    ----------
    space : FeatureSpace
    half : array (d, n)
        Training rows in the coordinates of the factor.
    weights : array (n,), or None
    """

    space: FeatureSpace
    half: Array
    weights: Array | None

    @classmethod
    def of(cls, space: FeatureSpace, training: Features, weights: Array | None) -> Self:
        """Prepare the training rows."""
        return cls(space, space.factor.half_solve(selected(training.values, space.columns)), weights)

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), shape (m, n): one product of matrices."""
        rows = self.space.factor.half_solve(selected(features.values, self.space.columns))
        product = rows.T @ self.half[:, columns]
        product += self._floor
        return product

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i), shape (n,)."""
        return self.space.leverage(training)

    def smoothed(self, cross: Array) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n)."""
        weighted = cross if self.weights is None else cross * self.weights
        return (weighted @ self.half.T) @ self.half + self._floor * weighted.sum(axis=1, keepdims=True)

    @property
    def _floor(self) -> float:
        frame = self.space.factor.frame
        return 1 / frame.weight if frame.fit_intercept else 0.0


@dataclass(frozen=True, eq=False)
class KernelCrossing(Crossing):
    """Kernels keep their training rows and factor in the space; nothing is added.

    Parameters
    ----------
    space : KernelSpace
    """

    space: KernelSpace

    @property
    def weights(self) -> Array | None:  # type: ignore[override]
        """Weights of the rows, those that the model gave them included."""
        frame = self.space.factor.frame
        return None if frame.root is None else frame.spread(frame.root**2)

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), shape (m, n)."""
        return self.space.cross_leverage(features)[:, columns]

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i), shape (n,), from the factor: no further n x n array."""
        return self.space.factor.training_leverage()

    def smoothed(self, cross: Array) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n)."""
        return cross - self.space.factor.residuals(cross.T).T


@dataclass(frozen=True, eq=False)
class PerOutputCrossing(Crossing):
    """One crossing per output, where the ridge differs.

    Parameters
    ----------
    crossings : tuple of Crossing
    """

    crossings: tuple[Crossing, ...]

    @property
    def weights(self) -> Array | None:  # type: ignore[override]
        """Weights of the rows, the same for all outputs."""
        return self.crossings[0].weights

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i) for each output, shape (m, n, q)."""
        return np.stack([crossing(features, columns) for crossing in self.crossings], axis=-1)

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i) for each output, shape (n, q)."""
        return np.column_stack([crossing.training_leverage(training) for crossing in self.crossings])

    def smoothed(self, cross: Array) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i) for each output, shape (m, n, q)."""
        return np.stack([part.smoothed(cross[..., j]) for j, part in enumerate(self.crossings)], axis=-1)


@dataclass(frozen=True, eq=False)
class SpaceCrossing(Crossing):
    """Any other space: its own cross-leverage, against the training features.

    Parameters
    ----------
    space : Space
    training : Features
    weights : array (n,), or None
    """

    space: Space
    training: Features
    weights: Array | None

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), shape (m, n)."""
        return self.space.cross_leverage(features, self.training)[:, columns]

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i), shape (n,)."""
        return self.space.leverage(training)

    def smoothed(self, cross: Array) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n), a block of training rows at a time."""
        weighted = cross if self.weights is None else cross * self.weights
        result = np.empty_like(cross)
        for part in row_blocks(cross.shape[1], cross.shape[1]):
            result[:, part] = weighted @ self(self.training.take(part)).T
        return result


def row_blocks(count: int, columns: int, block_size: int | None = None) -> list[slice]:
    """Return slices of rows: `block_size` of them, or as many as make a block of 2^18 numbers at `columns` each."""
    size = max(1, BLOCK_NUMBERS // max(columns, 1)) if block_size is None else block_size
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@functools.singledispatch
def crossing_of(space: Space, training: Features, weights: Array | None) -> Crossing:
    """Return the cross-leverage of a space to its training rows, prepared."""
    return SpaceCrossing(space, Features(None, training.values), weights)


@crossing_of.register
def _features(space: FeatureSpace, training: Features, weights: Array | None) -> Crossing:
    return FeatureCrossing.of(space, training, weights)


@crossing_of.register
def _kernel(space: KernelSpace, training: Features, weights: Array | None) -> Crossing:
    return KernelCrossing(space)


@crossing_of.register
def _preprocessed(space: PreprocessedSpace, training: Features, weights: Array | None) -> Crossing:
    return crossing_of(space.space, training, weights)


@crossing_of.register
def _per_output(space: PerOutputSpace, training: Features, weights: Array | None) -> Crossing:
    return PerOutputCrossing(tuple(crossing_of(part, training, weights) for part in space.spaces))


def check_predictions(estimator: Any, crossing: Crossing, features: Features, predicted: Array, y: Array) -> None:
    """Raise unless predictions of the training rows are sum_i h(x, x_i) w_i y_i, at a few rows spread over them."""
    probes = np.unique(np.linspace(0, len(y) - 1, PROBES).astype(int))
    cross = crossing(features.take(probes)).reshape(len(probes), len(y), -1)
    for j in range(y.shape[1]):
        response = np.column_stack([np.ones(len(y)), y[:, j]])
        response = response if crossing.weights is None else crossing.weights[:, None] * response
        total, smooth = (cross[..., j % cross.shape[-1]] @ response).T
        check_smoother(predicted[probes, j], smooth, total, y[:, j], type(estimator).__name__)
