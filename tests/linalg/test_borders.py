"""Features stay on their device: only results come to the host, and without float64 the CPU factors."""

import pytest
import torch

from hatband.arrays import backend as backends
from hatband.checks import LeverageWarning
from hatband.geometry import KernelGeometry, RBFKernel
from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Dual, GramStatistics, Spectral, TriangularStatistics
from hatband.linalg.kernel_frame import kernel_frame
from pretend_device import DEVICE, PRETENDED, watched, without_float64

pytestmark = PRETENDED


def features(n=2_000, d=40, seed=0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("solver", [Cholesky(), CholeskyQR2(), QR(), Spectral(), Dual(), Auto()])
def test_a_factor_takes_a_sample_of_the_features_in_one_piece_and_a_leverage_none(solver):
    X = features(60, 400) if isinstance(solver, Dual) else features()

    with watched() as seen:
        factor = solver.factor(X, 1.0)
    assert seen.waits < 40
    # The sample has up to 512 rows; besides it come norms of columns.
    assert seen.to_host < 4 * min(512, len(X)) * X.shape[1] + 20 * 8 * X.shape[1]

    with watched() as seen:
        factor.leverages(X)
    assert (seen.to_host, seen.to_device) <= (1, 0)


@pytest.mark.parametrize("kind", [GramStatistics, TriangularStatistics])
def test_running_statistics_take_next_to_nothing(kind):
    X = features()

    with watched() as seen:
        statistics = kind.of(X[:1_000], X[:1_000, 0]).add(X[1_000:], X[1_000:, 0])
        statistics.coefficients(1.0)

    assert seen.to_host < 20 * 8 * X.shape[1]


def test_a_leverage_of_infinity_is_not_a_reason_to_fetch_the_rows():
    factor, rows = Spectral().factor(features(20)), features(seed=1)

    with watched() as seen:
        assert bool(factor.leverage(rows).isinf().all())

    assert seen.to_host < 100


def test_a_kernel_brings_the_leverage_only():
    space = KernelGeometry(RBFKernel(0.1), 1.0).fit(features(100))

    with watched() as seen:
        space.leverage(space.features(features(300)))

    assert seen.to_host <= 2 * 8 * 300 + 8


def test_kernel_rows_enter_in_the_blocks_of_the_device():
    frame, _ = kernel_frame(torch.eye(3, dtype=torch.float64, device=DEVICE), None, False)

    assert len(list(frame.blocks(torch.ones(9_000, 3, device=DEVICE)))) == 1


def test_rows_that_are_not_finite_are_named_all_the_same():
    factor, rows = Cholesky().factor(features()), features(50, seed=1)
    rows[7, 3] = float("nan")

    with pytest.raises(ValueError, match="rows must be finite; row 7"):
        factor.leverage(rows)


def test_without_float64_the_cpu_factors_and_rows_of_the_device_are_answered_in_float32(monkeypatch):
    X = features(50, 4)
    expected = Auto().factor(X.cpu(), 1.0)
    monkeypatch.setattr(backends, "has_float64", lambda device: device.type not in {"mps", DEVICE.type})

    with without_float64():
        with pytest.warns(LeverageWarning, match="float64"):
            factor = Auto().factor(X, 1.0)
        for one in (factor, expected, Auto().factor(X.cpu().numpy(), 1.0)):
            for seen, answer in (
                (one.leverage(X), expected.leverage(X.cpu())),
                (one.cross_leverage(X, X[:3]), expected.cross_leverage(X.cpu(), X[:3].cpu())),
                (one.solve(X.T), expected.solve(X.T.cpu())),
            ):
                assert (seen.device, seen.dtype) == (DEVICE, torch.float32)
                torch.testing.assert_close(seen.cpu(), answer.float())
