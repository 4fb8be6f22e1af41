"""What is loaded is what was saved, and a file that was changed is refused, without running anything from it."""

import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from hatband.nn import LastLayerConformalRegressor
from hatband.nn.files.archive import read_archive, write_archive
from hatband.scales import AutoScale, LeverageScale, MagnitudeScale, QuantileScale
from nn.cases import network, rows, solve_head

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")

SCALES = ["constant", "leverage", "strength", "magnitude", "quantile", "auto", LeverageScale(0.3)]


def fitted(scale="leverage", **parameters) -> LastLayerConformalRegressor:
    model = LastLayerConformalRegressor(network(), scale=scale, random_state=0, **parameters)
    return model.fit_train(*rows(150), validation=rows(150, 3)).calibrate(*rows(60, 1))


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_a_loaded_model_gives_the_same_intervals(device, tmp_path, scale):
    model = fitted(scale, device=device)
    model.save(tmp_path / "model.safetensors")
    fresh = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1)).to(device)

    loaded = LastLayerConformalRegressor.load(tmp_path / "model.safetensors", fresh)

    new = 3 * rows(40, 2)[0]
    for seen, expected in zip(loaded.predict_interval(new), model.predict_interval(new), strict=True):
        np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(loaded.leverage(new), model.leverage(new))
    assert loaded.residuals_from_ == model.residuals_from_
    assert (loaded.space_.ridge, loaded.space_.n_samples) == (model.space_.ridge, 150)


@pytest.mark.parametrize(
    "parameters",
    [
        {"confidence_level": [0.5, Fraction(4, 5)], "symmetric": False, "ridge": 0.25},
        {"penalise_bias": True, "scale": AutoScale(level=0.8)},
        {"scale": MagnitudeScale(columns=("leverage", "prediction"))},
        {"scale": QuantileScale(level=0.8, random_state=3)},
    ],
    ids=str,
)
def test_parameters_are_kept(tmp_path, parameters):
    model = fitted(**parameters)
    model.save(tmp_path / "model.safetensors")

    loaded = LastLayerConformalRegressor.load(tmp_path / "model.safetensors", network())

    kept = ("confidence_level", "symmetric", "ridge", "penalise_bias", "fit_train_rows", "random_state")
    assert {name: getattr(loaded, name) for name in kept} == {name: getattr(model, name) for name in kept}
    assert str(loaded.scale) == str(model.scale)
    np.testing.assert_array_equal(loaded.predict_interval(rows(5)[0])[1], model.predict_interval(rows(5)[0])[1])


def test_a_model_that_is_not_calibrated_is_loaded_as_one(tmp_path):
    net, (X, y) = network(dtype=torch.float64), rows(80)
    solve_head(net, X, y, 0.5)
    LastLayerConformalRegressor(net, scale="strength").fit_train(X, y).save(tmp_path / "model.safetensors")

    loaded = LastLayerConformalRegressor.load(tmp_path / "model.safetensors", network(dtype=torch.float64))

    assert loaded.space_.exactness == "given"
    assert loaded.calibrate(*rows(60, 1)).predict_interval(X)[1].shape == (80, 2)


def test_a_fall_back_to_leverage_is_loaded_without_a_second_warning(tmp_path):
    with pytest.warns(UserWarning, match="unseen"):
        model = LastLayerConformalRegressor(network()).fit_train(*rows(50)).calibrate(*rows(60, 1))
    model.save(tmp_path / "model.safetensors")

    loaded = LastLayerConformalRegressor.load(tmp_path / "model.safetensors", network())

    np.testing.assert_array_equal(loaded.predict_interval(rows(5)[0])[1], model.predict_interval(rows(5)[0])[1])


@pytest.mark.parametrize("scale", [lambda rows: 1 + rows.leverage, MagnitudeScale(regressor=AutoScale())])
def test_a_scale_that_would_need_code_is_not_saved(tmp_path, scale):
    model = LastLayerConformalRegressor(network(), scale="leverage").fit_train(*rows(50))
    model.scale_ = model.scale = scale

    with pytest.raises(ValueError, match="as code"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- files that were changed


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    fitted("strength").save(path)
    return path


def refused(path, message):
    net = network()
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(ValueError, match=message):
        LastLayerConformalRegressor.load(path, net)
    assert not net[0].weight.any()


@pytest.mark.parametrize("place", [-1, -1_000, -3_000])
def test_a_flipped_bit_is_found(saved, place):
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)

    refused(saved, "damaged or changed")


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_file_cut_short_is_refused(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])

    refused(saved, "safetensors file")


def test_an_edited_header_is_found(saved):
    saved.write_bytes(saved.read_bytes().replace(b'\\"n_samples\\": 150', b'\\"n_samples\\": 950'))

    refused(saved, "damaged or changed")


class Bomb:
    """Something that would run when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "safetensors file")
    torch.save({"weights": Bomb()}, path)
    refused(path, "safetensors file")


def test_a_file_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file(network().state_dict(), tmp_path / "weights.safetensors")

    refused(tmp_path / "weights.safetensors", "another program")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        LastLayerConformalRegressor.load(tmp_path / "nothing", network())


COLUMNS = {"mean": 0, "joint": slice(None)}
# With a checksum made anew, as a forger would: the schema is what is left.
FORGERIES = {
    "version": (lambda t, c: c.update(version=2), "format version 1"),
    "entry missing": (lambda t, c: c.pop("fitted"), "must have the entries"),
    "entry added": (lambda t, c: c["head"].update(code="import os"), "must have the entries"),
    "wrong type": (lambda t, c: c["statistics"].update(n_samples="many"), "must be int"),
    "flag for number": (lambda t, c: c["statistics"].update(n_samples=True), "must be int"),
    "level": (lambda t, c: c["parameters"].update(confidence_level=1.5), "confidence_level"),
    "scale of no kind": (lambda t, c: c["scale"].update(type="os.system"), "one of hatband's"),
    "callable scale": (lambda t, c: c["scale"].update(type="CallableScale"), "one of hatband's"),
    "scale parameter": (
        lambda t, c: c["scale"]["parameters"].update(x=1),
        r"StrengthScale must have the entries \['form'\]",
    ),
    "head": (lambda t, c: c["head"].update(name="1"), "the head '1'"),
    "pooling": (lambda t, c: c["head"].update(pooling="eval"), "pooling"),
    "intercept": (lambda t, c: c["space"].update(intercept="maybe"), "intercept"),
    "ridge": (lambda t, c: c["space"].update(ridge=-1.0), "ridge"),
    "tensor missing": (lambda t, c: t.pop("statistics.joint"), "must hold the tensor"),
    "tensor added": (lambda t, c: t.update(more=torch.zeros(2)), "do not belong"),
    "tensor of another shape": (lambda t, c: t.update(scores=torch.zeros(3).double()), "scores must be float64"),
    "tensor of another type": (lambda t, c: t.update(scores=torch.zeros(3, 1)), "scores must be float64"),
    "no rows": (lambda t, c: c["statistics"].update(weight=0.0), "have rows of weight > 0"),
    "Gram matrix that is none": (lambda t, c: t["statistics.joint"].neg_(), "squares in its diagonal"),
    "tensor not finite": (lambda t, c: t["statistics.mean"].fill_(torch.nan), "must be finite"),
    "scores not finite": (lambda t, c: t["scores"].fill_(torch.nan), "scores must be finite"),
    "weights": (lambda t, c: t.update({"module.0.bias": torch.zeros(3)}), "'0.bias'"),
    "learned rows": (lambda t, c: t["learned.residuals"].mul_(torch.linspace(0, 9, 150)[:, None]), "other widths"),
    "learned lengths": (lambda t, c: t.update({"learned.leverage": torch.zeros(3).double()}), r"of shape \(150\)"),
    "level by zero": (lambda t, c: c["parameters"].update(confidence_level={"fraction": [1, 0]}), "denominator >= 1"),
    "level of one part": (lambda t, c: c["parameters"].update(confidence_level={"fraction": [1]}), "denominator >= 1"),
    "level as text": (lambda t, c: c["parameters"].update(confidence_level={"fraction": "1e-9999999"}), "must be list"),
    "level of many digits": (
        lambda t, c: c["parameters"].update(confidence_level=[{"fraction": [1, 10**400]}]),
        r"confidence_level: fraction must be int from .* got a number beyond 2\*\*63",
    ),
    "ridge beyond all numbers": (lambda t, c: c["space"].update(ridge=10**400), "ridge must be finite"),
    "weight beyond all numbers": (lambda t, c: c["statistics"].update(weight=10**400), "weight must be finite"),
    "rows beyond all memory": (lambda t, c: c["statistics"].update(n_samples=2**70), "n_samples must be int from 0"),
    "seed": (lambda t, c: c["fitted"].update(seed=-1), "seed must be int from 0"),
    "text without end": (lambda t, c: c["head"].update(name="a" * 9_999), "at most 1000 characters"),
    "type of no text": (lambda t, c: c["scale"].update(type=["os"]), "one of hatband's"),
    "scale of no parameters": (lambda t, c: c["scale"].update(parameters=3), "must have the entries"),
    "scale without parameters": (lambda t, c: c["scale"].pop("parameters"), "must have the entries"),
    "columns of no kind": (
        lambda t, c: t.update(
            {"statistics.mean": torch.zeros(15).double(), "statistics.joint": torch.eye(15).double()}
        ),
        "12 features, and targets for all outputs or for none; those in the file have 15",
    ),
    "Gram matrix that is not square": (
        lambda t, c: t.update({"statistics.joint": torch.zeros(13, 4).double()}),
        r"statistics.joint must be float64 of shape \(13, 13\)",
    ),
}


@pytest.mark.parametrize("case", list(FORGERIES))
def test_a_document_that_breaks_the_schema_is_refused(saved, case):
    change, message = FORGERIES[case]
    tensors, content = read_archive(saved)
    change(tensors, content)
    write_archive(saved, tensors, content)

    refused(saved, message)


def test_a_document_that_is_not_an_object_is_refused(tmp_path):
    write_archive(tmp_path / "list", {}, json.loads("[1]"))

    refused(tmp_path / "list", "JSON object")


@pytest.mark.parametrize(
    ("scale", "parameter", "value", "message"),
    [
        (QuantileScale(level=0.8), "n_trees", 10**9, "n_trees must be int from -10000 to 10000"),
        (QuantileScale(level=0.8), "random_state", -1, "random_state must be int from 0"),
        (QuantileScale(level=0.8), "level", {"fraction": [4, 0]}, "denominator >= 1"),
        (QuantileScale(level=0.8), "level", "0.8", "level"),
        (QuantileScale(level=0.8), "columns", [["leverage"]], "columns must be"),
        (QuantileScale(level=0.8), "columns", 3, "QuantileScale must be possible to build"),
        (LeverageScale(0.3), "power", "0.3", "LeverageScale must be possible to build"),
        (LeverageScale(0.3), "power", [0.3], "LeverageScale must be possible to build"),
    ],
)
def test_a_scale_that_cannot_be_built_is_refused_as_a_wrong_value(tmp_path, scale, parameter, value, message):
    path = tmp_path / "model.safetensors"
    fitted(scale).save(path)
    tensors, content = read_archive(path)
    content["scale"]["parameters"][parameter] = value
    write_archive(path, tensors, content)

    refused(path, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ridge": "auto"', '"ridge": 1e999', "ridge must be finite"),
        ('"ridge": "auto"', '"ridge": NaN', "ridge must be finite"),
        ('"ridge": "auto"', f'"ridge": {"9" * 9_999}', "must hold a JSON document"),
        ('"ridge": "auto"', f'"ridge": {"[" * 99_999}', "must hold a JSON document"),
    ],
    ids=["infinite", "not a number", "digits", "brackets"],
)
def test_a_text_that_is_not_such_a_document_is_refused(saved, monkeypatch, old, new, message):
    tensors, content = read_archive(saved)
    text = json.dumps(content)
    assert old in text
    monkeypatch.setattr(json, "dumps", lambda *_, **__: text.replace(old, new))
    write_archive(saved, tensors, content)

    refused(saved, message)


def test_a_level_whose_parts_no_file_holds_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(ValueError, match=r"confidence_level: fraction must be int from"):
        fitted(confidence_level=1 - Fraction(1, 10**30)).save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
