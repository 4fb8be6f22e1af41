"""What the training rows give a NeuralConformalRegressor: the network, and space and scale around it."""

from typing import Any

import numpy as np

from hatband._checks_network import check_validation_size
from hatband._typing import Array
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.network import MLP
from hatband.nn.state import seeded
from hatband.nn.training import History, fit_network

# Standard deviations from 0: at 1,000 the rounding of float32 is 6e-5 of one.
_FAR = 1_000


def train(owner: Any, X: Array, y: Array, random: np.random.RandomState) -> dict[str, Any]:
    """Return what training produces, and change nothing before all of it is there."""
    size = check_validation_size(owner.validation_size, len(X))
    offset = far_means(X)
    X = X - offset
    order, seeds = random.permutation(len(X)), random.randint(2**31 - 1, size=3)
    held, kept = order[:size], order[size:]
    validation = (X[held], y[held]) if size else None
    module = perceptron(owner, X.shape[1], 1 if y.ndim == 1 else y.shape[1], int(seeds[0]))
    history = _taught(owner, module, (X[kept], y[kept]), validation, int(seeds[1]))
    model = LastLayerConformalRegressor(
        module,
        "head",
        scale=owner.scale,
        ridge=owner.ridge,
        confidence_level=owner.confidence_level,
        symmetric=owner.symmetric,
        random_state=int(seeds[2]),
    ).fit_train((X[kept], y[kept]), validation=validation)
    return {"module_": module, "model_": model, "history_": history, "offset_": offset}


def perceptron(owner: Any, n_inputs: int, n_outputs: int, seed: int) -> MLP:
    """Return the untrained network that the parameters describe."""
    with seeded(seed):
        return MLP(
            n_inputs, n_outputs, owner.widths, owner.activation, owner.dropout, noise_head=owner.loss == "gaussian"
        )


def _taught(owner: Any, module: MLP, rows: tuple[Array, Array], validation: Any, seed: int) -> History:
    history = fit_network(
        module,
        *rows,
        loss=owner.loss,
        validation=validation,
        validation_size=0,
        epochs=owner.epochs,
        patience=owner.patience,
        batch_size=owner.batch_size,
        learning_rate=owner.learning_rate,
        weight_decay=owner.weight_decay,
        random_state=seed,
        device="cpu" if owner.device is None else owner.device,
        progress=owner.progress,
    )
    module.eval()
    return history


def far_means(X: Array) -> Array:
    """Return the means of the columns of which float32 would keep too few digits, 0 for the others."""
    mean = X.mean(axis=0)
    return np.where(np.abs(mean) > _FAR * X.std(axis=0), mean, 0.0)
