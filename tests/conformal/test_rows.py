"""Rows are lazy; training rows are what refits without them say."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from hatband import Scale, SplitConformalRegressor
from hatband.fitted.rows import Rows, new_rows
from hatband.fitted.training_rows import training_rows
from hatband.geometry import geometry_of
from oracles import dense_leverage


@pytest.fixture
def data(rng):
    X = rng.standard_normal((40, 4)) * [3, 1, 0.5, 2] + 5
    return X, X @ [1.0, -1.0, 2.0, 0.0] + rng.standard_normal(40)


def held_out(estimator, X, y, weights=None, **more):
    params = {} if weights is None else {"sample_weight": weights}
    fitted = estimator.fit(X, y, **params)
    space = geometry_of(fitted).fit(X, weights)
    found = training_rows(fitted, space, X, y[:, None], template=estimator, sample_weight=weights, **more)
    return found.rows, found.residuals, found.source


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", [LinearRegression(), Ridge(3.0), Ridge(3.0, fit_intercept=False)], ids=repr)
def test_training_rows_equal_refits_without_the_row(estimator, weighted, data, rng):
    X, y = data
    weights = rng.uniform(0.2, 3, 40) if weighted else None
    rows, residuals, source = held_out(estimator, X, y, weights)
    ridge = getattr(estimator, "alpha", 0.0)
    for i in range(40):
        keep = np.arange(40) != i
        w = None if weights is None else weights[keep]
        predicted = estimator.fit(X[keep], y[keep], sample_weight=w).predict(X[i : i + 1])[0]
        h = dense_leverage(X[keep], X[i : i + 1], ridge, w, estimator.fit_intercept)[0]

        assert residuals[i, 0] == pytest.approx(y[i] - predicted, rel=1e-8)
        assert rows.prediction[i, 0] == pytest.approx(predicted, rel=1e-8)
        assert rows.leverage[i] == pytest.approx(h, rel=1e-8)
    assert source == "leave-one-out"


def test_hyperparameters_tuned_on_the_rows_are_said_to_be(data):
    assert held_out(RidgeCV([1.0, 10.0]), *data)[2] == "leave-one-out, hyperparameters as tuned"


def test_models_that_are_not_linear_smoothers_are_refitted_in_folds(data):
    X, y = data
    forest = RandomForestRegressor(5, random_state=0)
    _, residuals, source = held_out(forest, X, y, random_state=3)
    folds = KFold(5, shuffle=True, random_state=3)

    np.testing.assert_allclose(residuals[:, 0], y - cross_val_predict(forest, X, y, cv=folds), rtol=1e-12)
    assert source == "5-fold cross-validation"


def test_models_that_cannot_predict_before_they_are_fitted_are_refitted_too(data):
    X, y = data
    stacked = StackingRegressor([("ridge", Ridge()), ("tree", DecisionTreeRegressor(random_state=0))])
    _, residuals, source = held_out(stacked, X, y, random_state=3)

    assert source == "5-fold cross-validation"
    for training, held in KFold(5, shuffle=True, random_state=3).split(X):
        refit = clone(stacked).fit(X[training], y[training])
        np.testing.assert_allclose(residuals[held, 0], y[held] - refit.predict(X[held]), rtol=1e-12)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_refits_get_the_fit_parameters_of_their_own_rows(data, n_jobs):
    X, y = data
    weight = np.linspace(0.1, 3, len(y))
    tree = DecisionTreeRegressor(max_depth=2, random_state=0)
    _, residuals, _ = held_out(tree, X, y, random_state=3, fit_params={"sample_weight": weight}, n_jobs=n_jobs)

    for training, held in KFold(5, shuffle=True, random_state=3).split(X):
        refit = clone(tree).fit(X[training], y[training], sample_weight=weight[training])
        np.testing.assert_allclose(residuals[held, 0], y[held] - refit.predict(X[held]), rtol=1e-12)


def test_a_frozen_model_knows_its_own_rows_by_the_normal_equations(data):
    X, y = data
    frozen = FrozenEstimator(make_pipeline(StandardScaler(), Ridge(2.0)).fit(X[:30], y[:30]))

    assert held_out(frozen, X[:30], y[:30])[2] == "leave-one-out"
    assert held_out(frozen, X[10:], y[10:])[2] == "unseen rows"
    np.testing.assert_allclose(held_out(frozen, X[30:], y[30:])[1][:, 0], y[30:] - frozen.predict(X[30:]), rtol=1e-12)


def test_other_frozen_models_need_the_users_word(data):
    X, y = data
    frozen = FrozenEstimator(RandomForestRegressor(5, random_state=0).fit(X[:20], y[:20]))
    with pytest.raises(ValueError, match="fit_train_rows='unseen'"):
        held_out(frozen, X[20:], y[20:])

    assert held_out(frozen, X[20:], y[20:], fit_train_rows="unseen")[2] == "unseen rows"


def test_rows_that_the_model_interpolates_are_left_out(rng):
    X = np.vstack([np.c_[rng.standard_normal(20), np.zeros(20)], [[0.0, 1.0]]])
    y = rng.standard_normal(21)
    rows, residuals, _ = held_out(LinearRegression(), X, y)

    assert len(rows) == len(residuals) == 20
    assert np.isfinite(residuals).all()


def test_fields_are_computed_once_and_only_when_read():
    calls = []

    def field(name, value):
        return lambda: calls.append(name) or value

    rows = Rows(
        3,
        inputs=field("inputs", np.zeros((3, 2))),
        leverage=field("leverage", np.arange(3.0)),
        sampling_leverage=field("sampling", np.zeros(3)),
        prediction=field("prediction", np.zeros((3, 1))),
    )
    part = rows.take(np.array([2, 0]))
    assert calls == []
    np.testing.assert_array_equal(part.leverage, [2.0, 0.0])
    np.testing.assert_array_equal(rows.leverage, [0.0, 1.0, 2.0])
    assert calls == ["leverage"]
    assert len(part) == 2


def test_new_rows_predict_from_the_features_that_are_there(data):
    X, y = data
    model = make_pipeline(StandardScaler(), Ridge()).fit(X, y)
    rows = new_rows(model, geometry_of(model).fit(X), X[:5], 1)

    np.testing.assert_allclose(rows.prediction[:, 0], model.predict(X[:5]), rtol=1e-13)
    assert rows.inputs.shape == (5, 4)


class ResidualSpread(Scale):
    """A user's scale that learns one number from held-out residuals."""

    needs_residuals = True

    def fit(self, rows, residuals=None, sample_weight=None):
        self.spread_ = np.abs(residuals).mean(axis=0)
        self.rows_ = len(rows)
        return self

    def predict(self, rows):
        return 0.0, np.tile(self.spread_, (len(rows), 1))


def test_a_scale_of_the_users_gets_held_out_residuals_and_their_source_is_shown(data):
    X, y = data
    model = SplitConformalRegressor(Ridge(), scale=ResidualSpread(), random_state=0).fit(X, y)
    kept = np.setdiff1d(np.arange(40), model.calibration_indices_)

    assert model.residuals_from_ == "leave-one-out"
    assert model.scale_.rows_ == 30
    assert model.scale_.spread_[0] == pytest.approx(np.abs(held_out(Ridge(), X[kept], y[kept])[1]).mean(), rel=1e-10)
    assert SplitConformalRegressor(Ridge(), scale="leverage").fit_train(X, y).residuals_from_ is None


def test_outputs_with_ridges_of_their_own_get_residuals_of_their_own(data):
    X, y = data
    Y = np.c_[y, np.cos(y)]
    both = SplitConformalRegressor(Ridge(np.array([0.5, 20.0])), scale=ResidualSpread()).fit_train(X, Y)
    one_by_one = [held_out(Ridge(ridge), X, Y[:, j])[1] for j, ridge in enumerate((0.5, 20.0))]

    np.testing.assert_allclose(both.scale_.spread_, [np.abs(residuals).mean() for residuals in one_by_one], rtol=1e-9)


def test_residuals_of_a_transformed_target_are_on_the_scale_of_the_scores(data):
    X, y = data[0], np.abs(data[1])
    template = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)
    model = SplitConformalRegressor(template, scale=ResidualSpread(), random_state=3).fit_train(X, y)
    folds = KFold(5, shuffle=True, random_state=3)
    residuals = np.log1p(y) - np.log1p(cross_val_predict(template, X, y, cv=folds))

    assert model.residuals_from_ == "5-fold cross-validation"
    np.testing.assert_allclose(model.scale_.spread_, np.abs(residuals).mean(), rtol=1e-9)
