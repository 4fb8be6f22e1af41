"""Arrays: NumPy and torch behind one set of functions, BLAS calls, blocks of rows."""
