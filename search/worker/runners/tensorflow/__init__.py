"""Fused epochs on TensorFlow."""
