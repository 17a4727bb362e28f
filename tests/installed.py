"""Packages that are installed for a test: modules and their metadata in a folder on the module path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, modules: Mapping[str, str], points: Mapping[str, Mapping[str, str]]) -> Path:
    """Install a package as pip does, without pip. Return `folder`.

    Args:
        folder: the place of installed packages, to be on the module path.
        name: of the package.
        modules: the code of each file, by its name.
        points: entry points by group and name.
    """
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    for file, code in modules.items():
        (folder / file).write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in modules))
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in of.items()) for group, of in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "top_level.txt").write_text("".join(f"{Path(file).stem}\n" for file in modules))
    return folder
