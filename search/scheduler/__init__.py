"""The pure decisions of a search: no clock, no files, no processes."""
