"""Pure functions of factors and arrays: each formula of the package stands here, once."""
