"""Gram matrix, factor and leverage of float32 features on a CUDA device, against cuBLAS float64 products of their size.

The products are timed in the same run on features that are float64 already and stay in memory, so the ratios hold the
widening and centring of the features too. The error is that of the leverage against float64 on the CPU. float32
products are allowed to use TF32 throughout: ours are float64, and must not notice.
"""

import sys
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch

from _report import Report, parser
from hatband.linalg import Factor
from hatband.nn.measure.streaming import RunningGram

SIZES = ((1_000_000, 1_024), (100_000, 4_096))
QUICK_SIZES = ((100_000, 1_024), (20_000, 2_048))
ROUNDS, QUICK_ROUNDS = 7, 3
# Rows of a batch, as a loader would yield them, and rows whose leverage is compared with the CPU.
BATCH, COMPARED = 8_192, 2_000
LIMIT, ERROR = 1.25, 1e-9
RELATIVE_RIDGE = 1e-4


def features_on(device: torch.device, n: int, d: int) -> torch.Tensor:
    """Correlated float32 features with means of their own."""
    generator = torch.Generator(device).manual_seed(0)
    values = torch.empty(n, d, device=device)
    spread = torch.logspace(0, -2, d, device=device)
    for part in values.split(BATCH):
        part.normal_(generator=generator).mul_(spread).add_(0.5)
    return values


def factored(values: torch.Tensor) -> Factor:
    """Stream the features in batches and factor their centred Gram matrix."""
    running = RunningGram.of(values, 0)
    for part in values.split(BATCH):
        running.add(part)
    statistics = running.statistics()
    ridge = RELATIVE_RIDGE * float(statistics.gram.diagonal().sum()) / values.shape[1]
    return statistics.factor(ridge)


def product_and_cholesky(wide: torch.Tensor) -> torch.Tensor:
    """What the Gram matrix and its factor cost at least."""
    gram = wide.T @ wide
    gram.diagonal().add_(1.0)
    return torch.linalg.cholesky_ex(gram)[0]


def best_milliseconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best time of each call by events of the device, interleaved after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(stop))
    return {name: min(found[1:]) for name, found in times.items()}


def leverage_on_cpu(values: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """The dense formula in float64 with NumPy and SciPy, block by block."""
    n, d = values.shape
    mean, gram = np.zeros(d), np.zeros((d, d))
    for part in values.split(BATCH):
        mean += part.double().sum(dim=0).cpu().numpy() / n
    for part in values.split(BATCH):
        centred = part.double().cpu().numpy() - mean
        gram += centred.T @ centred
    ridge = RELATIVE_RIDGE * np.trace(gram) / d
    lower = scipy.linalg.cholesky(gram + ridge * np.eye(d), lower=True)
    half = scipy.linalg.solve_triangular(lower, (rows.double().cpu().numpy() - mean).T, lower=True)
    return 1 / n + np.einsum("ij,ij->j", half, half)


def error_of(factor: Factor, values: torch.Tensor) -> float:
    """Largest relative error of the leverage of some rows."""
    rows = values[:COMPARED]
    expected = leverage_on_cpu(values, rows)
    return float(np.abs(factor.leverage(rows).cpu().numpy() / expected - 1).max())


def compare(report: Report, device: torch.device, n: int, d: int, rounds: int) -> None:
    """One size: two ratios and an error."""
    values = features_on(device, n, d)
    factor = factored(values)
    error = error_of(factor, values)
    wide, triangle = values.double(), torch.eye(d, dtype=torch.float64, device=device)
    seconds = best_milliseconds(
        {
            "Gram and factor": lambda: factored(values),
            "float64 product and Cholesky": lambda: product_and_cholesky(wide),
            "leverage": lambda: factor.leverage(values),
            "float64 product with a d x d matrix": lambda: wide @ triangle,
        },
        rounds,
    )
    ours_fit, blas_fit, ours_score, blas_score = seconds.values()
    for name, value in seconds.items():
        report.row(size=f"{n:,} x {d:,}", call=name, milliseconds=value)
    report.target(f"{n:,} x {d:,}: Gram and factor / float64 product and Cholesky", ours_fit / blas_fit, LIMIT)
    report.target(f"{n:,} x {d:,}: leverage / float64 product", ours_score / blas_score, LIMIT)
    report.target(f"{n:,} x {d:,}: relative error against the CPU", error, ERROR)


def not_tested(report: Report, sizes: tuple[tuple[int, int], ...]) -> None:
    """Name what a run without a device leaves open, and check the same code on the CPU."""
    print("No CUDA device: nothing below was timed. The same code on the CPU is checked at a small size.\n")
    for n, d in sizes:
        report.target(f"{n:,} x {d:,}: Gram and factor / float64 product and Cholesky", None, LIMIT)
        report.target(f"{n:,} x {d:,}: leverage / float64 product", None, LIMIT)
        report.target(f"{n:,} x {d:,}: relative error against the CPU", None, ERROR)
    values = features_on(torch.device("cpu"), 20_000, 64)
    report.target("20,000 x 64 on the CPU: relative error of the leverage", error_of(factored(values), values), ERROR)


def main() -> int:
    args = parser(__doc__).parse_args()
    sizes, rounds = (QUICK_SIZES, QUICK_ROUNDS) if args.quick else (SIZES, ROUNDS)
    report = Report("gpu")
    if not torch.cuda.is_available():
        not_tested(report, sizes)
        return report.finish(args)
    torch.set_float32_matmul_precision("high")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    for n, d in sizes:
        compare(report, torch.device("cuda"), n, d, rounds)
    return report.finish(args)


if __name__ == "__main__":
    sys.exit(main())
