"""The folder of one run: its settings, its lock, what it wrote, whether it is finished.

Names in the folder that every run has:

- ``settings.json``: what the run was asked for, as given to `RunFolder.open`
- ``summary.json``: results; its presence says that the run is finished
- ``data.json``: facts of the data that the run began with
- ``networks.json``: likewise of the networks that it was given as files
- ``.written``: what the run wrote, one name or pattern a line; only that is ever removed. ``NAME/``
  is a run of its own, which has its own list
- ``.lock``: locked while a process works in the folder, where the file system has locks; without
  this file a folder is no run's
- ``error.txt``: the traceback where files, disk or memory failed

Files are written beside and renamed, so that one killed at any moment leaves either the old file or
the new one. What is left of an unfinished one is called ``.partial-NAME``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import socket
import textwrap
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from experiment.run.failures import TRACEBACK, describe, write_traceback
from experiment.run.json_values import fits
from experiment.run.processor import SET_BY_PROCESSOR
from experiment.run.workers import ALONE, Team
from registry import UserError
from regular_files import read_bytes

PARTIAL = ".partial-"
SETTINGS = "settings.json"
SUMMARY = "summary.json"
DATA, NETWORKS = "data", "networks"  # what a run begins with, and goes on with unchanged
MOST_JSON = 10**8  # bytes
NO_LONGER = ("data_dir",)
"""Settings that runs kept once, and that have no part in a run any more."""

_LONGEST_DIFFERENCE = 300
_LONGEST_SHOWN = 80  # characters of a value that is not as expected
_ROUNDING = 0.011  # of a mean of pixels, in 0..255
_WRITTEN = ".written"
_LOCK = ".lock"
_RUN = "/"  # ends the name of a folder that is a run of its own, in the list of what was written
_LOOK_SECONDS = 0.5  # more than for which `is_in_use` of another process has the lock
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
# What file systems without locks answer: some of Lustre, of NFS and in user space.
_NO_LOCKS = (errno.ENOLCK, *_UNSUPPORTED)
# What those answer that cannot force a folder to disk, some of them shared with a virtual machine.
_NO_SYNC = (errno.EINVAL, *_UNSUPPORTED)


def _sync(path: Path) -> None:
    """Force a file or a folder to disk; a folder only where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_SYNC):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _partial(path: Path) -> list[Path]:
    """What a killed process left of files that it was writing at `path`, whose name may be a
    pattern."""
    found = (path.parent.glob(start + path.name) for start in (PARTIAL, f"{PARTIAL}old-"))
    return [each for several in found for each in several]


def _is_empty(path: Path) -> bool:
    """Whether `path` is an empty folder, and no link to one."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, shared: bool = False) -> Iterator[Path]:
    """Write a file or a whole directory so that it is there entirely or not at all.

    Args:
        path: of the file or directory.
        shared: several processes may write it at once, each beside it under a name of its own.

    Yields:
        A path beside `path`, with the same suffix, to write to. When the block ends well, what was
        written is forced to disk and renamed to `path`; when it raises, it is removed. A file is
        replaced in one step; a directory that was there before is gone for a moment.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{socket.gethostname()}-{os.getpid()}-" if shared else ""
    partial = path.with_name(f"{PARTIAL}{own}{path.name}")
    _remove(partial)
    try:
        yield partial
        for written in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
            _sync(written)
        if partial.is_dir() and path.exists():
            replaced = path.with_name(f"{PARTIAL}old-{path.name}")
            _remove(replaced)
            os.replace(path, replaced)
            os.replace(partial, path)
            _remove(replaced)
        else:
            os.replace(partial, path)
        _sync(path.parent)
    except BaseException:
        _remove(partial)
        raise


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path`, entirely or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike, content: str) -> None:
    """Write `content` as UTF-8 to `path`, entirely or not at all."""
    write_bytes(path, content.encode())


def plain_values(value: Any) -> Any:
    """`value` as JSON has it: tuples as lists, NumPy numbers as Python's, paths as text, NaN and
    infinities as null (JSON has no others)."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain_values(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON (see `plain_values`), entirely or not at all."""
    write_text(path, json.dumps(plain_values(content), indent=2, allow_nan=False) + "\n")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, as ``name: old -> new``; entries of nested ones as ``a.b``. One
    that is not there is like one that is not set: settings are added to the scripts."""
    old, new = _flat(plain_values(old)), _flat(plain_values(new))
    return [
        f"{name}: {_shown(old, name)} -> {_shown(new, name)}"
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name)
    ]


def _shown(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "(not set)"
    return "(default)" if settings[name] is None else json.dumps(settings[name])


def _hint_of_processor(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What to do where a run was begun on a machine whose processor decided otherwise."""
    kept, now = old.get(SET_BY_PROCESSOR), new.get(SET_BY_PROCESSOR)
    if not isinstance(kept, bool) or kept == now:
        return ""
    flag = f"--{SET_BY_PROCESSOR}" if kept else f"--no{SET_BY_PROCESSOR}"
    return (
        f" (where {SET_BY_PROCESSOR} is not given, the processor decides: give {flag} to go on "
        "with that run on this machine)"
    )


def _read_json(path: Path) -> dict[str, Any]:
    fault = "not JSON of names and values"
    try:
        content = json.loads(read_bytes(path, MOST_JSON))
    except (ValueError, RecursionError):  # also what is nested without end
        content = None
    except OSError as error:
        content, fault = None, error.strerror or str(error)
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is damaged ({fault}); remove that folder or choose another one"
        )
    return content


def read_results(path: Path, needed: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in a file of a run, which the same command can write again.

    Args:
        path: the file.
        needed: the entries that it has to have, with the type of each (see `fits`).

    Raises:
        UserError: the file is damaged, lacks an entry, or has one of another type.
    """
    found = _read_json(path)
    for name, kind in needed.items():
        if name not in found:
            fault = f"it has no {name!r}"
        elif not fits(found[name], kind):
            shown = textwrap.shorten(repr(found[name]), _LONGEST_SHOWN, placeholder=" ...")
            fault = f"its {name!r} is {shown[:_LONGEST_SHOWN]}"
        else:
            continue
        raise UserError(f"{path} is damaged ({fault}); remove it and rerun the same command")
    return found


def alike(one: Any, other: Any) -> bool:
    """Whether two facts, as JSON has them, are equal, but for roundings: another machine may read
    a few pixels otherwise, which moves the mean of many."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _ROUNDING
    return one == other


def changed_facts(kept: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """The names of facts that both have, and that are not `alike`."""
    return [name for name in kept if name in facts and not alike(kept[name], facts[name])]


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; whether no other process has locked it.

    Where a file system has no locks there is nothing to hinder two processes, nor one.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


class RunFolder:
    """The folder `path` of one run. Nothing is read or written before `open`.

    A context manager: leaving it gives the lock back, as the end of the process does.

    Args:
        path: of the folder.
        team: the workers of the run. Only the chief reads and writes the folder; it shares what it
            finds with all; the others have a folder of their own for what they would write.

    Attributes:
        path: of this worker's folder.
        team: as given.
    """

    def __init__(self, path: str | os.PathLike, team: Team = ALONE):
        self.team = team
        self.path = Path(path) if team.is_chief else team.scratch()
        self._lock: int | None = None

    def inside(self, name: str) -> RunFolder:
        """The folder `name` in this one, which is open, of a run of its own by the same workers:
        what removes this run removes that one too."""
        self._note(f"{name}{_RUN}")
        return RunFolder(self.path / name, self.team)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        """Give the lock back. A failure of files, disk or memory becomes a UserError of one line
        that names the file with its traceback."""
        failure = describe(error) if self._lock is not None and error is not None else None
        try:
            if failure is not None:
                place = write_traceback(error, self.path)
                raise UserError(f"{failure}; details: {place}") from error
        finally:
            self.close()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def state(
        self,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        networks: Mapping[str, str] = types.MappingProxyType({}),
    ) -> str:
        """What `open` would return or raise, without writing anything (for a dry run).

        Args:
            settings, overwrite, networks: see `open`.

        Raises:
            UserError: as `open`; or `networks` are not those that the run began with.
        """
        found = self.team.ask_chief(lambda: self._state(settings, overwrite, networks))
        if found != "new":
            self.check_facts(NETWORKS, networks)
        return found

    def _state(
        self, settings: Mapping[str, Any], overwrite: bool, networks: Mapping[str, str]
    ) -> str:
        try:
            existing = _existing(self.path)
        except OSError as error:  # a name that is too long, say
            raise self._unwritable(error) from None
        if not existing.is_dir():
            raise UserError(f"{existing} is a file; expected a folder for the run")
        is_finished = self._is_run() and (self.path / SUMMARY).exists() and not overwrite
        if not is_finished and not os.access(existing, os.W_OK):  # there is something to write
            raise self._unwritable(PermissionError(13, "permission denied"))
        if not self._is_run():
            foreign = self._foreign()
            if foreign:
                raise UserError(
                    f"{self.path} is not empty and holds no run (it has {foreign[0]!r}); "
                    f"give a new or empty folder{self._hint_of_copy()}"
                )
            return "new"
        if overwrite:
            return "new"
        kept, same = _read_json(self.path / SETTINGS), self._same_networks(networks)
        kept = {name: value for name, value in kept.items() if name not in NO_LONGER}
        moved = {name for name in same if isinstance(kept.get(name), str)}
        different = differences(
            {name: value for name, value in kept.items() if name not in moved},
            {name: value for name, value in settings.items() if name not in moved},
        )
        if different:
            raise UserError(
                f"{self.path} holds a run with other settings: {'; '.join(different)}; give these "
                "settings again, or another folder, or --overwrite to remove that run"
                f"{_hint_of_processor(kept, settings)}"
            )
        return "finished" if (self.path / SUMMARY).exists() else "resumed"

    def _same_networks(self, networks: Mapping[str, str]) -> set[str]:
        """The settings whose networks are the same as when the run began, even if the files have
        moved."""
        kept = self.facts(NETWORKS)
        return {name for name, network in networks.items() if kept.get(name) == network}

    def settings(self) -> dict[str, Any]:
        """What the folder's run was asked for, with which `open` takes up the same run.

        Raises:
            UserError: the file that says so is missing or damaged.
        """
        if not self._is_run():
            raise UserError(
                f"{self.path} holds no run: expected the folder of one{self._hint_of_copy()}"
            )
        return _read_json(self.path / SETTINGS)

    def open(
        self,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        networks: Mapping[str, str] = types.MappingProxyType({}),
    ) -> str:
        """Take the folder for a run with `settings`, making it where there is none.

        Args:
            settings: what determines the run, as far as JSON can hold it (see `plain_values`).
                Leave out what may differ between two calls that are the same run.
            overwrite: remove what a former run wrote here and start anew, whatever its settings;
                files that no run wrote stay.
            networks: by settings that name files, what identifies the networks in them, which is
                kept (see `keep_facts`). Such a setting may differ where the network is the same: it
                was moved.

        Returns:
            ``"new"``, ``"resumed"`` (a run with these settings was begun) or ``"finished"``.

        Raises:
            UserError: the folder holds a run with other settings (each named) or of other networks,
                something that is no run, a run that another process is working on, or cannot be
                written.
        """
        return self.team.ask_chief(lambda: self._open(settings, overwrite, networks))

    def _open(
        self, settings: Mapping[str, Any], overwrite: bool, networks: Mapping[str, str]
    ) -> str:
        # Report a mistake before anything is written.
        self._state(settings, overwrite, networks)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            return self._open_locked(settings, overwrite, networks)
        except OSError as error:
            self.close()
            raise self._unwritable(error) from None
        except UserError:
            self.close()
            raise

    def keep_facts(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Compare facts with those that the run began with, which the first call with any keeps in
        ``KIND.json``.

        Args:
            kind: of what they are facts: ``DATA`` or ``NETWORKS``.
            facts: as far as JSON can hold them.

        Raises:
            UserError: see `check_facts`.
        """
        self.team.ask_chief(lambda: self._keep_facts(kind, facts))

    def _keep_facts(self, kind: str, facts: Mapping[str, Any]) -> None:
        self._check_facts(kind, facts)
        name = f"{kind}.json"
        if facts and not (self.path / name).exists():
            write_json(self.output(name), facts)

    def facts(self, kind: str) -> dict[str, Any]:
        """The facts that the run began with (see `keep_facts`); none where it kept none."""
        path = self.path / f"{kind}.json"
        return _read_json(path) if path.exists() else {}

    def check_facts(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Compare facts with those of the same name that the run began with.

        Args:
            kind: see `keep_facts`.
            facts: as far as JSON can hold them.

        Raises:
            UserError: they have changed; each difference is named.
        """
        self.team.ask_chief(lambda: self._check_facts(kind, facts))

    def _check_facts(self, kind: str, facts: Mapping[str, Any]) -> None:
        kept = self.facts(kind)
        facts = plain_values(facts)
        changed = changed_facts(kept, facts)
        different = differences(*({name: each[name] for name in changed} for each in (kept, facts)))
        if different:
            raise UserError(
                f"the {kind} have changed since the run in {self.path} began: "
                f"{textwrap.shorten('; '.join(different), _LONGEST_DIFFERENCE, placeholder=' ...')}"
                "; bring them back, or give --overwrite to start anew"
            )

    def _open_locked(
        self, settings: Mapping[str, Any], overwrite: bool, networks: Mapping[str, str]
    ) -> str:
        # Another process may just have given it back.
        state = self._state(settings, overwrite, networks)
        if state == "new":
            if (self.path / SETTINGS).exists():
                self._clear()
            write_json(self.path / SETTINGS, settings)
        else:
            self._remove_partial()
        if state != "finished":
            self._keep_facts(NETWORKS, networks)
        return state

    def _remove_partial(self) -> None:
        """Remove what a killed process left of files that it was writing."""
        for name in self._written():
            for path in _partial(self.path / name):
                _remove(path)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write into {self.path} ({error.strerror or error}); "
            "give a folder that can be written"
        )

    def _is_run(self) -> bool:
        # Other programs have files called settings.json too.
        return (self.path / SETTINGS).is_file() and (self.path / _LOCK).exists()

    def _hint_of_copy(self) -> str:
        """What to do where the folder seems to be a copy of a run's."""
        if not (self.path / SETTINGS).is_file() or (self.path / _LOCK).exists():
            return ""
        return f", or, if this is a copy of a run, copy its hidden files too ({_LOCK}, {_WRITTEN})"

    def _foreign(self) -> list[str]:
        """Names in a folder without settings that an interrupted `open` cannot have left."""
        own = (_LOCK, _WRITTEN, PARTIAL + SETTINGS)
        if not self.path.is_dir():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in own)

    def is_in_use(self) -> bool:
        """Whether another process works in the folder."""
        with self._existing_lock() as lock:
            return lock is not None and not _lock(lock)

    def check_unused(self) -> None:
        """Raise UserError where another process works in the folder."""
        with self._existing_lock() as lock:
            if lock is not None:
                self._lock_alone(lock)

    @contextlib.contextmanager
    def _existing_lock(self) -> Iterator[int | None]:
        """The open file of the lock; None: nobody can have locked it."""
        try:
            lock = os.open(self.path / _LOCK, os.O_RDWR)
        except OSError:
            yield None
            return
        try:
            yield lock
        finally:
            os.close(lock)

    def _take_lock(self) -> None:
        # Opening must not truncate: it would wipe the number of the process that has the lock.
        lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock_alone(lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()}\n".encode(), 0)
        except BaseException:  # Left open, it would be locked for this process's next try too.
            os.close(lock)
            raise
        self._lock = lock

    def _lock_alone(self, lock: int) -> None:
        """Lock an open file until it is closed. Raises UserError where another process has it."""
        deadline = time.monotonic() + _LOOK_SECONDS
        while not _lock(lock):
            if time.monotonic() > deadline:
                holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
                raise UserError(
                    f"{self.path} is in use by another process{f' ({holder})' if holder else ''}; "
                    "wait for it or give another folder"
                )
            time.sleep(_LOOK_SECONDS / 10)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _note(self, name: str) -> Path:
        """The path of `name`, after it was put on the list of what the run wrote."""
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(f"{name!r} is not a name inside the folder")
        names = self._written()
        if name not in names:
            write_text(self.path / _WRITTEN, "".join(f"{entry}\n" for entry in [*names, name]))
        return self.path.joinpath(*parts)

    def _written(self) -> list[str]:
        """The list of what the run wrote."""
        path = self.path / _WRITTEN
        try:
            text = read_bytes(path, MOST_JSON) if os.path.lexists(path) else b""
            names = text.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            names = [".."]
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
               for name in names):
            raise UserError(
                f"{path} is damaged: it lists what the run wrote; remove the folder or choose "
                "another one"
            )
        return names

    def output(self, name: str) -> Path:
        """The path of the file `name` in the folder, noted as written by the run.

        Args:
            name: relative, parts separated by ``/``; the last may be a pattern such as ``*.npz``,
                the path is then of little use, but all that matches it is the run's.
        """
        path = self._note(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def directory(self, name: str, *patterns: str) -> Path:
        """The path of the directory `name`, whose files that match `patterns` are the run's.

        It is not made: to be written with `replacing`.
        """
        for pattern in patterns:
            self._note(f"{name}/{pattern}")
        return self._note(name)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary` to ``summary.json``, by which the run is finished."""
        write_json(self.path / SUMMARY, summary)
        (self.path / TRACEBACK).unlink(missing_ok=True)  # of an attempt before

    def summary(self, needed: Mapping[str, Any] = types.MappingProxyType({})) -> dict[str, Any]:
        """What the finished run reported.

        Args:
            needed: the entries that it has to have, with the type of each (see `fits`).

        Raises:
            UserError: the file is damaged, lacks an entry, or has one of another type.
        """
        return self.team.ask_chief(lambda: read_results(self.path / SUMMARY, needed))

    def _clear(self) -> None:
        """Remove what runs wrote here, but for the settings, which are to be replaced: without them
        it is no run's folder, and what is left could not be told from foreign files."""
        names = self._written()
        (self.path / SUMMARY).unlink(missing_ok=True)
        (self.path / TRACEBACK).unlink(missing_ok=True)
        for name in names:
            if name.endswith(_RUN):
                RunFolder(self.path / name)._remove_run()
            else:
                self._remove_output(self.path / name)
        (self.path / _WRITTEN).unlink(missing_ok=True)

    def _remove_output(self, path: Path) -> None:
        """Remove what the run wrote at `path`, whose name may be a pattern, and the folders that
        are empty then. A link to a folder stays: someone put it there."""
        for file in list(path.parent.glob(path.name)):
            if not file.is_dir():
                file.unlink()
        for partial in _partial(path):
            _remove(partial)
        place = path.parent
        while place != self.path and _is_empty(place):
            place.rmdir()
            place = place.parent

    def _remove_run(self) -> None:
        """Remove a run that is a part of another one. Where its folder has foreign files they stay,
        and so do its settings: it then begins anew."""
        if not self._is_run():
            return
        self._clear()
        if {entry.name for entry in self.path.iterdir()} == {SETTINGS, _LOCK}:
            for name in (SETTINGS, _LOCK):
                (self.path / name).unlink()
            if _is_empty(self.path):
                self.path.rmdir()
