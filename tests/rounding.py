"""What rounding may cost: eps times a condition number, times the growth of sums with their length.

A sum of n products is wrong by a few sqrt(n) eps (Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815), whichever
kernel adds it up. A factorisation of the Gram matrix multiplies that by the square of the condition number of the
features, an orthogonal one by the condition number itself.
"""

import numpy as np

EPS = np.finfo(float).eps
SLACK = 10


def condition(features, ridge=0.0, weights=None, fit_intercept=True):
    """Condition number of the centred design, the ridge below it, its columns brought to the same length."""
    w = np.ones(len(features)) if weights is None else weights
    centred = features - fit_intercept * np.average(features, axis=0, weights=w)
    penalty = np.diag(np.sqrt(np.broadcast_to(ridge, features.shape[1])))
    stacked = np.vstack([np.sqrt(w)[:, None] * centred, penalty])
    values = np.linalg.svd(stacked / np.linalg.norm(stacked, axis=0), compute_uv=False)
    return values[0] / values[-1]


def offset(features, weights=None):
    """Largest mean over deviation of a column: what centring multiplies rounding by. Constant columns are dropped."""
    mean = np.average(features, axis=0, weights=weights)
    deviation = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    varies = deviation > 0
    return np.max(np.abs(mean[varies]) / deviation[varies])


def through_gram(features, ridge=0.0, weights=None, fit_intercept=True):
    """Relative error of leverage by a solver that may form the Gram matrix."""
    return _relative(features, ridge, weights, fit_intercept, 2)


def through_triangle(features, ridge=0.0, weights=None, fit_intercept=True):
    """Relative error of leverage by a solver that transforms the features orthogonally."""
    return _relative(features, ridge, weights, fit_intercept, 1)


def _relative(features, ridge, weights, fit_intercept, power):
    kappa = condition(features, ridge, weights, fit_intercept)
    centring = kappa * offset(features, weights) if fit_intercept else 0.0
    return SLACK * np.sqrt(len(features)) * EPS * (kappa**power + centring)


def of_predictions(X, y, ridge=0.0, weights=None, fit_intercept=True):
    """Error of the predictions and intervals of a linear model, through the Gram matrix, near the training rows."""
    return through_gram(X, ridge, weights, fit_intercept) * np.max(np.abs(y))


def of_refits(X, y, folds, ridge=0.0, weights=None, *, fit_intercept=True):
    """The largest such error of the models without one of the folds."""
    kept = [np.setdiff1d(np.arange(len(X)), fold) for fold in folds]
    parts = ((X[rows], y[rows], ridge, None if weights is None else weights[rows], fit_intercept) for rows in kept)
    return max(of_predictions(*part) for part in parts)


def through_kernel(kernel, ridge, weights=None):
    """Relative error of what solves with K + ridge W^-1."""
    top = np.linalg.eigvalsh(kernel)[-1] * (1.0 if weights is None else np.max(weights))
    return SLACK * len(kernel) * EPS * (1 + top / ridge)


def of_products(rows, coefficients, intercept=0.0):
    """Largest error of rows @ coefficients + intercept, in any order of summation."""
    size = np.abs(rows) @ np.abs(coefficients) + np.abs(intercept)
    return (rows.shape[1] + 2) * EPS * np.max(size)
