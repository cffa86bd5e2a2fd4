"""How the documentation is built: ``make docs``, or ``sphinx-build -W docs docs/_build``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("MPLBACKEND", "Agg")

from figures import FigureScraper  # noqa: E402 - found by the path above
from tables import write_tables  # noqa: E402

import foreblocks.darts  # noqa: E402

write_tables(HERE / "_generated")
logging.getLogger("foreblocks.darts").setLevel(logging.ERROR)  # the examples would fill the output of the build

project = "foreblocks-darts"
author = "the foreblocks-darts contributors"
version = release = foreblocks.darts.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_generated", "_templates", "gallery/**/*.ipynb", "gallery/**/*.py", "**/*.zip"]

html_theme = "furo"
html_title = f"foreblocks-darts {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # else the fields of a dataclass are described twice

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": (FigureScraper(),),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
}
