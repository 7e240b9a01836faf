"""Several processes, on one host or several, that train one network together.

Each worker runs the same program. The chief, the first of them, reads and writes the run folder;
the others write what they have to write into a folder of their own, which is removed. Whatever is
decided by time, by a signal or by files is decided once and told to all, as workers that take
different steps wait for each other for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiment.run.links import LOST_STATUS, SILENCE_SECONDS, Links, meet
from held_stderr import real_stderr
from registry import UserError

Answer = TypeVar("Answer")
ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "dataloader", "distillers", "experiment", "free_memory", "held_stderr", "nets", "op_util",
    "plugins", "pretext", "processors", "registry", "regular_files", "replicas", "settings",
    "targets",
)
ROUND_SECONDS = 2.0
_RESUME = (
    "start the same command (without --overwrite) on all workers to resume from the last checkpoint"
)
_SAME = "start the same command with the same code on all workers"


class Team:
    """The workers of a run, seen from one of them.

    Args:
        addresses: of all workers, the chief's first; of a single process there is one.
        index: of this one.
        links: to the others; None where there are none.

    Attributes:
        addresses, index: as given.
    """

    def __init__(
        self, addresses: Sequence[str] = ("",), index: int = 0, links: Links | None = None
    ):
        self.addresses = tuple(addresses)
        self.index = index
        self._links = links
        self._scratch: Path | None = None

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this worker reads and writes the run folder."""
        return self.index == 0

    # What workers tell each other

    def exchange_bytes(self, content: bytes) -> list[bytes]:
        """What each worker gave, in their order, in each of them. All have to call it."""
        if self._links is None:
            return [content]
        if not self.is_chief:
            self._links.send(content, to=0)
            return _split(self._links.receive(of=0))
        found = [content, *(self._links.receive(of=other) for other in self._links.others())]
        joined = _joined(found)
        for other in self._links.others():
            self._links.send(joined, to=other)
        return found

    def exchange(self, value: Any) -> list[Any]:
        """As `exchange_bytes`, of what JSON can hold."""
        return [json.loads(each) for each in self.exchange_bytes(json.dumps(value).encode())]

    def ask_chief(self, function: Callable[[], Answer]) -> Answer:
        """What `function`, called by the chief alone, returns: something that JSON can hold.

        Raises:
            UserError: in all workers, if it did in the chief.
        """
        if self._links is None:
            return function()
        answer = None
        if self.is_chief:
            try:
                answer = {"value": function()}
            except UserError as error:
                answer = {"error": str(error)}
        answer = self.exchange(answer)[0]
        if "error" in answer:
            self._refuse(answer["error"])
        return answer["value"]

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on where workers differ.

        Args:
            facts: what has to be the same in all, by a name for people; JSON can hold it.

        Raises:
            UserError: in all workers; it names what differs, and how.
        """
        first, *others = self.exchange(dict(facts))
        for number, other in enumerate(others, 1):
            different = [
                f"{name}: {first.get(name, '(none)')} in worker 0, {other.get(name, '(none)')} in "
                f"worker {number}"
                for name in dict.fromkeys([*first, *other]) if first.get(name) != other.get(name)
            ]
            if different:
                more = f" and {len(different) - 3} more" if len(different) > 3 else ""
                self._refuse(
                    f"worker {number} ({self.addresses[number]}) differs from worker 0 "
                    f"({self.addresses[0]}): {'; '.join(different[:3])}{more}; {_SAME}"
                )

    def _refuse(self, reason: str) -> None:
        """Raise what all workers raise."""
        self._links.leave()
        raise UserError(reason)

    # Files

    def scratch(self) -> Path:
        """A new folder for what a worker that is not the chief would write; it is removed when the
        team parts."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix=f"worker{self.index}-"))
        return Path(tempfile.mkdtemp(dir=self._scratch))

    def share_file(self, path: Path) -> None:
        """Give all workers the chief's file of that place in the run folder, if there is one."""
        given = b""
        if self.is_chief and path.is_file():
            given = b"." + path.read_bytes()
        given = self.exchange_bytes(given)[0]
        if given and not self.is_chief:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(given[1:])

    # Its end

    @contextlib.contextmanager
    def time_limit(self, seconds: float, what: str) -> Iterator[None]:
        """End the process where the block takes longer: it may wait within TensorFlow for ever."""
        def end() -> None:
            os.write(real_stderr(), f"error: {what} within {seconds:g} s\n".encode())
            os._exit(LOST_STATUS)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def leave(self, failure: str | None = None) -> None:
        """Part from the others; see `Links.leave`."""
        if self._links is not None:
            self._links.leave(failure)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def await_news(self, seconds: float) -> None:
        """Wait for the news that another worker is lost, which ends this process; an error within
        TensorFlow may be the first sign of it."""
        if self._links is not None:
            time.sleep(seconds)


ALONE = Team()


def _joined(parts: Sequence[bytes]) -> bytes:
    sizes = json.dumps([len(part) for part in parts]).encode()
    return b"\n".join([sizes, b"".join(parts)])


def _split(joined: bytes) -> list[bytes]:
    sizes, _, content = joined.partition(b"\n")
    parts, start = [], 0
    for size in json.loads(sizes):
        parts.append(content[start : start + size])
        start += size
    return parts


class Rounds:
    """Lets all workers act at the same step, without asking at each: at every round the chief says
    which step the next one is at, about `ROUND_SECONDS` later.

    Args:
        team: the workers.
    """

    def __init__(self, team: Team):
        self._team = team
        self._next = 0
        self._last: tuple[int, float] | None = None

    def agree(
        self, step: int, signal: int | None, is_time: bool, force: bool = False
    ) -> tuple[int | None, bool]:
        """What all do before a step.

        Args:
            step: steps done, counted over the run, the same in all workers.
            signal: a signal that this worker has received.
            is_time: whether it is time for this worker to save.
            force: there is a round at this step whatever was said before.

        Returns:
            A signal that a worker has received, and whether to save as the chief's clock says. Of a
            team: None and False between two rounds.
        """
        if self._team.size == 1:
            return signal, is_time
        if step < self._next and not force:
            return None, False
        told = self._team.exchange([signal, is_time, step + self._steps_to_next(step)])
        self._next = told[0][2]
        return next((each[0] for each in told if each[0] is not None), None), told[0][1]

    def _steps_to_next(self, step: int) -> int:
        now = time.monotonic()
        last, self._last = self._last, (step, now)
        if last is None or step <= last[0]:
            return 1
        seconds = (now - last[1]) / (step - last[0])
        # At most twice as many as before: the first steps are traced and say little.
        return min(max(1, int(ROUND_SECONDS / max(seconds, 1e-6))), 2 * (step - last[0]))


@contextlib.contextmanager
def gathered(
    strategy: str, settings: Mapping[str, Any], connect_minutes: float
) -> Iterator[Team]:
    """The workers of a run, once they have met and found that they are about the same.

    Within this context a worker that is lost ends the others, and only the chief prints to stdout.

    Args:
        strategy: of `devices.STRATEGIES`; with another than ``"multi_worker"`` this process is
            alone.
        settings: by name, which have to be the same in all.
        connect_minutes: how long to wait for the others.

    Raises:
        UserError: they do not meet, or differ.
    """
    if strategy != "multi_worker":
        yield ALONE
        return
    from experiment.run.cluster import find_cluster  # which loads TensorFlow

    cluster = find_cluster()
    links = None
    if len(cluster.addresses) > 1:
        links = meet(cluster.addresses, cluster.index, 60 * connect_minutes, _RESUME)
    team = Team(cluster.addresses, cluster.index, links)
    failure: str | None = "it was ended"
    try:
        team.require_same(settings)
        team.require_same(code_facts())
        with contextlib.ExitStack() as stack:
            if not team.is_chief:
                chief = f"worker 0, the chief, is {team.addresses[0]}"
                print(f"worker {team.index} of {team.size}; {chief}", flush=True)
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            yield team
        failure = None
    except BaseException as error:
        failure = _failure(error, team)
        raise
    finally:
        team.leave(failure)


def _failure(error: BaseException, team: Team) -> str | None:
    """What the others are told of an error; None where all have it, as all were interrupted."""
    from experiment.run.interruption import Interrupted

    if isinstance(error, Interrupted):
        return None
    # A run folder makes one line of TensorFlow's error, and raises that from it.
    if any(type(each).__name__ in _OF_LOST_PEERS for each in (error, error.__cause__)):
        team.await_news(SILENCE_SECONDS + 5)
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:400]


_OF_LOST_PEERS = (
    "UnavailableError", "AbortedError", "CancelledError", "InternalError", "DeadlineExceededError",
    "UnknownError", "FailedPreconditionError",
)
"""TensorFlow's errors that may come of a lost connection to another worker."""


def code_facts() -> dict[str, str]:
    """A digest of each file of this project's code, and the versions of what it is built on."""
    import keras
    import numpy
    import tensorflow

    facts = {"Python": ".".join(map(str, sys.version_info[:2]))}
    facts |= {each.__name__: each.__version__ for each in (tensorflow, keras, numpy)}
    files = [file for name in CODE for file in _files(name)]
    for file in [*files, *ROOT.glob("*.py")] if (ROOT / "pyproject.toml").exists() else files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        facts[file.relative_to(ROOT).as_posix()] = digest
    return facts


def _files(name: str) -> list[Path]:
    return sorted((ROOT / name).rglob("*.py")) or [ROOT / f"{name}.py"]
