"""What is tried next, and how long it is trained."""
