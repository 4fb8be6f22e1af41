"""A NeuralConformalRegressor in a folder: the design of its network as JSON, everything else as safetensors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.neural_training import perceptron

T = TypeVar("T")

_NETWORK = ("widths", "activation", "dropout", "loss")
_SETTINGS_FILE, _STATE_FILE = "network.json", "last_layer.safetensors"


def save_neural(model: Any, folder: str | Path) -> None:
    """Write a fitted NeuralConformalRegressor."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    model.model_.save(place / _STATE_FILE)
    design = {name: getattr(model, name) for name in _NETWORK}
    design |= {"offset": model.offset_.tolist(), "n_outputs": model.model_.n_outputs_}
    (place / _SETTINGS_FILE).write_text(json.dumps(design, default=int) + "\n")


def load_neural(kind: Callable[..., T], folder: str | Path) -> T:
    """Read a NeuralConformalRegressor."""
    design = _read_design(Path(folder) / _SETTINGS_FILE)
    offset, n_outputs = np.asarray(design.pop("offset"), dtype=np.float64), design.pop("n_outputs")
    model: Any = kind(**design)
    module = perceptron(model, len(offset), n_outputs, seed=0).eval()
    inner = LastLayerConformalRegressor.load(Path(folder) / _STATE_FILE, module)
    model.set_params(
        scale=inner.scale, ridge=inner.ridge, confidence_level=inner.confidence_level, symmetric=inner.symmetric
    )
    model.n_features_in_ = len(offset)
    vars(model).update({"module_": module, "model_": inner, "offset_": offset})
    return model


def _read_design(path: Path) -> dict[str, Any]:
    design = json.loads(path.read_text())
    expected = {*_NETWORK, "offset", "n_outputs"}
    if not isinstance(design, dict) or set(design) != expected:
        raise ValueError(f"{str(path)!r} must hold the entries {sorted(expected)}; it was not written by save.")
    return design | {"widths": tuple(design["widths"])}
