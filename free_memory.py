"""How much memory this process may still take.

A container or a job of a cluster is killed at its own limit, which is often far below what the host
has free; Linux states it in control groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

MOST = "MOST_MEMORY"
"""The environment variable with the bytes that are this process's at most: of several that begin at
once, each would find all of the memory free."""


class _Files(NamedTuple):
    """What a version of control groups calls its files.

    Attributes:
        top: the folder in which the groups are.
        limit, used: the files with the bytes that a group may have, and has.
        reclaimable: the names, in ``memory.stat``, of file contents that are dropped where memory
            is needed.
    """

    top: str
    limit: str
    used: str
    reclaimable: tuple[str, str]


_V1 = _Files(
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_V2 = _Files("", "memory.max", "memory.current", ("inactive_file", "active_file"))


def free_memory() -> int:
    """The bytes that this process may take without swapping and without being killed for it."""
    most = [int(os.environ[MOST])] if MOST in os.environ else []
    return min([psutil.virtual_memory().available, *_left_in_groups(), *most])


def _left_in_groups(
    proc: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """The bytes that are left to each control group of this process that has a limit."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        files = _V1 if controllers else _V2
        # A group may have as much as each group above it. In a container the path may be the
        # host's, of which only the top is to be seen.
        for group in (PurePosixPath(own), *PurePosixPath(own).parents):
            left = _left(groups / files.top / group.relative_to("/"), files)
            if left is not None:
                yield left


def _left(group: Path, files: _Files) -> int | None:
    """The bytes that are left to a group; None where it is not to be seen or has no limit."""
    try:
        limit, used = ((group / name).read_text().strip() for name in (files.limit, files.used))
        stated = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    files_kept = sum(int(stated.get(name, 0)) for name in files.reclaimable)
    return max(0, int(limit) - int(used) + files_kept)
