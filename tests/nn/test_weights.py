"""Weights in training: weight w is the row w times, weight 0 is no row, and calibration knows no weights."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from hatband.nn import MLP, NeuralConformalRegressor, fit_network
from hatband.nn.measure.state import seeded
from hatband.nn.train.objective import moments
from hatband.nn.train.table import TrainingTable, train
from hatband.nn.train.training_rows import ShuffledRows, TrainingBatch

# One batch of all rows, and none held out: repetition is exact but for rounding.
WHOLE = {"batch_size": 10_000, "validation_size": 0, "epochs": 30, "random_state": 0}


def rows(n=120, seed=0, n_outputs=None):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    y = np.sin(X[:, :1]) + 0.3 * rng.standard_normal((n, n_outputs or 1))
    return X, y if n_outputs else y[:, 0]


def weights(n=120, seed=1):
    return np.random.default_rng(seed).integers(0, 4, n)


def repeated(X, y, weight):
    return np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0)


def perceptron(device="cpu", **settings):
    with seeded(0):
        return MLP(3, **{"widths": (8,), **settings}).to(device)


@torch.no_grad()
def predicted(module, X):
    return module.eval()(torch.as_tensor(X).to(next(module.parameters()))).cpu().double().numpy()


def estimator(**settings):
    return NeuralConformalRegressor(**{"widths": (8,), "epochs": 5, "scale": "leverage", "random_state": 0, **settings})


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("loss", ["squared", "gaussian"])
def test_integer_weights_are_repeated_rows(device, loss):
    X, y = rows(n_outputs=2)
    w = weights()
    weighted, repeats = (perceptron(device, n_outputs=2, noise_head=True) for _ in range(2))
    first = fit_network(weighted, X, y, sample_weight=w, loss=loss, **WHOLE)
    second = fit_network(repeats, *repeated(X, y, w), loss=loss, **WHOLE)

    np.testing.assert_allclose(predicted(weighted, X), predicted(repeats, X), atol=1e-4)
    assert first.epochs[-1].training_loss == pytest.approx(second.epochs[-1].training_loss, rel=1e-4)


def test_any_module_is_trained_with_weights():
    X, y = rows()
    w = weights()
    with seeded(0):
        start = torch.nn.Linear(3, 1).state_dict()
    nets = [torch.nn.Linear(3, 1) for _ in range(2)]
    for net, (given, weight) in zip(nets, [((X, y), w), (repeated(X, y, w), None)], strict=True):
        net.load_state_dict(start)
        fit_network(net, *given, sample_weight=weight, **WHOLE)

    np.testing.assert_allclose(predicted(nets[0], X), predicted(nets[1], X), atol=1e-5)


def test_a_common_factor_of_the_weights_changes_nothing():
    X, y = rows()
    w = weights() + 0.5
    nets = [perceptron() for _ in range(3)]
    for net, factor in zip(nets, (1.0, 2.0**40, 2.0**1000), strict=True):
        fit_network(net, X, y, sample_weight=factor * w, epochs=5, random_state=0)

    for net in nets[1:]:
        np.testing.assert_array_equal(predicted(net, X), predicted(nets[0], X))


def test_the_loss_of_rows_held_out_is_weighted():
    X, y = rows()
    held, w = rows(60, 5), weights(60)
    histories = [
        fit_network(perceptron(), X, y, validation=given, epochs=4, random_state=0)
        for given in ((*held, w), repeated(*held, w))
    ]

    for one, other in zip(histories[0].epochs, histories[1].epochs, strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-5)


def test_rows_of_weight_zero_may_hold_anything_finite():
    X, y = rows()
    w = (np.arange(120) % 3 > 0).astype(float)
    wild = np.where(w > 0, y, 1e30), np.where(w[:, None] > 0, X, -1e30)
    plain, other = perceptron(), perceptron()
    fit_network(plain, X, y, sample_weight=w, **WHOLE)
    fit_network(other, wild[1], wild[0], sample_weight=w, **WHOLE)

    np.testing.assert_allclose(predicted(other, X), predicted(plain, X), atol=1e-5)


def test_weights_have_mean_one_over_all_rows_and_move_with_them():
    X, y, w = torch.arange(10.0)[:, None], torch.arange(10.0)[:, None], torch.arange(10.0)
    batches = list(ShuffledRows(TrainingBatch(X, y, w), 3, torch.Generator().manual_seed(0)).shuffled())

    assert torch.cat([batch.weight for batch in batches]).mean() == pytest.approx(1.0)
    for batch in batches:
        np.testing.assert_allclose(batch.weight, batch.inputs[:, 0] / 4.5, rtol=1e-6)


@pytest.mark.parametrize("cut", [1, 50, 120])
def test_weighted_moments_are_those_of_repeated_rows(cut):
    X, _ = rows()
    w = weights()
    w[:40] = 0  # a block of no weight
    parts = [(torch.tensor(X[i : i + cut]), torch.tensor(w[i : i + cut])) for i in range(0, 120, cut)]
    found, expected = moments(parts), np.repeat(X, w, axis=0)

    np.testing.assert_allclose(found.mean, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.scale, expected.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample_weight": -np.ones(120)}, "sample_weight must be finite and >= 0; row 0 has -1"),
        ({"sample_weight": np.full(120, np.nan)}, "sample_weight must be finite and >= 0; row 0 has nan"),
        ({"sample_weight": np.zeros(120)}, "must not be zero for every row"),
        ({"sample_weight": np.ones(119)}, r"one entry per row, shape \(120,\); got shape \(119,\)"),
        ({"sample_weight": np.eye(120)[0]}, "which leaves none"),
        ({"sample_weight": 1 - np.eye(120)[0], "X": [rows()], "y": None}, "only with arrays X and y"),
        ({"validation": (*rows(), np.ones(3))}, "one entry per row"),
        ({"validation": (*rows(), None, None)}, "got 4 parts"),
    ],
    ids=str,
)
def test_invalid_weights_are_refused_and_the_network_stays(wrong, message):
    X, y = rows()
    module = perceptron()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        fit_network(module, **{"X": X, "y": y, "epochs": 1, "random_state": 0, **wrong})
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())


# ---------------------------------------------------------------- the estimator


class SameSeeds:
    """Draws the same seeds for any number of rows, as a RandomState does not."""

    def permutation(self, n):
        return np.arange(n)

    def randint(self, high, size):
        return np.arange(size)


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_training_and_leverage_of_an_estimator_with_integer_weights_are_those_of_repeated_rows(n_outputs):
    X, y = rows(n_outputs=n_outputs)
    w = weights()
    one = train(estimator(**WHOLE), TrainingTable(X, y, w), SameSeeds())["model_"]
    other = train(estimator(**WHOLE), TrainingTable(*repeated(X, y, w), None), SameSeeds())["model_"]

    np.testing.assert_allclose(one.predict(X), other.predict(X), atol=1e-4)
    np.testing.assert_allclose(one.leverage(X), other.leverage(X), rtol=1e-3)
    assert one.space_.ridge == pytest.approx(other.space_.ridge, rel=1e-4)


def test_leverage_is_by_the_weighted_gram_matrix():
    X, y = rows()
    w = weights() + 0.25
    model = estimator(validation_size=0).fit_train(X, y, w)
    with torch.no_grad():
        phi = model.module_.features(torch.tensor(X, dtype=torch.float32)).double().numpy()
    centred = phi - np.average(phi, axis=0, weights=w)
    gram = (w[:, None] * centred).T @ centred
    inverse = np.linalg.inv(gram + 1e-4 * np.trace(gram) / 8 * np.eye(8))

    expected = 1 / w.sum() + np.einsum("ij,jk,ik->i", centred, inverse, centred)
    np.testing.assert_allclose(model.leverage(X), expected, rtol=1e-6)


def test_calibration_is_not_weighted():
    X, y = rows(200)
    w = np.ones(200)
    model = estimator().fit(X, y, w)
    plain = model.predict_interval(X)[1]
    w[model.calibration_indices_] = 1e6

    np.testing.assert_array_equal(estimator().fit(X, y, w).predict_interval(X)[1], plain)


def test_equal_weights_are_the_same_as_no_weights():
    X, y = rows(200)

    np.testing.assert_allclose(
        estimator().fit(X, y, np.full(200, 3.0)).predict(X), estimator().fit(X, y).predict(X), atol=1e-3
    )


def test_a_scale_does_not_learn_from_rows_of_weight_zero():
    X, y = rows(800)
    w = (np.arange(800) % 2).astype(float)
    model = estimator(scale="magnitude").fit(X, y, w)

    assert 0 < len(model.model_.learned_from_.residuals) < 120
    np.testing.assert_array_equal(model.predict(X), clone(model).fit(X, y, w).predict(X))


@pytest.mark.filterwarnings("ignore:AutoScale uses the leverage scale")
def test_a_scale_without_rows_to_learn_from_falls_back_as_it_does_without_weights():
    X, y = rows()

    assert estimator(scale="auto", validation_size=0).fit(X, y, weights()).model_.learned_from_ is None


def test_invalid_weights_leave_the_estimator_as_it_was():
    X, y = rows()
    model = estimator().fit(X, y)
    before = model.predict_interval(X)[1]
    on_calibration_rows = np.isin(np.arange(120), model.calibration_indices_)
    for wrong in (np.ones(7), np.zeros(120), -np.ones(120), on_calibration_rows):
        with pytest.raises(ValueError, match="sample_weight must"):
            model.fit(X, y, wrong)

    np.testing.assert_array_equal(model.predict_interval(X)[1], before)


def test_saved_models_keep_the_weighted_statistics(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    X, y = rows()
    model = estimator().fit(X, y, weights())
    model.save(tmp_path)

    np.testing.assert_allclose(NeuralConformalRegressor.load(tmp_path).leverage(X), model.leverage(X), rtol=1e-10)
