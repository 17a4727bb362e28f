"""KerasTuner's projects on disk: their JSON files, and the study that they become."""
