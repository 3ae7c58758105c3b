"""Studies: which setting is best."""
