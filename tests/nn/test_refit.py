"""A head solved for: by the ridge of scikit-learn, on features that a Gram matrix confuses, without side effects."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hatband.formulas.ridge_choice import best_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.nn import refit_head
from nn.cases import loader, network, phi, rows


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_head_is_the_ridge_regression_on_the_features(n_outputs, bias, device):
    net = network(n_outputs, bias=bias, dtype=torch.float64).to(device)
    X, y = rows(90, n_outputs=n_outputs)
    refitted = refit_head(net, loader(X, y), ridge=0.3)
    oracle = Ridge(0.3, fit_intercept=bias, solver="svd").fit(phi(net, X), y.double().numpy())
    np.testing.assert_allclose(refitted[-1].weight.detach().cpu(), np.atleast_2d(oracle.coef_), rtol=1e-9)
    if bias:
        np.testing.assert_allclose(refitted[-1].bias.detach().cpu(), np.atleast_1d(oracle.intercept_), rtol=1e-9)


def test_the_module_given_is_not_touched(net):
    before, names = copy.deepcopy(net.state_dict()), list(dict(net.named_modules()))
    net.train()
    refitted = refit_head(net, *rows(60))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert refitted.training
    assert not any(part._forward_pre_hooks for part in net.modules())
    assert list(dict(refitted.named_modules())) == names
    assert torch.equal(refitted[0].weight, net[0].weight)
    assert not torch.equal(refitted[-1].weight, net[-1].weight)


@pytest.mark.parametrize("ridge", ["auto", "evidence", "gcv", 0.0])
def test_the_training_error_falls(ridge, net, device):
    X, y = (part.to(device) for part in rows(90))
    refitted = refit_head(net, X, y, ridge=ridge)
    with torch.no_grad():
        assert (refitted(X)[:, 0] - y).square().mean() < (net(X)[:, 0] - y).square().mean()


@pytest.mark.parametrize("ridge", ["auto", "evidence", "gcv"])
def test_a_ridge_is_chosen_from_the_training_rows(ridge):
    net, (X, y) = network(dtype=torch.float64), rows(90)
    features = phi(net, X)
    spectrum = RidgeSpectrum.of(features, y.double().numpy())
    squares = np.square(features - features.mean(axis=0)).sum()
    chosen = 1e-4 * squares / features.shape[1] if ridge == "auto" else best_ridge(spectrum, ridge)
    found, expected = refit_head(net, X, y, ridge=ridge), refit_head(net, X, y, ridge=chosen)
    torch.testing.assert_close(found[-1].weight, expected[-1].weight, rtol=1e-5, atol=1e-8)
    if ridge == "auto":
        torch.testing.assert_close(found[-1].weight, refit_head(net, X, y)[-1].weight, rtol=0, atol=0)
        assert not torch.allclose(found[-1].weight, refit_head(net, X, y, ridge=2 * chosen)[-1].weight, rtol=1e-5)


def test_nearly_dependent_features_cost_no_more_digits_than_they_must():
    class Powers(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 1)

        def forward(self, x):
            return self.head(torch.cat([x**k for k in range(1, 13)], dim=1))

    # Condition about 1e8: normal equations would have no digit left.
    x = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None]
    y = sum(x**k for k in range(1, 13))
    refitted = refit_head(Powers().double(), x, y, ridge=0.0)
    with torch.no_grad():
        assert float((refitted(x) - y).abs().max()) < 1e-11
    features = np.vander(x[:, 0].numpy(), 13, increasing=True)
    normal = np.linalg.lstsq(features.T @ features, features.T @ y.numpy(), rcond=None)[0]
    assert np.abs(normal - 1).max() > 10 * float((refitted.head.weight.detach() - 1).abs().max())


def test_a_network_in_single_precision_gets_weights_in_single_precision(net):
    assert refit_head(net, *rows(60))[-1].weight.dtype == torch.float32


def test_an_activation_after_the_head_is_refused():
    net = nn.Sequential(network(), nn.Softplus())
    with pytest.raises(ValueError, match="the module changes it"):
        refit_head(net, *rows(60))


def test_a_parametrised_head_is_refused():
    net = network()
    weight_norm(net[-1])
    with pytest.raises(ValueError, match="plain parameters"):
        refit_head(net, *rows(60))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (rows(60)[0], None, "targets are needed"),
        (rows(60)[0], rows(60, n_outputs=2)[1], "one column per output"),
        (rows(60)[0] * float("nan"), rows(60)[1], "features of the module must be finite"),
    ],
)
def test_rows_that_cannot_be_solved_for_are_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        refit_head(network(), X, y)
