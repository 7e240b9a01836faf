"""Trained networks that come with the project, as ``pretrained:NAME``.

Each is a file ``pretrained/NAME.keras`` with a card ``pretrained/NAME.json``: how it was trained,
what it takes and how well it does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from registry import UserError, nearest

PREFIX = "pretrained:"
FOLDER = Path(__file__).resolve().parents[1] / "pretrained"


def is_included(text: str) -> bool:
    """Whether `text` is of the form ``pretrained:NAME``."""
    return text.lower().startswith(PREFIX)


def included_names(folder: Path = FOLDER) -> list[str]:
    """The names of the networks that come with the project."""
    return sorted(card.stem for card in folder.glob("*.json"))


def included_file(text: str, folder: Path = FOLDER) -> tuple[Path, dict[str, Any]]:
    """The file of a network that comes with the project, and its card.

    Args:
        text: ``pretrained:NAME``.
        folder: where the files are.

    Raises:
        UserError: there is no such network, or its file is not the one that the card describes.
    """
    name = text[len(PREFIX) :]
    known = included_names(folder)
    if name not in known:
        raise UserError(
            f"no network {text!r} comes with the project{nearest(name, known)}; there are: "
            f"{', '.join(known) or 'none'}"
        )
    card = json.loads((folder / f"{name}.json").read_text())
    file = folder / f"{name}.keras"
    if not file.exists():
        raise UserError(f"{file} is missing: restore it from the project's repository")
    if hashlib.sha256(file.read_bytes()).hexdigest() != card["sha256"]:
        raise UserError(
            f"{file} is not the file that its card describes (another SHA-256): restore it from "
            "the project's repository"
        )
    return file, card
