"""The pretended device computes what the CPU computes, refuses what CUDA refuses, and counts what crosses the border.

With a CUDA device its claims about CUDA are checked there too.
"""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vjp, vmap

from hatband.arrays.torch_backend import TorchBackend
from hatband.linalg import Auto
from pretend_device import CUDA, DEVICE, PRETEND, PRETENDED, PretendTensor, watched, without_float64


@pytest.fixture(params=[PRETEND, CUDA])
def device(request) -> torch.device:
    return torch.device(request.param)


def positive(device, size=5) -> torch.Tensor:
    values = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return (values @ values.T + torch.eye(size, dtype=torch.float64)).to(device)


def network(device) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double().to(device)


def written_through_views(x: torch.Tensor) -> torch.Tensor:
    x[1:3] -= 2.0
    x.diagonal().copy_(torch.zeros(len(x), dtype=x.dtype, device=x.device))
    x[x > 1.0] = 7.0
    torch.sub(x[:2], x[4], out=x[2:4])
    return x


def gradients(x: torch.Tensor) -> torch.Tensor:
    net = network(x.device)
    net(x).square().sum().backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in net.parameters()])


def gradients_of_rows(x: torch.Tensor) -> torch.Tensor:
    net = network(x.device)
    weights = {name: value.detach() for name, value in net.named_parameters()}
    found = vmap(grad(lambda w, row: functional_call(net, w, (row[None],)).sum()), (None, 0))(weights, x)
    return torch.cat([value.reshape(len(x), -1) for value in found.values()], dim=1)


def pulled_back(x: torch.Tensor) -> torch.Tensor:
    return vjp(network(x.device), x)[1](torch.ones(len(x), 1, dtype=x.dtype, device=x.device))[0]


def trained(x: torch.Tensor) -> torch.Tensor:
    net = network(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return copy.deepcopy(net)(x).detach()


COMPUTED = {
    "products": lambda x: (x @ x.T + x.mean(0)) @ x[0],
    "Cholesky": lambda x: torch.linalg.cholesky_ex(x, upper=True)[0],
    "QR": lambda x: torch.linalg.qr(x, mode="r")[1].abs(),
    "singular values": lambda x: torch.linalg.svd(x, full_matrices=False)[1],
    "triangular solve": lambda x: torch.linalg.solve_triangular(
        x.triu(), torch.eye(5, device=x.device).double(), upper=True
    ),
    "distances": lambda x: torch.cdist(x, x[:2]),
    "made from nothing": lambda x: torch.arange(5.0, device=x.device) + torch.tensor([2.0], device=x.device) + x,
    "made from another": lambda x: torch.cat([x.new_ones(2, 5), x.new_tensor([[1.0] * 5]), torch.zeros_like(x)]),
    "views": lambda x: written_through_views(x.clone()),
    "backward": gradients,
    "gradients of rows": gradients_of_rows,
    "vjp": pulled_back,
    "Adam": trained,
}


@pytest.mark.parametrize("case", list(COMPUTED))
def test_numbers_are_those_of_the_cpu(case, device):
    seen, expected = COMPUTED[case](positive(device)), COMPUTED[case](positive("cpu"))

    assert (seen.device.type, seen.dtype, seen.shape) == (device.type, expected.dtype, expected.shape)
    torch.testing.assert_close(seen.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_a_module_keeps_its_parameters_when_it_is_moved_and_widened(device):
    net = nn.Linear(3, 2)
    weight, values = net.weight, net.weight.detach().clone()

    net.to(device).double()

    assert net.weight is weight
    assert (weight.device.type, weight.dtype) == (device.type, torch.float64)
    torch.testing.assert_close(weight.detach().cpu(), values.double())
    nn.utils.vector_to_parameters(torch.zeros(8, dtype=torch.float64, device=device), net.parameters())
    for module in (net, copy.deepcopy(net)):
        assert not module(torch.ones(1, 3, dtype=torch.float64, device=device)).any()


def test_a_copy_is_apart_and_keeps_gradients(device):
    net = network(device)
    net(positive(device)).sum().backward()

    copied = copy.deepcopy(net)
    net.zero_grad(set_to_none=False)
    with torch.no_grad():
        net[0].weight.zero_()

    assert copied[0].weight.any()
    assert copied[0].weight.grad.any()
    assert isinstance(copied[0].weight, nn.Parameter)


REFUSED = {
    "sum": lambda x: x + torch.ones(5),
    "product": lambda x: x @ torch.ones(5, 5, dtype=torch.float64),
    "one number into rows of the CPU": lambda x: torch.ones(5) + x[0, 0],
    "joined": lambda x: torch.cat([x, torch.ones(1, 5, dtype=torch.float64)]),
    "written into the CPU": lambda x: torch.sub(x, 1.0, out=torch.empty(5, 5, dtype=torch.float64)),
    "number of the CPU written": lambda x: torch.tensor(1.0, dtype=torch.float64).add_(x[0, 0]),
    "rows of the CPU by an index on the device": lambda x: torch.ones(5)[x.argmax(0)],
    "index_select": lambda x: x.index_select(0, torch.tensor([0, 1])),
    "assigned at an index": lambda x: x.__setitem__(torch.tensor([0, 1]), torch.ones(5, dtype=torch.float64)),
    "network": nn.Linear(5, 1).double(),
    "where": lambda x: torch.where(x > 0, x, torch.ones(5, 5, dtype=torch.float64)),
    "numbers joined": lambda x: torch.stack([x[0, 0], torch.tensor(1.0, dtype=torch.float64)]),
    "drawn by a generator of the CPU": lambda x: torch.randn(5, device=x.device, generator=torch.Generator()),
    "written by a generator of the CPU": lambda x: x.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_tensors_of_two_devices_do_not_mix(case, device):
    with pytest.raises((RuntimeError, ValueError)):
        REFUSED[case](positive(device))


ALLOWED = {
    "a number of the CPU": lambda x: x * torch.tensor(2.0) + 1.0,
    "an index of the CPU": lambda x: x[torch.tensor([0, 3])],
    "an index of NumPy": lambda x: x[:, np.array([0, 3])],
    "a mask of the CPU": lambda x: x[torch.arange(5) > 2],
    "a slice assigned from the CPU": lambda x: x.__setitem__(slice(2), torch.ones(2, 5)) or x,
    "a copy from the CPU": lambda x: x.copy_(torch.ones(5)),
    "where with a number of the CPU": lambda x: torch.where(x > 0, x, torch.tensor(0.0, dtype=torch.float64)),
}


@pytest.mark.parametrize("case", list(ALLOWED))
def test_what_cuda_allows_is_allowed(case, device):
    seen = ALLOWED[case](positive(device))

    assert seen.device.type == device.type
    torch.testing.assert_close(seen.cpu(), ALLOWED[case](positive("cpu")))


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, np.linalg.norm])
def test_a_tensor_on_the_device_is_not_an_array(read, device):
    with pytest.raises(TypeError, match="numpy"):
        read(positive(device))


CROSSING = {
    "nothing": (lambda x: (x @ x).sum(), 0, 0, 0),
    "a copy": (lambda x: x.cpu(), 200, 0, 1),
    "a wider copy": (lambda x: x.float().to("cpu", torch.float64), 200, 0, 1),
    "a copy into a tensor": (lambda x: torch.empty(5, dtype=torch.float64).copy_(x[0]), 40, 0, 1),
    "a list": (lambda x: x[0].tolist(), 40, 0, 1),
    "a number": (lambda x: float(x.sum()), 8, 0, 1),
    "a condition": (lambda x: bool((x > 0).all()), 1, 0, 1),
    "numbers in a loop": (lambda x: [float(value) for value in x[0]], 40, 0, 5),
    "a mask": (lambda x: x[x > 0], 0, 0, 1),
    "a tensor of the CPU": (lambda x: torch.ones(3).to(x.device), 0, 12, 0),
    "an array": (lambda x: torch.as_tensor(np.ones(3), device=x.device), 0, 24, 0),
    "rows assigned": (lambda x: x.__setitem__(slice(2), torch.ones(2, 5, dtype=torch.float64)), 0, 80, 0),
}


@PRETENDED
@pytest.mark.parametrize("case", list(CROSSING))
def test_what_crosses_the_border_is_counted(case):
    action, to_host, to_device, waits = CROSSING[case]
    x = positive(DEVICE)

    with watched() as seen:
        action(x)

    assert (seen.to_host, seen.to_device, seen.waits) == (to_host, to_device, waits)


@PRETENDED
def test_a_device_without_float64_takes_none_and_widens_nothing():
    x = torch.ones(3, device=DEVICE)
    wide = torch.ones(3, dtype=torch.float64)
    with without_float64():
        for action in (x.double, lambda: x.to("cpu", torch.float64), lambda: wide.to(DEVICE), lambda: wide.add_(x)):
            with pytest.raises((TypeError, RuntimeError)):
                action()
        assert wide.to(DEVICE, torch.float32).dtype == torch.float32
        assert x.cpu().double().sum() == 3


@PRETENDED
def test_tensors_of_the_cpu_are_not_on_the_device():
    assert type(torch.ones(2) + 1) is torch.Tensor
    assert not isinstance(positive(DEVICE).cpu(), PretendTensor)
    with pytest.raises(NotImplementedError, match="resized"):
        torch.ones(2, device=DEVICE).resize_(3)


MISTAKES = {
    "zeros": lambda self, *shape: torch.zeros(shape, dtype=torch.float64),
    "asarray": lambda self, values: torch.as_tensor(np.asarray(values), dtype=torch.float64),
    "numpy": lambda self, values: np.asarray(values),
    "tri_inv": lambda self, triangle: torch.linalg.solve_triangular(triangle, torch.eye(3).double(), upper=True),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistakes_planted_in_the_backend_are_found(name, monkeypatch, device):
    features = torch.randn(20, 3, device=device)
    Auto().factor(features, 1.0)

    monkeypatch.setattr(TorchBackend, name, MISTAKES[name])

    with pytest.raises((RuntimeError, TypeError)):
        Auto().factor(features, 1.0)


BESIDE_A_GPU = """
import torch

torch.cuda.is_available = lambda: True
import pretend_device

assert str(torch.accelerator.current_accelerator()) != pretend_device.NAME
assert pretend_device.PRETENDED.args == (True,)
"""


def test_beside_a_gpu_it_is_not_there():
    # Backward passes of CUDA would fail an assertion inside torch: autograd asks the preferred accelerator for streams.
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_A_GPU], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
