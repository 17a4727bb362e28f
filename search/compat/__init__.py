"""Other tools' interfaces, for scripts written for them."""

from search.worker.process import set_environment

# The framework reads it while it is imported: with the settings of workers, these can be forked from the script.
set_environment()
