"""Ensembles: one band from networks that were trained apart."""

from itertools import cycle

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch.utils.data import DataLoader, TensorDataset

from hatband.nn import MLP, EnsembleConformalRegressor, LastLayerConformalRegressor, fit_ensemble
from nn.cases import loader, network, rows


@pytest.fixture(scope="module")
def modules():
    X, y = rows(120)
    return fit_ensemble(lambda: MLP(4, widths=(6,)), X, y, n_networks=3, epochs=10, random_state=0)


@pytest.fixture
def model(modules):
    return EnsembleConformalRegressor(modules, scale="leverage").fit_train(*rows(120)).calibrate(*rows(59, 1))


def members(modules, **settings):
    return [LastLayerConformalRegressor(m, scale="leverage", **settings).fit_train(*rows(120)) for m in modules]


def test_networks_differ_and_the_same_seed_gives_the_same(modules):
    X, y = rows(120)
    state = torch.get_rng_state()
    again = fit_ensemble(lambda: MLP(4, widths=(6,)), X, y, n_networks=3, epochs=10, random_state=0)

    for one, other in zip(modules, again, strict=True):
        assert torch.equal(one(X), other(X))
    assert not torch.equal(modules[0](X), modules[1](X))
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_have_first_weights_of_their_own():
    weights = []

    def build():
        net = MLP(4, widths=(6,))
        weights.append(net.hidden[0].weight.detach().clone())
        return net

    fit_ensemble(build, *rows(60), n_networks=3, epochs=1, random_state=0)

    assert all(not torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("settings", [{"validation_size": 0}, {"validation_size": 20, "batch_size": 40}])
def test_networks_have_batches_and_rows_held_out_of_their_own(settings):
    def build():
        torch.manual_seed(0)
        return MLP(4, widths=(6,))

    nets = fit_ensemble(build, *rows(60), n_networks=2, epochs=3, random_state=0, **settings)

    assert not torch.equal(nets[0].hidden[0].weight, nets[1].hidden[0].weight)


def test_intervals_are_about_the_mean_prediction(model):
    X = rows(20, 2)[0]
    prediction, interval = model.predict_interval(X)

    np.testing.assert_allclose(interval.mean(axis=1), prediction, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(prediction, model.predict(X))


def test_prediction_and_leverage_are_means_over_the_networks(model, modules):
    X = rows(20, 2)[0]
    single = members(modules)

    np.testing.assert_allclose(model.predict(X), np.mean([one.predict(X) for one in single], axis=0), rtol=1e-12)
    np.testing.assert_allclose(model.leverage(X), np.mean([one.leverage(X) for one in single], axis=0), rtol=1e-12)


def test_width_is_the_mean_of_the_widths_each_relative_to_its_mean_over_the_training_rows(model, modules):
    X, train = rows(20, 2)[0], rows(120)[0]
    widths = []
    for one in members(modules):
        on_train = np.sqrt(1 + one.leverage(train))
        widths.append(np.sqrt(1 + one.leverage(X)) / on_train.mean())
    ratio = np.diff(model.predict_interval(X)[1])[:, 0] / np.mean(widths, axis=0)

    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-10)


def test_one_network_gives_the_intervals_that_it_gives_alone(modules):
    X = rows(20, 2)[0]
    alone = members(modules[:1])[0].calibrate(*rows(59, 1))
    model = EnsembleConformalRegressor(modules[:1], scale="leverage").fit_train(*rows(120)).calibrate(*rows(59, 1))

    np.testing.assert_allclose(model.predict_interval(X)[1], alone.predict_interval(X)[1], rtol=1e-10)


def test_a_loader_that_shuffles_shows_every_network_the_same_rows(model):
    X, y = rows(59, 1)
    generator = torch.Generator().manual_seed(0)
    shuffled = DataLoader(TensorDataset(X, y), batch_size=8, shuffle=True, generator=generator)
    scores = np.sort(model.scores_[:, 0])

    np.testing.assert_allclose(np.sort(model.calibrate(shuffled).scores_[:, 0]), scores, rtol=1e-5, atol=1e-6)


def test_scales_of_different_units_count_alike(modules):
    factors = cycle([1.0, 1e6, 1e-6])  # the networks in turn, batch by batch

    def in_units_of_its_own(seen):
        return next(factors) * np.sqrt(1 + seen.leverage)

    intervals = [
        EnsembleConformalRegressor(modules, scale=scale)
        .fit_train(*rows(120))
        .calibrate(*rows(59, 1))
        .predict_interval(rows(20, 2)[0])[1]
        for scale in ("leverage", in_units_of_its_own)
    ]

    np.testing.assert_allclose(intervals[1], intervals[0], rtol=1e-9)


def test_leverages_at_ridges_that_cannot_be_compared_are_not_averaged(modules):
    model = EnsembleConformalRegressor(modules, scale="leverage", ridge=1.0).fit_train(*rows(120))
    with pytest.raises(ValueError, match="same share of the mean eigenvalue"):
        model.leverage(rows(20, 2)[0])

    assert model.calibrate(*rows(59, 1)).predict_interval(rows(20, 2)[0])[1].shape == (20, 2)


def test_leverage_of_a_network_whose_features_are_rotated_and_scaled_is_the_same(modules):
    original = network()
    turned = network()
    rotation, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
    turned.insert(2, torch.nn.Linear(12, 12, bias=False))
    with torch.no_grad():
        turned[2].weight.copy_(5 * rotation)
        turned[3].weight.copy_(original[2].weight @ rotation.T / 5)
    X = rows(100)[0]
    h = [LastLayerConformalRegressor(net, scale="leverage").fit_train(X).leverage(X) for net in (original, turned)]

    np.testing.assert_allclose(h[0], h[1], rtol=1e-3)


def test_several_outputs_and_levels_keep_their_axes():
    X, y = rows(120, n_outputs=2)
    nets = fit_ensemble(lambda: MLP(4, 2, widths=(6,)), X, y, n_networks=2, epochs=2, random_state=0)
    model = EnsembleConformalRegressor(nets, scale="leverage").fit_train(X, y).calibrate(*rows(59, 1, n_outputs=2))

    assert model.predict(X).shape == (120, 2)
    assert model.predict_interval(X, [0.5, 0.9])[1].shape == (120, 2, 2, 2)


def test_what_is_missing_is_named(modules):
    X, y = rows(20)
    with pytest.raises(ValueError, match="at least one trained network"):
        EnsembleConformalRegressor([]).fit_train(X, y)
    with pytest.raises(NotFittedError, match="Call fit_train, and calibrate, before predict"):
        EnsembleConformalRegressor(modules).predict(X)
    with pytest.raises(NotFittedError, match="call calibrate first"):
        EnsembleConformalRegressor(modules, scale="leverage").fit_train(X).predict_interval(X)
    with pytest.raises(ValueError, match="n_networks must be an integer >= 1"):
        fit_ensemble(network, X, y, n_networks=0)


@pytest.mark.parametrize("what", ["y", "features of the module"])
def test_rows_are_counted_over_all_batches(model, what):
    X, y = rows(59, 1)
    (y if what == "y" else X)[41] = float("nan")

    with pytest.raises(ValueError, match=f"{what} must be finite; row 41"):
        model.calibrate(loader(X, y))
