"""Fused epochs on JAX."""
