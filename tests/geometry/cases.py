"""The models, geometries and data that the claims of this folder are checked on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern, RationalQuadratic, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    MultiTaskElasticNet,
    MultiTaskElasticNetCV,
    MultiTaskLasso,
    MultiTaskLassoCV,
    Ridge,
    RidgeCV,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVR, NuSVR
from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor

from guide import RECIPES
from hatband.geometry import (
    FeatureGeometry,
    Geometry,
    InputsGeometry,
    KernelGeometry,
    MaternKernel,
    NystroemGeometry,
    PairwiseKernel,
    TransformerGeometry,
    geometry_of,
)

_RNG = np.random.default_rng(7)
N, D, Q = 60, 5, 2
X = _RNG.normal(size=(N, D)) * [1.0, 2.0, 0.5, 1.0, 1.5] + [3.0, -1.0, 0.0, 2.0, 5.0]
Y = X @ _RNG.normal(size=(D, Q)) + 0.5 * np.sin(X[:, :Q]) + _RNG.normal(size=(N, Q)) + [4.0, -7.0]
y = Y[:, 0]
W = _RNG.uniform(0.3, 2.0, N)
NEW = _RNG.normal(size=(9, D)) * 3 + X.mean(axis=0)
FAR = 1000.0 * X.std(axis=0) + X.mean(axis=0)
ALPHAS = np.array([0.3, 20.0])


@dataclass(frozen=True)
class Case:
    """A model, its targets, whether it takes weights, and what geometry_of should say of it."""

    model: Any
    target: Any = None
    weighted: bool = False
    exactness: str = "none"

    @property
    def y(self):
        return y if self.target is None else self.target

    @property
    def weights(self):
        return W if self.weighted else None

    def __str__(self):
        shape = "" if self.y.ndim == 1 else f"-{self.y.shape[1]}outputs"
        return f"{self.model!r}{shape}{'-weighted' if self.weighted else ''}".replace(" ", "").replace("\n", "")

    def fitted(self, target=None):
        target = self.y if target is None else target
        return clone(self.model).fit(X, target, **({"sample_weight": W} if self.weighted else {}))

    def geometry(self):
        return geometry_of(self.fitted())


@dataclass(frozen=True)
class Made:
    """A geometry that no model gives: its name, what makes it, and whether its rows have weights."""

    name: str
    geometry: Callable[[], Geometry]
    weighted: bool = False
    exactness: str = "none"

    @property
    def weights(self):
        return W if self.weighted else None

    def __str__(self):
        return f"{self.name}{'-weighted' if self.weighted else ''}"


# Models whose coefficients satisfy Phi_c'W e = ridge coef.
SMOOTHERS = [
    Case(LinearRegression(), exactness="exact"),
    Case(LinearRegression(fit_intercept=False), weighted=True, exactness="exact"),
    Case(LinearRegression(), Y, weighted=True, exactness="exact"),
    Case(Ridge(alpha=3.0), exactness="exact"),
    Case(Ridge(alpha=3.0), weighted=True, exactness="exact"),
    Case(Ridge(alpha=3.0, fit_intercept=False), weighted=True, exactness="exact"),
    Case(Ridge(alpha=0.0, solver="svd"), exactness="exact"),
    Case(Ridge(alpha=ALPHAS), Y, exactness="exact"),
    Case(Ridge(alpha=ALPHAS), Y, weighted=True, exactness="exact"),
    Case(Ridge(alpha=np.array([2.0, 2.0])), Y, exactness="exact"),
    Case(Ridge(alpha=np.array([2.0])), exactness="exact"),
    Case(RidgeCV(alphas=(0.1, 1.0, 10.0)), exactness="given"),
    Case(RidgeCV(alphas=(0.1, 1.0, 10.0), fit_intercept=False), weighted=True, exactness="given"),
    Case(RidgeCV(alphas=(0.1, 1.0, 10.0), cv=3), exactness="given"),
    Case(RidgeCV(alphas=(1.0, 300.0), alpha_per_target=True), np.c_[Y[:, 0], W], exactness="given"),
    Case(BayesianRidge(), exactness="given"),
    Case(BayesianRidge(fit_intercept=False), weighted=True, exactness="given"),
    Case(ARDRegression(), exactness="given"),
    Case(ARDRegression(threshold_lambda=10.0, fit_intercept=False), exactness="given"),
]
_CLOSE = {"tol": 1e-12, "max_iter": 100_000}
SPARSE = [
    Case(ElasticNet(alpha=0.6, l1_ratio=0.5, **_CLOSE)),
    Case(ElasticNet(alpha=0.6, l1_ratio=0.5, fit_intercept=False, **_CLOSE), weighted=True),
    Case(ElasticNet(alpha=0.6, l1_ratio=0.5, **_CLOSE), Y),
    Case(ElasticNet(alpha=0.6, l1_ratio=0.5, **_CLOSE), weighted=True),
    Case(Lasso(alpha=0.6, **_CLOSE)),
    Case(Lasso(alpha=0.6, **_CLOSE), Y, weighted=True),
    Case(MultiTaskElasticNet(alpha=1.0, l1_ratio=0.5, **_CLOSE), Y),
    Case(MultiTaskLasso(alpha=1.0, **_CLOSE), Y),
    Case(ElasticNetCV(alphas=[0.3, 0.6], l1_ratio=[0.2, 0.7], cv=3, **_CLOSE)),
    Case(LassoCV(alphas=[0.3, 0.6], cv=3, **_CLOSE), weighted=True),
    Case(MultiTaskElasticNetCV(alphas=[0.3, 0.6], l1_ratio=0.5, cv=3, **_CLOSE), Y),
    Case(MultiTaskLassoCV(alphas=[0.3, 0.6], cv=3, **_CLOSE), Y),
]
POSITIVE = [Case(LinearRegression(positive=True)), Case(Ridge(positive=True))]
ROBUST = [
    Case(HuberRegressor(alpha=0.5, epsilon=1.1, tol=1e-9, max_iter=10_000)),
    Case(HuberRegressor(alpha=0.5, epsilon=1.1, tol=1e-9, max_iter=10_000, fit_intercept=False), weighted=True),
]
_SGD = {"tol": None, "max_iter": 1000, "eta0": 0.002, "random_state": 0}
STOCHASTIC = [Case(SGDRegressor(alpha=0.05, **_SGD)), Case(SGDRegressor(alpha=0.05, **_SGD), weighted=True)]

_COMPOSITE = ConstantKernel(4.0) * RBF(2.0) + WhiteKernel(0.3)
PROCESSES = [
    Case(GaussianProcessRegressor(alpha=0.5, optimizer=None), exactness="exact"),
    Case(GaussianProcessRegressor(_COMPOSITE, alpha=0.1, optimizer=None), exactness="exact"),
    Case(GaussianProcessRegressor(_COMPOSITE, alpha=0.1, optimizer=None, normalize_y=True), Y, exactness="given"),
    Case(GaussianProcessRegressor(_COMPOSITE, alpha=np.linspace(0.1, 2, N), optimizer=None), exactness="exact"),
    Case(GaussianProcessRegressor(Matern(1.5) + DotProduct(), alpha=0.7, optimizer=None), exactness="exact"),
    Case(GaussianProcessRegressor(RBF(2.0) * WhiteKernel(0.3) + RBF(3.0), optimizer=None), exactness="exact"),
    Case(GaussianProcessRegressor(DotProduct() * WhiteKernel(0.3) + RBF(3.0), optimizer=None), exactness="exact"),
    Case(GaussianProcessRegressor(RationalQuadratic(2.0) + WhiteKernel(0.5)), exactness="given"),
    Case(GaussianProcessRegressor(RBF(2.0, "fixed"), alpha=0.5), exactness="exact"),
]
KERNEL_RIDGES = [
    Case(KernelRidge(alpha=2.0, kernel="rbf", gamma=0.1), exactness="exact"),
    Case(KernelRidge(alpha=2.0, kernel="rbf"), weighted=True, exactness="exact"),
    Case(KernelRidge(alpha=2.0, kernel="polynomial", degree=2, gamma=0.1, coef0=2), Y, exactness="exact"),
    Case(KernelRidge(alpha=2.0, kernel="laplacian"), exactness="exact"),
    Case(KernelRidge(alpha=2.0), Y, weighted=True, exactness="exact"),
    Case(KernelRidge(alpha=ALPHAS, kernel="rbf", gamma=0.1), Y, exactness="exact"),
    Case(KernelRidge(alpha=2.0, kernel=RBF(2.0)), exactness="exact"),
]
VECTOR_MACHINES = [
    Case(SVR(C=2.0)),
    Case(SVR(C=2.0, kernel="poly", degree=2, coef0=1.0, gamma="auto")),
    Case(NuSVR(C=0.5, kernel="linear"), weighted=True),
]
NETWORKS = [
    Case(
        MLPRegressor(
            hidden_layer_sizes=layers, activation=activation, solver="lbfgs", max_iter=5000, max_fun=50_000, tol=1e-3
        ).set_params(random_state=0, alpha=1.0)
    )
    for activation, layers in [("identity", (4,)), ("logistic", (6, 3)), ("tanh", (4,)), ("relu", (8, 5)), ("relu", ())]
]
TREES = [
    Case(DecisionTreeRegressor(max_depth=3, random_state=0)),
    Case(ExtraTreeRegressor(max_depth=3, random_state=0), Y),
    Case(RandomForestRegressor(15, random_state=0), weighted=True),
    Case(ExtraTreesRegressor(15, random_state=0), Y),
    Case(GradientBoostingRegressor(n_estimators=20, random_state=0)),
    Case(BaggingRegressor(n_estimators=10, max_features=3, random_state=0)),
]
OTHERS = [
    Case(HistGradientBoostingRegressor(max_iter=5, random_state=0), weighted=True),
    Case(KNeighborsRegressor(3)),
    Case(BaggingRegressor(Ridge(), n_estimators=3, random_state=0)),
]
LINEAR = [*SMOOTHERS, *SPARSE, *POSITIVE, *ROBUST, *STOCHASTIC]
KERNELS = [*PROCESSES, *KERNEL_RIDGES, *VECTOR_MACHINES]
EVERY = [*LINEAR, *KERNELS, *NETWORKS, *TREES, *OTHERS]
COMPOSED = [
    Case(make_pipeline(PolynomialFeatures(2), Ridge(3.0)), exactness="exact"),
    Case(make_pipeline(PolynomialFeatures(2), KernelRidge(alpha=ALPHAS)), Y, exactness="exact"),
    Case(make_pipeline(StandardScaler(), OTHERS[0].model)),
    Case(GridSearchCV(Ridge(), {"alpha": [1.0, 3.0]}, cv=2), exactness="given"),
    Case(VotingRegressor([("a", Ridge(3.0)), ("b", Ridge(3.0))]), weighted=True, exactness="exact"),
]
_RBF = PairwiseKernel("rbf", {"gamma": 0.1})
MADE = [
    made
    for weighted in (False, True)
    for made in (
        Made("features", lambda: FeatureGeometry(2.0), weighted),
        Made("features without intercept", lambda: FeatureGeometry(2.0, fit_intercept=False), weighted),
        Made("a ridge per feature", lambda: FeatureGeometry(np.linspace(0, 3, D)), weighted),
        Made("some columns", lambda: FeatureGeometry(2.0, columns=np.array([0, 3])), weighted),
        Made("inputs", InputsGeometry, weighted),
        Made("raw inputs", lambda: InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0), weighted),
        Made("transformer", lambda: TransformerGeometry(PolynomialFeatures(2)), weighted),
        Made("kernel", lambda: KernelGeometry(_RBF, 0.5), weighted),
        Made("kernel with intercept", lambda: KernelGeometry(MaternKernel(2.0), 0.5, True), weighted),
        Made("landmarks", lambda: NystroemGeometry(_RBF, 0.5, landmarks=20), weighted),
        Made("landmarks with intercept", lambda: NystroemGeometry(_RBF, 0.5, True, landmarks=20), weighted),
        Made("all landmarks", lambda: NystroemGeometry(_RBF, 0.5), weighted),
        Made("exact features", lambda: FeatureGeometry(2.0, exactness="exact"), weighted, "exact"),
        Made("the distance of CONTRIBUTING.md", RECIPES.Distance, weighted),
    )
]
# Features are learned from X: "exact" with these held, and no refit without a row learns the same ones.
LEARNED_FROM_X = [
    Case(make_pipeline(StandardScaler(), Ridge(3.0)), exactness="exact"),
    Case(RECIPES.ScaledRidge(3.0), exactness="exact"),
    Case(RECIPES.ScaledRidge(3.0), Y, weighted=True, exactness="exact"),
    Case(make_pipeline(StandardScaler(), RECIPES.ScaledRidge(3.0)), exactness="exact"),
]
WRAPPERS = [Case(RECIPES.Clipped(Ridge(2.0))), Case(RECIPES.Clipped(make_pipeline(PolynomialFeatures(2), Ridge(2.0))))]
# Every kind of space. A new one goes in here, as a model or as a geometry, and every promise of a space is tested.
SPACES = [*EVERY, *COMPOSED, *LEARNED_FROM_X, *WRAPPERS, *MADE]
