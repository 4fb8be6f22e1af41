"""A NeuralConformalRegressor in a folder: the design of its network, and its last layer with all weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from hatband.checks import check_finite, check_in
from hatband.nn.files.documents import taken
from hatband.nn.files.folders import check_nothing_left, read_folder, write_folder
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.measure.batches import home
from hatband.nn.train.mlp import MLP

T = TypeVar("T")

_PART = "last_layer.safetensors"
_SCHEMA: dict[str, Any] = {
    "n_inputs": int,
    "n_outputs": int,
    "widths": list,
    "activation": str,
    "dropout": (int, float),
    "noise_head": bool,
}
_TYPES = {str(kind): kind for kind in (torch.float32, torch.float64, torch.bfloat16)}


def save_neural(model: Any, folder: str | Path) -> None:
    """Write a fitted NeuralConformalRegressor."""
    design = model.module_.design | {"widths": list(model.module_.design["widths"])}
    offsets = {name: torch.from_numpy(getattr(model, f"{name}_")) for name in ("offset", "target_offset")}
    names = getattr(model, "feature_names_in_", None)
    others = {"dtype": str(home(model.module_)[1]), "feature_names": None if names is None else list(map(str, names))}
    write_folder(folder, [model.model_.save], _PART, offsets, design | others)


def load_neural(kind: Callable[..., T], folder: str | Path) -> T:
    """Read a NeuralConformalRegressor."""
    paths, tensors, content = read_folder(folder, _PART, _SCHEMA | {"dtype": str, "feature_names": (list, type(None))})
    if len(paths) != 1:
        raise ValueError(f"{str(folder)!r} must hold one network; its index lists {len(paths)}.")
    check_in(content["dtype"], tuple(_TYPES), "the index: dtype")
    with torch.device("cpu"):
        module = MLP(**{name: content[name] for name in _SCHEMA}).to(_TYPES[content["dtype"]]).eval()
    offset = taken(tensors, "offset", (module.design["n_inputs"],))
    target_offset = taken(tensors, "target_offset", (module.design["n_outputs"],))
    check_finite(offset, "the index: offset")
    check_finite(target_offset, "the index: target_offset")
    check_nothing_left(tensors)
    inner = LastLayerConformalRegressor.load(paths[0], module)
    model: Any = kind(
        **{name: module.design[name] for name in ("widths", "activation", "dropout")},
        loss="gaussian" if content["noise_head"] else "squared",
        **{name: getattr(inner, name) for name in ("scale", "ridge", "confidence_level", "symmetric")},
    )
    model.n_features_in_ = len(offset)
    if content["feature_names"] is not None:
        model.feature_names_in_ = _names(content["feature_names"], len(offset))
    vars(model).update({"module_": module, "model_": inner, "offset_": offset, "target_offset_": target_offset})
    return model


def _names(names: list[Any], expected: int) -> Any:
    if len(names) != expected or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the index: feature_names must be {expected} strings; got {names}.")
    return np.asarray(names, dtype=object)
