"""Networks, rows and oracles of the PyTorch tests; the oracles import nothing of ours."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

N_INPUTS, WIDTH = 4, 12


def network(n_outputs: int = 1, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A perceptron with fixed weights, no training needed: what its last layer measures does not depend on it."""
    generator = torch.Generator().manual_seed(7)
    net = nn.Sequential(nn.Linear(N_INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, n_outputs, bias=bias))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return net.to(dtype)


def rows(n: int, seed: int = 0, n_outputs: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (n, 4) and noisy targets (n,) or (n, q)."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, N_INPUTS, generator=generator)
    shape = (n,) if n_outputs is None else (n, n_outputs)
    return X, torch.sin(X[:, :1]).expand(n, shape[-1] if len(shape) > 1 else 1).reshape(shape) + 0.3 * torch.randn(
        shape, generator=generator
    )


def loader(X: torch.Tensor, y: torch.Tensor | None = None, batch_size: int = 17) -> DataLoader:
    """A loader whose batches divide nothing evenly."""
    return DataLoader(TensorDataset(X) if y is None else TensorDataset(X, y), batch_size=batch_size)


def phi(net: nn.Sequential, X: torch.Tensor) -> np.ndarray:
    """Features in float64 as the network computes them."""
    device = next(net.parameters()).device
    with torch.no_grad():
        return net[:-1](X.to(device, next(net.parameters()).dtype)).double().cpu().numpy()


def gradients(net: nn.Module, X: torch.Tensor) -> np.ndarray:
    """Derivatives of the one output in all parameters, one backward pass per row."""
    found = []
    for row in X.to(next(net.parameters()).device, next(net.parameters()).dtype):
        net.zero_grad()
        net(row[None]).sum().backward()
        found.append(torch.cat([parameter.grad.reshape(-1) for parameter in net.parameters()]).double().cpu().numpy())
    net.zero_grad()
    return np.array(found)


def dense_leverage(train: np.ndarray, new: np.ndarray, ridge: float, intercept: str) -> np.ndarray:
    """h(x) by explicit inversion: free, penalised or no intercept."""
    if intercept == "penalised":
        train, new = (np.column_stack([part, np.ones(len(part))]) for part in (train, new))
    mean = train.mean(axis=0) if intercept == "free" else 0.0
    train, new = train - mean, new - mean
    inverse = np.linalg.inv(train.T @ train + ridge * np.eye(train.shape[1]))
    floor = 1 / len(train) if intercept == "free" else 0.0
    return floor + np.einsum("ij,jk,ik->i", new, inverse, new)


def solve_head(net: nn.Sequential, X: torch.Tensor, y: torch.Tensor, ridge: float) -> None:
    """Make the head the ridge regression of y on the features, its intercept free."""
    features, target = phi(net, X), y.double().cpu().numpy().reshape(len(y), -1)
    mean, centre = features.mean(axis=0), target.mean(axis=0)
    centred = features - mean
    slopes = np.linalg.solve(centred.T @ centred + ridge * np.eye(len(mean)), centred.T @ (target - centre))
    with torch.no_grad():
        net[-1].weight.copy_(torch.tensor(slopes.T))
        net[-1].bias.copy_(torch.tensor(centre - mean @ slopes))
