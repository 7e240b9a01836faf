"""Workers that meet, tell each other things, and lose each other; without TensorFlow."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment.run import workers
from experiment.run.links import LOST_STATUS, SILENCE_SECONDS, address_parts
from registry import UserError
from tests.worker_processes import ROOT, ends, free_addresses

MEMBER = Path(__file__).with_name("team_member.py")


def members(count, what, *, limit=20, addresses=None, absent=()):
    addresses = addresses or free_addresses(count)
    return [
        subprocess.Popen(
            [sys.executable, MEMBER, json.dumps(addresses), str(index), str(limit), what],
            env={"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(count) if index not in absent
    ]


def one_line(err):
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize("count", [2, 3])
def test_all_get_what_each_gave(count):
    found = ends(members(count, "tell"), 30)
    assert [(status, err) for status, _, err in found] == [(0, "")] * count
    expected = {
        "bytes": [f"\n\n\n{index}" for index in range(count)],
        "values": [{"index": index, "text": "ä"} for index in range(count)],
        "large": [5_000_000 * index for index in range(count)],
        "of chief": "from 0",
        "file": "chief's",
    }
    assert [json.loads(out) for _, out, _ in found] == [expected] * count


def test_all_stop_at_the_same_step():
    found = ends(members(3, "rounds"), 30)
    steps = [json.loads(out) for _, out, _ in found]
    assert steps[0][0] >= 20 and steps[0][1] == signal.SIGTERM
    assert steps == steps[:1] * 3


def test_a_team_of_one_asks_nobody():
    rounds = workers.Rounds(workers.ALONE)
    assert rounds.agree(5, signal.SIGINT, True) == (signal.SIGINT, True)
    assert rounds.agree(5, None, False) == (None, False)
    assert workers.ALONE.ask_chief(lambda: 3) == 3 and workers.ALONE.exchange(4) == [4]


def test_what_the_chief_refuses_all_refuse():
    for status, out, err in ends(members(3, "refuse"), 30):
        assert (status, out, one_line(err)) == (2, "", "error: the folder is in use")


def test_workers_that_differ_are_refused_by_name():
    for status, _, err in ends(members(3, "differ"), 30):
        assert status == 2
        assert "worker 1 (localhost:" in one_line(err)
        assert "--epochs: 1 in worker 0, 2 in worker 1" in err
        assert "nets/vgg.py: abc in worker 0, (none) in worker 1" in err
        assert "--seed" not in err


@pytest.mark.parametrize(("what", "how"), [
    ("killed", "was lost: its connection ended"),
    ("stopped", "was lost: it sent nothing for"),
    ("failed", "failed: no space"),
])
def test_the_others_end_when_one_is_lost(what, how):
    """In a line that names it, also those who are not connected to it."""
    processes = members(3, what)
    *others, lost = processes
    try:
        for status, _, err in ends(others, 30):
            assert status == LOST_STATUS
            line = one_line(err)
            assert line.startswith("error: worker 2 (localhost:") and how in line
            assert line.endswith("; start all again")
    finally:
        lost.kill()
        lost.communicate()


def test_the_others_end_when_the_chief_is_lost():
    chief, *others = ends(members(3, "chief killed"), 30)
    assert chief[0] == -signal.SIGKILL
    for status, _, err in others:
        assert status == LOST_STATUS
        assert "worker 0 (localhost:" in one_line(err) and "its connection ended" in err


def test_who_has_said_farewell_is_not_missed():
    assert [status for status, *_ in ends(members(3, "farewell"), 30)] == [0, 0, 0]


def test_absent_workers_are_named_when_time_is_up():
    found = ends(members(3, "tell", limit=2, absent=(1,)), 30)
    for status, _, err in found:
        assert status == 2 and "worker 1 (localhost:" in one_line(err)
        assert "did not connect" in err and "within 2 s" in err
    (status, _, err), = ends(members(2, "tell", limit=1, absent=(0,)), 30)
    assert status == 2 and "did not reach worker 0 at localhost:" in one_line(err)
    assert "Connection refused" in err


def connected(address, seconds=20):
    """A connection to a process that may not listen yet."""
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address_parts(address))
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_strangers_at_the_port_do_not_matter():
    addresses = free_addresses(2)
    chief = members(2, "tell", addresses=addresses, absent=(1,))
    with connected(addresses[0]) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(20))
        other = members(2, "tell", addresses=addresses, absent=(0,))
        assert [status for status, *_ in ends(chief + other, 30)] == [0, 0]


def test_a_worker_that_was_started_twice_is_refused():
    addresses = free_addresses(3)
    twice = [members(3, "tell", addresses=addresses, absent=absent)
             for absent in ((2,), (0, 2))]
    for status, _, err in ends(sum(twice, []), 30):
        assert status == 2 and "worker 1 was started twice" in one_line(err)


def test_a_worker_may_be_started_again_before_all_have_met():
    addresses = free_addresses(3)
    chief = members(3, "tell", addresses=addresses, absent=(1, 2))
    (gone,) = members(3, "tell", addresses=addresses, absent=(0, 2))
    time.sleep(2)
    gone.kill()
    gone.wait()
    again = members(3, "tell", addresses=addresses, absent=(0,))
    assert [status for status, *_ in ends(chief + again, 30)] == [0, 0, 0]


def test_the_port_is_left_to_others_while_it_is_used():
    with socket.create_server(("", 0)) as used:
        addresses = [f"localhost:{used.getsockname()[1]}", *free_addresses(1)]
        (status, _, err), = ends(members(2, "tell", addresses=addresses, absent=(1,)), 30)
    assert status == 2 and "cannot listen at localhost:" in one_line(err)


@pytest.mark.parametrize("address", ["node", "node:", "node:x", ":80", "node:0", "node:70000"])
def test_addresses_are_checked(address):
    with pytest.raises(UserError, match="expected HOST:PORT"):
        address_parts(address)


def test_all_of_the_code_is_compared():
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    modules = {file.stem for file in ROOT.glob("*.py")}
    scripts = {name for name in modules if "__main__" in (ROOT / f"{name}.py").read_text()}
    assert set(workers.CODE) == (packages | modules - scripts) - {"tests", "benchmarks"}


class UnavailableError(Exception):
    """Named as what TensorFlow raises where a connection ends."""


@pytest.mark.parametrize(("cause", "awaits"), [(UnavailableError, True), (ValueError, False)])
def test_news_of_a_lost_worker_is_awaited_after_an_error_that_may_come_of_it(
    monkeypatch, cause, awaits
):
    """Also where the run folder has made one line of the error."""
    cluster = {"worker": free_addresses(1)}
    task = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    waited = []
    monkeypatch.setattr(workers.Team, "await_news", lambda _, seconds: waited.append(seconds))
    with pytest.raises(UserError, match="one line"), workers.gathered("multi_worker", {}, 1):
        raise UserError("one line") from cause("Graph execution error")
    assert [seconds > SILENCE_SECONDS for seconds in waited] == [True] * awaits
