"""`python -m search.compat script.py`: run a script for KerasTuner as it is, with our tuners in place of its own."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from search.compat.swap import install
from search.executors.early_fork import fork_early

_USAGE = "usage: python -m search.compat SCRIPT.py [arguments of the script]"


def main(arguments: list[str]) -> None:
    """Run the script that `arguments` name first, as Python would run it with the others."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(0 if arguments else 2)
    script = Path(arguments[0])
    if not script.is_file():
        print(f"no such script: {script}. {_USAGE}", file=sys.stderr)
        raise SystemExit(2)
    install()
    fork_early()
    sys.argv = arguments
    sys.path[0] = str(script.parent.absolute())
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
