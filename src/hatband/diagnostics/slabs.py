"""Worst-slab coverage: the slab of rows, in any direction, that is covered least."""

from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from hatband.arrays.typing import Array, Bool, Float
from hatband.checks import check_at_least, check_intervals, check_row_values
from hatband.diagnostics.coverage import binomial_interval
from hatband.formulas.metrics import covered
from hatband.formulas.order_statistics import Level

BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class SlabCoverage:
    """Coverage of held-out rows in the slab {x: start <= x . direction <= stop} with the lowest coverage of other rows.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics.slabs import SlabCoverage
    >>> SlabCoverage(0.85, 0.78, 0.9, 120, 0.8, np.array([1.0, 0.0]), 0.3, 2.0)
    worst-slab coverage 0.850 (0.780 to 0.900) of 120 held-out rows; 0.800 where it was searched for
    """

    coverage: float
    """Share of the held-out rows in the slab that were covered."""
    lower: float
    """Lower end of the exact binomial interval around it."""
    upper: float
    """Upper end."""
    n_samples: int
    """Number of held-out rows in the slab."""
    searched_coverage: float
    """Coverage of the slab among the rows it was searched on: too low, as a minimum over many slabs is."""
    direction: Array
    """(d,), for X as it was passed."""
    start: float
    stop: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __repr__(self) -> str:
        return (
            f"worst-slab coverage {self.coverage:.3f} ({self.lower:.3f} to {self.upper:.3f}) of {self.n_samples} "
            f"held-out rows; {self.searched_coverage:.3f} where it was searched for"
        )


def worst_slab_coverage(
    y_true: Any,
    interval: Any,
    X: Any,
    *,
    smallest_share: float = 0.1,
    n_directions: int = 1000,
    confidence: Level = 0.95,
    random_state: Any = None,
) -> SlabCoverage:
    """Return the lowest coverage over slabs {x: a <= v . x <= b} that hold a share of the rows, without selection bias.

    Half of the rows, drawn at random, find the worst slab among all of those along random directions v; the other half
    says what its coverage is.

    Parameters
    ----------
    y_true : array-like (m,)
        Observed targets of rows that were not used to train or calibrate.
    interval : array-like (m, 2)
        Their intervals, of one output at one level.
    X : array-like (m, d)
        Numeric features of these rows, in any coordinates in which slabs are of interest. Directions are uniform on
        the sphere after division of each column by its standard deviation.
    smallest_share : float in (0, 1]
        Least share of the searched rows in a slab.
    n_directions : int
        Number of directions.
    confidence : float
        Of the bars.
    random_state : int, RandomState or None
        Draws the halves and the directions.

    Returns
    -------
    SlabCoverage

    Raises
    ------
    ValueError
        If shapes differ, X is not numeric and finite, there are fewer than 4 rows, or no held-out row is in the slab.

    Notes
    -----
    Cauchois, Gupta and Duchi (2021), *Knowing what you know*. Along a direction every slab is looked at:
    the least mean of a stretch of at least s sorted rows, by Dinkelbach's (1967) iteration, O(m) each; rows with equal
    v . x are on the same side of a cut. Cost: m (d + log m) per direction.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics import worst_slab_coverage
    >>> x = np.linspace(-1, 1, 400)[:, None]
    >>> y, interval = np.where(x[:, 0] > 0.5, 2.0, 0.0), np.tile([-1.0, 1.0], (400, 1))
    >>> found = worst_slab_coverage(y, interval, x, random_state=0)
    >>> found.coverage, bool(0.4 < abs(found.start))
    (0.0, True)
    """
    bounds = check_intervals(interval)
    y = check_row_values(y_true, len(bounds), "y_true")
    X = _check_features(X, len(y))
    share = _check_share(smallest_share, "smallest_share")
    if len(y) < 4:
        raise ValueError(f"worst-slab coverage needs at least 4 rows, half of them held out; got {len(y)}.")
    random = check_random_state(random_state)
    order = random.permutation(len(y))
    search, held_out = order[: len(y) // 2], order[len(y) // 2 :]
    directions = _directions(X[search], check_at_least(n_directions, 1, "n_directions"), random)
    hits = covered(y, bounds[:, 0], bounds[:, 1])
    size = max(1, int(np.ceil(share * len(search) - 1e-9)))
    lowest, direction, start, stop = worst_slab(X[search], hits[search], directions, size)
    position = _project(X[held_out], direction)
    inside = hits[held_out][(start <= position) & (position <= stop)]
    if not len(inside):
        raise ValueError(
            f"no held-out row lies in the worst slab, which holds at least {share:g} of {len(search)} rows; pass more "
            "rows or a larger smallest_share."
        )
    low, high = binomial_interval(int(inside.sum()), len(inside), confidence)
    found = (float(inside.mean()), float(low), float(high), len(inside), lowest)
    return SlabCoverage(*found, direction, start, stop)


def _directions(X: Float[Array, "n d"], count: int, random: Any) -> Float[Array, "k d"]:
    """Directions uniform on the sphere of standardised columns, for X as it is; constant columns are left out."""
    spread = X.std(axis=0)
    normal = random.standard_normal((count, X.shape[1]))
    scaled = np.divide(normal, spread, out=np.zeros_like(normal), where=spread > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, length, out=scaled, where=length > 0)


def _project(X: Float[Array, "n d"], direction: Float[Array, " d"]) -> Float[Array, " n"]:
    """X @ direction, with the same number for equal rows; a matrix product does not guarantee that."""
    return (X * direction).sum(axis=1)


def worst_slab(
    X: Float[Array, "n d"],
    hits: Bool[Array, " n"],
    directions: Float[Array, "k d"],
    size: int,
    *,
    block: int = BLOCK,
) -> tuple[float, Array, float, float]:
    """Coverage, direction, start and stop of the worst slab of `size` rows or more along any of the directions.

    Directions are worked on in blocks of about `block` numbers; equally bad slabs: the first direction.
    """
    step = max(1, block // len(X))
    parts = (directions[begin : begin + step] for begin in range(0, len(directions), step))
    return min((_worst_of_block(X, hits, part, size) for part in parts), key=lambda slab: slab[0])


def _worst_of_block(X: Array, hits: Array, directions: Array, size: int) -> tuple[float, Array, float, float]:
    position = np.stack([_project(X, direction) for direction in directions])
    order = np.argsort(position, axis=1)
    position = np.take_along_axis(position, order, axis=1)
    coverage, start, stop = least_mean_windows(hits[order], position, size)
    k = int(np.argmin(coverage))
    return float(coverage[k]), directions[k], float(position[k, start[k]]), float(position[k, stop[k] - 1])


def least_mean_windows(
    hits: Bool[Array, "k n"], position: Float[Array, "k n"], size: int
) -> tuple[Float[Array, " k"], Array, Array]:
    """Least mean of hits[i:j] in each row over windows with j - i >= size that split no ties, and i, j.

    Dinkelbach (1967): with m the mean of some window, the window that minimises sum(hits) - m (j - i) has a lower mean
    unless m is the least. A few rounds do.
    """
    count, n = hits.shape
    total = np.concatenate([np.zeros((count, 1)), np.cumsum(hits, axis=1)], axis=1)
    cut = np.pad(position[:, 1:] > position[:, :-1], ((0, 0), (1, 1)), constant_values=True)
    start, stop, mean = np.zeros(count, dtype=int), np.full(count, n), total[:, -1] / n
    while True:
        new_start, new_stop = _steepest(total - mean[:, None] * np.arange(n + 1), cut, size)
        rows = np.arange(count)
        new_mean = (total[rows, new_stop] - total[rows, new_start]) / (new_stop - new_start)
        better = new_mean < mean
        if not better.any():
            return mean, start, stop
        start, stop = np.where(better, new_start, start), np.where(better, new_stop, stop)
        mean = np.where(better, new_mean, mean)


def _steepest(excess: Float[Array, "k n1"], cut: Bool[Array, "k n1"], size: int) -> tuple[Array, Array]:
    """The i and j >= i + size, both at a cut, at which excess[j] - excess[i] is least."""
    from_above = np.where(cut, excess, -np.inf)
    highest = np.maximum.accumulate(from_above, axis=1)[:, :-size]
    stop = np.argmin(np.where(cut, excess, np.inf)[:, size:] - highest, axis=1) + size
    reachable = np.arange(excess.shape[1]) <= (stop - size)[:, None]
    return np.argmax(np.where(reachable, from_above, -np.inf), axis=1), stop


def _check_features(X: Any, n_samples: int) -> Array:
    """Return numeric features as float64 (m, d), d >= 1, finite."""
    values = np.asarray(X)
    if values.ndim != 2 or len(values) != n_samples or not values.shape[1]:
        raise ValueError(f"X must hold numbers of the same {n_samples} rows, shape (m, d); got shape {values.shape}.")
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("X must be numeric; encode text columns first, as the model's Pipeline does.") from error
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"X must be finite; row {row} holds NaN or infinity. Impute or drop such rows first.")
    return values


def _check_share(share: Any, name: str) -> float:
    """Return a share of the rows in (0, 1]."""
    if not isinstance(share, Real) or isinstance(share, bool) or not 0 < float(share) <= 1:
        raise ValueError(f"{name} must be a share of the rows in (0, 1]; got {share!r}.")
    return float(share)
