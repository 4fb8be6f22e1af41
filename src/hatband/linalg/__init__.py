"""Factorisations from which every leverage is read."""

from hatband.linalg.auto import Auto
from hatband.linalg.base import Factor, Solver
from hatband.linalg.cholesky import Cholesky

__all__ = ["Auto", "Cholesky", "Factor", "Solver"]
