"""Trained classifiers for other runtimes, each compared with the original."""
