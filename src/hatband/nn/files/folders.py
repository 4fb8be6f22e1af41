"""Models of several files: an ensemble, one file for each network, and a regressor with the design of its network."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from hatband.nn.files.archive import read_archive, read_folder, write_folder
from hatband.nn.files.fields import FLAG, NOTHING, ArrayField, either, real, rebuilding, several, text, whole
from hatband.nn.files.last_layer import (
    calibration_fields,
    calibration_state,
    check_architecture,
    check_savable,
    saved_weights,
)
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.measure.batches import home
from hatband.nn.measure.state import put_back_on_failure
from hatband.nn.train.mlp import ACTIVATIONS, MLP

T = TypeVar("T")

# -------------------------------------------------------------------- ensembles

_MEMBER = "member_{}.safetensors"
# Of the ensemble, and kept in the file of each member.
_COMMON = ("scale", "ridge", "confidence_level", "symmetric", "joint", "random_state")
_ENSEMBLE: dict[str, Any] = {
    "single_target_": FLAG,
    "target_seen_": FLAG,
    "sizes_": ArrayField(("members", "outputs")),
    "scores": ArrayField(("scores", "outputs"), optional=True),
    "spread": ArrayField(("outputs",), optional=True),
}


def save_ensemble(model: Any, folder: str | Path) -> None:
    """Write a fitted EnsembleConformalRegressor."""
    check_savable(model)
    parts = [partial(_save_member, model, member) for member in model.members_]
    write_folder(folder, parts, _MEMBER, _ENSEMBLE, SimpleNamespace(**vars(model), **calibration_fields(model)))


def _save_member(model: Any, member: LastLayerConformalRegressor, path: Path) -> None:
    common = copy.copy(member)
    for name in _COMMON:
        setattr(common, name, getattr(model, name))
    common.save(path)


def load_ensemble(kind: Callable[..., T], folder: str | Path, modules: Sequence[nn.Module]) -> T:
    """Read an EnsembleConformalRegressor; either all modules get their weights or none does."""
    paths, index = read_folder(folder, _MEMBER, _ENSEMBLE)
    _check_belong(modules, len(paths))
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(put_back_on_failure(module))
        members = [LastLayerConformalRegressor.load(p, m) for p, m in zip(paths, modules, strict=True)]
        _check_sizes(index["sizes"], members)
    common = {name: getattr(members[0], name) for name in _COMMON}
    layers = {member.layer for member in members}
    model: Any = kind(modules, layers.pop() if len(layers) == 1 else None, **common)
    vars(model).update(
        members_=members,
        sizes_=list(index["sizes"]),
        n_outputs_=members[0].n_outputs_,
        single_target_=index["single_target"],
        target_seen_=index["target_seen"],
        **calibration_state(index),
    )
    return model


def check_networks(modules: Any) -> None:
    """Raise unless it is a list of at least one network."""
    listed = isinstance(modules, (Sequence, nn.ModuleList)) and not isinstance(modules, str)
    other = [type(module).__name__ for module in modules if not isinstance(module, nn.Module)] if listed else []
    if not listed or other:
        seen = f"a list that holds {other[0]}" if other else type(modules).__name__
        raise TypeError(f"modules must be a list of torch.nn.Module, as fit_ensemble returns it; got {seen}.")
    if not len(modules):
        raise ValueError("modules must hold at least one trained network; got none.")


def _check_belong(modules: Any, n_members: int) -> None:
    """Raise unless there is a different network for every member."""
    check_networks(modules)
    distinct = len({id(module) for module in modules})
    if (len(modules), distinct) != (n_members, n_members):
        raise ValueError(
            f"modules must hold one network for each of the {n_members} that were saved, all different; got "
            f"{len(modules)}, {distinct} of them different."
        )


def _check_sizes(sizes: Any, members: list[LastLayerConformalRegressor]) -> None:
    """Raise unless there is a mean width > 0 for every member and output."""
    outputs = {member.n_outputs_ for member in members}
    if len(outputs) != 1:
        raise ValueError(f"all members must have the same number of outputs; those saved have {sorted(outputs)}.")
    expected = (len(members), *outputs)
    if sizes.shape != expected:
        raise ValueError(f"sizes must be float64 of shape {expected}; got {sizes.shape}.")
    if not (sizes > 0).all():
        raise ValueError("the index: sizes must be finite and > 0; those of the folder are not.")


# -------------------------------------------------------------------- a regressor that trained its network

_NETWORK = "last_layer.safetensors"
_TYPES = {str(kind): kind for kind in (torch.float32, torch.float64, torch.bfloat16)}
_WIDTH = 2**24
_DESIGN: dict[str, Any] = {
    "n_inputs": whole(1, _WIDTH),
    "n_outputs": whole(1, _WIDTH),
    "widths": several(whole(1, _WIDTH), most=1_000),
    "activation": text(*ACTIVATIONS),
    "dropout": real(0.0, 1.0),
    "noise_head": FLAG,
}
_NEURAL: dict[str, Any] = {
    **_DESIGN,
    "dtype": text(*_TYPES),
    "feature_names": either(NOTHING, several(text(), most=_WIDTH)),
    "offset": ArrayField(("n_inputs",)),
    "target_offset": ArrayField(("n_outputs",)),
}


def save_neural(model: Any, folder: str | Path) -> None:
    """Write a fitted NeuralConformalRegressor."""
    names = getattr(model, "feature_names_in_", None)
    index = SimpleNamespace(
        **model.module_.design,
        dtype=str(home(model.module_)[1]),
        feature_names=None if names is None else list(map(str, names)),
        offset=model.offset_,
        target_offset=model.target_offset_,
    )
    write_folder(folder, [model.model_.save], _NETWORK, _NEURAL, index)


def load_neural(kind: Callable[..., T], folder: str | Path) -> T:
    """Read a NeuralConformalRegressor."""
    paths, index = read_folder(folder, _NETWORK, _NEURAL)
    if len(paths) != 1:
        raise ValueError(f"{str(folder)!r} must hold one network; its index lists {len(paths)}.")
    names = index["feature_names"]
    if names is not None and len(names) != index["n_inputs"]:
        raise ValueError(f"the index: feature_names must be {index['n_inputs']} strings; got {len(names)}.")
    module = _perceptron(index, paths[0])
    inner = LastLayerConformalRegressor.load(paths[0], module)
    model: Any = kind(
        **{name: module.design[name] for name in ("widths", "activation", "dropout")},
        loss="gaussian" if index["noise_head"] else "squared",
        **{name: getattr(inner, name) for name in ("scale", "ridge", "confidence_level", "symmetric", "joint")},
    )
    model.n_features_in_ = index["n_inputs"]
    if names is not None:
        model.feature_names_in_ = np.asarray(names, dtype=object)
    offsets = {"offset_": index["offset"], "target_offset_": index["target_offset"]}
    shape = {"n_outputs_": inner.n_outputs_, "single_target_": inner.single_target_}
    vars(model).update({"module_": module, "model_": inner, **offsets, **shape})
    return model


def _perceptron(index: dict[str, Any], path: Path) -> MLP:
    """Return the network of the design, without its weights; ValueError if those in the file have other sizes."""
    with rebuilding("the index: the network"):
        # Without memory, until its shapes have been seen to be those of the file.
        with torch.device("meta"):
            module = MLP(**{name: index[name] for name in _DESIGN}).to(_TYPES[index["dtype"]])
        check_architecture(module, saved_weights(read_archive(path)[0]))
        return module.to_empty(device="cpu").eval()
