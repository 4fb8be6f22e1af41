"""The training of a NeuralConformalRegressor: the network, its space and its scale."""

from typing import Any, NamedTuple

import numpy as np
import torch

from hatband.arrays.typing import Array
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.measure.state import learning, seeded
from hatband.nn.train.fit import History, fit_network
from hatband.nn.train.mlp import MLP
from hatband.nn.train.training_rows import check_validation_size

# Standard deviations from 0: at 1,000 the rounding of float32 is 6e-5 of one.
_FAR = 1_000


class TrainingTable(NamedTuple):
    """Rows of a table, with weights where they have any."""

    X: Array
    y: Array
    weight: Array | None

    def take(self, index: Array) -> "TrainingTable":
        """Return the rows at an index."""
        return TrainingTable(self.X[index], self.y[index], None if self.weight is None else self.weight[index])

    def less(self, offset: Array, target_offset: Array) -> "TrainingTable":
        """Return the rows with offsets subtracted."""
        return self._replace(X=self.X - offset, y=less(self.y, target_offset))

    def counted(self) -> "TrainingTable":
        """Return the rows of weight > 0; ValueError if there are none."""
        if self.weight is None:
            return self
        _check_some_weight(self.weight)
        return self.take(self.weight > 0)


@learning()
def train(owner: Any, rows: TrainingTable, random: np.random.RandomState, ratio: Any = None) -> dict[str, Any]:
    """Return all results of training; the estimator does not change.

    `ratio` is the likelihood ratio as a function of X, or None.
    """
    rows = rows.counted()
    size = check_validation_size(owner.validation_size, len(rows.X))
    order, seeds = random.permutation(len(rows.X)), random.randint(2**31 - 1, size=3)
    offset, target_offset = far_means(rows.X, rows.weight), far_means(rows.y.reshape(len(rows.y), -1), rows.weight)
    rows = rows.less(offset, target_offset)
    held, kept = rows.take(order[:size]) if size else None, rows.take(order[size:])
    module = perceptron(owner, rows.X.shape[1], 1 if rows.y.ndim == 1 else rows.y.shape[1], int(seeds[0]))
    history = _taught(owner, module, kept, held, int(seeds[1]))
    model = _measured(owner, module, kept, held, ratio=ratio, seed=int(seeds[2]))
    offsets = {"offset_": offset, "target_offset_": target_offset}
    return {"module_": module, "model_": model, "history_": history, **offsets}


def _measured(
    owner: Any, module: MLP, kept: TrainingTable, held: TrainingTable | None, *, ratio: Any, seed: int
) -> LastLayerConformalRegressor:
    """Return the last layer of a trained network, measured against the rows that it was trained on."""
    shared = ("scale", "ridge", "confidence_level", "symmetric", "groups", "joint")
    model = LastLayerConformalRegressor(
        module,
        "head",
        likelihood_ratio=ratio,
        random_state=seed,
        **{name: getattr(owner, name) for name in shared},
    )
    return model.fit_train(kept.X, kept.y, kept.weight, validation=None if held is None else (held.X, held.y))


def perceptron(owner: Any, n_inputs: int, n_outputs: int, seed: int) -> MLP:
    """Return the untrained network that the parameters describe."""
    with seeded(seed), torch.device("cpu"):
        return MLP(
            n_inputs, n_outputs, owner.widths, owner.activation, owner.dropout, noise_head=owner.loss == "gaussian"
        )


def _taught(owner: Any, module: MLP, kept: TrainingTable, held: TrainingTable | None, seed: int) -> History:
    history = fit_network(
        module,
        kept.X,
        kept.y,
        sample_weight=kept.weight,
        loss=owner.loss,
        validation=None if held is None else tuple(held),
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


def less(y: Array, offset: Array) -> Array:
    """Return y - offset; y unchanged if it has other columns, which a later check refuses."""
    return y - offset if y.size == len(y) * len(offset) else y


def far_means(X: Array, weight: Array | None) -> Array:
    """Return the means of columns for which float32 has too few digits, and 0 for all other columns."""
    mean = np.average(X, axis=0, weights=weight)
    # Columns whose squares overflow are refused where they would be standardised.
    with np.errstate(over="ignore"):
        spread = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    return np.where(np.abs(mean) > _FAR * spread, mean, 0.0)


def _check_some_weight(weight: Any) -> None:
    """Raise if all training rows have weight 0."""
    if not (weight > 0).any():
        raise ValueError(
            f"sample_weight must not be zero for every training row; all {len(weight)} rows that the split left to "
            "train on have weight 0. Leave rows of weight 0 out, or pass another random_state."
        )
