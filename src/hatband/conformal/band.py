"""The band of a trained model over some rows: from predictions and scores to bounds on the scale of y."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV

from hatband.arrays.typing import Array
from hatband.checks import CalibrationWarning, LeverageWarning, warn_caller
from hatband.fitted.rows import Rows
from hatband.formulas.order_statistics import conformal_quantile, minimum_calibration_size, side_level
from hatband.scales.base import shift_and_width

#: Lower and upper ends (m, q).
Ends: TypeAlias = tuple[Array, Array]
#: Upper thresholds (q,) or (m, q) of scores (n, q) at a level.
Quantile: TypeAlias = Callable[[Array, Any], Array]


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
        """Bring predictions to the scale of y, as the estimator's own `predict` does."""
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
        # Beyond the range of the inverse there is no value: the bound is infinite on its own side.
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
    """Apply a transformer's method to (n, q) and return (n, q), even if the method drops an axis."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(function(values), dtype=np.float64).reshape(values.shape)


def split_target(estimator: Any, y: Array) -> tuple[Any, Target]:
    """Return the model that predicts on its own scale, and the target on whose scale scores are formed."""
    inner = estimator
    while isinstance(inner, (FrozenEstimator, BaseSearchCV)):
        inner = inner.estimator if isinstance(inner, FrozenEstimator) else inner.best_estimator_
    if not isinstance(inner, TransformedTargetRegressor):
        return estimator, PLAIN_TARGET
    transformer = inner.transformer_
    monotone = is_increasing(transformer, y)
    return inner.regressor_, MonotoneTarget(transformer) if monotone else BackTransformedTarget(transformer)


def is_increasing(transformer: Any, y: Array, points: int = 201) -> bool:
    """Whether the transformation and its inverse increase in each column, on the range of y and beyond it.

    The inverse is tried beyond the range as well, because bounds lie there: the inverse of a square root decreases
    below 0, and that of a quantile transformer is constant.
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
    """Whether this column increases strictly while the other columns do not change."""
    others = np.delete(values, column, axis=1)
    still = np.ptp(others, axis=0) <= 1e-9 * (1 + np.abs(others).max(axis=0)) if others.size else np.array(True)
    return bool(np.isfinite(values).all() and (np.diff(values[:, column]) > 0).all() and still.all())


@dataclass(frozen=True, eq=False)
class Band:
    """The band over m rows before it is calibrated: an interval is centre + threshold x width.

    Parameters
    ----------
    prediction : array (m, q)
        What the model predicts, on the scale of the scores.
    center : array (m, q)
        The prediction, plus the shift where the scale has one.
    width : array (m, 1) or (m, q)
        > 0, defined up to one factor that all rows share; infinite for a row that can have any y.
    target : Target
        How the scale of the scores and that of y belong together.
    """

    prediction: Array
    center: Array
    width: Array
    target: Target = PLAIN_TARGET

    @classmethod
    def of(cls, scale: Any, rows: Rows, target: Target = PLAIN_TARGET) -> Self:
        """Return the band that a fitted scale puts around the predictions of rows."""
        shift, width = shift_and_width(scale, rows)
        prediction = target.read(rows.prediction)
        return cls(prediction, prediction + shift, width, target)

    def take(self, index: Any) -> "Band":
        """Return the band over the rows at `index`."""
        return replace(self, prediction=self.prediction[index], center=self.center[index], width=self.width[index])

    @property
    def point(self) -> Array:
        """The prediction (m, q) on the scale of y, as the estimator's own `predict` gives it."""
        return self.target.point(self.prediction)

    def scores(self, y: Array) -> Array:
        """Return signed scores (y - centre) / width (m, q) of calibration rows; warn if half have no finite width."""
        infinite = np.isinf(np.broadcast_to(self.width, self.center.shape)).any(axis=1)
        if 2 * infinite.sum() >= len(infinite):
            warn_caller(
                f"{infinite.sum()} of {len(infinite)} calibration rows lie outside the span of the training rows and "
                "have infinite leverage. Intervals will be infinite for such rows, and too narrow to be of use for "
                "all other rows. Give the estimator a ridge > 0, or more training rows than features.",
                LeverageWarning,
            )
        return self.scores_alone(y)

    def scores_alone(self, y: Array) -> Array:
        """Return signed scores as `scores` does, without the warning."""
        return (self.target.forward(y) - self.center) / self.width

    def ends(self, lower: Array, upper: Array) -> Ends:
        """Return centre + threshold x width (m, q) in the units of y, for thresholds (q,) or (m, q).

        Infinite where a threshold or a width is infinite, and where the inverse transformation has no value.
        """
        low, high = bounds(self.center, self.width, lower, upper)
        return mapped_back(self.target, low, -np.inf), mapped_back(self.target, high, np.inf)

    def relative_width(self) -> Array:
        """Return the width (m, q); ValueError unless the interval is centred on the prediction, in units of y."""
        if (self.center != self.prediction).any():
            raise ValueError(
                "return_width needs an interval that is centred on the prediction; this scale shifts it. Use "
                "predict_interval."
            )
        self._check_scale_of_y("return_width")
        return np.broadcast_to(self.width, self.center.shape).copy()

    def deviation(self, scores: Array) -> Array:
        """Return mean_i((shift + width s_i)^2)^1/2 (m, q) over scores (n, q); infinite where the width is."""
        self._check_scale_of_y("return_std")
        scores = scores[np.isfinite(scores).all(axis=1)]
        if not len(scores):
            return np.full(self.center.shape, np.inf)
        mean, spread = scores.mean(axis=0), scores.std(axis=0)
        known = np.isfinite(self.width)
        finite = np.where(known, self.width, 0.0)
        return np.where(known, np.hypot(self.center - self.prediction + finite * mean, finite * spread), np.inf)

    def warn_if_outside(self) -> None:
        """Warn how many rows have infinite intervals because their leverage is infinite."""
        outside = np.isinf(self.width).any(axis=1).sum()
        if outside:
            warn_caller(
                f"{outside} of {len(self.width)} rows lie outside the span of the training rows (infinite leverage): "
                "their intervals are (-inf, inf). A ridge > 0 in the estimator makes them finite.",
                LeverageWarning,
            )

    def _check_scale_of_y(self, caller: str) -> None:
        if not self.target.is_scale_of_y:
            raise ValueError(
                f"{caller} needs a width on the scale of y; that of a TransformedTargetRegressor is on the scale it "
                "learns. Use predict_interval."
            )


def thresholds(scores: Array, confidence_level: Any, symmetric: bool, quantile: Quantile = conformal_quantile) -> Ends:
    """Return (lower, upper) thresholds of signed scores (n, q): -q and q when symmetric, else half the miscoverage.

    The lower threshold is minus the upper one of the scores with their signs changed.
    """
    if symmetric:
        upper = quantile(np.abs(scores), confidence_level)
        return -upper, upper
    side = side_level(confidence_level)
    return -quantile(-scores, side), quantile(scores, side)


def reach(width: Array, threshold: Any) -> Array:
    """Return threshold x width, infinite where the width is: 0 x inf = inf, because such a row can have any y."""
    infinite = np.isinf(width)
    if not infinite.any():
        return width * threshold
    return np.where(infinite, np.inf, np.where(infinite, 1.0, width) * threshold)


def bounds(center: Array, width: Array, lower: Array, upper: Array) -> Ends:
    """Return center + threshold x width (m, q); an infinite threshold or width makes an infinite bound."""
    below, above = reach(width, -lower), reach(width, upper)
    with np.errstate(invalid="ignore"):
        low, high = center - below, center + above
    # A row may have neither a finite centre nor a finite width: its interval is infinite too.
    return np.where(np.isposinf(below), -np.inf, low), np.where(np.isposinf(above), np.inf, high)


def uncrossed(low: Array, high: Array) -> Ends:
    """Return ends in order: where they cross (possible below level 1/2), both become the point between them."""
    crossed = low > high
    if not crossed.any():
        return low, high
    middle = np.where(crossed, low, 0.0) / 2 + np.where(crossed, high, 0.0) / 2
    return np.where(crossed, middle, low), np.where(crossed, middle, high)


def mapped_back(target: Target, bound: Array, unknown: float) -> Array:
    """Bring a bound to the scale of y; where the inverse has no value the bound is infinite."""
    mapped = target.backward(bound)
    return np.where(np.isnan(mapped), unknown, mapped)


def layout(levels: list[Ends], single_target: bool, single_level: bool) -> Array:
    """Stack per-level ends (m, q) into (m[, q], 2[, L]): no output axis for 1-D y, no level axis for one level."""
    stacked = np.stack([np.stack(pair, axis=-1) for pair in levels], axis=-1)
    if single_target:
        stacked = stacked[:, 0]
    return stacked[..., 0] if single_level else stacked


def too_few(rows: str, level: Any, needed: int) -> str:
    """Return the message that there are too few rows for a level, and how many are needed."""
    kind = rows.partition(" ")[2]
    return (
        f"{rows} cannot support confidence level {level}: its intervals are (-inf, inf). At least {needed} {kind} are "
        "needed."
    )


def warn_if_too_few(rows: str, n_samples: int, levels: list[Any], symmetric: bool) -> bool:
    """Whether there are too few rows for the highest level; warn if so."""
    highest = max(levels, key=float)
    needed = minimum_calibration_size(highest, symmetric)
    if n_samples < needed:
        warn_caller(too_few(f"{n_samples} {rows}", highest, needed), CalibrationWarning)
    return n_samples < needed
