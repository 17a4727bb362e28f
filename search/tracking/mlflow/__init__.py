"""MLflow as a projection of the journal: everything that it shows follows from the records, and can be sent again.

store       addresses, connections and their errors
database    the local store's database
admission   the first contact with MLflow, before anything is written
layout      the changes of MLflow's runs that follow from a record (pure)
files       the content of the artifacts, and whose weights are there (pure)
notes       the description of a study (pure)
colours     the colours of trials' runs (pure)
branches    the branches of a conditional space (pure)
view        the page that the UI opens for a study (pure)
position    the syncer's position in the journal: `tracking.json`
feed        the journal's entries, from the driver or from the file
shipper     sends the experiment, runs, changes, artifacts and the page
winner      sends the best model, as a logged and a registered model
model       the folder of that model
loader      the code in that folder which loads the model; it imports nothing of `search`
syncer      the thread that follows the journal
retrieve    studies, trials and weights back from MLflow alone
ui          the command `search ui`

`mlflow` is imported inside functions: the import takes more than a second, and reading a journal does not need it.
"""
