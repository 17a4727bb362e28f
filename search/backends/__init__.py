"""Back ends: the next configuration to try, and the epochs to train it."""
