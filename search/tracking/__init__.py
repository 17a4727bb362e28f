"""Who else is told of a search."""
