"""What the caller's program is doing meanwhile: gradient modes, default devices, threads, layers without weights."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tests.nn.cases import N_INPUTS, network, rows
from torch import nn

from hatband.nn import (
    MLP,
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    LastLayerLaplace,
    LinearisedConformalRegressor,
    NeuralConformalRegressor,
    NoiseScale,
    TangentFeatures,
    WholeNetwork,
    conjugate_gradient_leverage,
    feature_statistics,
    fit_ensemble,
    fit_network,
    refit_head,
)
from hatband.nn.measure.state import seeded

X, Y = (part.double().numpy() for part in rows(60))
WITHOUT_GRADIENTS = [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)]


def weights(module):
    return torch.cat([value.detach().reshape(-1) for value in module.parameters()])


def trained(**settings):
    with seeded(0):
        module = nn.Sequential(nn.Linear(N_INPUTS, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    fit_network(module, X, Y[:, None], epochs=2, random_state=0, **settings)
    return weights(module)


def estimator(seed=0):
    return NeuralConformalRegressor((8,), dropout=0.2, epochs=2, random_state=seed).fit(X, Y)


class TestTraining:
    @pytest.mark.parametrize("mode", WITHOUT_GRADIENTS, ids=["no_grad", "inference_mode", "grad_enabled"])
    def test_does_not_depend_on_the_gradient_mode_of_the_caller(self, mode):
        expected, model = trained(), estimator().predict_interval(X)[1]
        first = weights(fit_ensemble(lambda: MLP(N_INPUTS), X, Y, n_networks=1, epochs=1, random_state=0)[0])
        with seeded(0):
            module = nn.Sequential(nn.Linear(N_INPUTS, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        with mode():
            # Made by the caller in the mode: tensors that autograd refuses to keep.
            inputs = torch.from_numpy(X) + 0
            fit_network(module, inputs, Y[:, None], epochs=2, random_state=0)
            found = estimator()
            same = fit_ensemble(lambda: MLP(N_INPUTS), X, Y, n_networks=1, epochs=1, random_state=0)[0]

        assert torch.is_grad_enabled()
        assert torch.equal(weights(module), expected)
        assert torch.equal(weights(same), first)
        np.testing.assert_array_equal(found.predict_interval(X)[1], model)
        assert all(value.requires_grad and not value.is_inference() for value in found.module_.parameters())

    def test_of_weights_made_in_inference_mode_is_refused(self):
        with torch.inference_mode():
            module = network()
        with pytest.raises(ValueError, match=r"made in torch\.inference_mode"):
            fit_network(module, X, Y[:, None], epochs=1)

    def test_of_several_threads_at_once_gives_the_models_that_each_trains_alone(self):
        state = torch.get_rng_state()
        alone = [estimator(seed).predict_interval(X)[1] for seed in range(2)]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda k: estimator(k % 2).predict_interval(X)[1], range(12)))

        for k, interval in enumerate(together):
            np.testing.assert_array_equal(interval, alone[k % 2])
        assert torch.equal(torch.get_rng_state(), state)


class TestALazyLayer:
    @pytest.mark.parametrize(
        "verb",
        [
            lambda net: fit_network(net, X, Y[:, None], epochs=1),
            lambda net: refit_head(net, X, Y[:, None]),
            lambda net: LastLayerConformalRegressor(net, scale="leverage").fit_train(X),
            lambda net: LastLayerConformalRegressor(net, "all", scale="leverage").fit_train(X),
            lambda net: LinearisedConformalRegressor(net).fit(X, Y),
            lambda net: TangentFeatures(net).transform(X),
        ],
    )
    def test_is_refused_and_stays_lazy(self, verb):
        net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1))
        with pytest.raises(ValueError, match=r"'0\.weight' of a lazy layer has none yet. Run the module on one batch"):
            verb(net)

        assert isinstance(net[0], nn.LazyLinear)

    def test_with_weights_is_one_like_any_other(self):
        net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1))
        net(torch.zeros(2, N_INPUTS))
        fit_network(net, X, Y[:, None], epochs=1, random_state=0)

        assert LastLayerConformalRegressor(net, scale="leverage").fit_train(X).leverage(X).shape == (60,)


def _last_layer(net, layer=None, **settings):
    model = LastLayerConformalRegressor(net, layer, **{"scale": "leverage", **settings}).fit_train(X, Y)
    model.calibrate(X, Y)
    return model.predict_interval(X)[1]


class TestADefaultDevice:
    """torch.set_default_device: arrays of the caller and numbers of ours stay where the network is."""

    @pytest.mark.parametrize(
        "verb",
        [
            _last_layer,
            lambda net: _last_layer(net, "all"),
            lambda net: _last_layer(net, WholeNetwork(exact_up_to=0, rank=5)),
            lambda net: _last_layer(net, scale=NoiseScale(lambda X: 0.1 + X[:, 0].abs()), ridge="evidence"),
            lambda net: LastLayerLaplace(net).fit(X, Y).predict(X).epistemic,
            lambda net: weights(refit_head(net, X, Y)).numpy(),
            lambda net: TangentFeatures(net).transform(X),
            lambda net: LinearisedConformalRegressor(net).fit(X, Y).predict_interval(X)[1],
            lambda net: conjugate_gradient_leverage(net, X, X, ridge=0.1).upper,
            lambda net: EnsembleConformalRegressor([net], scale="leverage").fit_train([(X, Y)]).leverage(X),
            lambda net: feature_statistics(net, X, Y).joint.numpy(),
            lambda net: estimator().predict_interval(X)[1],
            lambda net: fit_network(net, X, Y[:, None], epochs=2, random_state=0).epochs[-1].training_loss,
        ],
    )
    def test_is_not_where_the_work_is_done(self, verb):
        net = network()
        expected = verb(copy.deepcopy(net))
        with torch.device("meta"):
            found = verb(net)

        np.testing.assert_array_equal(found, expected)

    def test_does_not_matter_to_files(self, tmp_path):
        model = estimator()
        with torch.device("meta"):
            model.save(tmp_path)
            loaded = NeuralConformalRegressor.load(tmp_path)

        np.testing.assert_array_equal(loaded.predict_interval(X)[1], model.predict_interval(X)[1])
