"""Runners: the ways to train the epochs of a segment."""
