import os
import threading
import time

import pytest

from experiment.grid.reports import join, reporting
from experiment.run import folder as run_folder
from experiment.run.folder import RunFolder
from registry import UserError


@pytest.mark.parametrize("locks", [True, False])
def test_many_join_and_report_at_once(tmp_path, monkeypatch, locks):
    if not locks:  # as on a file system without them
        monkeypatch.setattr(run_folder, "_lock", lambda descriptor: True)
    failed, at_once = [], threading.Barrier(8)

    def process(number):
        try:
            at_once.wait()
            join(RunFolder(tmp_path / "grid"), {"grid": "x"}, ["a.txt", "b.txt"])
            for _ in range(20):
                with reporting(tmp_path / "grid") as place:
                    for name in ("a.txt", "b.txt"):
                        (place / name).write_text(f"{number}\n" * 1000)
                lines = set((tmp_path / "grid/a.txt").read_text().splitlines())
                assert len(lines) == 1
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=process, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert sorted(os.listdir(tmp_path / "grid")) == [
        ".lock", ".written", "a.txt", "b.txt", "settings.json"
    ]
    assert RunFolder(tmp_path / "grid").state({"grid": "x"}) == "resumed"


def test_a_report_that_fails_changes_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(ZeroDivisionError), reporting(tmp_path) as place:
        (place / "a.txt").write_text("after")
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "before"


def test_what_killed_processes_left_is_removed_when_it_is_old(tmp_path):
    join(RunFolder(tmp_path), {}, [])
    for name in ("old", "new"):
        (tmp_path / f".partial-report-{name}").mkdir()
    two_days_ago = time.time() - 2 * 86400
    os.utime(tmp_path / ".partial-report-old", (two_days_ago, two_days_ago))
    join(RunFolder(tmp_path), {}, [])
    assert [path.name for path in tmp_path.glob(".partial*")] == [".partial-report-new"]


def test_another_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("experiment.grid.reports._JOIN_SECONDS", 0.0)
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="holds no run"):
        join(RunFolder(tmp_path), {}, [])
