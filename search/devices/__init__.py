"""The GPUs and cores of this machine, and how they are cut into slots."""
