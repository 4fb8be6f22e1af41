"""Factorisations from which every leverage is read."""

# Imported for what it registers: the backend of tensors.
from hatband.arrays import torch_backend  # noqa: F401
from hatband.linalg.auto import Auto
from hatband.linalg.base import Factor, Solver
from hatband.linalg.cholesky import Cholesky
from hatband.linalg.dual import Dual
from hatband.linalg.kernel import KernelFactor, KernelSpectrum, factor_kernel
from hatband.linalg.qr import QR, CholeskyQR2
from hatband.linalg.spectral import Spectral
from hatband.linalg.statistics import GramStatistics
from hatband.linalg.triangular_statistics import TriangularStatistics

__all__ = [
    "QR",
    "Auto",
    "Cholesky",
    "CholeskyQR2",
    "Dual",
    "Factor",
    "GramStatistics",
    "KernelFactor",
    "KernelSpectrum",
    "Solver",
    "Spectral",
    "TriangularStatistics",
    "factor_kernel",
]
