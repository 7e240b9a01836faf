"""Shards, each played by a thread of this process."""

import io
import threading

import pytest

from experiment.grid.runs import FAILED, FINISHED, WAITING, Outcome
from experiment.grid.shards import Shard, Shards
from registry import UserError
from tests.experiment.grid.grids import carry_out, fake, starts, wait_for


def shard(runs, text, stream=None, **options):
    return carry_out(runs, stream, division=Shards(Shard.parse(text), **options))


def start(runs, text, found, **options):
    stream = io.StringIO()
    thread = threading.Thread(
        target=lambda: found.update({text: shard(runs, text, stream, **options)})
    )
    thread.start()
    return thread, stream


def test_every_run_is_of_one_shard():
    for count in (1, 2, 3, 7):
        parts = [Shard(number, count).part(range(5)) for number in range(1, count + 1)]
        assert sorted(run for part in parts for run in part) == list(range(5))
    assert list(Shard(2, 3).part("abcdefg")) == ["b", "e"]
    assert Shard.parse(" 2 / 8 ") == Shard(2, 8) and str(Shard(2, 8)) == "shard 2/8"


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "-1/3", "1/2/3", "a/b", "1.0/2"])
def test_what_is_no_shard(text):
    with pytest.raises(UserError, match="expected NUMBER/COUNT"):
        Shard.parse(text)


def test_shards_run_their_own_and_the_last_one_reports_on_all(tmp_path):
    teacher = fake(tmp_path, "teacher", what="short")
    runs = [teacher, fake(tmp_path, "None", 1), fake(tmp_path, "A", 1, needs=teacher),
            fake(tmp_path, "None", 2, "fault"), fake(tmp_path, "A", 2, needs=teacher)]
    found = {}
    second, shown = start(runs, "2/2", found)
    wait_for(lambda: "waiting for" in shown.getvalue() or not second.is_alive())
    second.join(60)
    # None of its own runs needs the teacher, so it waits for nobody.
    outcomes, changes, _ = found["2/2"]
    assert [each.status for each in outcomes] == [WAITING, FINISHED, WAITING, FAILED, WAITING]
    assert changes[-1] == [each.status for each in outcomes]
    outcomes, changes, shown = shard(runs, "1/2")
    assert [each.status for each in outcomes] == [FINISHED, FINISHED, FINISHED, FAILED, FINISHED]
    assert outcomes[3].error == "ValueError: a fault"
    assert changes[-1] == [each.status for each in outcomes]
    assert [starts(run) for run in runs] == [1, 1, 1, 1, 1]
    assert "run 4/5  None, seed 2  failed: ValueError: a fault  (shard 2/2)" in shown
    assert not list(tmp_path.rglob("*.claim.*"))
    # The next call tries again what failed.
    (tmp_path / "None/well").touch()
    outcomes, *_ = shard(runs, "2/2")
    assert [each.status for each in outcomes] == [FINISHED] * 5
    assert not list(tmp_path.rglob("*.failed"))


def test_others_wait_for_the_teacher_of_the_first_shard(tmp_path):
    teacher = fake(tmp_path, "teacher", what="slow")
    runs = [teacher, *(fake(tmp_path, name, 1, needs=teacher) for name in "ABCDE")]
    found = {}
    waiting = [start(runs, text, found) for text in ("2/3", "3/3")]
    for _, shown in waiting:
        wait_for(lambda shown=shown: "waiting for teacher, seed 0 (shard 1/3)" in shown.getvalue())
    first, _ = start(runs, "1/3", found)
    for thread in (first, *(thread for thread, _ in waiting)):
        thread.join(60)
        assert not thread.is_alive()
    assert [starts(run) for run in runs] == [1] * 6
    complete = [changes[-1] == [FINISHED] * 6 for _, changes, _ in found.values()]
    assert len(complete) == 3 and any(complete)


def test_a_teacher_that_fails_fails_what_needs_it_in_every_shard(tmp_path):
    teacher = fake(tmp_path, "teacher", what="fault")
    runs = [teacher, fake(tmp_path, "A", 1, needs=teacher), fake(tmp_path, "A", 2, needs=teacher)]
    found = {}
    second, shown = start(runs, "2/2", found)
    wait_for(lambda: "waiting for teacher" in shown.getvalue())
    shard(runs, "1/2")
    second.join(60)
    outcomes, changes, _ = found["2/2"]
    assert changes[-1] == [FAILED] * 3
    assert [each.error for each in outcomes] == [
        "ValueError: a fault", *["needs teacher, seed 0, which failed"] * 2
    ]
    # The failure of a former call says nothing of this one.
    second, shown = start(runs, "2/2", found)
    wait_for(lambda: "waiting for teacher" in shown.getvalue())
    (tmp_path / "teacher/well").touch()
    shard(runs, "1/2")
    second.join(60)
    assert [each.status for each in found["2/2"][0]] == [FINISHED] * 3


def test_a_failed_run_that_its_shard_tries_again_has_not_failed(tmp_path):
    teacher = fake(tmp_path, "teacher")
    outcomes = [Outcome(teacher), Outcome(fake(tmp_path, "A", 1, needs=teacher))]
    teacher.failure.parent.mkdir(parents=True)
    teacher.failure.write_text("it failed yesterday")
    shards = Shards(Shard(2, 2))
    shards.begin(outcomes)
    assert outcomes[0].status == WAITING
    teacher.failure.unlink()
    shards.look(outcomes[0])
    assert outcomes[0].status == WAITING and not outcomes[0].error
    teacher.failure.write_text("and again")
    shards.look(outcomes[0])
    assert (outcomes[0].status, outcomes[0].error) == (FAILED, "and again")


def test_a_shard_does_not_wait_for_ever(tmp_path):
    teacher = fake(tmp_path, "teacher")
    runs = [teacher, fake(tmp_path, "A", 1, needs=teacher)]
    outcomes, _, _ = shard(runs, "2/2", patience_seconds=0.3)
    assert [each.status for each in outcomes] == [FAILED, FAILED]
    assert outcomes[0].error == (
        "no sign of shard 1/2 for 0 s; start it, then shard 2/2 again"
    )
    outcomes, *_ = shard(runs, "1/2")
    outcomes, *_ = shard(runs, "2/2")
    assert [each.status for each in outcomes] == [FINISHED, FINISHED]
