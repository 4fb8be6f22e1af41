"""Coverage over repeated draws lies inside exact bounds, for every geometry.

Given the trained model, calibration and test rows are exchangeable draws from a continuous distribution, so the bounds
of `oracles.covered_bounds` are exact. False-alarm rate: 1e-6 per claim, 6e-5 for this file.
"""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    Ridge,
    RidgeCV,
    SGDRegressor,
)
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVR, NuSVR

from hatband import LeaveOneOutKernelRidge, LeaveOneOutRidge, LeverageScale, SplitConformalRegressor
from oracles import covered_bounds, exact_upper_rank
from sweeps import sweep

FALSE_ALARM = 1e-6
TRAINING, CALIBRATION, TEST = 150, 39, 60


def draw(rng, n):
    X = rng.standard_normal((n, 4))
    return X, X[:, 0] + np.sin(2 * X[:, 1]) + (0.3 + np.abs(X[:, 2])) * rng.standard_normal(n)


MODELS = {
    "least squares": SplitConformalRegressor(LinearRegression()),
    "ridge": SplitConformalRegressor(Ridge()),
    "ridge, sampling form": SplitConformalRegressor(Ridge(100.0), scale=LeverageScale(form="sampling")),
    "ridge, constant": SplitConformalRegressor(Ridge(), scale="constant"),
    "ridge, the user's function": SplitConformalRegressor(
        Ridge(), scale=lambda rows: 1 + np.abs(rows.prediction[:, 0])
    ),
    "ridge, own columns": SplitConformalRegressor(Ridge(), geometry=PolynomialFeatures(2)),
    "ridge by cross-validation": SplitConformalRegressor(RidgeCV()),
    "bayesian ridge": SplitConformalRegressor(BayesianRidge()),
    "relevance": SplitConformalRegressor(ARDRegression()),
    "lasso": SplitConformalRegressor(Lasso(0.1)),
    "elastic net": SplitConformalRegressor(ElasticNet(0.1)),
    "gradient descent": SplitConformalRegressor(SGDRegressor(random_state=0)),
    "huber": SplitConformalRegressor(HuberRegressor()),
    "polynomial": SplitConformalRegressor(make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge())),
    "kernel ridge": SplitConformalRegressor(KernelRidge(kernel="rbf", alpha=0.5)),
    "gaussian process": SplitConformalRegressor(GaussianProcessRegressor(RBF() + WhiteKernel(), optimizer=None)),
    "support vectors": SplitConformalRegressor(SVR()),
    "nu support vectors": SplitConformalRegressor(NuSVR()),
    "network": SplitConformalRegressor(
        MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", max_iter=60, tol=1.0, random_state=0)
    ),
    "forest": SplitConformalRegressor(RandomForestRegressor(10, random_state=0)),
    "boosting": SplitConformalRegressor(GradientBoostingRegressor(n_estimators=10, random_state=0)),
    "histogram boosting": SplitConformalRegressor(HistGradientBoostingRegressor(max_iter=10)),
    "scaled target": SplitConformalRegressor(TransformedTargetRegressor(Ridge(), transformer=StandardScaler())),
    "conformal ridge": SplitConformalRegressor(LeaveOneOutRidge()),
    "conformal kernel ridge": SplitConformalRegressor(LeaveOneOutKernelRidge()),
}


@sweep(8, 60)
@pytest.mark.parametrize("name", MODELS)
def test_coverage_lies_inside_exact_bounds(name, repetitions):
    rng = np.random.default_rng(sum(map(ord, name)))
    model = MODELS[name].fit_train(*draw(rng, TRAINING))
    covered = 0
    for _ in range(repetitions):
        model.calibrate(*draw(rng, CALIBRATION))
        X, y = draw(rng, TEST)
        lower, upper = model.predict_interval(X)[1].T
        covered += int(((lower <= y) & (y <= upper)).sum())
    low, high = covered_bounds(CALIBRATION, Fraction(9, 10), TEST, repetitions, false_alarm=FALSE_ALARM)

    assert low <= covered <= high


def test_the_bounds_would_catch_a_rank_that_is_one_too_low_at_a_small_calibration_size():
    """One rank less is 2.5 points of coverage at n = 39, outside the bounds once there are enough repetitions."""
    low, _ = covered_bounds(CALIBRATION, Fraction(9, 10), 200, 150, false_alarm=FALSE_ALARM)
    wrong = (exact_upper_rank(CALIBRATION, Fraction(9, 10)) - 1) / (CALIBRATION + 1)

    assert wrong * 200 * 150 < low


@sweep(15, 60)
def test_each_side_of_an_asymmetric_interval_keeps_its_share(rng, repetitions):
    model = SplitConformalRegressor(Ridge(), symmetric=False).fit_train(*draw(rng, TRAINING))
    below = above = 0
    for _ in range(repetitions):
        model.calibrate(*draw(rng, CALIBRATION))
        X, y = draw(rng, TEST)
        lower, upper = model.predict_interval(X)[1].T
        below += int((y >= lower).sum())
        above += int((y <= upper).sum())
    low, high = covered_bounds(CALIBRATION, Fraction(19, 20), TEST, repetitions, false_alarm=FALSE_ALARM)

    assert low <= below <= high
    assert low <= above <= high
