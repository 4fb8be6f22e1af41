"""The ridge read from a model satisfies the normal equations of its own coefficients: Phi_c'W e = ridge coef."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import HuberRegressor, Lasso, MultiTaskElasticNet, SGDRegressor
from sklearn.neural_network import MLPRegressor

from geometry.cases import KERNEL_RIDGES, POSITIVE, PROCESSES, ROBUST, SMOOTHERS, SPARSE, STOCHASTIC, N, X
from hatband.geometry import geometry_of
from hatband.geometry.composite import PerOutputSpace
from rounding import EPS, through_gram


def columns_of(space):
    return slice(None) if space.columns is None else space.columns


def of_each_output(space, count):
    """The space of each output."""
    return space.spaces if isinstance(space, PerOutputSpace) else (space,) * count


def centred(features, weights, fit_intercept):
    return features - np.average(features, axis=0, weights=weights) if fit_intercept else features


def gaps(case, model, residual):
    """Phi_c'W e - ridge coef and |Phi_c'W y|, for each output on the features that count."""
    weights = np.ones(N) if case.weights is None else case.weights
    space = geometry_of(model).fit(X, case.weights)
    coefs = np.atleast_2d(model.coef_)
    for j, (part, coef) in enumerate(zip(of_each_output(space, len(coefs)), coefs, strict=True)):
        active = columns_of(part)
        phi = centred(X, weights, model.fit_intercept)
        size = np.linalg.norm(phi.T @ (weights * case.y.reshape(N, -1)[:, j]))
        yield phi[:, active].T @ (weights * residual[:, j]) - part.ridge * coef[active], coef[active], size


def residuals(case, model, rows=X):
    return case.y.reshape(N, -1) - model.predict(rows).reshape(N, -1)


@pytest.mark.parametrize("case", SMOOTHERS, ids=str)
def test_ridge_of_linear_smoother_satisfies_its_normal_equations(case):
    model = case.fitted()
    for gap, _, size in gaps(case, model, residuals(case, model)):
        assert np.linalg.norm(gap) <= through_gram(X) * size


@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_ridge_of_sparse_model_satisfies_its_normal_equations_up_to_the_pull_of_the_absolute_penalty(case):
    model = case.fitted()
    weight = N if case.weights is None else case.weights.sum()
    share = getattr(model, "l1_ratio_", getattr(model, "l1_ratio", 1.0))
    share = 1.0 if share is None else share
    pull = weight * getattr(model, "alpha_", model.alpha if hasattr(model, "alpha") else None) * share
    # Group penalties pull along the coefficients of a feature over all outputs.
    lengths = np.linalg.norm(np.atleast_2d(model.coef_), axis=0)
    grouped = isinstance(model, MultiTaskElasticNet) or type(model).__name__.startswith("MultiTask")
    for gap, coef, size in gaps(case, model, residuals(case, model)):
        direction = coef / lengths[lengths > 0] if grouped else np.sign(coef)
        assert np.linalg.norm(gap - pull * direction) <= 1e-5 * size  # the duality gap of 1e-12 |y|^2, its root taken


@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_sparse_model_is_measured_on_the_features_that_it_uses(case):
    model = case.fitted()
    spaces = of_each_output(geometry_of(model).fit(X, case.weights), len(np.atleast_2d(model.coef_)))
    for part, coef in zip(spaces, np.atleast_2d(model.coef_), strict=True):
        np.testing.assert_array_equal(np.arange(X.shape[1])[columns_of(part)], np.flatnonzero(coef))


def test_outputs_with_different_active_features_have_their_own_spaces():
    model = Lasso(alpha=0.6).fit(X, np.c_[X[:, 0], X[:, 1]])
    space = geometry_of(model).fit(X)
    assert [part.columns.tolist() for part in space.spaces] == [[0], [1]]


@pytest.mark.parametrize("case", ROBUST, ids=str)
def test_ridge_of_huber_satisfies_the_normal_equations_of_clipped_residuals(case):
    model = case.fitted()
    bound = model.epsilon * model.scale_
    clipped = np.clip(residuals(case, model), -bound, bound)
    assert 0 < model.outliers_.sum() < N
    for gap, _, size in gaps(case, model, clipped):
        assert np.linalg.norm(gap) <= 1e-5 * size  # lbfgs stops on the gradient of another scale


def test_huber_is_measured_on_its_inlier_rows():
    model = HuberRegressor(epsilon=1.1).fit(X, SMOOTHERS[0].y)
    space = geometry_of(model).fit(X)
    inliers = geometry_of(model).fit(X, (~model.outliers_).astype(float))
    assert space.factor.effective_dimension() == pytest.approx(inliers.factor.effective_dimension(), rel=1e-12)
    assert space.factor.frame.weight == (~model.outliers_).sum()


@pytest.mark.parametrize("case", STOCHASTIC, ids=str)
def test_ridge_of_stochastic_gradient_is_near_what_its_coefficients_show(case):
    # Steps of one size suit features of one size.
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    weights = np.ones(N) if case.weights is None else case.weights
    model = clone(case.model).fit(scaled, case.y, sample_weight=weights)
    pull = centred(scaled, weights, True).T @ (weights * residuals(case, model, scaled)[:, 0])
    ridge = geometry_of(model).fit(scaled, case.weights).ridge
    assert ridge == N * model.alpha
    assert pull @ model.coef_ / (model.coef_ @ model.coef_) == pytest.approx(ridge, rel=0.1)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"penalty": "elasticnet", "l1_ratio": 0.25}, 0.75 * N * 0.01),
        ({"penalty": "l1"}, 0.0),
        ({"penalty": None}, 0.0),
        ({"penalty": "l2", "early_stopping": True, "validation_fraction": 0.2}, 0.8 * N * 0.01),
    ],
)
def test_penalty_of_stochastic_gradient_decides_its_ridge(parameters, expected):
    model = SGDRegressor(alpha=0.01, eta0=1e-3, random_state=0, **parameters).fit(X, SMOOTHERS[0].y)
    assert geometry_of(model).fit(X).ridge == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", POSITIVE, ids=str)
def test_positive_coefficients_are_not_a_linear_smoother(case):
    assert geometry_of(case.fitted()).exactness == "none"


@pytest.mark.parametrize("case", KERNEL_RIDGES, ids=str)
def test_ridge_of_kernel_ridge_satisfies_its_normal_equations(case):
    model = case.fitted()
    weights = np.ones(N) if case.weights is None else case.weights
    space = geometry_of(model).fit(X, case.weights)
    dual = model.dual_coef_.reshape(N, -1)
    for j, part in enumerate(of_each_output(space, dual.shape[1])):
        gap = weights * residuals(case, model)[:, j] - part.ridge * dual[:, j]
        spread = np.linalg.eigvalsh(part.kernel(X, X))[-1] / part.ridge
        assert np.linalg.norm(gap) <= 100 * (1 + spread) * EPS * np.linalg.norm(case.y)


@pytest.mark.parametrize("case", PROCESSES, ids=str)
def test_ridge_and_row_weights_of_a_gaussian_process_satisfy_its_normal_equations(case):
    model = case.fitted()
    space = geometry_of(model).fit(X)
    own = geometry_of(model).row_weights
    weights = np.ones((N, 1)) if own is None else own[:, None]
    scale = case.y.reshape(N, -1).std(axis=0) if model.normalize_y else 1.0
    gap = weights * residuals(case, model) / scale - space.ridge * model.alpha_.reshape(N, -1)
    spread = np.linalg.eigvalsh(space.kernel(X, X))[-1] / space.ridge
    assert np.linalg.norm(gap) <= 100 * (1 + spread) * EPS * np.linalg.norm(case.y)


# How close each solver comes to the minimum, where what the last layer shows is the ridge.
PERCEPTRONS = [
    ({"solver": "lbfgs", "alpha": 0.5, "tol": 1e-10, "max_iter": 20_000, "max_fun": 100_000}, 1, 0.01),
    ({"solver": "sgd", "alpha": 0.2, "batch_size": 20, "learning_rate_init": 0.01, "max_iter": 1000}, 3, 0.2),
    ({"solver": "adam", "alpha": 0.2, "batch_size": 20, "learning_rate_init": 0.01, "max_iter": 1000}, 3, 0.2),
]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(("parameters", "batches", "closeness"), PERCEPTRONS, ids=["lbfgs", "sgd", "adam"])
def test_ridge_of_a_perceptron_is_what_its_last_layer_shows(parameters, batches, closeness):
    parameters = {"tol": 0.0, "n_iter_no_change": 10**6} | parameters
    target = (SMOOTHERS[0].y - SMOOTHERS[0].y.mean()) / SMOOTHERS[0].y.std()
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    model = MLPRegressor(hidden_layer_sizes=(4,), activation="tanh", random_state=0, **parameters).fit(scaled, target)
    space = geometry_of(model).fit(scaled)
    pull = centred(space.features(scaled).values, None, True).T @ (target - model.predict(scaled))
    out = model.coefs_[-1][:, 0]
    assert space.ridge == pytest.approx(model.alpha * batches, rel=1e-12)
    assert pull @ out / (out @ out) == pytest.approx(space.ridge, rel=closeness)


@pytest.mark.parametrize(
    ("parameters", "batches"),
    [
        ({"batch_size": 16}, 4),
        ({"batch_size": 16, "early_stopping": True, "validation_fraction": 0.25}, 3),
        ({"batch_size": N}, 1),
        ({}, 1),
    ],
)
def test_batches_of_an_epoch_multiply_the_ridge_of_a_perceptron(parameters, batches):
    # A tolerance that nothing meets stops the training at once.
    model = MLPRegressor(hidden_layer_sizes=(3,), tol=1e9, n_iter_no_change=1, random_state=0, **parameters)
    assert geometry_of(model.fit(X, SMOOTHERS[0].y)).fit(X).ridge == pytest.approx(model.alpha * batches, rel=1e-12)
