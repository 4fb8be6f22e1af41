"""Devices, and networks small enough to be checked against dense formulas."""

import pytest
import torch

from nn.cases import network
from pretend_device import CUDA, PRETEND


# The pretended device runs the code of an accelerator, and refuses what CUDA refuses.
@pytest.fixture(params=["cpu", PRETEND, CUDA])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def net(device) -> torch.nn.Module:
    return network().to(device)
