"""The version, alone in a file so that packaging and start-up read it without importing anything else."""

__version__ = "0.1.0"
