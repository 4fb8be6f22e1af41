"""The base of regressors around networks: rows come in batches, and every call is one pass over them."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in, unchanged_on_failure
from hatband.conformal.band import Band, Ends
from hatband.conformal.calibration.calibration import CalibrationPlan, EachOutput, check_whole
from hatband.conformal.calibration.groups import PASSED_LABELS, Grouping
from hatband.conformal.calibration.joint import joint_box
from hatband.conformal.calibration.shift import fit_ratio
from hatband.conformal.regressor import CalibratedRegressor
from hatband.fitted.rows import Rows
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.nn.measure.batches import inputs_of
from hatband.nn.measure.network_rows import columns_like, stacked
from hatband.nn.measure.training_stream import leverage_alone


@dataclass(frozen=True, eq=False)
class BandOfBatch:
    """The rows of a batch as calibration needs them; band and leverage are computed only if needed.

    Parameters
    ----------
    prediction : array (b, q)
    band : callable() -> Band
        Before it is calibrated.
    leverage : callable() -> array (b,)
    target : array (b,) or (b, q), or None
        As the loader yields it.
    """

    prediction: Array
    band: Callable[[], Band]
    leverage: Callable[[], Array]
    target: Array | None


class NetworkRegressor(CalibratedRegressor):
    """A regressor around trained networks that reads arrays, or loaders of batches.

    A subclass yields its band batch by batch, and makes `plan_` when it is trained. Predictions have the
    shape of the y in training; without it that of the first y in calibration, and before that of the network's output.
    """

    symmetric: bool
    groups: Any
    likelihood_ratio: Any
    joint: bool
    plan_: CalibrationPlan
    #: Whether the shape of predictions is that of some y.
    target_seen_: bool

    @abstractmethod
    def _bands(self, data: Any, y: Any = None) -> Generator[BandOfBatch, None, None]:
        """Yield the rows batch by batch; networks have hooks until the generator is closed."""

    # ---------------------------------------------------------------- training

    def _check_settings(self) -> Any:
        """Check the parameters that are used only after training; return the first level."""
        check_in(self.symmetric, (True, False), "symmetric")
        check_in(self.joint, (True, False), "joint")
        return check_confidence_level(self.confidence_level)[0][0]

    def _planned(
        self, data: Any, y: Any, validation: Any, X_target: Any, leverages: Callable[[], Rows]
    ) -> CalibrationPlan:
        """Return the plan of calibration, with what it learns from training rows.

        Parameters
        ----------
        data, y, validation, X_target
            As `fit_train` got them.
        leverages : callable() -> Rows
            Training rows with leave-one-out leverage.
        """
        if X_target is not None:
            check_whole(inputs_of(data), "likelihood_ratio")
        ratio = fit_ratio(self.likelihood_ratio, inputs_of(data), X_target)
        grouping = PASSED_LABELS if self.groups is None else Grouping.of(self.groups, leverages)
        outputs: Any = EachOutput()
        if self.joint and self.n_outputs_ > 1:
            rows = (data, y) if validation is None else (validation, None)
            seen = self._gathered(*rows)
            level = check_confidence_level(self.confidence_level)[0][0]
            outputs = joint_box(seen.band.scores_alone(columns_like(seen.target, seen.band.prediction)), level)
        return CalibrationPlan(grouping, self.groups is not None, ratio, outputs)

    # ---------------------------------------------------------------- calibration

    def calibrate(self, data: Any, y: Any = None, *, groups: Any = None, likelihood_ratio: Any = None) -> Self:
        """Score rows that the network has not seen; earlier scores are replaced.

        Parameters
        ----------
        data : DataLoader, pair (X, y) or array X
            Calibration rows, exchangeable with the rows to come; they must not have trained network or scale.
        y : array (n,) or (n, q), optional
            Targets of an array.
        groups : array-like (n,), optional
            Group of each row, any hashable labels: each group is calibrated by itself (see `Groups`).
        likelihood_ratio : array-like (n,), optional
            Density of the population of new rows over the density of these rows, at each row: >= 0, up to one factor.

        Returns
        -------
        self
            With `scores_` (n, q): signed residuals divided by the scale's width.

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If there are no targets, something is not finite, or groups are functions of X and X comes in batches. The
            object then does not change.
        """
        self._check_trained("calibrate")
        with unchanged_on_failure(self):
            self._calibrate(data, y, inputs_of(data), groups, likelihood_ratio)
        return self

    def _calibrate(self, data: Any, y: Any, X: Any, groups: Any, likelihood_ratio: Any) -> None:
        """Keep the scores of rows with their groups and weights; functions of X are applied to `X`."""
        levels, _ = check_confidence_level(self.confidence_level)
        seen = self._gathered(data, y)
        self.calibration_ = self.plan_.calibration(
            seen.band.scores(columns_like(seen.target, seen.band.prediction)),
            X,
            seen.rows,
            groups=groups,
            likelihood_ratio=likelihood_ratio,
            needed=lambda: max(minimum_calibration_size(level, self.symmetric) for level in levels),
        )
        if not self.target_seen_:
            self.single_target_, self.target_seen_ = np.asarray(seen.target).ndim == 1, True

    # ---------------------------------------------------------------- prediction

    def _checked(self, X: Any) -> Any:
        return X

    def _predict(self, X: Any) -> Array:
        return self._of_each(X, lambda batch: batch.prediction)

    def _leverage(self, X: Any) -> Array:
        return self._of_each(X, lambda batch: batch.leverage())

    def _band(self, X: Any) -> Band:
        return self._gathered(X).band

    def _intervals(self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any) -> tuple[Array, list[Ends]]:
        return self._intervals_at(X, inputs_of(X), levels, groups, likelihood_ratio)

    def _intervals_at(
        self, data: Any, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any
    ) -> tuple[Array, list[Ends]]:
        """Return predictions and ends; functions of X are applied to `X`."""
        seen = self._gathered(data)
        new = self.calibration_.reader.read(X, seen.rows, groups, likelihood_ratio)
        return seen.band.point, self.calibration_.ends(seen.band, new, levels, self.symmetric)

    def _of_each(self, data: Any, verb: Callable[[BandOfBatch], Array]) -> Array:
        """Return the results of a function for all batches, one below the other."""
        with closing(self._bands(data)) as batches:
            return stacked(map(verb, batches))

    def _gathered(self, data: Any, y: Any = None) -> "GatheredBand":
        """Return the band over all rows; nothing else of the rows is kept."""
        with_leverage = "plan_" in vars(self) and self.plan_.needs_leverage
        with closing(self._bands(data, y)) as batches:
            return GatheredBand.of(batches, with_leverage)


@dataclass(frozen=True, eq=False)
class GatheredBand:
    """A few numbers for each of many rows: band, target and, if needed, leverage.

    Parameters
    ----------
    band : Band
    target : array (m,) or (m, q), or None
    rows : Rows
        With leverage if groups are bins of leverage.
    """

    band: Band
    target: Array | None
    rows: Rows

    @classmethod
    def of(cls, batches: Iterator[BandOfBatch], with_leverage: bool) -> "GatheredBand":
        """Read the batches once."""
        kept: list[tuple[Array, ...]] = []
        targets: list[Any] = []
        for batch in batches:
            band = batch.band()
            width = np.broadcast_to(band.width, band.center.shape)
            leverage = batch.leverage() if with_leverage else np.empty(len(width))
            kept.append((band.prediction, band.center, width, leverage))
            targets.append(batch.target)
        prediction, center, width, leverage = (
            stacked(part) for part in (zip(*kept, strict=True) if kept else [()] * 4)
        )
        missing = any(target is None for target in targets)
        target = None if missing else np.concatenate(targets)
        return cls(Band(prediction, center, width), target, leverage_alone(leverage))
