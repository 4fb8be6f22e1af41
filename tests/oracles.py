"""Slow, obvious answers. Nothing here imports hatband."""

from fractions import Fraction

import mpmath
import numpy as np
from scipy import stats
from sklearn.base import clone

from extended import Long, as_long, logdet, solve, solve_lower, solve_upper, triangle


def _with_intercept(train, rows, ridge, fit_intercept):
    """Both with a first column of ones that is not penalised, and the penalty of each column."""
    train, rows = as_long(train, rows)
    penalty = np.broadcast_to(np.asarray(ridge, Long), (train.shape[1],))
    if fit_intercept:
        train, rows = (np.hstack([np.ones((len(z), 1), Long), z]) for z in (train, rows))
        penalty = np.concatenate([np.zeros(1, Long), penalty])
    return train, rows, penalty


def _ridge_system(train, rows, ridge, weights, fit_intercept):
    """Weighted rows W^1/2 Phi, R of A = R'R = Phi'W Phi + ridge, R^-T rows': all of the independent columns."""
    train, rows, penalty = _with_intercept(train, rows, ridge, fit_intercept)
    root = np.ones(len(train), Long) if weights is None else np.sqrt(np.asarray(weights, Long))
    weighted = root[:, None] * train
    kept, upper, _ = triangle(np.vstack([weighted, np.diag(np.sqrt(penalty))]))
    return weighted[:, kept], upper, solve_lower(upper.T, rows[:, kept].T)


def dense_leverage(train, rows, ridge=0.0, weights=None, fit_intercept=True):
    """h(x) = |R^-T x|^2 in long double; rows in the span of the training rows at ridge 0."""
    half = _ridge_system(train, rows, ridge, weights, fit_intercept)[2]
    return (half**2).sum(axis=0).astype(float)


def dense_sampling_leverage(train, rows, ridge=0.0, weights=None, fit_intercept=True):
    """phi' A^-1 Phi'W Phi A^-1 phi = |W^1/2 Phi A^-1 phi|^2 in long double."""
    weighted, upper, half = _ridge_system(train, rows, ridge, weights, fit_intercept)
    return ((weighted @ solve_upper(upper, half)) ** 2).sum(axis=0).astype(float)


def dense_cross(train, rows, others, ridge=0.0, weights=None, *, fit_intercept=True):
    """h(x, z) = x'A^-1 z of rows and others, in long double."""
    half = _ridge_system(train, np.vstack([rows, others]), ridge, weights, fit_intercept)[2]
    return (half[:, : len(rows)].T @ half[:, len(rows) :]).astype(float)


def dense_hat(features, ridge=0.0, weights=None, fit_intercept=True):
    """H with H y the fitted values of weighted ridge."""
    cross = dense_cross(features, features, features, ridge, weights, fit_intercept=fit_intercept)
    return cross * (1.0 if weights is None else np.asarray(weights, float))


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


def _kernel_system(kernel, ridge, weights):
    """K + ridge W^-1 in long double, of the rows of weight > 0, and which these are."""
    w = np.ones(len(kernel), Long) if weights is None else np.asarray(weights, Long)
    keep = w > 0
    return np.asarray(kernel, Long)[np.ix_(keep, keep)] + Long(ridge) * np.diag(1 / w[keep]), keep


def kernel_hat(kernel, ridge, weights=None):
    """H with H y the fitted values of weighted kernel ridge; every weight > 0."""
    system, _ = _kernel_system(kernel, ridge, weights)
    return solve(system, kernel).T.astype(float)


def dense_kernel_cross(kernel, kernel_rows, kernel_others, between, *, ridge, weights=None, fit_intercept=False):
    """h(x, z) of a kernel by the bordered system [[K + ridge W^-1, 1], [1', 0]]; rows of weight 0 left out."""
    system, keep = _kernel_system(kernel, ridge, weights)
    rows, others, between = as_long(kernel_rows[:, keep], kernel_others[:, keep], between)
    if fit_intercept:
        system = _bordered(system)
        rows, others = (np.hstack([z, np.ones((len(z), 1), Long)]) for z in (rows, others))
    return ((between - rows @ solve(system, others.T)) / Long(ridge)).astype(float)


def kernel_ridge_predictions(kernel, kernel_rows, y, *, ridge, weights=None, fit_intercept=False):
    """Minimise sum_i w_i (y_i - f(x_i) - b)^2 + ridge |f|^2 by the bordered system."""
    system, keep = _kernel_system(kernel, ridge, weights)
    rows, target = as_long(kernel_rows[:, keep], y[keep])
    if not fit_intercept:
        return (rows @ solve(system, target)).astype(float)
    solution = solve(_bordered(system), np.concatenate([target, np.zeros((1, *y.shape[1:]), Long)]))
    return (rows @ solution[:-1] + solution[-1]).astype(float)


def kernel_logdet(kernel, ridge, weights=None, fit_intercept=False):
    """log det of M = W^1/2 K W^1/2 + ridge; with an intercept of M between the vectors orthogonal to W^1/2 1."""
    system, keep = _kernel_system(kernel, ridge, weights)
    w = np.ones(len(system), Long) if weights is None else np.asarray(weights, Long)[keep]
    found = logdet(system) + np.log(w).sum()
    if fit_intercept:  # det(Q'MQ) = det(M) u'M^-1 u for a unit vector u orthogonal to Q
        found += np.log(solve(system, np.ones(len(w), Long)).sum() / w.sum())
    return float(found)


def _bordered(system):
    ones = np.ones((len(system), 1), Long)
    return np.block([[system, ones], [ones.T, np.zeros((1, 1), Long)]])


def features_of(kernel):
    """F (n, r) with F F' = kernel up to 1e-14 of its largest entry, by Cholesky with pivoting in long double."""
    left, columns, smallest = np.asarray(kernel, Long).copy(), [], 1e-14 * np.diag(kernel).max()
    while len(columns) < len(left) and (pivot := left.diagonal().max()) > smallest:
        column = left[:, left.diagonal().argmax()] / np.sqrt(pivot)
        columns.append(column)
        left = left - np.outer(column, column)
    return np.array(columns, Long).T


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


def _ridge_solution(train, y, ridge, weights, fit_intercept):
    """Coefficients (d, q) in long double, the intercept first, by least squares on stacked rows."""
    train, _, penalty = _with_intercept(train, train, ridge, fit_intercept)
    root = np.ones((len(train), 1), Long) if weights is None else np.sqrt(np.asarray(weights, Long))[:, None]
    target = root * np.asarray(y, Long).reshape(len(train), -1)
    stacked = np.vstack([root * train, np.diag(np.sqrt(penalty))])
    kept, upper, right = triangle(stacked, np.vstack([target, np.zeros((len(penalty), target.shape[1]), Long)]))
    solution = np.zeros((train.shape[1], target.shape[1]), Long)
    solution[kept] = solve_upper(upper, right)
    return solution


def ridge_coefficients(train, y, ridge=0.0, weights=None, fit_intercept=True):
    """Slopes (d, q) and intercepts (q,) that minimise sum_i w_i (y_i - b - x_i'c)^2 + ridge |c|^2."""
    solution = _ridge_solution(train, y, ridge, weights, fit_intercept).astype(float)
    return (solution[1:], solution[0]) if fit_intercept else (solution, np.zeros(solution.shape[1]))


def ridge_predictions(train, y, rows, *, ridge=0.0, weights=None, fit_intercept=True):
    """Of the same at rows, without normal equations; at ridge 0 for rows in the span of the training rows."""
    solution = _ridge_solution(train, y, ridge, weights, fit_intercept)
    rows = _with_intercept(rows, rows, ridge, fit_intercept)[0]
    return (rows @ solution).reshape(len(rows), *y.shape[1:]).astype(float)


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
