"""The rows that a network was trained on, read each time a scale or a calibration needs them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.rows import NoHeldOutResiduals, Rows, TrainingRows
from hatband.linalg import GramStatistics
from hatband.nn.measure.batches import ArrayBatches, Batches
from hatband.nn.measure.layer_choice import Task
from hatband.nn.measure.network_rows import (
    NetworkRows,
    NoisyRows,
    blocks_of,
    columns_like,
    stacked,
    targets_by_noise,
    training_rows,
    validation_rows,
)
from hatband.nn.measure.space import GramSpace, NetworkSpace, fit_space
from hatband.nn.measure.streaming import added

#: sigma(inputs) of a batch, as the module gets them.
Noise = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class TrainingStream:
    """Training rows of a network whose space was fitted to them, and rows that it has not seen, if there are any.

    No row is kept: every method is a pass over the batches.

    Parameters
    ----------
    space : NetworkSpace
        Fitted to these rows.
    task : Task
        What the space was fitted by: batches of training rows and their weights, ridge, merge.
    validation : batches or None
        Rows that the network was not trained on.
    fit_train_rows : {"auto", "unseen"}
        Whether the network counts as not trained on them.
    seed : int
        Draws the rows that a scale learns from where they are many.
    """

    space: NetworkSpace
    task: Task
    validation: Batches | ArrayBatches | None
    fit_train_rows: str
    seed: int

    @cached_property
    def held_out(self) -> TrainingRows:
        """Rows with residuals that a scale may learn from.

        Raises
        ------
        NoHeldOutResiduals
            If there are none, because the network was trained on all rows given.
        ValueError
            If the rows differ between processes, or have weights.
        """
        if self.validation is not None:
            return validation_rows(self.space, self.validation, self.seed)
        if self.space.exactness == "none" and self.fit_train_rows == "auto":
            raise NoHeldOutResiduals(
                "The residuals of the rows that the network was trained on are too small to learn a scale from. Pass "
                "validation= rows that it has not seen, fit_train_rows='unseen' if it has not seen those of fit_train, "
                "or a scale that needs no residuals, such as 'leverage'."
            )
        self.check_alone("a scale that learns")
        if self.task.weights is not None:
            raise ValueError(
                "a scale that learns from rows of fit_train takes no sample_weight; pass validation=, or "
                "scale='leverage'."
            )
        return training_rows(self.space, self.task.batches, self.seed)

    def check_alone(self, what: str) -> None:
        """Raise if other processes have other training rows."""
        if self.task.merge is not None:
            raise ValueError(
                f"{what} needs the same rows in every process, so that all have the same band; those of fit_train "
                "differ. Pass the same validation= in every process if that is enough, or use scale='leverage'."
            )

    def leverages(self) -> Rows:
        """Return the training rows with only their leave-one-out leverage."""
        self.check_alone("LeverageBins")
        return leverage_alone(stacked(rows.leverage for _, rows, _ in self._blocks(None)))

    def weighted(self, deviation: Callable[[NoisyRows], Array], noise: Noise | None = None) -> list[GramSpace]:
        """Return the space of the training rows with weights 1 / sigma^2, one for each column of sigma.

        Parameters
        ----------
        deviation : callable(rows) -> array (b, 1) or (b, q)
            sigma of training rows, whose leverages are leave-one-out.
        noise : callable(inputs), optional
            What ``rows.noise_std`` holds.
        """
        if not isinstance(self.space, GramSpace):
            raise ValueError(
                "noise weights the rows of a Gram matrix, and low rank does not form one. Pass "
                "layer=WholeNetwork(exact_up_to=...) with a larger number, or layer=None for the last layer."
            )
        sums: list[GramStatistics | None] = []
        for block, rows, weights in self._blocks(noise):
            precision = 1 / np.square(deviation(rows))
            if weights is not None:
                precision = precision * weights[:, None]
            sums = sums or [None] * precision.shape[1]
            targets: Any = [None] * len(sums)
            if block.target is not None:
                targets = targets_by_noise(columns_like(block.target, block.prediction), len(sums))
            sums = [
                added(total, block.features.values, y, w)
                for total, y, w in zip(sums, targets, precision.T, strict=True)
            ]
        return [self._space(total) for total in sums if total is not None]

    def _space(self, statistics: GramStatistics) -> GramSpace:
        whole = statistics if self.task.merge is None else self.task.merge(statistics)
        return fit_space(self.space.module, self.space.part, whole, self.task.ridge, self.task.penalise_bias)

    def _blocks(self, noise: Noise | None) -> Iterator[tuple[NetworkRows, NoisyRows, Array | None]]:
        """Yield blocks of the training rows, the same rows with each left out, and their weights."""
        start = 0
        with closing(blocks_of(self.space, self.task.batches, noise=noise)) as blocks:
            for block in blocks:
                part = slice(start, start + len(block))
                weights = None if self.task.weights is None else self.task.weights[part]
                yield block, block.training_rows(self.space, weights), weights
                start = part.stop


def leverage_alone(leverage: Array) -> Rows:
    """Return rows for which only the leverage is known."""

    def unknown() -> Array:
        raise AttributeError("only the leverage of these rows was computed.")

    return Rows(
        len(leverage),
        inputs=unknown,
        leverage=lambda: leverage,
        sampling_leverage=unknown,
        prediction=unknown,
    )
