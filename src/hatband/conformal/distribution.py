"""Predictive distributions: from calibration rows, the distribution of a new y rather than one interval."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from fractions import Fraction
from numbers import Real
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, check_in, check_no_nan, warn_caller
from hatband.conformal.band import Band
from hatband.formulas.order_statistics import exact_level, kth_smallest, lower_rank, upper_rank


class PredictiveDistribution(ABC):
    """The distribution of y by n atoms C_1..C_n per new row: Pi(y) = (#{C_i < y} + tau (#{C_i = y} + 1)) / (n + 1).

    The rank of y among the atoms is uniform for exchangeable rows. That leaves a gap of 1 / (n + 1) between the lower
    end (tau = 0) and the upper end (tau = 1) of Pi, and one of (1 + ties) / (n + 1) where atoms are tied. `pit` fills
    it at random and is exactly uniform; `pvalue` and `interval` take the safe side; `cdf`, `quantile` and `crps` speak
    of the step function F(y) = #{C_i <= y} / n, which is a proper distribution and lies inside the gap.

    For y (n,) arguments and answers have shape (m,), else (m, q).

    Attributes
    ----------
    n_atoms : int
        How many calibration scores stand behind each row.

    Notes
    -----
    Vovk, Shen, Manokhin and Xie (2019), "Nonparametric predictive distributions based on conformal prediction".
    """

    n_atoms: int
    n_rows: int
    n_outputs: int
    single_target: bool

    @abstractmethod
    def _counts(self, y: Array) -> tuple[Array, Array]:
        """Return #{C_i < y} and #{C_i <= y}, each (m, q)."""

    @abstractmethod
    def _atom(self, rank: int) -> Array:
        """Return the atom (m, q) of this rank from 0 (-inf) to n + 1 (inf)."""

    @abstractmethod
    def _crps(self, y: Array) -> Array:
        """Return the integral of (F(t) - 1{y <= t})^2 over t, (m, q)."""

    def cdf(self, y: Any) -> Array:
        """Return F(y) = #{C_i <= y} / n.

        Parameters
        ----------
        y : float or array (m,) or (m, q)

        Returns
        -------
        array (m,) or (m, q)
            From 0 to 1, never falling in y.

        Raises
        ------
        ValueError
            If y holds NaN or has another shape.
        """
        return self._shaped(self._counts(self._targets(y))[1] / self.n_atoms)

    def quantile(self, p: Any) -> Array:
        """Return the least y with F(y) >= p: the ceil(n p)-th smallest atom.

        Parameters
        ----------
        p : float or list of float in [0, 1]
            0 gives the smallest atom, 1 the largest. A list adds a last axis.

        Returns
        -------
        array (m,), (m, q), (m, L) or (m, q, L)
        """
        levels, single = _check_probabilities(p)
        values = [self._shaped(self._atom(max(1, _rank(self.n_atoms, level)))) for level in levels]
        return values[0] if single else np.stack(values, axis=-1)

    def interval(self, confidence_level: Any) -> Array:
        """Return the interval between two exact ranks, each side with half of the miscoverage.

        Parameters
        ----------
        confidence_level : float in (0, 1)

        Returns
        -------
        array (m, 2) or (m, q, 2)
            The atoms of rank floor((n + 1) (1 - level) / 2) and ceil((n + 1) (1 + level) / 2); -inf and inf where the
            rank is 0 or n + 1. It holds y with probability >= level wherever the atoms are exactly calibrated.
        """
        side = (1 + exact_level(confidence_level)) / 2
        ranks = lower_rank(self.n_atoms, side), upper_rank(self.n_atoms, side)
        return np.stack([self._shaped(self._atom(rank)) for rank in ranks], axis=-1)

    def pvalue(self, y: Any, tail: Literal["two-sided", "lower", "upper"] = "two-sided") -> Array:
        """Return the p-value of y: (#{C_i <= y} + 1) / (n + 1) for "lower", with >= for "upper".

        "two-sided" is twice the smaller of the two, at most 1.

        Parameters
        ----------
        y : float or array (m,) or (m, q)
        tail : {"two-sided", "lower", "upper"}, default="two-sided"
            "lower" is small where y is unusually small.

        Returns
        -------
        array (m,) or (m, q)
            At most p with probability at most p, wherever the atoms are exactly calibrated.
        """
        check_in(tail, ("two-sided", "lower", "upper"), "tail")
        below, at_most = self._counts(self._targets(y))
        lower = (at_most + 1) / (self.n_atoms + 1)
        upper = (self.n_atoms - below + 1) / (self.n_atoms + 1)
        both = np.minimum(1.0, 2 * np.minimum(lower, upper))
        return self._shaped({"lower": lower, "upper": upper, "two-sided": both}[tail])

    def pit(self, y: Any, random_state: Any = None) -> Array:
        """Return Pi(y) with tau drawn uniformly: uniform on [0, 1] for exchangeable rows, ties or not.

        Parameters
        ----------
        y : array (m,) or (m, q)
        random_state : int, RandomState or None, default=None

        Returns
        -------
        array (m,) or (m, q)
        """
        below, at_most = self._counts(self._targets(y))
        tau = check_random_state(random_state).uniform(size=below.shape)
        return self._shaped((below + tau * (at_most - below + 1)) / (self.n_atoms + 1))

    def crps(self, y: Any) -> Array:
        """Return the continuous ranked probability score: the integral of (F(t) - 1{y <= t})^2 over t.

        Parameters
        ----------
        y : float or array (m,) or (m, q)

        Returns
        -------
        array (m,) or (m, q)
            In the units of y; smaller is better; inf where y or an atom is infinite.
        """
        targets = self._targets(y)
        known = np.isfinite(targets)
        return self._shaped(np.where(known, self._crps(np.where(known, targets, 0.0)), np.inf))

    def _targets(self, y: Any) -> Array:
        return _check_target_for(y, self.n_rows, self.n_outputs)

    def _shaped(self, values: Array) -> Array:
        return values[:, 0] if self.single_target else values


def _rank(n: int, p: Any) -> int:
    """Return ceil(n p) in exact arithmetic: p = k / n in binary means the fraction k / n."""
    exact = Fraction(round(float(p))) if float(p) in {0.0, 1.0} else exact_level(p)
    return -(-n * exact.numerator // exact.denominator)


class ScaledDistribution(PredictiveDistribution):
    """Atoms center(x) + width(x) s_i: the same n scores for every row, moved and stretched.

    Memory n + m numbers; every verb costs O(log n) per row.

    Parameters
    ----------
    center, width : array (m, q)
        Infinite width: only the sign of each atom is known.
    scores : array (n, q)
    single_target : bool
        Whether y had one axis.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.conformal.distribution import ScaledDistribution
    >>> law = ScaledDistribution(np.array([[10.0]]), np.array([[2.0]]), np.array([[-1.0], [0.0], [1.5]]))
    >>> law.quantile([0.3, 0.5, 0.9]).tolist(), law.cdf(10.0).round(3).tolist()
    ([[8.0, 10.0, 13.0]], [0.667])
    """

    def __init__(self, center: Array, width: Array, scores: Array, single_target: bool = True) -> None:
        self.center, self.width = center, np.broadcast_to(width, center.shape)
        self.scores = np.sort(scores, axis=0)
        self.single_target = single_target
        self.n_atoms = len(scores)
        self.n_rows, self.n_outputs = center.shape

    def _atom(self, rank: int) -> Array:
        if not 1 <= rank <= self.n_atoms:
            return np.full(self.center.shape, -np.inf if rank == 0 else np.inf)
        return self._at(np.full(self.center.shape, rank - 1))

    def _at(self, position: Array) -> Array:
        """Return the atom at each row's own position (m, q)."""
        score = np.take_along_axis(self.scores, position, axis=0)
        with np.errstate(invalid="ignore"):
            return np.where(score == 0, self.center, self.center + self.width * score)

    def _counts(self, y: Array) -> tuple[Array, Array]:
        return self._bisect(lambda atom: atom < y), self._bisect(lambda atom: atom <= y)

    def _bisect(self, holds: Callable[[Array], Array]) -> Array:
        """Return for how many atoms `holds` is true; atoms increase, so these are the first ones.

        Searching the atoms, rather than the scores for (y - center) / width, keeps `cdf` an exact inverse.
        """
        low, high = np.zeros(self.center.shape, dtype=int), np.full(self.center.shape, self.n_atoms)
        while (low < high).any():
            middle = (low + high) // 2
            true = holds(self._at(np.minimum(middle, self.n_atoms - 1)))
            searching = low < high
            low, high = np.where(searching & true, middle + 1, low), np.where(searching & ~true, middle, high)
        return low

    def _crps(self, y: Array) -> Array:
        finite = np.isfinite(self.width)
        z = np.where(finite, (y - self.center) / np.where(finite, self.width, 1.0), 0.0)
        columns = [_crps_of_sorted(self.scores[:, j], z[:, j]) for j in range(self.n_outputs)]
        return np.where(finite, self.width, np.inf) * np.column_stack(columns)


class RowwiseDistribution(PredictiveDistribution):
    """Atoms whose shape differs from row to row: computed again, in blocks of rows, for every call.

    Parameters
    ----------
    blocks : callable() -> iterator of (slice, output, atoms (b, n))
    n_rows, n_outputs, n_atoms : int
    single_target : bool
        Whether y had one axis.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterator[tuple[slice, int, Array]]],
        *,
        n_rows: int,
        n_outputs: int,
        n_atoms: int,
        single_target: bool,
    ) -> None:
        self.blocks = blocks
        self.n_rows, self.n_outputs, self.n_atoms = n_rows, n_outputs, n_atoms
        self.single_target = single_target

    def _each(self, answer: Callable[[Array, Array], Array], y: Array) -> Array:
        result = np.empty((self.n_rows, self.n_outputs))
        for part, j, atoms in self.blocks():
            result[part, j] = answer(atoms, y[part, j, None])
        return result

    def _counts(self, y: Array) -> tuple[Array, Array]:
        below = self._each(lambda atoms, at: (atoms < at).sum(axis=1), y)
        return below, self._each(lambda atoms, at: (atoms <= at).sum(axis=1), y)

    def _atom(self, rank: int) -> Array:
        nothing = np.zeros((self.n_rows, self.n_outputs))
        return self._each(lambda atoms, _: kth_smallest(atoms, rank, axis=1), nothing)

    def _crps(self, y: Array) -> Array:
        return self._each(_crps_of_rows, y)


def _spread(scores: Array) -> Array:
    """Return half the mean distance of two draws: sum_i (2 i - n - 1) s_(i) / n^2 for sorted scores (..., n)."""
    n = scores.shape[-1]
    return scores @ (2 * np.arange(1, n + 1) - n - 1) / n**2


def _crps_of_sorted(scores: Array, z: Array) -> Array:
    """Return mean |s_i - z| - half the mean |s_i - s_j|, by prefix sums. Gneiting and Raftery (2007), equation 21."""
    n, middle = len(scores), scores[len(scores) // 2]
    scores, z = scores - middle, z - middle
    sums = np.concatenate([[0.0], np.cumsum(scores)])
    below = np.searchsorted(scores, z)
    distance = z * below - sums[below] + (sums[-1] - sums[below]) - z * (n - below)
    return distance / n - _spread(scores)


def _crps_of_rows(atoms: Array, y: Array) -> Array:
    """Return the same for atoms (b, n) that differ by row; inf where one is infinite."""
    known = np.isfinite(atoms).all(axis=1)
    result = np.full(len(atoms), np.inf)
    centred = np.sort(atoms[known] - y[known], axis=1)
    result[known] = np.abs(centred).mean(axis=1) - _spread(centred)
    return result


# Numbers held at once where atoms of a transformed target are worked out.
BLOCK_NUMBERS = 2**20


def distribution_of(band: Band, scores: Array, single_target: bool) -> PredictiveDistribution:
    """Return the distribution with atoms center(x) + width(x) s_i, brought to the scale of y.

    Raises
    ------
    ValueError
        If no score is defined: the model interpolates every row.
    """
    law = ScaledDistribution(band.center, band.width, scores[defined_rows(np.isfinite(scores))], single_target)
    return law if band.target.is_scale_of_y else _mapped(law, band.target)


def _mapped(law: ScaledDistribution, target: Any) -> RowwiseDistribution:
    """Bring atoms to the scale of y by an increasing map; beyond its range they are infinite."""
    rows = max(1, BLOCK_NUMBERS // (law.n_atoms * law.n_outputs))

    def blocks() -> Iterator[tuple[slice, int, Array]]:
        for start in range(0, law.n_rows, rows):
            part = slice(start, min(start + rows, law.n_rows))
            center, width = law.center[part, None, :], law.width[part, None, :]
            atoms = center + width * law.scores
            mapped = target.backward(atoms.reshape(-1, law.n_outputs)).reshape(atoms.shape)
            mapped = np.where(np.isnan(mapped), np.copysign(np.inf, atoms - center), mapped)
            yield from ((part, j, mapped[..., j]) for j in range(law.n_outputs))

    return RowwiseDistribution(
        blocks,
        n_rows=law.n_rows,
        n_outputs=law.n_outputs,
        n_atoms=law.n_atoms,
        single_target=law.single_target,
    )


def defined_rows(known: Array) -> Array:
    """Return which rows have a held-out residual in all outputs (n,): those that the fit does not interpolate."""
    defined = known.all(axis=1)
    lost = int((~defined).sum())
    if lost == len(defined):
        raise ValueError(
            "a predictive distribution needs rows that the model does not interpolate; it interpolates all "
            f"{lost} rows. Give it a ridge > 0, or more rows than features."
        )
    if lost:
        warn_caller(
            f"the model interpolates {lost} of {len(defined)} rows: these have no held-out residuals and are left "
            "out. A ridge > 0 keeps them.",
            LeverageWarning,
        )
    return defined


def _check_probabilities(p: Any) -> tuple[list[Any], bool]:
    """Return probabilities in [0, 1] as a list, and whether one number (not a list) was given."""
    single = np.ndim(p) == 0
    values = [p] if single else list(p)
    for value in values:
        if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)) or not 0 <= float(value) <= 1:
            raise ValueError(f"p must be a probability from 0 to 1, or a list of such; got {value!r}.")
    if not values:
        raise ValueError("p must be a probability from 0 to 1, or a list of such; got an empty list.")
    return values, single


def _check_target_for(y: Any, n_rows: int, n_outputs: int) -> Array:
    """Return values of y as float64 (m, q), one per row and output or one for all; infinities pass."""
    values = np.asarray(y, dtype=np.float64)
    check_no_nan(np.atleast_1d(values), "y")
    if values.ndim == 1 and n_outputs == 1:
        values = values[:, None]
    if values.ndim and values.shape != (n_rows, n_outputs):
        raise ValueError(
            f"y must be one number, or hold one value per row and output of the distribution, shape ({n_rows}, "
            f"{n_outputs}); got shape {np.shape(y)}."
        )
    return np.broadcast_to(values, (n_rows, n_outputs))
