"""What happens next: pure decisions, no clock, no files, no processes."""
