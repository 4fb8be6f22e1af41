"""Leverage of networks: features of a layer or of all parameters, factored."""
