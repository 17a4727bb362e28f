"""The training of a trial: the worker process, its segments, its checkpoints."""
