import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorflow.errors import InvalidArgumentError

from experiment.run import folder as folders
from experiment.run.folder import DATA, NETWORKS, RunFolder
from registry import UserError

ROOT = Path(__file__).parents[3]


def test_new_resumed_finished(tmp_path):
    settings = {"epochs": 3, "taps": ("a", "b")}
    with RunFolder(tmp_path / "deep" / "run") as run:
        assert run.open(settings) == "new"
    with RunFolder(tmp_path / "deep" / "run") as run:
        assert run.open(settings) == "resumed"
        run.finish({"accuracy": 0.5, "loss": float("nan")})
    with RunFolder(tmp_path / "deep" / "run") as run:
        assert run.open(settings) == "finished"
        assert run.summary() == {"accuracy": 0.5, "loss": None}


def test_a_finished_run_is_shown_where_nothing_can_be_written(tmp_path, monkeypatch):
    with RunFolder(tmp_path / "run") as run:
        run.open({"epochs": 3})
        monkeypatch.setattr(folders.os, "access", lambda path, mode: mode != os.W_OK)  # also root's
        with pytest.raises(UserError, match="cannot write into"):
            RunFolder(run.path).state({"epochs": 3})
        monkeypatch.undo()
        run.finish({"accuracy": 0.5})
    monkeypatch.setattr(folders.os, "access", lambda path, mode: mode != os.W_OK)
    shown = RunFolder(tmp_path / "run")
    assert shown.state({"epochs": 3}) == "finished"
    assert shown.summary() == {"accuracy": 0.5}
    with pytest.raises(UserError, match="cannot write into"):
        shown.state({"epochs": 3}, overwrite=True)
    with pytest.raises(UserError, match="cannot write into"):
        RunFolder(tmp_path / "new").state({"epochs": 3})


def test_runs_that_compared_the_place_of_their_data_go_on(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.open({"seed": 1, "data_dir": "/x"})
    assert RunFolder(tmp_path / "run").state({"seed": 1}) == "resumed"


def test_other_settings_are_named_and_nothing_changes(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        run.open({"epochs": 3, "nested": {"seed": 1, "same": 2}, "gone": "x"})
    before = (tmp_path / "run" / "settings.json").read_bytes()
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path / "run").open(
            {"epochs": 4, "nested": {"seed": 2, "same": 2}, "new": None, "added": 5}
        )
    message = str(error.value)
    for part in ("epochs: 3 -> 4", "nested.seed: 1 -> 2", 'gone: "x" -> (not set)',
                 "added: (not set) -> 5"):
        assert part in message
    assert "same" not in message and "new" not in message and "\n" not in message
    assert (tmp_path / "run" / "settings.json").read_bytes() == before


@pytest.mark.parametrize(("kept", "flag"), [(True, "--mixed"), (False, "--nomixed")])
def test_a_machine_whose_processor_decides_otherwise_is_told_what_to_give(tmp_path, kept, flag):
    with RunFolder(tmp_path) as run:
        run.open({"mixed_precision": kept, "epochs": 1})
    with pytest.raises(UserError, match=f"the processor decides: give {flag}_precision to go on"):
        RunFolder(tmp_path).state({"mixed_precision": not kept, "epochs": 1})
    with pytest.raises(UserError, match="epochs: 1 -> 2") as refused:
        RunFolder(tmp_path).state({"mixed_precision": kept, "epochs": 2})
    assert "the processor decides" not in str(refused.value)


def test_overwrite_removes_only_what_the_run_wrote(tmp_path):
    path = tmp_path / "run"
    with RunFolder(path) as run:
        run.open({"epochs": 3})
        run.output("history.csv").write_text("x")
        run.output("checkpoints/*.npz")
        (path / "checkpoints" / "000001-000000.npz").write_text("x")
        (path / "checkpoints" / ".partial-000002-000000.npz").write_text("x")
        (path / "checkpoints" / "mine.txt").write_text("mine")
        saved = run.directory("export/1", "saved_model.pb", "variables/*")
        assert not saved.exists()
        (saved / "variables").mkdir(parents=True)
        (saved.parent / ".partial-1").mkdir()
        (saved.parent / ".partial-1" / "saved_model.pb").write_text("half")
        (saved / "saved_model.pb").write_text("x")
        (saved / "variables" / "variables.index").write_text("x")
        run.finish({})
        (path / "notes.txt").write_text("mine")
    with RunFolder(path) as run:
        assert run.open({"epochs": 4}, overwrite=True) == "new"
    left = {str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file()}
    assert left == {".lock", "settings.json", "checkpoints/mine.txt", "notes.txt"}
    assert not (path / "export").exists()
    assert json.loads((path / "settings.json").read_text()) == {"epochs": 4}


def test_overwrite_keeps_links_to_folders_elsewhere(tmp_path):
    """On a larger disk, say."""
    with RunFolder(tmp_path / "run") as run:
        run.open({})
        for name in ("logs", "teacher"):
            (tmp_path / "elsewhere" / name).mkdir(parents=True)
            (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere" / name)
        run.output("logs/deep/a.txt").touch()
        with run.inside("teacher") as teacher:
            teacher.open({})
            teacher.output("student.keras").touch()
        run.finish({})
    with RunFolder(tmp_path / "run") as run:
        assert run.open({}, overwrite=True) == "new"
    assert (tmp_path / "run/logs").is_symlink() and (tmp_path / "run/teacher").is_symlink()
    assert not list((tmp_path / "elsewhere").rglob("*/*"))


def test_means_may_be_rounded_otherwise_on_another_machine(tmp_path):
    with RunFolder(tmp_path) as run:
        run.open({})
        run.keep_facts(DATA, {"images": [10, "abc", 114.50], "mean": [1.004, 7.0]})
        run.check_facts(DATA, {"images": [10, "abc", 114.51], "mean": (1.003, 7.0)})
        for images in ([10, "abc", 114.52], [10, "abd", 114.50], [11, "abc", 114.50], [10, "abc"]):
            with pytest.raises(UserError, match="^the data have changed .* images: "):
                run.check_facts(DATA, {"images": images})


def test_a_network_that_was_moved_is_the_same(tmp_path):
    settings, networks = {"teacher": "here", "epochs": 3}, {"teacher": "abc"}
    with RunFolder(tmp_path) as run:
        run.open(settings, networks=networks)
        run.keep_facts(NETWORKS, networks)
    moved = settings | {"teacher": "there"}
    with RunFolder(tmp_path) as run:
        assert run.state(moved, networks=networks) == "resumed"
        assert run.open(moved, networks=networks) == "resumed"
    for other in ({}, {"teacher": "xyz"}):
        with pytest.raises(UserError, match='teacher: "here" -> "there"'):
            RunFolder(tmp_path).open(moved, networks=other)
    with pytest.raises(UserError, match="epochs: 3 -> 4"):
        RunFolder(tmp_path).open(moved | {"epochs": 4}, networks=networks)


@pytest.mark.parametrize("foreign", [False, True])
def test_overwrite_removes_the_runs_within_a_run(tmp_path, foreign):
    with RunFolder(tmp_path / "run") as run:
        run.open({"epochs": 3})
        with run.inside("teacher") as teacher:
            teacher.open({"epochs": 9})
            teacher.output("best.npz").write_text("")
            teacher.finish({"accuracy": 0.5})
    if foreign:
        (teacher.path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path / "run") as run:
        assert run.open({"epochs": 3}, overwrite=True) == "new"
    # As after an interruption before the inner run: the outer one goes on without --overwrite.
    with RunFolder(tmp_path / "run") as run:
        assert run.open({"epochs": 3}) == "resumed"
        with run.inside("teacher") as teacher:
            assert teacher.open({"epochs": 9}) == ("resumed" if foreign else "new")
            assert not teacher.path.joinpath("best.npz").exists()
            assert teacher.path.joinpath("notes.txt").exists() == foreign


@pytest.mark.parametrize("name", ["thesis.tex", "settings.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_refused_untouched(tmp_path, overwrite, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(UserError, match=rf"not empty.*{name}"):
        RunFolder(tmp_path).open({}, overwrite=overwrite)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ['{"mine": 1}']


def test_a_copy_without_hidden_files_is_told_what_it_lacks(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        run.open({})
        run.finish({})
    (tmp_path / "copy").mkdir()
    for name in ("settings.json", "summary.json"):
        (tmp_path / "copy" / name).write_bytes((run.path / name).read_bytes())
    with pytest.raises(UserError, match=r"if this is a copy of a run, copy its hidden files too"):
        RunFolder(tmp_path / "copy").open({})
    with pytest.raises(UserError, match=r"hidden files too \(.lock, .written\)"):
        RunFolder(tmp_path / "copy").settings()


def test_unwritable_and_wrong_places(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "file").open({})
    with pytest.raises(UserError, match="file is a file; expected a folder"):
        RunFolder(tmp_path / "file" / "run").open({})
    for path in (Path("/proc/run"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot write into"):
            RunFolder(path).open({})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    for damaged in ('{"epochs', "[1]"):
        (tmp_path / "run" / "settings.json").write_text(damaged)
        with pytest.raises(UserError, match=r"settings\.json is damaged"):
            RunFolder(tmp_path / "run").open({})


def test_second_process_is_refused(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        run.open({"seed": 1})
        code = (
            "import sys; from registry import UserError\n"
            "from experiment.run.folder import RunFolder\n"
            "try: RunFolder(sys.argv[1]).open({'seed': 1})\n"
            "except UserError as error: print(error)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        options = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
        answer = subprocess.run(command, **options).stdout
        assert f"in use by another process (process {os.getpid()})" in answer
    assert subprocess.run(command, **options).stdout == ""


def test_a_file_system_that_cannot_force_folders_to_disk_holds_a_run(tmp_path, monkeypatch):
    fsync = os.fsync

    def let_fail(error, of_folders):
        def failing(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
                raise OSError(error, os.strerror(error))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)

    let_fail(errno.EINVAL, of_folders=True)
    with folders.RunFolder(tmp_path / "run") as folder:
        folder.open({})
        with folders.replacing(folder.output("export")) as partial:
            partial.mkdir()
            (partial / "file").write_text("x")
    assert (tmp_path / "run" / "export" / "file").read_text() == "x"
    for error, of_folders in ((errno.EIO, True), (errno.EINVAL, False)):
        let_fail(error, of_folders)
        with pytest.raises(OSError), folders.replacing(tmp_path / "other") as partial:
            partial.write_text("x")


def test_replacing_leaves_old_or_new(tmp_path):
    target = tmp_path / "file.json"
    folders.write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), folders.replacing(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"a": 1}
    for content in ("first", "second"):
        with folders.replacing(tmp_path / "export") as partial:
            partial.mkdir()
            (partial / "model").write_text(content)
    assert (tmp_path / "export" / "model").read_text() == "second"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["export", "file.json"]


def test_names_outside_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a name inside"):
        RunFolder(tmp_path).output("../x")


def begun(path):
    with RunFolder(path) as run:
        run.open({"epochs": 3})
        run.output("checkpoints/*.npz")
        run.directory("export/1", "saved_model.pb")


def test_what_a_killed_process_was_writing_is_removed_when_the_run_goes_on(tmp_path):
    begun(tmp_path / "run")
    left = [tmp_path / "run" / name for name in (
        "checkpoints/.partial-000001-000002.npz", "export/.partial-1", "export/.partial-old-1",
    )]
    (tmp_path / "run/export").mkdir()
    for path in left:
        path.write_text("half")
    other = tmp_path / "run/checkpoints/.partial-mine"
    other.write_text("mine")
    with RunFolder(tmp_path / "run") as run:
        assert run.open({"epochs": 3}) == "resumed"
    assert not any(path.exists() for path in left) and other.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"../thesis.tex\n", b"/etc/passwd\n"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_damaged_list_of_what_was_written_removes_nothing(tmp_path, content, overwrite):
    begun(tmp_path / "run")
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "run" / ".written").write_bytes(content)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"\.written is damaged"), run:
        run.open({"epochs": 3}, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists() and (tmp_path / "run/settings.json").exists()


def test_settings_nested_without_end_and_a_summary_of_another_shape(tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "run/summary.json").write_text('{"accuracy": 1}')
    run = RunFolder(tmp_path / "run")
    assert run.summary({"accuracy": float}) == {"accuracy": 1}
    with pytest.raises(UserError, match=r"summary\.json is damaged \(it has no 'seconds'\)"):
        run.summary({"accuracy": float, "seconds": float})
    for name in ("summary", "settings"):
        (tmp_path / f"run/{name}.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        run.summary()
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        run.open({"epochs": 3})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.npz"), "the disk is full (a.npz): "),
        (OSError("Can't write data (No space left on device)"), "the disk is full: "),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory: Unable to allocate 3 GiB; "),
        (PermissionError(13, "Permission denied", "b"), "[Errno 13] Permission denied: 'b'"),
        (InvalidArgumentError(None, None, "Invalid PNG data"),
         "TensorFlow failed (InvalidArgumentError): Invalid PNG data"),
    ],
)
def test_a_failure_of_the_machine_takes_one_line_that_names_the_traceback(
    tmp_path, error, expected
):
    with pytest.raises(UserError) as told, RunFolder(tmp_path / "run") as run:
        run.open({})
        raise error
    place = tmp_path / "run/error.txt"
    assert str(told.value).startswith(expected) and str(told.value).endswith(f"details: {place}")
    assert "Traceback" in place.read_text() and "raise error" in place.read_text()
    with RunFolder(tmp_path / "run") as run:
        assert run.open({}) == "resumed"  # the lock was given back
        run.finish({})
    assert not place.exists()


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run") as run:
        run.open({})
        1 / 0  # noqa: B018
    assert not (tmp_path / "run/error.txt").exists()


def test_whether_another_process_works_in_the_folder(tmp_path):
    assert not RunFolder(tmp_path / "run").is_in_use()
    with RunFolder(tmp_path / "run") as run:
        run.open({})
        assert RunFolder(tmp_path / "run").is_in_use()
    assert not RunFolder(tmp_path / "run").is_in_use()


def test_a_full_disk_is_not_taken_for_another_process(tmp_path, monkeypatch):
    with RunFolder(tmp_path / "run") as run, monkeypatch.context() as full:

        def pwrite(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(os, "pwrite", pwrite)
        for _ in range(2):  # The first try must not keep the second one out.
            with pytest.raises(UserError, match="cannot write into .*No space left on device"):
                run.open({})
    with RunFolder(tmp_path / "run") as run:
        assert run.open({}) == "new"


def test_pipes_and_folders_in_place_of_files_are_refused_by_name(tmp_path):
    begun(tmp_path / "run")
    for name in ("summary.json", "settings.json"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / "run" / name)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"summary\.json is damaged \(is a named pipe, not a file"):
        run.summary()
    (tmp_path / "run/settings.json").unlink()
    (tmp_path / "run/settings.json").write_text('{"epochs": 3}')
    (tmp_path / "run/.written").unlink(missing_ok=True)
    (tmp_path / "run/.written").mkdir()
    with pytest.raises(UserError, match=r"\.written is damaged"), run:
        run.open({"epochs": 3})


@pytest.mark.parametrize("value", ["0.5", None, [1], {"a": 1}, True, 10**400])
def test_results_of_another_type_are_refused_by_name(tmp_path, value):
    begun(tmp_path / "run")
    (tmp_path / "run/summary.json").write_text(json.dumps({"accuracy": value, "best": None}))
    with pytest.raises(UserError, match=r"summary\.json is damaged \(its 'accuracy' is ") as told:
        RunFolder(tmp_path / "run").summary({"best": float | None, "accuracy": float})
    assert len(str(told.value)) < 300


def test_data_that_changed_between_two_parts_of_a_run_are_told(tmp_path):
    facts = {"training images": 40, "classes": ["a", "b"]}
    for _ in range(2):
        with RunFolder(tmp_path / "run") as run:
            run.open({})
            run.keep_facts(DATA, facts)
    with RunFolder(tmp_path / "run") as run:
        run.open({})
        with pytest.raises(UserError, match="data have changed .*training images: 40 -> 41; bring"):
            run.keep_facts(DATA, {**facts, "training images": 41})
    with RunFolder(tmp_path / "run") as run:
        run.open({}, overwrite=True)  # starts anew, with other data
        run.keep_facts(DATA, {**facts, "training images": 41})
        run.keep_facts(NETWORKS, {"teacher": "0a"})
    with pytest.raises(UserError, match='networks have changed .*teacher: "0a" -> "1b"; bring'):
        RunFolder(tmp_path / "run").check_facts(NETWORKS, {"teacher": "1b"})


def test_only_looking_at_facts_keeps_none(tmp_path):
    begun(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    RunFolder(tmp_path / "run").check_facts(NETWORKS, {"teacher": "1b"})
    assert sorted(tmp_path.rglob("*")) == before


def test_who_only_looks_does_not_keep_a_run_from_its_folder(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        run.open({})
    lock = os.open(tmp_path / "run/.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    looking = threading.Timer(0.1, lambda: os.close(lock))
    looking.start()
    with RunFolder(tmp_path / "run") as run:
        assert run.open({}) == "resumed"
    looking.join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunFolder(tmp_path / "run") as run:
        assert run.open({}) == "new" and not RunFolder(tmp_path / "run").is_in_use()
        number = errno.EIO
        with pytest.raises(UserError, match="Input/output error"):
            RunFolder(tmp_path / "run").open({})
