"""One epoch of one batch, by hand: the loss it reports and the step it takes."""

import numpy as np
import pytest
import torch
from torch import nn

from hatband.nn import MLP, fit_network
from hatband.nn.measure.state import seeded

ROWS = 50
ONE_STEP = {"epochs": 1, "batch_size": ROWS, "validation_size": 0, "random_state": 0}


def drawn(n_outputs=2):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((ROWS, 3))
    return X, 7 + np.array([5.0, 0.2])[:n_outputs] * rng.standard_normal((ROWS, n_outputs))


class Noisy(nn.Module):
    """A mean and log sigma of its own, in units of y."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_noise = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.mean(x)

    def mean_and_log_noise(self, x):
        return self.mean(x), self.log_noise(x)


def noisy(device):
    with seeded(0):
        return Noisy().double().to(device)


def outputs(module, X, device):
    with torch.no_grad():
        return [part.cpu().numpy() for part in module.mean_and_log_noise(torch.tensor(X, device=device))]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["squared", "gaussian"])
def test_the_loss_is_its_formula_relative_to_the_spread_of_y(loss, weighted, device):
    module, (X, y) = noisy(device), drawn()
    weight = np.random.default_rng(4).uniform(0.1, 3, ROWS) if weighted else np.ones(ROWS)
    mean, log_noise = outputs(module, X, device)
    middle = np.average(y, axis=0, weights=weight)
    spread = np.sqrt(np.average((y - middle) ** 2, axis=0, weights=weight))
    if loss == "squared":
        losses = ((y - mean) / spread) ** 2
    else:
        losses = (y - mean) ** 2 / (2 * np.exp(2 * log_noise)) + log_noise - np.log(spread)

    history = fit_network(module, X, y, loss=loss, sample_weight=weight if weighted else None, **ONE_STEP)

    expected = np.average(losses.mean(axis=1), weights=weight)
    assert history.epochs[0].training_loss == pytest.approx(expected, rel=1e-10)


def test_a_perceptron_starts_from_its_outputs_in_standard_units():
    X, y = drawn()
    with seeded(0):
        module = MLP(3, 2, widths=(8,), noise_head=True).double()
    standard, (mean, log_noise) = (
        (y - y.mean(axis=0)) / y.std(axis=0),
        outputs(module, (X - X.mean(0)) / X.std(0), "cpu"),
    )

    history = fit_network(module, X, y, loss="gaussian", **ONE_STEP)

    expected = ((standard - mean) ** 2 / (2 * np.exp(2 * log_noise)) + log_noise).mean()
    assert history.epochs[0].training_loss == pytest.approx(expected, rel=1e-6)


def test_the_first_step_of_adam_has_the_size_asked_for_and_shrinks_matrices_alone(device):
    # Loshchilov and Hutter (2019), algorithm 2: w (1 - rate decay) - rate g / (|g| + 1e-8) at the first step.
    rate, decay = 0.01, 0.7
    module, (X, y) = noisy(device), drawn()
    before = {name: value.detach().cpu().clone() for name, value in module.named_parameters()}
    _, log_noise = outputs(module, X, device)
    error = y - outputs(module, X, device)[0]
    slopes = {"mean": -error / np.exp(2 * log_noise), "log_noise": 1 - error**2 / np.exp(2 * log_noise)}

    fit_network(module, X, y, loss="gaussian", learning_rate=rate, weight_decay=decay, **ONE_STEP)

    for name, slope in slopes.items():
        layer = getattr(module, name)
        weight, bias = (before[f"{name}.{part}"].numpy() for part in ("weight", "bias"))
        expected = weight * (1 - rate * decay) - rate * np.sign(slope.T @ X)
        np.testing.assert_allclose(layer.weight.detach().cpu(), expected, atol=1e-7)
        np.testing.assert_allclose(layer.bias.detach().cpu(), bias - rate * np.sign(slope.sum(axis=0)), atol=1e-7)


class Watched(nn.Module):
    """A network that notes how it was called, and with which rows."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Linear(3, 1), []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled(), x[:, 0].tolist()))
        return self.inner(x)


def watched(**settings):
    module, (X, y) = Watched().double().eval(), drawn(1)
    fit_network(module, X, y, random_state=0, **settings)
    return module.calls, X


def test_rows_to_learn_from_are_seen_in_training_mode_and_those_to_stop_by_in_evaluation():
    calls, _ = watched(epochs=3, batch_size=10, validation_size=10)

    assert [call[:2] for call in calls] == 3 * (4 * [(True, True)] + [(False, False)])


def test_every_epoch_draws_its_batches_anew_and_has_every_row_once_but_for_those_held_out():
    calls, X = watched(epochs=3, batch_size=10, validation_size=10)

    epochs = [[row for call in calls[start : start + 4] for row in call[2]] for start in (0, 5, 10)]
    held = [sorted(calls[place][2]) for place in (4, 9, 14)]
    assert all(sorted(rows + held[0]) == sorted(X[:, 0]) for rows in epochs)
    assert held[0] == held[1] == held[2]
    assert [len(call[2]) for call in calls[:5]] == 5 * [10]
    assert epochs[0] != epochs[1] != epochs[2]
