"""Training rows, and how they reach the estimator: its weights, its further fit parameters, its own copy of X."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import has_fit_parameter

from hatband.arrays.typing import Array
from hatband.checks import check_target, check_weights
from hatband.fitted.rows import take_rows
from hatband.geometry.base import kept


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What `fit` was given, after its checks.

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
