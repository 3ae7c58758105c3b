"""Studies: what a network costs, and which setting is best."""
