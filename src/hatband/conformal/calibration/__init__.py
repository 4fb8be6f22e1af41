"""Scores, and for whom they are ranked: groups, shift, outputs taken together."""
