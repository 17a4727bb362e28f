"""Trackers that show a search in other tools: MLflow and TensorBoard."""
