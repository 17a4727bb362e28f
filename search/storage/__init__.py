"""Storage: the places of trials' files, so that a trial goes on wherever its next segment runs."""
