"""Rows of a fitted model: their leverages, residuals and held-out versions."""
