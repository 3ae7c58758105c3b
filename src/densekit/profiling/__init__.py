"""Profiling: what a network costs before it is trained."""
