"""Geometries of scikit-learn's linear models: what each calls its penalty, as a ridge in the sum convention.

Every ridge here satisfies the normal equations Phi_c'W e = ridge * coef of the fitted model.
"""

from typing import Any

import numpy as np
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    LassoCV,
    LinearRegression,
    MultiTaskElasticNetCV,
    MultiTaskLassoCV,
    Ridge,
    RidgeCV,
    SGDRegressor,
)

from hatband.checks import check_ridge
from hatband.geometry.base import Exactness, Geometry
from hatband.geometry.composite import PerOutputGeometry
from hatband.geometry.features import FeatureGeometry, RidgePerBatch, RidgePerWeight
from hatband.geometry.registry import geometry_for


@geometry_for(LinearRegression)
def least_squares(model: LinearRegression) -> Geometry:
    """Ridge 0."""
    return FeatureGeometry(0.0, model.fit_intercept, _unless_positive(model, "exact"))


@geometry_for(Ridge)
def ridge(model: Ridge) -> Geometry:
    """The ridge is alpha, one for each output where it is an array."""
    return _for_each_output(model.alpha, model.fit_intercept, _unless_positive(model, "exact"))


@geometry_for(RidgeCV)
def tuned_ridge(model: RidgeCV) -> Geometry:
    """The ridge is alpha_, chosen on these rows."""
    return _for_each_output(model.alpha_, model.fit_intercept, "given")


@geometry_for(BayesianRidge)
def bayesian_ridge(model: BayesianRidge) -> Geometry:
    """The ridge is the precision of the weights over the precision of the noise, estimated on these rows."""
    return FeatureGeometry(float(model.lambda_ / model.alpha_), model.fit_intercept, "given")


@geometry_for(ARDRegression)
def relevance_determination(model: ARDRegression) -> Geometry:
    """One ridge per feature; features whose precision passed the threshold are dropped."""
    kept = np.flatnonzero(model.lambda_ < model.threshold_lambda)
    return FeatureGeometry(model.lambda_[kept] / model.alpha_, model.fit_intercept, "given", columns=kept)


@geometry_for(ElasticNet)
def elastic_net(model: ElasticNet) -> Geometry:
    """Ridge sum(w) alpha (1 - l1_ratio) on the active features; Lasso is l1_ratio 1, and so is ridge 0."""
    return _on_active_features(model, RidgePerWeight(float(model.alpha * (1 - model.l1_ratio))))


@geometry_for(ElasticNetCV, MultiTaskElasticNetCV)
def tuned_elastic_net(model: ElasticNetCV) -> Geometry:
    """As ElasticNet, with alpha_ and l1_ratio_."""
    return _on_active_features(model, RidgePerWeight(float(model.alpha_ * (1 - model.l1_ratio_))))


@geometry_for(LassoCV, MultiTaskLassoCV)
def tuned_lasso(model: LassoCV) -> Geometry:
    """Ridge 0 on the active features."""
    return _on_active_features(model, 0.0)


@geometry_for(SGDRegressor)
def stochastic_gradient(model: SGDRegressor) -> Geometry:
    """Ridge n alpha: every step applies the penalty once. A heuristic, for the steps rarely end in the minimum."""
    shares = {"l2": 1.0, "elasticnet": 1 - model.l1_ratio, "l1": 0.0, None: 0.0}
    share_of_rows = 1 - model.validation_fraction if model.early_stopping else 1.0
    penalty = RidgePerBatch(float(model.alpha * shares[model.penalty]), batch_size=1, share=share_of_rows)
    if model.penalty in {"l1", "elasticnet"}:
        return _on_active_features(model, penalty)
    return FeatureGeometry(penalty, model.fit_intercept, "none")


@geometry_for(HuberRegressor)
def huber(model: HuberRegressor) -> Geometry:
    """Ridge alpha * scale_ on the rows that are not outliers: the residuals of the others are clipped to a constant."""
    return FeatureGeometry(
        float(model.alpha * model.scale_), model.fit_intercept, "none", row_weights=(~model.outliers_).astype(float)
    )


def _unless_positive(model: Any, claim: Exactness) -> Exactness:
    return "none" if model.positive else claim


def _for_each_output(penalty: Any, fit_intercept: bool, exactness: Exactness) -> Geometry:
    """One geometry when all outputs have the same ridge, else one for each."""
    ridges = np.unique(check_ridge(np.ravel(penalty)))
    if len(ridges) == 1:
        return FeatureGeometry(float(ridges[0]), fit_intercept, exactness)
    return PerOutputGeometry(tuple(FeatureGeometry(float(r), fit_intercept, exactness) for r in np.ravel(penalty)))


def _on_active_features(model: Any, penalty: Any) -> Geometry:
    """The features with a coefficient other than 0, which may differ from output to output."""
    patterns = np.atleast_2d(model.coef_) != 0
    if (patterns == patterns[0]).all():
        patterns = patterns[:1]
    geometries = tuple(
        FeatureGeometry(penalty, model.fit_intercept, "none", columns=np.flatnonzero(pattern)) for pattern in patterns
    )
    return geometries[0] if len(geometries) == 1 else PerOutputGeometry(geometries)
