"""How a search starts, runs and resumes."""
