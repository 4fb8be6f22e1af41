"""Conformal prediction for streams: predict a row, learn from it, and adapt the level to the coverage asked for."""

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from hatband.arrays.typing import Array
from hatband.checks import (
    CalibrationWarning,
    LeverageWarning,
    check_at_least,
    check_confidence_level,
    check_finite,
    check_in,
    check_ridge,
    unchanged_on_failure,
    warn_caller,
)
from hatband.conformal.band import Band, Ends, layout
from hatband.conformal.calibration.calibration import check_alike
from hatband.conformal.online.levels import as_adaptation
from hatband.conformal.online.ridge import Forecast, StreamingRidge, StreamRows
from hatband.conformal.online.stream import Followed, Stream, StreamCalibration
from hatband.conformal.regressor import IntervalRegressor, check_rows
from hatband.fitted.rows import TrainingData
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.geometry.base import as_numbers, dense_inputs, kept
from hatband.scales.named import as_scale

# Sums of squares stay below the largest double.
_LARGEST_FEATURE = 1e140


class OnlineConformalRegressor(IntervalRegressor):
    """Intervals mu(x) -+ q_t (1 + h(x))^1/2 for streams: ridge that learns row by row, at a level that corrects itself.

    Every row is predicted by the model of the rows before it, scored, and then learned; the threshold q_t is an order
    statistic of the latest scores at a level that adapts so that the chosen coverage holds in the long run, with or
    without drift. Results do not depend on the blocks in which rows arrive.

    Parameters
    ----------
    ridge : float, default=1.0
        Ridge in the sum convention |y - Phi b|^2 + ridge |b|^2, as in ``sklearn.linear_model.Ridge``.
    fit_intercept : bool, default=True
        Whether there is an intercept, which is not penalised.
    transformer : transformer or None, default=None
        Feature map: cloned and fitted to the X of the first block, then fixed; ``FrozenEstimator(transformer)`` keeps a
        fitted one. None uses the columns unchanged.
    window : int or None, default=None
        Number of latest rows that the model is made of, up to three blocks more (see Notes); None for all rows.
    scale : "leverage", "constant" or a scale of leverage alone, default="leverage"
        The shape of the band.
    adaptation : "aggregated", "adaptive", "fixed" or LevelAdaptation, default="aggregated"
        How the level moves: `AggregatedLevel` (DtACI), `AdaptiveLevel` (adaptive conformal inference), `FixedLevel`.
    score_window : int, default=1000
        Number of latest scores that thresholds are taken from.
    confidence_level : float or list of float, default=0.9
        Levels that are followed.
    symmetric : bool, default=True
        One threshold for both sides; False follows each side by itself, with half of the miscoverage.

    Attributes
    ----------
    scores_ : array (n, q)
        Signed scores (y - mu) / (1 + h)^1/2 of the latest rows, at most `score_window` of them.
    window_size_ : int
        Number of latest rows that the model is made of.
    n_samples_seen_ : int
        Number of rows since `fit`, or since the first `partial_fit`.
    transformer_ : fitted transformer or None
    scale_ : fitted scale

    Notes
    -----
    With "adaptive", for ANY stream, the share of T consecutive rows that the intervals of `predict_then_fit` miss
    exceeds 1 - confidence_level by at most (max(level, 1 - level) + step) / (step T). To achieve this, intervals
    become infinite for a while if scores keep growing. With symmetric=False this holds on each side. "aggregated"
    needs no step and has regret bounds instead; "fixed" is valid for exchangeable rows. Rows of infinite leverage (the
    first; with ridge=0 a new direction) have infinite intervals; they are learned but not scored and not counted. Rows
    that come before there are enough scores for a level have infinite intervals too and do not change the level.

    O(d^2) operations per row: one factorisation per block of b = max(64, d) rows (window / 8, where that is less), and
    rank-one steps between. Memory: d^2 numbers, b (b + 2 d) for rows since the factorisation, 4 `score_window` per
    output, and, with a window, d^2 for each of window / b blocks, of which none is ever subtracted. The parameters are
    read when a stream starts. Gibbs and Candes (2021, 2024); Brown, Durbin and Evans (1975) for the scores, their
    recursive residuals.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import OnlineConformalRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((3000, 3))
    >>> y = X @ [1.0, 2.0, 3.0] + np.linspace(1, 5, 3000) * rng.standard_normal(3000)  # noise grows
    >>> model = OnlineConformalRegressor(window=500)
    >>> y_pred, interval = model.predict_then_fit(X, y)  # each row by what was known before it
    >>> bool(abs(np.mean((interval[:, 0] <= y) & (y <= interval[:, 1])) - 0.9) < 0.01)
    True
    >>> y_pred, interval = model.partial_fit(X[:10], y[:10]).predict_interval(X[:5])
    >>> interval.shape
    (5, 2)
    """

    transformer_: Any
    _stream: Stream
    _trained_by: ClassVar[tuple[str, str]] = ("_stream", "fit or partial_fit")

    def __init__(
        self,
        *,
        ridge: float = 1.0,
        fit_intercept: bool = True,
        transformer: Any = None,
        window: int | None = None,
        scale: Any = "leverage",
        adaptation: Any = "aggregated",
        score_window: int = 1000,
        confidence_level: Any = 0.9,
        symmetric: bool = True,
    ) -> None:
        self.ridge = ridge
        self.fit_intercept = fit_intercept
        self.transformer = transformer
        self.window = window
        self.scale = scale
        self.adaptation = adaptation
        self.score_window = score_window
        self.confidence_level = confidence_level
        self.symmetric = symmetric

    # ---------------------------------------------------------------- learning

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Start a new stream, and follow these rows in their order.

        Parameters
        ----------
        X : array-like or DataFrame of n rows
        y : array-like (n,) or (n, q)
            Target, finite.
        sample_weight : array-like (n,), optional
            Importance in the regression, >= 0; scores and levels count every row once.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If features or y hold NaN or infinity, a weight is negative, or a parameter is out of range; the object
            stays as it was.
        """
        self._follow(X, y, sample_weight, starts=True)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Follow more rows: predict, score and learn one after the other. A first call starts a stream.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As in `fit`; also if columns or outputs differ from those so far.
        """
        self._follow(X, y, sample_weight, starts=not self._is_started())
        return self

    def predict_then_fit(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Follow more rows as `partial_fit` does; return what was predicted for each row before it was learned.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        prediction : array (n,) or (n, q)
        interval : array (n, 2), (n, q, 2), (n, 2, L) or (n, q, 2, L)
            At the constructor's levels; (-inf, inf) while there are too few scores.

        Raises
        ------
        ValueError
            As in `partial_fit`.
        """
        followed = self._follow(X, y, sample_weight, starts=not self._is_started())
        ends = [self._stream.ends(followed.seen, *pair) for pair in followed.thresholds()]
        single_level = np.ndim(self.confidence_level) == 0
        return self._shaped(followed.seen.prediction), layout(ends, self.single_target_, single_level)

    def _follow(self, X: Any, y: Any, sample_weight: Any, *, starts: bool) -> Followed:
        """Follow rows; change the object only after all of them succeeded."""
        data = TrainingData.checked(X, y, sample_weight, {})
        weight = np.ones(len(data)) if data.weight is None else data.weight
        with unchanged_on_failure(self):
            X = self._as_rows(X, reset=starts)
            transformer = self._fitted_transformer(X) if starts else self.transformer_
            features = _features(transformer, X)
            stream = self._start(features.shape[1], data.y.shape[1]) if starts else self._stream
            _check_same_outputs(data.y.shape[1], stream.calibration.n_outputs)
            followed, self._stream = stream.follow(StreamRows(features, data.y, weight))
            if starts:
                self.transformer_ = transformer
                self.n_outputs_, self.single_target_ = data.y.shape[1], data.is_single
        return followed

    def _start(self, n_features: int, n_outputs: int) -> Stream:
        """Read the parameters, and return a stream before its first row."""
        levels, _ = check_confidence_level(self.confidence_level)
        size = check_at_least(self.score_window, 1, "score_window")
        check_in(self.symmetric, (True, False), "symmetric")
        scale = as_scale(self.scale, levels[0])
        _check_streaming_scale(scale)
        model = StreamingRidge.empty(
            n_features,
            n_outputs,
            ridge=_check_one_ridge(self.ridge),
            fit_intercept=bool(self.fit_intercept),
            window=_check_window(self.window),
        )
        adaptation = as_adaptation(self.adaptation)
        calibration = StreamCalibration.empty(adaptation, levels, bool(self.symmetric), n_outputs, size)
        return Stream(model, scale.fit(None), calibration)

    def _fitted_transformer(self, X: Any) -> Any:
        if self.transformer is None or isinstance(self.transformer, FrozenEstimator):
            return self.transformer
        return clone(self.transformer).fit(kept(X, self.transformer))

    # ---------------------------------------------------------------- prediction

    def _predict(self, X: Any) -> Array:
        return self._seen(X).prediction

    def _band(self, X: Any) -> Band:
        return self._stream.band(self._seen(X))

    def _intervals(self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any) -> tuple[Array, list[Ends]]:
        # The long-run guarantee counts one row at a time: all rows of one call get the level of the first.
        check_alike(self, groups, likelihood_ratio)
        seen = self._seen(X)
        self._warn_if_infinite(levels, seen)
        found = [self._stream.calibration.thresholds(level) for level in levels]
        return seen.prediction, [self._stream.ends(seen, *pair) for pair in found]

    def _leverage(self, X: Any) -> Array:
        return self._seen(X).leverage

    @property
    def scores_(self) -> Array:
        """Signed scores (n, q) of the latest rows."""
        check_is_fitted(self, "_stream")
        return self._stream.calibration.scores

    @property
    def scale_(self) -> Any:
        """The fitted scale."""
        check_is_fitted(self, "_stream")
        return self._stream.scale

    @property
    def window_size_(self) -> int:
        """Number of latest rows that the model is fitted to."""
        check_is_fitted(self, "_stream")
        return self._stream.model.n_samples

    @property
    def n_samples_seen_(self) -> int:
        """Number of rows of the stream."""
        check_is_fitted(self, "_stream")
        return self._stream.n_samples

    def _seen(self, X: Any) -> Forecast:
        return self._stream.model.seen(_features(self.transformer_, X))

    def _warn_if_infinite(self, levels: list[Any], seen: Forecast) -> None:
        needed = max(minimum_calibration_size(level, bool(self.symmetric)) for level in levels)
        if len(self.scores_) < needed:
            warn_caller(
                f"{len(self.scores_)} scores cannot support confidence level {max(levels, key=float)}: its intervals "
                f"are (-inf, inf). At least {needed} rows must be followed first, and score_window allow as many.",
                CalibrationWarning,
            )
        outside = int(np.isinf(seen.leverage).sum())
        if outside:
            warn_caller(
                f"{outside} of {len(seen.leverage)} rows lie outside the span of the rows so far (infinite leverage): "
                "their intervals are (-inf, inf). A ridge > 0 makes them finite.",
                LeverageWarning,
            )

    # ---------------------------------------------------------------- input, scikit-learn

    def _is_started(self) -> bool:
        return "_stream" in vars(self)

    def __sklearn_is_fitted__(self) -> bool:
        return self._is_started()

    def _checked(self, X: Any) -> Any:
        return self._as_rows(X, reset=False)

    def _as_rows(self, X: Any, *, reset: bool) -> Any:
        """Check X: as numbers when it is the features itself, otherwise only its shape and names."""
        if (self.transformer if reset else self.transformer_) is not None:
            return check_rows(self, X, reset=reset)
        return validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite=False)


def _features(transformer: Any, X: Any) -> Array:
    """Features (n, d) in float64, dense and finite."""
    values = X if transformer is None else dense_inputs(as_numbers(transformer.transform(kept(X, transformer))), None)
    check_finite(values, "X" if transformer is None else "the features")
    features = np.asarray(values, dtype=np.float64)
    _check_squares(features)
    return features


def _check_window(window: Any) -> int | None:
    """Return the number of rows that a sliding model keeps; None for all."""
    if window is None:
        return None
    if not isinstance(window, Integral) or isinstance(window, bool) or window < 1:
        raise ValueError(f"window must be None for all rows, or a number of rows >= 1; got {window!r}.")
    return int(window)


def _check_streaming_scale(scale: Any) -> None:
    """Raise unless a scale is a function of the posterior leverage alone and does not learn from residuals."""
    name = type(scale).__name__
    if not getattr(scale, "pointwise", False) or getattr(scale, "needs_residuals", False):
        raise ValueError(
            "OnlineConformalRegressor needs a scale that is a function of a row's leverage alone and does not learn "
            f"from residuals (pointwise = True, needs_residuals = False); got {name}. Use scale='leverage' or "
            "'constant'."
        )
    if getattr(scale, "form", "posterior") != "posterior":
        raise ValueError(
            f"OnlineConformalRegressor measures the posterior leverage; {name} asks for {scale.form!r}. Use "
            "LeverageScale(form='posterior')."
        )


def _check_squares(features: Any) -> None:
    """Raise if a sum of squares of features could overflow."""
    size = np.abs(features).max(axis=1, initial=0.0)
    if (size > _LARGEST_FEATURE).any():
        row = int(np.argmax(size > _LARGEST_FEATURE))
        raise ValueError(
            f"features must not exceed {_LARGEST_FEATURE:.0e} in size, so that their squares can be summed; row {row} "
            f"has {size[row]:.3g}. Rescale the columns first."
        )


def _check_same_outputs(n_outputs: int, expected: int) -> None:
    """Raise unless a block has as many outputs as the stream so far."""
    if n_outputs != expected:
        raise ValueError(
            f"y must have {expected} output{'s' * (expected > 1)}, as in the stream so far; got {n_outputs}. Call fit "
            "to start a new stream."
        )


def _check_one_ridge(ridge: Any) -> float:
    """Return a ridge that must be one number, finite and >= 0."""
    if np.ndim(ridge) != 0:
        raise ValueError(f"ridge must be one number >= 0 here; got an array of shape {np.shape(ridge)}.")
    return float(check_ridge(ridge))
