"""Workers that are stopped: their connections are open, and they read nothing."""

import os
import socket
import threading
import time

import pytest

from experiment.run import links
from experiment.run.links import LOST_STATUS, Link, Links


@pytest.fixture
def connections():
    """`make()` gives both ends of a connection."""
    made = []

    def make():
        with socket.create_server(("localhost", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            made.extend([ours, server.accept()[0]])
        return made[-2:]

    yield make
    for each in made:
        each.close()


def in_time(function):
    """Whether a call ends within some seconds."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


def test_a_beat_to_a_worker_that_reads_nothing_does_not_wait(connections):
    ours, _ = connections()
    link = Link(ours)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(b"0" * (1 << 20))
    ours.setblocking(True)
    assert in_time(link.beat)


class Ended(BaseException):
    """In place of the end of the process."""


def of_three_others(connections, monkeypatch):
    """The links of worker 0, and the far ends. Sending something large to worker 1 is under way,
    which reads nothing."""
    monkeypatch.setattr(links, "_LEAVE_SECONDS", 0.5)
    ends = {number: connections() for number in (1, 2, 3)}
    addresses = [f"host:{number}" for number in range(1, 5)]
    own = Links(addresses, 0, {number: Link(ours) for number, (ours, _) in ends.items()}, "again")
    threading.Thread(target=own.send, args=(b"0" * (1 << 26), 1), daemon=True).start()
    while own._links[1]._sending.acquire(blocking=False):
        own._links[1]._sending.release()
        time.sleep(0.01)
    return own, {number: theirs for number, (_, theirs) in ends.items()}


def test_who_loses_a_worker_ends_though_another_one_is_stopped(
    connections, monkeypatch, capfd
):
    own, far = of_three_others(connections, monkeypatch)
    statuses = []

    def leave(status):
        statuses.append(status)
        raise Ended

    monkeypatch.setattr(os, "_exit", leave)

    def lose():
        with pytest.raises(Ended):
            own.lose(2, "was lost")

    try:
        assert in_time(lose) and statuses == [LOST_STATUS]
        assert Link(far[3]).receive() == (links._LOSS, b"worker 2 (host:3) was lost")
        assert "error: worker 2 (host:3) was lost; again" in capfd.readouterr().err
    finally:
        own._is_over.set()


def test_who_leaves_does_not_wait_for_a_worker_that_is_stopped(connections, monkeypatch):
    own, far = of_three_others(connections, monkeypatch)
    assert in_time(own.leave)
    assert Link(far[3]).receive() == (links._FAREWELL, b"")
