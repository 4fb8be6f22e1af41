"""Scores and how they are ranked: within groups, under covariate shift, or for all outputs together."""
