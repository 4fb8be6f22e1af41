"""Models without one row, or without one block of rows, of a linear smoother: computed from one factorisation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.conformal.band import reach
from hatband.conformal.held_out.plus import HeldOut, Reach
from hatband.conformal.held_out.refits import Fold
from hatband.fitted.rank_bounds import RankBounds, value_range
from hatband.fitted.rows import TrainingRows
from hatband.fitted.smoother import CrossedBlock, Smoother, WithoutBlock
from hatband.formulas.full_conformal import CrossedRows
from hatband.formulas.leave_one_out import loo_leverage_at, loo_predictions, loo_sampling_leverage_at
from hatband.geometry import Features
from hatband.scales.base import widths_at
from hatband.scales.named import fit_scale

# A block keeps |B|^2 numbers: beyond this a refit is cheaper to keep.
LARGEST_BLOCK = 1000


class OfSmoother(HeldOut):
    """The base of closed forms: the model of all rows is a smoother, and its scale a function of leverage alone."""

    smoother: Smoother

    @property
    def estimator(self) -> Any:
        """The estimator fitted to all rows."""
        return self.smoother.estimator

    @property
    def space(self) -> Any:
        """The space of the model of all rows."""
        return self.smoother.space

    def features(self, X: Any) -> Features:
        """Run preprocessing and the feature map once."""
        return self.space.features(X)

    def prediction(self, features: Features) -> Array:
        """Return mu(x) (m, q)."""
        return self.smoother.predict(features)

    def width(self, features: Features) -> Array:
        """Return the width at h(x) (m, 1) or (m, q)."""
        verbs = partial(self.space.leverage, features), partial(self.space.sampling_leverage, features)
        return widths_at(self.scale, (len(features), self.smoother.leverage.shape[1]), *verbs)


@dataclass(frozen=True, eq=False)
class LeaveOneOut(OfSmoother):
    """n models, each without one row: mu_-i(x) = mu(x) - h(x, x_i) w_i r_i, r_i = e_i / (1 - w_i h_i).

    Parameters
    ----------
    smoother : Smoother
        Prepared.
    scale : fitted scale
        A function of leverage alone.
    sampling : array (n, 1) or (n, q), or None
        s of the training rows; None where the scale does not look at it.
    residuals : array (n, q)
        Leave-one-out residuals r_i; infinite where the model interpolates the row.
    scores : array (n, q)
        r_i / width_-i(x_i).
    block_size : int or None
        New rows at a time.
    """

    smoother: Smoother
    scale: Any
    sampling: Any
    residuals: Array
    scores: Array
    block_size: int | None = None

    @classmethod
    def of(
        cls,
        smoother: Smoother,
        training: Features,
        y: Array,
        sample_weight: Array | None,
        *,
        scale: Any,
        block_size: int | None,
    ) -> Self:
        """Fit the scale to the training rows of a smoother as if each had not been seen, and score them."""
        rows, residuals = smoother.held_out_rows(training, y), smoother.loo_residuals
        defined = np.isfinite(residuals).all(axis=1)
        scores, known = residuals.copy(), rows.take(defined)
        if defined.any():
            weight = None if sample_weight is None else sample_weight[defined]
            fit_scale(scale, lambda: TrainingRows(known, residuals[defined], "leave-one-out", weight))
            shape = (len(known), smoother.leverage.shape[1])
            scores[defined] /= widths_at(scale, shape, lambda: known.leverage, lambda: known.sampling_leverage)
        sampling = None
        if "sampling_leverage" in vars(rows):  # the scale has looked at it
            sampling = smoother.space.sampling_leverage(training).reshape(smoother.leverage.shape)
        return cls(smoother.prepared(training), scale, sampling, residuals, scores, block_size)

    def around(self, features: Features, spread: Array) -> Iterator[Reach]:
        """Yield mu_-i(x) -+ spread_i width_-i(x); per block, a handful of arrays of its size times n."""
        for block in self.smoother.crossed(features, self.block_size):
            yield from self._reaches(block, spread)

    def near(self, features: Features, spread: Array, ranks: list[int]) -> Iterator[Reach]:
        """Yield the same for training rows that can have one of the ranks; new rows come in order of leverage."""
        power = self.scale.leverage_exponent
        choose = None if power is None else partial(self._near, spread, ranks, power)
        for block in self.smoother.crossed(features, self.block_size, choose):
            yield from self._reaches(block, spread)

    def _near(self, spread: Array, ranks: list[int], power: float, h: Array) -> RankBounds:
        """Return the training rows that can have one of the ranks for new rows of leverage h (b, k)."""
        leverage, weights = self.smoother.leverage, self.smoother.weights
        ranges = [
            value_range(spread[:, j], self.residuals[:, j], leverage[:, k], weights, h=h[:, k], power=power)
            for j, k in enumerate(np.arange(spread.shape[1]) % h.shape[1])
        ]
        return RankBounds.among(ranges, ranks)

    def _reaches(self, block: CrossedBlock, spread: Array) -> Iterator[Reach]:
        """Yield mu_-i(x) -+ spread_i width_-i(x) (b, k); infinite where there is no model or no finite width."""
        for j, rows in block.outputs():
            residuals, spreads = (values[block.bounds.columns, j] for values in (self.residuals, spread))
            leverage = partial(loo_leverage_at, rows.new_leverage, rows.cross, rows.leverage, rows.weights)
            width = widths_at(self.scale, rows.cross.shape, leverage, partial(self._sampling, block.features, j, rows))
            center = loo_predictions(rows.prediction, rows.cross, residuals, rows.weights)
            span = reach(width, spreads)
            span[:, np.isinf(residuals)] = np.inf
            yield Reach(block.index, j, center - span, center + span, rows.below, rows.above)

    def _sampling(self, features: Features, j: int, rows: CrossedRows) -> Array:
        """Return s_-i(x) (b, n)."""
        columns = self.space.sampling_leverage(features).reshape(len(features), -1)
        k = j % columns.shape[1]
        return loo_sampling_leverage_at(
            columns[:, k],
            rows.cross,
            self.smoother.cross.smooth(rows.cross, rows.weights, j),
            s_train=self.sampling[:, k],
            h_train=rows.leverage,
            w=rows.weights,
        )


@dataclass(frozen=True, eq=False)
class BlockOut(OfSmoother):
    """K models, each without one block of rows; all outputs share one ridge.

    Parameters
    ----------
    smoother : Smoother
        Prepared; its space of exactness "exact".
    scale : fitted scale
        A function of posterior leverage alone.
    blocks : sequence of WithoutBlock
    places : sequence of array of int
        Places of each block's scores.
    scores : array (n, q)
    block_size : int or None
    """

    smoother: Smoother
    scale: Any
    blocks: Sequence[WithoutBlock]
    places: Sequence[Array]
    scores: Array
    block_size: int | None = None

    @classmethod
    def of(
        cls,
        smoother: Smoother,
        training: Features,
        y: Array,
        folds: Sequence[Fold],
        *,
        scale: Any,
        block_size: int | None,
    ) -> Self | None:
        """Return the models, or None if some block cannot be left out."""
        smoother = smoother.prepared(training)
        predicted, h = y - smoother.residuals, smoother.leverage[:, 0]
        blocks, scores = [], np.empty((sum(len(fold.held) for fold in folds), y.shape[1]))
        for fold in folds:
            hat = smoother.cross(training.take(fold.held), fold.held)
            block = smoother.without(fold.held, hat)
            if block is None:
                return None
            blocks.append(block)
            width = _width(scale, block, h[fold.held], hat)
            scores[fold.scores] = (y[fold.held] - block.prediction(predicted[fold.held], hat)) / width[:, None]
        return cls(smoother, scale, blocks, [fold.scores for fold in folds], scores, block_size)

    def around(self, features: Features, spread: Array) -> Iterator[Reach]:
        """Yield mu_-B(x) -+ spread_i width_-B(x), B the block of row i."""
        for part in self.smoother.crossed(features, self.block_size):
            known = [(block, part.cross[:, block.rows]) for block in self.blocks]
            centers = [block.prediction(part.prediction, cross) for block, cross in known]
            widths = [_width(self.scale, block, part.leverage[:, 0], cross)[:, None] for block, cross in known]
            for j in range(spread.shape[1]):
                low, high = np.empty((2, len(part.cross), len(spread)))
                for places, center, width in zip(self.places, centers, widths, strict=True):
                    span = reach(width, spread[places, j])
                    low[:, places], high[:, places] = center[:, [j]] - span, center[:, [j]] + span
                yield Reach(part.index, j, low, high)


def _width(scale: Any, block: WithoutBlock, h: Array, cross: Array) -> Array:
    """Return width_-B(x) (m,)."""
    verb = partial(block.leverage, h, cross)
    return widths_at(scale, h.shape, verb, verb)
