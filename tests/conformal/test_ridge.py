"""The penalty chosen in closed form is the one that n refits would choose."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeCV

from hatband import LeaveOneOutKernelRidge, LeaveOneOutRidge, SplitConformalRegressor
from hatband.fitted.loo_ridge import LARGEST_KERNEL
from oracles import leave_one_out_predictions

RIDGES = [1e-3, 0.1, 1.0, 10.0, 100.0]
TINY = [1e-12, 1e-9, 1e-6]
SHAPES = {"tall": (40, 5), "square": (12, 12), "wide": (15, 40)}


def made(rng, shape):
    X = rng.standard_normal(shape) + 2
    return X, X[:, 0] - X[:, 1] + rng.standard_normal(shape[0])


def refit(X, y, w, rows, ridge):
    return Ridge(ridge, solver="svd").fit(X, y, sample_weight=w).predict(rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_error_of_every_penalty_equals_refits(shape, weighted, rng):
    X, y = made(rng, shape)
    weights = rng.uniform(0.5, 2, len(y)) if weighted else np.ones(len(y))
    model = LeaveOneOutRidge(RIDGES).fit(X, y, sample_weight=weights)
    for ridge, error in zip(RIDGES, model.leave_one_out_error_, strict=True):
        left_out = leave_one_out_predictions(lambda *a, r=ridge: refit(*a, r), X, y, weights)
        spread = np.average((y - np.average(y, weights=weights)) ** 2, weights=weights)
        assert error == pytest.approx(np.average((y - left_out) ** 2, weights=weights) / spread, rel=1e-8)
    assert model.ridge_ == RIDGES[np.argmin(model.leave_one_out_error_)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_fit_equals_ridge_at_the_penalty_chosen_which_ridge_cv_chooses_too(shape, rng):
    X, y = made(rng, shape)
    model = LeaveOneOutRidge(RIDGES).fit(X, y)
    plain = Ridge(model.ridge_, solver="svd").fit(X, y)

    assert model.ridge_ == RidgeCV(RIDGES).fit(X, y).alpha_
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.predict(X), plain.predict(X), rtol=1e-8)


def test_the_choice_does_not_depend_on_units(rng):
    X, y = made(rng, (60, 6))
    one, other = LeaveOneOutRidge().fit(X, y), LeaveOneOutRidge().fit(1e4 * X, 1e-3 * y)

    # Around its minimum the error is flat to the root of rounding.
    assert other.ridge_ == pytest.approx(1e8 * one.ridge_, rel=1e-6)
    np.testing.assert_allclose(other.predict(1e4 * X), 1e-3 * one.predict(X), rtol=1e-6)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_the_kernel_error_of_every_penalty_equals_refits(fit_intercept, rng):
    X, y = made(rng, (30, 2))
    model = LeaveOneOutKernelRidge(gamma=0.5, ridge=RIDGES[1:4], fit_intercept=fit_intercept).fit(X, y)

    def left_out(ridge):
        def fit_predict(X, y, w, rows):
            # A constant that is not penalised is a constant kernel of huge weight.
            big = 1e8 if fit_intercept else 0.0
            K = lambda A, B: np.exp(-0.5 * ((A[:, None] - B) ** 2).sum(-1)) + big  # noqa: E731
            return K(rows, X) @ np.linalg.solve(K(X, X) + ridge * np.eye(len(X)), y)

        return leave_one_out_predictions(fit_predict, X, y)

    for ridge, error in zip(model.ridges_, model.leave_one_out_error_, strict=True):
        size = y.var() if fit_intercept else (y**2).mean()
        assert error == pytest.approx(((y - left_out(ridge)) ** 2).mean() / size, rel=1e-4)


def test_the_kernel_fit_equals_kernel_ridge_at_the_penalty_chosen(rng):
    X, y = made(rng, (50, 3))
    model = LeaveOneOutKernelRidge(gamma=0.3, fit_intercept=False).fit(X, np.c_[y, -2 * y])
    plain = KernelRidge(alpha=model.ridge_, kernel="rbf", gamma=0.3).fit(X, np.c_[y, -2 * y])

    np.testing.assert_allclose(model.predict(X), plain.predict(X), rtol=1e-7, atol=1e-9)


def test_too_many_rows_for_a_kernel_are_refused_before_any_work():
    X = np.zeros((LARGEST_KERNEL + 1, 1))
    with pytest.raises(ValueError, match=r"at most 20000 rows; got 20001.*Nystroem"):
        LeaveOneOutKernelRidge().fit(X, np.arange(LARGEST_KERNEL + 1.0))


@pytest.mark.parametrize(
    "model",
    [
        SplitConformalRegressor(LeaveOneOutRidge(), random_state=0),
        SplitConformalRegressor(LeaveOneOutKernelRidge(gamma=0.3), random_state=0),
    ],
)
def test_the_penalty_is_chosen_on_the_training_part_only(model, rng):
    X, y = made(rng, (80, 3))
    model.fit(X, y)
    kept = np.setdiff1d(np.arange(80), model.calibration_indices_)

    assert model.estimator_.ridge_ == clone(model.estimator).fit(X[kept], y[kept]).ridge_
    assert model.space_.ridge == model.estimator_.ridge_


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_a_ridge_that_all_but_interpolates_keeps_its_digits(fit_intercept, rng):
    """Wide features: the limit for ridge -> 0 is the leave-one-out error of the least-norm fit."""
    X, y = made(rng, (20, 60))
    model = LeaveOneOutRidge(TINY, fit_intercept=fit_intercept).fit(X, y)

    def least_norm(X, y, w, rows):
        mean, y_mean = (X.mean(0), y.mean()) if fit_intercept else (0.0, 0.0)
        return (rows - mean) @ np.linalg.pinv(X - mean) @ (y - y_mean) + y_mean

    size = y.var() if fit_intercept else (y**2).mean()
    expected = ((y - leave_one_out_predictions(least_norm, X, y)) ** 2).mean() / size
    np.testing.assert_allclose(model.leave_one_out_error_, expected, rtol=1e-5)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("shape", [(12, 12), (13, 12), (60, 5)])
def test_rows_of_weight_zero_choose_nothing(shape, fit_intercept, rng):
    """Fewer rows than columns are left where some weigh nothing, and ridge 0 interpolates them."""
    X, y = made(rng, shape)
    weights = np.where(np.arange(len(y)) % 4 == 1, 0.0, rng.uniform(0.5, 2, len(y)))
    kept = weights > 0
    for ridges in ([1e-6, *RIDGES], [0.0, 1e-3, 1.0]):
        model = LeaveOneOutRidge(ridges, fit_intercept=fit_intercept)
        part = clone(model).fit(X[kept], y[kept], sample_weight=weights[kept])
        whole = model.fit(X, y, sample_weight=weights)
        np.testing.assert_allclose(whole.leave_one_out_error_, part.leave_one_out_error_, rtol=1e-9)
        assert whole.ridge_ == part.ridge_
        np.testing.assert_allclose(whole.coef_, part.coef_, rtol=1e-9)
        if ridges[0]:
            left_out = leave_one_out_predictions(
                lambda X, y, w, rows: Ridge(1e-6, solver="svd", fit_intercept=fit_intercept).fit(X, y, w).predict(rows),
                X[kept],
                y[kept],
                weights[kept],
            )
            size = y[kept] - (np.average(y[kept], weights=weights[kept]) if fit_intercept else 0.0)
            expected = (weights[kept] @ (y[kept] - left_out) ** 2) / (weights[kept] @ size**2)
            assert whole.leave_one_out_error_[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", [LeaveOneOutRidge(), LeaveOneOutKernelRidge(gamma=0.3)], ids=repr)
def test_a_fit_that_fails_leaves_the_fitted_model_as_it_was(model, rng, monkeypatch):
    X, y = made(rng, (30, 3))
    model.fit(X, y)
    state = dict(vars(model))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hatband.fitted.loo_ridge._chosen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.column_stack([X, y]), y)
    assert vars(model) == state
