"""Geometries of scikit-learn's kernel models: kernel and ridge as the fitted model has them."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR, NuSVR

from hatband.geometry.base import Exactness, Geometry
from hatband.geometry.composite import PerOutputGeometry
from hatband.geometry.kernel import KernelGeometry, MatrixKernel, PairwiseKernel, ProcessKernel
from hatband.geometry.nystroem import DualOrNystroem
from hatband.geometry.registry import geometry_for


@geometry_for(KernelRidge)
def kernel_ridge(model: KernelRidge) -> Geometry:
    """The ridge is alpha, one for each output where it is an array; no intercept."""
    _refuse_precomputed(model)
    named = {"gamma": model.gamma, "degree": model.degree, "coef0": model.coef0}
    kernel = PairwiseKernel(model.kernel, dict(model.kernel_params or {}) if callable(model.kernel) else named)
    ridges = np.ravel(model.alpha).astype(float)
    if (ridges == ridges[0]).all():
        return KernelGeometry(kernel, float(ridges[0]), exactness="exact")
    return PerOutputGeometry(tuple(KernelGeometry(kernel, float(r), exactness="exact") for r in ridges))


@geometry_for(GaussianProcessRegressor)
def gaussian_process(model: GaussianProcessRegressor) -> Geometry:
    """The ridge is alpha plus the white noise in the kernel, of each row where they differ; no intercept.

    With normalize_y the model subtracts the plain mean of y: leave-one-out is exact given that mean.
    """
    kernel = ProcessKernel(clone(model.kernel_))
    noise = np.broadcast_to(model.alpha, len(model.X_train_)) + kernel.noise(model.X_train_)
    tuned = model.optimizer is not None and model.kernel_.n_dims > 0
    exactness: Exactness = "given" if tuned or model.normalize_y else "exact"
    # White noise is a difference of diagonals: what varies by rounding only is one noise.
    rounding = 64 * np.finfo(float).eps * float(np.max(kernel.kernel.diag(model.X_train_)))
    if np.ptp(noise) <= rounding:
        return KernelGeometry(kernel, float(np.median(noise)), exactness=exactness)
    ridge = float(noise.mean())
    return KernelGeometry(kernel, ridge, exactness=exactness, row_weights=ridge / _positive(noise))


@geometry_for(SVR, NuSVR)
def support_vectors(model: SVR) -> Geometry:
    """A heuristic: the kernel leverage with ridge 1/C, as if the tube had no width; unpenalised intercept."""
    _refuse_precomputed(model)
    # libsvm resolves gamma="scale" and keeps the number under this name only.
    named = {"gamma": model._gamma, "degree": model.degree, "coef0": model.coef0}
    kernel = MatrixKernel(model.kernel) if callable(model.kernel) else PairwiseKernel(model.kernel, named)
    return DualOrNystroem(kernel, 1.0 / model.C)


def _refuse_precomputed(model: Any) -> None:
    if isinstance(model.kernel, str) and model.kernel == "precomputed":
        raise ValueError(
            f"the leverage of a new row needs k(x, x), which {type(model).__name__}(kernel='precomputed') does not "
            "have; got kernel='precomputed'. Pass the kernel by name or as a callable, or pass geometry= a transformer."
        )


def _positive(noise: Any) -> Any:
    if not noise.all():
        row = int(np.flatnonzero(noise == 0)[0])
        raise ValueError(f"noise that differs between rows must be > 0 in every row; row {row} has alpha 0.")
    return noise
