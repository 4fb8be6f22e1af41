"""A whole network, exact or of low rank, is loaded as it was saved; a file that was changed is refused."""

import numpy as np
import pytest
import torch

from hatband.nn import LastLayerConformalRegressor, WholeNetwork
from hatband.nn.files.archive import read_archive, write_archive
from nn.cases import network, rows

pytest.importorskip("safetensors", reason="safetensors is not installed")

LAYERS = {
    "exact": "all",
    "exact, said so": WholeNetwork(exact_up_to=100),
    "low rank": WholeNetwork(exact_up_to=0, rank=8, random_state=3),
}


def fitted(layer, scale="leverage", **parameters) -> LastLayerConformalRegressor:
    model = LastLayerConformalRegressor(network(), layer, scale=scale, random_state=0, **parameters)
    return model.fit_train(*rows(150), validation=rows(150, 3)).calibrate(*rows(60, 1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("parameters", [{}, {"penalise_bias": True, "ridge": 0.5}, {"scale": "strength"}], ids=str)
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_loaded_model_gives_the_same_intervals(device, path, name, parameters):
    model = fitted(LAYERS[name], device=device, **parameters)
    model.save(path)
    fresh = network()
    with torch.no_grad():
        fresh[0].weight.zero_()

    loaded = LastLayerConformalRegressor.load(path, fresh.to(device))

    new = 3 * rows(40, 2)[0]
    for seen, expected in zip(loaded.predict_interval(new), model.predict_interval(new), strict=True):
        np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(loaded.leverage(new), model.leverage(new))
    assert loaded.layer == model.layer
    assert type(loaded.space_) is type(model.space_)
    assert (loaded.space_.ridge, loaded.space_.n_samples) == (model.space_.ridge, 150)


def refused(path, message):
    net = network()
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(ValueError, match=message):
        LastLayerConformalRegressor.load(path, net)
    assert not net[0].weight.any()


# With a checksum made anew, as a forger would: the schema is what is left.
BOTH = {
    "kind": (lambda t, c: c.update(kind="eval"), "kind must be one of"),
    "kind of a last layer": (lambda t, c: c.update(kind="last layer"), "must have the entries"),
    "entry added": (lambda t, c: c["whole"].update(code="import os"), "must have the entries"),
    "flag for number": (lambda t, c: c["whole"].update(rank=True), "must be int"),
    "intercept": (lambda t, c: c["space"].update(intercept="penalised"), "intercept"),
    "exactness": (lambda t, c: c["space"].update(exactness="given"), "exactness"),
    "ridge": (lambda t, c: c["space"].update(ridge=-1.0), "ridge"),
    "scores not finite": (lambda t, c: t["scores"].fill_(torch.nan), "scores must be finite"),
    "tensor added": (lambda t, c: t.update(more=torch.zeros(2)), "do not belong"),
    "weights": (lambda t, c: t.update({"module.0.bias": torch.zeros(3)}), "'0.bias'"),
}
GRAM = {
    "parameters": (lambda t, c: c["statistics"].update(n_features=9), "must have 9 parameters; it has 73"),
    "tensor missing": (lambda t, c: t.pop("statistics.joint"), "must hold the tensor"),
    "no rows": (lambda t, c: c["statistics"].update(weight=0.0), "have rows of weight > 0"),
    "Gram matrix that is none": (lambda t, c: t["statistics.joint"].neg_(), "squares in its diagonal"),
}
SKETCH = {
    "rows": (lambda t, c: c["sketch"].update(n_samples=0), "have rows of weight > 0"),
    "trace": (lambda t, c: c["sketch"].update(trace=-1.0), "must be finite"),
    "mean not finite": (lambda t, c: t["sketch.mean"].fill_(torch.nan), "must be finite"),
    "mean of another length": (lambda t, c: t.update({"sketch.mean": torch.zeros(9).double()}), "must be float64"),
    "no ridge": (lambda t, c: c["space"].update(ridge=0.0), "ridge must be > 0"),
    "values that rise": (lambda t, c: t.update({"sketch.values": t["sketch.values"].flip(0)}), "that fall"),
    "values below zero": (lambda t, c: t["sketch.values"].neg_(), "that fall"),
    "directions": (lambda t, c: t["sketch.vectors"].mul_(2), "orthonormal"),
    "directions not finite": (lambda t, c: t["sketch.vectors"].fill_(torch.nan), "orthonormal"),
    "fewer directions": (lambda t, c: t.update({"sketch.vectors": t["sketch.vectors"][:, 1:]}), "must be float64"),
}
FORGERIES = [("exact", case) for case in BOTH | GRAM] + [("low rank", case) for case in BOTH | SKETCH]


@pytest.mark.parametrize(("name", "case"), FORGERIES)
def test_a_document_that_breaks_the_schema_is_refused(path, name, case):
    fitted(LAYERS[name]).save(path)
    change, message = (BOTH | (GRAM if name == "exact" else SKETCH))[case]
    tensors, content = read_archive(path)
    change(tensors, content)
    write_archive(path, tensors, content)

    refused(path, message)


@pytest.mark.parametrize("name", ["exact", "low rank"])
def test_a_flipped_bit_is_found(path, name):
    fitted(LAYERS[name]).save(path)
    content = bytearray(path.read_bytes())
    content[-1_000] ^= 1
    path.write_bytes(content)

    refused(path, "damaged or changed")
