"""The search space: domains, parameters, and the space files that the user writes."""
