"""Models of several files: what is loaded is what was saved, and folders that were changed or mixed are refused."""

import copy
import pickle
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from hatband.nn import MLP, EnsembleConformalRegressor, NeuralConformalRegressor
from hatband.nn.files.archive import read_archive, write_archive
from hatband.nn.measure.state import seeded
from nn.cases import rows

pytest.importorskip("safetensors", reason="safetensors is not installed")

INDEX = "index.safetensors"


def networks(seed=0, n=3, n_outputs=1, width=6):
    with seeded(seed):
        return [MLP(4, n_outputs, widths=(width,)).eval() for _ in range(n)]


def ensemble(seed=0, n_outputs=None, **settings):
    model = EnsembleConformalRegressor(networks(seed, n_outputs=n_outputs or 1), **{"scale": "leverage", **settings})
    return model.fit_train(*rows(120, n_outputs=n_outputs), validation=rows(120, 3, n_outputs)).calibrate(
        *rows(60, 1, n_outputs)
    )


def neural(offset=0.0, **settings):
    model = NeuralConformalRegressor(
        **{"widths": (8,), "epochs": 3, "scale": "leverage", "random_state": 0, **settings}
    )
    X, y = (part.double().numpy() for part in rows(160, n_outputs=2))
    return model.fit(X, y + offset)


def same_intervals(one, other):
    X = 3 * rows(30, 2)[0].numpy()
    for seen, expected in zip(one.predict_interval(X), other.predict_interval(X), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-10)
    np.testing.assert_allclose(one.leverage(X), other.leverage(X), rtol=1e-10)


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_outputs": 2},
        {"scale": "magnitude", "random_state": 3},
        {"confidence_level": [0.5, Fraction(4, 5)], "symmetric": False},
        {"scale": "auto"},
    ],
    ids=str,
)
def test_an_ensemble_comes_back(tmp_path, settings):
    model = ensemble(**settings)
    model.save(tmp_path / "model")
    loaded = EnsembleConformalRegressor.load(tmp_path / "model", networks(9, n_outputs=settings.get("n_outputs") or 1))

    same_intervals(loaded, model)
    kept = ("confidence_level", "symmetric", "ridge", "random_state")
    assert {name: getattr(loaded, name) for name in kept} == {name: getattr(model, name) for name in kept}
    assert str(loaded.scale) == str(model.scale)


@pytest.mark.parametrize("layer", ["all", "head"])
def test_what_was_measured_of_the_networks_comes_back(tmp_path, layer):
    model = EnsembleConformalRegressor(networks(), layer, scale="leverage").fit_train(*rows(120))
    model.calibrate(*rows(60, 1)).save(tmp_path)
    loaded = EnsembleConformalRegressor.load(tmp_path, networks(9))

    same_intervals(loaded, model)
    assert loaded.layer == layer


def test_levels_set_after_training_come_back(tmp_path):
    model = ensemble().set_params(confidence_level=0.5, symmetric=False)
    model.save(tmp_path)

    same_intervals(EnsembleConformalRegressor.load(tmp_path, networks()), model)
    assert model.members_[0].confidence_level == 0.9


def test_an_ensemble_without_scores_comes_back_without(tmp_path):
    model = EnsembleConformalRegressor(networks(), scale="leverage").fit_train(*rows(120))
    model.save(tmp_path)
    loaded = EnsembleConformalRegressor.load(tmp_path, networks(9))
    with pytest.raises(NotFittedError, match="call calibrate first"):
        loaded.predict_interval(rows(3)[0])

    same_intervals(loaded.calibrate(*rows(60, 1)), model.calibrate(*rows(60, 1)))


def test_an_ensemble_is_saved_over_another(tmp_path):
    ensemble(1).save(tmp_path)
    model = ensemble(2)
    model.save(tmp_path)

    same_intervals(EnsembleConformalRegressor.load(tmp_path, networks()), model)


def test_what_is_not_fitted_or_needs_code_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError, match="before save"):
        EnsembleConformalRegressor(networks()).save(tmp_path / "model")
    with pytest.raises(ValueError, match="as code"):
        ensemble(scale=lambda rows: 1 + rows.leverage).save(tmp_path / "model")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "settings", [{}, {"activation": "tanh", "loss": "gaussian", "widths": (5, 4), "dropout": 0.5}], ids=str
)
def test_a_neural_regressor_comes_back(tmp_path, settings):
    model = neural(**settings)
    model.save(tmp_path / "model")
    loaded = NeuralConformalRegressor.load(tmp_path / "model")

    same_intervals(loaded, model)
    for name in ("widths", "activation", "dropout", "loss", "scale", "ridge", "symmetric"):
        assert getattr(loaded, name) == getattr(model, name)


def test_a_neural_regressor_comes_back_in_its_precision_and_where_its_target_lies(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        model = neural(offset=2.0**40)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save(tmp_path)
    loaded = NeuralConformalRegressor.load(tmp_path)

    assert loaded.module_.head.weight.dtype == torch.float64
    assert loaded.target_offset_[0] > 2.0**39
    same_intervals(loaded, model)


def test_the_network_that_was_trained_is_saved_and_not_the_one_that_is_to_be(tmp_path):
    model = neural()
    model.set_params(activation="tanh", widths=(3,)).save(tmp_path)

    same_intervals(NeuralConformalRegressor.load(tmp_path), model)


# ---------------------------------------------------------------- folders that were changed


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    ensemble().save(place / "ensemble")
    neural().save(place / "neural")
    return place


@pytest.fixture(params=["ensemble", "neural"])
def kind(request):
    return request.param


@pytest.fixture
def saved(folders, tmp_path, kind):
    shutil.copytree(folders / kind, tmp_path / kind)
    return tmp_path / kind


def load(folder, modules=None):
    if folder.name == "neural":
        return NeuralConformalRegressor.load(folder)
    return EnsembleConformalRegressor.load(folder, networks(9) if modules is None else modules)


def parts(folder):
    return sorted(path for path in folder.iterdir() if path.name != INDEX)


@pytest.mark.parametrize("place", [-1, -200])
def test_a_flipped_bit_in_any_file_is_found(saved, place):
    for path in (*parts(saved), saved / INDEX):
        whole = path.read_bytes()
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or changed"):
            load(saved)
        path.write_bytes(whole)
    load(saved)


def test_a_part_of_another_model_is_refused(saved, kind):
    (ensemble(5) if kind == "ensemble" else neural(random_state=5)).save(saved.parent / "other")
    shutil.copy(parts(saved.parent / "other")[-1], parts(saved)[-1])
    with pytest.raises(ValueError, match="damaged or changed"):
        load(saved)


def test_a_missing_file_is_named(saved):
    parts(saved)[-1].unlink()
    with pytest.raises(FileNotFoundError, match="which the index of its folder lists"):
        load(saved)
    (saved / INDEX).unlink()
    with pytest.raises(FileNotFoundError, match="index"):
        load(saved)


class Bomb:
    """Something that would run when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_pickle_is_not_opened(saved):
    for path in (saved / INDEX, parts(saved)[0]):
        path.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ValueError, match=r"safetensors file|damaged"):
            load(saved)


def forged(folder, change):
    """Change the index and make its checksum anew, as a forger would: the schema is what is left."""
    tensors, content = read_archive(folder / INDEX)
    change(tensors, content)
    write_archive(folder / INDEX, tensors, content)


COMMON = {
    "version": (lambda t, c: c.update(version=2), "format version 1"),
    "entry added": (lambda t, c: c.update(code="import os"), "must have the entries"),
    "files of no kind": (lambda t, c: c.update(files="all"), "must be list"),
    "checksums of the wrong type": (lambda t, c: c.update(files=[1] * len(c["files"])), "files must be str; got 1"),
    "no files": (lambda t, c: c.update(files=[]), "one network"),
}
OF_ENSEMBLE = {
    "sizes missing": (lambda t, c: t.pop("sizes"), "must hold the tensor 'sizes'"),
    "sizes of another shape": (lambda t, c: t.update(sizes=torch.ones(2, 1).double()), "sizes must be float64"),
    "sizes not positive": (lambda t, c: t["sizes"].zero_(), "sizes must be finite and > 0"),
    "scores not finite": (lambda t, c: t["scores"].fill_(torch.nan), "scores must be finite"),
    "tensor added": (lambda t, c: t.update(more=torch.zeros(2)), "do not belong"),
}
OF_NEURAL = {
    "widths": (lambda t, c: c.update(widths=[9]), "architecture"),
    "widths of no kind": (lambda t, c: c.update(widths=["a"]), "widths must be int"),
    # 20,000 x 20,000 numbers are 1.6 GB, 2^24 x 2^24 are a thousand terabytes: neither may be asked for.
    "widths of a large network": (lambda t, c: c.update(widths=[20_000, 20_000]), "architecture that was saved"),
    "widths beyond all memory": (lambda t, c: c.update(widths=[2**24] * 9), "architecture that was saved"),
    "widths beyond the limit": (lambda t, c: c.update(widths=[2**62]), "widths must be int from 1 to"),
    "layers beyond the limit": (lambda t, c: c.update(widths=[1] * 1_001), "at most 1000 entries"),
    "no layers": (lambda t, c: c.update(widths=[]), "widths must be"),
    "inputs": (lambda t, c: c.update(n_inputs=2**24), "offset must be float64"),
    "dropout": (lambda t, c: c.update(dropout=1.0), "dropout must be"),
    "activation": (lambda t, c: c.update(activation="exec"), "activation must be one of"),
    "outputs": (lambda t, c: c.update(n_outputs=True), "must be int"),
    "offset of another shape": (lambda t, c: t.update(offset=torch.zeros(3).double()), "offset must be float64"),
    "offset not finite": (lambda t, c: t["offset"].fill_(torch.nan), "offset must be finite"),
    "target offset not finite": (lambda t, c: t["target_offset"].fill_(torch.nan), "target_offset must be finite"),
    "names": (lambda t, c: c.update(feature_names=["a", 1, "b", "c"]), "feature_names must be str; got 1"),
    "fewer names": (lambda t, c: c.update(feature_names=["a"]), "feature_names must be 4 strings"),
    "type": (lambda t, c: c.update(dtype="torch.int64"), "dtype must be one of"),
    "tensor added": (lambda t, c: t.update(more=torch.zeros(2)), "do not belong"),
}


@pytest.mark.parametrize("case", list(COMMON))
def test_an_index_that_breaks_the_schema_is_refused(saved, case):
    change, message = COMMON[case]
    forged(saved, change)
    with pytest.raises(ValueError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("kind", "case"), [*(("ensemble", case) for case in OF_ENSEMBLE), *(("neural", case) for case in OF_NEURAL)]
)
def test_an_index_of_the_wrong_content_is_refused(saved, kind, case):
    change, message = (OF_ENSEMBLE if kind == "ensemble" else OF_NEURAL)[case]
    forged(saved, change)
    with pytest.raises(ValueError, match=message):
        load(saved)


@pytest.mark.parametrize("kind", ["ensemble"])
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: networks(9, n=2), ValueError, "one network for each of the 3 that were saved.*got 2, 2"),
        (lambda: networks(9)[:1] * 3, ValueError, "all different; got 3, 1 of them different"),
        (lambda: networks(9)[0], TypeError, "modules must be a list"),
        (lambda: [*networks(9, n=2), *networks(9, n=1, width=5)], ValueError, "architecture that was saved"),
    ],
    ids=["too few", "one thrice", "one", "architecture"],
)
def test_networks_that_do_not_belong_to_the_files_are_refused_and_stay_as_they_were(saved, kind, wrong, error, message):
    modules = wrong()
    first = modules[0] if isinstance(modules, list) else modules
    before = copy.deepcopy(first.state_dict())
    with pytest.raises(error, match=message):
        load(saved, modules)

    assert all(torch.equal(value, first.state_dict()[name]) for name, value in before.items())
