"""Where segments run."""
