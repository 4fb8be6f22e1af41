"""Slow, obvious answers. Nothing here imports hatband."""

from fractions import Fraction

import mpmath
import numpy as np
from scipy import stats
from sklearn.base import clone


def _ridge_system(train, rows, ridge, weights, fit_intercept):
    """Rows, Gram matrix Phi'W Phi and (Phi'W Phi + ridge)^-1, the intercept as a first column that is not penalised."""
    n, d = train.shape
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    penalty = np.broadcast_to(np.asarray(ridge, float), (d,))
    if fit_intercept:
        train, rows = (np.hstack([np.ones((len(z), 1)), z]) for z in (train, rows))
        penalty = np.concatenate([[0.0], penalty])
    gram = train.T @ (w[:, None] * train)
    return rows, gram, np.linalg.pinv(gram + np.diag(penalty), hermitian=True)


def dense_leverage(train, rows, ridge=0.0, weights=None, fit_intercept=True):
    """h(x) by an explicit inverse (pseudo-inverse at ridge 0)."""
    rows, _, inverse = _ridge_system(train, rows, ridge, weights, fit_intercept)
    return np.einsum("ij,jk,ik->i", rows, inverse, rows)


def dense_sampling_leverage(train, rows, ridge=0.0, weights=None, fit_intercept=True):
    """phi' A^-1 Phi'W Phi A^-1 phi by an explicit inverse."""
    rows, gram, inverse = _ridge_system(train, rows, ridge, weights, fit_intercept)
    return np.einsum("ij,jk,ik->i", rows, inverse @ gram @ inverse, rows)


def dense_hat(features, ridge=0.0, weights=None, fit_intercept=True):
    """H with H y the fitted values of weighted ridge."""
    rows, _, inverse = _ridge_system(features, features, ridge, weights, fit_intercept)
    return rows @ inverse @ rows.T * (1.0 if weights is None else np.asarray(weights, float))


def leave_one_out_predictions(fit_predict, features, target, weights=None):
    """mu_-i(x_i) by n refits. fit_predict(X, y, w, rows) -> predictions at rows."""
    n = len(features)
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    keep = ~np.eye(n, dtype=bool)
    return np.array([fit_predict(features[k], target[k], w[k], features[i : i + 1])[0] for i, k in enumerate(keep)])


def exact_upper_rank(n: int, level: Fraction) -> int:
    """Smallest k with k / (n + 1) >= level, by rational arithmetic."""
    product = (n + 1) * level
    return -(-product.numerator // product.denominator)


def exact_lower_rank(n: int, level: Fraction) -> int:
    """Largest k with k / (n + 1) <= 1 - level, by rational arithmetic."""
    product = (n + 1) * (1 - level)
    return product.numerator // product.denominator


def covered_bounds(n_calibration, level: Fraction, n_tests, repetitions=1, *, false_alarm):
    """Smallest and largest number of covered rows over all repetitions, outside which exact coverage is so rare.

    Given the trained model, the covered among T test rows are BetaBinomial(T, k, n + 1 - k), k = ceil((n + 1) level);
    repetitions with calibration rows of their own add up.
    """
    k = exact_upper_rank(n_calibration, level)
    law = stats.betabinom(n_tests, k, n_calibration + 1 - k).pmf(np.arange(n_tests + 1))
    total = np.array([1.0])
    for _ in range(repetitions):
        total = np.convolve(total, law)
    below = np.cumsum(total)
    return np.searchsorted(below, false_alarm / 2), np.searchsorted(below, 1 - false_alarm / 2)


def augmented_scores(hat, target, score, weights=None):
    """Scores of n + 1 rows under one refit with all of them, of fitted values hat (n+1, n+1) times target."""
    w = np.ones(len(target)) if weights is None else weights
    residual = np.abs(target - hat @ target)
    left = 1 - np.diag(hat)
    if score == "absolute":
        return residual
    if score == "deleted":
        return residual / left
    # |leave-one-out residual| / sqrt(1 + leave-one-out leverage); with w = 1 it is |e| / sqrt(1 - h).
    return residual / left / np.sqrt(1 + np.diag(hat) / w / left)


def full_conformal_grid(hat, y, grid, score, *, level, weights=None):
    """Which t of a grid are in the full conformal set: refit with (x, t) for each of them."""
    inside = []
    for t in grid:
        scores = augmented_scores(hat, np.append(y, t), score, weights)
        # Equal scores count; rounding must not decide whether two are equal.
        stranger = np.sum(scores >= scores[-1] * (1 - 1e-12))
        inside.append(stranger > Fraction(len(scores)) * (1 - level))
    return np.array(inside)


def kernel_hat(kernel, ridge, weights=None):
    """H with H y the fitted values of weighted kernel ridge."""
    w = np.ones(len(kernel)) if weights is None else np.asarray(weights, float)
    return kernel @ np.linalg.inv(kernel + ridge * np.diag(1 / w))


def dense_kernel_cross(kernel, kernel_rows, kernel_others, between, *, ridge, weights=None, fit_intercept=False):
    """h(x, z) of a kernel by the bordered system [[K + ridge W^-1, 1], [1', 0]]; rows of weight 0 left out."""
    w = np.ones(len(kernel)) if weights is None else np.asarray(weights, float)
    keep = w > 0
    system = kernel[np.ix_(keep, keep)] + ridge * np.diag(1 / w[keep])
    rows, others = kernel_rows[:, keep], kernel_others[:, keep]
    if not fit_intercept:
        return (between - rows @ np.linalg.solve(system, others.T)) / ridge
    ones = np.ones((len(system), 1))
    system = np.block([[system, ones], [ones.T, np.zeros((1, 1))]])
    rows, others = (np.hstack([z, np.ones((len(z), 1))]) for z in (rows, others))
    return (between - rows @ np.linalg.solve(system, others.T)) / ridge


def kernel_ridge_predictions(kernel, kernel_rows, y, *, ridge, weights=None, fit_intercept=False):
    """Minimise sum_i w_i (y_i - f(x_i) - b)^2 + ridge |f|^2 by the bordered system."""
    w = np.ones(len(kernel)) if weights is None else np.asarray(weights, float)
    keep = w > 0
    system = kernel[np.ix_(keep, keep)] + ridge * np.diag(1 / w[keep])
    if not fit_intercept:
        return kernel_rows[:, keep] @ np.linalg.solve(system, y[keep])
    ones = np.ones((len(system), 1))
    system = np.block([[system, ones], [ones.T, np.zeros((1, 1))]])
    solution = np.linalg.solve(system, np.concatenate([y[keep], np.zeros((1, *y.shape[1:]))]))
    return kernel_rows[:, keep] @ solution[:-1] + solution[-1]


def mp_leverage(train, rows, ridge=0.0, weights=None, fit_intercept=True):
    """Posterior and sampling leverage by elimination with 80 digits; the columns must be independent at ridge 0."""
    n, d = train.shape
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    penalty = np.broadcast_to(np.asarray(ridge, float), (d,))
    if fit_intercept:
        train, rows = (np.hstack([np.ones((len(z), 1)), z]) for z in (train, rows))
        penalty = np.concatenate([[0.0], penalty])
    with mpmath.workdps(80):
        phi, new = mpmath.matrix(train.tolist()), mpmath.matrix(rows.tolist())
        weighted = mpmath.matrix([[mpmath.mpf(w[i]) * phi[i, j] for j in range(phi.cols)] for i in range(n)])
        gram = phi.T * weighted
        inverse = mpmath.inverse(gram + mpmath.diag(penalty.tolist()))
        coefficients = new * inverse
        posterior = [(coefficients[i, :] * new[i, :].T)[0] for i in range(len(rows))]
        sampling = [(coefficients[i, :] * gram * coefficients[i, :].T)[0] for i in range(len(rows))]
        return np.array(posterior, dtype=float), np.array(sampling, dtype=float)


def ridge_predictions(train, y, rows, *, ridge=0.0, weights=None, fit_intercept=True):
    """Minimise sum_i w_i (y_i - b - x_i'c)^2 + ridge |c|^2 by least squares on stacked rows, no normal equations."""
    root = np.ones(len(train)) if weights is None else np.sqrt(weights)
    penalty = np.diag(np.sqrt(np.broadcast_to(np.asarray(ridge, float), train.shape[1])))
    if fit_intercept:
        train, rows = (np.hstack([np.ones((len(z), 1)), z]) for z in (train, rows))
        penalty = np.hstack([np.zeros((len(penalty), 1)), penalty])
    stacked = np.vstack([root[:, None] * train, penalty])
    target = np.concatenate([(root * y.T).T, np.zeros((len(penalty), *y.shape[1:]))])
    return rows @ np.linalg.lstsq(stacked, target, rcond=None)[0]


def rank_bounds(low, high, level: Fraction):
    """Jackknife+ ends (m,) from low and high (m, n): sorted, by rational ranks."""
    n = low.shape[1]
    low, high = np.sort(low, axis=1), np.sort(high, axis=1)
    k, m = exact_lower_rank(n, level), exact_upper_rank(n, level)
    infinite = np.full(len(low), np.inf)
    return (low[:, k - 1] if k else -infinite), (high[:, m - 1] if m <= n else infinite)


def held_out_bounds(fit_band, X, y, rows, folds, *, level: Fraction, method="plus"):
    """Jackknife+ and CV+ by refits. fit_band(kept positions) -> band; band(rows) -> prediction, width; y one output."""
    score, low, high = (np.empty(shape) for shape in (len(y), (len(rows), len(y)), (len(rows), len(y))))
    bands = [fit_band(np.setdiff1d(np.arange(len(y)), held)) for held in folds]
    for band, held in zip(bands, folds, strict=True):
        center, width = band(X[held])
        score[held] = np.abs(y[held] - center) / width
    k = exact_upper_rank(len(y), level)
    threshold = np.sort(score)[k - 1] if k <= len(y) else np.inf
    for band, held in zip(bands, folds, strict=True):
        center, width = band(rows)
        spread = score[held] if method == "plus" else np.full(len(held), threshold)
        low[:, held] = center[:, None] - spread * width[:, None]
        high[:, held] = center[:, None] + spread * width[:, None]
    return rank_bounds(low, high, level) if method == "plus" else (low.min(axis=1), high.max(axis=1))


def linear_band(estimator, X, y, weights=None, width="constant"):
    """fit_band of `held_out_bounds` for linear models: sklearn's refit, and leverage by an explicit inverse."""
    ridge = getattr(estimator, "alpha", 0.0)

    def fit_band(kept):
        w = None if weights is None else weights[kept]
        model = clone(estimator).fit(X[kept], y[kept], sample_weight=w)

        def band(rows):
            if width == "constant":
                return model.predict(rows), np.ones(len(rows))
            form = dense_sampling_leverage if width == "sampling" else dense_leverage
            h = form(X[kept], rows, ridge, w, estimator.fit_intercept)
            return model.predict(rows), np.sqrt(1 + h)

        return band

    return fit_band
