"""The head of a network is the linear layer that its prediction comes from, whatever the order of definition."""

import numpy as np
import pytest
import torch
from torch import nn

from hatband.nn import LastLayerConformalRegressor, find_head
from nn.cases import loader, network, rows


class Net(nn.Module):
    """Two linear layers on one body, defined in the wrong order, combined by a function."""

    def __init__(self, combine, width=8, n_outputs=1):
        super().__init__()
        self.head = nn.Linear(width, n_outputs)
        self.other = nn.Linear(width, n_outputs)
        self.body = nn.Linear(4, width)
        self.combine = combine

    def forward(self, x):
        return self.combine(self, torch.tanh(self.body(x)))


ENDINGS = {
    "as it is": lambda net, phi: net.head(phi),
    "squeezed": lambda net, phi: net.head(phi).squeeze(-1),
    "squeezed whole": lambda net, phi: net.head(phi).squeeze(),
    "reshaped": lambda net, phi: net.head(phi)[:, :, None],
    "before another layer": lambda net, phi: (net.head(phi), net.other(phi))[0],
    "after another layer": lambda net, phi: (net.other(phi), net.head(phi))[1],
    "by keyword": lambda net, phi: net.head(input=phi),
    "in a tuple": lambda net, phi: (net.head(phi), phi),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_the_head_is_found_by_its_output_and_not_by_its_place(device, ending):
    net = Net(ENDINGS[ending]).to(device)

    head = find_head(net, rows(6)[0].to(device))

    assert (head.name, head.is_affine, head.layer) == ("head", True, net.head)


@pytest.mark.parametrize("activation", [torch.exp, torch.sigmoid, nn.functional.softplus, torch.relu, lambda x: -x])
def test_a_monotone_activation_after_the_head_is_passed_over(device, activation):
    # Outputs of both signs: where all are positive, relu passes on what the head returns.
    torch.manual_seed(0)
    net = Net(lambda net, phi: activation(net.head(phi))).to(device)

    head = find_head(net, rows(20)[0].to(device))

    assert (head.name, head.is_affine) == ("head", False)


class Twice(nn.Module):
    """A layer that is called first, and again last."""

    def __init__(self):
        super().__init__()
        self.again, self.between = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.again(torch.tanh(self.between(torch.tanh(self.again(x))))).exp()


def test_a_layer_that_is_called_again_counts_where_it_was_called_last(device):
    torch.manual_seed(0)
    net, X = Twice().to(device), rows(20)[0].to(device)

    head = find_head(net, X)

    assert (head.name, head.is_affine) == ("again", False)
    with head.watching(net) as run, torch.no_grad():
        entering = torch.tanh(net.between(torch.tanh(net.again(X))))
        torch.testing.assert_close(run(X).features, entering)


def test_an_activation_has_to_be_monotone_in_every_output():
    torch.manual_seed(0)
    net = Net(lambda net, phi: torch.stack([net.head(phi)[:, 0].exp(), net.head(phi)[:, 1].cos()], 1), n_outputs=2)

    with pytest.raises(ValueError, match="none returns the output"):
        find_head(net, 5 * rows(40)[0])


REFUSED = {
    "two outputs, two layers": (lambda net, phi: (net.head(phi), net.other(phi)), "2 layers return members"),
    "a sum of two layers": (lambda net, phi: net.head(phi) + net.other(phi).square(), "none returns the output"),
    "concatenated": (lambda net, phi: torch.cat([net.head(phi), net.other(phi)], 1), "none returns the output"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_head_that_is_not_alone_is_refused_with_the_candidates(case):
    combine, message = REFUSED[case]

    with pytest.raises(ValueError, match=message) as error:
        find_head(Net(combine), rows(20)[0])

    assert "'body' (4 -> 8), 'head' (8 -> 1), 'other' (8 -> 1)" in str(error.value)
    assert ("layer='head' or 'other'" if "2 layers" in message else "layer='other'") in str(error.value)


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_head_that_is_named_is_taken(case, device):
    net = Net(REFUSED[case][0]).to(device)

    by_name, by_layer = (find_head(net, rows(20)[0], layer) for layer in ("head", net.head))

    assert by_name.layer is by_layer.layer is net.head
    assert by_name.is_affine == (case == "two outputs, two layers")


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        find_head(nn.Sequential(nn.Flatten(), nn.ReLU()), rows(5)[0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [("1", "is Tanh"), ("nothing", "was not called"), (nn.Linear(2, 2), "is not part of the module")],
)
def test_a_layer_that_is_not_a_linear_layer_of_the_network_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        find_head(network(), rows(5)[0], layer)


def test_an_output_that_holds_no_tensor_is_refused():
    with pytest.raises(ValueError, match="must return a tensor"):
        find_head(Net(lambda net, phi: {"mean": net.head(phi)}), rows(5)[0])


class Tokens(nn.Module):
    """A head on every token, its outputs reduced; `reduce` says how."""

    def __init__(self, reduce):
        super().__init__()
        self.body, self.head, self.reduce = nn.Linear(4, 8), nn.Linear(8, 1), reduce

    def forward(self, x):
        return self.reduce(self.head(torch.tanh(self.body(x))))


@pytest.mark.parametrize(
    ("pooling", "reduce"),
    [("mean", lambda t: t.mean(1)), ("first", lambda t: t[:, 0]), ("last", lambda t: t[:, -1, 0])],
)
def test_features_of_tokens_are_reduced_as_the_output_is(device, pooling, reduce):
    net, X = Tokens(reduce).to(device), torch.randn(40, 5, 4)

    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(X)

    assert model.space_.part.pooling == pooling
    with torch.no_grad():
        tokens = torch.tanh(net.body(X.to(device))).double()
        expected = {"mean": tokens.mean(1), "first": tokens[:, 0], "last": tokens[:, -1]}[pooling]
    found = torch.as_tensor(model.space_.statistics.mean).cpu()
    np.testing.assert_allclose(found, expected.mean(0).cpu(), rtol=1e-5, atol=1e-7)


def test_a_prediction_for_every_token_is_refused_until_the_head_is_named_and_then_averaged():
    net, X = Tokens(lambda t: t), torch.randn(40, 5, 4)

    with pytest.raises(ValueError, match="layer='head'"):
        find_head(net, X)
    assert find_head(net, X, "head").pooling == "mean"


def test_batches_of_one_row_are_read_like_any_other(device):
    net, (X, y) = Net(ENDINGS["squeezed whole"]).to(device), rows(20)

    whole, single = (
        LastLayerConformalRegressor(net, "head", scale="leverage")
        .fit_train(loader(X, y, size))
        .calibrate(loader(X, y, size))
        for size in (20, 1)
    )

    np.testing.assert_allclose(single.predict_interval(X)[1], whole.predict_interval(X)[1], rtol=1e-4, atol=1e-5)


class Several(nn.Module):
    """A network of two arguments."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, left, right):
        return self.head(torch.cat([left, right], 1))


@pytest.mark.parametrize("shape", ["tuple", "dict"])
def test_networks_of_several_arguments_take_tuples_and_dicts(device, shape):
    X, y = rows(30)
    parts = {"left": X[:, :2], "right": X[:, 2:]}
    inputs = parts if shape == "dict" else tuple(parts.values())

    model = LastLayerConformalRegressor(Several().to(device), scale="leverage").fit_train([(inputs, y)])

    expected = LastLayerConformalRegressor(nn.Linear(4, 1).to(device), scale="leverage").fit_train(X)
    np.testing.assert_allclose(model.leverage([(inputs,)]), expected.leverage(X), rtol=1e-6)
    np.testing.assert_allclose(
        model.leverage([inputs] if shape == "dict" else [(inputs, y)]), expected.leverage(X), rtol=1e-6
    )


def test_networks_in_half_precision_are_measured_in_double(device):
    net = network(dtype=torch.bfloat16).to(device)

    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(*rows(60)).calibrate(*rows(30, 1))

    assert model.leverage(rows(5)[0]).dtype == np.float64
    assert model.predict_interval(rows(5)[0])[1].shape == (5, 2)


def test_a_layer_that_is_not_there_is_answered_with_the_one_that_fits():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    with pytest.raises(ValueError, match=r"'nothing' was not called.*; '2' is one\..*layer='2'"):
        find_head(net, torch.zeros(5, 3), "nothing")
