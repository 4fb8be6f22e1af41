"""torch tensors in, torch tensors out, in float64 whatever they hold."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hatband.arrays import backend as backends
from hatband.arrays import torch_backend
from hatband.checks import LeverageWarning
from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Dual, Spectral
from linalg.cases import CASES, tolerance
from pretend_device import CUDA, PRETEND
from rounding import EPS, condition, through_gram


@pytest.mark.parametrize("device", ["cpu", PRETEND, CUDA])
@pytest.mark.parametrize("solver", [Cholesky(), CholeskyQR2(), QR(), Spectral(), Dual(), Auto()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_verb_answers_on_the_device_as_numpy_does(dtype, solver, device):
    case = CASES["wide" if isinstance(solver, Dual) else "tall-1e2"]
    ridge = float((case.features**2).mean())
    features, rows = (torch.tensor(x, dtype=dtype, device=device) for x in (case.features, case.rows))
    exact, exact_rows = (x.double().cpu().numpy() for x in (features, rows))
    seen, expected = solver.factor(features, ridge), solver.factor(exact, ridge)
    kappa = condition(exact, ridge)

    for verb in ("leverage", "sampling_leverage"):
        answer = getattr(seen, verb)(rows)
        assert (answer.device, answer.dtype) == (features.device, torch.float64)
        np.testing.assert_allclose(answer.cpu().numpy(), getattr(expected, verb)(exact_rows), rtol=tolerance(kappa))
    for verb in (lambda factor, x: factor.cross_leverage(x, x), lambda factor, x: factor.solve(x.T)):
        answer = verb(seen, rows)
        assert answer.device == features.device
        np.testing.assert_allclose(answer.cpu().numpy(), verb(expected, exact_rows), atol=tolerance(kappa) * 10)
    assert seen.logdet() == pytest.approx(expected.logdet(), rel=tolerance(kappa))


def test_answers_are_of_the_kind_of_the_rows(rng):
    features = rng.normal(size=(20, 3))
    of_numpy, of_torch = Auto().factor(features, 1.0), Auto().factor(torch.tensor(features), 1.0)

    np.testing.assert_array_equal(type(of_torch.leverage(features)), np.ndarray)
    assert isinstance(of_numpy.leverage(torch.tensor(features)), torch.Tensor)
    np.testing.assert_allclose(
        of_torch.leverage(features), of_numpy.leverage(features), rtol=through_gram(features, 1.0)
    )


def test_weights_and_ridges_may_be_tensors(rng):
    features, weights, ridge = rng.normal(size=(20, 3)), rng.uniform(size=20), rng.uniform(size=3)

    seen = Auto().factor(torch.tensor(features), torch.tensor(ridge), torch.tensor(weights))

    expected = Auto().factor(features, ridge, weights)
    close = through_gram(features, ridge, weights)
    np.testing.assert_allclose(seen.leverage(features), expected.leverage(features), rtol=close)


def test_tensors_that_require_gradients_are_read(rng):
    features = torch.tensor(rng.normal(size=(20, 3)), requires_grad=True)

    assert not Auto().factor(features, 1.0).leverage(features).requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused_with_their_row(bad, rng):
    features = torch.tensor(rng.normal(size=(20, 3)))
    features[4, 1] = bad

    with pytest.raises(ValueError, match="features must be finite; row 4"):
        Auto().factor(features)


def test_a_device_without_float64_is_left_with_one_warning(monkeypatch):
    monkeypatch.setattr(backends, "is_tensor", lambda rows: True)
    rows = SimpleNamespace(device=SimpleNamespace(type="mps"))

    with pytest.warns(LeverageWarning, match="float64"):
        assert backends.backend_of(rows) == torch_backend.TorchBackend("cpu")


# A name of the CPU that the backend does not take for it: what an accelerator runs, run here.
@pytest.mark.parametrize("device", ["cpu:0", PRETEND, CUDA])
@pytest.mark.parametrize("condition_number", [1.0, 1e3, 1e8, 1e12])
@pytest.mark.parametrize("size", [1, 2, 50])
def test_the_condition_number_on_an_accelerator_is_that_of_the_matrix(rng, size, condition_number, device):
    backend = torch_backend.TorchBackend(device)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values = np.geomspace(1, 1 / condition_number, size)
    triangle = np.linalg.qr(np.sqrt(values)[:, None] * basis, mode="r")
    triangle *= np.sign(triangle.diagonal())[:, None]
    matrix, inverse = triangle.T @ triangle, np.linalg.inv(triangle)
    norm = abs(matrix).sum(axis=0).max()
    upper = backend.asarray(triangle)

    exact = 1 / (norm * abs(inverse @ inverse.T).sum(axis=0).max())
    assert exact <= backend.rcond_cholesky(upper, norm) * (1 + 1e-3)
    assert backend.rcond_cholesky(upper, norm) <= 3 * exact
    exact = 1 / (abs(triangle).sum(axis=0).max() * abs(inverse).sum(axis=0).max())
    assert backend.rcond_triangle(upper) == pytest.approx(exact, rel=1e-6)


# Both sides of one panel of 128 columns; from 1,025 columns on there are eight of more.
@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 300, 1_100])
@pytest.mark.parametrize("device", ["cpu", "cpu:0", PRETEND, CUDA])
class TestTriangularProducts:
    def test_the_gram_matrix_of_a_block_is_added_to_the_upper_triangle(self, rng, device, size):
        backend, block = torch_backend.TorchBackend(device), rng.normal(size=(7, size))
        gram = backend.asarray(np.full((size, size), 2.0))

        found = backend.mirror(backend.syrk_add(gram, backend.asarray(block)))

        bound = 10 * EPS * (abs(block).T @ abs(block) + 2)
        assert (abs(found.cpu().numpy() - (block.T @ block + 2)) <= bound).all()

    @pytest.mark.parametrize("transpose", [False, True])
    def test_rows_are_multiplied_by_the_triangle_or_its_transpose(self, rng, device, size, transpose):
        backend = torch_backend.TorchBackend(device)
        block, triangle = rng.normal(size=(7, size)), np.triu(rng.normal(size=(size, size)))
        rows = backend.asarray(block.copy())

        found = backend.trmm(rows, backend.asarray(triangle), transpose)

        factor = triangle.T if transpose else triangle
        assert (abs(found.cpu().numpy() - block @ factor) <= size * EPS * (abs(block) @ abs(factor))).all()
        np.testing.assert_array_equal(rows.cpu().numpy(), block)


# What is summed in slices and multiplied in panels on an accelerator, at sizes of a test.
@pytest.mark.parametrize(("rows", "size"), [(6, 40), (50, 40), (57, 150), (99, 260), (9, 600), (500, 140), (0, 20)])
@pytest.mark.parametrize("device", ["cpu:0", PRETEND, CUDA])
class TestProductsThatKeepAnAcceleratorBusy:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(torch_backend, "_BUSY_NUMBERS", 2**14)
        monkeypatch.setattr(torch_backend, "_SLICE_ROWS", 10)

    def test_a_gram_matrix_is_the_sum_over_all_rows_of_any_layout(self, rng, device, rows, size):
        backend, block = torch_backend.TorchBackend(device), rng.normal(size=(rows, size))
        plain, strided = backend.asarray(block), backend.asarray(np.repeat(block, 2, axis=0).T.copy()).T[::2]

        for part in (plain, strided):
            found = backend.mirror(backend.syrk_add(backend.ones(size, size), part))
            bound = (rows + 10) * EPS * (abs(block).T @ abs(block) + 1)
            assert (abs(found.cpu().numpy() - block.T @ block - 1) <= bound).all()

    @pytest.mark.parametrize("transpose", [False, True])
    def test_rows_are_multiplied_by_the_whole_triangle(self, rng, device, rows, size, transpose):
        backend, block, triangle = (
            torch_backend.TorchBackend(device),
            rng.normal(size=(rows, size)),
            rng.normal(size=(size,) * 2),
        )
        factor = np.triu(triangle).T if transpose else np.triu(triangle)

        found = backend.trmm(backend.asarray(block), backend.asarray(np.triu(triangle)), transpose)

        assert (abs(found.cpu().numpy() - block @ factor) <= (size + 10) * EPS * (abs(block) @ abs(factor))).all()


@pytest.mark.parametrize("columns", [1, 64, 300, 1_000, 1_024, 2_048, 4_096, 10_000])
def test_a_block_of_an_accelerator_is_cut_into_slices_that_are_many_or_long(columns):
    rows = torch_backend.TorchBackend("cuda:0").block_rows(columns)
    slices = torch_backend._slices(rows, columns)

    # Numbers of the products of all slices: enough for every processor, at most 128 MB.
    assert slices * columns**2 >= 2**23 or rows // slices < 2_048
    assert slices == 1 or slices * columns**2 <= 2**24


def test_a_singular_triangle_has_a_reciprocal_condition_number_of_0_everywhere():
    backend = torch_backend.TorchBackend("cpu:0")
    upper = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))

    assert (backend.rcond_cholesky(upper, 1.0), backend.rcond_triangle(upper)) == (0.0, 0.0)


@pytest.mark.parametrize("solver", [Cholesky(), CholeskyQR2(), QR(), Auto()])
def test_solvers_on_an_accelerator_state_the_error_bound_of_the_cpu(monkeypatch, solver):
    case = CASES["tall-1e2"]
    expected = solver.factor(torch.tensor(case.features), 0.1)
    monkeypatch.setattr(backends, "backend_of", lambda rows: torch_backend.TorchBackend("cpu:0"))
    monkeypatch.setattr("hatband.linalg.design.backend_of", backends.backend_of)

    seen = solver.factor(torch.tensor(case.features), 0.1)

    assert seen.frame.backend == torch_backend.TorchBackend("cpu:0")
    assert expected.error_bound / 10 < seen.error_bound < 10 * expected.error_bound
    close = through_gram(case.features, 0.1)
    np.testing.assert_allclose(seen.leverage(torch.tensor(case.rows)), expected.leverage(case.rows), rtol=close)
