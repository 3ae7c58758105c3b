"""Exported networks, computed by the runtimes they were exported for."""
