"""Settings of the documents' site: `make docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

import search

sys.path.insert(0, str(Path(__file__).parent))

project = "search"
author = "The authors of search"
release = version = search.__version__
html_title = f"search {version}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
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
napoleon_use_ivar = True
# A name in single backticks is code.
default_role = "code"

# A prompt and the output are not copied with a command.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
pygments_style = "default"
pygments_dark_style = "monokai"
