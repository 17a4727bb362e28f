"""How a trial is trained: the process, its segments, its checkpoints."""
