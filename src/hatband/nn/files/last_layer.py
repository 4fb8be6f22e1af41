"""A LastLayerConformalRegressor in a file: its table of fields, and the model rebuilt from them."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from hatband import scales
from hatband.checks import LeverageWarning, check_confidence_level
from hatband.conformal.calibration.calibration import Calibration, CalibrationPlan, EachOutput
from hatband.conformal.calibration.groups import PASSED_LABELS
from hatband.conformal.calibration.joint import JointBox
from hatband.fitted.rows import TrainingRows
from hatband.nn.files.archive import VERSION, read_archive, write_archive
from hatband.nn.files.fields import (
    FLAG,
    FRACTION,
    NOTHING,
    ArrayField,
    Fields,
    Kind,
    check_entries,
    either,
    real,
    rebuilding,
    several,
    text,
    whole,
)
from hatband.nn.files.spaces import described, file_named, file_of
from hatband.nn.measure.network_rows import stored_rows
from hatband.nn.measure.state import StateFingerprint, check_initialised

T = TypeVar("T")

_MODULE = "module."
# Rows whose widths show that a scale which was fitted again is the one that was saved.
_PROBE_ROWS, _PROBE_TOLERANCE = 64, 1e-9


def _scale_type(name: Any) -> Any:
    found = vars(scales).get(name) if name in scales.__all__ else None
    ours = isinstance(found, type) and issubclass(found, scales.Scale)
    return found if ours and found is not scales.Scale else None


def _scale_written(scale: Any) -> Any:
    name = type(scale).__name__
    if _scale_type(name) is not type(scale):
        raise ValueError(
            f"save writes the scales of hatband.scales; {name} is none of them, and would have to be loaded as code. "
            "Pickle the model instead, or use a named scale."
        )
    parameters = scale.get_params(deep=False)
    return {"type": name, "parameters": {key: _kind_of(key).written(value) for key, value in parameters.items()}}


def _scale_read(document: Any, where: str) -> Any:
    """Return a scale that is not fitted."""
    check_entries(document, ["type", "parameters"], where)
    name, given = document["type"], document["parameters"]
    kind = _scale_type(name)
    if kind is None:
        raise ValueError(f"{where} must be one of hatband's; got {name!r}.")
    check_entries(given, list(kind().get_params(deep=False)), f"{where}: {name}")
    values = {key: _kind_of(key).read(value, f"{where}: {key}") for key, value in given.items()}
    with rebuilding(f"{where}: {name}"):
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


_SEED = either(NOTHING, whole(0, 2**32 - 1))
_LEVEL = (real(0.0, 1.0), FRACTION)
# Counts among the parameters of a scale say how long it learns.
_PLAIN = (NOTHING, FLAG, whole(-10_000, 10_000), real(), text(), FRACTION)
_SCALE = Kind((dict,), _scale_read, (object,), _scale_written)


def _kind_of(parameter: str) -> Kind:
    """Return the kind of values that a parameter of a scale can have."""
    return _SEED if parameter == "random_state" else either(*_PLAIN, several(either(*_PLAIN)))


_PARAMETERS: dict[str, Any] = {
    "scale": either(text(), _SCALE),
    "ridge": either(text(), real(0.0)),
    "penalise_bias": FLAG,
    "confidence_level": either(*_LEVEL, several(either(*_LEVEL))),
    "symmetric": FLAG,
    "joint": FLAG,
    "fit_train_rows": text("auto", "unseen"),
    "random_state": _SEED,
}
_FITTED: dict[str, Any] = {
    "n_outputs_": whole(1),
    "single_target_": FLAG,
    "target_seen_": FLAG,
    "residuals_from_": either(NOTHING, text()),
    "seed_": whole(0, 2**32 - 1),
}
_LEARNED: dict[str, Any] = {
    "source": text(),
    "rows.inputs": ArrayField(("rows", "inputs"), finite=False),
    "rows.leverage": ArrayField(("rows",), finite=False),
    "rows.sampling_leverage": ArrayField(("rows",), finite=False),
    "rows.prediction": ArrayField(("rows", "n_outputs"), finite=False),
    "residuals": ArrayField(("rows", "n_outputs"), finite=False),
    "band": ArrayField((2, "probes", "outputs of the band"), finite=False),
}
_FILE: dict[str, Any] = {
    "version": whole(VERSION, VERSION),
    "kind": text(),
    "parameters": Fields(_PARAMETERS),
    "fitted": Fields(_FITTED),
    "fitted.scale_": _SCALE,
    "learned": Fields(_LEARNED, optional=True),
    "scores": ArrayField(("scores", "n_outputs"), optional=True),
    "spread": ArrayField(("n_outputs",), optional=True),
}


# -------------------------------------------------------------------- writing


def save_last_layer(model: Any, path: str | Path) -> None:
    """Write a fitted LastLayerConformalRegressor."""
    check_savable(model)
    space, learned = model.space_, model.learned_from_
    parameters = {name: getattr(model, name) for name in _PARAMETERS}
    # 1 == True, but a file tells them apart; a generator has no number to be made again from.
    parameters |= {name: bool(parameters[name]) for name in ("symmetric", "penalise_bias", "joint")}
    if not isinstance(model.random_state, (int, np.integer)):
        parameters["random_state"] = None
    file = file_of(space)
    written = SimpleNamespace(
        version=VERSION,
        kind=file.kind,
        parameters=SimpleNamespace(**parameters),
        fitted=model,
        learned=learned and SimpleNamespace(**learned._asdict(), band=_probe(model.scale_, learned)),
        **calibration_fields(model),
        **described(model.layer, space),
    )
    tensors = {f"{_MODULE}{name}": tensor for name, tensor in _weights(space.module).items()}
    content = Fields({**_FILE, **file.fields}).written(written, tensors)
    write_archive(path, tensors, content)


def check_savable(model: Any) -> None:
    """Raise if the model has groups or a likelihood ratio: their functions and labels cannot be written."""
    plan, calibration = model.plan_, vars(model).get("calibration_")
    if plan.always or plan.ratio or not (calibration is None or calibration.is_pooled):
        raise ValueError(
            "save writes only calibrations with scores of equal weight; this model has groups or a likelihood ratio. "
            "Train and save it without them and calibrate by groups after loading, or pickle the model instead."
        )


def calibration_fields(model: Any) -> dict[str, Any]:
    """Return scores and proportions of the joint box, None if the box is not joint."""
    calibration, outputs = vars(model).get("calibration_"), model.plan_.outputs
    return {
        "scores": None if calibration is None else calibration.scores,
        "spread": outputs.spread if isinstance(outputs, JointBox) else None,
    }


def calibration_state(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a model that was calibrated like this."""
    spread = values["spread"]
    if spread is not None and not (spread > 0).all():
        raise ValueError("the file: spread must be > 0 for every output; it is not.")
    outputs = EachOutput() if spread is None else JointBox(spread)
    state: dict[str, Any] = {"plan_": CalibrationPlan(PASSED_LABELS, outputs=outputs)}
    if values["scores"] is not None:
        state["calibration_"] = Calibration(values["scores"], outputs=outputs)
    return state


def _probe(scale: Any, learned: TrainingRows) -> Any:
    """Return shift and width (2, m, q) of the first rows that a scale learned from."""
    shift, width = scale.predict(learned.rows.take(slice(_PROBE_ROWS)))
    return np.stack(np.broadcast_arrays(shift, width))


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights and buffers; ValueError if the state of the module holds other objects."""
    state = module.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"save writes tensors; the state of the network also holds {others}, which would have to be loaded as "
            "code. Pickle the model instead."
        )
    return state


# -------------------------------------------------------------------- reading


def load_last_layer(kind: Callable[..., T], path: str | Path, module: nn.Module) -> T:
    """Read a LastLayerConformalRegressor; the module gets its weights once everything else has been checked."""
    check_initialised(module)
    tensors, content = read_archive(path)
    file = file_named(content.get("kind"))
    weights = saved_weights(tensors)
    check_architecture(module, weights)
    values = Fields({**_FILE, **file.fields}).read(content, tensors, "the file")
    check_confidence_level(values["parameters"]["confidence_level"])
    with rebuilding("the space"):
        layer, space = file.build(values, module)
    model = kind(module, layer, **values["parameters"])
    fitted, learned = values["fitted"], _learned(values["learned"])
    scale = _fitted_again(values, learned)
    names = ("n_outputs", "single_target", "target_seen", "residuals_from", "seed")
    state = {f"{name}_": fitted[name] for name in names} | calibration_state(values)
    state |= {"space_": space, "scale_": scale, "learned_from_": learned}
    module.load_state_dict(weights)
    vars(model).update(state | {"weights_": StateFingerprint.of(module)})
    return model


def saved_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the weights of the network from the tensors and return them."""
    return {name[len(_MODULE) :]: tensors.pop(name) for name in list(tensors) if name.startswith(_MODULE)}


def check_architecture(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise unless the weights have the names, shapes and types of this architecture; no memory is allocated."""
    expected = {name: (tuple(t.shape), t.dtype) for name, t in _weights(module).items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in weights.items()}
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(
            f"module must have the architecture that was saved; {len(names)} tensors differ, the first is "
            f"{names[0]!r}: saved {found.get(names[0])}, module {expected.get(names[0])}."
        )


def _learned(read: Mapping[str, Any] | None) -> TrainingRows | None:
    if read is None:
        return None
    rows = stored_rows(*(read[name] for name in ("inputs", "leverage", "sampling_leverage", "prediction")))
    return TrainingRows(rows, read["residuals"], read["source"], None)


def _fitted_again(values: Mapping[str, Any], learned: TrainingRows | None) -> Any:
    """Return the scale, fitted again if it learns; ValueError if its widths differ from the saved ones."""
    scale = values["scale"]
    name = type(scale).__name__
    with rebuilding(f"the file: scale: {name}"):
        if learned is None:
            with warnings.catch_warnings():
                # The warning about missing held-out residuals was given when the model was fitted.
                warnings.simplefilter("ignore", LeverageWarning)
                return scale.fit(None)
        scale.fit(learned.rows, learned.residuals, learned.sample_weight)
        band, expected = _probe(scale, learned), values["learned"]["band"]
    if band.shape != expected.shape or not np.allclose(band, expected, rtol=_PROBE_TOLERANCE, equal_nan=True):
        raise ValueError(
            f"{name} learns other widths here than when it was saved, probably because of another version of "
            "scikit-learn, so the saved scores are not valid for it. Calibrate again, or load with the old version."
        )
    return scale
