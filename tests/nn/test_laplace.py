"""Laplace posterior of a last layer: the dense posterior, where noise comes from, and networks left as they were."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from hatband import leverage
from hatband.formulas.posterior import LinearPosterior
from hatband.nn import LastLayerLaplace
from nn.cases import loader, network, phi, rows
from pretend_device import DEVICE

RIDGE = 0.7


def spread(inputs):
    """A noise head: deviation as a function of the inputs."""
    return 0.5 + inputs[:, 0].abs()


@pytest.fixture
def made(device):
    net = network().to(device)
    X, y = rows(80)
    return net, X.to(device), y.to(device)


class TestTheLaw:
    def test_is_the_dense_posterior_under_the_noise_given(self, made):
        net, X, y = made
        law = LastLayerLaplace(net, noise_std=spread, ridge=RIDGE, mean="posterior").fit(X, y).predict(X[:7])
        noise = spread(X).double().cpu().numpy() ** 2
        # A bias under a prior so wide that it is flat.
        features = np.column_stack([phi(net, X), 1e4 * np.ones(len(X))])
        covariance = np.linalg.inv((features.T / noise) @ features + RIDGE * np.eye(features.shape[1]))
        weights = covariance @ features.T @ (y.double().cpu().numpy() / noise)
        np.testing.assert_allclose(law.mean, features[:7] @ weights, rtol=1e-5)
        np.testing.assert_allclose(
            law.epistemic, np.einsum("ij,jk,ik->i", features[:7], covariance, features[:7]), rtol=1e-5
        )
        np.testing.assert_allclose(law.aleatoric, noise[:7], rtol=1e-6)

    def test_is_noise_times_one_plus_leverage_where_noise_is_constant(self, made):
        net, X, y = made
        model = LastLayerLaplace(net, ridge=RIDGE).fit(X, y)
        law = model.predict(X[:7])
        h = leverage(phi(net, X), phi(net, X[:7]), ridge=RIDGE)
        np.testing.assert_allclose(law.variance, model.scale_[0] * (1 + h), rtol=1e-10)
        np.testing.assert_allclose(model.leverage(X[:7]), h, rtol=1e-10)

    def test_predicts_what_the_network_does_unless_told_otherwise(self, made):
        net, X, y = made
        with torch.no_grad():
            expected = net(X)[:, 0].double().cpu().numpy()
        np.testing.assert_array_equal(LastLayerLaplace(net).fit(X, y).predict(X).mean, expected)

    def test_is_the_same_from_a_loader_and_from_arrays(self, made):
        net, X, y = made
        one = LastLayerLaplace(net, noise_std=spread).fit(X, y)
        other = LastLayerLaplace(net, noise_std=spread).fit(loader(X.cpu(), y.cpu()))
        for left, right in zip(one.predict(X), other.predict(loader(X.cpu())), strict=True):
            # Features of a float32 network depend on the size of the batch; a mean may be close to 0.
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
        assert one.log_evidence_ == pytest.approx(other.log_evidence_, rel=1e-5)

    def test_grows_far_from_the_data_where_features_do(self, device):
        net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1)).to(device)
        X, y = rows(100)
        model = LastLayerLaplace(net).fit(X.to(device), y.to(device))
        near, far = (model.predict(factor * X.to(device)).epistemic.mean() for factor in (1, 100))
        assert far > 100 * near

    def test_of_several_outputs_keeps_a_noise_for_each(self, device):
        net = network(2).to(device)
        X, y = (part.to(device) for part in rows(80, n_outputs=2))
        shared = LastLayerLaplace(net, ridge=RIDGE).fit(X, y).predict(X)
        assert shared.mean.shape == shared.epistemic.shape == (80, 2)
        apart = LastLayerLaplace(net, noise_std=lambda x: torch.stack([spread(x), 2 * spread(x)], 1), ridge=RIDGE)
        law = apart.fit(X, y).predict(X)
        np.testing.assert_allclose(law.aleatoric[:, 1], 4 * law.aleatoric[:, 0], rtol=1e-6)
        assert apart.leverage(X).shape == (80, 2)

    def test_of_several_outputs_has_a_ridge_and_a_scale_for_each_and_their_evidence_together(self, device):
        net = network(2, dtype=torch.float64).to(device)
        X, y = (part.to(device) for part in rows(80, n_outputs=2))
        features, target = phi(net, X), y.double().cpu().numpy()
        shared = LastLayerLaplace(net, ridge=RIDGE).fit(X, y)
        apart = LastLayerLaplace(net, noise_std=lambda x: torch.stack([spread(x), 2 * spread(x)], 1), ridge=RIDGE).fit(
            X, y
        )
        noise = spread(X.double()).cpu().numpy()
        for model, variances in ((shared, None), (apart, (noise**2, 4 * noise**2))):
            one = [
                LinearPosterior.of(features, target[:, j], variances and variances[j], ridge=RIDGE, scale=s)
                for j, s in enumerate((None, None) if variances is None else (1.0, 1.0))
            ]
            np.testing.assert_allclose(model.ridge_, [RIDGE, RIDGE])
            np.testing.assert_allclose(model.scale_, [float(each.scale[0]) for each in one], rtol=1e-9)
            assert model.log_evidence_ == pytest.approx(sum(each.log_evidence for each in one), rel=1e-9)


@pytest.mark.parametrize("ridge", ["evidence", "loo", "gcv", "auto"])
def test_every_way_to_choose_the_ridge_gives_a_positive_one(ridge, made):
    model = LastLayerLaplace(made[0], ridge=ridge).fit(*made[1:])
    assert 0 < model.ridge_[0] < np.inf
    assert np.isfinite(model.log_evidence_)


def test_evidence_is_largest_at_the_ridge_chosen_by_it(made):
    best = LastLayerLaplace(made[0]).fit(*made[1:])
    for factor in (0.5, 2.0):
        other = LastLayerLaplace(made[0], ridge=factor * float(best.ridge_[0])).fit(*made[1:])
        assert other.log_evidence_ < best.log_evidence_


def test_the_network_is_left_as_it_was_found(made):
    net, X, y = made
    net.train()
    before = [value.clone() for value in net.state_dict().values()]
    LastLayerLaplace(net, noise_std=spread).fit(X, y).predict(X)
    assert net.training
    assert all(torch.equal(*pair) for pair in zip(before, net.state_dict().values(), strict=True))
    assert not net[-1]._forward_pre_hooks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_std": lambda x: 0 * x[:, 0]}, "finite and > 0; row 0"),
        ({"noise_std": lambda x: x[:, :3].abs() + 1}, "noise_std must have 1 column or one per output, 1; got 3"),
        ({"ridge": "aic"}, "got 'aic'"),
        ({"mean": "median"}, "mean must be one of"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message, made):
    net, X, y = made
    with pytest.raises(ValueError, match=message):
        LastLayerLaplace(net, **change).fit(X, y)


def test_rows_without_targets_are_refused(made):
    with pytest.raises(ValueError, match="targets are needed"):
        LastLayerLaplace(made[0]).fit(made[1])


@pytest.mark.filterwarnings("ignore")  # of what that package imports
@pytest.mark.skipif(importlib.util.find_spec("laplace") is None, reason="laplace-torch is not installed")
def test_epistemic_variance_is_that_of_laplace_torch(made):
    from laplace import Laplace

    _, X, y = made
    # It has a prior on the bias too; without a bias both are the same. It knows nothing of the pretended device.
    there = torch.device("cpu") if X.device == DEVICE else X.device
    theirs = Laplace(
        network(bias=False).to(there), "regression", subset_of_weights="last_layer", hessian_structure="full"
    )
    theirs.fit(loader(X.to(there), y[:, None].to(there)))
    _, variance = theirs(X[:9].to(there))
    bare = network(bias=False).to(X.device)
    ours = LastLayerLaplace(bare, ridge=1.0, noise_std=lambda x: torch.ones(len(x))).fit(X, y).predict(X[:9])
    np.testing.assert_allclose(ours.epistemic, variance.reshape(-1).detach().cpu(), rtol=1e-5)
