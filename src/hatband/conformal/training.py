"""What the training rows give a split-conformal estimator: model, space, scale, and a plan for calibration."""

from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

from sklearn.base import clone

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in, check_target
from hatband.conformal.calibration.calibration import Plan
from hatband.conformal.calibration.groups import Grouping
from hatband.conformal.calibration.joint import fit_outputs
from hatband.conformal.calibration.shift import fit_ratio
from hatband.conformal.inputs import check_rows
from hatband.conformal.routing import fit_parameters, weights_used
from hatband.conformal.target import split_target
from hatband.fitted.rows import Rows, held_out_rows, new_rows
from hatband.fitted.training_rows import training_rows
from hatband.geometry import as_geometry
from hatband.geometry.convert import kept
from hatband.scales import as_scale, fit_scale

TRAINED = (
    "estimator_",
    "model_",
    "target_",
    "space_",
    "scale_",
    "residuals_from_",
    "n_outputs_",
    "single_target_",
    "plan_",
)


class Given(NamedTuple):
    """Training rows and what came with them."""

    X: Any
    y: Array
    sample_weight: Array | None
    fit_params: dict[str, Any]
    X_target: Any = None
    routed: Mapping[str, Any] = MappingProxyType({})


def train(owner: Any, template: Any, given: Given) -> dict[str, Any]:
    """Return everything that training produces, and change nothing before all of it is there."""
    levels, _ = check_confidence_level(owner.confidence_level)
    check_in(owner.residuals, ("auto", "unseen"), "residuals")
    check_in(owner.joint, (True, False), "joint")
    check_in(owner.symmetric, (True, False), "symmetric")
    X, (target, single) = given.X, check_target(given.y)
    ratio = fit_ratio(owner.likelihood_ratio, X, _checked(owner, given.X_target))
    params = fit_parameters(owner, template, given.sample_weight, given.fit_params, given.routed)
    estimator = clone(template).fit(kept(X, template), kept(given.y, template), **params)
    model, scored = split_target(estimator, target)
    weight = weights_used(params, given.sample_weight)
    space = as_geometry(owner.geometry, estimator).fit(X, weight)
    scale = as_scale(owner.scale, levels[0], owner.random_state)
    options: dict[str, Any] = {
        "template": template,
        "sample_weight": weight,
        "fit_params": params,
        "residuals": owner.residuals,
        "random_state": owner.random_state,
        "n_jobs": owner.n_jobs,
        "target": scored,
    }
    # Refits may stand behind these residuals: they are made once, and only for what asks.
    held_out = cache(partial(training_rows, model, space, X, target, **options))
    source = fit_scale(scale, held_out)
    seen = partial(_seen, model, space, X, scored, target)
    outputs = fit_outputs(owner.joint and target.shape[1] > 1, scale, held_out, seen, levels[0])
    grouping = None if owner.groups is None else Grouping.of(owner.groups, partial(_held_out, space, X, weight))
    plan = Plan(grouping, ratio, outputs)
    values = (estimator, model, scored, space, scale, source, target.shape[1], single, plan)
    return dict(zip(TRAINED, values, strict=True))


def _seen(model: Any, space: Any, X: Any, scored: Any, target: Array) -> tuple[Rows, Array]:
    """Training rows as the model sees them, and their residuals on the scale of the scores."""
    rows = new_rows(model, space, X, target.shape[1])
    return rows, scored.forward(target) - scored.read(rows.prediction)


def _checked(owner: Any, X_target: Any) -> Any:
    return None if X_target is None else check_rows(owner, X_target, reset=False)


def _held_out(space: Any, X: Any, weight: Array | None) -> Rows:
    """Training rows with leave-one-out leverage, and no prediction."""
    features = space.features(X)
    leverage = space.training_leverage(features)
    return held_out_rows(space, features, leverage, leverage, space.training_weights(weight))
