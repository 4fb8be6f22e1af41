"""K models of a linear smoother that each miss one block of rows, read off one factorisation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.conformal.held_out.plus import HeldOut, Reach
from hatband.conformal.held_out.refits import Fold
from hatband.conformal.pointwise import widths_at
from hatband.conformal.split import SplitConformalRegressor
from hatband.conformal.training import TrainingData
from hatband.fitted.cross_leverage import Crossing, crossing_of, row_blocks
from hatband.fitted.rows import predict_features
from hatband.formulas.leave_one_out import block_factor
from hatband.geometry import Features, Space

# A block keeps |B|^2 numbers: beyond this a refit is cheaper to keep.
LARGEST_BLOCK = 1000


@dataclass(frozen=True, eq=False)
class Block:
    """One block of rows B that is left out, with G = (W_B^-1 - H_BB)^-1 = Q'Q.

    Parameters
    ----------
    rows : array of int
        Positions of B.
    half : array (b, b)
        Q.
    shift : array (b, q)
        G e_B.
    """

    rows: Array
    half: Array
    shift: Array

    @classmethod
    def of(cls, rows: Array, hat: Array, weights: Array | None, residuals: Array) -> Self | None:
        """Return the block with cross-leverages H_BB, or None where leaving it out leaves no model."""
        factor = block_factor(hat, None if weights is None else weights[rows])
        if factor is None:
            return None
        half = factor.half()
        return cls(rows, half, half.T @ (half @ residuals[rows]))

    def prediction(self, mu: Array, cross: Array) -> Array:
        """Return mu_-B(x) = mu(x) - h(x, X_B) G e_B for cross (m, b)."""
        return mu - cross @ self.shift

    def leverage(self, h: Array, cross: Array) -> Array:
        """Return h_-B(x) = h(x) + h(x, X_B) G h(X_B, x)."""
        return h + np.square(cross @ self.half.T).sum(axis=1)


@dataclass(frozen=True, eq=False)
class BlockOut(HeldOut):
    """K models that each miss one block; all outputs share one ridge.

    Parameters
    ----------
    estimator : fitted estimator
    space : Space
        Of exactness "exact".
    crossing : Crossing
    scale : fitted scale
        A function of posterior leverage alone.
    blocks : sequence of Block
    places : sequence of array of int
        Places of each block's scores.
    scores : array (n, q)
    block_size : int or None
    """

    estimator: Any
    space: Space
    crossing: Crossing
    scale: Any
    blocks: Sequence[Block]
    places: Sequence[Array]
    scores: Array
    block_size: int | None = None
    refitted: bool = field(default=False, init=False)

    @classmethod
    def of(
        cls, whole: SplitConformalRegressor, folds: Sequence[Fold], given: TrainingData, block_size: int | None
    ) -> Self | None:
        """Return the models, or None where leaving some block out leaves no model."""
        space, scale, y = whole.space_, whole.scale_, given.y
        features = space.features(given.X)
        crossing = crossing_of(space, features, given.weight)
        predicted = predict_features(whole.estimator_, space, features, y.shape[1])
        h = space.leverage(features)
        blocks, scores = [], np.empty((sum(len(fold.held) for fold in folds), y.shape[1]))
        for fold in folds:
            hat = crossing(features.take(fold.held))[:, fold.held]
            block = Block.of(fold.held, hat, crossing.weights, y - predicted)
            if block is None:
                return None
            blocks.append(block)
            width = _width(scale, block, h[fold.held], hat)
            scores[fold.scores] = (y[fold.held] - block.prediction(predicted[fold.held], hat)) / width[:, None]
        places = [fold.scores for fold in folds]
        return cls(whole.estimator_, space, crossing, scale, blocks, places, scores, block_size)

    def features(self, X: Any) -> Features:
        """Run the feature map once."""
        return self.space.features(X)

    def prediction(self, features: Features) -> Array:
        """Return mu(x) (m, q)."""
        return predict_features(self.estimator, self.space, features, self.scores.shape[1])

    def width(self, features: Features) -> Array:
        """Return the width at h(x) (m, 1)."""
        verbs = partial(self.space.leverage, features), partial(self.space.sampling_leverage, features)
        return widths_at(self.scale, (len(features), 1), *verbs)

    def around(self, features: Features, spread: Array) -> Iterator[Reach]:
        """Yield mu_-B(x) -+ spread_i width_-B(x), B the block of row i."""
        mu, h = self.prediction(features), self.space.leverage(features)
        for part in row_blocks(len(features), spread.size, self.block_size):
            cross = self.crossing(features.take(part))
            low, high = np.empty((2, len(cross), *spread.shape))
            for block, places in zip(self.blocks, self.places, strict=True):
                near = cross[:, block.rows]
                center, width = block.prediction(mu[part], near), _width(self.scale, block, h[part], near)
                reach = np.where(np.isinf(width)[:, None, None], np.inf, _finite(width)[:, None, None] * spread[places])
                low[:, places], high[:, places] = center[:, None] - reach, center[:, None] + reach
            yield from (Reach(part, j, low[..., j], high[..., j]) for j in range(spread.shape[1]))

    def near(self, features: Any, spread: Array, ranks: list[int]) -> Iterator[Reach]:
        """Yield what `around` does."""
        return self.around(features, spread)


def _width(scale: Any, block: Block, h: Array, cross: Array) -> Array:
    """Return width_-B(x) (m,)."""
    verb = partial(block.leverage, h, cross)
    return widths_at(scale, h.shape, verb, verb)


def _finite(width: Array) -> Array:
    return np.where(np.isinf(width), 1.0, width)
