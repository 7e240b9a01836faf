"""The state of a run in one file an epoch, the last two of which are kept."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiment.run import arrays
from experiment.run.folder import RunFolder

Groups = dict[str, dict[str, np.ndarray]]
_NAME = re.compile(r"(\d{6,})-(\d{6,})\.npz")


class Checkpoints:
    """Files ``checkpoints/EPOCH-STEP.npz``: the state after EPOCH whole epochs and STEP steps.

    Args:
        folder: the run's folder.
        keep: how many to keep.
    """

    def __init__(self, folder: RunFolder, keep: int = 2):
        self._folder = folder
        self._keep = keep
        self._reported: set[str] = set()

    def _found(self) -> list[tuple[tuple[int, int], Path]]:
        """Position and path of all checkpoints, the last one first."""
        matches = [
            (_NAME.fullmatch(path.name), path)
            for path in (self._folder.path / "checkpoints").glob("*.npz")
        ]
        return sorted(
            (((int(match[1]), int(match[2])), path) for match, path in matches if match),
            reverse=True,
        )

    def _path(self, position: Sequence[int]) -> Path:
        return self._folder.path / "checkpoints" / "{:06d}-{:06d}.npz".format(*position)

    def save(self, progress: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> Path:
        """Write the state at ``progress["epoch"], progress["step"]``; remove all but the last
        `keep`, and any later ones: they are damaged or belong to an abandoned run.

        Of several workers the chief is to call it.

        Args:
            progress: what JSON can hold; must have the whole numbers ``epoch`` and ``step``.
            groups: ``{group: {name: array}}``, any dtype.
        """
        position = (int(progress["epoch"]), int(progress["step"]))
        self._folder.output("checkpoints/*.npz")
        path = self._path(position)
        arrays.save(path, dict(progress), groups)
        kept = 0
        for found, old in self._found():
            kept += found <= position
            if found > position or kept > self._keep:
                old.unlink()
        return path

    def latest(self) -> tuple[dict[str, Any], Groups] | None:
        """``(progress, groups)`` of the last checkpoint that is whole, or None. All workers of a
        run get the chief's.

        Damaged ones are reported on stderr by name, once, and passed over.
        """
        team = self._folder.team
        if team.size == 1:
            return self._last_whole()
        found = self._last_whole() if team.is_chief else None
        position = team.ask_chief(lambda: found and [found[0]["epoch"], found[0]["step"]])
        if position is None:
            return None
        path = self._path(position)
        team.share_file(path)
        return found or arrays.load(path)

    def _last_whole(self) -> tuple[dict[str, Any], Groups] | None:
        for _, path in self._found():
            try:
                return arrays.load(path)
            except arrays.DamagedFile as damage:
                if path.name not in self._reported:
                    self._reported.add(path.name)
                    print(f"warning: {self._folder.path}/checkpoints: {damage}; "
                          "going on from the one before", file=sys.stderr, flush=True)
        return None
