"""Loaders and networks of odd forms give what plain ones give, or are refused in words."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, IterableDataset

from hatband.nn import (
    MLP,
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    LinearisedConformalRegressor,
    NoiseScale,
    WholeNetwork,
    conjugate_gradient_leverage,
    feature_statistics,
    find_head,
    fit_network,
    refit_head,
)
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.network_rows import gathered
from hatband.scales.base import CallableScale
from nn.cases import dense_leverage, network, rows

X, Y = rows(40)
NEW = rows(9, 1)[0]


# ---------------------------------------------------------------- loaders


class Rows(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


def cut(*sizes):
    """Batches of these sizes, of which 0 is one."""
    ends = np.cumsum([0, *sizes])
    return [(X[start:end], Y[start:end]) for start, end in pairwise(ends)]


LOADERS = {
    "an iterable data set": DataLoader(Rows(), batch_size=7),
    "a last batch of one": cut(39, 1),
    "rows one by one": cut(*[1] * 40),
    "shuffled": DataLoader(list(zip(X, Y, strict=True)), batch_size=7, shuffle=True),
    "batches already made": DataLoader(cut(20, 20), batch_size=None),
    "an empty batch first": cut(0, 40),
    "an empty batch between": cut(25, 0, 15),
    "an empty batch last": cut(40, 0),
}


@pytest.mark.parametrize("name", list(LOADERS))
def test_rows_of_a_loader_are_those_of_the_array(name):
    net, data = network(), LOADERS[name]

    for layer in (None, "all", WholeNetwork(exact_up_to=0, rank=5)):
        plain, odd = (LastLayerConformalRegressor(net, layer, scale="leverage") for _ in range(2))
        plain.fit_train(X, Y).calibrate(X, Y)
        odd.fit_train(data).calibrate(data)
        np.testing.assert_allclose(odd.predict_interval(NEW)[1], plain.predict_interval(NEW)[1], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in LOADERS if "empty" in name])
def test_batches_without_rows_are_passed_over_wherever_rows_are_read(name):
    data, net = LOADERS[name], network()

    fit_network(network(), data, epochs=2, random_state=0)
    np.testing.assert_allclose(feature_statistics(net, data).gram, feature_statistics(net, X).gram, rtol=1e-9)
    torch.testing.assert_close(refit_head(net, data)[-1].weight, refit_head(net, X, Y)[-1].weight)
    one, other = (
        LastLayerConformalRegressor(net, scale="leverage", ridge="evidence").fit_train(form).calibrate(form)
        for form in (data, (X, Y))
    )
    np.testing.assert_allclose(one.predict_interval(NEW)[1], other.predict_interval(NEW)[1], rtol=1e-6)


def test_a_loader_of_empty_batches_has_no_rows():
    model = LastLayerConformalRegressor(network(), scale="leverage")
    with pytest.raises(ValueError, match="at least one row"):
        model.fit_train(cut(0, 0))
    with pytest.raises(ValueError, match="at least one row"):
        model.fit_train(X, Y).calibrate(cut(0))


def test_an_ensemble_needs_rows_and_networks_of_the_same_outputs():
    model = EnsembleConformalRegressor([network(), network()], scale="leverage").fit_train(X, Y)
    for verb in (model.calibrate, model.predict, model.leverage):
        with pytest.raises(ValueError, match="at least one row"):
            verb(cut(0))
    with pytest.raises(ValueError, match=r"same number of outputs; they have \[1, 2\]"):
        EnsembleConformalRegressor([network(), network(2)], scale="leverage").fit_train(X)


def test_targets_may_be_bfloat16():
    expected = (
        LastLayerConformalRegressor(network(), scale="leverage").fit_train(X, Y).calibrate(X, Y.bfloat16().float())
    )
    model = LastLayerConformalRegressor(network(), scale="leverage").fit_train(X, Y).calibrate(X, Y.bfloat16())

    np.testing.assert_array_equal(model.scores_, expected.scores_)
    fit_network(MLP(4, widths=(4,)), X, Y.bfloat16(), epochs=1)


@pytest.mark.parametrize("y", [None, Y])
def test_inputs_of_several_parts_have_to_come_in_batches(y):
    with pytest.raises(TypeError, match=r"must come in batches.*\[\(inputs, y\)\]"):
        LastLayerConformalRegressor(network(), scale="leverage").fit_train({"a": X, "b": X}, y)


# ---------------------------------------------------------------- heads


class Ending(nn.Module):
    """A body, a head, and what is done with features and output after it."""

    def __init__(self, after):
        super().__init__()
        self.body, self.head, self.after = nn.Linear(4, 8), nn.Linear(8, 1), after

    def forward(self, x):
        phi = torch.tanh(self.body(x))
        return self.after(phi, self.head(phi))


def test_features_are_those_that_entered_the_head_whatever_is_written_into_their_memory_after():
    def overwrite(phi, output):
        phi.zero_()
        return output

    net = Ending(overwrite)
    with torch.no_grad():
        phi, new = (torch.tanh(net.body(part)).double().numpy() for part in (X, NEW))
    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(X)

    expected = dense_leverage(phi, new, model.space_.ridge, "free")
    np.testing.assert_allclose(model.leverage(NEW), expected, rtol=1e-5)


def test_an_activation_in_place_after_the_head_is_seen():
    net = Ending(lambda phi, output: output.relu_())

    assert not find_head(net, X).is_affine
    with pytest.raises(ValueError, match="the module changes it"):
        refit_head(net, X, Y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_output_in_another_type_is_still_that_of_the_head(dtype):
    assert find_head(Ending(lambda phi, output: output.to(dtype)), X).is_affine


def test_an_output_rounded_to_integers_is_not_that_of_the_head():
    assert not find_head(Ending(lambda phi, output: (100 * output).long()), X).is_affine


# ---------------------------------------------------------------- whole networks


class Tied(nn.Module):
    """Two layers with one weight, a module that is called twice, a scalar parameter, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = (nn.Linear(4, size) for size in (4, 4, 4, 1))
        self.third.weight = self.second.weight
        self.factor, self.unused = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3))

    def forward(self, x):
        middle = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.factor * self.head(torch.tanh(self.third(torch.tanh(self.first(middle)))))


def frozen():
    net = network()
    net[0].requires_grad_(False)
    return net


NETWORKS = {
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 1)),
    "an orthogonal weight": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 1)),
    "tied, shared, scalar and unused": Tied,
    "frozen in part": frozen,
    "float16": lambda: network(dtype=torch.float16),
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "inside a wrapper": lambda: nn.ModuleList([network()])[0],
}


def jacobian(net, inputs):
    """Rows of derivatives by one backward pass each, on a copy in float64; 0 for what is not used."""
    net = net.double()
    parameters = [value.requires_grad_() for value in net.parameters()]
    found = []
    for row in inputs.double():
        parts = torch.autograd.grad(net(row[None]).sum(), parameters, allow_unused=True)
        parts = [torch.zeros_like(p) if part is None else part for part, p in zip(parts, parameters, strict=True)]
        found.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
    return np.array(found)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_leverage_of_all_parameters_is_by_the_jacobian_whatever_these_are(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETWORKS[name]()
    flags = [parameter.requires_grad for parameter in net.parameters()]
    model = LastLayerConformalRegressor(net, "all", scale="leverage").fit_train(X)
    seen = model.leverage(NEW)

    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    expected = dense_leverage(jacobian(net, X), jacobian(net, NEW), model.space_.ridge, "free")
    np.testing.assert_allclose(seen, expected, rtol=1e-7)


def test_a_network_in_bfloat16_is_expanded():
    model = LinearisedConformalRegressor(network(dtype=torch.bfloat16)).fit(X, Y)
    assert np.isfinite(model.predict_interval(NEW)[1]).all()


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda net: nn.Sequential(torch.jit.script(net))], ids=["DataParallel", "a script"]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_wrappers_that_cannot_be_called_with_other_weights_are_named(wrap):
    net = wrap(network())
    for call in (
        lambda: LastLayerConformalRegressor(net, "all", scale="leverage").fit_train(X),
        lambda: LinearisedConformalRegressor(net).fit(X, Y),
        lambda: conjugate_gradient_leverage(net, X, NEW, ridge=1.0),
    ):
        with pytest.raises(ValueError, match="Pass the module that was wrapped or compiled"):
            call()


class OwnZeros(nn.Module):
    """A network that makes a tensor of its own, in the type that torch makes by default."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 1)

    def forward(self, x):
        return self.head(torch.cat([x, torch.zeros(len(x), 1)], 1) if x.dtype == torch.float32 else self.own(x))

    def own(self, x):
        return torch.zeros(len(x), 5)


def test_a_network_that_works_in_its_own_type_only_is_told_what_to_do():
    with pytest.raises(RuntimeError, match="same dtype") as error:
        LastLayerConformalRegressor(OwnZeros(), "all", scale="leverage").fit_train(X)
    assert "dtype=x.dtype" in error.value.__notes__[0]


@pytest.mark.parametrize("layer", [3, WholeNetwork, ("0",)])
def test_an_invalid_layer_is_refused(layer):
    with pytest.raises(TypeError, match=r"layer must be .* an instance such as WholeNetwork\(\)"):
        LastLayerConformalRegressor(network(), layer, scale="leverage").fit_train(X)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("count", [1, 7])
def test_rows_that_are_all_the_same_leave_few_directions_a_ridge(count):
    model = LastLayerConformalRegressor(network(), WholeNetwork(exact_up_to=0, rank=5), scale="leverage")
    model.fit_train(X[:1].expand(count, 4))

    assert model.space_.ridge > 0
    np.testing.assert_allclose(model.leverage(X[:1]), 1 / count)
    assert (model.leverage(NEW) > 1 / count).all()


def test_weights_that_the_type_of_a_head_cannot_hold_are_refused():
    net = network()
    net[0].weight.data *= 1e-40
    net[0].bias.data.zero_()
    with pytest.raises(ValueError, match=r"must fit into the torch\.float32 of the head"):
        refit_head(net, X, Y)


def test_codes_are_not_a_table_to_learn_noise_from():
    class Codes(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 6), nn.Linear(6, 1)

        def forward(self, x):
            return self.head(torch.tanh(self.embedding(x).sum(1)))

    codes = torch.randint(0, 5, (40, 3), generator=torch.Generator().manual_seed(0))
    net = Codes()

    assert gathered(net, find_head(net, codes), as_batches(codes, Y)).inputs is None
    LastLayerConformalRegressor(net, scale=NoiseScale(random_state=0)).fit_train(codes, Y, validation=(codes, Y))


class WithMore(nn.Linear):
    """A layer that keeps more than tensors in its state."""

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        assert state == {"seen": 3}


def test_a_state_that_holds_more_than_tensors_is_trained_and_not_saved(tmp_path):
    net = nn.Sequential(WithMore(4, 6), nn.Tanh(), nn.Linear(6, 1))
    fit_network(net, X, Y, epochs=2, random_state=0)
    with pytest.raises(ValueError, match=r"0\._extra_state"):
        LastLayerConformalRegressor(net, scale="leverage").fit_train(X, Y).save(tmp_path / "model")


# ---------------------------------------------------------------- failures


def unlucky(rows):
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("verb", ["calibrate", "predict_interval", "target", "learn"])
@pytest.mark.parametrize("layer", [None, "all"])
def test_a_failure_between_batches_leaves_network_and_gradients_as_found_while_it_is_looked_at(layer, verb):
    net = network().train()
    model = LastLayerConformalRegressor(net, layer, scale="leverage").fit_train(X, Y).calibrate(X, Y)
    learner = LastLayerConformalRegressor(net, layer, scale="strength")
    wide = Y[:, None].expand(-1, 2)
    calls = {
        "calibrate": lambda: model.calibrate(X, Y),
        "predict_interval": lambda: model.predict_interval(X),
        "target": lambda: model.calibrate(X, wide),
        "learn": lambda: learner.fit_train(X, validation=(X, wide)),
    }
    model.scale_ = CallableScale(unlucky) if verb in {"calibrate", "predict_interval"} else model.scale_

    with pytest.raises((RuntimeError, ValueError)) as error:
        calls[verb]()

    # The traceback keeps every frame.
    assert error.tb is not None
    assert torch.is_grad_enabled()
    assert net.training
    assert not any(part._forward_pre_hooks for part in net.modules())


@pytest.mark.parametrize("one", [1, np.int64(1), np.True_])
def test_a_one_that_was_taken_for_true_comes_back_as_true(one, tmp_path):
    model = LastLayerConformalRegressor(network(), scale="leverage", symmetric=one, penalise_bias=one)
    model.fit_train(X, Y).calibrate(X, Y).save(tmp_path / "model")
    again = LastLayerConformalRegressor.load(tmp_path / "model", network())

    assert again.symmetric is again.penalise_bias is True
    np.testing.assert_array_equal(again.leverage(NEW), model.leverage(NEW))
