"""Networks as they come out of other training libraries."""

import numpy as np
import pytest
import torch
from torch import nn

from hatband.nn import LastLayerConformalRegressor
from nn.cases import loader, network, rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_trained_by_skorch_is_taken_by_its_module():
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    torch.manual_seed(0)
    X, y = rows(200)
    trained = skorch.NeuralNetRegressor(network(), max_epochs=3, verbose=0).fit(X.numpy(), y[:, None].numpy())

    model = LastLayerConformalRegressor(trained.module_, scale="leverage").fit_train(X.numpy(), y.numpy())
    prediction, interval = model.calibrate(*(part.numpy() for part in rows(99, 1))).predict_interval(X.numpy())

    np.testing.assert_allclose(prediction, trained.predict(X.numpy())[:, 0], rtol=1e-5, atol=1e-6)
    assert interval.shape == (200, 2)


class LikeLightning(nn.Module):
    """A module that holds its network, its loss and what it logs, as a LightningModule does."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters = lambda: None
        self.loss = nn.MSELoss()
        self.auxiliary = nn.Linear(12, 3)
        self.net = network()

    def training_step(self, batch, index):
        return self.loss(self(batch[0]), batch[1])

    def forward(self, x):
        return self.net(x)


def test_a_lightning_module_is_taken_itself(device):
    X, y = rows(100)
    model = LastLayerConformalRegressor(LikeLightning().to(device), scale="leverage").fit_train(loader(X, y))

    assert model.space_.part.name == "net.2"
    assert model.calibrate(loader(*rows(50, 1))).predict_interval(X)[1].shape == (100, 2)


@pytest.mark.filterwarnings("ignore")  # of what that package says about loaders and loggers
def test_a_network_trained_by_lightning_is_taken_itself():
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Trained(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module = Trained()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=1, enable_model_summary=False, **quiet).fit(module, loader(*rows(100)))
    expected = LastLayerConformalRegressor(module.net, scale="leverage").fit_train(loader(*rows(100)))

    model = LastLayerConformalRegressor(module, scale="leverage").fit_train(loader(*rows(100)))

    X = rows(50, 1)[0]
    np.testing.assert_array_equal(model.leverage(X), expected.leverage(X))
    assert model.calibrate(*rows(50, 1)).predict_interval(X)[1].shape == (50, 2)


def test_numbers_in_other_types_are_brought_to_that_of_the_network(device):
    X, y = rows(100)
    net = network().to(device)
    expected = LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y).calibrate(X, y)

    for kind in (np.float64, np.float32):
        frozen = X.numpy().astype(kind)
        frozen.flags.writeable = False
        model = (
            LastLayerConformalRegressor(net, scale="leverage").fit_train(frozen).calibrate(frozen, y.numpy().tolist())
        )
        np.testing.assert_allclose(model.scores_, expected.scores_, rtol=1e-6)
