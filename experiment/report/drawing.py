"""Colours and file output shared by all pictures."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from experiment.run.folder import replacing

COLOURS = (
    "#1f5fa8", "#d1551b", "#2c8a4b", "#8b4fa3", "#b8860b", "#5b5b5b", "#c23b67", "#0f8b8d",
    "#7a9a01", "#6b4226", "#9aa5b1", "#000000",
)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write `figure` to `path`, a ``.png``, atomically."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
