"""What a user may search, and how a space file is read."""
