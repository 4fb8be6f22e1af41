"""Bridges to other packages of conformal prediction: one module for each package, imported only by users who have it.

`hatband.integrations.mapie` holds `LeverageConformityScore` for MAPIE, `hatband.integrations.crepes` holds
`LeverageDifficulty` for crepes.
"""

__all__: list[str] = []
