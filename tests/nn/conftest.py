"""Devices, and networks small enough to be checked against dense formulas."""

import pytest
import torch

from hatband._backend import TorchBackend
from hatband.nn import low_rank, space_files, streaming
from nn.cases import network
from pretend_device import DEVICE

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


# "tensors" is the code of an accelerator, run on the CPU; the pretended device refuses what CUDA refuses besides.
@pytest.fixture(params=["cpu", "tensors", str(DEVICE), CUDA])
def device(request, monkeypatch) -> torch.device:
    if request.param != "tensors":
        return torch.device(request.param)
    for module in (low_rank, space_files, streaming):
        monkeypatch.setattr(module, "backend_for", lambda features: TorchBackend("cpu"))
    return torch.device("cpu")


@pytest.fixture
def net(device) -> torch.nn.Module:
    return network().to(device)
