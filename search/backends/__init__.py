"""Back ends, which choose the trials of a search and the epochs to train them for."""
