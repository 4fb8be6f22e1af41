"""Rows as newcomers pass them: lists, datasets, tables in batches, whole numbers, complex targets."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from tests.nn.cases import network, rows
from torch import nn
from torch.utils.data import TensorDataset

from hatband.nn import LastLayerConformalRegressor, TangentFeatures, WholeNetwork, fit_network

X, Y = rows(40)
LISTED = X.tolist(), Y.tolist()


def fitted(*data):
    return LastLayerConformalRegressor(network(), scale="leverage").fit_train(*data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (LISTED, TypeError, r"X must be an array or a tensor; got a list of numbers.*np\.asarray\(X\)"),
        (LISTED[:1], TypeError, r"got a list of numbers"),
        (([[1.0, 2.0], [3.0, 4.0]],), TypeError, r"got a list of numbers"),
        (((X, Y, Y),), TypeError, r"must be a pair \(X, y\); got 3 arrays"),
        ((TensorDataset(X, Y),), TypeError, r"got TensorDataset\. Put a Dataset into a DataLoader"),
        ((scipy.sparse.csr_matrix(X.numpy()), Y), ValueError, r"X must be dense for a network.*toarray"),
        (([(X, Y.to(torch.complex64))],), ValueError, r"y must hold real numbers"),
        (([(X, Y.numpy() + 1j)],), ValueError, r"y must hold real numbers"),
    ],
    ids=["lists", "a list", "two columns", "three arrays", "a dataset", "sparse", "complex", "complex array"],
)
def test_what_is_not_a_row_is_named_with_what_to_pass(data, error, message):
    with pytest.raises(error, match=message):
        fitted(*data)


def test_complex_targets_are_not_trained_on():
    with pytest.raises(ValueError, match="y must hold real numbers"):
        fit_network(network(), [(X, Y.to(torch.complex64))], epochs=1)


def test_a_pair_may_hold_its_targets_as_a_list():
    assert fitted((X, LISTED[1])).space_.statistics.n_targets == 1


def test_batches_may_be_parts_of_a_table():
    table, target = pd.DataFrame(X.numpy()), pd.Series(Y.numpy())
    parts = [(table[:25], target[:25]), (table[25:], target[25:])]
    np.testing.assert_array_equal(
        fitted(parts).leverage(table), fitted([(X[:25], Y[:25]), (X[25:], Y[25:])]).leverage(X)
    )


def test_memory_that_must_not_be_written_to_is_read_without_a_warning():
    inputs, target = X.numpy().copy(), Y.double().numpy().copy()
    inputs.flags.writeable = target.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(inputs, target).calibrate(inputs, target)
        fit_network(network(), [(inputs, target[:, None])], epochs=1)


@pytest.mark.parametrize("given", [(X * 10).long(), (X * 10).numpy().astype(int), X > 0], ids=["long", "int", "bool"])
def test_whole_numbers_for_a_linear_layer_say_in_what_type_they_came(given):
    with pytest.raises(RuntimeError) as caught:
        fitted(given)

    assert "whole numbers are not converted" in caught.value.__notes__[0]
    assert "X.astype(float)" in caught.value.__notes__[0]


def test_gradients_of_an_embedding_are_taken_at_its_codes():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1)).double()
    codes = torch.randint(0, 5, (8, 2), generator=torch.Generator().manual_seed(0))
    expected = np.array([_gradient(net, row) for row in codes])

    np.testing.assert_allclose(TangentFeatures(net).transform(codes), expected, rtol=1e-12)


def _gradient(net, row):
    found = torch.autograd.grad(net(row[None]).sum(), list(net.parameters()))
    return torch.cat([part.reshape(-1) for part in found]).numpy()


class Impolite(nn.Module):
    """Writes into its input, as nn.ReLU(inplace=True) in the first place does."""

    def __init__(self, net, *, polite):
        super().__init__()
        self.net, self.polite = net, polite

    def forward(self, x):
        return self.net(x * 2 - 1 if self.polite else x.mul_(2).sub_(1))


@pytest.mark.parametrize("layer", ["net.2", "all", WholeNetwork(exact_up_to=0, rank=9)], ids=["last", "all", "rank"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_that_writes_into_its_input_does_so_to_a_copy(layer, dtype):
    inputs, target = X.to(dtype), Y.to(dtype)
    kept, settings = inputs.clone(), {"scale": "magnitude", "fit_train_rows": "unseen", "random_state": 0}
    found = []
    for polite in (True, False):
        net = Impolite(network(dtype=dtype), polite=polite)
        for given in (inputs, inputs.numpy(), [(inputs, target)]):
            pair = (given,) if isinstance(given, list) else (given, target)
            model = LastLayerConformalRegressor(net, layer, **settings).fit_train(*pair).calibrate(*pair)
            found.append(model.predict_interval(inputs)[1])

    assert torch.equal(inputs, kept)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_training_a_network_that_writes_into_its_input_leaves_the_rows_held_out_as_they_are():
    histories = []
    for polite in (True, False):
        net = Impolite(network(), polite=polite)
        histories.append(fit_network(net, X, Y[:, None], validation=(X, Y[:, None]), epochs=4, random_state=0))

    assert histories[0] == histories[1]


@pytest.mark.parametrize("form", ["reversed", "big-endian", "Fortran", "strided"])
def test_arrays_may_lie_in_memory_as_they_like(form):
    inputs, target = X.double().numpy(), Y.double().numpy()
    odd = {
        "reversed": lambda a: a[::-1].copy()[::-1],
        "big-endian": lambda a: a.astype(">f8"),
        "Fortran": np.asfortranarray,
        "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    }[form]
    given, expected = (odd(inputs), odd(target)), (inputs, target)
    for first, second in ((given, expected), ([given], [expected])):
        model, plain = (fitted(*((part,) if isinstance(part, list) else part)) for part in (first, second))
        np.testing.assert_array_equal(model.leverage(given[0]), plain.leverage(inputs))
        assert torch.equal(model.space_.statistics.joint, plain.space_.statistics.joint)
