"""Intervals from every row: jackknife+, CV+, and Newton steps of convex models."""
