"""Where the noise of a row comes from: a constant or a head, a head tempered, or a regression of residuals."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows
from hatband.formulas.leave_one_out import loo_leverage
from hatband.formulas.posterior import LinearPosterior, PosteriorPrediction
from hatband.nn.measure.network_rows import Gathered
from hatband.scales import LaplaceScale
from hatband.scales.noise import Temper


class NoiseSource(ABC):
    """Puts the deviation of the noise beside gathered rows."""

    @abstractmethod
    def at_new(self, rows: Gathered) -> Gathered:
        """Return rows that the network was not trained on with their noise."""

    @abstractmethod
    def at_training(self, rows: Gathered) -> Gathered:
        """Return the training rows with their noise."""


@dataclass(frozen=True)
class AsGathered(NoiseSource):
    """The noise that the rows came with, or none: constant noise."""

    def at_new(self, rows: Gathered) -> Gathered:
        """Return the rows as they are."""
        return rows

    def at_training(self, rows: Gathered) -> Gathered:
        """Return the rows as they are."""
        return rows


@dataclass(frozen=True)
class TemperedNoise(NoiseSource):
    """The noise that the rows came with, c sigma^k.

    Parameters
    ----------
    tempers : tuple of Temper
        One for each output.
    """

    tempers: tuple[Temper, ...]

    @classmethod
    def of(cls, held: Gathered, residuals: Array, law: PosteriorPrediction) -> "TemperedNoise":
        """Fit to residuals (n, q) of rows that network and noise have not seen, less the share of the model's error."""
        noise = np.broadcast_to(_given(held), residuals.shape)
        known = np.isfinite(law.epistemic)
        share = 1 + np.where(known, law.epistemic, 0.0) / law.aleatoric
        sizes = np.abs(residuals) / np.sqrt(share)
        return cls(tuple(Temper.of(size, deviation) for size, deviation in zip(sizes.T, noise.T, strict=True)))

    def at_new(self, rows: Gathered) -> Gathered:
        """Return rows with their noise tempered."""
        noise = np.broadcast_to(_given(rows), rows.prediction.shape)
        return replace(rows, noise=np.stack([t(one) for t, one in zip(self.tempers, noise.T, strict=True)], axis=1))

    def at_training(self, rows: Gathered) -> Gathered:
        """Return rows with their noise tempered."""
        return self.at_new(rows)


@dataclass(frozen=True, eq=False)
class ResidualNoise(NoiseSource):
    """Noise learned from residuals of rows that the network was not trained on.

    Parameters
    ----------
    scale : LaplaceScale
        Fitted to these rows.
    posterior : LinearPosterior
        Under constant noise: what measures the leverage that the noise is a function of.
    """

    scale: LaplaceScale
    posterior: LinearPosterior

    @classmethod
    def of(cls, held: Gathered, residuals: Array, posterior: LinearPosterior, random_state: Any) -> "ResidualNoise":
        """Learn from residuals (n, q)."""
        return cls(LaplaceScale(random_state=random_state).fit(_rows(held, posterior), residuals), posterior)

    def at_new(self, rows: Gathered) -> Gathered:
        """Return rows that the network was not trained on with their noise."""
        return self._with(rows, _rows(rows, self.posterior))

    def at_training(self, rows: Gathered) -> Gathered:
        """Return the training rows with their noise, each measured against the others."""
        leverage = loo_leverage(self.posterior.leverage(rows.features))
        return self._with(rows, _rows(rows, self.posterior, leverage))

    def _with(self, rows: Gathered, seen: Rows) -> Gathered:
        return replace(rows, noise=np.sqrt(self.scale.variances(seen)[0]))


def _given(rows: Gathered) -> Array:
    if rows.noise is None:
        raise ValueError("these rows came without noise to temper; gather them with the noise head.")
    return rows.noise


def _rows(rows: Gathered, posterior: LinearPosterior, leverage: Array | None = None) -> Rows:
    """Return what a scale may look at: the inputs where they are a table, else the features."""
    h = posterior.leverage(rows.features) if leverage is None else leverage
    inputs = rows.features if rows.inputs is None else rows.inputs
    return Rows(
        len(rows),
        inputs=lambda: inputs,
        leverage=lambda: h,
        sampling_leverage=lambda: h,
        prediction=lambda: rows.prediction,
    )
