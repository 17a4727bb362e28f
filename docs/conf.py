"""Settings of the documents' site: `make docs` builds it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from docutils.nodes import SkipNode

import search
from search.worker.process import quietly

with quietly(Path(os.devnull)):  # TensorFlow logs that there is no GPU
    importlib.import_module("keras")  # for autodoc
sys.path.insert(0, str(Path(__file__).parent))

project = "search"
author = "The authors of search"
copyright = "the authors of search"  # the name that Sphinx asks for
release = version = search.__version__
html_title = f"search {version}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# A name in single backticks is code.
default_role = "code"

# A prompt and the output are not copied with a command.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
pygments_style = "default"
pygments_dark_style = "monokai"


def list_attributes(app: Any, what: str, name: str, subject: object, options: Any, lines: list[str]) -> None:
    """Make a list of a docstring's section of attributes. Napoleon would link each name to any attribute called so."""
    if "Attributes:" not in lines:
        return
    start = lines.index("Attributes:")
    end = next((i for i in range(start + 1, len(lines)) if re.match(r"\S", lines[i])), len(lines))
    listed = [re.sub(r"^ {4}(\w+(?:, \w+)*): ", r"- **\1**: ", line) for line in lines[start + 1 : end]]
    lines[start:end] = ["**Attributes**", "", *(re.sub(r"^ {8}", "  ", line) for line in listed)]


def show_equation(translator: Any, node: Any) -> None:
    """Write an equation as MathML, which browsers draw themselves. Sphinx's own way loads MathJax from the network."""
    display = "inline" if node.tagname == "math" else "block"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (show_equation, None), (show_equation, None))
    # Before napoleon, whose priority is the default.
    app.connect("autodoc-process-docstring", list_attributes, priority=400)
