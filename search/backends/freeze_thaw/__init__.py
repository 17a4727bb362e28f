"""The back end `freeze-thaw`: a model of learning curves decides which trial to continue, and which to begin."""
