"""The geometry of a fitted model: a registry that users can extend, filled for the estimators of scikit-learn.

Every ridge of a linear model here satisfies the normal equations Phi_c'W e = ridge * coef of the fitted model: the sum
convention, under any name that the model has for its penalty.
"""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
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
from sklearn.model_selection._search import BaseSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.svm import SVR, NuSVR
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted

from hatband.checks import check_ridge
from hatband.geometry.base import Exactness, Geometry, check_exactness, registered
from hatband.geometry.composite import PerOutputGeometry, Preprocessed
from hatband.geometry.features import FeatureGeometry, HiddenLayers, RidgePerBatch, RidgePerWeight
from hatband.geometry.inputs import InputsGeometry, TransformerGeometry
from hatband.geometry.kernel import KernelGeometry
from hatband.geometry.kernels import BaggedTrees, LeafKernel, MatrixKernel, PairwiseKernel, ProcessKernel
from hatband.geometry.model import Steps, steps_of, with_fitted
from hatband.geometry.nystroem import DualOrNystroem

# k(x, x) = 1 for trees, so with this ridge a row that shares no leaf with any training row has leverage 1 (plus 1/n).
TREE_RIDGE = 1.0


@functools.singledispatch
def geometry_of(estimator: Any) -> Geometry:
    """Return the geometry of a fitted estimator: its features or kernel, ridge and intercept, read once.

    The table in the docstring of ``hatband.geometry`` says what is read from which estimator. Estimators that are not
    in it get ``InputsGeometry()``. ``geometry_of.register(Model, function)`` adds one's own; the function takes the
    fitted model and returns a Geometry that can be pickled (no lambda in it). An estimator that holds another is looked
    through once ``steps_of.register(Wrapper, holds("regressor_"))`` says what it holds (`hatband.geometry.model`).

    Parameters
    ----------
    estimator : fitted estimator
        Any regressor, also inside a Pipeline, a search, FrozenEstimator, TransformedTargetRegressor.

    Returns
    -------
    Geometry
        A recipe; ``fit(X)`` measures training rows.

    Raises
    ------
    NotFittedError
        When a registered estimator is not fitted.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> geometry_of(Ridge(alpha=3.0).fit([[0.0], [1.0]], [0.0, 1.0])).ridge
    3.0
    """
    return InputsGeometry() if registered(steps_of, estimator, Steps).model is estimator else composed(estimator)


def geometry_for(*models: type) -> Callable[[Callable[[Any], Geometry]], Callable[[Any], Geometry]]:
    """Register a function for several models; it is called with fitted models only."""

    def register(function: Callable[[Any], Geometry]) -> Callable[[Any], Geometry]:
        @functools.wraps(function)
        def of_fitted(estimator: Any) -> Geometry:
            check_is_fitted(estimator)
            return function(estimator)

        for model in models:
            geometry_of.register(model, of_fitted)
        return function

    return register


def as_geometry(geometry: Any, estimator: Any) -> Geometry:
    """Return the geometry that a user asked for.

    Parameters
    ----------
    geometry : "auto", Geometry, or scikit-learn transformer
        "auto" reads it from the estimator; a transformer is cloned and fitted to the X that the estimator got, its
        output standardised, with ridge 1 and an intercept.
    estimator : fitted estimator
        The model.

    Returns
    -------
    Geometry
        A recipe; ``fit(X)`` measures training rows.

    Raises
    ------
    TypeError
        If `geometry` is not one of these, or what is registered for the estimator returns no Geometry.
    ValueError
        If its exactness is not one of the three.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import Ridge
    >>> type(as_geometry(PCA(2), Ridge())).__name__
    'TransformerGeometry'
    """
    if isinstance(geometry, str) and geometry == "auto":
        geometry = registered(geometry_of, estimator, Geometry)
    if isinstance(geometry, Geometry):
        check_exactness(geometry.exactness)
        return geometry
    if not isinstance(geometry, type) and hasattr(geometry, "fit") and hasattr(geometry, "transform"):
        return TransformerGeometry(geometry)
    raise TypeError(
        'geometry must be "auto", a hatband Geometry such as InputsGeometry(), or a scikit-learn transformer such as '
        f"PCA(10); got {geometry!r}."
    )


# ------------------------------------------------------------------- linear models


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
    """Ridge n alpha: every step applies the penalty once. A heuristic, because the steps rarely end in the minimum."""
    shares = {"l2": 1.0, "elasticnet": 1 - model.l1_ratio, "l1": 0.0, None: 0.0}
    share_of_rows = 1 - model.validation_fraction if model.early_stopping else 1.0
    penalty = RidgePerBatch(float(model.alpha * shares[model.penalty]), batch_size=1, share=share_of_rows)
    if model.penalty in {"l1", "elasticnet"}:
        return _on_active_features(model, penalty)
    return FeatureGeometry(penalty, model.fit_intercept, "none")


@geometry_for(HuberRegressor)
def huber(model: HuberRegressor) -> Geometry:
    """Ridge alpha * scale_ on the rows that are not outliers: residuals of outliers are clipped to a constant."""
    return FeatureGeometry(
        float(model.alpha * model.scale_), model.fit_intercept, "none", row_weights=(~model.outliers_).astype(float)
    )


def _unless_positive(model: Any, claim: Exactness) -> Exactness:
    return "none" if model.positive else claim


def _for_each_output(penalty: Any, fit_intercept: bool, exactness: Exactness) -> Geometry:
    """One geometry if all outputs have the same ridge, otherwise one for each output."""
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


# ------------------------------------------------------------------- kernel models


@geometry_for(KernelRidge)
def kernel_ridge(model: KernelRidge) -> Geometry:
    """The ridge is alpha, one for each output where it is an array; no intercept."""
    _refuse_precomputed(model)
    named = {"gamma": model.gamma, "degree": model.degree, "coef0": model.coef0}
    kernel = PairwiseKernel(model.kernel, dict(model.kernel_params or {}) if callable(model.kernel) else named)
    ridges = np.ravel(model.alpha).astype(float)
    if (ridges == ridges[0]).all():
        return KernelGeometry(kernel, float(ridges[0]), exactness="exact")
    return PerOutputGeometry(tuple(KernelGeometry(kernel, float(r), exactness="exact") for r in ridges))


@geometry_for(GaussianProcessRegressor)
def gaussian_process(model: GaussianProcessRegressor) -> Geometry:
    """The ridge is alpha plus the white noise in the kernel, of each row where they differ; no intercept.

    With normalize_y the model subtracts the plain mean of y: leave-one-out is exact given that mean.
    """
    kernel = ProcessKernel(clone(model.kernel_))
    noise = np.broadcast_to(model.alpha, len(model.X_train_)) + kernel.noise(model.X_train_)
    tuned = model.optimizer is not None and model.kernel_.n_dims > 0
    exactness: Exactness = "given" if tuned or model.normalize_y else "exact"
    # White noise is a difference of diagonals: what varies by rounding only is one noise.
    rounding = 64 * np.finfo(float).eps * float(np.max(kernel.kernel.diag(model.X_train_)))
    if np.ptp(noise) <= rounding:
        return KernelGeometry(kernel, float(np.median(noise)), exactness=exactness)
    ridge = float(noise.mean())
    return KernelGeometry(kernel, ridge, exactness=exactness, row_weights=ridge / _positive(noise))


@geometry_for(SVR, NuSVR)
def support_vectors(model: SVR) -> Geometry:
    """A heuristic: the kernel leverage with ridge 1/C, as if the epsilon tube had no width; unpenalised intercept."""
    _refuse_precomputed(model)
    # libsvm resolves gamma="scale" and keeps the number under this name only.
    named = {"gamma": model._gamma, "degree": model.degree, "coef0": model.coef0}
    kernel = MatrixKernel(model.kernel) if callable(model.kernel) else PairwiseKernel(model.kernel, named)
    return DualOrNystroem(kernel, 1.0 / model.C)


def _refuse_precomputed(model: Any) -> None:
    if isinstance(model.kernel, str) and model.kernel == "precomputed":
        raise ValueError(
            f"the leverage of a new row needs k(x, x), which {type(model).__name__}(kernel='precomputed') does not "
            "have; got kernel='precomputed'. Pass the kernel by name or as a callable, or a transformer as geometry=."
        )


def _positive(noise: Any) -> Any:
    if not noise.all():
        row = int(np.flatnonzero(noise == 0)[0])
        raise ValueError(f"noise that differs between rows must be > 0 in every row; row {row} has alpha 0.")
    return noise


# ------------------------------------------------------------------- networks and trees


@geometry_for(MLPRegressor)
def perceptron(model: MLPRegressor) -> Geometry:
    """The last hidden layer and its unpenalised bias; ridge alpha (lbfgs) or alpha * batches per epoch (adam, sgd).

    The minimum of lbfgs has Phi'W e = alpha w. A stochastic step applies alpha w / batch beside the mean over the
    batch, so an epoch balances Phi'W e with alpha * batches * w.
    """
    hidden = HiddenLayers(
        tuple(np.array(coef) for coef in model.coefs_[:-1]),
        tuple(np.array(intercept) for intercept in model.intercepts_[:-1]),
        model.activation,
    )
    return FeatureGeometry(_perceptron_ridge(model), True, "none", hidden, inputs_from="model_inputs")


def _perceptron_ridge(model: MLPRegressor) -> Any:
    if model.solver == "lbfgs":
        return float(model.alpha)
    # "auto" is min(200, n) in scikit-learn, and a batch is never larger than the rows.
    size = 200 if model.batch_size == "auto" else int(model.batch_size)
    share = 1 - model.validation_fraction if model.early_stopping else 1.0
    return RidgePerBatch(float(model.alpha), batch_size=size, share=share)


@geometry_for(RandomForestRegressor, ExtraTreesRegressor, GradientBoostingRegressor, DecisionTreeRegressor)
def trees(model: Any) -> Geometry:
    """The leaf kernel with ridge 1 and an intercept, because adding a constant to y adds it to every prediction."""
    return DualOrNystroem(LeafKernel(model), TREE_RIDGE)


@geometry_for(BaggingRegressor)
def bagging(model: BaggingRegressor) -> Geometry:
    """The leaf kernel if all members are trees, otherwise the inputs."""
    if not all(isinstance(member, DecisionTreeRegressor) for member in model.estimators_):
        return InputsGeometry()
    members = tuple(zip(model.estimators_, model.estimators_features_, strict=True))
    return DualOrNystroem(LeafKernel(BaggedTrees(members)), TREE_RIDGE)


# ------------------------------------------------------------------- estimators that hold others


@geometry_for(Pipeline, BaseSearchCV, FrozenEstimator, TransformedTargetRegressor)
def composed(estimator: Any) -> Geometry:
    """The transformers before the geometry of the last step."""
    steps = registered(steps_of, estimator, Steps)
    return Preprocessed(steps.transformers, registered(geometry_of, steps.model, Geometry), steps.exactness)


@geometry_for(VotingRegressor)
def voting(estimator: VotingRegressor) -> Geometry:
    """The geometry that all members share, otherwise the inputs."""
    return composed(estimator) if _share_geometry(estimator) else InputsGeometry()


@steps_of.register
def _voting_steps(estimator: VotingRegressor) -> Steps:
    if not _share_geometry(estimator):
        return Steps((), estimator, estimator)
    members = [registered(steps_of, member, Steps) for member in estimator.estimators_]
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
