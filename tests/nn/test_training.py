"""Training: what it minimises, when it stops, and what it leaves as it found it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hatband.nn import MLP, TrainingDivergedError, fit_network
from hatband.nn.measure.state import seeded
from nn.cases import loader


def rows(n=200, seed=0, n_outputs=None):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    y = X @ rng.standard_normal((3, n_outputs or 1)) + 0.1 * rng.standard_normal((n, n_outputs or 1))
    return X, y if n_outputs else y[:, 0]


def perceptron(device="cpu", **settings):
    with seeded(0):
        return MLP(3, **{"widths": (8,), **settings}).to(device)


@torch.no_grad()
def predicted(module, X):
    device = next(module.parameters()).device
    return module.eval()(torch.as_tensor(X).to(device)).cpu().double().numpy()


def same(state, module):
    return all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---------------------------------------------------------------- what is minimised


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_a_linear_function_is_learned(device, n_outputs):
    X, y = rows(n_outputs=n_outputs)
    module = perceptron(device, n_outputs=n_outputs or 1)
    fit_network(module, X, y, epochs=100, random_state=0)
    errors = y.reshape(len(y), -1) - predicted(module, X)

    assert (errors.var(axis=0) < 0.05 * y.reshape(len(y), -1).var(axis=0)).all()


@pytest.mark.parametrize("loss", ["squared", "gaussian"])
def test_units_of_inputs_and_target_do_not_matter(loss):
    X, y = rows(n_outputs=2)
    factors, offsets = np.array([1e3, 1e-3]), np.array([-1e4, 5.0])
    plain, moved = (perceptron(n_outputs=2, noise_head=True) for _ in range(2))
    fit_network(plain, X, y, loss=loss, epochs=5, random_state=0)
    fit_network(moved, 50 * X - 7, y * factors + offsets, loss=loss, epochs=5, random_state=0)

    inside = (predicted(moved, 50 * X - 7) - offsets) / factors
    # Steps of Adam amplify the rounding of float32, relative to an offset of 1e4 in units of 1e3.
    np.testing.assert_allclose(inside, predicted(plain, X), atol=2e-3)


def test_the_gaussian_loss_learns_where_noise_is_large():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 1))
    y = 100 * np.where(X[:, 0] < 0, 0.1, 1.0) * rng.standard_normal(600)
    with seeded(0):
        module = MLP(1, widths=(16,), noise_head=True)
    fit_network(module, X, y, loss="gaussian", epochs=60, random_state=0)
    with torch.no_grad():
        quiet, loud = module.eval().noise(torch.tensor([[-0.7], [0.7]]))[:, 0].tolist()

    assert 5 < quiet < 25
    assert 60 < loud < 160


def test_a_stronger_weight_decay_leaves_smaller_weights():
    X, y = rows()
    weak, strong = perceptron(), perceptron()
    fit_network(weak, X, y, epochs=20, weight_decay=0.0, random_state=0)
    fit_network(strong, X, y, epochs=20, weight_decay=10.0, random_state=0)

    assert strong.hidden[0].weight.norm() < 0.7 * weak.hidden[0].weight.norm()


def test_a_target_and_a_column_that_do_not_vary_do_no_harm():
    X, _ = rows()
    X[:, 1] = 1e6 / 3
    module = perceptron()
    fit_network(module, X, np.full(200, 1e6 / 3), epochs=3, random_state=0)

    np.testing.assert_allclose(predicted(module, X), 1e6 / 3, rtol=1e-5)


class Flat(nn.Module):
    """One number per row, without an axis."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x).squeeze(-1)


class Two(nn.Module):
    """A sum of two linear layers, each with an input of its own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(2, 1), nn.Linear(1, 1)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_a_module_of_several_inputs_is_trained_from_a_loader(kind):
    X, y = (torch.tensor(part) for part in rows(60))
    pairs = [("left", X[:, :2]), ("right", X[:, 2:])]
    inputs = dict(pairs) if kind is dict else tuple(part for _, part in pairs)
    history = fit_network(Two(), [(inputs, y)], epochs=300, learning_rate=0.05, random_state=0)

    assert history.epochs[-1].training_loss < 0.05


@pytest.mark.parametrize("column", [False, True])
def test_any_module_is_trained_in_units_of_y_whether_y_is_a_column_or_not(device, column):
    X, y = rows(129)  # 117 kept rows: two batches, neither of one row
    with seeded(0):
        module = Flat().to(device)
    history = fit_network(module, X, y[:, None] if column else y, epochs=30, random_state=0)

    assert history.epochs[-1].training_loss < 0.6 < history.epochs[0].training_loss


# ---------------------------------------------------------------- when it stops


def test_the_weights_are_those_of_least_validation_loss(device):
    X, y = rows(80)
    held = rows(40, seed=5)
    module = perceptron(device)
    history = fit_network(module, X, y, validation=held, epochs=30, patience=5, learning_rate=0.05, random_state=0)
    best = min(history.epochs, key=lambda epoch: epoch.validation_loss)
    loss = np.mean((held[1] - predicted(module, held[0])[:, 0]) ** 2) / y.var()

    assert history.best_epoch == best.number
    assert history.stopped_early == (len(history.epochs) < 30)
    assert loss == pytest.approx(best.validation_loss, rel=1e-4)


def test_training_stops_when_patience_is_at_its_end():
    X, _ = rows(100)
    noise = np.random.default_rng(1).standard_normal(100)
    history = fit_network(perceptron(), X, noise, epochs=200, patience=3, learning_rate=0.05, random_state=0)

    assert history.stopped_early
    assert len(history.epochs) == history.best_epoch + 3


def test_without_rows_held_out_training_goes_to_the_last_epoch():
    X, y = rows()
    tensors = (torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    for given in ((X, y), (loader(*tensors), None)):
        history = fit_network(perceptron(), *given, validation_size=0, epochs=4, patience=1, random_state=0)
        assert (history.best_epoch, history.stopped_early) == (4, False)
        assert history.epochs[0].validation_loss is None


def test_loaders_train_and_validate(device):
    X, y = (torch.tensor(part) for part in rows())
    held = tuple(torch.tensor(part) for part in rows(50, seed=2))
    by_loader, by_array = perceptron(device), perceptron(device)
    first = fit_network(by_loader, loader(X, y, 200), validation=loader(*held), epochs=5, random_state=0)
    second = fit_network(by_array, X, y, validation=held, batch_size=200, epochs=5, random_state=0)

    for one, other in zip(first.epochs, second.epochs, strict=True):
        assert one.training_loss == pytest.approx(other.training_loss, rel=1e-4)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)


def test_progress_hears_of_every_epoch():
    heard = []
    history = fit_network(perceptron(), *rows(), epochs=3, random_state=0, progress=heard.append)

    assert tuple(heard) == history.epochs
    assert [epoch.number for epoch in heard] == [1, 2, 3]


# ---------------------------------------------------------------- what it leaves alone


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_seed_gives_the_same_weights_and_global_generators_stay_as_they_were(device, dropout):
    first, second = (perceptron(device, dropout=dropout) for _ in range(2))
    fit_network(first, *rows(), epochs=3, random_state=4)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.rand(1)
    np.random.rand()  # noqa: NPY002
    torch.set_rng_state(states[0])
    between = np.random.get_state()[1].copy()  # noqa: NPY002
    fit_network(second, *rows(), epochs=3, random_state=4)

    assert same(copied(first), second)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], between)  # noqa: NPY002


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_generator_of_a_gpu_stays_as_it_was():
    module, state = perceptron("cuda", dropout=0.3), torch.cuda.get_rng_state()
    fit_network(module, *rows(), epochs=1, random_state=4)

    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_modes_gradients_and_frozen_parameters_are_left_as_found(device):
    with seeded(0):
        module = Flat().to(device).eval()
    module.layers[2].train()
    modes = [part.training for part in module.modules()]
    module.layers[0].weight.requires_grad_(False)
    frozen = module.layers[0].weight.clone()
    fit_network(module, *rows(), epochs=2, random_state=0)

    assert [part.training for part in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(module.layers[0].weight, frozen)


def test_the_callers_arrays_are_left_alone():
    X, y = rows()
    X.setflags(write=False)
    y.setflags(write=False)
    fit_network(perceptron(), X, y, epochs=1, random_state=0)

    np.testing.assert_array_equal(X, rows()[0])


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("kind", ["perceptron", "other"])
def test_a_loss_that_is_not_finite_is_an_error_and_the_weights_are_put_back(kind):
    with seeded(0):
        module = perceptron() if kind == "perceptron" else Flat()
    before = copied(module)
    with pytest.raises(TrainingDivergedError, match=r"learning_rate=1e\+30.*restored.*smaller learning_rate"):
        fit_network(module, *rows(), learning_rate=1e30, epochs=5, random_state=0)
    assert same(before, module)


def test_a_last_step_to_weights_that_are_not_finite_is_seen():
    X, y = rows(50)
    module = nn.Sequential(nn.Linear(3, 1)).double()
    before = copied(module)
    with pytest.raises(TrainingDivergedError, match="holds NaN or infinity at the end"):
        fit_network(
            module,
            X,
            y,
            epochs=1,
            batch_size=50,
            validation_size=0,
            learning_rate=math.nextafter(math.inf, 0),
            weight_decay=1e10,
            random_state=0,
        )
    assert same(before, module)


def test_nan_in_a_loader_is_an_error_and_not_a_network_of_nan():
    X, y = (torch.tensor(part, dtype=torch.float32) for part in rows(50))
    y[7] = math.nan
    module = Flat()
    before = copied(module)
    with pytest.raises(ValueError, match=r"column 0 of y must have a finite mean.*got mean nan"):
        fit_network(module, loader(X, y), epochs=2, random_state=0)
    assert same(before, module)


def test_an_interruption_puts_the_weights_back(device):
    module = perceptron(device)
    before = copied(module)

    def interrupt(epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_network(module, *rows(), epochs=5, random_state=0, progress=interrupt)
    assert same(before, module)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "absolute"}, "loss must be one of"),
        ({"loss": "gaussian"}, "MLP has none"),
        ({"epochs": 0}, "epochs must be an integer >= 1; got 0"),
        ({"patience": 2.5}, "patience must be an integer"),
        ({"batch_size": True}, "batch_size must be an integer >= 1; got True"),
        ({"learning_rate": 0.0}, r"learning_rate must be a number in \(0.0, inf\); got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be a number"),
        ({"weight_decay": -1.0}, "weight_decay must be a number"),
        ({"validation_size": 1.0}, "validation_size must be a number"),
        ({"validation_size": 200}, "holds out 200 of n_samples = 200 rows"),
        ({"X": np.full((200, 3), np.nan)}, "X must be finite; row 0"),
        ({"y": np.full(200, np.inf)}, "y must be finite; row 0"),
        ({"y": np.zeros(199)}, "inconsistent numbers of samples"),
        (
            {"X": np.zeros((200, 4))},
            r"X must have shape \(n, 3\), the columns for which the network was built; got shape \(192, 4\)",
        ),
        ({"y": np.zeros((200, 2))}, r"y must have shape \(n, 1\), the columns"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused_and_the_weights_stay(wrong, message):
    X, y = rows()
    module = perceptron()
    before = copied(module)
    settings = {"X": X, "y": y, "batch_size": 64, "validation_size": 8, "random_state": 0, **wrong}
    with pytest.raises(ValueError, match=message):
        fit_network(module, **settings)
    assert same(before, module)


def test_the_output_of_any_module_is_never_broadcast_against_the_target():
    X, _ = rows()
    with pytest.raises(ValueError, match=r"Flat must return .* shape \(60, 2\) like y; got shape \(60, 1\)"):
        fit_network(Flat(), X, np.zeros((200, 2)), random_state=0)


def test_a_module_without_free_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        fit_network(perceptron().requires_grad_(False), *rows(), random_state=0)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda X, y: iter(loader(X, y)), "readable more than once"),
        (lambda X, y: loader(X), r"need targets.*batches \(inputs, y\)"),
        (lambda X, y: X, "need targets"),
        (lambda X, y: [(X, y, y)], "a batch must be inputs or a pair"),
    ],
    ids=["read once", "no targets", "array alone", "three parts"],
)
def test_rows_that_cannot_be_trained_on_are_refused(give, message):
    module = perceptron()
    before = copied(module)
    with pytest.raises(ValueError, match=message):
        fit_network(module, give(*(torch.tensor(part, dtype=torch.float32) for part in rows(50))), epochs=2)
    assert same(before, module)


def test_a_loader_without_batches_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        fit_network(perceptron(), [], random_state=0)
