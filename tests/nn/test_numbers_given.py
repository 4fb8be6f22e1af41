"""Numbers as newcomers pass them: ridges, tolerances, leverages of 0, paths, layers of another network."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from tests.nn.cases import N_INPUTS, network, rows
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hatband.diagnostics import leverage_stability
from hatband.nn import (
    LastLayerConformalRegressor,
    LastLayerLaplace,
    NeuralConformalRegressor,
    TangentGeometry,
    conjugate_gradient_leverage,
    fit_network,
    refit_head,
)

X, Y = rows(40)


class TestConjugateGradients:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"tolerance": np.nan}, "tolerance must be a number in"),
            ({"tolerance": -1.0}, "tolerance must be a number in"),
            ({"max_iterations": -1}, "max_iterations must be an integer >= 0"),
            ({"max_iterations": 2.5}, "max_iterations must be an integer >= 0"),
            ({"ridge": "auto"}, "ridge must be a number in"),
            ({"ridge": [1.0, 2.0]}, "ridge must be a number in"),
            ({"X_train": X * torch.nan}, "what the module makes of X_train must be finite; row 0"),
            ({"X_train": X[:0]}, "at least one row"),
        ],
    )
    def test_refuse_what_would_end_in_a_bracket_of_nothing(self, given, message):
        arguments = {"X_train": X, "X": X[:3], "ridge": 0.1} | given
        with pytest.raises(ValueError, match=message):
            conjugate_gradient_leverage(network(), **arguments)


@pytest.mark.parametrize("ridge", ["aic", [[1.0], [2.0]], [], None])
@pytest.mark.parametrize(
    "verb",
    [
        lambda ridge: LastLayerConformalRegressor(network(), ridge=ridge).fit_train(X, Y),
        lambda ridge: LastLayerLaplace(network(), ridge=ridge).fit(X, Y),
        lambda ridge: refit_head(network(), X, Y, ridge=ridge),
        lambda ridge: TangentGeometry(network(), ridge=ridge).fit(X),
    ],
    ids=["last layer", "laplace", "refit", "tangent"],
)
def test_a_ridge_that_is_not_a_number_is_a_value_error_that_names_it(verb, ridge):
    with pytest.raises(ValueError, match=r"^ridge must be"):
        verb(ridge)


def test_rows_whose_leverage_is_0_in_every_run_do_not_vary():
    found = leverage_stability([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
    shares = np.array([[1.0, 2.0], [2.0, 1.0]])

    assert found.variation == pytest.approx((0 + 2 * shares[:, 0].std(ddof=1) / 1.5) / 3)


class TestALayer:
    def test_of_another_network_is_not_part_of_this_one(self):
        net = network()
        model = clone(LastLayerConformalRegressor(net, net[2], scale="leverage"))
        with pytest.raises(ValueError, match=r"layer=Linear is not part of the module .*pass its name"):
            model.fit_train(X)

    def test_that_got_a_row_without_an_axis_for_rows_says_so(self):
        loader = DataLoader(TensorDataset(X, Y), batch_size=None)
        with pytest.raises(ValueError, match=r"an axis for the rows; '2' got shape \(12,\)\."):
            LastLayerConformalRegressor(network(), scale="leverage").fit_train(loader)


class Squeezed(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.net = network(n_outputs)

    def forward(self, x):
        return self.net(x).squeeze()


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_last_batch_of_one_row_is_trained_on_though_the_network_squeezes_its_axis_away(n_outputs):
    X, y = rows(33, n_outputs=n_outputs)
    histories = [
        fit_network(net, DataLoader(TensorDataset(X, y), batch_size=16), epochs=3, random_state=0)
        for net in (Squeezed(n_outputs), network(n_outputs))
    ]
    assert histories[0] == histories[1]


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        self.latest = self.net(x)
        return self.latest


def test_a_network_that_keeps_what_cannot_be_copied_says_what_to_keep():
    net = Remembering()
    net(X)
    with pytest.raises(RuntimeError, match="deepcopy") as caught:
        LastLayerConformalRegressor(net, "all", scale="leverage").fit_train(X)
    assert "Keep value.detach() in its forward" in caught.value.__notes__[0]

    with torch.no_grad():
        net(X)
    model = LastLayerConformalRegressor(net, scale="leverage", device="cpu").fit_train(X)
    assert model.leverage(X).shape == (40,)


class TestFiles:
    def test_are_written_where_there_is_a_folder(self, tmp_path):
        model = LastLayerConformalRegressor(network(), scale="leverage").fit_train(X)
        for path in (tmp_path / "missing" / "model", tmp_path):
            with pytest.raises(FileNotFoundError, match="file in an existing folder"):
                model.save(path)
        with pytest.raises(TypeError):
            model.save(None)

    def test_are_read_into_a_network(self, tmp_path):
        LastLayerConformalRegressor(network(), scale="leverage").fit_train(X).save(tmp_path / "model")
        for module in (None, nn.Linear):
            with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module"):
                LastLayerConformalRegressor.load(tmp_path / "model", module)

    def test_keep_the_names_of_the_columns(self, tmp_path):
        names = [f"column {j}" for j in range(N_INPUTS)]
        table = pd.DataFrame(X.double().numpy(), columns=names)
        NeuralConformalRegressor((4,), epochs=1, scale="leverage", random_state=0).fit(table, Y.numpy()).save(tmp_path)
        loaded = NeuralConformalRegressor.load(tmp_path)

        assert loaded.feature_names_in_.tolist() == names
        assert loaded.predict(table).shape == (40,)
        with pytest.raises(ValueError, match="feature names"):
            loaded.predict(table[names[::-1]])
