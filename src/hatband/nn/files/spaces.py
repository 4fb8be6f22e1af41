"""Spaces of networks as tables of fields: of a last layer, of a whole network, and of one at low rank."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from hatband.arrays.backend import backend_of, exact_device
from hatband.checks import check_in
from hatband.linalg import GramStatistics
from hatband.linalg.moments import Centre
from hatband.nn.files.fields import FLAG, NOTHING, ArrayField, Fields, either, real, text, whole
from hatband.nn.measure.batches import home
from hatband.nn.measure.head import Head, Pooling
from hatband.nn.measure.layer_choice import WholeNetwork, as_choice
from hatband.nn.measure.low_rank import Sketch
from hatband.nn.measure.parameter_subset import AllParameters, Intercept, Part
from hatband.nn.measure.space import GramSpace, NetworkSpace, SketchSpace, fit_sketch, space_at
from hatband.nn.measure.tangent import n_parameters

_HEAD = Fields(
    {"name": text(), "pooling": text(*get_args(Pooling)), "member": either(NOTHING, whole()), "is_affine": FLAG}
)
_WHOLE = Fields({name: whole() for name in ("exact_up_to", "rank", "iterations", "random_state")})
_STATISTICS = Fields(
    {
        "n_samples": whole(),
        "weight": real(0.0),
        "n_features": whole(),
        "centre.mean": ArrayField(("columns",)),
        "joint": ArrayField(("columns", "columns")),
    }
)
_SKETCH = Fields(
    {
        "n_samples": whole(),
        "weight": real(0.0),
        "trace": real(0.0),
        "mean": ArrayField(("parameters",)),
        "values": ArrayField(("directions",), finite=False),
        "vectors": ArrayField(("parameters", "directions"), finite=False),
    }
)


def _space(intercepts: tuple[str, ...], exactness: tuple[str, ...]) -> Fields:
    return Fields({"intercept": text(*intercepts), "ridge": real(0.0), "exactness": text(*exactness)})


class Read(NamedTuple):
    """A space read from a file, and the value of `layer` that stands for it."""

    layer: Any
    space: NetworkSpace


class SpaceFile(NamedTuple):
    """One kind of space in a file: the spaces that it holds, its fields, and the function that builds the space."""

    kind: str
    space: type[NetworkSpace]
    part: type[Part]
    fields: Mapping[str, Fields]
    build: Callable[[Mapping[str, Any], nn.Module], Read]


def _last_layer(values: Mapping[str, Any], module: nn.Module) -> Read:
    head, n_features = values["head"], values["statistics"]["n_features"]
    layer = dict(module.named_modules()).get(head["name"])
    if not isinstance(layer, nn.Linear) or layer.in_features != n_features:
        raise ValueError(f"the head {head['name']!r} must take {n_features} features; it does not.")
    return Read(head["name"], _gram_space(values, module, Head(layer=layer, **head)))


def _whole_network(values: Mapping[str, Any], module: nn.Module) -> Read:
    n_features = values["statistics"]["n_features"]
    if n_features != n_parameters(module):
        raise ValueError(f"the module must have {n_features} parameters; it has {n_parameters(module)}.")
    return Read(_layer(values), _gram_space(values, module, _all_parameters(module)))


def _low_rank(values: Mapping[str, Any], module: nn.Module) -> Read:
    sketch, prior, size = values["sketch"], values["space"], n_parameters(module)
    if len(sketch["mean"]) != size:
        raise ValueError(f"sketch.mean must be float64 of shape ({size},); got ({len(sketch['mean'])},).")
    _check_directions(sketch["values"], sketch["vectors"])
    _check_rows(sketch)
    backend = _backend_at(module)
    arrays = {name: backend.asarray(sketch[name]) for name in ("mean", "values", "vectors")}
    found = Sketch(sketch["n_samples"], float(sketch["weight"]), float(sketch["trace"]), **arrays)
    ridge, intercept = float(prior["ridge"]), prior["intercept"]
    return Read(_layer(values), fit_sketch(module, _all_parameters(module), found, ridge, intercept))


_OF_LAYER, _OF_ALL = _space(get_args(Intercept), ("given", "none")), _space(("free", "none"), ("none",))
_BY_LAYER = {"head": _HEAD, "statistics": _STATISTICS, "space": _OF_LAYER}
_BY_GRAM = {"whole": _WHOLE, "statistics": _STATISTICS, "space": _OF_ALL}
_BY_SKETCH = {"whole": _WHOLE, "sketch": _SKETCH, "space": _OF_ALL}
_FILES = (
    SpaceFile("last layer", GramSpace, Head, _BY_LAYER, _last_layer),
    SpaceFile("whole network", GramSpace, AllParameters, _BY_GRAM, _whole_network),
    SpaceFile("whole network, low rank", SketchSpace, AllParameters, _BY_SKETCH, _low_rank),
)


def file_of(space: NetworkSpace) -> SpaceFile:
    """Return how a space is written."""
    return next(file for file in _FILES if type(space) is file.space and type(space.part) is file.part)


def described(layer: Any, space: Any) -> dict[str, Any]:
    """Return the objects from which the tables of a space are written."""
    parts = {name: getattr(space, name, None) for name in ("statistics", "sketch")}
    return {"head": space.part, "whole": as_choice(layer), "space": space, **parts}


def file_named(kind: Any) -> SpaceFile:
    """Return how a kind of space is read."""
    check_in(kind, tuple(file.kind for file in _FILES), "the file: kind")
    return next(file for file in _FILES if file.kind == kind)


# -------------------------------------------------------------------- parts that kinds share


def _gram_space(values: Mapping[str, Any], module: nn.Module, part: Part) -> GramSpace:
    read, prior = values["statistics"], values["space"]
    mean, joint, n_features = read["mean"], read["joint"], read["n_features"]
    if len(mean) not in {n_features, n_features + values["fitted"]["n_outputs"]}:
        raise ValueError(
            f"the statistics must have {n_features} features, and targets for all outputs or for none; those in the "
            f"file have {len(mean)} columns."
        )
    if not np.allclose(joint, joint.T) or (joint.diagonal() < 0).any():
        raise ValueError("the Gram matrix must be symmetric, with squares in its diagonal; that of the file is not.")
    _check_rows(read)
    backend = _backend_at(module)
    centre = Centre(read["n_samples"], float(read["weight"]), backend.asarray(mean))
    statistics = GramStatistics(centre, n_features, backend.asarray(joint))
    return space_at(module, part, statistics, **{**prior, "ridge": float(prior["ridge"])})


def _layer(values: Mapping[str, Any]) -> Any:
    choice = WholeNetwork(**values["whole"])
    return "all" if choice == WholeNetwork() else choice


def _check_rows(read: Mapping[str, Any]) -> None:
    if read["n_samples"] < 1 or not read["weight"] > 0:
        raise ValueError(
            f"the statistics must have rows of weight > 0; got {read['n_samples']} rows of weight {read['weight']}."
        )


def _check_directions(values: Any, vectors: Any) -> None:
    """Raise unless they are singular values with orthonormal directions."""
    falling = np.isfinite(values).all() and (values >= 0).all() and (np.diff(values) <= 0).all()
    if not falling or not np.allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-8):
        raise ValueError("the file: directions must be orthonormal, with singular values that fall; they are not.")


def _all_parameters(module: nn.Module) -> AllParameters:
    # Without the warning of a device that has no float64: finding the backend warns of it.
    return AllParameters(exact_device(home(module)[0]))


def _backend_at(module: nn.Module) -> Any:
    return backend_of(torch.empty(0, device=home(module)[0]))
