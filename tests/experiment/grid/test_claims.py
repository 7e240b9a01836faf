"""Claims, with processes of several machines played by threads and objects of this process."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiment.grid.claims import Claim, Claims, claims_of, clear
from experiment.grid.runs import FAILED, FINISHED, UNFINISHED, WAITING, Outcome, survey
from experiment.run.folder import RunFolder
from registry import UserError
from tests.experiment.grid.grids import carry_out, fake, starts, wait_for

ROOT = Path(__file__).parents[3]
SHORT = 1.0  # expiry, in seconds
LONG = 1000.0


@pytest.fixture
def clock(monkeypatch):
    """Time goes on only where this process sleeps, and there at once. Not for threads."""
    clock = SimpleNamespace(now=0.0)
    for name in ("clock_gettime", "monotonic"):
        monkeypatch.setattr(time, name, lambda *_: clock.now)
    monkeypatch.setattr(
        time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds)
    )


def finish(run):
    with RunFolder(run.folder) as folder:
        folder.open(run.settings)
        folder.finish({"top1": 0.5})


def claim_of(run, number, expiry_seconds, machine="a"):
    """A claim that nothing renews."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    path = run.folder.with_name(f"{run.folder.name}.claim.{number}")
    return Claim(path, expiry_seconds, machine)


def looked(claims, run):
    """What a process finds."""
    outcome = Outcome(run)
    claims.look(outcome)
    return outcome


def together(*threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_of_many_that_claim_a_run_at_once_one_gets_it(tmp_path):
    run, got, at_once = fake(tmp_path, "A"), [], threading.Barrier(8)

    def claim():
        claims, outcome = Claims(LONG), Outcome(run)
        claims.look(outcome)
        at_once.wait()
        got.append(claims.take(outcome))

    together(*(threading.Thread(target=claim) for _ in range(8)))
    assert sum(each is not None for each in got) == 1 and len(got) == 8
    assert list(claims_of(run.folder)) == [1]


def test_a_renewed_claim_lasts_and_one_that_is_not_expires(tmp_path):
    run = fake(tmp_path, "A")
    a, b = Claims(SHORT, "a"), Claims(SHORT, "b")
    with a:
        assert looked(a, run).holder == "" and a.take(Outcome(run))
        end = time.monotonic() + 3 * SHORT
        while time.monotonic() < end:
            found = looked(b, run)
            assert f"process {os.getpid()}" in found.holder
            time.sleep(SHORT / 10)
    # Ended well, so nobody has to wait.
    assert looked(b, run).holder == "" and b.take(Outcome(run)).path.name == "seed0.claim.2"
    # b, which renews nothing, is as if it was killed.
    c, began = Claims(LONG, "c"), time.monotonic()
    assert looked(c, run).holder
    wait_for(lambda: not looked(c, run).holder)
    assert SHORT < time.monotonic() - began < 4 * SHORT  # as b said, not as c would
    assert c.take(Outcome(run)).path.name == "seed0.claim.3"


def test_the_clocks_of_machines_are_of_no_importance(tmp_path, clock):
    """A file server whose clock is hours off, in either direction."""
    for offset in (-7200, 7200):
        run = fake(tmp_path, "A", offset)
        held = claim_of(run, 1, SHORT)
        b, began = Claims(LONG, "b"), time.monotonic()
        end = began + 2 * SHORT
        while time.monotonic() < end:
            now = time.time() + offset
            os.utime(held.path, (now, now))
            assert looked(b, run).holder
            time.sleep(SHORT / 10)
        wait_for(lambda seen=(b, run): not looked(*seen).holder)
        # A quarter more than the expiry after the last renewal.
        assert 3.1 * SHORT < time.monotonic() - began < 3.4 * SHORT


HOLDER = """
import sys, time
from pathlib import Path
from experiment.grid.claims import Claims
from experiment.grid.runs import Outcome, Run
run = Run("A", 0, Path(sys.argv[1]), (), {})
with Claims(1000.0, "a") as claims:
    claims.look(Outcome(run))
    claims.take(Outcome(run))
    print("taken", flush=True)
    time.sleep(60)
"""


def test_on_one_machine_a_killed_holder_is_found_out_at_once(tmp_path):
    run = fake(tmp_path, "A")
    command = [sys.executable, "-c", HOLDER, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"taken\n"
        here, elsewhere = Claims(LONG, "a"), Claims(LONG, "b")
        assert looked(here, run).holder and looked(elsewhere, run).holder
        process.kill()
    assert not looked(here, run).holder
    assert looked(elsewhere, run).holder  # It cannot know yet.


def test_a_claim_that_cannot_be_renewed_is_lost_before_it_expires(tmp_path, clock):
    run, began = fake(tmp_path, "A"), time.monotonic()
    claim = claim_of(run, 1, 4 * SHORT)
    claim.renew()
    assert not claim.lost
    wait_for(lambda: claim.lost)
    assert 2 * SHORT < time.monotonic() - began < 2.1 * SHORT
    claim.renew()  # It is too late.
    assert "could not be renewed" in claim.lost
    claim = claim_of(run, 2, SHORT)
    claim_of(run, 3, SHORT)
    claim.renew()
    assert claim.lost == "another process took it over"
    claim = claim_of(run, 4, SHORT)
    claim.path.unlink()
    claim.renew()
    assert claim.lost == "its claim was removed"


def test_a_holder_that_lost_its_claim_stops_and_takes_over_what_the_other_reports(tmp_path):
    run, stream, ended = fake(tmp_path, "A", 1, "wait"), io.StringIO(), []
    holder = threading.Thread(
        target=lambda: ended.extend(carry_out([run], stream, division=Claims(SHORT, "a"))[0])
    )
    holder.start()
    wait_for(lambda: run.open_log.exists() and "accuracy" in run.open_log.read_text())
    assert RunFolder(run.folder).is_in_use()
    with Claims(SHORT, "b") as other:
        # As if the holder had been out of reach.
        claim = claim_of(run, 2, LONG, "b")
        wait_for(lambda: not RunFolder(run.folder).is_in_use())
        wait_for(lambda: "stopped here: another process took it over" in stream.getvalue())
        assert not (run.folder / "saved").exists()  # It was not allowed to write any more.
        finish(run)
        outcome = looked(other, run)
        assert outcome.holder  # It has the last word: the summary is there, but not all is done.
        outcome.status = FINISHED
        claim.end(outcome)
    holder.join(60)
    assert [each.status for each in ended] == [FINISHED] and starts(run) == 1
    assert f"run 1/1  A, seed 1  top-1 0.5  ({os.uname().nodename}, process" in stream.getvalue()
    assert not claims_of(run.folder)


def test_a_failure_is_tried_again_by_the_next_call_and_not_by_those_of_the_same_time(tmp_path):
    run = fake(tmp_path, "A", 1, "fault")
    machines = {name: Claims(SHORT, name) for name in "abcd"}
    early = looked(machines["b"], run)
    assert early.status == WAITING and not early.holder
    with machines["a"]:
        outcome = Outcome(run)
        machines["a"].look(outcome)
        claim = machines["a"].take(outcome)
        outcome.status, outcome.error = FAILED, "ValueError: it"
        machines["a"].end(claim, outcome)
        assert looked(machines["b"], run).status == FAILED
        # Begun when the run had failed already: whether the other still works has to be seen.
        found = looked(machines["c"], run)
        assert found.status == WAITING and found.holder
        found = wait_for(lambda: (each := looked(machines["c"], run)).error and each)
        assert (found.status, found.error) == (FAILED, "ValueError: it")
        assert looked(Claims(SHORT), run).holder  # of another machine's
        assert looked(Claims(SHORT, "a"), run).status == FAILED  # the same: the lock says so
    assert looked(machines["b"], run).status == FAILED
    following = looked(machines["d"], run)
    assert following.status == WAITING and not following.holder
    assert machines["d"].take(following)


def test_two_processes_try_what_fails_once_and_report_the_same(tmp_path):
    teacher = fake(tmp_path, "teacher", what="fault")
    runs = [teacher, fake(tmp_path, "A", 1, needs=teacher), fake(tmp_path, "None", 1),
            fake(tmp_path, "B", 1, "mistake"), fake(tmp_path, "None", 2, "short")]
    found = {}

    def process(name):
        found[name] = carry_out(runs, division=Claims(SHORT, name))

    together(*(threading.Thread(target=process, args=name) for name in "ab"))
    for outcomes, changes, _ in found.values():
        assert [each.status for each in outcomes] == [FAILED, FAILED, FINISHED, FAILED, FINISHED]
        assert [each.error for each in outcomes] == [
            "ValueError: a fault", "needs teacher, seed 0, which failed", "", "no such data", ""
        ]
        assert changes[-1] == [each.status for each in outcomes]  # the report is complete
    assert [starts(run) for run in runs] == [1, 0, 1, 1, 1]
    carry_out(runs)  # the next call
    assert [starts(run) for run in runs] == [2, 0, 1, 2, 1]


def test_a_run_that_was_finished_between_look_and_claim_is_not_claimed(tmp_path):
    run, claims = fake(tmp_path, "A"), Claims(LONG)
    outcome = looked(claims, run)
    finish(run)
    assert claims.take(outcome) is None and not claims_of(run.folder)
    assert looked(claims, run).status == FINISHED


def test_a_run_with_other_settings_is_no_result_of_this_grid(tmp_path):
    outcome = looked(Claims(LONG), fake(tmp_path, "A", epochs=2))
    finish(fake(tmp_path, "A", epochs=3))
    Claims(LONG).look(outcome)
    assert outcome.status == FAILED and "epochs: 3 -> 2" in outcome.error


def test_claims_that_a_killed_holder_left_beside_a_finished_run_are_removed(tmp_path):
    run = fake(tmp_path, "A")
    finish(run)
    claim = claim_of(run, 1, LONG)
    claims = Claims(LONG)
    claims.begin(survey([run]))
    assert list(claims_of(run.folder)) == [1]  # Its holder may still be at work.
    claim.release()
    claims.begin(survey([run]))
    assert not claims_of(run.folder)


def test_a_line_that_is_not_all_there_is_no_line(tmp_path):
    run = fake(tmp_path, "A")
    path = claim_of(run, 1, LONG).path
    path.write_bytes(path.read_bytes() + b'{"err\0\0\n{"released": tr')
    assert looked(Claims(LONG), run).holder.endswith(f"process {os.getpid()}")
    path.write_bytes(b"")
    assert looked(Claims(LONG), run).holder == "a host, process ?"


def fails(number, of):
    """`open` that fails with this error for files whose names end in `of`."""

    def opened(path, *args, **options):
        if str(path).endswith(of):
            raise OSError(number, os.strerror(number), str(path))
        return open(path, *args, **options)

    return opened


def test_a_claim_that_another_machine_removed_is_none(tmp_path, monkeypatch):
    run, claims = fake(tmp_path, "A"), Claims(LONG, "b")
    claim_of(run, 1, LONG)
    assert looked(claims, run).holder
    monkeypatch.setattr("builtins.open", fails(errno.ESTALE, ".claim.1"))
    assert not looked(claims, run).holder


def test_a_claim_that_cannot_be_read_for_a_while_is_looked_at_again(tmp_path, monkeypatch):
    run, finished, claims = fake(tmp_path, "A"), fake(tmp_path, "B"), Claims(LONG, "b")
    finish(finished)
    claim_of(run, 1, LONG)
    claim_of(finished, 1, LONG).release()
    outcomes = survey([run, finished])
    with monkeypatch.context() as broken:
        broken.setattr("builtins.open", fails(errno.EIO, ".claim.1"))
        claims.begin(outcomes)
        assert outcomes[0].status == WAITING and "Input/output error" in outcomes[0].holder
        assert outcomes[1].status == FINISHED
    claims.look(outcomes[0])
    assert outcomes[0].holder.endswith(f"process {os.getpid()}")
    with monkeypatch.context() as broken:
        broken.setattr("builtins.open", fails(errno.EIO, ".claim.1"))
        claims.look(outcomes[0])
        assert outcomes[0].holder.endswith(f"process {os.getpid()}")


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no such clock")
def test_a_claim_of_a_machine_that_was_suspended_is_lost(tmp_path, monkeypatch):
    claim, clock = claim_of(fake(tmp_path, "A"), 1, LONG), time.clock_gettime
    assert not claim.lost
    suspended = {time.CLOCK_BOOTTIME: LONG}
    monkeypatch.setattr(time, "clock_gettime", lambda which: clock(which) + suspended.get(which, 0))
    claim.renew()
    assert "could not be renewed" in claim.lost


def test_clear_removes_nothing_where_a_process_without_a_claim_is_still_at_work(tmp_path):
    runs = [fake(tmp_path, "A"), fake(tmp_path, "B")]
    for run in runs:
        finish(run)
    with RunFolder(runs[1].folder) as folder:
        folder.open(runs[1].settings)
        with pytest.raises(UserError, match="B/seed0 is in use by another process"):
            clear(runs)
    assert [each.status for each in survey(runs)] == [FINISHED, FINISHED]
    clear(runs)
    assert [each.status for each in survey(runs)] == [UNFINISHED, UNFINISHED]


def test_clear_refuses_while_another_process_works_on_a_run(tmp_path):
    run = fake(tmp_path, "A")
    finish(run)
    with Claims(SHORT, "a") as claims:
        (run.folder / "summary.json").unlink()
        claims.look(Outcome(run))
        claim = claims.take(Outcome(run))
        with pytest.raises(UserError, match=r"in use by .*process \d+; end that process first"):
            clear([run], Claims(SHORT, "b"))
        claims.end(claim, Outcome(run, UNFINISHED))
    clear([run], Claims(SHORT, "b"))
    assert not claims_of(run.folder)
    # Killed on another machine: known when the claim has expired.
    facts = {"host": "h", "process": 1, "machine": "c", "locked": True, "expiry_seconds": SHORT}
    run.folder.with_name("seed0.claim.1").write_text(json.dumps(facts) + "\n")
    clear([run], Claims(LONG, "b"))
    assert not claims_of(run.folder)
