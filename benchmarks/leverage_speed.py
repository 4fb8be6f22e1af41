"""Time of a factor and of leverage, as ratios to plain BLAS calls on the same matrix in the same run.

Calls are interleaved and the best of several rounds counts, so that a busy machine slows both sides.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.linalg import blas, lapack
from sklearn.linear_model import Ridge

from _report import Report, parser
from hatband import SplitConformalRegressor
from hatband.linalg import Auto, Factor

SIZES = {(100_000, 300): 15, (20_000, 1_000): 15}
QUICK_SIZES = {(30_000, 300): 5, (5_000, 1_000): 3}
RIDGE = 1.0
CALIBRATION_ROWS = 1000


class Data(NamedTuple):
    """What every comparison reads; `work` is a copy that BLAS may overwrite."""

    features: np.ndarray
    target: np.ndarray
    work: np.ndarray
    triangle: np.ndarray
    factor: Factor
    model: SplitConformalRegressor


class Comparison(NamedTuple):
    """Our call, the call it is measured against, and the target for the ratio of their times."""

    name: str
    ours: Callable[[], object]
    against: Callable[[], object]
    limit: float | None
    op: str = "<="


def comparisons(data: Data) -> Iterator[Comparison]:
    """Every ratio that is reported; without a limit it is shown only."""
    features, factor = data.features, data.factor

    def blas_factor() -> object:
        gram = blas.dsyrk(1.0, features.T, lower=1)
        return lapack.dpotrf(gram, lower=1, overwrite_a=1)

    def multiply() -> object:
        return blas.dtrmm(1.0, data.triangle, data.work.T, lower=1, overwrite_b=1)

    def centred_factor() -> Factor:
        return Auto().factor(features, RIDGE)

    def plain_factor() -> Factor:
        return Auto().factor(features, RIDGE, None, False)

    yield Comparison("factor / (dsyrk + dpotrf)", plain_factor, blas_factor, 1.25)
    yield Comparison("factor with intercept / (dsyrk + dpotrf)", centred_factor, blas_factor, 1.6)
    yield Comparison("leverage / dtrmm", lambda: factor.leverage(features), multiply, 1.35)
    yield Comparison("both forms / dtrmm", lambda: factor.leverages(features), multiply, 2.3)
    yield Comparison(
        "fit_train / Ridge.fit",
        lambda: SplitConformalRegressor(Ridge(), scale="leverage").fit_train(features, data.target),
        lambda: Ridge().fit(features, data.target),
        2.0,
    )
    yield Comparison("predict_interval / dtrmm", lambda: data.model.predict_interval(features), multiply, 2.5)
    yield Comparison("(thin SVD + explicit inverse) / factor", lambda: svd_inverse(features), plain_factor, 8.0, ">=")
    yield Comparison(
        "(Gram + explicit inverse + GEMM) / (factor + leverage)",
        lambda: gram_inverse_leverage(features),
        lambda: centred_factor().leverage(features),
        None,
    )


def svd_inverse(features: np.ndarray) -> np.ndarray:
    """(Phi'Phi + ridge I)^-1 from a thin SVD of the features, as a matrix."""
    _, values, vectors = scipy.linalg.svd(features, full_matrices=False, check_finite=False)
    # SciPy's BLAS: threads of NumPy's that have just worked go on spinning, and would slow the call measured next.
    return blas.dgemm(1.0, vectors.T / (values**2 + RIDGE), vectors)


def gram_inverse_leverage(features: np.ndarray) -> np.ndarray:
    """Leverage as it is often written: Gram matrix, inverse, product, row sums."""
    centred = features - features.mean(axis=0)
    inverse = np.linalg.inv(centred.T @ centred + RIDGE * np.eye(features.shape[1]))
    return 1 / len(features) + np.einsum("ij,ij->i", centred @ inverse, centred)


def make(n_samples: int, n_features: int) -> Data:
    """Draw a matrix and factor it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_samples, n_features)) + 1.0
    # The identity: multiplying by it again and again neither overflows nor underflows.
    triangle = np.asfortranarray(np.eye(n_features))
    target = features[:, 0] + rng.normal(size=n_samples)
    model = SplitConformalRegressor(Ridge(RIDGE), scale="leverage")
    model.fit_train(features[CALIBRATION_ROWS:], target[CALIBRATION_ROWS:])
    model.calibrate(features[:CALIBRATION_ROWS], target[:CALIBRATION_ROWS])
    return Data(features, target, features.copy(), triangle, Auto().factor(features, RIDGE), model)


def best_times(comparison: Comparison, rounds: int) -> tuple[float, float]:
    """Best time of each side, the two interleaved."""
    ours, against = zip(
        *((_seconds(comparison.ours), _seconds(comparison.against)) for _ in range(rounds)), strict=True
    )
    return min(ours), min(against)


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def one_row(rounds: int) -> tuple[float, float]:
    """Best time of an interval for one row with the constant scale, and of the prediction that it contains."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3_000, 10))
    model = SplitConformalRegressor(Ridge(), scale="constant", random_state=0).fit(X, X[:, 0] + rng.normal(size=3_000))
    row = X[:1]
    pairs = (
        (_seconds(lambda: model.predict_interval(row), 10), _seconds(lambda: model.estimator_.predict(row), 10))
        for _ in range(rounds)
    )
    ours, against = zip(*pairs, strict=True)
    return min(ours), min(against)


IMPORT = """
import sys, time, importlib
names = {names!r}
for name in names:
    importlib.import_module(name)
start = time.perf_counter()
import hatband
print(time.perf_counter() - start)
"""


def import_seconds(rounds: int) -> float:
    """Best time of `import hatband` where the modules of scikit-learn that it uses have been imported before.

    From bytecode, as an installed package is: the first run writes it.
    """
    listed = "import sys, hatband; print(*sorted(name for name in sys.modules if name.startswith('sklearn')))"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}

        def printed(code: str) -> list[str]:
            run = [sys.executable, "-c", code]
            return subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.split()

        code = IMPORT.format(names=printed(listed))
        return min(float(printed(code)[0]) for _ in range(rounds))


def main() -> int:
    """Measure every ratio at every size."""
    args = parser(__doc__).parse_args()
    report = Report("leverage_speed")
    for (n_samples, n_features), rounds in (QUICK_SIZES if args.quick else SIZES).items():
        for comparison in comparisons(make(n_samples, n_features)):
            slow = comparison.name.startswith("(thin")
            ours, against = best_times(comparison, 4 if slow else rounds)
            size = f"{n_samples:,} x {n_features:,}"
            ratio = ours / against
            report.row(
                size=size, ratio_of=comparison.name, seconds=ours, against=against, ratio=ratio, target=comparison.limit
            )
            if comparison.limit is not None:
                report.target(f"{comparison.name}, {size}", ratio, comparison.limit, comparison.op)
    ours, against = one_row(150 if args.quick else 400)
    name = "predict_interval / Ridge.predict, constant scale"
    report.row(size="1 row", ratio_of=name, seconds=ours, against=against, ratio=ours / against, target=3.0)
    report.target(f"{name}, 1 row", ours / against, 3.0)
    seconds = import_seconds(5)
    report.row(size="-", ratio_of="import beyond scikit-learn", seconds=seconds, against=None, ratio=None, target=0.15)
    report.target("seconds to import beyond scikit-learn", seconds, 0.15)
    return report.finish(args)


if __name__ == "__main__":
    sys.exit(main())
