"""Full conformal prediction in closed form: which candidates t for a new row each training row accepts.

Refit on the training rows and (x, t), with r = (t - mu(x)) / (1 + h(x)) and g_i = h(x_i, x): the residuals become
e_i - g_i r and r, the leverages h_i - g_i^2 / (1 + h) and h / (1 + h). So row i accepts t where its score
|e_i - g_i r| / c_i is at least the new score |r| / c, and t is in the prediction set when enough rows accept it.
Nouretdinov, Melluish and Vovk (2001); Burnaev and Vovk (2014), arXiv 1404.2083.
"""

from dataclasses import dataclass

import numpy as np

from hatband.arrays.typing import Array, Bool, Float, Int
from hatband.formulas.leave_one_out import interpolated
from hatband.formulas.order_statistics import kth_smallest

# Rounding in a cross-leverage, which the inequality of Cauchy and Schwarz does not know of.
SLACK = 1 + 1e-9


@dataclass(frozen=True, eq=False)
class CrossedRows:
    """The training rows of a fit with one output, and a block of new rows of weight 1.

    Parameters
    ----------
    residuals : array (n,)
        e_i = y_i - mu(x_i).
    leverage : array (n,)
        h_i = h(x_i).
    weights : array (n,), or None
        Training weights; None means 1.
    prediction : array (m,)
        mu(x) of the new rows.
    new_leverage : array (m,)
        h(x) of the new rows; infinite where nothing can be said.
    cross : array (m, n)
        g_i = h(x, x_i).
    below, above : int
        Training rows that are only counted, because their values lie below or above those of every requested rank.
    """

    residuals: Float[Array, " n"]
    leverage: Float[Array, " n"]
    weights: Float[Array, " n"] | None
    prediction: Float[Array, " m"]
    new_leverage: Float[Array, " m"]
    cross: Float[Array, "m n"]
    below: int = 0
    above: int = 0

    @property
    def n_samples(self) -> int:
        """Number of training rows, including rows that are only counted."""
        return len(self.residuals) + self.below + self.above

    @property
    def left(self) -> Float[Array, " n"]:
        """1 - w_i h_i >= 0: the share of a row's own error that remains after the fit."""
        return np.maximum(1 - (self.leverage if self.weights is None else self.weights * self.leverage), 0.0)

    @property
    def interpolated(self) -> Bool[Array, " n"]:
        """Rows whose leave-one-out score is 0 / 0, because the fit interpolates them; they accept every candidate."""
        return interpolated(self.leverage, self.weights)

    @property
    def growth(self) -> Float[Array, "m 1"]:
        """1 + h(x), or 1 where that is infinite: the result for such rows does not depend on it."""
        return 1 + np.where(np.isinf(self.new_leverage), 0.0, self.new_leverage)[:, None]


def studentised_roots(fit: CrossedRows) -> tuple[Float[Array, "m n"], Float[Array, "m n"]]:
    """Return how far row i accepts below and above mu(x), in units of sqrt(1 + h(x)): |e_i| exp(-+theta_i) / sqrt(a_i).

    a_i = 1 - h_i and sinh(theta_i) = g_i / sqrt(a_i (1 + h)), the sign of g_i e_i deciding which side is the far one.
    Every row accepts t = mu(x). With weights the score is |leave-one-out residual| / sqrt(1 + leave-one-out leverage);
    a row whose acceptance would not be an interval accepts everything.
    """
    reach = np.abs(fit.cross)
    reach /= np.sqrt(fit.growth)
    gap, scale = _studentised_scale(fit, reach)
    scale += reach
    error = np.abs(fit.residuals)
    with np.errstate(divide="ignore", invalid="ignore"):
        near = error / scale
        far = np.multiply(scale, error / gap, out=scale)
    far[:, fit.interpolated] = near[:, fit.interpolated] = np.inf
    if fit.weights is not None:
        far[gap <= 0] = near[gap <= 0] = np.inf
    aligned = (fit.cross >= 0) == (fit.residuals >= 0)
    return np.where(aligned, far, near), np.where(aligned, near, far)


def studentised_range(
    residuals: Float[Array, " n"], leverage: Float[Array, " n"], new_leverage: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return the least and largest root that each training row of weight 1 can have: g_i^2 <= h_i h(x)."""
    share = np.max(np.where(np.isinf(new_leverage), 1.0, new_leverage / (1 + new_leverage)))
    left, reach, error = 1 - leverage, np.sqrt(SLACK * share * leverage), np.abs(residuals)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(reach**2 + left) + reach
        least, largest = error / scale, error * scale / left
    undefined = interpolated(leverage)
    return np.where(undefined, np.inf, least), np.where(undefined, np.inf, largest)


def _studentised_scale(fit: CrossedRows, reach: Array) -> tuple[Array, Array]:
    """Return c_i^2 - u and c_i, u = reach^2: c_i^2 = (1 - w h')(1 - w h' + h'), h' = h_i - u, so 1 - h' if w = 1."""
    u, left, w = np.square(reach), fit.left, fit.weights
    if w is None:
        return left, np.sqrt(u + left)
    gap = (w - 1) * u * (w * u + 2 * left) + left * (left + fit.leverage)
    return gap, np.sqrt(gap + u)


def predictive_atoms(fit: CrossedRows) -> Float[Array, "m n"]:
    """Return the candidates at which the signed studentised residual of the new row passes that of row i.

    C_i = mu + sqrt(1 + h) e_i exp(-theta_i) / sqrt(a_i), theta_i as in `studentised_roots`: the studentised least
    squares prediction machine, Vovk, Shen, Manokhin and Xie (2019), section 4.
    """
    below, above = studentised_roots(fit)
    offset = np.where(fit.residuals >= 0, above, -below)
    offset[:, fit.residuals == 0] = 0.0
    with np.errstate(invalid="ignore"):
        atoms = fit.prediction[:, None] + np.sqrt(fit.growth) * offset
    unknown = np.isinf(fit.new_leverage)
    atoms[unknown] = np.where(fit.residuals == 0, fit.prediction[unknown, None], np.copysign(np.inf, fit.residuals))
    return atoms


def studentised_interval(fit: CrossedRows, rank: int) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Return the one bounded interval of each new row: the roots of this rank on either side, by selection, O(n)."""
    below, above = studentised_roots(fit)
    growth = np.sqrt(fit.growth[:, 0])
    rank = rank - fit.below if rank <= fit.n_samples else len(fit.residuals) + 1
    low = fit.prediction - growth * kth_smallest(below, rank, axis=1)
    high = fit.prediction + growth * kth_smallest(above, rank, axis=1)
    return known(fit, low, high)


def known(fit: CrossedRows, low: Array, high: Array) -> tuple[Array, Array]:
    """Make bounds infinite where the leverage is infinite: there the refit interpolates every candidate."""
    unknown = np.isinf(fit.new_leverage)
    return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


@dataclass(frozen=True, eq=False)
class Scales:
    """Divisors of residuals: `own` c_i of the training rows, `new` c of a new row; and the rows without a score."""

    own: Float[Array, "#m n"]
    new: Float[Array, "m 1"]
    undefined: Bool[Array, " n"]


def absolute_scales(fit: CrossedRows) -> Scales:
    """Return c_i = 1 and c = 1: scores are plain residuals."""
    n, m = len(fit.residuals), len(fit.prediction)
    return Scales(np.ones((1, n)), np.ones((m, 1)), np.zeros(n, dtype=bool))


def deleted_scales(fit: CrossedRows) -> Scales:
    """Return c_i = 1 - w_i (h_i - g_i^2 / (1 + h)) and c = 1 / (1 + h): scores are leave-one-out residuals."""
    gain = np.square(fit.cross) / fit.growth
    own = fit.left + (gain if fit.weights is None else fit.weights * gain)
    return Scales(own, 1 / fit.growth, fit.interpolated)


@dataclass(frozen=True, eq=False)
class Acceptance:
    """The sets of candidates that n rows accept, as events along the line of r = (t - mu(x)) / (1 + h(x)).

    Parameters
    ----------
    base : array (m,)
        How many rows accept r = -inf.
    starts, ends : array (m, n)
        From where (inclusive) one more row accepts, and after which point one fewer; infinite where there is none.
    """

    base: Int[Array, " m"]
    starts: Float[Array, "m n"]
    ends: Float[Array, "m n"]


def acceptance(fit: CrossedRows, scales: Scales) -> Acceptance:
    """Return the sets {r : |e_i - g_i r| / c_i >= |r| / c}, from the roots of (c e - p r)(c e - m r) >= 0.

    p = c g + c_i and m = c g - c_i. p m < 0: between the roots; p m > 0: outside them; p m = 0: a ray that holds 0.
    """
    gain, e = scales.new * fit.cross, fit.residuals
    plus, minus = gain + scales.own, gain - scales.own
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = scales.new * e / plus, scales.new * e / minus
    low, high = np.minimum(*roots), np.maximum(*roots)
    ray = (plus == 0) | (minus == 0)
    end = np.where(np.isfinite(roots[0]), *roots)
    low, high = np.where(ray, np.where(end < 0, end, -np.inf), low), np.where(ray, np.where(end > 0, end, np.inf), high)
    outside = (np.sign(plus) * np.sign(minus) > 0) & ~ray
    always = scales.undefined | ((e == 0) & (outside | ray))
    starts = np.where(always, -np.inf, np.where(outside, high, low))
    ends = np.where(always, np.inf, np.where(outside, low, high))
    return Acceptance((outside | np.isneginf(starts)).sum(axis=1), starts, ends)


@dataclass(frozen=True, eq=False)
class Pieces:
    """The set where at least `needed` rows accept: closed pieces of a line, one union per row.

    Parameters
    ----------
    values : array (m, 2n)
        Ends of sets, sorted.
    opens, closes : array (m, 2n)
        At which of them a piece begins, and at which one ends.
    from_below, to_above : array (m,)
        Whether the first piece begins at -inf, and the last ends at inf.
    """

    values: Float[Array, "m k"]
    opens: Bool[Array, "m k"]
    closes: Bool[Array, "m k"]
    from_below: Bool[Array, " m"]
    to_above: Bool[Array, " m"]

    @classmethod
    def of(cls, sets: Acceptance, needed: int) -> "Pieces":
        """Sweep the sorted ends, opening before closing at ties: O(n log n) per row."""
        values = np.concatenate([sets.starts, sets.ends], axis=1)
        steps = np.isfinite(values).astype(np.int32)
        steps[:, sets.starts.shape[1] :] *= -1
        order = np.argsort(values, axis=1, kind="stable")
        steps = np.take_along_axis(steps, order, axis=1)
        count = sets.base[:, None] + np.cumsum(steps, axis=1)
        return cls(
            values=np.take_along_axis(values, order, axis=1),
            opens=(steps == 1) & (count == needed),
            closes=(steps == -1) & (count == needed - 1),
            from_below=sets.base >= needed,
            to_above=count[:, -1] >= needed,
        )

    def hull(self) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Return the least interval around all pieces of each row."""
        first = np.min(self.values, axis=1, where=self.opens, initial=np.inf)
        last = np.max(self.values, axis=1, where=self.closes, initial=-np.inf)
        return np.where(self.from_below, -np.inf, first), np.where(self.to_above, np.inf, last)

    def row(self, i: int) -> Float[Array, "pieces 2"]:
        """Return the pieces of one row in increasing order."""
        low = [-np.inf] * bool(self.from_below[i]) + list(self.values[i, self.opens[i]])
        high = list(self.values[i, self.closes[i]]) + [np.inf] * bool(self.to_above[i])
        return np.array([low, high], dtype=np.float64).T
