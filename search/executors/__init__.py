"""Executors: the places where segments run."""
