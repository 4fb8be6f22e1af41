"""The standard deviation beside a prediction: in units of y, from calibration rows, for any scale."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from hatband import LeverageWarning
from hatband.nn import LastLayerConformalRegressor, NeuralConformalRegressor
from hatband.scales import Scale


def estimator(**settings):
    return NeuralConformalRegressor(**{"widths": (8,), "epochs": 5, "scale": "leverage", "random_state": 0, **settings})


def rows(n=160, seed=0, n_outputs=None):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    y = np.sin(X[:, :1]) * np.arange(1, (n_outputs or 1) + 1) + 0.3 * rng.standard_normal((n, n_outputs or 1))
    return X, y if n_outputs else y[:, 0]


def column(values):
    """Values of each row (m,) beside y (m,) or (m, q)."""
    return values[:, None]


class Shifted(Scale):
    """Constant width around the prediction plus 3."""

    def fit(self, rows, residuals=None, sample_weight=None):
        return self

    def predict(self, rows):
        return np.full((len(rows), 1), 3.0), np.full((len(rows), 1), 2.0)


# ---------------------------------------------------------------- what it is


@pytest.mark.parametrize("loss", ["squared", "gaussian"])
@pytest.mark.parametrize("n_outputs", [None, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_predictive_deviation_of_the_last_layer_with_noise_from_the_calibration_rows(loss, n_outputs, weighted):
    X, y = rows(n_outputs=n_outputs)
    model = estimator(loss=loss).fit(X, y, np.arange(160) % 3.0 if weighted else None)
    held, new = model.calibration_indices_, rows(30, 1)[0]
    shares = (y[held] - model.predict(X[held])).reshape(len(held), -1) ** 2 / (1 + column(model.leverage(X[held])))
    expected = np.sqrt(shares.mean(axis=0) * (1 + column(model.leverage(new))))

    prediction, deviation = model.predict(new, return_std=True)

    assert prediction.shape == deviation.shape == ((30,) if n_outputs is None else (30, n_outputs))
    np.testing.assert_array_equal(prediction, model.predict(new))
    np.testing.assert_allclose(deviation.reshape(30, -1), expected, rtol=1e-9)


def test_is_in_units_of_y():
    X, y = rows()
    plain, other = (estimator().fit(X, target).predict(X, return_std=True)[1] for target in (y, 1_024 * y + 2**15))

    np.testing.assert_allclose(other, 1_024 * plain, rtol=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_is_about_the_prediction_where_the_scale_shifts_the_interval(symmetric):
    X, y = rows()
    model = estimator(scale=Shifted(), symmetric=symmetric).fit(X, y)
    held = model.calibration_indices_
    expected = np.sqrt(np.mean((y[held] - model.predict(X[held])) ** 2))

    np.testing.assert_allclose(model.predict(X, return_std=True)[1], np.full(160, expected), rtol=1e-9)


def test_of_a_learned_scale_is_in_proportion_to_its_interval():
    X, y = rows(800)
    model = estimator(scale="magnitude").fit(X, y)
    ratio = model.predict(X, return_std=True)[1] / np.diff(model.predict_interval(X)[1])[:, 0]

    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_of_normal_errors_is_right_to_the_precision_that_the_calibration_rows_allow(device):
    generator = np.random.default_rng(0)
    net = nn.Linear(3, 1).double().to(device)
    X = generator.standard_normal((2_500, 3))
    with torch.no_grad():
        mean = net(torch.as_tensor(X, device=device)).cpu().numpy()[:, 0]
    y = mean + 5 * generator.standard_normal(len(X))
    model = LastLayerConformalRegressor(net, scale="constant").fit_train(X[:100]).calibrate(X[100:500], y[100:500])
    prediction, deviation = model.predict(X[500:], return_std=True)
    found = np.mean(((y[500:] - prediction) / deviation) ** 2)

    # A ratio of two mean squares of normal errors; false alarm 1e-6.
    lower, upper = stats.f(2_000, 400).ppf([5e-7, 1 - 5e-7])
    assert lower <= found <= upper


def test_is_infinite_where_the_training_rows_say_nothing():
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    X = np.linspace(0.1, 3, 60)[:, None]
    model = LastLayerConformalRegressor(net, scale="leverage", ridge=0.0).fit_train(X)
    model.calibrate(X[::2], np.cos(X[::2, 0]))
    _, deviation = model.predict(np.array([[1.0], [-1.0]]), return_std=True)

    assert np.isfinite(deviation[0])
    assert deviation[1] == np.inf
    with pytest.warns(LeverageWarning, match="infinite leverage"):
        assert np.isinf(model.predict_interval(np.array([[-1.0]]))[1]).all()


# ---------------------------------------------------------------- the contract


def test_survives_pickle_copy_clone_refit_and_files(tmp_path):
    X, y = rows(n_outputs=2)
    model = estimator().fit(X, y)
    _, deviation = model.predict(X, return_std=True)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone(model).fit(X, y), model.fit(X, y)):
        np.testing.assert_array_equal(other.predict(X, return_std=True)[1], deviation)
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model.save(tmp_path)
    np.testing.assert_allclose(
        NeuralConformalRegressor.load(tmp_path).predict(X, return_std=True)[1], deviation, rtol=1e-10
    )


def test_comes_through_an_outer_pipeline_and_leaves_no_trace():
    X, y = rows()
    model = make_pipeline(StandardScaler(), estimator()).fit(X, y)
    before = pickle.dumps(model)

    assert model.predict(X, return_std=True)[1].shape == (160,)
    assert pickle.dumps(model) == before


def test_follows_the_latest_calibration():
    X, y = rows()
    model = estimator().fit_train(X, y)
    near, far = (model.calibrate(X, model.predict(X) + error).predict(X, return_std=True)[1] for error in (0.1, 10.0))

    np.testing.assert_allclose(far, 100 * near, rtol=1e-5)


def test_needs_calibration_rows_and_is_not_asked_for_beside_an_interval():
    X, y = rows()
    model = estimator()
    with pytest.raises(NotFittedError, match="Call fit, or fit_train and calibrate, before predict"):
        model.predict(X, return_std=True)
    model.fit_train(X, y)
    for trained in (model, model.model_):
        with pytest.raises(NotFittedError, match="trained but not calibrated; call calibrate first"):
            trained.predict(X, return_std=True)
    with pytest.raises(ValueError, match="Pass one of return_interval=True, return_width=True and return_std=True"):
        model.calibrate(X, y).predict(X, return_interval=True, return_std=True)
