"""How far leverage depends on the training run: rank correlation over runs, and how unequal leverages are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from hatband.arrays.typing import Array
from hatband.checks import check_at_least, check_between, check_finite
from hatband.diagnostics.alignment import leverage_variation

Reading = Literal["uninformative", "mild", "moderate", "large", "dominated"]


def spread_reading(spread: float) -> Reading:
    """Return an assessment of leverage as the shape of a band, by eta = std(h) / mean(h).

    Parameters
    ----------
    spread : float
        From `leverage_variation`.

    Returns
    -------
    str
        Below 0.3 "uninformative": rows have about the same leverage, and a leverage scale hardly differs from a
        constant one. Below 0.5 "mild", below 1 "moderate", up to 2 "large". Above 2 "dominated": a few rows have most
        of the leverage, and their values may not be stable over training runs.

    Notes
    -----
    The limits are those of the author of leverage-weighted conformal prediction (Fadnavis, 2026): 0.3 from its code,
    0.5 and 1 for regression, 2 for networks. They are rules of thumb.

    Examples
    --------
    >>> from hatband.diagnostics.stability import spread_reading
    >>> spread_reading(0.1), spread_reading(2.5)
    ('uninformative', 'dominated')
    """
    check_between(spread, 0.0, np.inf, "spread")
    limits: tuple[tuple[float, Reading], ...] = ((0.3, "uninformative"), (0.5, "mild"), (1.0, "moderate"))
    for limit, reading in limits:
        if spread < limit:
            return reading
    return "large" if spread <= 2 else "dominated"


@dataclass(frozen=True)
class LeverageStability:
    """Agreement of leverages of the same rows over training runs.

    Parameters
    ----------
    correlations : array (pairs,)
        Spearman rank correlation of each pair of runs.
    variation : float
        Standard deviation over the runs divided by their mean, averaged over the rows.
    spreads : array (runs,)
        eta of each run.

    Examples
    --------
    >>> from hatband.diagnostics import leverage_stability
    >>> round(leverage_stability([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]]).mean_correlation, 12)
    0.5
    """

    correlations: Array
    variation: float
    spreads: Array

    @property
    def mean_correlation(self) -> float:
        """Mean over the pairs."""
        return float(self.correlations.mean())

    @property
    def lowest_correlation(self) -> float:
        """The lowest correlation of two runs."""
        return float(self.correlations.min())

    @property
    def mean_spread(self) -> float:
        """Mean eta."""
        return float(self.spreads.mean())


def leverage_stability(leverages: Any) -> LeverageStability:
    """Compare leverages of the same rows over training runs: Spearman's rho of every pair.

    Parameters
    ----------
    leverages : array (runs, m)
        One line per run, two runs and two rows at least.

    Returns
    -------
    LeverageStability

    Raises
    ------
    ValueError
        If there are fewer runs or rows, a leverage is not finite, or all rows of a run have the same.

    Notes
    -----
    Ranks, because leverages at different ridges have no common scale. Ties get mean ranks: Spearman (1904). Cost: one
    sort per run and a product of m numbers per pair. That leverage varies over runs, and less in ensembles, is a claim
    of Fadnavis (2026), arXiv 2602.12693.

    Examples
    --------
    >>> from hatband.diagnostics import leverage_stability
    >>> leverage_stability([[0.1, 0.2, 0.9], [1.0, 2.0, 3.0], [0.3, 0.2, 0.1]]).correlations.round(12).tolist()
    [1.0, -1.0, -1.0]
    """
    runs = _checked_runs(leverages)
    if runs.ndim != 2 or min(runs.shape) < 2:
        raise ValueError(f"leverages must have shape (runs, rows), two of each at least; got shape {runs.shape}.")
    ranks = rankdata(runs, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    sizes = np.sqrt((centred**2).sum(axis=1))
    if not sizes.all():
        raise ValueError(
            f"run {int(np.flatnonzero(sizes == 0)[0])} gives every row the same leverage: no ranks to compare."
        )
    standard = centred / sizes[:, None]
    pairs = np.array([standard[i] @ standard[j] for i, j in combinations(range(len(runs)), 2)])
    relative = runs / runs.mean(axis=1, keepdims=True)
    mean = relative.mean(axis=0)
    # A row whose leverage is 0 in every run has a mean of 0, and does not vary.
    variation = float((relative.std(axis=0, ddof=1) / np.where(mean > 0, mean, 1.0)).mean())
    return LeverageStability(pairs.clip(-1, 1), variation, np.array([leverage_variation(run) for run in runs]))


def ensemble_means(leverages: Any, size: int) -> Array:
    """Return sum_k h_k / K over consecutive groups of K = `size` runs, as in ensembles of that many networks.

    Parameters
    ----------
    leverages : array (runs, m)
        Measured at ridges that are the same share of the mean eigenvalue, as `ridge="auto"` does: else the means say
        nothing.
    size : int
        Members of an ensemble; runs left over are not used.

    Returns
    -------
    array (runs // size, m)

    Raises
    ------
    ValueError
        If there are fewer runs than members.

    Examples
    --------
    >>> from hatband.diagnostics.stability import ensemble_means
    >>> ensemble_means([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], 2).tolist()
    [[2.0, 3.0]]
    """
    runs = _checked_runs(leverages)
    groups = len(runs) // check_at_least(size, 1, "size")
    if runs.ndim != 2 or not groups:
        raise ValueError(
            f"leverages must have shape (runs, rows) and size be from 1 to the number of runs, {len(runs)}; got {size} "
            f"and shape {runs.shape}."
        )
    return runs[: groups * size].reshape(groups, size, *runs.shape[1:]).mean(axis=1)


def run_leverages(members: Sequence[Any], X: Any) -> Array:
    """Return h_k(x), shape (runs, m), of the same rows x by several fitted regressors k.

    Parameters
    ----------
    members : sequence of regressors with `leverage`
        After `fit_train` on the same rows, such as `LastLayerConformalRegressor` around networks of several runs.
    X : array (m, k)

    Returns
    -------
    array (runs, m)
        Dimensionless.

    Raises
    ------
    ValueError
        If there is no regressor.

    Notes
    -----
    The cost of one `leverage` per run.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from hatband import SplitConformalRegressor
    >>> from hatband.diagnostics.stability import run_leverages
    >>> X = np.random.default_rng(0).normal(size=(30, 2))
    >>> members = [SplitConformalRegressor(Ridge(ridge), scale="leverage") for ridge in (1, 10, 100)]
    >>> run_leverages([member.fit_train(X, X.sum(axis=1)) for member in members], X).shape
    (3, 30)
    """
    runs = [member.leverage(X) for member in members]
    if not runs:
        raise ValueError("members must hold at least one fitted regressor; got none.")
    return np.stack(runs)


def _checked_runs(leverages: Any) -> Array:
    """Return leverages as float64, finite and >= 0, of at least one row."""
    try:
        values = np.asarray(leverages, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"leverages must be an array of numbers; {error}.") from None
    if not values.ndim or not values.size:
        raise ValueError(f"leverages must hold at least one row; got shape {values.shape}.")
    check_finite(values.T, "leverages")
    if (values < 0).any():
        raise ValueError(f"leverages must be >= 0; got {values.min():.3g}.")
    return values
