"""How far leverage depends on the training run: rank correlation over runs, and how unequal leverages are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from hatband._checks_network import check_at_least, check_between, check_leverages
from hatband.arrays.typing import Array

Reading = Literal["uninformative", "mild", "moderate", "large", "dominated"]


def leverage_spread(leverage: Any) -> float:
    """Return eta = std(h) / mean(h), how unequal the leverages of some rows are.

    Parameters
    ----------
    leverage : array (m,)
        Finite, >= 0, not all 0.

    Returns
    -------
    float
        0 when all are equal. `spread_reading` says what it means.

    Raises
    ------
    ValueError
        If a leverage is not finite, or all are 0.

    Notes
    -----
    Fadnavis (2026), arXiv 2602.12693, the diagnostic eta-hat.

    Examples
    --------
    >>> from hatband.nn import leverage_spread
    >>> leverage_spread([0.1, 0.1, 0.4])
    0.7071067811865476
    """
    values = check_leverages(leverage, "leverage")
    mean = float(values.mean())
    if not mean:
        raise ValueError("leverage must hold rows whose leverages are not all 0; all are, and eta would be 0 / 0.")
    return float(values.std() / mean)


def spread_reading(spread: float) -> Reading:
    """Return what eta = std(h) / mean(h) says of leverage as the shape of a band.

    Parameters
    ----------
    spread : float
        From `leverage_spread`.

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
    >>> from hatband.nn import spread_reading
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
    >>> from hatband.nn import leverage_stability
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
        """Of the two runs that agree least."""
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
    >>> from hatband.nn import leverage_stability
    >>> leverage_stability([[0.1, 0.2, 0.9], [1.0, 2.0, 3.0], [0.3, 0.2, 0.1]]).correlations.round(12).tolist()
    [1.0, -1.0, -1.0]
    """
    runs = check_leverages(leverages, "leverages")
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
    return LeverageStability(pairs.clip(-1, 1), variation, np.array([leverage_spread(run) for run in runs]))


def ensemble_means(leverages: Any, size: int) -> Array:
    """Return sum_k h_k / K over consecutive groups of K = `size` runs, as ensembles of that many networks have them.

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
    >>> from hatband.nn import ensemble_means
    >>> ensemble_means([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], 2).tolist()
    [[2.0, 3.0]]
    """
    runs = check_leverages(leverages, "leverages")
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
    members : sequence of LastLayerConformalRegressor or NeuralConformalRegressor
        After `fit_train` on the same rows.
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
    One forward pass and d^2 operations per row and run.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerConformalRegressor, run_leverages
    >>> nets = [nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(3)]
    >>> X = torch.randn(20, 2)
    >>> run_leverages([LastLayerConformalRegressor(net, scale="leverage").fit_train(X) for net in nets], X).shape
    (3, 20)
    """
    runs = [member.leverage(X) for member in members]
    if not runs:
        raise ValueError("members must hold at least one fitted regressor; got none.")
    return np.stack(runs)
