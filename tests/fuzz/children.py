"""Command lines run in forked processes: importing TensorFlow takes seconds, a fork milliseconds.

The process that forks must have imported everything (`load`) but must not have used TensorFlow: its
threads would be missing in the children.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

ROOT = Path(__file__).parents[2]
COMMANDS = ("train_w_distill", "compare", "pretrain_tte", "evaluate", "export")
MOST_SECONDS = 60.0
MOST_BYTES = 2 * 10**9
FREE_BYTES = 10**9
"""That the children take for the machine's free memory: what they ask for is to depend on nothing
else."""
_POLL_SECONDS = 0.01


def load() -> None:
    """Import the commands, and with them everything that they need."""
    # What --deterministic needs can only be set before TensorFlow is used, as it may be here.
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    importlib.import_module("experiment.command.quiet")
    for name in COMMANDS:
        importlib.import_module(name)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: the exit status, as `subprocess` has it: negative for a signal; None: it was
            stopped for its time or memory.
        err: what it wrote to stderr.
        seconds: that it took.
        bytes: the most memory that it held, resident.
    """

    status: int | None
    err: str
    seconds: float
    bytes: int

    def fault(self, allowed: Sequence[int] = (0, 2)) -> str:
        """What is wrong with the end, in a few words, or ``""``: another exit status than those
        allowed, more than a line on stderr, a traceback, too much time or memory."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if self.bytes > MOST_BYTES:
            return f"memory of {self.bytes / 1e9:.1f} GB"
        if self.seconds > MOST_SECONDS or self.status is None:
            return f"{self.seconds:.0f} s"
        if "Traceback" in self.err:
            return f"traceback: {lines[-1][:300]}"
        if self.status not in allowed:
            return f"status {self.status}: {' | '.join(lines)[-300:]}"
        if len(lines) > 1:
            return f"{len(lines)} lines on stderr: {' | '.join(line[:150] for line in lines[:4])}"
        if self.status == 2 and not self.err.startswith("error: "):
            return f"status 2 without an error: {self.err[:300]!r}"
        return ""


def run_command(words: Sequence[str], folder: Path, most_seconds: float = MOST_SECONDS) -> Ended:
    """Run ``python NAME.py WORDS`` in `folder`, as far as its end, time and memory allow.

    Args:
        words: the script's name without its suffix, then its flags.
        folder: the working directory; ``out`` and ``err`` beside it get what is printed.
        most_seconds: after which it is killed.
    """
    pid = start_command(words, folder)
    began, most, usage = time.monotonic(), 0, None
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        most = max(most, _resident(pid))
        if most > MOST_BYTES or time.monotonic() - began > most_seconds:
            kill_group(pid)
            os.waitpid(pid, 0)
            return Ended(None, read_err(folder), time.monotonic() - began, most)
        time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - began
    kill_group(pid)  # what it may have left behind
    most = max(most, usage.ru_maxrss * 1024)
    return Ended(os.waitstatus_to_exitcode(status), read_err(folder), seconds, most)


def start_command(words: Sequence[str], folder: Path) -> int:
    """Start a command as `run_command` does; its process id, which is that of its group too."""
    return start(lambda: _run_script(words), folder)


def call(function: Callable[[], None], folder: Path) -> None:
    """Call `function` in a process of its own. Raises RuntimeError with its traceback if it
    fails."""
    _, status = os.waitpid(start(function, folder), 0)
    if status:
        raise RuntimeError(f"{function}: {read_err(folder)}")


def start(function: Callable[[], int | None], folder: Path) -> int:
    """Start `function` in a forked process whose working directory is `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child does so too: who comes first
            os.setpgid(pid, pid)
        return pid
    _become_command(function, folder)


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to the processes of the group `pid`, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _become_command(function: Callable[[], int | None], folder: Path) -> NoReturn:
    """What a forked process does: nothing of its parent's runs on."""
    status: int | None = 70
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        os.chdir(folder)
        _redirect(folder)
        psutil.virtual_memory = _small_machine(psutil.virtual_memory)
        status = function() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _redirect(folder: Path) -> None:
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(_beside(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for name in ("stdout", "stderr"):
        # A test runner's own streams lead elsewhere.
        number = {"stdout": 1, "stderr": 2}[name]
        stream = os.fdopen(number, "w", buffering=1, closefd=False, errors="backslashreplace")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _small_machine(asked: Callable) -> Callable:
    def virtual_memory() -> object:
        return asked()._replace(available=FREE_BYTES)

    return virtual_memory


def _run_script(words: Sequence[str]) -> None:
    script = ROOT / f"{words[0]}.py"
    sys.argv = [str(script), *words[1:]]
    runpy.run_path(str(script), run_name="__main__")


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}.{name}")


def read_err(folder: Path) -> str:
    return _beside(folder, "err").read_text(errors="backslashreplace")


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


@contextlib.contextmanager
def no_children_left() -> Iterator[None]:
    """At the end kill what was started within and still runs."""
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    try:
        yield
    finally:
        for each in psutil.Process().children(recursive=True):
            if each.pid not in before:
                with contextlib.suppress(psutil.Error):
                    each.kill()
