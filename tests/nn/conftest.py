"""Devices, and networks small enough to be checked against dense formulas."""

import pytest
import torch

from nn.cases import network

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def net(device) -> torch.nn.Module:
    return network().to(device)
