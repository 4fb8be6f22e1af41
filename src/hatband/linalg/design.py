"""Training rows on their way into a factorisation: one pass gives the mean, the Gram matrix and the constant columns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hatband._backend import EPS, AnyBackend, backend_of, is_sparse
from hatband._typing import Array, Float
from hatband._validation import check_finite, check_ridge, check_weights
from hatband.linalg.base import Frame

# Up to this ratio of |mean - shift| to the standard deviation, subtracting the mean's rank-one term from the Gram
# matrix costs two digits at most.
FAR = 10.0
# How many rows the provisional mean is taken from.
_SAMPLE = 256


@dataclass(frozen=True, eq=False)
class Design:
    """Checked training features, weights and ridge, with the frame that they are seen in.

    Parameters
    ----------
    features : array, CSR matrix or tensor with n rows and d columns
        As the user passed them.
    root_weights : array of shape (n,), or None
        Square roots of the sample weights; None when all are 1.
    ridge : float or array of shape (d,)
        As the user passed it.
    penalty : array of shape (k,)
        Ridge of each column of the frame.
    frame : Frame
        How raw rows enter the factor.
    """

    features: Any
    root_weights: Array | None
    ridge: Any
    penalty: Array
    frame: Frame

    @property
    def backend(self) -> AnyBackend:
        """Array library of the factor."""
        return self.frame.backend

    def blocks(self) -> Iterator[Array]:
        """Yield W^1/2 Phi, centred, in one reused buffer."""
        for part, block, _ in self.frame.blocks(self.features):
            if self.root_weights is not None:
                block *= self.root_weights[part, None]
            yield block


def design_of(features: Any, ridge: Any, weights: Any, fit_intercept: bool) -> Design:
    """Check what the user passed; the frame is provisional: its shift is the mean of a few rows."""
    n_samples, n_features = map(int, features.shape)
    if n_samples < 1 or n_features < 1:
        raise ValueError(f"features must have at least one row and one column; got shape {features.shape}.")
    backend = backend_of(features)
    penalty = check_ridge(ridge)
    if np.shape(penalty) not in {(), (n_features,)}:
        raise ValueError(f"ridge must be a number or have shape ({n_features},); got shape {np.shape(penalty)}.")
    checked = None if weights is None else check_weights(_on_cpu(weights), n_samples)
    frame = Frame(
        backend=backend,
        n_samples=n_samples,
        n_features=n_features,
        weight=float(n_samples if checked is None else checked.sum()),
        fit_intercept=fit_intercept,
        shift=_provisional_mean(backend, features, checked) if fit_intercept else None,
    )
    return Design(
        features=features,
        root_weights=None if checked is None else backend.asarray(np.sqrt(checked)),
        ridge=penalty,
        penalty=backend.asarray(np.broadcast_to(penalty, n_features).copy()),
        frame=frame,
    )


def _on_cpu(weights: Any) -> Any:
    return backend_of(weights).numpy(weights) if hasattr(weights, "device") else weights


def _provisional_mean(backend: AnyBackend, features: Any, weights: np.ndarray | None) -> Array:
    """Mean of a few rows; a column that is constant in them keeps its value exactly."""
    index = np.arange(features.shape[0]) if weights is None else np.flatnonzero(weights)
    index = index[:: max(1, len(index) // _SAMPLE)]
    sample = np.vstack([backend.numpy(backend.read(features, slice(i, i + 1))) for i in index]).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.where((sample == sample[0]).all(axis=0), sample[0], sample.mean(axis=0))
    return backend.asarray(mean)


def centred_gram(design: Design) -> tuple[Design, Float[Array, "k k"]]:
    """Return the design in its final frame, and its Gram matrix Phi'W Phi, from one pass over the rows (rarely two)."""
    gram, offset = _shifted_gram(design)
    if not design.frame.fit_intercept:
        return _without_constants(design, gram, tolerance=0.0)
    weight = design.frame.weight
    if bool((offset**2 > FAR**2 * (gram.diagonal() / weight - offset**2)).any()):
        design = replace(design, frame=replace(design.frame, shift=design.frame.shift + offset))
        gram, offset = _shifted_gram(design)
    gram -= weight * offset[:, None] * offset
    design = replace(design, frame=_final_mean(design.frame, offset, gram.diagonal() / weight))
    return _without_constants(design, gram, tolerance=4 * EPS)


def _shifted_gram(design: Design) -> tuple[Array, Array]:
    """Gram matrix and mean of the rows as the provisional frame shows them."""
    backend, width = design.backend, design.frame.width
    gram, sums = backend.zeros(width, width), backend.zeros(width)
    roots, start = design.root_weights, 0
    with np.errstate(invalid="ignore", over="ignore"):
        for block in design.blocks():
            root = backend.ones(len(block)) if roots is None else roots[start : start + len(block)]
            start += len(block)
            backend.syrk_add(gram, block)
            sums += root @ block
    if not backend.isfinite(gram.diagonal()):
        check_finite(design.features, "features")
        raise ValueError("the squares of the features overflow float64; rescale the columns first.")
    return backend.mirror(gram), sums / design.frame.weight


def _final_mean(frame: Frame, offset: Array, variance: Array) -> Frame:
    """Fold the offset into the shift, unless rounding of a large mean would be felt against the spread."""
    mean = frame.shift + offset
    far = (offset != 0) & (mean**2 > FAR**2 * variance)
    return replace(frame, offset=offset) if bool(far.any()) else replace(frame, shift=mean)


def _without_constants(design: Design, gram: Array, tolerance: float) -> tuple[Design, Array]:
    """Drop columns without spread and without ridge: no coefficient of theirs is determined."""
    frame, backend = design.frame, design.backend
    spread = backend.numpy(gram.diagonal()) / frame.weight
    mean = backend.numpy(frame.mean)
    constant = (backend.numpy(design.penalty) == 0) & (spread <= (tolerance * mean) ** 2)
    if not constant.any():
        return design, gram
    kept = as_slice(np.flatnonzero(~constant))
    frame = replace(
        frame,
        shift=None if frame.shift is None else frame.shift[kept],
        offset=None if frame.offset is None else frame.offset[kept],
        kept=kept,
        constant=np.flatnonzero(constant),
        level=backend.asarray(mean[constant]),
    )
    return replace(design, frame=frame, penalty=design.penalty[kept]), gram[kept][:, kept] + 0.0


def as_slice(index: np.ndarray) -> Any:
    """Return consecutive indices as a slice, which selects without a copy."""
    if len(index) and index[-1] - index[0] == len(index) - 1:
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
