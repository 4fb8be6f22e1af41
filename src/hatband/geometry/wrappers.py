"""Geometries of estimators that hold other estimators: Pipeline, searches, frozen, transformed target, voting."""

import pickle
from typing import Any

import joblib  # type: ignore[import-untyped]
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline

from hatband.geometry.base import Geometry
from hatband.geometry.composite import Preprocessed
from hatband.geometry.inputs import InputsGeometry
from hatband.geometry.model import Steps, steps_of, with_fitted
from hatband.geometry.registry import geometry_for, geometry_of


@geometry_for(Pipeline, BaseSearchCV, FrozenEstimator, TransformedTargetRegressor)
def composed(estimator: Any) -> Geometry:
    """The transformers in front of the geometry of the last step."""
    steps = steps_of(estimator)
    return Preprocessed(steps.transformers, geometry_of(steps.model), steps.exactness)


@geometry_for(VotingRegressor)
def voting(estimator: VotingRegressor) -> Geometry:
    """The geometry that all members share, else the inputs."""
    return composed(estimator) if _share_geometry(estimator) else InputsGeometry()


@steps_of.register
def _voting_steps(estimator: VotingRegressor) -> Steps:
    if not _share_geometry(estimator):
        return Steps((), estimator, estimator)
    members = [steps_of(member) for member in estimator.estimators_]
    predictor = with_fitted(estimator, "estimators_", [member.predictor for member in members])
    return Steps(members[0].transformers, members[0].model, predictor, members[0].exactness)


def _share_geometry(estimator: VotingRegressor) -> bool:
    """Whether the members have the same transformers, features or kernel, ridge and exactness, by content."""
    try:
        fingerprints = {joblib.hash(geometry_of(member)) for member in estimator.estimators_}
    except (pickle.PicklingError, AttributeError, TypeError):
        # What cannot be pickled cannot be compared.
        return False
    return len(fingerprints) == 1
