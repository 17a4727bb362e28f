"""Runners: the ways to train an epoch."""
