"""An EnsembleConformalRegressor in a folder: one file for each network, and what they have in common."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from hatband.checks import check_finite
from hatband.nn.files.documents import taken
from hatband.nn.files.folders import check_nothing_left, read_folder, write_folder
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.measure.state import put_back_on_failure

T = TypeVar("T")

_PART = "member_{}.safetensors"
# Of the ensemble, and kept in the file of each member.
_COMMON = ("scale", "ridge", "confidence_level", "symmetric", "random_state")


def save_ensemble(model: Any, folder: str | Path) -> None:
    """Write a fitted EnsembleConformalRegressor."""
    tensors = {"sizes": torch.from_numpy(np.stack(model.sizes_))}
    if "scores_" in vars(model):
        tensors["scores"] = torch.from_numpy(model.scores_)
    parts = [partial(_save_member, model, member) for member in model.members_]
    write_folder(folder, parts, _PART, tensors, {"single_target": model.single_target_})


def _save_member(model: Any, member: LastLayerConformalRegressor, path: Path) -> None:
    common = copy.copy(member)
    for name in _COMMON:
        setattr(common, name, getattr(model, name))
    common.save(path)


def load_ensemble(kind: Callable[..., T], folder: str | Path, modules: Sequence[nn.Module]) -> T:
    """Read an EnsembleConformalRegressor; the modules get their weights, or none does."""
    paths, tensors, content = read_folder(folder, _PART, {"single_target": bool})
    _check_belong(modules, len(paths))
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(put_back_on_failure(module))
        members = [LastLayerConformalRegressor.load(p, m) for p, m in zip(paths, modules, strict=True)]
        state = _state(members, tensors)
    common = {name: getattr(members[0], name) for name in _COMMON}
    layers = {member.layer for member in members}
    model: Any = kind(modules, layers.pop() if len(layers) == 1 else None, **common)
    vars(model).update({**state, "single_target_": content["single_target"]})
    return model


def check_networks(modules: Any) -> None:
    """Raise unless there is a list of networks, one at least."""
    listed = isinstance(modules, (Sequence, nn.ModuleList)) and not isinstance(modules, str)
    other = [type(module).__name__ for module in modules if not isinstance(module, nn.Module)] if listed else []
    if not listed or other:
        seen = f"a list that holds {other[0]}" if other else type(modules).__name__
        raise TypeError(f"modules must be a list of torch.nn.Module, as fit_ensemble returns it; got {seen}.")
    if not len(modules):
        raise ValueError("modules must hold at least one trained network; got none.")


def _check_belong(modules: Any, n_members: int) -> None:
    """Raise unless there is a network of its own for every member."""
    check_networks(modules)
    distinct = len({id(module) for module in modules})
    if (len(modules), distinct) != (n_members, n_members):
        raise ValueError(
            f"modules must hold one network for each of the {n_members} that were saved, and none twice; got "
            f"{len(modules)}, {distinct} of them different."
        )


def _state(members: list[LastLayerConformalRegressor], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return members, sizes and scores; ValueError where they do not belong together."""
    outputs = {member.n_outputs_ for member in members}
    if len(outputs) != 1:
        raise ValueError(f"all members must have as many outputs; those of the folder have {sorted(outputs)}.")
    n_outputs = members[0].n_outputs_
    sizes = taken(tensors, "sizes", (len(members), n_outputs))
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError("the index: sizes must be finite and > 0; those of the folder are not.")
    state: dict[str, Any] = {"members_": members, "sizes_": list(sizes)}
    if "scores" in tensors:
        state["scores_"] = taken(tensors, "scores", (None, n_outputs))
        check_finite(state["scores_"], "the index: scores")
    check_nothing_left(tensors)
    return state
