"""Which rows a scale around a network learns from."""

import numpy as np
import pytest
import torch
from torch import nn

from hatband.checks import LeverageWarning
from hatband.nn import LastLayerConformalRegressor
from hatband.nn.measure import network_rows as blocks_module
from hatband.scales import StrengthScale
from nn.cases import WIDTH, network, phi, rows, solve_head


def test_a_scale_learns_from_validation_rows(net):
    X, y = rows(200)
    X_val, y_val = rows(300, 3)

    model = LastLayerConformalRegressor(net, random_state=0).fit_train(X, y, validation=(X_val, y_val))

    assert model.residuals_from_ == "validation rows"
    rows_seen = model.learned_from_.rows
    np.testing.assert_allclose(rows_seen.inputs, X_val.numpy(), rtol=1e-6)
    np.testing.assert_allclose(rows_seen.leverage, model.leverage(X_val), rtol=1e-12)
    np.testing.assert_allclose(model.learned_from_.residuals[:, 0], y_val.numpy() - model.predict(X_val), rtol=1e-5)
    assert len(model.scale_.report_) == 8
    assert model.calibrate(*rows(99, 1)).predict_interval(X)[1].shape == (200, 2)


def test_rows_said_to_be_unseen_are_taken_with_the_leverage_of_leaving_them_out(net):
    X, y = rows(200)

    model = LastLayerConformalRegressor(net, scale="strength", fit_train_rows="unseen", ridge=0.1).fit_train(X, y)

    h = model.leverage(X)
    assert model.residuals_from_ == "unseen rows"
    np.testing.assert_allclose(model.learned_from_.rows.leverage, h / (1 - h), rtol=1e-9)


@pytest.mark.parametrize("ridge", [0.5, "auto"])
def test_a_solved_head_gives_leave_one_out_residuals_of_the_last_layer(device, ridge):
    net = network(dtype=torch.float64).to(device)
    X, y = rows(60)
    X, y = X.double(), y.double()
    solve_head(net, X, y, 0.5)

    model = LastLayerConformalRegressor(net, scale="strength", ridge=ridge).fit_train(X, y)

    assert model.residuals_from_ == "leave-one-out of the last layer, features as trained"
    assert model.space_.ridge == pytest.approx(0.5, rel=1e-6)
    features, target = phi(net, X), y.numpy()
    for row in (0, 17, 59):
        others = np.arange(60) != row
        mean = features[others].mean(axis=0)
        centred = features[others] - mean
        slope = np.linalg.solve(centred.T @ centred + 0.5 * np.eye(WIDTH), centred.T @ target[others])
        refit = target[others].mean() + (features[row] - mean) @ slope
        assert model.learned_from_.residuals[row, 0] == pytest.approx(target[row] - refit, rel=1e-6)
        assert model.learned_from_.rows.prediction[row, 0] == pytest.approx(refit, rel=1e-6)


def test_a_solved_head_whose_bias_was_moved_is_not_taken_for_the_ridge_regression(device):
    net = network(dtype=torch.float64).to(device)
    X, y = (part.double() for part in rows(60))
    solve_head(net, X, y, 0.5)
    with torch.no_grad():
        net[-1].bias += 0.1

    assert LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y).space_.exactness == "none"


def test_a_row_that_alone_shows_a_feature_teaches_a_scale_nothing(device):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).double().to(device)
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4))
        net[0].bias.zero_()
    X, y = (part.double() for part in rows(60))
    X[:, 3] = -1.0
    X[7, 3] = 2.0
    solve_head(net, X, y, 0.0)

    learned = LastLayerConformalRegressor(net, scale="strength", ridge=0.0).fit_train(X, y).learned_from_

    # Without it the slope of that feature is not defined, and so neither is its residual.
    assert learned.residuals.shape == (59, 1)
    np.testing.assert_allclose(learned.rows.inputs, np.delete(X.numpy(), 7, axis=0))
    assert np.isfinite(learned.residuals).all()


def test_a_solved_head_in_float32_is_recognised_too(net):
    X, y = rows(300)
    solve_head(net, X, y, 2.0)

    model = LastLayerConformalRegressor(net, scale="strength").fit_train(X, y)

    assert model.space_.exactness == "given"
    assert model.space_.ridge == pytest.approx(2.0, rel=1e-2)


def test_without_held_out_residuals_auto_falls_back_with_a_warning_and_a_learned_scale_is_refused(net):
    X, y = rows(200)

    with pytest.warns(LeverageWarning, match="unseen"):
        model = LastLayerConformalRegressor(net).fit_train(X, y)
    assert model.scale_.report_[0]["reason"] == "no held-out residuals"
    with pytest.raises(ValueError, match="validation="):
        LastLayerConformalRegressor(net, scale=StrengthScale()).fit_train(X, y)


def test_inputs_that_are_not_a_table_are_seen_along_the_directions_of_the_features(device):
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Tanh())
            self.head = nn.Linear(40, 1)

        def forward(self, x):
            return self.head(self.body(x))

    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(300, 8, 8, generator=generator), torch.randn(300, generator=generator)

    net = Images().to(device)
    model = LastLayerConformalRegressor(net, scale="magnitude", fit_train_rows="unseen", random_state=0).fit_train(X, y)

    with torch.no_grad():
        features = net.body(X.to(device)).double().cpu().numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(features.T))
    seen = model.learned_from_.rows.inputs
    assert seen.shape == (300, 32)
    # Along the directions of the largest eigenvalues.
    np.testing.assert_allclose(np.cov(seen.T), np.diag(eigenvalues[-32:]), rtol=1e-4, atol=1e-5)


def test_more_rows_than_a_scale_needs_are_sampled(net, monkeypatch):
    monkeypatch.setattr(blocks_module, "LEARNING_ROWS", 500)
    X, y = rows(6_000)

    model = LastLayerConformalRegressor(net, scale="strength", fit_train_rows="unseen", random_state=0).fit_train(X, y)

    learned = model.learned_from_.rows.inputs
    places = {tuple(row): place for place, row in enumerate(X.double().numpy())}
    kept = np.array([places[tuple(row)] for row in learned])
    assert len(np.unique(kept)) == 500
    # Uniform: the mean place of 500 of 6,000 rows lies within 5 standard deviations of the middle.
    assert abs(kept.mean() - 3_000) < 5 * 6_000 / np.sqrt(12 * 500)
