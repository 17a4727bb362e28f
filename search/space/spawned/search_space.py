"""The space file, imported by a process that the user's code has started anew, such as one of a `spawn` pool.

Such a process gets the functions of the space file by the name of their module. In a worker, that module was made from
the file; here, Python looks for it on the module path, which the process has from the worker.
"""

import os
from pathlib import Path

__file__ = os.environ["SEARCH_SPACE_FILE"]
exec(compile(Path(__file__).read_bytes(), __file__, "exec"))
