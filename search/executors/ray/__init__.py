"""The `ray` executor: slots on all nodes of a Ray cluster."""
