"""Arrays: NumPy and torch behind one set of verbs, BLAS calls, blocks of rows."""
