"""Rules that adapt the miscoverage along a stream, given only the p-values of its rows.

The conformal p-value of a row is the smallest miscoverage at which its interval would just not have held it: the row is
missed at miscoverage a when a >= p. Scores do not depend on the level, so p-values are all that a level can learn from.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from hatband.arrays.typing import Array, Float
from hatband.checks import check_at_least, check_in


class LevelAdaptation(ABC):
    """A rule that adapts the miscoverage; it holds no state, so many streams can share one object."""

    @abstractmethod
    def start(self, miscoverage: float) -> Any:
        """Return the state before the first row, for a target miscoverage in (0, 1)."""

    @abstractmethod
    def advance(self, state: Any, p_values: Float[Array, " n"]) -> tuple[Float[Array, " n"], Any]:
        """Return the miscoverage in use when each row arrived, and the state after all rows."""

    @abstractmethod
    def miscoverage(self, state: Any) -> float:
        """Return the miscoverage for the next row: infinite intervals at <= 0, the narrowest at >= 1."""


@dataclass(frozen=True)
class FixedLevel(LevelAdaptation):
    """Keep the miscoverage at 1 - confidence_level: conformal prediction with a rolling set of scores.

    Notes
    -----
    Coverage holds for exchangeable rows, and follows slow drift as fast as scores are replaced; it is not corrected.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.conformal import FixedLevel
    >>> level = FixedLevel()
    >>> level.advance(level.start(0.1), np.array([0.02, 0.7]))[0]
    array([0.1, 0.1])
    """

    def start(self, miscoverage: float) -> float:
        """Return the miscoverage."""
        return miscoverage

    def advance(self, state: float, p_values: Float[Array, " n"]) -> tuple[Float[Array, " n"], float]:
        """Return the same miscoverage for every row."""
        return np.full(len(p_values), state), state

    def miscoverage(self, state: float) -> float:
        """Return the miscoverage."""
        return state


class Adapted(NamedTuple):
    """The state of one adaptive level."""

    target: float
    """Miscoverage aimed at."""
    current: float
    """Miscoverage for the next row."""


@dataclass(frozen=True)
class AdaptiveLevel(LevelAdaptation):
    """Adaptive conformal inference: a <- a + step (target - missed), with missed = 1 for a row with p <= a, else 0.

    Parameters
    ----------
    step : float, default=0.005
        How far the miscoverage moves; larger follows faster and wavers more.

    Raises
    ------
    ValueError
        If the step is not finite and > 0.

    Notes
    -----
    On ANY sequence of T rows |share missed - target| <= (max(a1, 1 - a1) + step) / (step T), a1 the first miscoverage:
    no assumption on the rows. Gibbs and Candes (2021), *Adaptive conformal inference under distribution shift*, eq. 2
    and proposition 4.1. A row that arrives at a >= 1 counts as missed, even if its (narrowest) interval holds y.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.conformal import AdaptiveLevel
    >>> level = AdaptiveLevel(step=0.05)
    >>> used, state = level.advance(level.start(0.1), np.array([0.02, 0.7]))
    >>> used.round(3), round(level.miscoverage(state), 3)
    (array([0.1  , 0.055]), 0.06)
    """

    step: float = 0.005

    def __post_init__(self) -> None:
        _check_step(self.step)

    def start(self, miscoverage: float) -> Adapted:
        """Return the state before the first row."""
        return Adapted(miscoverage, miscoverage)

    def advance(self, state: Adapted, p_values: Float[Array, " n"]) -> tuple[Float[Array, " n"], Adapted]:
        """Return the miscoverage that each row was met with, and the state after them."""
        used, current = np.empty(len(p_values)), state.current
        hit, missed = self.step * state.target, self.step * (state.target - 1)
        for index, p_value in enumerate(p_values.tolist()):
            used[index] = current
            current += missed if current >= p_value else hit
        return used, Adapted(state.target, current)

    def miscoverage(self, state: Adapted) -> float:
        """Return the miscoverage for the next row."""
        return state.current


class Aggregated(NamedTuple):
    """The state of the experts of an aggregated level."""

    target: float
    """Miscoverage aimed at."""
    currents: Array
    """Miscoverage of each expert for the next row."""
    weights: Array
    """Trust in each expert; they sum to 1."""


@dataclass(frozen=True)
class AggregatedLevel(LevelAdaptation):
    """Weighted mean of adaptive levels with steps of several sizes, each weighted by its recent pinball loss (DtACI).

    No step has to be chosen: small ones win while nothing drifts, large ones after a change.

    Parameters
    ----------
    steps : sequence of float, default=(0.001, 0.002, 0.004, 0.008, 0.016)
        Step of each expert. Larger ones follow faster, and give infinite intervals after a few misses in a row.
    horizon : int, default=500
        Number of rows over which the mean should do as well as the best sequence of levels; sets the rate at which
        trust moves.

    Raises
    ------
    ValueError
        If there is no step, one is not finite and > 0, or the horizon is not an integer >= 1.

    Notes
    -----
    Gibbs and Candes (2024), *Conformal inference for online prediction with arbitrary distribution shifts*, algorithm
    1 with the mean of the experts, their choice of both rates, and their steps without the three largest (up to 0.128),
    which bought no coverage and many infinite intervals on hourly air pollution. Each expert alone keeps the bound of
    `AdaptiveLevel`; the mean keeps regret bounds over every stretch of `horizon` rows. Cost: a few operations on each
    expert per row.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.conformal import AggregatedLevel
    >>> level = AggregatedLevel()
    >>> used, state = level.advance(level.start(0.1), np.full(100, 0.05))  # each row would need a level of 0.95
    >>> bool(used[0] == 0.1), bool(level.miscoverage(state) < 0.06)
    (True, True)
    """

    steps: Sequence[float] = (0.001, 0.002, 0.004, 0.008, 0.016)
    horizon: int = 500

    def __post_init__(self) -> None:
        if len(self.steps) == 0:
            raise ValueError("steps must hold at least one step, such as 0.005; got an empty list.")
        for step in self.steps:
            _check_step(step, "every step")
        check_at_least(self.horizon, 1, "horizon")

    def start(self, miscoverage: float) -> Aggregated:
        """Return the state before the first row: every expert at the target, all with the same weight."""
        count = len(self.steps)
        return Aggregated(miscoverage, np.full(count, miscoverage), np.full(count, 1 / count))

    def advance(self, state: Aggregated, p_values: Float[Array, " n"]) -> tuple[Float[Array, " n"], Aggregated]:
        """Return the miscoverage that each row was met with, and the state after them."""
        target, currents, weights = state
        used, steps = np.empty(len(p_values)), np.asarray(self.steps, dtype=np.float64)
        rate, sharing = self._rate(target), 1 / (2 * self.horizon)
        for index, p_value in enumerate(p_values.tolist()):
            used[index] = target + weights @ (currents - target)
            apart = p_value - currents
            loss = target * apart - np.minimum(apart, 0.0)
            weights = weights * np.exp(-rate * (loss - loss.min()))
            weights = (1 - sharing) * weights / weights.sum() + sharing / len(steps)
            currents = currents + steps * (target - (apart <= 0))
        return used, Aggregated(target, currents, weights)

    def _rate(self, target: float) -> float:
        """Learning rate of the weights; Gibbs and Candes 2024, section 2.2."""
        count = math.log(len(self.steps) * self.horizon) + 2
        return math.sqrt(3 / self.horizon * count) / (target * (1 - target))

    def miscoverage(self, state: Aggregated) -> float:
        """Return the miscoverage for the next row."""
        # About the target, so that experts who still stand there give exactly that.
        return float(state.target + state.weights @ (state.currents - state.target))


_NAMED = {"fixed": FixedLevel, "adaptive": AdaptiveLevel, "aggregated": AggregatedLevel}


def as_adaptation(adaptation: Any) -> LevelAdaptation:
    """Return the rule that a name or an object stands for; ValueError for anything else."""
    if isinstance(adaptation, LevelAdaptation):
        return adaptation
    check_in(adaptation, list(_NAMED), "adaptation, if it is not a LevelAdaptation,")
    return _NAMED[adaptation]()


def _check_step(step: Any, name: str = "step") -> None:
    """Raise unless a step of the level is a finite number > 0."""
    number = isinstance(step, Real) and not isinstance(step, (bool, np.bool_))
    if not number or not 0 < float(step) < np.inf:
        raise ValueError(f"{name} must be finite and > 0, such as 0.005; got {step!r}.")
