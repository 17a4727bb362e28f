"""Paths that tests of several packages use."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""

SPACES = ROOT / "spaces"
"""The ready spaces."""

TINY = ROOT / "tests" / "spaces" / "tiny.py"
SLOW = ROOT / "tests" / "spaces" / "slow.py"
STATEFUL = ROOT / "tests" / "spaces" / "stateful.py"
FACTORIES = ROOT / "tests" / "spaces" / "factories.py"
ADVERSARIAL = ROOT / "tests" / "spaces" / "adversarial.py"
KERAS_IO = ROOT / "tests" / "keras_io"
"""Keras's own examples as spaces."""
