"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vaecli import __version__

project = "vaecli"
author = "The vaecli developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"vaecli {__version__}"
html_show_copyright = False
html_theme_options = {
    "source_repository": "https://github.com/vaecli/vaecli",
    "source_branch": "main",
    "source_directory": "docs/",
}
smartquotes = False  # they make a dash of the two of an option
napoleon_use_ivar = True
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
# signatures name types of torch and numpy, which have inventories of their own on the network
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}


def one_text_file(app: Any, error: Exception | None) -> None:
    """Write vaecli.txt beside the pages: their sources in the order of the site."""
    if error is None and app.builder.format == "html":
        names = ["index", *app.env.toctree_includes["index"]]
        pages = [Path(app.env.doc2path(name)).read_text(encoding="utf-8") for name in names]
        (Path(app.outdir) / "vaecli.txt").write_text("\n\n".join(pages), encoding="utf-8")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("build-finished", one_text_file)
