"""Kernels on torch tensors are those of NumPy and of scikit-learn, and stay on their device."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import Matern
from sklearn.metrics.pairwise import pairwise_kernels

from hatband.geometry import (
    KernelGeometry,
    LaplacianKernel,
    LinearKernel,
    MaternKernel,
    PolynomialKernel,
    RBFKernel,
)
from hatband.linalg import factor_kernel
from pretend_device import CUDA, PRETEND

DEVICES = ["cpu", PRETEND, CUDA]
KERNELS = {
    "rbf": (RBFKernel(0.7), lambda X, Z: pairwise_kernels(X, Z, metric="rbf", gamma=0.7)),
    "laplacian": (LaplacianKernel(0.3), lambda X, Z: pairwise_kernels(X, Z, metric="laplacian", gamma=0.3)),
    "polynomial": (
        PolynomialKernel(0.5, 2.0, 2),
        lambda X, Z: pairwise_kernels(X, Z, metric="polynomial", gamma=0.5, coef0=2.0, degree=2),
    ),
    "linear": (LinearKernel(), lambda X, Z: X @ Z.T),
    "matern 1/2": (MaternKernel(1.7, 0.5), Matern(1.7, nu=0.5)),
    "matern 3/2": (MaternKernel(1.7, 1.5), Matern(1.7, nu=1.5)),
    "matern 5/2": (MaternKernel(1.7, 2.5), Matern(1.7, nu=2.5)),
}


@pytest.fixture(params=list(KERNELS))
def pair(request):
    return KERNELS[request.param]


@pytest.fixture
def data(rng):
    X = rng.normal(size=(70, 3)) + 0.5
    return X, np.vstack([3 * rng.normal(size=(40, 3)), X[:5], X[:5] + 1e-9])


def test_values_are_those_of_scikit_learn(pair, data):
    kernel, reference = pair
    X, new = data

    np.testing.assert_allclose(kernel(new, X), reference(new, X), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(kernel.diagonal(new), np.diagonal(reference(new, new)), rtol=1e-12)


def test_a_common_offset_costs_a_kernel_of_distances_no_digits(data):
    for kernel in (RBFKernel(0.7), LaplacianKernel(0.3), MaternKernel(1.7)):
        far = kernel(data[1] + 1e6, data[0] + 1e6)
        # The offset itself rounds the rows by 1e-10.
        np.testing.assert_allclose(far, kernel(data[1], data[0]), atol=2e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_give_what_numpy_gives_on_their_device(pair, data, device):
    kernel, _ = pair
    X, new = (torch.tensor(part, device=device) for part in data)

    for seen, expected in ((kernel(new, X), kernel(*data[::-1])), (kernel.diagonal(new), kernel.diagonal(data[1]))):
        assert (seen.device, seen.dtype) == (X.device, torch.float64)
        np.testing.assert_allclose(seen.cpu().numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_the_kernel_factor_of_tensors_is_that_of_numpy_on_their_device(pair, data, fit_intercept, device):
    kernel, _ = pair
    expected = factor_kernel(kernel(data[0], data[0]), 1.0, None, fit_intercept)
    X, new = (torch.tensor(part, device=device) for part in data)

    seen = factor_kernel(kernel(X, X), 1.0, None, fit_intercept)

    against, diagonal = kernel(data[1], data[0]), kernel.diagonal(data[1])
    posterior, sampling = seen.leverages(kernel(new, X), kernel.diagonal(new))
    assert posterior.device == sampling.device == X.device
    for found, answer in zip((posterior, sampling), expected.leverages(against, diagonal), strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), answer, rtol=1e-10)
    smoother = seen.smoother(kernel(new, X))
    assert smoother.device == X.device
    np.testing.assert_allclose(smoother.cpu().numpy(), expected.smoother(against), atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_a_geometry_takes_tensors(pair, data, device):
    kernel, _ = pair
    geometry = KernelGeometry(kernel, 1.0)
    expected, seen = geometry.fit(data[0]), geometry.fit(torch.tensor(data[0], device=device))
    features = seen.features(torch.tensor(data[1], device=device))
    for verb in ("leverage", "sampling_leverage", "cross_leverage"):
        found, answer = getattr(seen, verb)(features), getattr(expected, verb)(expected.features(data[1]))
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, answer, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("as_rows", [np.asarray, torch.tensor])
def test_rows_that_cannot_be_compared_are_refused(as_rows):
    bad = np.zeros((4, 2))
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="row 2"):
        RBFKernel().rows(as_rows(bad))
    with pytest.raises(ValueError, match=r"2D array|shape \(n, d\)"):
        RBFKernel().rows(as_rows(np.zeros(3)))


def test_a_smoothness_without_closed_form_is_refused(data):
    with pytest.raises(ValueError, match="nu must be one of"):
        MaternKernel(nu=3.5)(*data)
