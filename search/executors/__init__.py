"""The executors, which run segments in worker processes, in this process, or in a simulation."""
