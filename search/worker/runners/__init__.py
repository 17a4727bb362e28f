"""How an epoch runs."""
