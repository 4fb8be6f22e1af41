"""Intervals of streams."""
