"""Who works on which run, where several processes, also of several machines, share a grid.

Beside the run folder ``seed0`` are its claims, files ``seed0.claim.1``, ``seed0.claim.2`` ...: the
process that made the one with the highest number holds the run. It renews the claim, that is, sets
the file's modification time, eight times until it would expire. A claim that is not renewed for as
long as it says has expired, and a process that finds it so makes the next one. A file that must not
exist yet is made by one process alone on every file system, so of several that try, one gets the
run. Nothing here relies on file locks or on the clocks of the machines: whether a claim was
renewed, a process judges by watching the file, and for how long, by its own clock.

A holder that finds a higher claim than its own, or that cannot renew its own for half the time in
which it expires, stops working on the run.

A claim is lines of JSON, to which its holder appends:

- first: the host and process of the holder, and after how many seconds the claim expires
- ``{"error": ...}``: the run failed. The claim is renewed further until the holder ends, so that
  others that work at the same time do not try the run again.
- ``{"released": true}``: the holder has ended, or works on this run no more

A finished run needs no claims, so its holder removes them.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiment.grid.runs import FAILED, FINISHED, LOG, Outcome, Run
from experiment.run.folder import PARTIAL, SETTINGS, RunFolder
from registry import UserError

EXPIRY_SECONDS = 120.0
_RENEWALS = 8  # until a claim expires
_LONGEST_POLL_SECONDS = 2.0
# ESTALE: another machine has removed the file since this one, over NFS, last asked for it.
_GONE = (errno.ENOENT, errno.ESTALE)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _now() -> float:
    """Seconds from some moment on, those included in which the machine was suspended, where its
    system counts them: the other machines' clocks go on meanwhile."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def this_machine() -> str:
    """What tells this machine, as long as it runs, from all others."""
    boot = _BOOT.read_text().strip() if _BOOT.exists() else f"{uuid.getnode():x}"
    return f"{socket.gethostname()} {boot}"


def claims_of(folder: Path) -> dict[int, Path]:
    """The claims of a run folder by their number."""
    pattern = re.compile(re.escape(folder.name) + r"\.claim\.([1-9]\d*)")
    if not folder.parent.is_dir():
        return {}
    matches = ((pattern.fullmatch(path.name), path) for path in folder.parent.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def remove_claims(folder: Path) -> None:
    """Remove all claims of a run folder, that of the holder last."""
    for _, path in sorted(claims_of(folder).items()):
        path.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove the claims of a finished run; what cannot be removed now, the next call removes."""
    with contextlib.suppress(OSError):
        remove_claims(folder)


@dataclass(frozen=True)
class Entry:
    """What a claim's file says.

    Attributes:
        path: of the file.
        facts: all lines of it together.
        renewed: when it was renewed, by the clock of whoever dates files, in ns.
    """

    path: Path
    facts: dict[str, Any]
    renewed: int

    @classmethod
    def read(cls, path: Path) -> Entry | None:
        """None: there is no such file any more. Raises OSError where it cannot be read."""
        try:
            # A file server is asked anew where a file is opened, and else may not be.
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")[:-1]
                renewed = os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        facts: dict[str, Any] = {}
        for line in lines:
            # Over a network a line may be there before all of its bytes are.
            with contextlib.suppress(ValueError):
                facts |= json.loads(line)
        return cls(path, facts, renewed)

    @property
    def holder(self) -> str:
        """For people."""
        return f"{self.facts.get('host', 'a host')}, process {self.facts.get('process', '?')}"

    @property
    def error(self) -> str:
        """Why the holder's attempt failed; "" where it did not."""
        return self.facts.get("error", "")

    @property
    def released(self) -> bool:
        """Whether the holder said that it works on the run no more."""
        return self.facts.get("released", False)

    def is_locked(self) -> bool:
        """Whether a process of this machine has locked the file."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        try:
            return not _lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock an open file until it is closed, if that is possible."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:  # It is locked, or its file system has no locks.
        return False
    return True


class Claim:
    """This process's claim on a run.

    Args:
        path: of the file, which must not be there.
        expiry_seconds: in which the claim expires unless it is renewed.
        machine: of `this_machine`.

    Raises:
        FileExistsError: another process was faster.
    """

    def __init__(self, path: Path, expiry_seconds: float, machine: str):
        self.path = path
        name, _, number = path.name.rpartition(".")
        self._next = path.with_name(f"{name}.{int(number) + 1}")
        self._expiry_seconds = expiry_seconds
        self._renewed = _now()
        self._lost = ""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o644)
        # The lock says to others on this machine, and at once, that the holder was killed.
        locked = _lock(self._descriptor, fcntl.LOCK_EX)
        self._note(
            host=socket.gethostname(), process=os.getpid(), machine=machine, locked=locked,
            expiry_seconds=expiry_seconds,
        )

    def _note(self, **facts: Any) -> None:
        """Append a line. Where that fails, on a full disk say, the claim expires in the end."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, f"{json.dumps(facts)}\n".encode())

    def renew(self) -> None:
        """Say that this process still works on the run, and see whether it still may. What is lost
        once is lost for good: another process may be about to take the run."""
        self._lost = self.lost
        if self._lost:
            return
        now = _now()
        try:
            os.utime(self.path)
            if self._next.exists():
                self._lost = "another process took it over"
            self._renewed = now
        except OSError as error:
            # Else a file server may be back before the claim is lost by its age.
            if error.errno in _GONE:
                self._lost = "its claim was removed"

    @property
    def lost(self) -> str:
        """Why this process must not work on the run any more; "" where it may."""
        age = _now() - self._renewed
        if not self._lost and age > self._expiry_seconds / 2:
            return f"its claim could not be renewed for {age:.0f} s"
        return self._lost

    def end(self, outcome: Outcome) -> None:
        """Note how the attempt ended; what is not finished may be tried again by the next call
        (failed) or by anyone (interrupted)."""
        if outcome.status == FINISHED:
            _tidy(outcome.run.folder)
            os.close(self._descriptor)
        elif outcome.status == FAILED:
            self._note(error=outcome.error)
        else:
            self.release()

    def release(self) -> None:
        """Say that this process works on the run no more."""
        self._note(released=True)
        os.close(self._descriptor)


class _Life(enum.Enum):
    """Whether the holder of a claim still works on the run."""

    ALIVE = enum.auto()
    GONE = enum.auto()
    UNKNOWN = enum.auto()  # yet: its claim has to be watched for longer


@dataclass
class _Sighting:
    """Since when, by this process's clock, a claim is as it is; and whether it ever was renewed."""

    renewed: int
    since: float = field(default_factory=_now)
    was_renewed: bool = False
    old_since: float | None = None

    def is_old(self, expiry_seconds: float) -> bool:
        """Whether the claim has expired. To be seen twice: where all processes stood still, as in a
        machine that was halted, this one may look before the holder can renew its claim."""
        now = _now()
        if now - self.since <= expiry_seconds:
            return False
        if self.old_since is None:
            self.old_since = now
        return now - self.old_since > 2 * expiry_seconds / _RENEWALS


class Claims:
    """Runs are shared by claims: each process takes the next that is ready and that nobody holds.

    A context manager: while entered, a thread renews the claims of this process.

    Args:
        expiry_seconds: after which another process may take over a run of this one.
        machine: other than `this_machine` in tests.
    """

    def __init__(self, expiry_seconds: float = EXPIRY_SECONDS, machine: str | None = None):
        self.poll_seconds = min(_LONGEST_POLL_SECONDS, expiry_seconds / _RENEWALS)
        self._expiry_seconds = expiry_seconds
        self._machine = machine or this_machine()
        self._held: list[Claim] = []
        self._sightings: dict[Path, _Sighting] = {}
        self._first: dict[Path, int] = {}
        self._next: dict[Path, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for claim in self._held:
            claim.release()

    def _renew(self) -> None:
        while not self._stop.wait(self._expiry_seconds / _RENEWALS):
            for claim in tuple(self._held):
                claim.renew()

    def begin(self, outcomes: Sequence[Outcome]) -> None:
        """See what is claimed before anything is taken."""
        for outcome in outcomes:
            if outcome.status != FINISHED:
                self.look(outcome)
                continue
            with contextlib.suppress(OSError):  # The next call will do it.
                if all(self._life(each) is _Life.GONE for each in self._entries(outcome.run)):
                    remove_claims(outcome.run.folder)  # A holder was killed while it did so.

    def waits_for(self, outcome: Outcome) -> bool:
        """Every process waits until all runs have ended, and so reports the same."""
        return True

    def look(self, outcome: Outcome) -> None:
        """Bring `outcome`, of a run that this process does not work on, up to date. Where its
        claims cannot be read it has a holder, until they can be."""
        run = outcome.run
        try:
            last = next(iter(self._entries(run)[-1:]), None)
            life = self._life(last) if last else _Life.GONE
        except PermissionError:  # That does not pass.
            raise
        except OSError as error:
            outcome.holder = outcome.holder or f"claims cannot be read: {error.strerror}"
            return
        outcome.holder = ""
        number = _number(last.path) if last else 0
        # What had failed before this process began is tried again; later failures are not.
        before = self._first.setdefault(run.folder, number if last and last.error else 0)
        if last is not None:
            if last.error and (number > before or life is _Life.ALIVE):
                outcome.fail(last.error)
                outcome.holder = last.holder
                return
            if life is not _Life.GONE:
                outcome.holder = last.holder
                return
        self._next[run.folder] = number + 1
        if not run.missing:
            outcome.finish()
            _tidy(run.folder)
        elif RunFolder(run.folder).is_in_use():
            # By someone without a claim: the process of a killed holder, which saves its state.
            outcome.holder = "another process"

    def take(self, outcome: Outcome) -> Claim | None:
        """Claim the run, of which `look` found no holder; None: another process was faster."""
        folder = outcome.run.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.with_name(f"{folder.name}.claim.{self._next[folder]}")
        try:
            claim = Claim(path, self._expiry_seconds, self._machine)
        except FileExistsError:
            return None
        try:
            finished = _is_finished(outcome.run)
        except OSError:
            claim.release()
            raise
        if finished:  # And its claims were removed, since `look`.
            claim.release()
            _tidy(folder)
            return None
        self._held.append(claim)
        return claim

    def end(self, claim: Claim, outcome: Outcome) -> None:
        """The attempt at the run has ended, or this process lost the claim (see `Claim.end`)."""
        if outcome.status != FAILED:
            self._held.remove(claim)
        claim.end(outcome)

    def check_unclaimed(self, runs: Sequence[Run]) -> None:
        """Raise UserError where another process works on one of the runs.

        Of a claim that another machine made this is known only after it was watched for a while.
        """
        undecided = list(runs)
        while undecided:
            last = {run: entry for run in undecided for entry in self._entries(run)[-1:]}
            lives = {run: self._life(entry) for run, entry in last.items()}
            for run, life in lives.items():
                if life is _Life.ALIVE:
                    raise UserError(
                        f"{run.folder} is in use by {last[run].holder}; end that process first"
                    )
            undecided = [run for run, life in lives.items() if life is _Life.UNKNOWN]
            time.sleep(self.poll_seconds if undecided else 0)

    def _entries(self, run: Run) -> list[Entry]:
        """The claims of a run, that of its holder last."""
        read = (Entry.read(path) for _, path in sorted(claims_of(run.folder).items()))
        return [entry for entry in read if entry is not None]

    def _life(self, entry: Entry) -> _Life:
        """Whether the holder of a claim still works on the run."""
        if entry.released:
            return _Life.GONE
        locked = None
        if entry.facts.get("locked") and entry.facts["machine"] == self._machine:
            locked = entry.is_locked()
            if not locked:
                return _Life.GONE
        seen = self._sightings.setdefault(entry.path, _Sighting(entry.renewed))
        if seen.renewed != entry.renewed:
            self._sightings[entry.path] = _Sighting(entry.renewed, was_renewed=True)
            return _Life.ALIVE
        expiry = entry.facts.get("expiry_seconds", self._expiry_seconds)
        if seen.is_old(expiry):
            return _Life.GONE
        return _Life.ALIVE if seen.was_renewed or locked else _Life.UNKNOWN


def clear(runs: Sequence[Run], claims: Claims | None = None) -> None:
    """Remove what former runs left in the folders, all of it before the first one is run again:
    else an interruption would leave old runs beside new ones, and nothing to tell them by. Nothing
    is removed where one of the folders is in use.

    Args:
        runs: the runs.
        claims: by which other processes are known to work on them.

    Raises:
        UserError: another process is working in one of the folders, or it holds no run.
    """
    (claims or Claims()).check_unclaimed(runs)
    for run in runs:  # A process without a claim is one whose holder was killed, or a shard's.
        RunFolder(run.folder).check_unused()
    for run in runs:
        for path in (run.open_log, run.failure, run.folder / LOG):
            path.unlink(missing_ok=True)
        if run.folder.exists():
            with RunFolder(run.folder) as folder:
                folder.open(run.settings, overwrite=True)
        remove_claims(run.folder)


def _is_finished(run: Run) -> bool:
    """Whether a run is finished, as the file server says now."""
    if (run.folder / SETTINGS).exists():
        # A client of NFS may remember for a minute that there was no summary, but not where it has
        # itself changed the folder since.
        with tempfile.TemporaryFile(dir=run.folder, prefix=PARTIAL):
            pass
    return not run.missing


def _number(path: Path) -> int:
    return int(path.name.rpartition(".")[2])
