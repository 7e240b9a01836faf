"""The folder of a grid, which several processes report into at the same time."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.run.failures import TRACEBACK
from experiment.run.folder import PARTIAL, RunFolder
from registry import UserError

_PREFIX = f"{PARTIAL}report-"
_ABANDONED_SECONDS = 86400.0  # writing a report takes one
_JOIN_SECONDS = 10.0


def join(
    folder: RunFolder, settings: Mapping[str, Any], reports: Sequence[str], overwrite: bool = False
) -> None:
    """Make the folder of a grid, where it is not there yet.

    Args:
        folder: of the grid.
        settings: what it says of itself.
        reports: names of the files that processes report in.
        overwrite: remove what was there (see `RunFolder.open`).

    Raises:
        UserError: it cannot be made, or is something else.
    """
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            with folder:
                folder.open(settings, overwrite)
                for name in reports:
                    folder.output(name)
            break
        except UserError:  # Another process may be doing the same just now.
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
    (folder.path / TRACEBACK).unlink(missing_ok=True)  # of a try before
    _remove_abandoned(folder.path)


def _remove_abandoned(folder: Path) -> None:
    """Remove the reports that killed processes were writing."""
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # It was being written, and now is.
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path)


@contextlib.contextmanager
def reporting(folder: str | os.PathLike) -> Iterator[Path]:
    """Write reports that readers see entirely or not at all, while other processes write theirs.

    Yields:
        A folder of this process to write files to. When the block ends well, each of them replaces
        that of the same name in `folder`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=_PREFIX) as own:
        yield Path(own)
        for path in sorted(Path(own).glob("[!.]*")):
            os.replace(path, Path(folder, path.name))
