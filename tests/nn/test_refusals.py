"""What a newcomer passes in by mistake: said in plain words, before anything is changed."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hatband import CalibrationWarning
from hatband.nn import (
    MLP,
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    LastLayerLaplace,
    NeuralConformalRegressor,
    NoiseScale,
    fit_ensemble,
    fit_network,
    refit_head,
)
from nn.cases import loader

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def rows(n=60):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3))
    return X, X[:, 0] + 0.1 * rng.standard_normal(n)


def tensors(n=60):
    return tuple(torch.tensor(part, dtype=torch.float32) for part in rows(n))


def same(state, module):
    return all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())


# ---------------------------------------------------------------- fit_network


class Detached(nn.Module):
    """A network whose output carries no gradients."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x).detach()


class Pair(Detached):
    """A network that returns two things."""

    def forward(self, x):
        return self.layer(x), x


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"X": np.full((60, 3), "a")}, ValueError, "X must hold numbers; got ndarray of <U1.*Encode categories"),
        ({"X": np.full((60, 3), None)}, ValueError, "X must be finite; row 0"),
        ({"X": loader(*tensors())}, ValueError, "if X is a loader, leave y out"),
        ({"X": rows()[0][:, :, None]}, ValueError, r"X must have shape \(n, 3\)"),
        ({"X": rows()[0][:, 0]}, ValueError, r"X must have shape \(n, 3\)"),
        (
            {"X": 1e300 * rows()[0]},
            ValueError,
            "column 0 of X must have a finite mean and a standard deviation.*rescale the column",
        ),
        ({"X": 1e-50 * rows()[0]}, ValueError, "column 0 of X must have"),
        ({"y": 1e300 * rows()[1]}, ValueError, "column 0 of y must have"),
        ({"y": 1e-50 * rows()[1]}, ValueError, "column 0 of y must have"),
        ({"validation": []}, ValueError, "validation must hold at least one row"),
        ({"validation": rows()[0]}, ValueError, "for early stopping need targets"),
        ({"validation": (rows()[0][:, :1], rows()[1])}, ValueError, r"X must have shape \(n, 3\).*got shape \(60, 1\)"),
        ({"device": "gpu"}, ValueError, "device must be one that torch can use here.*got 'gpu'"),
        pytest.param({"device": "cuda"}, ValueError, "device must be one that torch can use here", marks=NO_GPU),
        ({"device": 1.5}, ValueError, "device must be one that torch can use here"),
        ({"progress": True}, TypeError, "progress must be a callable"),
        ({"module": Detached()}, ValueError, r"must be differentiable.*Remove detach\(\)"),
        ({"module": Pair()}, TypeError, "Pair must return a tensor to be trained; got tuple"),
        ({"module": nn.Linear(3, 1).half()}, ValueError, r"got float16. Call .float\(\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused_and_the_network_stays(wrong, error, message):
    X, y = rows()
    settings = {"module": MLP(3, widths=(4,)), "X": X, "y": y, "epochs": 2, "random_state": 0, **wrong}
    before = copy.deepcopy(settings["module"].state_dict())
    with pytest.raises(error, match=message):
        fit_network(**settings)
    assert same(before, settings["module"])


@pytest.mark.parametrize("module", ["MLP", None, np.ones(3)], ids=str)
def test_what_is_not_a_network_is_not_trained(module):
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module; got"):
        fit_network(module, *rows())


@pytest.mark.parametrize(
    "given",
    [
        {"X": rows()[0].astype(object), "y": rows()[1].astype(object)},
        {"X": rows()[0].tolist(), "y": rows()[1].tolist()},
        {"X": rows()[0] > 0, "y": rows()[1] > 0},
        {"X": [(tensors()[0], tensors()[1] > 0)]},
        {"X": 1e30 * rows()[0], "y": 1e30 * rows()[1]},
        {"X": np.ones((60, 3)), "y": np.ones(60)},
        {"X": rows(1)[0], "y": rows(1)[1], "validation_size": 0},
        {"X": rows(2)[0], "y": rows(2)[1]},
    ],
    ids=["objects", "lists", "flags", "flags in a loader", "huge", "constant", "one row", "two rows"],
)
def test_what_is_odd_but_means_something_is_trained_on(given):
    module = MLP(3, widths=(4,))
    history = fit_network(module, **given, epochs=2, random_state=0)

    assert np.isfinite(history.epochs[-1].training_loss)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_a_network_does_not_broadcast_a_column():
    with pytest.raises(ValueError, match=r"X must have shape \(n, 3\).*got shape \(5, 1\)"):
        MLP(3, widths=(4,))(torch.ones(5, 1))


# ---------------------------------------------------------------- ensembles


@pytest.mark.parametrize(
    ("modules", "seen"),
    [
        (None, "NoneType"),
        (MLP(3), "MLP"),
        ("ab", "str"),
        ([MLP(3), 7], "a list that holds int"),
        (iter([MLP(3)]), "iterator"),
    ],
    ids=["None", "one network", "name", "number", "iterator"],
)
def test_an_ensemble_is_of_a_list_of_networks(modules, seen):
    with pytest.raises(TypeError, match=f"modules must be a list of torch.nn.Module.*got .*{seen}"):
        EnsembleConformalRegressor(modules).fit_train(*rows())


def test_an_ensemble_takes_a_module_list_and_objects_that_are_numbers():
    X, y = rows()
    modules = nn.ModuleList(MLP(3, widths=(4,)) for _ in range(2))
    model = EnsembleConformalRegressor(modules, scale="leverage").fit_train(X.astype(object), y).calibrate(X, y)

    assert np.isfinite(model.predict_interval(X)[1]).all()


@pytest.mark.parametrize("kind", ["last layer", "ensemble"])
def test_strings_are_not_inputs_of_a_network(kind):
    net = MLP(3, widths=(4,))
    model = LastLayerConformalRegressor(net) if kind == "last layer" else EnsembleConformalRegressor([net])
    with pytest.raises(ValueError, match="X must hold numbers"):
        model.fit_train(np.full((60, 3), "a"), rows()[1])


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"device must be one that torch can use here.*got .gpu"):
        LastLayerConformalRegressor(MLP(3, widths=(4,)), scale="leverage", device="gpu").fit_train(rows()[0])


@pytest.mark.parametrize("given", [np.ones((60, 3)), np.ones((1, 3))], ids=["constant inputs", "one row"])
def test_leverages_of_features_that_do_not_vary_have_no_ridge_to_compare(given):
    modules = [MLP(3, widths=(4,)) for _ in range(2)]
    model = EnsembleConformalRegressor(modules, scale="leverage").fit_train(given)

    np.testing.assert_allclose(model.leverage(given[:1]), 1 / len(given))


def around_networks(**settings):
    """Every kind that is trained first and calibrated after, untrained."""
    net = MLP(3, widths=(4,))
    return [
        LastLayerConformalRegressor(net, scale="leverage", **settings),
        LastLayerConformalRegressor(net, scale=NoiseScale(lambda x: 0.1 + x[:, 0].abs()), ridge=1.0, **settings),
        EnsembleConformalRegressor([net], scale="leverage", **settings),
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("single", [True, False])
def test_the_shape_of_y_in_training_decides_that_of_predictions_and_calibration_changes_nothing(kind, single):
    X, y = rows()
    neural = NeuralConformalRegressor(widths=(4,), epochs=1, scale="leverage", random_state=0)
    model = [*around_networks(), neural][kind].fit_train(X, y if single else y[:, None])
    shape = (60,) if single else (60, 1)

    assert model.predict(X).shape == shape
    for target in (y, y[:, None]):
        model.calibrate(X, target)
        assert model.predict(X).shape == shape
        assert model.predict_interval(X)[1].shape == (*shape, 2)
        assert model.predict(X, return_std=True)[1].shape == shape


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("single", [True, False])
def test_without_a_y_in_training_the_first_that_calibrates_decides(kind, single):
    X, y = rows()
    model = around_networks()[kind].fit_train(X).calibrate(X, y if single else y[:, None])

    for target in (y, y[:, None]):
        assert model.calibrate(X, target).predict_interval(X)[1].shape == ((60, 2) if single else (60, 1, 2))


@pytest.mark.parametrize(
    "model",
    [
        EnsembleConformalRegressor([MLP(3, widths=(4,))], scale="leverage"),
        LastLayerConformalRegressor(MLP(3, widths=(4,)), scale="leverage"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_too_few_calibration_rows_are_warned_of(model):
    X, y = rows()
    model.fit_train(X, y).calibrate(X[:5], y[:5])
    with pytest.warns(CalibrationWarning, match="calibration rows"):
        assert np.isinf(model.predict_interval(X)[1]).all()


def test_a_ridge_of_zero_for_more_features_than_rows_says_what_to_pass():
    with pytest.raises(np.linalg.LinAlgError, match=r"16 features over 5 rows.*Pass ridge='auto', or a larger number"):
        LastLayerConformalRegressor(MLP(3, widths=(16,)), scale="leverage", ridge=0).fit_train(rows(5)[0])


def test_networks_of_an_ensemble_are_made_by_a_function_and_anew():
    X, y = rows()
    one = MLP(3, widths=(4,))
    with pytest.raises(TypeError, match=r"build must be a function.*lambda: MLP\(3\); got MLP"):
        fit_ensemble(one, X, y)
    with pytest.raises(ValueError, match="build must make a new network at every call"):
        fit_ensemble(lambda: one, X, y, n_networks=2, epochs=1)


# ---------------------------------------------------------------- the estimator


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, "at least one hidden layer"),
        ({"widths": 8}, "at least one hidden layer.*got 8"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"loss": "absolute"}, "loss must be one of"),
        ({"scale": "wide"}, "scale must be one of"),
        ({"device": "gpu"}, "device must be one that torch can use here"),
        ({"symmetric": "yes"}, "symmetric must be one of"),
    ],
    ids=str,
)
def test_parameters_of_an_estimator_that_mean_nothing_leave_it_as_it_was(settings, message):
    X, y = rows()
    model = NeuralConformalRegressor(widths=(4,), epochs=2, scale="leverage", random_state=0).fit(X, y)
    before = model.predict_interval(X)[1]
    with pytest.raises(ValueError, match=message):
        model.set_params(**settings).fit(X, y)

    np.testing.assert_array_equal(model.predict_interval(X)[1], before)


@pytest.mark.parametrize("factors", [(1e300, 1.0), (1.0, 1e300), (1e-50, 1.0)])
def test_numbers_beyond_those_of_a_network_are_refused(factors):
    X, y = rows()
    with pytest.raises(ValueError, match=r"column 0 of . must have a finite mean and a standard deviation"):
        NeuralConformalRegressor(widths=(4,), epochs=2).fit(factors[0] * X, factors[1] * y)


# ---------------------------------------------------------------- posteriors


@pytest.mark.parametrize("kind", [NoiseScale, LastLayerLaplace])
@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (lambda x: -torch.ones(len(x)), "finite and > 0; row 0 of a batch has -1"),
        (lambda x: torch.zeros(len(x)), "finite and > 0; row 0"),
        (lambda x: torch.full((len(x),), torch.nan), "finite and > 0; row 0 of a batch has nan"),
        (lambda x: torch.ones(3), r"one standard deviation per row, shape \(60,\).*got shape \(3,\)"),
        (lambda x: 1.0, r"one standard deviation per row.*got shape \(\)"),
        (lambda x: None, "got None"),
    ],
    ids=["negative", "zero", "NaN", "too few", "one number", "none"],
)
def test_noise_is_one_positive_number_per_row(kind, noise, message):
    net = MLP(3, widths=(4,))
    law = LastLayerLaplace(net, noise_std=noise)
    fit = law.fit if kind is LastLayerLaplace else LastLayerConformalRegressor(net, scale=NoiseScale(noise)).fit_train
    with pytest.raises(ValueError, match=message):
        fit(*rows())


FLAGS = {
    "last layer": lambda net, value: LastLayerConformalRegressor(net, scale="leverage", symmetric=value),
    "bias": lambda net, value: LastLayerConformalRegressor(net, scale="leverage", penalise_bias=value),
    "joint": lambda net, value: LastLayerConformalRegressor(net, scale="leverage", joint=value),
    "ensemble": lambda net, value: EnsembleConformalRegressor([net], scale="leverage", symmetric=value),
}


@pytest.mark.parametrize("kind", list(FLAGS))
@pytest.mark.parametrize("value", ["yes", "no", None, 2])
def test_what_is_neither_true_nor_false_is_not_taken_for_either(kind, value):
    with pytest.raises(ValueError, match=r"must be one of \[True, False\]; got"):
        FLAGS[kind](MLP(3, widths=(4,)), value).fit_train(*rows())


@pytest.mark.parametrize(
    "fit",
    [lambda net: LastLayerLaplace(net).fit, lambda net: LastLayerConformalRegressor(net, ridge="evidence").fit_train],
)
def test_noise_cannot_be_told_from_one_row(fit):
    with pytest.raises(ValueError, match="at least 2 training rows are needed to estimate the noise; got 1"):
        fit(MLP(3, widths=(4,)))(*rows(1))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_a_target_without_noise_gives_intervals_all_the_same(value):
    X, y = rows()
    net = MLP(3, widths=(4,))
    model = LastLayerConformalRegressor(net, scale="leverage", ridge="evidence").fit_train(X, np.full(60, value))
    _, interval = model.calibrate(X, y).predict_interval(X)
    inside = np.mean((interval[:, 0] <= y) & (y <= interval[:, 1]))

    assert np.isfinite(interval).all()
    assert inside >= 0.9
    assert (LastLayerLaplace(net).fit(X, np.full(60, value)).predict(X).aleatoric > 0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda net: LastLayerConformalRegressor(net).fit_train(*rows()),
        lambda net: LastLayerLaplace(net).fit(*rows()),
        lambda net: refit_head(net, *rows()),
    ],
    ids=["LastLayerConformalRegressor", "LastLayerLaplace", "refit_head"],
)
def test_what_is_not_a_network_is_not_measured(call):
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module; got str"):
        call("network")
