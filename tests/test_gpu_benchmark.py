"""The body of benchmarks/gpu.py runs on the pretended device: what it times there means nothing, all else does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pretend_device import DEVICE, PRETENDED, watched

pytestmark = PRETENDED

FOLDER = Path(__file__).parents[1] / "benchmarks"
N, D = 3_000, 40


class Event:
    """What a device of CUDA records; every call takes two milliseconds here."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def elapsed_time(self, _: "Event") -> float:
        return 2.0


@pytest.fixture
def gpu(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # There is no generator of random numbers for the pretended device.
    drawn = module.features_on
    monkeypatch.setattr(module, "features_on", lambda device, n, d: drawn(torch.device("cpu"), n, d).to(device))
    monkeypatch.setattr(module, "BATCH", 700)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return module


def test_it_compares_and_its_errors_are_those_of_float64(gpu):
    report = gpu.Report("gpu")

    gpu.compare(report, DEVICE, N, D, rounds=1)

    assert [row["milliseconds"] for row in report.rows] == [2.0] * 4
    assert [target["met"] for target in report.targets] == [True] * 3
    assert 0 < report.targets[-1]["value"] < 1e-9


def test_neither_the_factor_nor_a_leverage_brings_features_to_the_host(gpu):
    values = gpu.features_on(DEVICE, N, D)

    with watched() as seen:
        factor = gpu.factored(values)
        leverage = factor.leverage(values)

    assert leverage.device == DEVICE
    assert (seen.to_host, seen.waits) < (20 * 8 * D, 40)
    assert seen.to_device < 20 * 8 * D
