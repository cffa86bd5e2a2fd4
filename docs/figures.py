"""Shows the figures of an example: those that its variables hold, since the package makes them without pyplot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


class FigureScraper:
    """Saves every figure that a code block has bound to a name."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __repr__(self) -> str:  # a stable name: sphinx stores it to know when the settings changed
        return "FigureScraper()"

    def __call__(self, block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
        """Return the text that shows the new figures."""
        paths = []
        for value in list(block_vars["example_globals"].values()):
            if isinstance(value, Figure) and id(value) not in self._seen:
                self._seen.add(id(value))
                paths.append(str(next(block_vars["image_path_iterator"])))
                Path(paths[-1]).parent.mkdir(parents=True, exist_ok=True)
                value.savefig(paths[-1], dpi=120)
        return figure_rst(paths, gallery_conf["src_dir"])
