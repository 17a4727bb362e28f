"""The GPUs and cores of this machine, and their division into slots."""
