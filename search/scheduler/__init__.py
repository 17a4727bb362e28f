"""The decisions of a search, all pure: no clock, no files, no processes."""
