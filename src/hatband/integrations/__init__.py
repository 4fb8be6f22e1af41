"""Bridges to other packages of conformal prediction: one module for each, imported by who has the package.

`hatband.integrations.mapie` holds `LeverageConformityScore` for MAPIE, `hatband.integrations.crepes` holds
`LeverageDifficulty` for crepes.
"""

__all__: list[str] = []
