"""The designs of Fadnavis, arXiv 2602.12693 (code version 0.1.0), in its order of random draws, and its printed tables.

A figure is kept as it was printed: its last digit says to what it must be reproduced.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

Rows = tuple[np.ndarray, np.ndarray]


class Parts(NamedTuple):
    """Features and target of the training, calibration and test rows."""

    train: Rows
    calibration: Rows
    test: Rows


Variance = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Variance of the noise from (features, raw leverage).
VARIANCES: dict[str, Variance] = {
    "textbook": lambda X, h: 1 + h,
    "heavy_tailed": lambda X, h: 1 + h,
    "polynomial": lambda X, h: 1 + h,
    "homoscedastic": lambda X, h: np.ones(len(h)),
    "adversarial": lambda X, h: 1 + (X**2).sum(axis=1) / X.shape[1],
    "nonlinear": lambda X, h: 1 + h,
    "steep": lambda X, h: 1 + 5 * h,
}


def design(name: str, seed: int, n_train: int = 300, n_calibration: int = 500, n_test: int = 500) -> Parts:
    """Draw one of the designs: features, coefficients, then the noise of the three parts in turn."""
    rng = np.random.default_rng(seed)
    sizes = (n_train, n_calibration, n_test)
    X, mean = _polynomial(rng, sum(sizes)) if name == "polynomial" else _gaussian(rng, sum(sizes), name)
    spread = np.sqrt(VARIANCES[name](X, _raw_leverage(X, n_train)))
    noise = np.concatenate([_noise(rng, name, size) for size in sizes])
    return split(X, mean + spread * noise, n_train, n_calibration)


def split(X: np.ndarray, y: np.ndarray, n_train: int, n_calibration: int) -> Parts:
    cuts = [n_train, n_train + n_calibration]
    return Parts(*zip(np.split(X, cuts), np.split(y, cuts), strict=True))


def _gaussian(rng: np.random.Generator, n: int, name: str, p: int = 30) -> Rows:
    X = _decaying(rng, n, p)
    # The coefficients of the nonlinear design are not drawn.
    return X, np.sin(X).sum(axis=1) if name == "nonlinear" else X @ rng.standard_normal(p)


def _decaying(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    return rng.standard_normal((n, p)) / np.sqrt(np.arange(1, p + 1))


def _polynomial(rng: np.random.Generator, n: int, degree: int = 8) -> Rows:
    X = rng.uniform(-1, 1, n)[:, None] ** np.arange(1, degree + 1)
    return X, X @ rng.standard_normal(degree)


def _noise(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    return rng.standard_t(3, size=size) / np.sqrt(3) if name == "heavy_tailed" else rng.standard_normal(size)


def _raw_leverage(X: np.ndarray, n_train: int) -> np.ndarray:
    """Leverage about the origin; plain NumPy, because data must not depend on what they test."""
    return (np.linalg.solve(np.linalg.qr(X[:n_train], mode="r").T, X.T) ** 2).sum(axis=0)


def classical(n: int, seed: int, p: int = 5) -> Parts:
    """Draw Gaussian features with unit coefficients, half for training, half for calibration, and one test row."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    y = X.sum(axis=1) + rng.standard_normal(n)
    test = (np.full((1, p), 0.5), np.array([0.5 * p]))
    return Parts((X[: n // 2], y[: n // 2]), (X[n // 2 :], y[n // 2 :]), test)


def ridge_design(p: int, seed: int) -> Parts:
    """Draw the design of the ridge table: 100, 200 and 200 rows, `p` features, unit noise."""
    rng = np.random.default_rng(seed)
    X = _decaying(rng, 500, p)
    mean = X @ (rng.standard_normal(p) / np.sqrt(p))
    return split(X, mean + rng.standard_normal(500), 100, 200)


def heavy_tailed_set() -> Rows:
    """The "Heavy-tailed" set that the tables of real data contain: made, with features of infinite fourth moment."""
    X = student.rvs(3, size=(500, 100), random_state=42)
    rng = np.random.default_rng(42)
    coefficients = np.zeros(100)
    coefficients[:10] = 5 * rng.standard_normal(10)
    return X, X @ coefficients + 10 * rng.standard_normal(500)


def permuted(data: Rows, seed: int) -> Parts:
    """Return 60 % for training, 20 % for calibration and the rest for testing."""
    X, y = data
    order = np.random.default_rng(seed).permutation(len(y))
    return split(X[order], y[order], int(0.6 * len(y)), int(0.2 * len(y)))


# Every table below: {row: (constant width, weight (1 + h)^-1/2)}.
Printed = tuple[str, str]

# exp1, marginal coverage at level 0.9, 1,000 seeds.
COVERAGE: dict[str, Printed] = {
    "textbook": (".89950", ".89962"),
    "heavy_tailed": (".89985", ".89979"),
    "polynomial": (".89965", ".89970"),
    "homoscedastic": (".89950", ".89949"),
    "adversarial": (".89962", ".89952"),
    "nonlinear": (".89969", ".89959"),
}
# exp3, mean width at level 0.9, the first 200 of these seeds. Four rows to the six digits of the published JSON.
WIDTH: dict[str, Printed] = {
    "textbook": ("3.661411", "3.660371"),
    "heavy_tailed": ("3.108760", "3.105208"),
    "polynomial": ("3.401227", "3.397664"),
    "homoscedastic": ("3.474166", "3.474696"),
    "adversarial": ("3.6949", "3.6940"),
    "nonlinear": ("3.7908", "3.7883"),
}
# exp2, 200 seeds: coverage of the lowest and the highest fifth of leverage pooled over the seeds.
# Columns: constant low, high; (1 + h)^-1/2 low, high. The first row has 100 training and 200 calibration rows.
POOLED: dict[str, tuple[str, str, str, str]] = {
    "homoscedastic": (".9187", ".8741", ".8992", ".8979"),
    "textbook": (".9080", ".8812", ".9016", ".8891"),
    "heavy_tailed": (".9098", ".8890", ".9052", ".8938"),
    "polynomial": (".9103", ".8881", ".9059", ".8951"),
    "steep": (".9230", ".8654", ".9160", ".8730"),
}
# exp4, mean width against the level, 200 seeds.
LEVELS = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7)
FRONTIER: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "textbook": (
        ("5.7893", "5.1788", "4.3598", "3.6614", "3.1994", "2.8545", "2.3111"),
        ("5.7810", "5.1755", "4.3511", "3.6604", "3.1972", "2.8546", "2.3120"),
    ),
    "homoscedastic": (
        ("5.4900", "4.9110", "4.1308", "3.4742", "3.0351", "2.7086", "2.1947"),
        ("5.4951", "4.9137", "4.1279", "3.4747", "3.0350", "2.7100", "2.1969"),
    ),
}
# exp4, coverage of the constant width on the textbook design.
FRONTIER_COVERAGE = (".9896", ".9788", ".9489", ".8974", ".8468", ".7979", ".7001")
# exp5, width of the weighted interval over the classical one (Student's t, known design), 200 seeds.
CLASSICAL: dict[int, str] = {
    50: "1.1770",
    100: "1.0628",
    200: "1.0216",
    500: "1.0059",
    1000: "1.0018",
    2000: "1.0013",
    5000: "1.0015",
}
# exp_ridge, 200 seeds: coverage, width and mean |gap| of the constant width, then of the weight.
# With 200 and 500 features on 100 rows the published leverage leaves out the part outside the row space.
RIDGE: dict[int, tuple[str, ...]] = {
    50: (".8998", "3.9228", ".0548", ".8990", "3.9119", ".0501"),
    100: (".8990", "4.0360", ".0599", ".8999", "4.0441", ".0524"),
    200: (".9019", "3.9823", ".0635", ".9018", "3.9764", ".0570"),
    500: (".9047", "3.8634", ".0541", ".9041", "3.8603", ".0526"),
}
# exp_real_data, 30 permutations: coverage, width and mean |gap| of the constant width, then of the weight.
REAL: dict[str, tuple[str, ...]] = {
    "diabetes": (".9086", "189.418", ".0611", ".9067", "189.068", ".0667"),
    "heavy_tailed_set": (".9057", "41.150", ".1000", ".9080", "41.483", ".0617"),
    "cpu_act": (".90136", "21.7504", ".18801", ".90118", "21.7521", ".18628"),
}
