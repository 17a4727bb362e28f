"""Other tools that are told of a search: MLflow and TensorBoard."""
