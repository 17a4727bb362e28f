"""The driver: start, loop and resume of a search."""
