"""The search space: domains of hyperparameters, and the space files that users write."""
