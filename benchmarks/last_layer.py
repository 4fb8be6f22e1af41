"""Cost of the leverage of a last layer beyond the forward passes: time as ratios within the run, and memory.

A network of 20 inputs and width 256 and a DataLoader. Calls are interleaved, the best of several rounds counts.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from _report import Report, parser
from hatband.nn import LastLayerConformalRegressor

N_INPUTS, WIDTH, BATCH = 20, 256, 500
ROWS, QUICK_ROWS = 20_000, 5_000
ROUNDS, QUICK_ROUNDS = 15, 5
# Rows of the two runs whose peak memory is compared, as multiples of the rows above.
FEW, MANY = 2, 20


def network() -> nn.Module:
    """Three layers; the features are the 256 activations of the second."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(N_INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
    ).eval()


def rows(n: int) -> DataLoader:
    """A loader of made rows."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n, N_INPUTS, generator=generator)
    return DataLoader(TensorDataset(X, X.sum(1, keepdim=True)), batch_size=BATCH)


class MadeRows:
    """Batches that are made when they are asked for, so that the rows themselves take no memory."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        for _ in range(self.n // BATCH):
            X = torch.randn(BATCH, N_INPUTS, generator=generator)
            yield X, X.sum(1, keepdim=True)


def forward_pass(net: nn.Module, loader: DataLoader) -> None:
    """What has to be done in any case."""
    with torch.no_grad():
        for X, _ in loader:
            net(X)


def features(net: nn.Sequential, loader: DataLoader) -> torch.Tensor:
    """All features in float64, for the plain product."""
    with torch.no_grad():
        return torch.cat([net[:-1](X) for X, _ in loader]).double()


def fit_train(net: nn.Module, loader: object) -> LastLayerConformalRegressor:
    """Our fit: forward passes, Gram matrix, factor."""
    return LastLayerConformalRegressor(net, scale="leverage").fit_train(loader)


def laplace_fit(net: nn.Module, loader: DataLoader) -> Callable[[], object] | None:
    """The fit of laplace-torch for the same matrix; None where it is not installed."""
    try:
        from laplace import Laplace
    except ImportError:
        return None
    return lambda: Laplace(net, "regression", subset_of_weights="last_layer", hessian_structure="full").fit(loader)


def best_times(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best time of each call, interleaved after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(found[1:]) for name, found in times.items()}


def megabytes() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(report: Report, net: nn.Module, n: int) -> None:
    """Peak memory of few rows, then of ten times as many."""
    found = []
    for count in (FEW * n, MANY * n):
        before = megabytes()
        fit_train(net, MadeRows(count))
        found.append(megabytes())
        report.row(rows=count, peak_before_mb=before, peak_after_mb=found[-1], features_mb=count * WIDTH * 4 / 2**20)
    more = (MANY - FEW) * n * WIDTH * 4 / 2**20
    report.target("growth of peak memory / float32 features of the rows more", (found[1] - found[0]) / more, 0.05)


def speed(report: Report, net: nn.Sequential, n: int, rounds: int, threads: int) -> None:
    """Time beyond the forward passes, and against laplace-torch, all on a number of threads."""
    loader, other = rows(n), laplace_fit(net, rows(n))
    phi, model = features(net, loader), fit_train(net, loader).calibrate(loader)
    calls: dict[str, Callable[[], object]] = {
        "forward passes": lambda: forward_pass(net, loader),
        "fit_train": lambda: fit_train(net, loader),
        "predict_interval": lambda: model.predict_interval(loader),
        "Gram multiply, float64": lambda: phi.T @ phi,
    }
    if other is not None:
        calls["laplace-torch fit"] = other
    with threadpool_limits(threads):
        torch.set_num_threads(threads)
        seconds = best_times(calls, rounds)
    for name, value in seconds.items():
        report.row(threads=threads, call=name, milliseconds=1e3 * value)
    multiply, theirs = seconds["Gram multiply, float64"], seconds.get("laplace-torch fit")
    for call in ("fit_train", "predict_interval"):
        beyond = seconds[call] - seconds["forward passes"]
        report.row(threads=threads, call=f"{call} beyond the forward passes", milliseconds=1e3 * beyond)
        label = f"{call} beyond the forward passes / Gram multiply, threads: {threads}"
        report.target(label, beyond / multiply, 3.0)
    ratio = None if theirs is None else theirs / seconds["fit_train"]
    report.target(f"laplace-torch fit / fit_train, threads: {threads}", ratio, 1.5, ">=")


def accuracy(report: Report, net: nn.Sequential, n: int) -> None:
    """Leverage against the dense formula."""
    loader = rows(n)
    model, phi = fit_train(net, loader), features(net, loader).numpy()
    centred = phi - phi.mean(axis=0)
    solved = np.linalg.solve(centred.T @ centred + model.space_.ridge * np.eye(WIDTH), centred[:1_000].T)
    expected = 1 / n + np.einsum("ij,ji->i", centred[:1_000], solved)
    seen = model.leverage(torch.stack([loader.dataset[i][0] for i in range(1_000)]))
    report.target("relative error of the leverage", float(np.abs(seen / expected - 1).max()), 1e-9)


def main() -> int:
    args = parser(__doc__).parse_args()
    n, rounds = (QUICK_ROWS, QUICK_ROUNDS) if args.quick else (ROWS, ROUNDS)
    report, net = Report("last_layer"), network()
    memory(report, net, n)
    for threads in sorted({1, torch.get_num_threads()}):
        speed(report, net, n, rounds, threads)
    accuracy(report, net, n)
    return report.finish(args)


if __name__ == "__main__":
    sys.exit(main())
