"""The base of every estimator that predicts intervals: one signature, one layout, one way to say what is missing."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.validation import _num_samples, validate_data

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level
from hatband.conformal.band import Band, layout
from hatband.conformal.calibration.calibration import Calibration, check_pooled
from hatband.conformal.distribution import PredictiveDistribution, distribution_of
from hatband.fitted.rows import router_of
from hatband.geometry import Geometry, Space
from hatband.geometry.base import check_exactness, kept

# Training rows on which a space is compared with its model, and how far predictions may differ: a share of the largest.
_COMPARED_ROWS = 16
_ROUNDING = 1e-5


class IntervalRegressor(RegressorMixin, BaseEstimator, ABC):
    """Predicts with intervals that hold with a stated probability; a subclass defines how they are made.

    A subclass sets ``n_outputs_`` and ``single_target_`` (whether y had one axis) when it is fitted, all that it sets
    inside `unchanged_on_failure`, and gives the four steps below. X has been checked when it reaches them.
    """

    confidence_level: Any
    space_: Any
    n_outputs_: int
    single_target_: bool
    #: The attribute that shows that the model was trained, and the calls that set it.
    _trained_by: ClassVar[tuple[str, str]] = ("space_", "fit")

    @property
    @abstractmethod
    def scores_(self) -> Array:
        """Signed scores (n, q): (y - prediction - shift) / width of rows that the model had not seen."""

    @abstractmethod
    def _predict(self, X: Any) -> Array:
        """Return the prediction, on the scale of y."""

    @abstractmethod
    def _band(self, X: Any) -> Band:
        """Return the band before it is calibrated."""

    @abstractmethod
    def _intervals(
        self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any
    ) -> tuple[Array, list[tuple[Array, Array]]]:
        """Return the prediction (m, q), and lower and upper ends (m, q) for each level, on the scale of y."""

    def _leverage(self, X: Any) -> Array:
        """Return the leverage, (m,) or (m, q)."""
        return self.space_.leverage(self.space_.features(X))

    # ---------------------------------------------------------------- prediction

    def predict(
        self,
        X: Any,
        *,
        return_interval: bool = False,
        return_width: bool = False,
        return_std: bool = False,
        confidence_level: Any = None,
        groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> Any:
        """Predict; on request with intervals, with the width of the band or with a standard deviation.

        Parameters
        ----------
        X : m rows, as `fit` takes them
        return_interval : bool, default=False
            Return (prediction, interval), as `predict_interval` does; this reaches through an outer Pipeline.
        return_width : bool, default=False
            Return (prediction, width). The width is relative: defined up to one factor that all rows share.
        return_std : bool, default=False
            Return (prediction, std), std(x)^2 = mean_i (shift(x) + width(x) s_i)^2 over the scores s_i, in the units of
            y. This deviation carries no guarantee of coverage; the interval does.
        confidence_level, groups, likelihood_ratio
            As in `predict_interval`; without `return_interval` they change nothing.

        Returns
        -------
        prediction : array (m,) or (m, q)

        Raises
        ------
        NotFittedError
            Before `fit`; for intervals and deviations also before `calibrate`.
        ValueError
            If more than one of the three is requested; if `return_width` is requested of a scale with a shift,
            or a width or deviation of a target that is learned on another scale than y.
        """
        if return_interval + return_width + return_std > 1:
            raise ValueError("Pass one of return_interval=True, return_width=True and return_std=True, not several.")
        if return_interval:
            return self.predict_interval(X, confidence_level, groups=groups, likelihood_ratio=likelihood_ratio)
        (self._check_calibrated if return_std else self._check_trained)("predict")
        X = self._checked(X)
        if not (return_width or return_std):
            return self._shaped(self._predict(X))
        band = self._band(X)
        width = band.relative_width() if return_width else band.deviation(self.scores_)
        return self._shaped(band.point), self._shaped(width)

    def predict_interval(
        self, X: Any, confidence_level: Any = None, *, groups: Any = None, likelihood_ratio: Any = None
    ) -> tuple[Array, Array]:
        """Predict, with intervals that hold with the stated probability.

        Parameters
        ----------
        X : m rows, as `fit` takes them
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.
        groups, likelihood_ratio : array-like (m,), optional
            Of each row, where calibration had them as arrays: as in `calibrate`, the ratio with the same factor.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)
            Lower and upper bound in the units of y; -inf and inf where nothing can be promised.

        Raises
        ------
        NotFittedError
            Before `fit`, or before `calibrate`.
        ValueError
            If a level is not inside (0, 1), or groups or ratios are missing that calibration had, or the reverse.
        """
        self._check_calibrated("predict_interval")
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        point, ends = self._intervals(self._checked(X), levels, groups, likelihood_ratio)
        return self._shaped(point), layout(ends, self.single_target_, single)

    def predictive_distribution(self, X: Any) -> PredictiveDistribution:
        """Return the predictive distribution of each row: cdf, quantiles, CRPS, p-values.

        Its atoms are prediction(x) + shift(x) + width(x) s_i over the scores s_i. `FullConformalRegressor` has the
        exact atoms of refits with the new row instead.

        Parameters
        ----------
        X : m rows, as `fit` takes them

        Returns
        -------
        PredictiveDistribution
            Of one row each: `cdf`, `quantile`, `interval`, `crps`, `pvalue`, `pit`.

        Raises
        ------
        NotFittedError
            Before `fit`, or before `calibrate`.
        ValueError
            If calibration was by groups or with a likelihood ratio: the scores are then not one sample.

        Notes
        -----
        The rank of y among the atoms is uniform for exchangeable rows: always after a split; for scores that were held
        out of one fit (jackknife+, CV+) only in the limit of many rows. Cost: O(log n) per row and question. Vovk,
        Petej, Nouretdinov, Manokhin and Gammerman (2020), "Computationally efficient versions of conformal predictive
        distributions"; leave-one-out scores: Pion and Vazquez (2024), arXiv 2407.08271.
        """
        self._check_calibrated("predictive_distribution")
        return distribution_of(self._band(self._checked(X)), self.scores_, self.single_target_)

    def leverage(self, X: Any) -> Array:
        """Return h(x) = phi(x)' A^-1 phi(x) of each row, in the space that the fitted model works in.

        Parameters
        ----------
        X : m rows, as `fit` takes them

        Returns
        -------
        leverage : array (m,), or (m, q) where the ridge differs per output
            Dimensionless, >= 0; at most 1 on training rows, without limit on new ones, infinite outside the row space
            of a model without ridge.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        self._check_trained("leverage")
        return self._leverage(self._checked(X))

    # ---------------------------------------------------------------- input and state

    def _checked(self, X: Any) -> Any:
        return check_rows(self, X, reset=False)

    def _shaped(self, values: Array) -> Array:
        return shaped_like_target(values, self.n_outputs_, self.single_target_)

    def _check_trained(self, caller: str) -> None:
        attribute, calls = self._trained_by
        if attribute not in vars(self):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call {calls} before {caller}."
            )

    def _check_calibrated(self, caller: str) -> None:
        self._check_trained(caller)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True
        return tags


class CalibratedRegressor(IntervalRegressor):
    """Is trained first and calibrated after: its scores are those of a `Calibration`, which ``calibrate`` sets."""

    calibration_: Calibration

    @property
    def scores_(self) -> Array:
        """Signed calibration scores (n_cal, q)."""
        return self.calibration_.scores

    @property
    def effective_sample_size_(self) -> float:
        """Equally heavy rows that the calibration rows are worth."""
        return self.calibration_.effective_size

    def predictive_distribution(self, X: Any) -> PredictiveDistribution:
        """Return the predictive distribution of each row; see `IntervalRegressor.predictive_distribution`."""
        self._check_calibrated("predictive_distribution")
        check_pooled(self.calibration_.is_pooled)
        return super().predictive_distribution(X)

    def _check_calibrated(self, caller: str) -> None:
        self._check_trained(caller)
        if not hasattr(self, "calibration_"):
            raise NotFittedError(f"This {type(self).__name__} is trained but not calibrated; call calibrate first.")


class RegressorWrapper(MetaEstimatorMixin):
    """The base of wrappers of a regressor: default estimator, metadata routing, formats of X."""

    estimator: Any
    estimator_: Any

    def _regressor(self) -> Any:
        return Ridge() if self.estimator is None else self.estimator

    def _predict(self, X: Any) -> Array:
        return self.estimator_.predict(kept(X, self.estimator_))

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing: this estimator uses sample_weight itself and passes it on to the estimator's fit."""
        return router_of(self, self._regressor())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = get_tags(self._regressor()).input_tags.sparse
        return tags


def check_rows(owner: Any, X: Any, *, reset: bool) -> Any:
    """Check only shape, type and column names: the estimator decides about NaN, strings and sparse formats."""
    # A table of numbers is what check_array would return, at half the cost of predicting one row.
    is_table = isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "fiub" and X.size > 0
    if is_table or callable(getattr(X, "__dataframe__", None)) or hasattr(X, "columns"):
        return validate_data(owner, X, reset=reset, skip_check_array=True)
    return validate_data(owner, X, reset=reset, dtype=None, ensure_all_finite=False, accept_sparse="csr")


def fit_geometry(geometry: Geometry, estimator: Any, X: Any, sample_weight: Array | None) -> Space:
    """Fit a geometry to the rows that an estimator was fitted to; compare the predictions of both ways on a few rows.

    Raises
    ------
    TypeError
        If the geometry makes no Space.
    ValueError
        If the space claims an exactness that there is not, or the final step predicts from features something else than
        the estimator from the rows: transformers ran twice or not at all, or predictions are random.

    Notes
    -----
    Cost beyond the factorisation: two predictions of at most 16 rows, where transformers or a wrapper stand between.
    """
    space = geometry.fit(X, sample_weight)
    if not isinstance(space, Space):
        raise TypeError(
            f"{type(geometry).__name__}.fit must return a Space; got {type(space).__name__}. Subclass "
            "hatband.geometry.Space, or return the space of a FeatureGeometry or KernelGeometry."
        )
    check_exactness(space.exactness)
    rows = _safe_indexing(X, np.arange(min(_num_samples(X), _COMPARED_ROWS)))
    features, final = space.features(rows), space.final_step(estimator)
    if final is estimator and features.model_inputs is rows:
        return space
    expected = _columns(estimator.predict(kept(rows, estimator)))
    try:
        found = _columns(final.predict(features.model_inputs))
    except Exception as error:
        raise ValueError(_two_ways(estimator, f"the final step raised {type(error).__name__}: {error}")) from error
    if found.shape != expected.shape:
        raise ValueError(_two_ways(estimator, f"got {found.shape} from features and {expected.shape} from rows"))
    largest = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    if not np.allclose(found, expected, rtol=0, atol=_ROUNDING * largest, equal_nan=True):
        seen = f"they differ by {np.max(np.abs(found - expected)):.3g} in the first {len(expected)} training rows"
        raise ValueError(_two_ways(estimator, seen))
    return space


def _columns(prediction: Any) -> Array:
    values = np.asarray(prediction, dtype=np.float64)
    return values.reshape(len(values), -1)


def _two_ways(estimator: Any, seen: str) -> str:
    return (
        f"the final step of {type(estimator).__name__} must predict from Features.model_inputs, rows that went through "
        f"the transformers already, what the estimator predicts from the rows themselves; {seen}. Correct what "
        'steps_of registers for a wrapper, with holds("regressor_") of hatband.geometry.model where it holds a '
        "regressor; or features and final_step of your Space; and let predictions not be random."
    )


def shaped_like_target(values: Array, n_outputs: int, single: bool) -> Array:
    """Return predictions in the shape that y had: (m,) or (m, q)."""
    columns = np.asarray(values, dtype=np.float64).reshape(-1, n_outputs)
    return columns[:, 0] if single else columns
