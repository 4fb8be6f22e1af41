"""One vocabulary for `ridge=`: the same word is the same number for the same features, or is refused by one message."""

import inspect

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import Ridge
from torch import nn

import hatband
import hatband.nn
from hatband.geometry import FeatureGeometry, KernelGeometry, NystroemGeometry, PairwiseKernel
from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Dual, GramStatistics, Spectral, factor_kernel

torch.manual_seed(3)
N = 40
X = torch.randn(N, 3)
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
Y = NET(X).detach()[:, 0] * 3 + X[:, 0] ** 2 + torch.randn(N)
PHI, TARGET = NET[:2].double()(X.double()).detach().numpy(), Y.double().numpy()
NET.float()


def gradients():
    """Derivatives of the network in all its parameters, row by row (n, p), and what its expansion leaves of y (n,)."""
    rows, rest = [], []
    double = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    double.load_state_dict(NET.double().state_dict())
    NET.float()
    for x, y in zip(X.double(), TARGET, strict=True):
        value = double(x)[0]
        found = torch.autograd.grad(value, list(double.parameters()))
        rows.append(torch.cat([part.reshape(-1) for part in found]).numpy())
        linear = sum(float((part * w.detach()).sum()) for part, w in zip(found, double.parameters(), strict=True))
        rest.append(y - float(value.detach()) + linear)
    return np.array(rows), np.array(rest)


# ---------------------------------------------------------------- oracles: dense, one ridge at a time


def left_out(phi, y, ridge):
    """Sum of squared errors of n refits."""
    total = 0.0
    for i in range(len(y)):
        others, target = np.delete(phi, i, 0), np.delete(y, i)
        mean = others.mean(0)
        gram = (others - mean).T @ (others - mean) + ridge * np.eye(phi.shape[1])
        slopes = np.linalg.solve(gram, (others - mean).T @ (target - target.mean()))
        total += (y[i] - target.mean() - (phi[i] - mean) @ slopes) ** 2
    return total


def cross_validated(phi, y, ridge):
    """|e|^2 / tr(1 - H)^2, H with the mean."""
    centred = phi - phi.mean(0)
    hat = centred @ np.linalg.solve(centred.T @ centred + ridge * np.eye(phi.shape[1]), centred.T) + 1 / len(y)
    return np.square(y - hat @ y).sum() / (len(y) - np.trace(hat)) ** 2


def minus_log_density(phi, y, ridge):
    """-log N of what is orthogonal to the mean, noise at its best."""
    basis = np.linalg.svd(np.ones((1, len(y))))[2][1:]
    covariance = np.eye(len(y) - 1) + basis @ phi @ phi.T @ basis.T / ridge
    fit = (basis @ y) @ np.linalg.solve(covariance, basis @ y)
    return (len(y) - 1) * np.log(fit) / 2 + np.linalg.slogdet(covariance)[1] / 2


ORACLES = {"loo": left_out, "gcv": cross_validated, "evidence": minus_log_density}


def best(word, phi, y):
    """The ridge that minimises the oracle: a grid, then a search between the neighbours of its best point."""
    grid = np.log(np.square(phi - phi.mean(0)).sum() / phi.shape[1]) + np.linspace(-12, 8, 41)
    losses = [ORACLES[word](phi, y, np.exp(log)) for log in grid]
    i = int(np.argmin(losses))
    assert 0 < i < len(grid) - 1, "the rows of this test must ask for a ridge inside the grid"
    bounds = grid[[i - 1, i + 1]]
    return np.exp(minimize_scalar(lambda log: ORACLES[word](phi, y, np.exp(log)), bounds=bounds, method="bounded").x)


# ---------------------------------------------------------------- who takes a ridge


def refitted_ridge(ridge):
    """The ridge that the weights of a refitted head reveal: Phi'e = ridge w."""
    layer = hatband.nn.refit_head(NET.double(), X.double(), Y.double(), ridge=ridge)[2]
    NET.float()
    w = layer.weight.detach().numpy()[0]
    residual = TARGET - PHI @ w - layer.bias.detach().numpy()
    return float((PHI.T @ residual) @ w / (w @ w))


def trained_ridge(ridge):
    """A network of its own, and the features of its own last layer."""
    model = hatband.nn.NeuralConformalRegressor(ridge=ridge, epochs=1, widths=(4,), scale="leverage", random_state=0)
    return model.fit_train(X.numpy(), Y.numpy()).model_.space_.ridge


LAST_LAYER = {
    "LinearPosterior.of": lambda ridge: hatband.LinearPosterior.of(PHI, TARGET, ridge=ridge).ridge,
    "LastLayerLaplace": lambda ridge: hatband.nn.LastLayerLaplace(NET, ridge=ridge).fit(X, Y).ridge_[0],
    "refit_head": refitted_ridge,
    "LastLayerConformalRegressor": lambda ridge: (
        hatband.nn.LastLayerConformalRegressor(NET, ridge=ridge, scale="leverage").fit_train(X, Y).space_.ridge
    ),
    "EnsembleConformalRegressor": lambda ridge: (
        hatband.nn.EnsembleConformalRegressor([NET, NET], ridge=ridge, scale="leverage")
        .fit_train(X, Y)
        .members_[0]
        .space_.ridge
    ),
}
INPUTS = {
    "LeaveOneOutRidge": lambda ridge: hatband.LeaveOneOutRidge(ridge).fit(PHI, TARGET).ridge_,
    "LeaveOneOutKernelRidge": lambda ridge: (
        hatband.LeaveOneOutKernelRidge("linear", ridge=ridge).fit(PHI, TARGET).ridge_
    ),
}
WHOLE_NETWORK = {
    "LinearisedConformalRegressor": lambda ridge: (
        hatband.nn.LinearisedConformalRegressor(NET, ridge=ridge).fit(X, Y).ridge_
    ),
    "LastLayerConformalRegressor(layer='all')": lambda ridge: (
        hatband.nn.LastLayerConformalRegressor(NET, "all", ridge=ridge, scale="leverage").fit_train(X, Y).space_.ridge
    ),
    "TangentGeometry": lambda ridge: hatband.nn.TangentGeometry(NET, ridge=ridge).fit(X).ridge,
    "LowRankTangentGeometry": lambda ridge: hatband.nn.LowRankTangentGeometry(NET, ridge=ridge).fit(X).ridge,
}
OTHERS = {"NeuralConformalRegressor": trained_ridge}
KERNEL = PairwiseKernel("linear", {})
NUMBERS_ONLY = {
    "leverage": lambda ridge: hatband.leverage(PHI, ridge=ridge),
    "sampling_leverage": lambda ridge: hatband.sampling_leverage(PHI, ridge=ridge),
    "cross_leverage": lambda ridge: hatband.cross_leverage(PHI, PHI, ridge=ridge),
    "effective_dimension": lambda ridge: hatband.effective_dimension(PHI, ridge=ridge),
    "InputsGeometry": lambda ridge: hatband.InputsGeometry(ridge=ridge).fit(PHI),
    "OnlineConformalRegressor": lambda ridge: hatband.OnlineConformalRegressor(ridge=ridge).partial_fit(PHI, TARGET),
    "FeatureGeometry": lambda ridge: FeatureGeometry(ridge).fit(PHI),
    "KernelGeometry": lambda ridge: KernelGeometry(KERNEL, ridge).fit(PHI),
    "NystroemGeometry": lambda ridge: NystroemGeometry(KERNEL, ridge, landmarks=4).fit(PHI),
    "factor_kernel": lambda ridge: factor_kernel(PHI @ PHI.T, ridge),
    "GramStatistics": lambda ridge: GramStatistics.of(PHI).factor(ridge),
    **{
        type(solver).__name__: lambda ridge, solver=solver: solver.factor(PHI, ridge)
        for solver in (Auto(), Cholesky(), CholeskyQR2(), QR(), Spectral(), Dual())
    },
}
ROWLESS = {"refit_head", "LastLayerConformalRegressor", "EnsembleConformalRegressor", "NeuralConformalRegressor"}
REFUSED = {"TangentGeometry", "LowRankTangentGeometry"}


@pytest.mark.parametrize("word", ORACLES)
@pytest.mark.parametrize("name", [*LAST_LAYER, *INPUTS])
def test_a_word_is_the_same_number_for_the_same_features(name, word):
    found_by = (LAST_LAYER | INPUTS)[name]
    if word == "loo" and name in ROWLESS:
        with pytest.raises(ValueError, match=r"^ridge must be .* here, because .* keep none; got 'loo'\.$"):
            found_by(word)
    else:
        assert found_by(word) == pytest.approx(best(word, PHI, TARGET), rel=1e-3)


@pytest.mark.parametrize("word", ORACLES)
def test_so_it_is_for_the_gradients_of_a_whole_network(word):
    J, rest = gradients()
    assert WHOLE_NETWORK["LinearisedConformalRegressor"](word) == pytest.approx(best(word, J, rest), rel=1e-3)


@pytest.mark.parametrize("name", LAST_LAYER)
def test_auto_of_a_last_layer_is_a_ten_thousandth_of_the_mean_eigenvalue(name):
    expected = 1e-4 * np.square(PHI - PHI.mean(0)).sum() / 4
    assert LAST_LAYER[name]("auto") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", WHOLE_NETWORK)
def test_auto_of_a_whole_network_is_a_hundredth_of_the_mean_of_the_eigenvalues_that_can_differ_from_0(name):
    J, _ = gradients()
    expected = 1e-2 * np.square(J - J.mean(0)).sum() / min(J.shape)
    assert WHOLE_NETWORK[name]("auto") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", INPUTS)
def test_auto_of_inputs_is_leave_one_out(name):
    assert INPUTS[name]("auto") == INPUTS[name]("loo")


@pytest.mark.parametrize("name", [*LAST_LAYER, *INPUTS, *WHOLE_NETWORK, *OTHERS])
def test_a_number_is_itself_and_other_words_are_refused(name):
    found_by = (LAST_LAYER | INPUTS | WHOLE_NETWORK | OTHERS)[name]
    assert found_by(0.7) == pytest.approx(0.7, rel=1e-4)
    with pytest.raises(ValueError, match=r"^ridge must be .* 'auto', 'loo', 'gcv' or 'evidence'; got 'press'\.$"):
        found_by("press")


@pytest.mark.parametrize("name", sorted(set(LAST_LAYER | INPUTS) - ROWLESS))
def test_of_several_numbers_leave_one_out_chooses(name):
    ridges = [1e-3, 0.1, 1.0, 10.0, 1e3]
    expected = min(ridges, key=lambda ridge: left_out(PHI, TARGET, ridge))
    assert (LAST_LAYER | INPUTS)[name](ridges) == expected


@pytest.mark.parametrize("word", ORACLES)
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_geometry_sees_no_y_and_says_so(name, word):
    message = rf"^ridge must be a number >= 0 or 'auto' here, because there are no targets .*; got '{word}'\.$"
    with pytest.raises(ValueError, match=message):
        WHOLE_NETWORK[name](word)


def test_networks_measured_without_y_say_so():
    with pytest.raises(ValueError, match=r"here, because there are no targets .*; got 'evidence'\.$"):
        hatband.nn.LastLayerConformalRegressor(NET, ridge="evidence", scale="leverage").fit_train(X)


def test_a_few_directions_are_not_a_spectrum_to_choose_by():
    layer = hatband.nn.WholeNetwork(exact_up_to=0, rank=3)
    model = hatband.nn.LastLayerConformalRegressor(NET, layer, ridge="gcv", scale="leverage")
    with pytest.raises(ValueError, match=r"here, because low rank keeps only a few directions.*; got 'gcv'\.$"):
        model.fit_train(X, Y)


@pytest.mark.parametrize("name", NUMBERS_ONLY)
def test_where_nothing_chooses_words_are_refused_by_the_same_message(name):
    with pytest.raises(ValueError, match=r"^ridge must be a number >= 0 here, because .*; got 'loo'\.$"):
        NUMBERS_ONLY[name]("loo")


def takes_arguments(member):
    return callable(member) and not (isinstance(member, type) and issubclass(member, Exception))


def test_everything_public_with_a_ridge_is_in_these_tables():
    known = {name.split(".")[0] for name in LAST_LAYER | INPUTS | WHOLE_NETWORK | OTHERS | NUMBERS_ONLY}
    for package in (hatband, hatband.nn):
        for name in package.__all__:
            member = getattr(package, name)
            calls = [member, getattr(member, "of", None)]
            if any("ridge" in inspect.signature(call).parameters for call in calls if takes_arguments(call)):
                assert name in known | {"conjugate_gradient_leverage"}, f"{name} takes a ridge and is in no table"


def test_the_head_that_is_a_ridge_regression_keeps_its_own_ridge_under_auto():
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 1)).double()
    fitted = Ridge(2.5).fit(X.double().numpy(), TARGET)
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(fitted.coef_)[None])
        net[1].bias.fill_(float(fitted.intercept_))
    model = hatband.nn.LastLayerConformalRegressor(net, scale="leverage").fit_train(X.double(), Y.double())
    assert model.space_.ridge == pytest.approx(2.5, rel=1e-5)
    assert model.space_.exactness == "given"
