"""What is known of a search, in memory and on disk."""
