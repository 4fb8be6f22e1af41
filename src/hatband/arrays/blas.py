"""Products of BLAS that let other threads run; SciPy's own wrappers hold Python's lock."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import blas, cython_blas

from hatband.arrays.typing import Array

# side, uplo, transa, diag, m, n, alpha, a, lda, b, ldb; read off the name that the routine is exported under.
_DTRMM_STARTS = b"void (char *, char *, char *, char *, int *, int *, "
_ONE = ctypes.c_double(1.0)


def trmm(block: Array, triangle: Array, transpose: bool) -> Array:
    """Return block @ triangle (or its transpose) for an upper triangle, written over the block where possible."""
    if not block.size:
        return block
    routine = _dtrmm()
    if routine is None:
        return blas.dtrmm(1.0, triangle.T, block.T, lower=1, trans_a=int(transpose), overwrite_b=1).T
    block, triangle = np.ascontiguousarray(block), np.ascontiguousarray(triangle)
    rows, width = (ctypes.byref(ctypes.c_int(size)) for size in block.shape)
    # To Fortran the transposes of both arrays are given: triangle' block'.
    trans = b"T" if transpose else b"N"
    routine(
        b"L", b"L", trans, b"N", width, rows, ctypes.byref(_ONE), triangle.ctypes.data, width, block.ctypes.data, width
    )
    return block


@cache
def _dtrmm() -> Callable[..., None] | None:
    """Return the routine that SciPy exports to Cython, called without Python's lock; None where its types differ."""
    capsule = cython_blas.__pyx_capi__.get("dtrmm")
    name = _capsule_api("PyCapsule_GetName", ctypes.c_char_p, capsule)
    if name is None or not name.startswith(_DTRMM_STARTS):
        return None
    address = _capsule_api("PyCapsule_GetPointer", ctypes.c_void_p, capsule, name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 11)(address)


def _capsule_api(function: str, result: Any, capsule: Any, *name: bytes) -> Any:
    if capsule is None:
        return None
    prototype = ctypes.PYFUNCTYPE(result, ctypes.py_object, *[ctypes.c_char_p] * len(name))
    return prototype((function, ctypes.pythonapi))(capsule, *name)
