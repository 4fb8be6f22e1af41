"""Bring sample_weight and further fit parameters to the step of the estimator that takes them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import has_fit_parameter

from hatband.arrays.typing import Array


def fit_parameters(
    owner: Any,
    estimator: Any,
    sample_weight: Array | None,
    fit_params: dict[str, Any],
    routed: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the keyword arguments of ``estimator.fit``: by metadata routing when that is on, by step name otherwise.

    What is `routed` is the owner's own metadata, which the estimator gets as well where it requests it.

    Raises
    ------
    TypeError
        If there are weights and the estimator does not take any: they are never dropped in silence.
    """
    if _routing_enabled():
        given = {**routed, **fit_params} | ({} if sample_weight is None else {"sample_weight": sample_weight})
        return dict(process_routing(owner, "fit", **given).estimator.fit)
    if sample_weight is None:
        return dict(fit_params)
    prefix, consumer = _weight_consumer(estimator)
    if not has_fit_parameter(consumer, "sample_weight"):
        raise TypeError(
            f"sample_weight was passed, but {type(consumer).__name__}.fit does not take it; leave it out, or use an "
            "estimator that does."
        )
    return {**fit_params, f"{prefix}sample_weight": sample_weight}


def router_of(owner: Any, estimator: Any) -> MetadataRouter:
    """Return the routing of an owner that uses sample_weight itself and passes it on to the estimator's fit."""
    mapping = MethodMapping().add(caller="fit", callee="fit")
    return MetadataRouter(owner=owner).add_self_request(owner).add(estimator=estimator, method_mapping=mapping)


def weights_used(params: dict[str, Any], sample_weight: Array | None) -> Array | None:
    """Return the weights if they reach the estimator by these parameters: metadata routing may keep them from it."""
    return sample_weight if any(name.endswith("sample_weight") for name in params) else None


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
