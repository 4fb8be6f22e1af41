"""What of a LastLayerConformalRegressor goes into a file, and the schema that a file must meet on the way back."""

import warnings
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from hatband import scales
from hatband.arrays.kinds import on_host
from hatband.checks import LeverageWarning, check_confidence_level, check_finite, check_in
from hatband.fitted.rows import TrainingRows
from hatband.nn.files.archive import read_archive, write_archive
from hatband.nn.files.documents import check_schema, taken
from hatband.nn.files.spaces import file_named, file_of
from hatband.nn.measure.network_rows import stored_rows
from hatband.nn.measure.space import NetworkSpace
from hatband.nn.measure.state import StateFingerprint, check_initialised

T = TypeVar("T")

VERSION = 1
_MODULE = "module."
_LEARNED = ("inputs", "leverage", "sampling_leverage", "prediction", "residuals")
# Rows whose widths show that a scale which was fitted again is the one that was saved.
_PROBE_ROWS, _PROBE_TOLERANCE = 64, 1e-9
_NUMBER, _TEXT = (int, float), (str, type(None))
_PARAMETERS: dict[str, Any] = {
    "scale": (str, dict),
    "ridge": (str, *_NUMBER),
    "penalise_bias": bool,
    "confidence_level": (*_NUMBER, list, dict),
    "symmetric": bool,
    "residuals": str,
    "random_state": (int, type(None)),
}
_SCHEMA: dict[str, Any] = {
    "version": int,
    "parameters": _PARAMETERS,
    "kind": str,
    "scale": dict,
    "fitted": {"n_outputs": int, "single_target": bool, "residuals_from": _TEXT, "learned": _TEXT, "seed": int},
}


# -------------------------------------------------------------------- writing


def save_last_layer(model: Any, path: str | Path) -> None:
    """Write a fitted LastLayerConformalRegressor."""
    space: NetworkSpace = model.space_
    tensors = {f"{_MODULE}{name}": tensor for name, tensor in _weights(space.module).items()}
    tensors |= {name: _tensor(values) for name, values in file_of(space).tensors(space).items()}
    if "scores_" in vars(model):
        tensors["scores"] = _tensor(model.scores_)
    if model.learned_from_ is not None:
        tensors |= _learned_tensors(model.scale_, model.learned_from_)
    write_archive(path, tensors, _content(model, space))


def _content(model: Any, space: NetworkSpace) -> dict[str, Any]:
    parameters = {name: _plain(getattr(model, name)) for name in _PARAMETERS if name not in {"scale", "random_state"}}
    # 1 == True, but a schema tells them apart.
    parameters |= {name: bool(parameters[name]) for name in ("symmetric", "penalise_bias")}
    parameters["scale"] = model.scale if isinstance(model.scale, str) else _scale_document(model.scale)
    whole_number = isinstance(model.random_state, (int, np.integer))
    parameters["random_state"] = int(model.random_state) if whole_number else None
    learned = None if model.learned_from_ is None else model.learned_from_.source
    return {
        "version": VERSION,
        "parameters": parameters,
        "kind": file_of(space).kind,
        **file_of(space).document(model.layer, space),
        "scale": _scale_document(model.scale_),
        "fitted": {
            "n_outputs": model.n_outputs_,
            "single_target": model.single_target_,
            "residuals_from": model.residuals_from_,
            "learned": learned,
            "seed": model.seed_,
        },
    }


def _learned_tensors(scale: Any, learned: TrainingRows) -> dict[str, torch.Tensor]:
    fields = {name: getattr(learned.rows, name) for name in _LEARNED[:-1]} | {"residuals": learned.residuals}
    fields["band"] = _probe(scale, learned)
    return {f"learned.{name}": _tensor(values) for name, values in fields.items()}


def _probe(scale: Any, learned: TrainingRows) -> Any:
    """Return shift and width (2, m, q) of the first rows that a scale learned from."""
    shift, width = scale.predict(learned.rows.take(slice(_PROBE_ROWS)))
    return np.stack(np.broadcast_arrays(shift, width))


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights and buffers; ValueError where a module keeps other things with them."""
    state = module.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"save writes tensors; the state of the network also holds {others}, which would have to be loaded as "
            "code. Pickle the model instead."
        )
    return state


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(on_host(values), dtype=np.float64))


def _scale_document(scale: Any) -> dict[str, Any]:
    """Return type and parameters of a scale of ours; ValueError for any other."""
    name = type(scale).__name__
    if _scale_type(name) is not type(scale):
        raise ValueError(
            f"save writes the scales of hatband; {name} is an object of yours, which would have to be loaded as code. "
            "Pickle the model instead, or use a named scale."
        )
    return {"type": name, "parameters": {key: _plain(value) for key, value in scale.get_params(deep=False).items()}}


def _scale_type(name: Any) -> Any:
    found = vars(scales).get(name) if name in scales.__all__ else None
    ours = isinstance(found, type) and issubclass(found, scales.Scale)
    return found if ours and found not in {scales.Scale, scales.CallableScale} else None


def _plain(value: Any) -> Any:
    """Return a parameter as JSON; ValueError where that would need code to come back."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (Fraction, Decimal)):
        return {"fraction": str(Fraction(value))}
    raise ValueError(
        f"save writes numbers, strings and lists of these; a parameter is {type(value).__name__}, which would have to "
        "be loaded as code. Pickle the model instead."
    )


# -------------------------------------------------------------------- reading


def load_last_layer(kind: Callable[..., T], path: str | Path, module: nn.Module) -> T:
    """Read a LastLayerConformalRegressor; the module gets its weights once everything else has been checked."""
    tensors, content = read_archive(path)
    if content.get("version") != VERSION:
        raise ValueError(f"{str(path)!r} must have format version {VERSION}; got {content.get('version')!r}.")
    file = file_named(content.get("kind"))
    check_schema(content, {**_SCHEMA, **file.schema}, "the file")
    weights = _own_weights(tensors, module)
    layer, space = file.read(content, tensors, module)
    model = kind(module, layer, **_parameters(content["parameters"]))
    fitted = content["fitted"]
    n_outputs = fitted["n_outputs"]
    learned = None if fitted["learned"] is None else _learned(tensors, fitted["learned"], n_outputs)
    scale = _refitted(content["scale"], learned, tensors)
    state = {
        "space_": space,
        "scale_": scale,
        "learned_from_": learned,
        "residuals_from_": fitted["residuals_from"],
        "n_outputs_": n_outputs,
        "single_target_": fitted["single_target"],
        "seed_": fitted["seed"],
    }
    if "scores" in tensors:
        state["scores_"] = taken(tensors, "scores", (None, n_outputs))
        check_finite(state["scores_"], "scores")
    if tensors:
        raise ValueError(f"the file holds tensors that do not belong there: {sorted(tensors)}.")
    module.load_state_dict(weights)
    vars(model).update(state | {"weights_": StateFingerprint.of(module)})
    return model


def _parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    parameters = dict(document)
    level = parameters["confidence_level"]
    parameters["confidence_level"] = [_level(e) for e in level] if isinstance(level, list) else _level(level)
    check_confidence_level(parameters["confidence_level"])
    check_in(parameters["residuals"], ("auto", "unseen"), "residuals")
    if isinstance(parameters["scale"], dict):
        parameters["scale"] = _unfitted(parameters["scale"])
    return parameters


def _level(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    check_schema(value, {"fraction": str}, "a confidence level")
    return Fraction(value["fraction"])


def _own_weights(tensors: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """Take the weights of the network out of the tensors; ValueError unless they are those of this architecture."""
    check_initialised(module)
    weights = {name[len(_MODULE) :]: tensors.pop(name) for name in list(tensors) if name.startswith(_MODULE)}
    expected = {name: (tuple(t.shape), t.dtype) for name, t in module.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in weights.items()}
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(
            f"module must have the architecture that was saved; {len(names)} tensors differ, the first is "
            f"{names[0]!r}: saved {found.get(names[0])}, module {expected.get(names[0])}."
        )
    return weights


def _learned(tensors: dict[str, torch.Tensor], source: str, n_outputs: int) -> TrainingRows:
    shapes = {"inputs": (None, None), "prediction": (None, n_outputs), "residuals": (None, n_outputs)}
    fields = {name: taken(tensors, f"learned.{name}", shapes.get(name, (None,))) for name in _LEARNED}
    if len({len(values) for values in fields.values()}) != 1:
        raise ValueError("the rows that the scale learned from must be equally many in every field; they are not.")
    residuals = fields.pop("residuals")
    return TrainingRows(stored_rows(**fields), residuals, source, None)


def _unfitted(document: Any) -> Any:
    check_schema(document, {"type": str, "parameters": dict}, "the file: scale")
    kind = _scale_type(document["type"])
    if kind is None:
        raise ValueError(f"the file: scale must be one of hatband's; got {document['type']!r}.")
    parameters = {key: tuple(v) if isinstance(v, list) else v for key, v in document["parameters"].items()}
    if set(parameters) != set(kind().get_params(deep=False)):
        raise ValueError(f"the file: {document['type']} has other parameters; got {sorted(parameters)}.")
    if parameters.get("level") is not None:
        parameters["level"] = _level(parameters["level"])
    return kind(**parameters)


def _refitted(document: Any, learned: TrainingRows | None, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the scale, fitted again where it had learned; ValueError where it does not come out as it was."""
    scale = _unfitted(document)
    if learned is None:
        with warnings.catch_warnings():
            # That there were no honest residuals was said when the model was fitted.
            warnings.simplefilter("ignore", LeverageWarning)
            return scale.fit(None)
    expected = taken(tensors, "learned.band", (2, min(len(learned.residuals), _PROBE_ROWS), None))
    scale.fit(learned.rows, learned.residuals, learned.sample_weight)
    band = _probe(scale, learned)
    if band.shape != expected.shape or not np.allclose(band, expected, rtol=_PROBE_TOLERANCE, equal_nan=True):
        raise ValueError(
            f"{document['type']} learns other widths here than where it was saved, so the saved scores do not belong "
            "to it: another version of scikit-learn, most likely. Calibrate anew, or load with that version."
        )
    return scale
