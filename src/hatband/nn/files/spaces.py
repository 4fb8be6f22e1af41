"""Spaces of networks as entries of a file: of a last layer, of a whole network, and of one at low rank."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hatband.arrays.backend import backend_of
from hatband.arrays.kinds import exact_device
from hatband.checks import check_in
from hatband.linalg import GramStatistics
from hatband.linalg.moments import Centre
from hatband.nn.files.documents import taken
from hatband.nn.measure.batches import home
from hatband.nn.measure.head import Head
from hatband.nn.measure.layer_choice import WholeNetwork, as_choice
from hatband.nn.measure.low_rank import Sketch
from hatband.nn.measure.parameter_subset import AllParameters, Part
from hatband.nn.measure.space import INTERCEPTS, GramSpace, NetworkSpace, SketchSpace, fit_sketch, space_at
from hatband.nn.measure.tangent import n_parameters

_NUMBER = (int, float)
_SPACE = {"intercept": str, "ridge": _NUMBER, "exactness": str}
_STATISTICS = {"n_samples": int, "weight": _NUMBER, "n_features": int}
_WHOLE = {"exact_up_to": int, "rank": int, "iterations": int, "random_state": int}


class Read(NamedTuple):
    """A space that was read, and the `layer` that asks for such a space."""

    layer: Any
    space: NetworkSpace


class SpaceFile(ABC):
    """What is written of one kind of space, and how it is read."""

    kind: str
    schema: Mapping[str, Any]

    @abstractmethod
    def document(self, layer: Any, space: Any) -> dict[str, Any]:
        """Return the entries of the document, as the schema has them."""

    @abstractmethod
    def tensors(self, space: Any) -> dict[str, Any]:
        """Return the arrays."""

    @abstractmethod
    def read(self, content: Mapping[str, Any], tensors: dict[str, torch.Tensor], module: nn.Module) -> Read:
        """Take document and tensors apart again; ValueError where they cannot be true."""


class LastLayerFile(SpaceFile):
    """Name and kind of the layer, and the Gram matrix of its features."""

    kind = "last layer"
    schema: Mapping[str, Any] = {
        "head": {"name": str, "pooling": str, "member": (int, type(None)), "is_affine": bool},
        "statistics": _STATISTICS,
        "space": _SPACE,
    }

    def document(self, layer: Any, space: Any) -> dict[str, Any]:
        """Return the entries of the document."""
        head = {name: getattr(space.part, name) for name in self.schema["head"]}
        return {"head": head, **_gram_document(space)}

    def tensors(self, space: GramSpace) -> dict[str, Any]:
        """Return the arrays."""
        return _gram_tensors(space)

    def read(self, content: Mapping[str, Any], tensors: dict[str, torch.Tensor], module: nn.Module) -> Read:
        """Find the layer, and factor the Gram matrix again."""
        head, n_features = content["head"], content["statistics"]["n_features"]
        check_in(content["space"]["intercept"], INTERCEPTS, "the file: intercept")
        check_in(content["space"]["exactness"], ("given", "none"), "the file: exactness")
        check_in(head["pooling"], ("row", "first", "last", "mean"), "the file: pooling")
        layer = dict(module.named_modules()).get(head["name"])
        if not isinstance(layer, nn.Linear) or layer.in_features != n_features:
            raise ValueError(f"the head {head['name']!r} must take {n_features} features; it does not.")
        return Read(head["name"], _gram_space(content, tensors, module, Head(layer=layer, **head)))


class WholeNetworkFile(SpaceFile):
    """The Gram matrix of the gradients in all parameters."""

    kind = "whole network"
    schema: Mapping[str, Any] = {"whole": _WHOLE, "statistics": _STATISTICS, "space": _SPACE}

    def document(self, layer: Any, space: Any) -> dict[str, Any]:
        """Return the entries of the document."""
        return {"whole": _whole_document(layer), **_gram_document(space)}

    def tensors(self, space: GramSpace) -> dict[str, Any]:
        """Return the arrays."""
        return _gram_tensors(space)

    def read(self, content: Mapping[str, Any], tensors: dict[str, torch.Tensor], module: nn.Module) -> Read:
        """Factor the Gram matrix again."""
        _check_whole(content["space"])
        n_features = content["statistics"]["n_features"]
        if n_features != n_parameters(module):
            raise ValueError(f"the module must have {n_features} parameters; it has {n_parameters(module)}.")
        return Read(_whole_layer(content["whole"]), _gram_space(content, tensors, module, _all_parameters(module)))


class LowRankFile(SpaceFile):
    """The leading directions of the Gram matrix of the gradients."""

    kind = "whole network, low rank"
    schema: Mapping[str, Any] = {
        "whole": _WHOLE,
        "sketch": {"n_samples": int, "weight": _NUMBER, "trace": _NUMBER},
        "space": _SPACE,
    }

    def document(self, layer: Any, space: Any) -> dict[str, Any]:
        """Return the entries of the document."""
        sketch = {name: getattr(space.sketch, name) for name in self.schema["sketch"]}
        return {"whole": _whole_document(layer), "sketch": sketch, "space": _space_document(space)}

    def tensors(self, space: SketchSpace) -> dict[str, Any]:
        """Return the arrays."""
        sketch = space.sketch
        return {"sketch.mean": sketch.mean, "sketch.values": sketch.values, "sketch.vectors": sketch.vectors}

    def read(self, content: Mapping[str, Any], tensors: dict[str, torch.Tensor], module: nn.Module) -> Read:
        """Put the ridge on the directions again."""
        _check_whole(content["space"])
        size, numbers = n_parameters(module), content["sketch"]
        mean, values = taken(tensors, "sketch.mean", (size,)), taken(tensors, "sketch.values", (None,))
        vectors = taken(tensors, "sketch.vectors", (size, len(values)))
        _check_directions(values, vectors)
        if not np.isfinite(mean).all() or not 0 <= numbers["trace"] < np.inf:
            raise ValueError("the file: mean and trace of the Gram matrix must be finite; they are not.")
        _check_rows(numbers)
        part, backend = _all_parameters(module), _backend_at(module)
        arrays = dict(zip(("mean", "values", "vectors"), map(backend.asarray, (mean, values, vectors)), strict=True))
        sketch = Sketch(numbers["n_samples"], float(numbers["weight"]), float(numbers["trace"]), **arrays)
        described = content["space"]
        space = fit_sketch(module, part, sketch, float(described["ridge"]), described["intercept"])
        return Read(_whole_layer(content["whole"]), space)


_FILES: tuple[SpaceFile, ...] = (LastLayerFile(), WholeNetworkFile(), LowRankFile())
_BY_TYPE: dict[tuple[type[NetworkSpace], type[Part]], SpaceFile] = {
    (GramSpace, Head): _FILES[0],
    (GramSpace, AllParameters): _FILES[1],
    (SketchSpace, AllParameters): _FILES[2],
}


def file_of(space: NetworkSpace) -> SpaceFile:
    """Return how a space is written."""
    return _BY_TYPE[type(space), type(space.part)]


def file_named(kind: Any) -> SpaceFile:
    """Return how a kind of space is read."""
    check_in(kind, tuple(file.kind for file in _FILES), "the file: kind")
    return next(file for file in _FILES if file.kind == kind)


# -------------------------------------------------------------------- parts that kinds share


def _space_document(space: NetworkSpace) -> dict[str, Any]:
    return {"intercept": space.intercept, "ridge": space.ridge, "exactness": space.exactness}


def _gram_document(space: GramSpace) -> dict[str, Any]:
    statistics = {name: getattr(space.statistics, name) for name in _STATISTICS}
    return {"statistics": statistics, "space": _space_document(space)}


def _gram_tensors(space: GramSpace) -> dict[str, Any]:
    return {"statistics.mean": space.statistics.centre.mean, "statistics.joint": space.statistics.joint}


def _gram_space(
    content: Mapping[str, Any], tensors: dict[str, torch.Tensor], module: nn.Module, part: Part
) -> GramSpace:
    counts, described = content["statistics"], content["space"]
    mean = taken(tensors, "statistics.mean", (None,))
    joint = taken(tensors, "statistics.joint", (len(mean), len(mean)))
    finite = np.isfinite(mean).all() and np.isfinite(joint).all()
    if not finite or not np.allclose(joint, joint.T) or (joint.diagonal() < 0).any():
        raise ValueError(
            "the statistics must be finite and their Gram matrix symmetric, with squares in its diagonal; those of the "
            "file are not."
        )
    _check_rows(counts)
    backend = _backend_at(module)
    centre = Centre(counts["n_samples"], float(counts["weight"]), backend.asarray(mean))
    return space_at(
        module,
        part,
        GramStatistics(centre, counts["n_features"], backend.asarray(joint)),
        ridge=float(described["ridge"]),
        intercept=described["intercept"],
        exactness=described["exactness"],
    )


def _whole_document(layer: Any) -> dict[str, Any]:
    recipe = as_choice(layer)
    return {name: int(getattr(recipe, name)) for name in _WHOLE}


def _whole_layer(document: Mapping[str, Any]) -> Any:
    recipe = WholeNetwork(**document)
    return "all" if recipe == WholeNetwork() else recipe


def _check_whole(described: Mapping[str, Any]) -> None:
    check_in(described["intercept"], ("free", "none"), "the file: intercept")
    check_in(described["exactness"], ("none",), "the file: exactness")


def _check_rows(counts: Mapping[str, Any]) -> None:
    if counts["n_samples"] < 1 or not 0 < counts["weight"] < np.inf:
        raise ValueError(f"the statistics must be of rows that have a weight; got {counts}.")


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
