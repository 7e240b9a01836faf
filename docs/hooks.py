"""What MkDocs calls while it builds: adds the pages that are made from the sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_startup(**_: Any) -> None:
    """Have the project's packages found; MkDocs undoes this where it is done on import."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and those of methods and packages to the navigation."""
    from docs import reference_pages

    for path, text in reference_pages.pages().items():
        files.append(File.generated(config, path, content=text))
    names = [method.name for method in reference_pages.methods()]
    _section(config, "Methods").append({"All methods": [f"methods/{name}.md" for name in names]})
    modules = reference_pages.PACKAGES | reference_pages.MODULES
    _section(config, "Reference").extend(f"reference/{name}.md" for name in modules)
    return files


def _section(config: MkDocsConfig, name: str) -> list[Any]:
    return next(section[name] for section in config.nav if name in section)
