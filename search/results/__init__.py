"""Results of a search: best trials, trained models, exports."""
