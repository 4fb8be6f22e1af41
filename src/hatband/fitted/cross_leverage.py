"""Cross-leverage of new rows to all training rows; the part that depends on training rows alone is computed once."""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.geometry import Features, Space
from hatband.geometry.base import FeatureSpace, selected
from hatband.geometry.composite import PerOutputSpace, PreprocessedSpace
from hatband.geometry.kernel import KernelSpace

# Numbers in one block: 2 MB, so that the handful of arrays of its size stay in the cache.
BLOCK_NUMBERS = 2**18

ALL = slice(None)


class CrossLeverage(ABC):
    """h(x, x_i) of new rows x to all training rows x_i."""

    @abstractmethod
    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), i in `columns`: shape (m, k), or (m, k, q) where the ridge differs per output."""

    @abstractmethod
    def smooth(self, values: Array, weights: Array | None, output: int) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n), for rows c of `values` (m, n) and the ridge of an output."""


@dataclass(frozen=True, eq=False)
class OfFeatures(CrossLeverage):
    """The training rows as R^-T Phi' (d, n): as many numbers as the training features have.

    Parameters
    ----------
    space : FeatureSpace
    half : array (d, n)
        Training rows in the coordinates of the factor.
    """

    space: FeatureSpace
    half: Array

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), shape (m, k): one product of matrices."""
        rows = self.space.factor.half_solve(selected(features.values, self.space.columns))
        product = rows.T @ self.half[:, columns]
        product += self._floor
        return product

    def smooth(self, values: Array, weights: Array | None, output: int) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n)."""
        weighted = values if weights is None else values * weights
        return (weighted @ self.half.T) @ self.half + self._floor * weighted.sum(axis=1, keepdims=True)

    @property
    def _floor(self) -> float:
        frame = self.space.factor.frame
        return 1 / frame.weight if frame.fit_intercept else 0.0


@dataclass(frozen=True, eq=False)
class PerOutput(CrossLeverage):
    """Cross-leverages of each output, where the ridge differs.

    Parameters
    ----------
    parts : tuple of CrossLeverage
    """

    parts: tuple[CrossLeverage, ...]

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i) for each output, shape (m, k, q)."""
        return np.stack([part(features, columns) for part in self.parts], axis=-1)

    def smooth(self, values: Array, weights: Array | None, output: int) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i) of one output, shape (m, n)."""
        return self.parts[output % len(self.parts)].smooth(values, weights, output)


@dataclass(frozen=True, eq=False)
class OfSpace(CrossLeverage):
    """Any other space, by its own `cross_leverage`.

    Parameters
    ----------
    space : Space
    training : Features, or None
        None for a kernel, whose space keeps its training rows.
    """

    space: Space
    training: Any

    def __call__(self, features: Features, columns: Array | slice = ALL) -> Array:
        """Return h(x, x_i), shape (m, k) or (m, k, q)."""
        return self.space.cross_leverage(features, self.training)[:, columns]

    def smooth(self, values: Array, weights: Array | None, output: int) -> Array:
        """Return sum_j w_j c_j h(x_j, x_i), shape (m, n)."""
        return self.space.smooth(self.training, values.T, weights).T


def row_blocks(count: int, columns: int, block_size: int | None = None) -> list[slice]:
    """Return slices of rows: `block_size` of them, or as many as make a block of 2^18 numbers at `columns` each."""
    size = max(1, BLOCK_NUMBERS // max(columns, 1)) if block_size is None else block_size
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@functools.singledispatch
def cross_leverage_of(space: Space, training: Features) -> CrossLeverage:
    """Return the cross-leverage of a space to its training rows, prepared."""
    return OfSpace(space, Features(training.values, training.values))


@cross_leverage_of.register
def _features(space: FeatureSpace, training: Features) -> CrossLeverage:
    return OfFeatures(space, space.factor.half_solve(selected(training.values, space.columns)))


@cross_leverage_of.register
def _kernel(space: KernelSpace, training: Features) -> CrossLeverage:
    return OfSpace(space, None)


@cross_leverage_of.register
def _preprocessed(space: PreprocessedSpace, training: Features) -> CrossLeverage:
    return cross_leverage_of(space.space, training)


@cross_leverage_of.register
def _per_output(space: PerOutputSpace, training: Features) -> CrossLeverage:
    return PerOutput(tuple(cross_leverage_of(part, training) for part in space.spaces))
