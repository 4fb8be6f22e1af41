"""Training of a network: Adam on mini-batches, early stopping on held-out rows, and no change after a failure."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sklearn.utils import check_random_state

from hatband.checks import check_at_least, check_between, check_in
from hatband.nn.measure.batches import home
from hatband.nn.measure.state import check_trainable, copied_state, learning, put_back_on_failure, seeded, usable_device
from hatband.nn.train.mlp import MLP
from hatband.nn.train.objective import LOSSES, Units, check_loss, standard_units
from hatband.nn.train.training_rows import EpochRows, RowFeed


class TrainingDivergedError(ArithmeticError):
    """A loss or a weight became NaN or infinite; the network was restored to its state before training."""


@dataclass(frozen=True)
class Epoch:
    """Losses of one epoch, in units in which predicting the mean of y costs 1 (squared) or 1/2 (gaussian).

    Parameters
    ----------
    number : int
        From 1 on.
    training_loss : float
        Mean over the batches of the epoch, as they were when each was taken.
    validation_loss : float or None
        On the rows held out, after the epoch; None without any.

    Examples
    --------
    >>> from hatband.nn import Epoch
    >>> Epoch(number=1, training_loss=0.9, validation_loss=0.8).validation_loss
    0.8
    """

    number: int
    training_loss: float
    validation_loss: float | None


@dataclass(frozen=True)
class History:
    """The record of training.

    Parameters
    ----------
    epochs : tuple of Epoch
        One entry per epoch.
    best_epoch : int
        The epoch whose weights the network has: that of least validation loss, the last one without validation.
    stopped_early : bool
        Whether the validation loss had stopped falling before the last epoch allowed.

    Examples
    --------
    >>> from hatband.nn import Epoch, History
    >>> History((Epoch(1, 0.9, None),), best_epoch=1, stopped_early=False).best_epoch
    1
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int
    stopped_early: bool


@learning()
def fit_network(
    module: Any,
    X: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    loss: Literal["squared", "gaussian"] = "squared",
    validation: Any = None,
    validation_size: float = 0.1,
    epochs: int = 200,
    patience: int = 20,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    random_state: Any = None,
    device: Any = None,
    progress: Callable[[Epoch], None] | None = None,
) -> History:
    """Minimise mean (y - mu(x))^2 or mean ((y - mu)^2 / (2 sigma^2) + log sigma) over the weights, by Adam.

    Any module with outputs (n,) or (n, q) is trained, in place; an `MLP` also gets its inputs and target
    standardised. The weights kept are those of least loss on the rows held out.

    Parameters
    ----------
    module : nn.Module
        The network; parameters with ``requires_grad=False`` do not change.
    X : array-like (n, k), tensor, or DataLoader of (x, y)
        Training rows: arrays as floating-point numbers, tensors of integers as the codes that they are.
    y : array-like (n,) or (n, q)
        Target; None when X is a loader.
    sample_weight : array-like (n,), optional
        Importance of each row of arrays, >= 0: losses, those of the rows held out included, and the standardisation
        are weighted means. Rows of weight 0 are left out.
    loss : {"squared", "gaussian"}, default="squared"
        "gaussian" is for a module with ``mean_and_log_noise(x)``, such as ``MLP(noise_head=True)``.
    validation : (X, y), (X, y, sample_weight) or DataLoader, optional
        Rows for early stopping, in place of rows held out of X. A loader X without it is trained on to the last epoch.
    validation_size : float or int, default=0.1
        Share or number of rows of an array X held out for early stopping; 0 trains on all, to the last epoch.
    epochs : int, default=200
        The most passes over the rows.
    patience : int, default=20
        Epochs without a smaller validation loss after which training stops.
    batch_size : int, default=64
        Rows in a mini-batch of arrays.
    learning_rate : float, default=3e-3
        Step size of Adam.
    weight_decay : float, default=1e-4
        Decoupled decay of weight matrices per unit of step size; biases are not shrunk.
    random_state : int, RandomState or None, default=None
        Draws the rows held out, the batches and dropout. No global generator of torch is changed.
    device : torch.device or str, optional
        Where to train, and where the module stays; by default where it is.
    progress : callable(Epoch), optional
        Called after every epoch.

    Returns
    -------
    History
        Losses of every epoch, and which was best.

    Raises
    ------
    ValueError
        When an argument is out of range, X or y holds NaN, the module's output is not shaped like y, or there is no
        such device.
    TrainingDivergedError
        When a loss or a weight becomes NaN or infinite. After this and any other error the weights are what they were.

    Notes
    -----
    Adam with decoupled weight decay: Loshchilov and Hutter (2019), *Decoupled weight decay regularization*, Alg. 2.
    Cost: a forward and a backward pass over the training rows per epoch, a forward pass over those held out.
    Modes (train, eval) are left as found. A module other than an `MLP` answers in units of y: where these are large or
    far from 0, standardise y, or steps of the learning rate do not get there: its losses stay above 1. The default step
    suits widths up to some hundred; from 1,000 on a tenth of it makes leverage depend less on the training run
    (``benchmarks/stability.py``).

    A batch costs the mean of weight times loss, the weights divided by their mean over all training rows: in
    expectation the gradient of the weighted mean. Rows repeated w times give the same as weight w where one batch holds
    all rows, none are held out, and there is neither dropout nor batch normalisation; else the same in expectation.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.nn import MLP, fit_network
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> history = fit_network(MLP(2, widths=(8,)), X, X.sum(axis=1), epochs=20, random_state=0)
    >>> history.epochs[-1].training_loss < history.epochs[0].training_loss
    True
    """
    settings = _settings(loss, epochs, patience, learning_rate, weight_decay)
    check_at_least(batch_size, 1, "batch_size")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a callable(epoch) or None; got {progress!r}.")
    check_trainable(module)
    check_loss(module, loss)
    device = home(module)[0] if device is None else usable_device(device)
    module.to(device)
    random = check_random_state(random_state)
    source = RowFeed(device, home(module)[1], isinstance(module, MLP), batch_size)
    seed = int(random.randint(2**31 - 1))
    if validation is None and y is not None:
        training, held_out = source.held_out((X, y, sample_weight), validation_size, random, seed)
    else:
        training, held_out = source.with_validation((X, y, sample_weight), validation, seed)
    with put_back_on_failure(module), seeded(seed, device):
        with standard_units(module, training) as units:
            history = _descend(module, (training, held_out), units, settings, progress)
        _check_weights(module, settings)
    return history


@dataclass(frozen=True)
class _Settings:
    loss: str
    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float


def _settings(loss: str, epochs: int, patience: int, learning_rate: float, weight_decay: float) -> _Settings:
    check_in(loss, tuple(LOSSES), "loss")
    return _Settings(
        loss,
        check_at_least(epochs, 1, "epochs"),
        check_at_least(patience, 1, "patience"),
        check_between(learning_rate, 0.0, math.inf, "learning_rate", low_allowed=False),
        check_between(weight_decay, 0.0, math.inf, "weight_decay"),
    )


class _Best:
    """The weights of least validation loss and their epoch; the latest weights if there is no validation."""

    def __init__(self) -> None:
        self.epoch = 0
        self._loss = math.inf
        self._state: dict[str, Any] | None = None

    def look_at(self, epoch: Epoch, module: Any) -> None:
        if epoch.validation_loss is None:
            self.epoch = epoch.number
        elif epoch.validation_loss < self._loss:
            self.epoch, self._loss, self._state = epoch.number, epoch.validation_loss, copied_state(module)

    def put_into(self, module: Any) -> None:
        if self._state is not None:
            module.load_state_dict(self._state)


def _descend(
    module: Any,
    rows: tuple[EpochRows, EpochRows | None],
    units: Units,
    settings: _Settings,
    progress: Callable[[Epoch], None] | None,
) -> History:
    """Train until the validation loss stops falling, and give the module its best weights."""
    (training, held_out), loss = rows, LOSSES[settings.loss]
    optimizer, best, epochs = _adam(module, settings), _Best(), []
    for number in range(1, settings.epochs + 1):
        module.train()
        training_loss = _train(module, training, units, loss, optimizer)
        module.eval()
        validation_loss = None if held_out is None else _loss_on(module, held_out, units, loss)
        epoch = Epoch(number, training_loss, validation_loss)
        _check_losses(epoch, settings)
        epochs.append(epoch)
        best.look_at(epoch, module)
        if progress is not None:
            progress(epoch)
        if number - best.epoch >= settings.patience:
            break
    best.put_into(module)
    return History(tuple(epochs), best.epoch, stopped_early=len(epochs) < settings.epochs)


def _adam(module: Any, settings: _Settings) -> Any:
    free = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in free if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in free if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate)


def _train(module: Any, rows: EpochRows, units: Units, loss: Callable[..., Any], optimizer: Any) -> float:
    """Take one step per batch, and return the mean loss over the rows."""
    total, count = 0.0, 0
    for batch in rows.shuffled():
        optimizer.zero_grad(set_to_none=True)
        value = loss(module, batch, units)
        if not value.requires_grad:
            raise ValueError(
                f"the output of {type(module).__name__} must be differentiable in its parameters; it is not. Remove "
                "detach() or no_grad() from its forward."
            )
        value.backward()
        optimizer.step()
        total, count = total + value.detach() * len(batch.targets), count + len(batch.targets)
    return float(total) / max(count, 1)


@torch.no_grad()
def _loss_on(module: Any, rows: EpochRows, units: Units, loss: Callable[..., Any]) -> float:
    total, count = 0.0, 0
    for batch in rows.blocks():
        total, count = total + loss(module, batch, units) * len(batch.targets), count + len(batch.targets)
    if not count:
        raise ValueError("validation must hold at least one row; the loader yielded no batch.")
    return float(total) / count


def _check_losses(epoch: Epoch, settings: _Settings) -> None:
    for name, value in (("training", epoch.training_loss), ("validation", epoch.validation_loss)):
        if value is not None and not math.isfinite(value):
            raise TrainingDivergedError(_diverged(f"the {name} loss became {value} in epoch {epoch.number}", settings))


def _check_weights(module: Any, settings: _Settings) -> None:
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingDivergedError(_diverged(f"{name} holds NaN or infinity at the end", settings))


def _diverged(what: str, settings: _Settings) -> str:
    return (
        f"training diverged: {what}, with learning_rate={settings.learning_rate} and loss={settings.loss!r}. The "
        f"network was restored. Pass a smaller learning_rate, such as {settings.learning_rate / 10:g}, and "
        "look for NaN or huge values in the rows."
    )
