"""What measuring a whole network leaves alone, how much memory it takes, and what it says when it cannot."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from hatband.arrays import backend as backends
from hatband.checks import LeverageWarning
from hatband.nn import (
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    LowRankTangentGeometry,
    TangentFeatures,
    WholeNetwork,
)
from nn.cases import gradients, loader, network, rows
from pretend_device import DEVICE, PRETENDED, without_float64

FEW = WholeNetwork(exact_up_to=0, rank=8)
LAYERS = pytest.mark.parametrize("layer", ["all", FEW], ids=["exact", "low rank"])


def regressor(net, layer="all", **parameters) -> LastLayerConformalRegressor:
    return LastLayerConformalRegressor(net, layer, scale="leverage", **parameters)


# ---------------------------------------------------------------- what it leaves alone


@LAYERS
def test_the_module_is_left_as_it_was_found(device, layer):
    net = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 1)).to(device).train()
    net[1].eval()
    net(rows(10)[0].to(device)).sum().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    parameters, grads = list(net.parameters()), [value.grad for value in net.parameters()]

    regressor(net, layer).fit_train(*rows(50)).calibrate(*rows(30, 1)).predict_interval(rows(5)[0])

    assert [part.training for part in net.modules()] == [True, True, False, True, True]
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a.grad is b for a, b in zip(net.parameters(), grads, strict=True))
    assert torch.is_grad_enabled()


def test_batch_norm_and_dropout_are_those_of_evaluation(device):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 1))
    net = net.double().to(device)
    net(rows(100)[0].to(net[0].weight))
    X, new = rows(60)[0], rows(9, 1)[0]

    seen = regressor(net, ridge=0.3).fit_train(X).leverage(new)

    J, K = (gradients(net.eval(), part) for part in (X, new))
    mean = J.mean(axis=0)
    inverse = np.linalg.inv((J - mean).T @ (J - mean) + 0.3 * np.eye(J.shape[1]))
    np.testing.assert_allclose(seen, 1 / 60 + np.einsum("ij,jk,ik->i", K - mean, inverse, K - mean), rtol=1e-8)


@LAYERS
def test_it_survives_pickle_and_copy_and_clones(net, layer):
    X, y = rows(60)
    model = regressor(net, layer, ridge=2.0).fit_train(X, y).calibrate(X, y)

    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(again.predict_interval(X)[1], model.predict_interval(X)[1])
        assert again.space_.module is not net
    assert clone(model).layer == layer
    assert "ridge=2.0" in repr(clone(model))


def test_threads_share_a_network(net):
    parts = [rows(100, seed)[0] for seed in range(4)]
    model = regressor(net.eval()).fit_train(parts[0])
    expected = [model.leverage(part) for part in parts]

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(model.leverage, parts * 5))

    for found, answer in zip(seen, expected * 5, strict=True):
        np.testing.assert_allclose(found, answer, rtol=1e-12)


@LAYERS
def test_a_device_gets_a_copy(net, device, layer):
    model = regressor(net, layer, device=device).fit_train(rows(50)[0])
    assert model.space_.module is not net
    assert next(model.space_.module.parameters()).device.type == device.type


@PRETENDED
@LAYERS
def test_a_device_without_float64_is_left_for_the_cpu_with_a_warning(monkeypatch, layer):
    net, (X, y) = network(), rows(50)
    expected = regressor(net, layer).fit_train(X, y).leverage(X)
    monkeypatch.setattr(backends, "has_float64", lambda device: device != DEVICE)

    with without_float64(), pytest.warns(LeverageWarning, match="float64"):
        seen = regressor(net.to(DEVICE), layer).fit_train(X, y).leverage(X)
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


# ---------------------------------------------------------------- memory


class Weighed(nn.Module):
    """A network that notes, at the last batch of each pass, how many bytes of tensors and arrays are alive."""

    def __init__(self, batches):
        super().__init__()
        self.inner, self.batches, self.calls, self.seen = network(), batches, 0, []

    def forward(self, x):
        # Gradients are taken of a copy, in float64.
        if x.dtype == torch.float32:
            self.calls += 1
            if self.calls % self.batches == 0:
                found = [each for each in gc.get_objects() if type(each) in {torch.Tensor, np.ndarray}]
                self.seen.append(sum(each.nbytes for each in found))
        return self.inner(x)


@LAYERS
def test_memory_does_not_grow_with_the_number_of_rows(layer):
    X, y = rows(500)

    def peak(repeats: int) -> int:
        net = Weighed(repeats)
        regressor(net, layer).fit_train([(X, y)] * repeats)
        return max(net.seen)

    # Gradients of 20,000 rows are 11 MB more than those of 2,000; a tenth of that is allowed.
    assert peak(40) - peak(4) < 0.1 * 8 * 73 * 18_000


@LAYERS
def test_a_large_batch_is_taken_in_pieces(net, layer, monkeypatch):
    X, new = rows(90)[0], rows(40, 1)[0]
    expected = regressor(net, layer).fit_train(X).leverage(new)
    monkeypatch.setattr("hatband.nn.measure.tangent.BLOCK_NUMBERS", 73 * 7)

    np.testing.assert_allclose(regressor(net, layer).fit_train(X).leverage(new), expected, rtol=1e-6)
    blocked = LowRankTangentGeometry(net, rank=8).fit(X)
    assert blocked.leverage(blocked.features(new)).shape == (40,)


@LAYERS
def test_pieces_of_a_batch_keep_their_targets(net, layer, monkeypatch):
    X, (X_cal, y_cal) = rows(90)[0], rows(40, 1)
    expected = regressor(net, layer).fit_train(X).calibrate(X_cal, y_cal).scores_
    monkeypatch.setattr("hatband.nn.measure.tangent.BLOCK_NUMBERS", 73 * 7)

    found = regressor(net, layer).fit_train(X).calibrate(X_cal, y_cal).scores_

    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_a_table_are_seen_along_the_leading_of_few_directions():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(300, 4, 4, generator=generator).double(), torch.randn(300, generator=generator)
    layer = WholeNetwork(exact_up_to=0, rank=40, iterations=6)

    model = LastLayerConformalRegressor(net, layer, scale="magnitude", fit_train_rows="unseen", random_state=0)
    seen = model.fit_train(X, y).learned_from_.rows.inputs

    eigenvalues = np.linalg.eigvalsh(np.cov(gradients(net, X).T))
    assert seen.shape == (300, 32)
    np.testing.assert_allclose(np.cov(seen.T).diagonal(), eigenvalues[:-33:-1], rtol=0.02)


@LAYERS
def test_an_ensemble_takes_it_too(layer, monkeypatch):
    monkeypatch.setattr("hatband.nn.measure.tangent.BLOCK_NUMBERS", 73 * 7)
    monkeypatch.setattr("hatband.nn.measure.network_rows.rows_per_block", lambda backend, n_columns: 10)
    nets, (X, y), new = (
        [network(), nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))],
        rows(60),
        rows(40, 2)[0],
    )

    model = EnsembleConformalRegressor(nets, layer=layer, scale="leverage").fit_train(X, y).calibrate(*rows(59, 1))

    members = [regressor(net, layer).fit_train(X, y) for net in nets]
    np.testing.assert_allclose(
        model.leverage(new), np.mean([each.leverage(new) for each in members], axis=0), rtol=1e-6
    )
    assert model.predict_interval(new)[1].shape == (40, 2)


def test_a_network_with_too_many_parameters_for_a_gram_matrix_is_measured_in_few_directions(device):
    net = nn.Sequential(nn.Linear(4, 1_000), nn.Tanh(), nn.Linear(1_000, 1)).to(device)
    X = rows(60)[0]

    model = regressor(net, WholeNetwork(rank=59)).fit_train(X)

    # 60 centred rows have 59 directions: none is missed, and the (6001, 6001) matrix was never there.
    assert model.space_.sketch.vectors.shape == (6_001, 59)
    assert model.space_.sketch.captured == pytest.approx(1)
    assert model.leverage(X).max() < 1


# ---------------------------------------------------------------- what it says


@LAYERS
@pytest.mark.parametrize("verb", ["fit_train", "calibrate"])
def test_values_that_are_not_finite_are_refused_with_their_row(net, layer, verb):
    X, y = rows(100)
    model = regressor(net, layer).fit_train(*rows(30))
    bad = X.clone()
    bad[61, 2] = float("nan")
    with pytest.raises(ValueError, match="features of the module must be finite; row 61"):
        getattr(model, verb)(loader(bad, y))
    y[61] = float("inf")
    with pytest.raises(ValueError, match="y must be finite; row 61"):
        getattr(model, verb)(X, y)


@LAYERS
def test_several_outputs_are_refused_and_what_to_do_is_said(layer):
    with pytest.raises(ValueError, match=r"one output per row; got shape \(20, 3\).*Wrap it.*layer=None"):
        regressor(network(3), layer).fit_train(rows(20)[0])


class Odd(nn.Module):
    """A network whose forward pass does something to what its last layer gives."""

    def __init__(self, verb):
        super().__init__()
        self.layer, self.verb = nn.Linear(4, 1), verb

    def forward(self, x):
        return self.verb(self.layer(x))


ODD = {
    "a tuple": (lambda found: (found, found), "one output per row; got tuple"),
    "a branch on a value": (lambda found: found if found.sum() > 0 else 2 * found, r"vmap\(grad"),
    "a number read out": (lambda found: found * float(found.detach().sum()), r"vmap\(grad"),
    "its own error": (lambda found: found.reshape(7, 7), r"shape '\[7, 7\]' is invalid"),
}


@LAYERS
@pytest.mark.parametrize("case", list(ODD))
def test_networks_that_cannot_be_differentiated_row_by_row_are_refused(layer, case):
    verb, message = ODD[case]
    with pytest.raises((ValueError, RuntimeError), match=message):
        regressor(Odd(verb), layer).fit_train(rows(20)[0])


def test_tangent_features_say_the_same():
    with pytest.raises(ValueError, match="branches on values"):
        TangentFeatures(Odd(ODD["a branch on a value"][0])).transform(rows(3)[0])


@LAYERS
def test_a_network_without_parameters_is_refused(layer):
    with pytest.raises(ValueError, match="Flatten has none"):
        regressor(nn.Flatten(), layer).fit_train(rows(20)[0][:, :1])


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (WholeNetwork(rank=0), "rank"),
        (WholeNetwork(exact_up_to=-1), "exact_up_to"),
        (WholeNetwork(iterations=1.5), "iterations"),
        (WholeNetwork(random_state=None), "random_state"),
    ],
)
def test_invalid_numbers_are_refused(recipe, name):
    with pytest.raises(ValueError, match=f"{name} must be an integer"):
        regressor(network(), recipe).fit_train(rows(20)[0])


@LAYERS
@pytest.mark.parametrize("ridge", [-1.0, float("nan"), np.ones(3), "much"])
def test_an_invalid_ridge_is_refused(net, layer, ridge):
    with pytest.raises(ValueError, match="ridge"):
        regressor(net, layer, ridge=ridge).fit_train(*rows(40))


@LAYERS
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (([],), "at least one row"),
        (([(torch.zeros(0, 4), torch.zeros(0))],), "at least one row"),
        ((rows(9)[0], rows(9, n_outputs=2)[1]), "one column per output"),
        (([(rows(9)[0], rows(8)[1])],), "one entry per row"),
    ],
    ids=["no batch", "an empty batch", "two columns", "fewer targets"],
)
def test_data_that_cannot_be_read_are_refused(net, layer, data, message):
    with pytest.raises(ValueError, match=message):
        regressor(net, layer).fit_train(*data)


@LAYERS
def test_rows_have_to_be_passed_for_cross_leverage(net, layer):
    space = regressor(net, layer).fit_train(rows(30)[0]).space_
    features = space.features(rows(5)[0])
    assert space.cross_leverage(features, features).shape == (5, 5)
    np.testing.assert_allclose(np.diag(space.cross_leverage(features, features)), space.leverage(features), rtol=1e-6)
    with pytest.raises(ValueError, match="others=space"):
        space.cross_leverage(features)
