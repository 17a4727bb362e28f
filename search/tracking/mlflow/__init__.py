"""MLflow as a projection of the journal: everything it shows follows from the records, and can be sent again.

store       addresses, connections, and what goes wrong with them
database    the local store's database
layout      record -> what each run must be told (pure)
files       what the artifacts say, and whose weights are there (pure)
position    how far MLflow has been told: `tracking.json`
view        the page that the UI opens a study with (pure)
shipper     tells it: experiment, runs, batches, artifacts, the page
winner      the best model as a logged and a registered one
model       its folder; `loader` is the code in it that brings it back, and imports nothing of `search`
syncer      the thread that follows the journal
retrieve    studies, trials and weights back from MLflow alone

`mlflow` is imported inside functions: it costs more than a second, and reading a journal does not need it.
"""
