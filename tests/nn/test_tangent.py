"""Gradients of whole networks as features, their leverage by three routes, and full conformal intervals on them."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from torch import nn

from hatband import FullConformalRegressor, SplitConformalRegressor, leverage
from hatband.formulas.ridge_choice import best_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.geometry import FeatureGeometry
from hatband.nn import (
    LastLayerConformalRegressor,
    LinearisedConformalRegressor,
    LowRankTangentGeometry,
    TangentFeatures,
    TangentGeometry,
    conjugate_gradient_leverage,
)
from nn.cases import gradients, network, phi, rows
from sweeps import sweep

RIDGE = 0.3


class Wrapped(RegressorMixin, BaseEstimator):
    """A trained network as scikit-learn sees models."""

    def __init__(self, module):
        self.module = module

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, X):
        return TangentFeatures(self.module).expand(X).value


@pytest.fixture
def double(device):
    return network(dtype=torch.float64).to(device)


class TestTangentFeatures:
    def test_are_the_gradients_of_backward_passes(self, double):
        X = rows(9)[0]
        np.testing.assert_allclose(TangentFeatures(double).transform(X), gradients(double, X), rtol=1e-12)

    def test_hold_the_features_of_the_last_layer(self, double):
        X = rows(9)[0]
        np.testing.assert_allclose(TangentFeatures(double).transform(X)[:, -13:-1], phi(double, X), rtol=1e-12)

    def test_are_what_a_small_step_in_the_weights_changes(self, double):
        X, at = rows(9)[0], TangentFeatures(double)
        step = 1e-6 * np.random.default_rng(0).normal(size=at.weights.shape)
        expected = at.expand(X).value + at.transform(X) @ step
        vector = torch.as_tensor(at.weights + step, device=next(double.parameters()).device)
        nn.utils.vector_to_parameters(vector, double.parameters())
        np.testing.assert_allclose(at.expand(X).value, expected, atol=1e-10)

    def test_are_taken_in_double_precision_and_leave_a_network_in_single_as_it_was(self, net):
        net.train()
        before = [value.clone() for value in net.state_dict().values()]
        found = TangentFeatures(net).transform(rows(9)[0])
        np.testing.assert_allclose(found, gradients(net.double(), rows(9)[0]), rtol=1e-12)
        assert net.training
        assert all(torch.equal(a, b) for a, b in zip(before, net.float().state_dict().values(), strict=True))

    def test_need_one_output(self):
        with pytest.raises(ValueError, match="one output per row"):
            TangentFeatures(network(2)).transform(rows(3)[0])


class TestLeverage:
    @pytest.mark.parametrize("n", [30, 200], ids=["more parameters than rows", "more rows than parameters"])
    def test_of_the_geometry_is_the_dense_formula(self, n, double):
        train, new = rows(n)[0], rows(7, seed=1)[0]
        space = TangentGeometry(double, RIDGE).fit(train)
        expected = leverage(gradients(double, train), gradients(double, new), ridge=RIDGE)
        np.testing.assert_allclose(space.leverage(space.features(new)), expected, rtol=1e-9)

    def test_by_conjugate_gradients_brackets_the_exact_one(self, double):
        train, new = rows(60)[0], rows(7, seed=1)[0]
        exact = leverage(gradients(double, train), gradients(double, new), ridge=RIDGE, fit_intercept=False)
        for iterations in (0, 3, 200):
            found = conjugate_gradient_leverage(
                double, train, new, ridge=RIDGE, tolerance=1e-8, max_iterations=iterations
            )
            assert (found.lower <= exact * (1 + 1e-9)).all()
            assert (exact <= found.upper * (1 + 1e-9)).all()
            assert found.iterations <= iterations
        np.testing.assert_allclose(found.lower, found.upper, rtol=1e-7)

    def test_stops_when_the_bracket_is_tight(self, double):
        found = conjugate_gradient_leverage(double, rows(60)[0], rows(7, seed=1)[0], ridge=RIDGE, tolerance=0.1)
        assert (found.upper - found.lower <= 0.1 * found.upper).all()
        assert found.iterations < 60

    def test_at_rows_far_away_exceeds_that_of_all_training_rows(self):
        net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))
        X = rows(100)[0]
        space = TangentGeometry(net).fit(X)
        near, far = (space.leverage(space.features(factor * X)) for factor in (1, 1_000))
        assert far.min() > near.max()

    def test_shapes_the_band_of_split_conformal_prediction(self, double):
        (X, y), (X_cal, y_cal) = rows(60), rows(60, seed=1)
        model = SplitConformalRegressor(
            FrozenEstimator(Wrapped(double)), geometry=TangentGeometry(double, RIDGE), scale="leverage"
        )
        model.fit_train(X.numpy(), y.numpy()).calibrate(X_cal.numpy(), y_cal.numpy())
        width = np.diff(model.predict_interval(X.numpy())[1])[:, 0]
        expected = np.sqrt(1 + leverage(gradients(double, X), ridge=RIDGE))
        np.testing.assert_allclose(width / width[0], expected / expected[0], rtol=1e-9)

    @pytest.mark.parametrize("ridge", [0.0, -1.0])
    def test_by_conjugate_gradients_needs_a_ridge(self, ridge):
        with pytest.raises(ValueError, match="ridge"):
            conjugate_gradient_leverage(network(), rows(5)[0], rows(5)[0], ridge=ridge)


class TestDefaultRidge:
    GEOMETRIES = pytest.mark.parametrize("geometry", [TangentGeometry, LowRankTangentGeometry])

    @GEOMETRIES
    @pytest.mark.parametrize("n", [30, 200], ids=["more parameters than rows", "more rows than parameters"])
    @pytest.mark.parametrize("fit_intercept", [True, False])
    def test_is_a_hundredth_of_the_mean_eigenvalue_and_that_of_all_layers(self, geometry, n, fit_intercept, double):
        X = rows(n)[0]
        train = gradients(double, X)
        centred = train - train.mean(axis=0) if fit_intercept else train
        expected = 1e-2 * np.trace(centred @ centred.T) / min(train.shape)

        found = geometry(double, fit_intercept=fit_intercept).fit(X).ridge
        model = LastLayerConformalRegressor(double, "all", scale="leverage", penalise_bias=not fit_intercept)

        assert found == pytest.approx(expected, rel=1e-10)
        assert model.fit_train(X).space_.ridge == pytest.approx(expected, rel=1e-10)

    @GEOMETRIES
    def test_takes_a_weight_for_a_number_of_rows_and_weight_zero_for_none(self, geometry, double):
        X = rows(40)[0].numpy()
        weights = np.arange(40) % 3.0
        train = gradients(double, torch.as_tensor(X))
        centred = train - np.average(train, axis=0, weights=weights)
        expected = 1e-2 * (weights @ (centred**2).sum(axis=1)) / (weights > 0).sum()

        assert geometry(double).fit(X, weights).ridge == pytest.approx(expected, rel=1e-10)
        wild = np.where(weights[:, None] > 0, X, 9.0)
        assert geometry(double).fit(wild, weights).ridge == pytest.approx(expected, rel=1e-10)

    @GEOMETRIES
    def test_is_positive_where_no_gradient_varies(self, geometry, double):
        assert geometry(double).fit(torch.zeros(5, 4)).ridge > 0

    def test_of_a_network_with_more_parameters_than_rows_does_not_change_with_idle_ones(self, double):
        class WithIdle(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.idle = double, nn.Parameter(torch.zeros(300, dtype=torch.float64))

            def forward(self, x):
                return self.net(x) + 0 * self.idle.sum()

        X = rows(30)[0]
        found, wider = (TangentGeometry(net).fit(X) for net in (double, WithIdle().to(double[0].weight.device)))
        assert wider.ridge == pytest.approx(found.ridge, rel=1e-12)


class TestLinearised:
    def test_is_full_conformal_prediction_on_the_gradients(self, double):
        (X, y), new = rows(60), rows(7, seed=1)[0]
        found = LinearisedConformalRegressor(double, ridge=RIDGE).fit(X, y).predict_interval(new)
        with torch.no_grad():
            weights = torch.cat([value.reshape(-1) for value in double.parameters()]).cpu().numpy()
            offset, shift = (double(part.to(double[0].weight))[:, 0].cpu().numpy() for part in (X, new))
        J, K = gradients(double, X), gradients(double, new)
        model = FullConformalRegressor(Ridge(RIDGE), geometry=FeatureGeometry(RIDGE, True, "exact"))
        model.fit(J, y.double().numpy() - offset + J @ weights)
        for ours, theirs, moved in zip(found, model.predict_interval(K), (shift - K @ weights,) * 2, strict=True):
            np.testing.assert_allclose(ours.T, theirs.T + moved, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("ridge", ["evidence", "loo", "gcv"])
    def test_chooses_its_ridge_for_the_expansion(self, ridge, double):
        X, y = rows(60)
        features = TangentFeatures(double)
        value, J = features.expand(X)
        spectrum = RidgeSpectrum.of(J, y.double().numpy() - value + J @ features.weights)
        found = LinearisedConformalRegressor(double, ridge=ridge).fit(X, y).ridge_
        assert found == pytest.approx(best_ridge(spectrum, ridge), rel=1e-4)

    @sweep(20, 60)
    def test_of_a_network_that_is_linear_is_full_conformal_ridge_and_covers(self, rng, repetitions):
        net = nn.Linear(3, 1)
        inside = 0
        for _ in range(repetitions):
            X = rng.normal(size=(60, 3))
            y = X.sum(axis=1) + rng.normal(size=60)
            # A prior on the bias as well would be no ridge regression with a free intercept.
            lower, upper = (
                LinearisedConformalRegressor(net, ridge=1.0).fit(X[:40], y[:40]).predict_interval(X[40:])[1].T
            )
            exact = FullConformalRegressor(Ridge(1.0)).fit(X[:40], y[:40]).predict_interval(X[40:])[1]
            np.testing.assert_allclose(np.stack([lower, upper], axis=1), exact, rtol=1e-6)
            inside += int(((lower <= y[40:]) & (y[40:] <= upper))[0])
        # One test row per set is exchangeable with its training rows: binomial, false alarm 1e-6.
        assert inside >= stats.binom(repetitions, 0.9).ppf(1e-6)

    @pytest.mark.parametrize("method", ["studentised", "absolute", "deleted"])
    def test_gives_levels_and_columns_as_asked(self, method, double):
        X, y = rows(60)
        model = LinearisedConformalRegressor(double, method=method).fit(X, y[:, None])
        prediction, interval = model.predict_interval(X[:5], [0.5, 0.9])
        assert prediction.shape == model.predict(X[:5]).shape == (5, 1)
        assert interval.shape == (5, 1, 2, 2)
        assert (interval[:, 0, 1] >= interval[:, 0, 0]).all()
        assert model.ridge_ > 0
        assert model.leverage(X[:5]).shape == (5,)

    def test_two_targets_are_refused(self):
        with pytest.raises(ValueError, match="takes one output"):
            LinearisedConformalRegressor(network()).fit(rows(9)[0], np.zeros((9, 2)))

    def test_prediction_needs_a_fit(self):
        with pytest.raises(ValueError, match="not fitted"):
            LinearisedConformalRegressor(network()).predict(rows(9)[0])
