"""The two pictures of the first page: the live view of a search, and its report.

    python docs/pictures.py FOLDER

runs the README's search in FOLDER, which must be new, in a terminal of tmux. A frame from the middle of the search
becomes docs/_static/live.svg. The report's answer and, beside it, its first figures, as headless Chromium shows them,
become docs/_static/report.png. Both programs must be installed. The pictures differ from run to run, as times do: look
at them before you commit them.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "docs" / "_static"
OPTIONS = "--max-epochs 9 --seed 1"
WIDTH, HEIGHT = 104, 20
FRACTION = 0.7
"""The progress of the search in the frame that is kept, from 0 to 1."""
COLUMN = (760, 1250)
"""The width and height, in pixels, of the report's answer, and of the part with figures that stands beside it."""


def first_space() -> str:
    """Return the README's space file."""
    found = re.search(r"^```python\n(# space\.py\n.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.M)
    assert found is not None
    return found[1]


def frames(folder: Path) -> list[str]:
    """Return what a terminal shows, several times a second, while the search of `space.py` in `folder` runs."""
    name = f"pictures-{time.monotonic_ns()}"
    program = f"from search.cli import main; main({['run', 'space.py', *OPTIONS.split()]})"
    command = f'PYTHONPATH={ROOT} {sys.executable} -c "{program}"; sleep 1'
    size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
    subprocess.run(["tmux", "new-session", "-d", "-s", name, "-c", str(folder), *size, command], check=True)
    result: list[str] = []
    while True:
        shot = subprocess.run(["tmux", "capture-pane", "-p", "-e", "-t", name], capture_output=True, text=True)
        if shot.returncode:
            return result
        result.append(shot.stdout)
        time.sleep(0.2)


def middle(shots: list[str]) -> str:
    """Return the frame nearest to `FRACTION` of the search in which every slot is at work."""
    plain = re.compile(r"\x1b\[[0-9;]*m")
    best, distance = "", 1.0
    for shot in shots:
        text = plain.sub("", shot)
        done = re.search(r"(\d+)/(\d+) epochs", text)
        if done is None or "free" in text or "hyperparameters" not in text:
            continue
        away = abs(int(done[1]) / int(done[2]) - FRACTION)
        if away < distance:
            best, distance = shot, away
    return best


def draw_live(shot: str) -> str:
    """Return a frame of a terminal as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in shot.rstrip().split("\n"):
        console.print(Text.from_ansi(line), overflow="ignore", no_wrap=True, crop=True)
    svg = console.export_svg(title=f"search run space.py {OPTIONS}", theme=MONOKAI, unique_id="live")
    # A page loads nothing from elsewhere: the reader's own fixed-width font does.
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")
    return re.sub(r"[ \t]+$", "", svg, flags=re.M)


def draw_report(page: Path, picture: Path) -> None:
    """Write a picture of the first two lengths of `page`, side by side."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser is not None, "install Chromium"
    width, height = COLUMN
    long = picture.with_suffix(".long.png")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=20000"]
    size = f"--window-size={width},{2 * height}"
    subprocess.run([browser, *options, size, f"--screenshot={long}", page.as_uri()], check=True, capture_output=True)
    with Image.open(long) as shot:
        both = Image.new("RGB", (2 * width, height))
        both.paste(shot.crop((0, 0, width, height)), (0, 0))
        both.paste(shot.crop((0, height, width, 2 * height)), (width, 0))
    both.quantize(128).save(picture, optimize=True)
    long.unlink()


def main(name: str) -> None:
    """Make both pictures."""
    folder = Path(name).resolve()
    folder.mkdir(parents=True)
    (folder / "space.py").write_text(first_space())
    (STATIC / "live.svg").write_text(draw_live(middle(frames(folder))) + "\n")
    draw_report(folder / "runs" / "space" / "report.html", STATIC / "report.png")


if __name__ == "__main__":
    main(sys.argv[1])
