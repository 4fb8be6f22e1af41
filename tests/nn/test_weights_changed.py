"""A network that was trained on after it was measured is refused: thresholds and leverage belong to its old weights."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from hatband.nn import EnsembleConformalRegressor, LastLayerConformalRegressor, NoiseScale, WholeNetwork
from hatband.nn.measure import state as state_module
from hatband.nn.measure.state import StateFingerprint
from nn.cases import network, rows


@pytest.fixture(autouse=True, params=["read whole", "read as a large one"])
def reading(request, monkeypatch):
    if request.param == "read as a large one":
        monkeypatch.setattr(state_module, "_READ_ALWAYS", 0)
    return request.param


def last_layer(net, layer=None):
    return LastLayerConformalRegressor(net, layer, scale="leverage")


MODELS = {
    "last layer": last_layer,
    "all layers": lambda net: last_layer(net, "all"),
    "low rank": lambda net: last_layer(net, WholeNetwork(exact_up_to=0, rank=3)),
    "noise": lambda net: LastLayerConformalRegressor(net, scale=NoiseScale(lambda x: 0.1 + x[:, 0].abs())),
    "ensemble": lambda net: EnsembleConformalRegressor([network(), net], scale="leverage"),
}


@pytest.fixture(params=MODELS)
def model(request, net):
    X, y = rows(60)
    return MODELS[request.param](net).fit_train(X, y).calibrate(X, y)


def trained_on(net: nn.Module) -> None:
    """One step of training, a small one."""
    X, y = rows(20, seed=3)
    device = next(net.parameters()).device
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-6)
    (net(X.to(device)).reshape(-1) - y.to(device).reshape(-1)).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("verb", ["calibrate", "predict_interval", "leverage"])
def test_one_small_step_of_training_is_noticed(model, net, verb):
    trained_on(net)

    X, y = rows(40, seed=2)
    with pytest.raises(ValueError, match=r"state has changed since.*fit_train and calibrate again"):
        getattr(model, verb)(*((X, y) if verb == "calibrate" else (X,)))


def test_the_parameter_that_changed_is_named_and_taken_back_it_is_as_before(model, net):
    X = rows(40, seed=2)[0]
    before = model.predict_interval(X)[1]
    old = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        list(net.parameters())[-1].add_(0.1)

    name = list(dict(net.named_parameters()))[-1]
    with pytest.raises(ValueError, match=f"state has changed since, the first difference is in '{name}'"):
        model.predict_interval(X)
    net.load_state_dict(old)
    np.testing.assert_array_equal(model.predict_interval(X)[1], before)


def test_measured_again_it_is_taken(model, net):
    trained_on(net)
    X, y = rows(60)

    again = model.fit_train(X, y).calibrate(X, y)

    assert np.isfinite(again.predict_interval(X)[1]).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.train(),
        lambda net: net.requires_grad_(False),
        lambda net: net.double(),
        lambda net: net.load_state_dict(copy.deepcopy(net.state_dict())),
    ],
    ids=["train", "frozen", "double", "loaded"],
)
def test_what_leaves_the_weights_alone_is_not_a_change(model, net, change):
    change(net)

    assert np.isfinite(model.predict_interval(rows(40, seed=2)[0])[1]).all()


def test_copies_and_pickles_have_networks_of_their_own(net):
    X, y = rows(60)
    model = last_layer(net.cpu()).fit_train(X, y).calibrate(X, y)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    expected = model.predict_interval(X)[1]

    trained_on(net)

    for each in copies:
        np.testing.assert_array_equal(each.predict_interval(X)[1], expected)


def test_a_layer_that_was_exchanged_or_put_in_is_noticed():
    X, y = rows(60)
    for place, part in ((0, nn.Linear(4, 12)), (1, nn.PReLU())):
        net = network()
        model = last_layer(net).fit_train(X, y).calibrate(X, y)
        net[place] = part
        with pytest.raises(ValueError, match="has changed since"):
            model.predict_interval(X)


def test_weights_that_are_saved_are_those_that_were_measured(tmp_path):
    X, y = rows(60)
    net = network()
    model = last_layer(net).fit_train(X, y).calibrate(X, y)
    model.save(tmp_path / "model")
    trained_on(net)

    with pytest.raises(ValueError, match="has changed since"):
        model.save(tmp_path / "other")
    loaded = LastLayerConformalRegressor.load(tmp_path / "model", network())
    assert np.isfinite(loaded.predict_interval(X)[1]).all()


def test_a_pass_in_training_mode_that_moves_running_means_is_noticed():
    X, y = rows(60)
    net = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Linear(12, 1)).eval()
    model = last_layer(net).fit_train(X, y).calibrate(X, y)
    model.predict_interval(X)

    net.train()(X)

    with pytest.raises(ValueError, match=r"the first difference is in '1\.num_batches_tracked'"):
        model.predict_interval(X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.cfloat])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (8,)])
def test_every_entry_of_any_type_counts_wherever_it_lies_in_memory(dtype, shape):
    class Holder(nn.Module):
        def __init__(self, values):
            super().__init__()
            self.register_buffer("values", values)

    apart = torch.ones(2 * max(1, int(np.prod(shape))) + 1, dtype=dtype)[1:]
    values = apart[: int(np.prod(shape))].reshape(shape)
    known = StateFingerprint.of(Holder(values))
    known.check(Holder(values.clone()))
    for place in range(values.numel()):
        other = values.clone()
        other.reshape(-1)[place] = 0
        with pytest.raises(ValueError, match="'values'"):
            known.check(Holder(other))


def test_complex_weights_are_known_again():
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn, self.head = nn.Parameter(torch.ones(4, dtype=torch.cfloat)), nn.Linear(4, 1)

        def forward(self, x):
            return self.head((x * self.turn).real)

    X, y = rows(60)
    net = Rotated()
    model = last_layer(net).fit_train(X, y).calibrate(X, y)
    assert np.isfinite(model.predict_interval(X)[1]).all()
    with torch.no_grad():
        net.turn[0] += 1e-3j
    with pytest.raises(ValueError, match="the first difference is in 'turn'"):
        model.predict_interval(X)


def known_twice(net) -> StateFingerprint:
    """A fingerprint after its first check, when a large state has been read whole once."""
    known = StateFingerprint.of(net)
    known.check(net)
    return known


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_that_changed_places_are_noticed(dtype):
    net = nn.Linear(64, 8).to(dtype)
    known = known_twice(net)
    # Eight bytes for eight bytes: the sum of all words stays what it was.
    size = 8 // dtype.itemsize
    flat = net.weight.detach().reshape(-1)
    flat[: 2 * size] = flat[: 2 * size].reshape(2, size).flip(0).reshape(-1).clone()

    with pytest.raises(ValueError, match="the first difference is in 'weight'"):
        known.check(net)


@pytest.mark.parametrize("other", [-1.0, 2.0, 1.0 + 2.0**-52, 0.0])
def test_one_value_that_differs_is_noticed_wherever_it_goes(other):
    def at(place):
        net = nn.Linear(33, 5, bias=False).double()
        with torch.no_grad():
            net.weight.fill_(1.0).reshape(-1)[place] = other
        return net

    seen = {str(StateFingerprint.of(at(place)).sums) for place in range(165)}
    assert len(seen) == 165


def test_another_shape_of_the_same_bytes_is_noticed():
    net = nn.Linear(4, 3, bias=False)
    known = known_twice(net)
    net.weight = nn.Parameter(net.weight.detach().reshape(4, 3))

    with pytest.raises(ValueError, match="has changed since"):
        known.check(net)


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=1e-6),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-6, fused=True),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-6, foreach=True),
    ],
    ids=["plain", "fused", "foreach"],
)
def test_a_step_of_any_optimiser_is_noticed_in_a_network_of_a_million_weights(optimiser):
    net = nn.Sequential(nn.Linear(1_000, 1_000), nn.Linear(1_000, 1))
    known = known_twice(net)
    net(torch.ones(2, 1_000)).square().sum().backward()
    optimiser(net.parameters()).step()

    with pytest.raises(ValueError, match="has changed since"):
        known.check(net)


@pytest.mark.parametrize(
    "write",
    [
        lambda net: net.weight.data.add_(1e-3),
        lambda net: net.weight.detach().numpy().__setitem__(0, 0.0),
        lambda net: setattr(net.weight, "data", net.weight.data + 1e-3),
        lambda net: setattr(net, "weight", nn.Parameter(net.weight.detach() + 1e-3)),
        lambda net: net.bfloat16().float(),
    ],
    ids=["data", "NumPy", "data exchanged", "parameter exchanged", "rounded"],
)
def test_what_is_written_past_the_count_of_writes_is_noticed(write):
    net = nn.Linear(40, 3, bias=False)
    known = known_twice(net)
    write(net)

    with pytest.raises(ValueError, match="the first difference is in 'weight'"):
        known.check(net)


def test_a_large_network_that_nobody_wrote_to_is_not_read_whole_again(monkeypatch):
    net = nn.Linear(1_100, 1_100).eval()
    known = known_twice(net)
    read = []
    sum_of_words = state_module._sum_of_words
    monkeypatch.setattr(
        state_module, "_sum_of_words", lambda content: read.append(len(content)) or sum_of_words(content)
    )

    known.check(net)
    assert sum(read) < 4_000
    old = net.weight[5, 7].item()
    with torch.no_grad():
        net.weight[5, 7] += 1e-3
    with pytest.raises(ValueError, match="has changed since"):
        known.check(net)
    with torch.no_grad():
        net.weight[5, 7] = old
    copy.deepcopy(known).check(copy.deepcopy(net.double()))
    assert sum(read) > 2 * 4 * 1_100**2


def test_weights_made_in_inference_mode_are_read_at_every_check():
    with torch.inference_mode():
        net = nn.Linear(4, 3)
    known = known_twice(net)
    with torch.inference_mode():
        net.weight[0, 0] += 1e-3

    with pytest.raises(ValueError, match="the first difference is in 'weight'"):
        known.check(net)
