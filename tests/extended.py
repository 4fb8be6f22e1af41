"""Linear algebra in long double, without BLAS: oracles that are better than what they judge.

The relative error of an answer is the condition number times the epsilon of the type, 1.1e-19 on x86. Where a long
double is a double (Windows, macOS on ARM) it is what the most stable algorithms reach in float64.
"""

import numpy as np

Long = np.longdouble
# Columns of which rounding to float64 has left less than this are combinations of the others.
DEPENDENT = 1e-12


def as_long(*arrays):
    return tuple(np.asarray(array, Long) for array in arrays)


def triangle(rows, targets=None):
    """Positions (r,) of independent columns, R (r, r) with R'R = rows'rows there, Q'targets (r, q).

    Modified Gram-Schmidt with pivoting, the targets as further columns (Bjorck 1967): as stable as Householder's QR.
    """
    rows = np.asarray(rows, Long)
    d = rows.shape[1]
    left = rows.copy() if targets is None else np.hstack([rows, np.asarray(targets, Long)])
    length = np.sqrt((rows**2).sum(axis=0))
    kept, upper = [], []
    open_columns = length > 0
    while open_columns.any():
        share = np.where(open_columns, np.sqrt((left[:, :d] ** 2).sum(axis=0)) / np.where(length > 0, length, 1), -1)
        j = int(np.argmax(share))
        if share[j] <= DEPENDENT:
            break
        norm = share[j] * length[j]
        q = left[:, j] / norm
        along = q @ left
        along[j] = norm
        left -= np.outer(q, along)
        open_columns[j] = False
        kept.append(j)
        upper.append(along)
    all_columns = np.array(upper, Long).reshape(len(kept), left.shape[1])
    return np.array(kept, int), np.triu(all_columns[:, kept]), all_columns[:, d:]


def solve_upper(upper, right):
    """X with upper X = right."""
    found = np.asarray(right, Long).copy()
    for i in reversed(range(len(upper))):
        found[i] = (found[i] - upper[i, i + 1 :] @ found[i + 1 :]) / upper[i, i]
    return found


def solve_lower(lower, right):
    """X with lower X = right."""
    return solve_upper(lower[::-1, ::-1], np.asarray(right, Long)[::-1])[::-1]


def _eliminated(matrix, right):
    """Upper triangle and right side after elimination with partial pivoting."""
    n = len(matrix)
    both = np.hstack([np.asarray(matrix, Long), np.asarray(right, Long).reshape(n, -1)])
    for i in range(n):
        pivot = i + int(np.argmax(np.abs(both[i:, i])))
        both[[i, pivot]] = both[[pivot, i]]
        both[i + 1 :] -= np.outer(both[i + 1 :, i] / both[i, i], both[i])
    return both[:, :n], both[:, n:]


def solve(matrix, right):
    """X with matrix X = right."""
    return solve_upper(*_eliminated(matrix, right)).reshape(np.shape(right))


def logdet(matrix):
    """log |det matrix|."""
    return np.log(np.abs(_eliminated(matrix, np.zeros(len(matrix)))[0].diagonal())).sum()
