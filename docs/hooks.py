"""What MkDocs calls while it builds: adds the pages and pictures that are made from the sources."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_startup(**_: Any) -> None:
    """Have the project's packages found; MkDocs undoes this where it is done on import."""
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root), str(root / "benchmarks" / "evidence")]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, those of methods and packages also to the navigation, and the pictures."""
    from docs import reference_pages

    for path, text in reference_pages.pages().items():
        files.append(File.generated(config, path, content=text))
    for path, picture in _pictures().items():
        files.append(File.generated(config, path, content=picture))
    names = [method.name for method in reference_pages.methods()]
    _section(config, "Methods").append({"All methods": [f"methods/{name}.md" for name in names]})
    modules = reference_pages.PACKAGES | reference_pages.MODULES
    _section(config, "Reference").extend(f"reference/{name}.md" for name in modules)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link the site's copies of pages that are files of the repository's root."""
    return markdown.replace("](../../CONTRIBUTING.md", "](../contributing.md")


def _pictures() -> dict[str, bytes]:
    """The picture of each table of `benchmarks/evidence/results.csv`, as a PNG, by its path."""
    import results

    pictures = {}
    with tempfile.TemporaryDirectory() as folder:
        for table in dict.fromkeys(row["table"] for row in results.read()):
            results.draw(table, file := Path(folder, f"{table}.png"))
            pictures[f"results/{table}.png"] = file.read_bytes()
    return pictures


def _section(config: MkDocsConfig, name: str) -> list[Any]:
    return next(section[name] for section in config.nav if name in section)
