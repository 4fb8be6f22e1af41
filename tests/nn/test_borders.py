"""What crosses between host and device, and what becomes of a device that has no float64."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from hatband.arrays import backend as backends
from hatband.checks import LeverageWarning
from hatband.nn import (
    MLP,
    LastLayerConformalRegressor,
    LastLayerLaplace,
    LinearisedConformalRegressor,
    NeuralConformalRegressor,
    TangentFeatures,
    WholeNetwork,
    conjugate_gradient_leverage,
    feature_statistics,
    fit_network,
    refit_head,
)
from nn.cases import loader, network, rows
from pretend_device import DEVICE, PRETENDED, watched, without_float64

pytestmark = PRETENDED

N, WIDE = 400, 96


def perceptron() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(4, widths=(6,), noise_head=True)


@pytest.fixture
def wide() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, WIDE), nn.Tanh(), nn.Linear(WIDE, 1)).to(DEVICE)


class TestOnlyFinalNumbersComeToTheHost:
    def test_of_the_statistics_of_features_next_to_nothing(self, wide):
        with watched() as seen:
            feature_statistics(wide, loader(*rows(N)))

        assert (seen.to_host, seen.waits) <= (16, 3)

    def test_of_a_row_to_be_measured_its_leverage_and_its_prediction(self, wide):
        model = LastLayerConformalRegressor(wide, scale="leverage").fit_train(*rows(N)).calibrate(*rows(N, 1))
        new = rows(N, 2)[0]

        for verb in (model.leverage, model.predict_interval):
            with watched() as seen:
                verb(new)
            # Leverage in float64, the prediction in the float32 of the network, whether all was finite, and of each
            # parameter of the network one sum by which it is known again.
            assert seen.to_host <= N * (8 + 4) + 8 + len(list(wide.parameters())) * 8

    def test_of_training_rows_no_matrix(self, wide):
        with watched() as seen:
            LastLayerConformalRegressor(wide, scale="leverage").fit_train(loader(*rows(N)))

        assert seen.to_host < 8 * 12 * WIDE

    def test_of_rows_on_the_device_that_a_network_is_trained_on_only_targets_and_losses(self):
        X, y = (part.to(DEVICE) for part in rows(N))
        module = perceptron().to(DEVICE)

        with watched() as seen:
            fit_network(module, X, y, epochs=2, random_state=0)

        assert seen.to_host < y.nbytes + 300
        assert seen.waits < 40


class TestWithoutFloat64:
    @pytest.fixture(autouse=True)
    def poor(self, monkeypatch):
        monkeypatch.setattr(backends, "has_float64", lambda device: device.type not in {"mps", DEVICE.type})
        with without_float64():
            yield

    @pytest.fixture
    def nets(self):
        return network(), network().to(DEVICE)

    def both(self, nets, measured):
        """What is measured on the CPU, and on the device with a warning."""
        expected = measured(nets[0])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Leverage needs float64", LeverageWarning)
            return measured(nets[1]), expected

    @pytest.mark.parametrize("scale", ["leverage", "magnitude", "auto"])
    @pytest.mark.parametrize("table", [True, False])
    def test_intervals_are_those_of_the_cpu(self, nets, scale, table):
        def measured(net):
            net = net if table else nn.Sequential(nn.Flatten(), *net)
            shape = (lambda X: X) if table else (lambda X: X.reshape(len(X), 2, 2))
            (X, y), (X_cal, y_cal), (new, _) = rows(150), rows(60, 1), rows(30, 2)
            model = LastLayerConformalRegressor(net, scale=scale, fit_train_rows="unseen", random_state=0)
            model.fit_train(shape(X), y).calibrate(shape(X_cal), y_cal)
            return model.predict_interval(shape(new))[1]

        np.testing.assert_array_equal(*self.both(nets, measured))

    @pytest.mark.parametrize("layer", [None, "all", WholeNetwork(exact_up_to=0, rank=5)])
    def test_there_is_one_warning(self, nets, tmp_path, layer):
        with pytest.warns(LeverageWarning, match="float64") as seen:
            model = LastLayerConformalRegressor(nets[1], layer, scale="leverage").fit_train(*rows(100))
        model.calibrate(*rows(50, 1)).save(tmp_path / "model")
        with pytest.warns(LeverageWarning, match="float64") as read:
            LastLayerConformalRegressor.load(tmp_path / "model", nets[1])

        assert (len(seen), len(read)) == (1, 1)

    def test_conjugate_gradients_warn_once(self, nets):
        with pytest.warns(LeverageWarning, match="float64") as seen:
            conjugate_gradient_leverage(nets[1], rows(20)[0], rows(3, 1)[0], ridge=1.0)

        assert len(seen) == 1

    def test_targets_on_the_device_are_read(self, nets):
        def measured(net):
            X, y = (part.to(net[0].weight.device) for part in rows(90))
            return LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y).calibrate(X, y).scores_

        np.testing.assert_array_equal(*self.both(nets, measured))

    def test_a_refitted_head_is_that_of_the_cpu(self, nets):
        seen, expected = self.both(nets, lambda net: refit_head(net, *rows(90))[-1].weight.detach().cpu())

        assert torch.equal(seen, expected)

    def test_laplace_is_that_of_the_cpu(self, nets):
        def measured(net):
            return LastLayerLaplace(net, noise_std=lambda X: 0.1 + X[:, :1].abs()).fit(*rows(90)).predict(rows(9, 1)[0])

        np.testing.assert_array_equal(*self.both(nets, measured))

    def test_the_tangent_space_is_that_of_the_cpu(self, nets):
        def measured(net):
            X = rows(12)[0].to(net[0].weight.device)
            bracket = conjugate_gradient_leverage(net, X, X[:3], ridge=0.1)
            return np.hstack([TangentFeatures(net).transform(X).ravel(), bracket.lower, bracket.upper])

        np.testing.assert_allclose(*self.both(nets, measured), rtol=1e-9)

    def test_linearised_intervals_are_those_of_the_cpu(self, nets):
        def measured(net):
            return LinearisedConformalRegressor(net, ridge=1.0).fit(*rows(20)).predict_interval(rows(5, 1)[0])[1]

        np.testing.assert_allclose(*self.both(nets, measured), rtol=1e-9)

    def test_saved_models_come_back(self, nets, tmp_path):
        pytest.importorskip("safetensors", reason="safetensors is not installed")

        def measured(net):
            model = LastLayerConformalRegressor(net, scale="leverage").fit_train(*rows(90)).calibrate(*rows(50, 1))
            model.save(tmp_path / "model.safetensors")
            fresh = copy.deepcopy(net)
            return LastLayerConformalRegressor.load(tmp_path / "model.safetensors", fresh).leverage(rows(9, 2)[0])

        np.testing.assert_array_equal(*self.both(nets, measured))

    @pytest.mark.parametrize("loss", ["squared", "gaussian"])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_training_is_that_of_the_cpu(self, loss, weighted):
        X, y = rows(120)
        # Float64 as NumPy has it, and far from 0, where float32 has no digits left.
        X, y = X.double().numpy(), 1e6 + y.double().numpy()
        weight = np.linspace(0.1, 1.0, 120) if weighted else None

        def trained(device):
            module = perceptron().to(device)
            fit_network(module, X, y, loss=loss, epochs=3, random_state=0, sample_weight=weight)
            return module(torch.as_tensor(X, dtype=torch.float32).to(device)).detach().cpu()

        torch.testing.assert_close(trained(DEVICE), trained("cpu"))

    def test_training_by_a_loader_and_of_any_module_is_that_of_the_cpu(self):
        X, y = rows(120)

        def trained(device):
            module = copy.deepcopy(network()).to(device)
            fit_network(module, loader(X, y.double()), validation=(X, y), epochs=3, random_state=0)
            return module(X.to(device)).detach().cpu()

        torch.testing.assert_close(trained(DEVICE), trained("cpu"))

    def test_a_network_of_ours_is_trained_and_measured(self):
        (X, y), (new, _) = rows(200), rows(20, 1)

        def intervals(device):
            settings = {"scale": "leverage", "epochs": 3, "random_state": 0, "device": device}
            return NeuralConformalRegressor(**settings).fit(X.numpy(), y.numpy()).predict_interval(new.numpy())[1]

        with pytest.warns(LeverageWarning, match="float64"):
            seen = intervals(DEVICE)
        np.testing.assert_allclose(seen, intervals("cpu"), rtol=1e-4)
