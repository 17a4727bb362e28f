"""An alias of `search.compat.keras_tuner`, for scripts that import it by this name."""

import sys

from search.compat import keras_tuner

sys.modules[__name__] = keras_tuner
