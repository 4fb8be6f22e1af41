"""The base of every estimator that predicts intervals, and the fit of the estimator inside it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import has_fit_parameter, validate_data

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_target, check_weights
from hatband.conformal.band import Band, layout
from hatband.conformal.calibration.calibration import Calibration, check_pooled
from hatband.conformal.distribution import PredictiveDistribution, distribution_of
from hatband.fitted.rows import take_rows
from hatband.geometry.base import kept


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The arguments of `fit`, after their checks.

    Parameters
    ----------
    X : array, sparse matrix or DataFrame of n rows
    y : array (n, q)
        Targets.
    values : array (n,) or (n, q)
        The same in the shape that they came in, which is what an estimator gets.
    weight : array (n,), or None
        Importance of the rows in training.
    fit_params : dict
        Further fit parameters of the estimator.
    metadata : mapping
        Metadata of the owner that its estimator gets as well where it requests it: groups.
    cv_groups : array (n,), or None
        For a splitter of rows into folds.
    """

    X: Any
    y: Array
    values: Array
    weight: Array | None = None
    fit_params: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cv_groups: Any = None

    @classmethod
    def checked(cls, X: Any, y: Any, sample_weight: Any, fit_params: Mapping[str, Any], **metadata: Any) -> Self:
        """Check y, weights and lengths.

        Raises
        ------
        ValueError
            If y holds NaN or infinity, a weight is negative, or lengths differ.
        """
        target, _ = check_target(y)
        given = {name: entry for name, entry in metadata.items() if entry is not None}
        check_consistent_length(X, target, *given.values())
        weight = None if sample_weight is None else check_weights(sample_weight, len(target))
        return cls(X, target, np.asarray(y), weight, fit_params, given)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def is_single(self) -> bool:
        """Whether y had one axis."""
        return self.values.ndim == 1

    def with_rows(self, X: Any) -> Self:
        """Return the same with X as it was checked."""
        return replace(self, X=X)

    def take(self, index: Array) -> Self:
        """Return the rows at `index`; fit parameters are sliced where they have n rows."""
        n = len(self)
        return replace(
            self,
            X=take_rows(self.X, index, n),
            y=self.y[index],
            values=self.values[index],
            weight=None if self.weight is None else self.weight[index],
            fit_params={name: take_rows(value, index, n) for name, value in self.fit_params.items()},
            metadata={name: take_rows(value, index, n) for name, value in self.metadata.items()},
        )


def fit_estimator(owner: Any, template: Any, data: TrainingData) -> tuple[Any, Array | None]:
    """Return a clone of the template that is fitted to the rows, and the weights that reached it.

    Metadata routing may keep weights from the estimator: what is measured of it is not weighted then either.
    """
    params = fit_parameters(owner, template, data)
    estimator = clone(template).fit(kept(data.X, template), kept(data.values, template), **params)
    return estimator, weight_in(params, data)


def weight_in(params: dict[str, Any], data: TrainingData) -> Array | None:
    """Return the weights of the rows if they are among these fit parameters."""
    return data.weight if any(name.endswith("sample_weight") for name in params) else None


def fit_parameters(owner: Any, estimator: Any, data: TrainingData) -> dict[str, Any]:
    """Return the keyword arguments of ``estimator.fit``: by metadata routing when that is on, by step name otherwise.

    Raises
    ------
    TypeError
        If there are weights and the estimator does not take any: they are never dropped in silence.
    """
    weight = data.weight
    if _routing_enabled():
        given = {**data.metadata, **data.fit_params} | ({} if weight is None else {"sample_weight": weight})
        return dict(process_routing(owner, "fit", **given).estimator.fit)
    if weight is None:
        return dict(data.fit_params)
    prefix, consumer = _weight_consumer(estimator)
    if not has_fit_parameter(consumer, "sample_weight"):
        raise TypeError(
            f"sample_weight was passed, but {type(consumer).__name__}.fit does not take it; leave it out, or use an "
            "estimator that does."
        )
    return {**data.fit_params, f"{prefix}sample_weight": weight}


def router_of(owner: Any, estimator: Any) -> MetadataRouter:
    """Return the routing of an owner that uses sample_weight itself and passes it on to the estimator's fit."""
    mapping = MethodMapping().add(caller="fit", callee="fit")
    return MetadataRouter(owner=owner).add_self_request(owner).add(estimator=estimator, method_mapping=mapping)


def _weight_consumer(estimator: Any) -> tuple[str, Any]:
    """Return the prefix under which weights reach the step that trains, and that step."""
    match estimator:
        case Pipeline():
            name, step = estimator.steps[-1]
            prefix, consumer = _weight_consumer(step)
            return f"{name}__{prefix}", consumer
        case BaseSearchCV() | FrozenEstimator():
            return _weight_consumer(estimator.estimator)
        case TransformedTargetRegressor():
            return _weight_consumer(estimator.regressor)
        case _:
            return "", estimator


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
            If more than one of the three is asked for; if `return_width` is asked of a scale that shifts the centre,
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
        check_calibrated(self)


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


def check_calibrated(model: Any, attribute: str = "calibration_") -> None:
    """Raise unless a trained model has calibration scores."""
    if not hasattr(model, attribute):
        raise NotFittedError(f"This {type(model).__name__} is trained but not calibrated; call calibrate first.")


def check_rows(owner: Any, X: Any, *, reset: bool) -> Any:
    """Check only shape, type and column names: the estimator decides about NaN, strings and sparse formats."""
    # A table of numbers is what check_array would return, at half the cost of predicting one row.
    is_table = isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "fiub" and X.size > 0
    if is_table or callable(getattr(X, "__dataframe__", None)) or hasattr(X, "columns"):
        return validate_data(owner, X, reset=reset, skip_check_array=True)
    return validate_data(owner, X, reset=reset, dtype=None, ensure_all_finite=False, accept_sparse="csr")


def shaped_like_target(values: Array, n_outputs: int, single: bool) -> Array:
    """Return predictions in the shape that y had: (m,) or (m, q)."""
    columns = np.asarray(values, dtype=np.float64).reshape(-1, n_outputs)
    return columns[:, 0] if single else columns
