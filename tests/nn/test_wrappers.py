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
