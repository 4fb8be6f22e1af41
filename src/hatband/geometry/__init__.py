"""Where leverage is measured: the features or the kernel of a fitted model, its ridge and its intercept.

``geometry_of(estimator)`` reads them once, from the fitted estimator, as this table says; ``Geometry.fit(X)`` gives
the ``Space`` that measures rows. Ridges are in the sum convention |y - Phi b|^2 + ridge |b|^2; n is the number of
training rows, w their weights (all 1 when none are given). `Geometry` says what the exactness means: "exact", the
prediction is a fixed linear smoother of y; "given", it is, with what was chosen by y of the same rows; "none", it is
not.

============================  =============================  ============================  =========  =========
estimator                     features or kernel             ridge                         intercept  exactness
============================  =============================  ============================  =========  =========
LinearRegression              inputs                         0                             as fitted  exact [1]
Ridge                         inputs                         alpha [2]                     as fitted  exact [1]
RidgeCV                       inputs                         alpha_ [2]                    as fitted  given
BayesianRidge                 inputs                         lambda_ / alpha_              as fitted  given
ARDRegression                 inputs below threshold_lambda  lambda_ / alpha_ per feature  as fitted  given
ElasticNet                    active inputs [3]              sum(w) alpha (1 - l1_ratio)   as fitted  none
Lasso                         active inputs [3]              0                             as fitted  none
MultiTaskElasticNet           active inputs [3]              sum(w) alpha (1 - l1_ratio)   as fitted  none
MultiTaskLasso                active inputs [3]              0                             as fitted  none
ElasticNetCV                  active inputs [3]              sum(w) alpha_ (1 - l1_ratio_) as fitted  none
MultiTaskElasticNetCV         active inputs [3]              sum(w) alpha_ (1 - l1_ratio_) as fitted  none
LassoCV                       active inputs [3]              0                             as fitted  none
MultiTaskLassoCV              active inputs [3]              0                             as fitted  none
SGDRegressor                  inputs [4]                     n alpha [4]                   as fitted  none
HuberRegressor                inputs, inlier rows            alpha * scale_                as fitted  none
KernelRidge                   its kernel                     alpha [2]                     no         exact
GaussianProcessRegressor      its kernel, without white      alpha + white noise [5]       no         given [6]
SVR                           its kernel [7]                 1 / C, a heuristic            yes        none
NuSVR                         its kernel [7]                 1 / C, a heuristic            yes        none
MLPRegressor                  last hidden layer              alpha [8]                     yes        none
DecisionTreeRegressor         shared leaves [7]              1                             yes        none
ExtraTreeRegressor            shared leaves [7]              1                             yes        none
RandomForestRegressor         shared leaves [7]              1                             yes        none
ExtraTreesRegressor           shared leaves [7]              1                             yes        none
GradientBoostingRegressor     shared leaves [7]              1                             yes        none
BaggingRegressor              shared leaves, of trees [7]    1                             yes        none
Pipeline                      last step, transformed inputs  last step                     last step  last step
BaseSearchCV                  best_estimator_                best_estimator_               its own    given
FrozenEstimator               its estimator                  its estimator                 its own    its own
TransformedTargetRegressor    regressor_                     regressor_                    its own    none
VotingRegressor               members, when all the same     members                       its own    members
anything else                 InputsGeometry()               1                             yes        none
============================  =============================  ============================  =========  =========

[1] "none" with positive=True.
[2] One space per output when it is an array: leverages have a column for each output.
[3] Those with a coefficient other than 0; one space per output where these differ.
[4] On the active inputs n alpha (1 - l1_ratio) with penalty="elasticnet", 0 with "l1"; 0 with penalty=None. A
    heuristic: stochastic steps rarely end in the minimum.
[5] White noise is diag k(X) - diag k(X, X). Noise that differs between rows gives them weights ridge / noise.
[6] "exact" when nothing is tuned: optimizer=None or no free hyperparameter, and normalize_y=False.
[7] The n x n kernel up to 5,000 training rows, then 1,000 landmarks and a residual term. The space keeps these rows;
    the spaces of KernelRidge and GaussianProcessRegressor keep all training rows.
[8] With solver="lbfgs"; with "adam" and "sgd" alpha times the batches in an epoch.

A search (GridSearchCV, RandomizedSearchCV, the halving ones) is measured at its best model; its exactness is the
weaker of that model's and "given". In a Pipeline a transformer that learns from y (selection, target encoding)
makes the exactness "none"; other transformers count as fixed. Members of a VotingRegressor that differ get
InputsGeometry(). Bagged models that are not trees get it too, on the inputs of the last step if in a Pipeline.
"""

from hatband.geometry.base import Features, Geometry, Space
from hatband.geometry.features import FeatureGeometry
from hatband.geometry.inputs import InputsGeometry, TransformerGeometry
from hatband.geometry.kernel import KernelGeometry
from hatband.geometry.kernels import (
    LaplacianKernel,
    LinearKernel,
    MaternKernel,
    PairwiseKernel,
    PolynomialKernel,
    RBFKernel,
)
from hatband.geometry.nystroem import NystroemGeometry
from hatband.geometry.registry import geometry_of

__all__ = [
    "FeatureGeometry",
    "Features",
    "Geometry",
    "InputsGeometry",
    "KernelGeometry",
    "LaplacianKernel",
    "LinearKernel",
    "MaternKernel",
    "NystroemGeometry",
    "PairwiseKernel",
    "PolynomialKernel",
    "RBFKernel",
    "Space",
    "TransformerGeometry",
    "geometry_of",
]
