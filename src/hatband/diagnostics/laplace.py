"""Arrays for plots of a calibrated model: variance shares over leverage, densities and PITs before and after."""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from hatband.arrays.typing import Array, Float
from hatband.checks import check_no_nan
from hatband.conformal.distribution import ScaledDistribution
from hatband.formulas.metrics import quantile_bins
from hatband.formulas.order_statistics import conformal_quantile, exact_level
from hatband.formulas.posterior import PosteriorPrediction


class VarianceShares(NamedTuple):
    """Mean variances of rows grouped by leverage, lowest first; one entry per group that holds a row."""

    n_samples: Array
    leverage: Array
    """Mean leverage."""
    aleatoric: Array
    epistemic: Array
    epistemic_share: Array
    """epistemic / (aleatoric + epistemic); 1 where the epistemic variance is infinite."""


def variance_shares(law: PosteriorPrediction, leverage: Float[Array, " m"], n_groups: int = 10) -> VarianceShares:
    """Return mean aleatoric variance a, epistemic variance e, and e / (a + e), of each decile of leverage.

    Parameters
    ----------
    law : PosteriorPrediction
        Of arrays (m,).
    leverage : array (m,)
        What the rows are grouped by.
    n_groups : int, default=10
        Number of groups of nearly equal size.

    Returns
    -------
    VarianceShares
        Of arrays (k,), k <= n_groups; variances in the units of y^2, as in the law.

    Raises
    ------
    ValueError
        If a leverage is NaN, or the law is not of m rows and one output.

    Notes
    -----
    Cost: one sort. Kim, Choi, Rasool and Oh (arXiv 2512.01384) name such a diagnostic in their abstract; the grouping
    is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics.laplace import variance_shares
    >>> from hatband.formulas.posterior import PosteriorPrediction
    >>> h = np.linspace(0, 1, 100)
    >>> variance_shares(PosteriorPrediction(h, np.ones(100), h), h, n_groups=2).epistemic_share.round(2)
    array([0.2 , 0.43])
    """
    aleatoric, epistemic = np.asarray(law.aleatoric), np.asarray(law.epistemic)
    if not aleatoric.shape == epistemic.shape == np.shape(leverage) or aleatoric.ndim != 1:
        raise ValueError(
            f"variances and leverage must be of the same rows and one output; got shapes {aleatoric.shape}, "
            f"{epistemic.shape} and {np.shape(leverage)}."
        )
    group = quantile_bins(leverage, n_groups)
    members = [group == label for label in np.unique(group)]
    mean_leverage, noise, unknown = (
        np.array([values[rows].mean() for rows in members]) for values in (np.asarray(leverage), aleatoric, epistemic)
    )
    with np.errstate(invalid="ignore"):
        share = np.where(np.isinf(unknown), 1.0, unknown / (noise + unknown))
    return VarianceShares(np.array([rows.sum() for rows in members]), mean_leverage, noise, unknown, share)


class CalibrationArrays(NamedTuple):
    """PITs and densities of observed targets under a normal law, before and after calibration, each (m,) or (m, q)."""

    pit_before: Array
    """F(y) under the normal law: uniform if the model is right."""
    pit_after: Array
    """Rank of the signed score among the calibration scores: uniform for exchangeable rows, whatever the model."""
    density_before: Array
    """Normal density of y."""
    density_after: Array
    """Normal density of y whose central interval at the level is as wide as the calibrated one."""
    factor: Array
    """Calibrated over normal half-width, one per output: above 1 where the model was too sure of itself."""


def calibration_arrays(
    law: PosteriorPrediction, y: Any, scores: Float[Array, "n q"], level: Any = 0.9, random_state: Any = None
) -> CalibrationArrays:
    """Return F(y) and density f(y) of the law, and the same after its deviation is multiplied by q / z.

    q is the calibrated threshold of |z|-scores, z that of the normal law: Phi^-1((1 + level) / 2).

    Parameters
    ----------
    law : PosteriorPrediction
        Of test rows, (m,) or (m, q).
    y : array (m,) or (m, q)
        Their targets.
    scores : array (n, q)
        Signed calibration scores (y - mean) / deviation.
    level : float in (0, 1), default=0.9
        Level at which normal and calibrated intervals are compared.
    random_state : int, RandomState or None, default=None
        Breaks ties of ranks.

    Returns
    -------
    CalibrationArrays
        PITs from 0 to 1, densities in 1 / units of y, (m,) or (m, q), and q / z of each output.

    Raises
    ------
    ValueError
        If y holds NaN or has another shape, or the level is not inside (0, 1).

    Notes
    -----
    The PIT after calibration is a rank among the scores, and not that of a normal law. With too few scores for the
    level the factor is infinite and the density after calibration 0. Cost: one sort of the scores, and a search in it
    per row. Kim, Choi, Rasool and Oh (arXiv 2512.01384) name such a diagnostic in their abstract; its form is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics.laplace import calibration_arrays
    >>> from hatband.formulas.posterior import PosteriorPrediction
    >>> y = np.random.default_rng(0).normal(size=2_000)
    >>> law = PosteriorPrediction(np.zeros(1_000), np.full(1_000, 0.25), np.zeros(1_000))  # half the deviation of y
    >>> calibration_arrays(law, y[:1_000], y[1_000:, None] / 0.5).factor.round(1)
    array([2.])
    """
    mean, variance = np.asarray(law.mean, dtype=float), np.asarray(law.variance, dtype=float)
    check_no_nan(np.asarray(y, dtype=float), "y")
    if np.shape(y) != mean.shape:
        raise ValueError(f"y must have one value per row and output, shape {mean.shape}; got {np.shape(y)}.")
    deviation, columns = np.sqrt(variance), mean.reshape(len(mean), -1)
    after = ScaledDistribution(columns, deviation.reshape(columns.shape), scores, single_target=mean.ndim == 1)
    threshold = np.array([conformal_quantile(np.abs(column), level) for column in scores.T])
    factor = threshold / norm.ppf(float(1 + exact_level(level)) / 2)
    widened = deviation * (factor if mean.ndim == 2 else factor[0])
    return CalibrationArrays(
        pit_before=_normal(norm.cdf, y, mean, deviation),
        pit_after=after.pit(y, random_state),
        density_before=_normal(norm.pdf, y, mean, deviation),
        density_after=_normal(norm.pdf, y, mean, widened),
        factor=factor,
    )


def _normal(function: Any, y: Any, mean: Array, deviation: Array) -> Array:
    """Evaluate a normal cdf or density; an infinite deviation has cdf 1/2 and density 0."""
    finite = np.isfinite(deviation)
    values = function(np.asarray(y, dtype=float), mean, np.where(finite, deviation, 1.0))
    return np.where(finite, values, 0.5 if function == norm.cdf else 0.0)


def standard_score(y: Array, mean: Array, variance: Array) -> Array:
    """Return z = (y - mean) / variance^1/2; 0 where the variance is infinite, and where y is the mean.

    Parameters
    ----------
    y, mean, variance : array (m,) or (m, q)
        Targets, and the predictive law.

    Returns
    -------
    array
        Signed, dimensionless. |z| orders rows as the two-sided score |2 F(y) - 1| of the normal law does, and never
        saturates. Infinite where the variance is 0 and y is not the mean.

    Notes
    -----
    Elementwise. The score of version 1 of CLAPS (Kim, Choi, Rasool and Oh, arXiv 2512.01384), by its abstract.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics.laplace import standard_score
    >>> standard_score(np.array([3.0, 40.0]), np.zeros(2), np.array([4.0, 1.0]))
    array([ 1.5, 40. ])
    """
    away = np.asarray(y) - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / np.sqrt(variance))


def two_sided_probability(z: Array) -> Array:
    """Return 2 Phi(|z|) - 1, the published form of the score. To be read, not ranked: it is 1.0 from |z| = 8.3 on.

    Parameters
    ----------
    z : array
        Standard scores.

    Returns
    -------
    array
        From 0 to 1, the probability of the central interval that ends at y.

    Notes
    -----
    |2 F(y) - 1| of version 1 of CLAPS (Kim, Choi, Rasool and Oh, arXiv 2512.01384), by its abstract.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics.laplace import two_sided_probability
    >>> two_sided_probability(np.array([0.0, 1.96, -9.0])).round(3)
    array([0.  , 0.95, 1.  ])
    """
    return 1 - 2 * norm.sf(np.abs(z))
