"""Connections between the workers of a run, and what is noticed when one of them is lost.

The workers meet before TensorFlow starts: the first one listens at its own address, at the very
port that TensorFlow takes afterwards, and the others connect to it. The connections stay open for
as long as the run lasts, so no second port has to be reachable. Messages are a kind (one byte), a
length (eight bytes) and so many bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from held_stderr import real_stderr
from registry import UserError

LOST_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed if repeated
BEAT_SECONDS = 2.0
SILENCE_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_LEAVE_SECONDS = 5.0
_PROTOCOL = "workers of one training run, 1"
_HEADER = struct.Struct(">cQ")
_BEAT, _DATA, _FAREWELL, _FAILURE, _LOSS = b"b", b"d", b"e", b"f", b"l"
_LONGEST_GREETING = 1 << 20


def address_parts(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, also of ``[IPv6]:PORT``. Raises UserError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"worker address {address!r}; expected HOST:PORT, as in node1:12345")
    return host.strip("[]"), int(port)


class _Closed(Exception):
    """The other side has closed its connection."""


class Link:
    """A connection to another worker.

    Args:
        connection: to it.

    Attributes:
        heard: the `time.monotonic` at which something came.
        inbox: data that came; None where no more will.
        has_left: whether the other side has said farewell.
    """

    def __init__(self, connection: socket.socket):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._sending = threading.Lock()
        self.heard = time.monotonic()
        self.inbox: queue.Queue[bytes | None] = queue.Queue()
        self.has_left = False

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Send a message; nothing where the connection is closed, which reading will notice."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(_HEADER.pack(kind, len(content)) + content)

    def beat(self) -> None:
        """Show that this side is alive, unless it is sending something at the moment, or the other
        side reads nothing. Never waits."""
        if self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):
                    if self._is(select.POLLOUT):
                        self._connection.sendall(_HEADER.pack(_BEAT, 0))
            finally:
                self._sending.release()

    def is_closed(self) -> bool:
        """Whether the other side has gone, whatever it sent before and nobody has read."""
        return self._is(getattr(select, "POLLRDHUP", select.POLLHUP))

    def _is(self, state: int) -> bool:
        """Whether the connection is now in a state that `select.poll` knows."""
        looking = select.poll()
        looking.register(self._connection, state)
        return bool(looking.poll(0))

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._connection.recv(min(size, 1 << 20))
            if not part:
                raise _Closed
            self.heard = time.monotonic()
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self, longest: int | None = None) -> tuple[bytes, bytes]:
        """Kind and content of the next message. Raises OSError or `_Closed`."""
        kind, size = _HEADER.unpack(self._read(_HEADER.size))
        if longest is not None and size > longest:
            raise _Closed  # somebody who speaks otherwise
        return kind, self._read(size)

    def finish(self) -> None:
        """Send no more. The connection stays open to read: closed with something unread in it, it
        would take what was sent last from the other side."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def meet(addresses: Sequence[str], index: int, limit: float, advice: str) -> Links:
    """Connect the workers of a run.

    Args:
        addresses: of all workers, ``HOST:PORT``, the first one's first; the same in each of them.
        index: of this worker.
        limit: seconds to wait for the others.
        advice: what is said where a worker is lost, after how it was.

    Raises:
        UserError: they did not meet in time, or do not name the same workers.
    """
    gather = _await_others if index == 0 else _find_first
    found = gather(addresses, index, time.monotonic() + limit, limit)
    return Links(addresses, index, found, advice)


def _greeting(addresses: Sequence[str], index: int) -> bytes:
    return json.dumps([_PROTOCOL, list(addresses), index]).encode()


def _await_others(
    addresses: Sequence[str], index: int, deadline: float, limit: float
) -> dict[int, Link]:
    """The first worker's links."""
    links: dict[int, Link] = {}
    with _listener(addresses[index]) as listener:
        while len(links) < len(addresses) - 1:
            listener.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                connection = listener.accept()[0]
            except TimeoutError:
                absent = [f"{each} ({addresses[each]})" for each in range(1, len(addresses))
                          if each not in links]
                _dismiss(links, UserError(
                    f"worker {', '.join(absent)} did not connect to {addresses[0]} within "
                    f"{limit:g} s; start the same command on all workers, or give more "
                    "--connect_minutes"
                ))
            _forget_closed(links)
            _welcome(connection, addresses, links)
            _forget_closed(links)  # this may have taken a while
    for link in links.values():
        link.send(_DATA)
    return links


def _forget_closed(links: dict[int, Link]) -> None:
    """Let workers that have gone come again: nothing has begun yet."""
    for index in [index for index, link in links.items() if link.is_closed()]:
        links.pop(index).close()


def _listener(address: str) -> socket.socket:
    port = address_parts(address)[1]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"worker 0 cannot listen at {address} ({error.strerror or error}); give another port, "
            "or end the process that uses it"
        ) from None


def _welcome(
    connection: socket.socket, addresses: Sequence[str], links: dict[int, Link]
) -> None:
    """Add a worker's connection to `links`; whoever else connects is not answered."""
    link = Link(connection)
    connection.settimeout(5)
    try:
        protocol, named, index = json.loads(link.receive(_LONGEST_GREETING)[1])
        if protocol != _PROTOCOL:
            raise ValueError
    except (OSError, _Closed, ValueError, TypeError):
        link.close()
        return
    connection.settimeout(None)
    if named != list(addresses) or index in links or not 0 < index < len(addresses):
        reason = f"worker {index} was started twice" if index in links else (
            f"worker {index} was started as one of {', '.join(named)}, worker 0 as one of "
            f"{', '.join(addresses)}"
        )
        links[-1] = link
        _dismiss(links, UserError(f"{reason}; give all workers the same list"))
    links[index] = link


def _dismiss(links: dict[int, Link], error: UserError) -> NoReturn:
    for link in links.values():
        link.send(_FAILURE, str(error).encode())
        link.close()
    raise error


def _find_first(
    addresses: Sequence[str], index: int, deadline: float, limit: float
) -> dict[int, Link]:
    """The links of a worker that is not the first."""
    reason: Any = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(address_parts(addresses[0]), min(left, 10))
        except OSError as error:
            reason = error.strerror or error
        else:
            link = Link(connection)
            link.send(_DATA, _greeting(addresses, index))
            connection.settimeout(left + _LEAVE_SECONDS)  # the first knows better who is missing
            try:
                kind, content = link.receive(_LONGEST_GREETING)
            except (OSError, _Closed):  # the server of a run that is just ending, say
                link.close()
            else:
                connection.settimeout(None)
                if kind == _FAILURE:
                    raise UserError(content.decode())
                return {0: link}
        time.sleep(min(_RETRY_SECONDS, max(deadline - time.monotonic(), 0)))
    raise UserError(
        f"worker {index} ({addresses[index]}) did not reach worker 0 at {addresses[0]} within "
        f"{limit:g} s ({reason}); start the same command on all workers, or give more "
        "--connect_minutes"
    )


class Links:
    """The open connections of a worker: to all others from the first, to the first from the others.

    A worker is lost when its connection ends without a farewell, or when nothing has come from it
    for `SILENCE_SECONDS`. This process then ends at once, with one line on stderr and the status
    `LOST_STATUS`: its main thread may be waiting within TensorFlow, for ever. Files are written so
    that a process may end at any moment.

    Args:
        addresses: of all workers.
        index: of this worker.
        links: by the other's index.
        advice: see `meet`.
    """

    def __init__(
        self, addresses: Sequence[str], index: int, links: dict[int, Link], advice: str
    ):
        self._addresses = addresses
        self._index = index
        self._links = links
        self._ending = threading.RLock()
        self._is_over = threading.Event()
        self._advice = advice
        self._listeners = [
            threading.Thread(target=self._listen, args=each, daemon=True) for each in links.items()
        ]
        for listener in self._listeners:
            listener.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def send(self, content: bytes, to: int) -> None:
        """Send data to a worker."""
        self._links[to].send(_DATA, content)

    def receive(self, of: int) -> bytes:
        """The next data of a worker; waits for it."""
        content = self._links[of].inbox.get()
        if content is None:
            self.lose(of, "ended before the others")
        return content

    def others(self) -> list[int]:
        """The workers that this one is connected to."""
        return sorted(self._links)

    def leave(self, failure: str | None = None) -> None:
        """Say farewell, so that the others do not take this worker for lost.

        Args:
            failure: why this worker cannot go on; the others then end too.
        """
        if self._is_over.is_set():
            return
        self._is_over.set()
        last = (_FAREWELL, b"") if failure is None else (_FAILURE, failure.encode())
        self._tell(self._links.values(), *last)
        for link in self._links.values():
            link.finish()
        until = time.monotonic() + _LEAVE_SECONDS
        for listener in self._listeners:  # each ends once the other side has read that
            listener.join(max(until - time.monotonic(), 0))
        for link in self._links.values():
            link.close()

    def _tell(self, links: Iterable[Link], kind: bytes, content: bytes) -> None:
        """Send a last message, to all at the same time, and wait for a while only: a worker that is
        stopped, rather than ended, reads nothing, so that sending to it would take for ever."""
        senders = [
            threading.Thread(target=link.send, args=(kind, content), daemon=True) for link in links
        ]
        for sender in senders:
            sender.start()
        until = time.monotonic() + _LEAVE_SECONDS
        for sender in senders:
            sender.join(max(until - time.monotonic(), 0))

    def _name(self, number: int) -> str:
        return f"worker {number} ({self._addresses[number]})"

    def _listen(self, number: int, link: Link) -> None:
        try:
            while True:
                kind, content = link.receive()
                if kind == _DATA:
                    link.inbox.put(content)
                elif kind == _FAREWELL:
                    link.has_left = True
                    link.inbox.put(None)
                    link.finish()
                elif kind == _FAILURE:
                    self.lose(number, f"failed: {content.decode()}")
                elif kind == _LOSS:
                    self._end(content.decode())
        except (OSError, _Closed):
            if not link.has_left:
                self.lose(number, "was lost: its connection ended")

    def _watch(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            for number, link in self._links.items():
                silence = time.monotonic() - link.heard
                if not link.has_left and silence > SILENCE_SECONDS:
                    self.lose(number, f"was lost: it sent nothing for {silence:.0f} s")
                link.beat()

    def lose(self, number: int, how: str) -> None:
        """End this process because a worker cannot go on; does nothing once this worker left."""
        text = f"{self._name(number)} {how}"
        # Held from the first word to the end: the others end as soon as they hear of this loss, and
        # one of them would be taken for the first that was lost.
        with self._ending:
            if self._is_over.is_set():
                return
            others = [link for other, link in self._links.items() if other != number]
            self._tell(others, _LOSS, text.encode())
            self._end(text)

    def _end(self, text: str) -> None:
        with self._ending:  # and whoever comes second waits here for the end
            if not self._is_over.is_set():
                line = " ".join(f"error: {text}; {self._advice}".split())
                os.write(real_stderr(), f"{line}\n".encode())
                os._exit(LOST_STATUS)
